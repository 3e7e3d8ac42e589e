"""Bytes of one connection into requests.  PURE, sans-IO.

Plan: collect bytes until a head is complete, rewrite it where a real client is old-fashioned
(`head`), let h11 judge it, then collect the body that it announces.  Anything else is `Refused`,
after which the connection must close: where the next request starts is not known any more.

`Reader` is fed by `receive` and asked by `next_request` until it says None.  The result never
depends on how the bytes were cut into pieces.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import h11

from logqueue.config import Config
from logqueue.web import fastpath, head
from logqueue.web.chunked import ChunkedBody
from logqueue.web.message import Layout, Refused, Request, layout, split_v1

AROUND_TARGET_BYTES_MAX = 64  # method, version, blanks and line end

_head_end = re.compile(rb"\n\r?\n")


class _Head(NamedTuple):
    """A judged head; `length` is the body's length, None when it is chunked."""

    method: bytes
    target: bytes
    content_type: bytes
    layout: Layout
    length: int | None
    expects_continue: bool
    authorization: bytes = b""
    accept: bytes = b""


def has_usual_limits(config: Config) -> bool:
    """Whether no head that the fast path recognises can exceed a limit."""
    least, lines = min(config.target_bytes_max, config.header_bytes_max), config.header_count_max
    return least >= fastpath.HEAD_BYTES_MAX and lines >= len(fastpath.HEADERS)


class Reader:
    """The receiving side of one connection."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._has_usual_limits = has_usual_limits(config)
        self._buffer = bytearray()
        self._searched = 0  # the buffer holds no end of a head before this offset
        self._line_bytes = 0  # of the request line, when it has been read
        self._line: head.RequestLine | None = None
        self._head: _Head | None = None
        self._chunked: ChunkedBody | None = None
        self.expects_continue = False  # the client waits for 100 Continue; the server clears it

    @property
    def bytes_held(self) -> int:
        """Bytes in memory that are not a request yet."""
        chunked = 0 if self._chunked is None else len(self._chunked.body)
        return len(self._buffer) + chunked

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a next request has arrived."""
        return not self._buffer and self._head is None

    @property
    def has_head(self) -> bool:
        """Whether the rest of the next request is its body."""
        return self._head is not None

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._buffer += data

    def next_request(self) -> Request | None:
        """The next complete request, or None until more bytes come.  Raises Refused."""
        if self._head is None and self._line is None and self._has_usual_limits:
            request = self._next_usual()
            if request is not None:
                return request
        try:
            self._head = self._head or self._read_head()
            body = None if self._head is None else self._read_body(self._head)
        except Refused as refused:
            refused.target = self.target
            raise
        if self._head is None or body is None:
            return None
        method, target, content_type, layout_, _, _, authorization, accept = self._head
        self._head = self._chunked = None
        self.expects_continue = False
        return Request(method, target, content_type, body, layout_, authorization, accept)

    @property
    def target(self) -> bytes:
        """The target of the request that is being read, as far as it is known."""
        read = self._head or self._line
        return b"" if read is None else read.target

    def _next_usual(self) -> Request | None:
        """The next request when its head is one of the usual ones and its body has come."""
        buffer = self._buffer
        if buffer.find(b"\r\n\r\n", max(0, self._searched - 3)) < 0:
            return None  # else each byte of a large head would have all of it looked at again
        found = fastpath.recognise(buffer)
        if found is None:
            self._read_usual_v1()
            return None
        method, target, (layout_, content_type, length, _, _), start = found
        if length > self._config.body_bytes_max:
            return None
        self._searched = 0
        end = start + length
        if end <= len(buffer):
            body = bytes(buffer[start:end]) if length else b""
            del buffer[:end]
            return Request(method, target, content_type, body, layout_)
        del buffer[:start]
        self._head = _Head(method, target, content_type, layout_, length, expects_continue=False)
        return None

    def _read_usual_v1(self) -> None:
        """The next head when it is a usual one of the v1 API."""
        found = fastpath.recognise_v1(self._buffer)
        if found is None or found[2].length > self._config.body_bytes_max:
            return
        method, target, fields, size = found
        layout_, content_type, length, authorization, accept = fields
        del self._buffer[:size]
        self._searched = 0
        self._head = _Head(
            method, target, content_type, layout_, length, False, authorization, accept
        )

    def _read_head(self) -> _Head | None:
        buffer = self._buffer
        if self._line is None and not self._read_request_line():
            return None
        assert self._line is not None
        end = _head_end.search(buffer, self._searched)
        size = len(buffer) if end is None else end.end()
        limit = self._config.header_bytes_max
        if size - self._line_bytes > limit:
            raise Refused(431, f"header lines exceed {limit} bytes", explained=True)
        if end is None:
            self._searched = max(0, len(buffer) - 2)
            return None
        limit = self._config.header_count_max
        if buffer.count(b"\n", 0, size) - 2 > limit:
            raise Refused(431, f"more than {limit} header lines", explained=True)
        lines = [raw.removesuffix(b"\r") for raw in bytes(buffer[:size]).split(b"\n")]
        del buffer[:size]
        judged = _judge(self._line, lines[1:-2], self._config)
        self._line, self._searched = None, 0
        return judged

    def _read_request_line(self) -> bool:
        """Rubbish is refused at the end of its first line: it may never send a head's end."""
        buffer = self._buffer
        if buffer and buffer[0] <= 0x20:
            raise Refused(400, "request line")
        end = buffer.find(b"\n", self._searched)
        limit = self._config.target_bytes_max
        too_long = Refused(414, f"target exceeds {limit} bytes", explained=True)
        if (len(buffer) if end < 0 else end) > limit + AROUND_TARGET_BYTES_MAX:
            raise too_long
        if end < 0:
            self._searched = len(buffer)
            return False
        line = head.request_line(bytes(buffer[:end]).removesuffix(b"\r"))
        if len(line.target) > limit:
            raise too_long
        self._line, self._line_bytes, self._searched = line, end + 1, end
        return True

    def _read_body(self, announced: _Head) -> bytes | None:
        buffer = self._buffer
        if announced.length is None:
            if self._chunked is None:
                self._chunked = ChunkedBody(self._config)
                self.expects_continue = announced.expects_continue and not buffer
            return bytes(self._chunked.body) if self._chunked.feed(buffer) else None
        if len(buffer) < announced.length:
            self.expects_continue = announced.expects_continue and not buffer
            return None
        with memoryview(buffer) as view:
            body = bytes(view[: announced.length])
        del buffer[: announced.length]
        return body


