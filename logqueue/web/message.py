"""What passes between HTTP and a dialect: `Request` in, `Response` out, or `Refused`.

`Layout` is the part of an answer that the request decides alone: which lines stand around what the
dialect says, and whether the connection stays open.  Clients count these lines (the C client takes
the position from the fourth and the body from the ninth), so their order is protocol; it is the
order of HTTPSQS 1.7, recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from logqueue.web.query import parameters

KEEP_ALIVE_LINE = b"Connection: keep-alive\r\n"
CLOSE_LINE = b"Connection: close\r\n"

_v1 = re.compile(rb"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?(/v1/[^?#]*)(?:\?([^#]*))?")


class Layout(NamedTuple):
    """The lines around an answer.  Every line carries its own CR LF; an absent line is empty."""

    status: bytes  # the status line
    connection: bytes  # stands after Content-Type
    dated: bool  # Date stands after Pos
    kept: bytes  # stands where Date would: HTTP/1.0 says keep-alive twice
    framed: bool  # Content-Length
    last: bytes  # stands at the end
    closes: bool


_OK_1_1 = b"HTTP/1.1 200 OK\r\n"
_OK_1_0 = b"HTTP/1.0 200 OK\r\n"
KEPT = Layout(_OK_1_1, KEEP_ALIVE_LINE, True, b"", True, b"", closes=False)
CLOSED = Layout(_OK_1_1, b"", True, b"", True, CLOSE_LINE, closes=True)
KEPT_1_0 = Layout(_OK_1_0, KEEP_ALIVE_LINE, False, KEEP_ALIVE_LINE, True, b"", closes=False)
UNFRAMED_1_0 = Layout(_OK_1_0, KEEP_ALIVE_LINE, False, b"", False, b"", closes=True)
CLOSED_1_0 = Layout(_OK_1_0, b"", False, b"", False, CLOSE_LINE, closes=True)


def layout(version: tuple[int, int], *, close: bool, keep_alive: bool, proxied: bool) -> Layout:
    """How HTTPSQS 1.7 lays out its answer to a request of that version.

    `close` and `keep_alive` are the tokens in the request's Connection header, `proxied` says that
    the target was an absolute http or https URL: such an answer names no Connection and closes.
    """
    if version >= (1, 1):
        chosen = CLOSED if close or proxied else KEPT
    elif close or proxied:
        chosen = CLOSED_1_0
    else:
        chosen = KEPT_1_0 if keep_alive and version == (1, 0) else UNFRAMED_1_0
    if proxied:
        chosen = chosen._replace(last=b"")
    return chosen._replace(status=b"HTTP/%d.%d 200 OK\r\n" % version)


class Presence(Protocol):
    """Whether a client waits for its answer still.  `on_over` is called once when that changes."""

    on_over: Callable[[], object] | None

    def is_over(self) -> bool:
        """Whether there is no use in waiting: it has hung up, or the server stops."""


class Request(NamedTuple):
    """One complete request.  `target` is as the client sent it: old ones send raw bytes in it, any
    but NUL and LF.  `content_type`, `authorization` and `accept` (headers) are empty when there is
    none; `accept` is read for the v1 API only.  `client`, its address, and `presence` are what
    `Handler.handle` alone is told."""

    method: bytes
    target: bytes
    content_type: bytes
    body: bytes
    layout: Layout
    authorization: bytes = b""
    accept: bytes = b""
    client: str = ""
    presence: Presence | None = None


# Calls what it is given, once, on the event loop, when a promise is kept; never, if that fails.
Promise: TypeAlias = Callable[[Callable[[], object]], None]


class Response(NamedTuple):
    """What a dialect answers.  `position` becomes the Pos header.  `status` is 200 for everything
    that HTTPSQS knew, and `is_legacy` as well: such an answer has no header line of ours, `lines`
    (each with its CR LF) included.

    `content_type` goes on the wire as it is: it must not hold CR, LF or NUL.  Nothing may leave
    before the `promise` is kept, when there is one.
    """

    body: bytes
    position: int | None = None
    content_type: bytes = b"text/plain"
    promise: Promise | None = None
    status: int = 200
    is_legacy: bool = True
    lines: bytes = b""


def split_v1(target: bytes) -> tuple[bytes, bytes] | None:
    """Path and query of a request to the v1 API; None when it is HTTPSQS's.

    HTTPSQS ignored the path, so what has a `name` is an operation on a queue whatever its path.
    """
    found = _v1.fullmatch(target.partition(b"#")[0])
    if found is None:
        return None
    query = found[2] or b""
    if b"name=" in query.lower() and b"name" in parameters(query):
        return None
    return found[1], query


class Prepared(NamedTuple):
    """What a request asks for, ready to be done for each that repeats it but for its message.

    `run` takes the message (empty when `takes_message` is false) and gives the body of the answer,
    its position and its promise; or None, when that is not the usual answer or must be waited
    for, and then nothing has happened.
    """

    content_type: bytes
    takes_message: bool
    run: Callable[[bytes], tuple[bytes, int, Promise | None] | None]


class Handler(Protocol):
    """A dialect: requests in, answers out."""

    def prepare(self, request: Request) -> Prepared | None:
        """What `handle_nowait` would do, when it depends on nothing but the message."""

    def handle_nowait(self, request: Request) -> Response | None:
        """The answer if it needs no waiting but for its promise; else None, and then nothing has
        happened."""

    async def handle(self, request: Request) -> Response:
        """The answer."""


class Refused(Exception):
    """The bytes are not a request that may become an operation; the connection closes after it.

    `status` is the HTTP status.  `reason` is for the log, and when `explained` also for the
    client: HTTPSQS's own refusals had fixed bodies, which are kept.  The v1 API explains them all;
    `target` is that of the request, as far as it is known.
    """

    def __init__(
        self, status: int, reason: str, *, explained: bool = False, target: bytes = b""
    ) -> None:
        self.status = status
        self.reason = reason
        self.explained = explained
        self.target = target
        super().__init__(f"{status}: {reason}")
