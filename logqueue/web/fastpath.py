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

_request_line = re.compile(rb"(GET|POST) (/\?[!-~]*) HTTP/1\.([01])\r\n")
_header = re.compile(rb"([A-Za-z-]+): ?((?:[!-~](?:[ -~]*[!-~])?)?)")
_length = re.compile(rb"[0-9]{1,9}")


class Fields(NamedTuple):
    """What a block of header lines says."""

    layout: Layout
    content_type: bytes
    length: int  # of the body


class Recognised(NamedTuple):
    """A head that is on the list; `head_bytes` is its size, `fields.length` that of the body."""

    method: bytes
    target: bytes
    fields: Fields
    head_bytes: int


def recognise(buffer: bytearray) -> Recognised | None:
    """The head at the front of `buffer`, or None when h11 has to look at it."""
    line = _request_line.match(buffer, 0, HEAD_BYTES_MAX)
    if line is None:
        return None
    method, target, minor = line.groups()
    start = line.end()
    end = buffer.find(b"\r\n\r\n", start - 2, start + HEADER_BLOCK_BYTES_MAX)
    if end < 0:
        return None
    fields = _read(minor, bytes(buffer[start:end]))
    return None if fields is None else Recognised(method, target, fields, end + 4)


@lru_cache(maxsize=HEADER_BLOCKS_MAX)
def _read(minor: bytes, block: bytes) -> Fields | None:
    """The header lines, without the CR LF after the last one; None when one is not on the list."""
    values: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n") if block else ():
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
