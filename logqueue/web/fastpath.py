"""The heads that producers and consumers send all day, recognised without h11.  PURE.

An allow-list: GET or POST of `/?...`, HTTP/1.1 or 1.0, and a few well-known headers, each at most
once, with plain values.  Whatever is not on it is None, and h11 judges it; so are heads that have
not arrived as a whole.  What is recognised here is read exactly as the long way reads it; a
property test holds the two equal.

One client sends the same header lines again and again: what they say is remembered.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from logqueue.web.message import CLOSED, CLOSED_1_0, KEPT, KEPT_1_0, UNFRAMED_1_0, Layout

HEAD_BYTES_MAX = 16384
HEADER_BLOCK_BYTES_MAX = 1024  # bounds what is remembered, together with the number of blocks
HEADER_BLOCKS_MAX = 1024

HEADERS = frozenset(
    (
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"cache-control",
        b"connection",
        b"content-length",
        b"content-type",
        b"host",
        b"pragma",
        b"referer",
        b"user-agent",
    )
)

_LAYOUTS = {
    (b"1", b""): KEPT,
    (b"1", b"keep-alive"): KEPT,
    (b"1", b"close"): CLOSED,
    (b"0", b""): UNFRAMED_1_0,
    (b"0", b"keep-alive"): KEPT_1_0,
    (b"0", b"close"): CLOSED_1_0,
}

_head = re.compile(rb"(GET|POST) (/\?[!-~]*) HTTP/1\.([01])\r\n((?:[A-Za-z-]+:[ -~]*\r\n)*)\r\n")
_header = re.compile(rb"([A-Za-z-]+): ?((?:[!-~](?:[ -~]*[!-~])?)?)")
_length = re.compile(rb"[0-9]{1,9}")


class Fields(NamedTuple):
    """What a block of header lines says."""

    layout: Layout
    content_type: bytes
    length: int  # of the body


# Method, target, fields and the size of the head: a plain tuple, because it is made so often.
Recognised = tuple[bytes, bytes, Fields, int]


def recognise(buffer: bytearray) -> Recognised | None:
    """The head at the front of `buffer`, or None when h11 has to look at it."""
    match = _head.match(buffer, 0, HEAD_BYTES_MAX)
    if match is None:
        return None
    method, target, minor, block = match.groups()
    fields = _read(minor, block) if len(block) <= HEADER_BLOCK_BYTES_MAX else None
    return None if fields is None else (method, target, fields, match.end())


@lru_cache(maxsize=HEADER_BLOCKS_MAX)
def _read(minor: bytes, block: bytes) -> Fields | None:
    """The header lines; None when one is not on the list."""
    values: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n")[:-1]:
        match = _header.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        if name not in HEADERS or name in values:
            return None
        values[name] = match[2]
    layout = _LAYOUTS.get((minor, values.get(b"connection", b"").lower()))
    length = values.get(b"content-length", b"0")
    if layout is None or not _length.fullmatch(length):
        return None
    return Fields(layout, values.get(b"content-type", b""), int(length))
