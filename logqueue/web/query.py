"""HTTPSQS's query strings: which parameters there are, and what URL encoding stands for.

Recorded of HTTPSQS 1.7 and its libevent, oddities included; `docs/http.md` is the reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

import trio

PARAMETERS_MAX = 10_000  # a bound for the loop; HTTPSQS had none
NUMBER_BYTES_MAX = 255  # of its digits and what stands around them
DECODE_BYTES_MAX = 65536  # decoded in one go: 5 ms, when all of it is escapes

_atoi = re.compile(rb"[ \t\n\v\f\r]*([+-]?)0*([0-9]*)")

_PERCENT, _PLUS = b"%+"  # a number is looked for in a seventh of the time that bytes take
Parameters = dict[bytes, bytes]
Decoder: TypeAlias = Callable[[bytes], bytes | None]  # None: too much to decode in one go


def decode(value: bytes) -> bytes:
    """Undo URL encoding once: `+` is a blank, `%XX` a byte; a broken escape stays as it is."""
    if _PLUS in value:
        value = value.replace(b"+", b" ")
    return unquote_to_bytes(value) if _PERCENT in value else value


def decode_once(value: bytes) -> bytes | None:
    """`decode`; None when that is too much to do in one go."""
    return None if len(value) > DECODE_BYTES_MAX else decode(value)


def decode_twice(value: bytes) -> bytes | None:
    """What was decoded as a parameter is decoded as a message; None when that is too much."""
    if _PERCENT not in value and _PLUS not in value:
        return value
    once = decode_once(value)
    return None if once is None else decode(once)


async def decode_slowly(value: bytes) -> bytes:
    """`decode` for values of any size, giving way to other tasks meanwhile."""
    pieces = []
    start = 0
    while start < len(value):
        end = start + DECODE_BYTES_MAX
        escape = value.find(b"%", end - 2, end)  # it may go on in the next piece
        end = end if escape < 0 else escape
        pieces.append(decode(value[start:end]))
        start = end
        await trio.lowlevel.checkpoint()
    return b"".join(pieces)


def parameters(query: bytes) -> Parameters:
    """The query's values, not decoded yet, by lower-case key; of repeated keys the first counts.

    A piece without a key or without `=` voids all of them, as in HTTPSQS; one trailing `&` is no
    piece.
    """
    query = query.removesuffix(b"&")
    if not query or query.count(b"&") >= PARAMETERS_MAX:
        return {}
    found: Parameters = {}
    for piece in query.split(b"&"):
        key, equals, value = piece.partition(b"=")
        if not equals or not key:
            return {}
        found.setdefault(key.lower(), value)
    return found


def split_message(target: bytes) -> tuple[bytes, bytes | None]:
    """The query of a target, without its message, and that message (not decoded, None if absent).

    What is left of the query is the same in each request of one kind, and its parameters are
    those of the whole query but for `data`.  A message stays where it is when that would not be
    so: behind an empty piece, which voids the query, and where there are two.
    """
    query = target.partition(b"#")[0].partition(b"?")[2]
    start, found, rest = query.partition(b"&data=")
    if not found or start.endswith(b"&"):
        return query, None
    message, more, rest = rest.partition(b"&")
    left = start + more + rest
    return (query, None) if b"data=" in left.lower() else (left, message)


def short(given: Parameters, key: bytes, bytes_max: int) -> bytes | None:
    """A decoded value; None when it is absent or longer than that."""
    raw = given.get(key)
    if raw is None or len(raw) > 3 * bytes_max:  # an escape has three bytes
        return None
    value = decode(raw)
    return value if len(value) <= bytes_max else None


def number(given: Parameters, key: bytes) -> int:
    """A value as C's atoi reads it, 0 when it is absent.

    Without its wrap at 32 bits: what is out of range stays out of range.
    """
    text = short(given, key, NUMBER_BYTES_MAX) or b""
    match = _atoi.match(text)
    assert match  # every part of the pattern may be empty
    digits = match[2][:20] or b"0"
    return -int(digits) if match[1] == b"-" else int(digits)
