"""Requests that repeat all but their message, told by comparison.  PURE.

A producer or a consumer sends the same bytes all day, but for the message.  Once the long way has
read such a request, its `Template` knows what stands around the message, and the handler has
prepared what is to be done.  The next one costs two comparisons instead of a parser.

A message in the target must consist of bytes that do not end it, a message in the body must be as
long as the head says; everything else must be the same, byte for byte.
Then the long way would read that request as it read the first one, but for the message; a
property test holds the two equal.  Whatever does not fit goes the long way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from logqueue.config import Config
from logqueue.web import fastpath
from logqueue.web.answer import opening
from logqueue.web.message import KEPT, KEPT_1_0, Handler, Prepared, Request
from logqueue.web.query import split_message
from logqueue.web.wire import Reader, has_usual_limits

TEMPLATE_BYTES_MAX = 1024  # of what stands around a message: bounds what is remembered,
TEMPLATES_MAX = 1024  # together with their number
_SAMPLE = b"m"

_message = re.compile(rb"[!\"$%'-~]*")  # printable, and nothing that ends it in a target
_ends = (b" ", b"&", b"#")
_length = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,9})\r\n")

# The message in the bytes of a request; None when these differ in anything else.
Find: TypeAlias = Callable[[bytes], bytes | None]


class Template:
    """One such request: `find` finds the message of the next one, `run` does what it asks for."""

    def __init__(self, find: Find, request: Request, prepared: Prepared) -> None:
        self.find = find
        self.run = prepared.run
        self._opening = opening(request.layout, prepared.content_type)
        self._dated = request.layout.dated
        self._kept = request.layout.kept

    def encode(self, body: bytes, position: int, date: bytes) -> bytes:
        """The bytes of an answer, as `answer.encode` makes them."""
        return b"%bPos: %d\r\n%bContent-Length: %d\r\n\r\n%b" % (
            self._opening,
            position,
            date if self._dated else self._kept,
            len(body),
            body,
        )


class Templates:
    """All that are known; one for all connections."""

    def __init__(self, handler: Handler, config: Config) -> None:
        self._handler = handler
        self._config = config
        self._made = lru_cache(maxsize=TEMPLATES_MAX)(self._make)

    def of(self, data: bytes) -> Template | None:
        """The template of a request, given as a whole; None when there can be none."""
        if data.startswith(b"POST /?"):
            end = data.find(b"\r\n\r\n") + 4
            length = _length.search(data, 0, end)
            if length is None or end > TEMPLATE_BYTES_MAX:
                return None
            return self._made(_in_body, data[: length.start(1)], data[length.end(1) : end])
        if not data.startswith(b"GET /?"):
            return None
        at = data.find(b"&data=")
        if at < 0:
            fits = len(data) <= TEMPLATE_BYTES_MAX and b"opt=get" in data
            return self._made(_nowhere, data, b"") if fits else None
        start = at + len(b"&data=")
        match = _message.match(data, start)
        assert match  # it may be empty
        end = match.end()
        if start + len(data) - end > TEMPLATE_BYTES_MAX or data[end : end + 1] not in _ends:
            return None
        return self._made(_in_target, data[:start], data[end:])

    def _make(self, form: Form, before: bytes, after: bytes) -> Template | None:
        sample, find = form(before, after, self._config.body_bytes_max)
        if not has_usual_limits(self._config) or fastpath.recognise(bytearray(sample)) is None:
            return None
        reader = Reader(self._config)
        reader.receive(sample)
        request = reader.next_request()
        if request is None or not reader.is_idle or request.layout not in (KEPT, KEPT_1_0):
            return None
        prepared = self._handler.prepare(request)
        message = request.body or split_message(request.target)[1]
        if prepared is None or prepared.takes_message != (message == _SAMPLE):
            return None
        return Template(find, request, prepared)


def _nowhere(whole: bytes, _: bytes, bytes_max: int) -> tuple[bytes, Find]:
    def find(data: bytes) -> bytes | None:
        return b"" if data == whole else None

    return whole, find


def _in_target(before: bytes, after: bytes, bytes_max: int) -> tuple[bytes, Find]:
    start, trailing = len(before), len(after)
    longest = fastpath.HEAD_BYTES_MAX

    def find(data: bytes) -> bytes | None:
        if not (data.startswith(before) and data.endswith(after)):
            return None
        end = len(data) - trailing
        if start <= end and len(data) <= longest and _message.fullmatch(data, start, end):
            return data[start:end]
        return None

    return b"%b%b%b" % (before, _SAMPLE, after), find


def _in_body(before: bytes, after: bytes, bytes_max: int) -> tuple[bytes, Find]:
    """`before` and `after` stand around the number that says how long the body is."""
    digits_start = len(before)

    def find(data: bytes) -> bytes | None:
        if not data.startswith(before):
            return None
        digits_end = data.find(b"\r", digits_start, digits_start + 10)
        digits = data[digits_start:digits_end]
        if not (digits.isdigit() and data.startswith(after, digits_end)):
            return None
        body = data[digits_end + len(after) :]
        return body if 0 < len(body) == int(digits) <= bytes_max else None

    return b"%b%d%b%b" % (before, len(_SAMPLE), after, _SAMPLE), find


# Where the message stands: a sample of such a request, and the way to find the message in one.
Form: TypeAlias = Callable[[bytes, bytes, int], tuple[bytes, Find]]
