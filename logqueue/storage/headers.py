"""The header block of a record: what was stored with a message besides its body.  Pure.

A frame whose flags hold HEADERS begins its payload with it: u16 size of what follows, then for
each header u8 and the name, u16 and the value.  Everybody else's records have none.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import TypeAlias

from logqueue.errors import LimitExceeded
from logqueue.storage.frame import HEADERS, Frame

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

_SIZE = Struct("<H")
BLOCK_BYTES_MAX = 0xFFFF
NAME_BYTES_MAX = 0xFF
VALUE_BYTES_MAX = 0xFFFF


def encode_headers(headers: Headers) -> bytes:
    """The block, to be put in front of the body.  Raises LimitExceeded."""
    parts = []
    for name, value in headers:
        _limit("header name bytes", len(name), NAME_BYTES_MAX)
        _limit("header value bytes", len(value), VALUE_BYTES_MAX)
        parts += [bytes([len(name)]), name, _SIZE.pack(len(value)), value]
    block = b"".join(parts)
    _limit("header block bytes", len(block), BLOCK_BYTES_MAX)
    return _SIZE.pack(len(block)) + block


def decode_headers(payload: bytes) -> tuple[Headers, bytes]:
    """The headers and the body of a payload that begins with a block.  Raises ValueError."""
    try:
        end = 2 + _SIZE.unpack_from(payload)[0]
        headers, at = [], 2
        while at < end:
            name_end = at + 1 + payload[at]
            value_at = name_end + 2
            value_end = value_at + _SIZE.unpack_from(payload, name_end)[0]
            headers.append((payload[at + 1 : name_end], payload[value_at:value_end]))
            at = value_end
    except (StructError, IndexError) as error:
        raise ValueError(f"the header block does not fit its record: {error}") from None
    if at != end or end > len(payload):
        raise ValueError("the header block does not end where it says")
    return tuple(headers), payload[end:]


def message_of(frame: Frame) -> tuple[Headers, bytes]:
    """The headers and the body of a record.  Raises ValueError."""
    return decode_headers(frame.payload) if frame.flags & HEADERS else ((), frame.payload)


def body_of(frame: Frame) -> bytes:
    """The body of a record, whatever its headers."""
    if not frame.flags & HEADERS:
        return frame.payload
    return frame.payload[2 + int.from_bytes(frame.payload[:2], "little") :]


def _limit(what: str, value: int, maximum: int) -> None:
    if value > maximum:
        raise LimitExceeded(what, value, maximum)
