"""The names of a data directory: which file is called what.  Pure: no I/O.

    DATA_DIR/LOCK                         held by the daemon, or by a repair
    DATA_DIR/FORMAT                       the format version, as text
    DATA_DIR/queues/<encoded name>/       one queue: meta, cursor, <base sequence>.log ...,
                                          and once it was leased from, <step>.ack and spare.ack
    DATA_DIR/quarantine/                  what recovery and repair set aside

Whatever ends in `.tmp` was never finished and may be removed.
"""

from __future__ import annotations

import re
from hashlib import sha256

from logqueue.errors import Corrupt, NewerFormat
from logqueue.storage.format import VERSION

LOCK = "LOCK"
FORMAT = "FORMAT"
QUEUES = "queues"
QUARANTINE = "quarantine"
META = "meta"
CURSOR = "cursor"
META_TEMPORARY = "meta.tmp"
SPARE = "spare.tmp"  # the next segment, until it has its name
ACKS_SPARE = "spare.ack"  # the next acknowledgement log: kept, so that a full disk stops no ack

SEGMENT_SUFFIX = ".log"
TEMPORARY_SUFFIX = ".tmp"
ACKS_SUFFIX = ".ack"
_ACKS_NAME = re.compile(r"[0-9]{20}\.ack")
_SEGMENT_NAME = re.compile(r"[0-9]{20}\.log")


def segment_name(base: int) -> str:
    """The file name of the segment whose first sequence is `base`."""
    return f"{base:020d}{SEGMENT_SUFFIX}"


def segment_base(name: str) -> int | None:
    """The base that a segment's file name claims, or None when it is no segment's name."""
    return int(name[:20]) if _SEGMENT_NAME.fullmatch(name) else None


def acks_name(base: int) -> str:
    """The file name of the acknowledgement log whose first step is `base`."""
    return f"{base:020d}{ACKS_SUFFIX}"


def acks_base(name: str) -> int | None:
    """The base that an acknowledgement log's file name claims, or None when it is none."""
    return int(name[:20]) if _ACKS_NAME.fullmatch(name) else None


DIRECTORY_NAME_MAX = 200  # leaves room for suffixes within the 255 bytes of a file name
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_ESCAPED = tuple(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in range(256))


def directory_name(name: bytes) -> str:
    """The directory of the queue `name`: percent-encoded, or `~` and its SHA-256 when too long.

    `.`, `/` and NUL never get through, so no name can leave the queues directory.
    """
    encoded = "".join([_ESCAPED[byte] for byte in name]) or "%"
    return encoded if len(encoded) <= DIRECTORY_NAME_MAX else "~" + sha256(name).hexdigest()


FORMAT_PREFIX = "logqueue data directory, format "


def encode_format() -> bytes:
    """The FORMAT file of a data directory."""
    return f"{FORMAT_PREFIX}{VERSION}\n".encode()


def decode_format(path: str, data: bytes) -> int:
    """The format version of a data directory.  Raises Corrupt or NewerFormat."""
    found = re.fullmatch(rf"{FORMAT_PREFIX}([1-9][0-9]{{0,8}})\n".encode(), data)
    if found is None:
        raise Corrupt(path, 0, f"this is no FORMAT file of logqueue: {data[:60]!r}")
    version = int(found[1])
    if version > VERSION:
        raise NewerFormat(path, version, VERSION)
    return version
