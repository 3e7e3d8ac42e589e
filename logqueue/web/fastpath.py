"""The heads that producers and consumers send all day, recognised without h11.  PURE.

An allow-list: GET or POST of `/?...`, HTTP/1.1 or 1.0, and a few well-known headers, each at most
once, with plain values; and requests to the v1 API.  Whatever is not on it is None, and h11
judges it; so are heads that have not arrived as a whole.  What is recognised here is read exactly
as the long way reads it; a property test holds the two equal.

One client sends the same header lines again and again: what they say is remembered.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from logqueue.web.message import (
    CLOSED,
    CLOSED_1_0,
    KEPT,
    KEPT_1_0,
    UNFRAMED_1_0,
    Layout,
    split_v1,
)

HEAD_BYTES_MAX = 128 * 1024
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

V1_HEADERS = HEADERS | {b"authorization"}

_LAYOUTS = {
    (b"1", b""): KEPT,
    (b"1", b"keep-alive"): KEPT,
    (b"1", b"close"): CLOSED,
    (b"0", b""): UNFRAMED_1_0,
    (b"0", b"keep-alive"): KEPT_1_0,
    (b"0", b"close"): CLOSED_1_0,
}

_head = re.compile(rb"(GET|POST) (/\?[!-~]*) HTTP/1\.([01])\r\n((?:[A-Za-z-]+:[ -~]*\r\n)*)\r\n")
_v1_head = re.compile(
    rb"(GET|POST|PUT|PATCH|DELETE) (/v1/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z-]+:[ -~]*\r\n)*)\r\n"
)
_header = re.compile(rb"([A-Za-z-]+): ?((?:[!-~](?:[ -~]*[!-~])?)?)")
_length = re.compile(rb"[0-9]{1,9}")


class Fields(NamedTuple):
    """What a block of header lines says."""

    layout: Layout
    content_type: bytes
    length: int  # of the body
    authorization: bytes = b""
    accept: bytes = b""


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


def recognise_v1(buffer: bytearray) -> Recognised | None:
    """The same for requests to the v1 API; to be asked after `recognise`."""
    match = _v1_head.match(buffer, 0, HEAD_BYTES_MAX)
    if match is None or split_v1(match[2]) is None:
        return None
    method, target, block = match.groups()
    fields = _read(b"1", block, is_v1=True) if len(block) <= HEADER_BLOCK_BYTES_MAX else None
    return None if fields is None else (method, target, fields, match.end())


@lru_cache(maxsize=HEADER_BLOCKS_MAX)
def _read(minor: bytes, block: bytes, is_v1: bool = False) -> Fields | None:
    """The header lines; None when one is not on the list."""
    known = V1_HEADERS if is_v1 else HEADERS
    values: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n")[:-1]:
        match = _header.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        if name not in known or name in values:
            return None
        values[name] = match[2]
    layout = _LAYOUTS.get((minor, values.get(b"connection", b"").lower()))
    length = values.get(b"content-length", b"0")
    if layout is None or not _length.fullmatch(length):
        return None
    kind, said = values.get(b"content-type", b""), values.get(b"authorization", b"")
    accept = values.get(b"accept", b"") if is_v1 else b""
    return Fields(layout, kind, int(length), said, accept)