def _judge(line: head.RequestLine, lines: list[bytes], config: Config) -> _Head:
    """h11 reads the cleaned head; then the few things that h11 leaves to its user."""
    if any(b"\0" in raw for raw in lines):
        raise Refused(400, "NUL in the head")
    cleaned = head.clean(line, lines)
    if line.method not in head.METHODS and split_v1(line.target) is None:
        raise Refused(501, "method")
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(cleaned))
    connection.receive_data(cleaned)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused(400, str(error)) from error
    assert isinstance(event, h11.Request), event
    headers: dict[bytes, list[bytes]] = {}
    for name, value in event.headers:
        headers.setdefault(name, []).append(value)
    return _announce(line, headers, config)


def _is_cross_site(headers: dict[bytes, list[bytes]]) -> bool:
    """Whether a browser says that another web site made it send this.

    To a plain address beyond the loopback browsers send no Sec-Fetch-Site (Fetch Metadata,
    section 2); then the Origin of a form or a script must be ourselves.
    """
    sites = headers.get(b"sec-fetch-site")
    if sites is not None:
        return b"cross-site" in [value.lower() for value in sites]
    hosts = [value.lower() for value in headers.get(b"host", ())]
    origins = [value.lower().partition(b"://")[2] for value in headers.get(b"origin", ())]
    return any(origin not in hosts for origin in origins)


def _announce(line: head.RequestLine, headers: dict[bytes, list[bytes]], config: Config) -> _Head:
    expects = [value.lower() for value in headers.get(b"expect", ())]
    if line.version < (1, 1):
        expects = []  # RFC 9110, section 10.1.1
    if _is_cross_site(headers):
        raise Refused(403, "another web site made the browser send this request", explained=True)
    length = int(headers.get(b"content-length", [b"0"])[0])
    chunked = b"transfer-encoding" in headers
    if (length or chunked) and expects not in ([], [b"100-continue"]):
        raise Refused(417, "Expect")
    if length > config.body_bytes_max:
        raise Refused(413, f"body exceeds {config.body_bytes_max} bytes", explained=True)
    tokens = {
        token.strip().lower()
        for value in headers.get(b"connection", ())
        for token in value.split(b",")
    }
    return _Head(
        line.method,
        line.target,
        headers.get(b"content-type", [b""])[0],
        layout(
            line.version,
            close=b"close" in tokens,
            keep_alive=b"keep-alive" in tokens,
            proxied=line.proxied,
        ),
        None if chunked else length,
        bool(expects),
        headers.get(b"authorization", [b""])[0],
        b",".join(headers.get(b"accept", ())) if split_v1(line.target) else b"",
    )
