"""What httpcore is told and what it says, for both kinds of client."""

from __future__ import annotations

import ssl

import httpcore

from logqueue.client.endpoint import Endpoint
from logqueue.client.exchange import Answer, Failure, Request

IDLE_S = 30.0  # an idle connection is kept so long; the server closes it after -t, 60 s

FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
_NOT_SENT = (httpcore.ConnectError, httpcore.ConnectTimeout)


def url(endpoint: Endpoint, request: Request) -> httpcore.URL:
    """Where the request goes; its target is taken as it is."""
    return httpcore.URL(
        scheme=endpoint.scheme.encode(),
        host=endpoint.host.encode(),
        port=endpoint.port,
        target=request.target.encode(),
    )


def headers(request: Request) -> list[tuple[bytes, bytes]]:
    """Header lines as httpcore has them."""
    return [(name.encode(), value.encode()) for name, value in request.headers]


def extensions(request: Request, timeout_s: float) -> dict[str, dict[str, float]]:
    """Time limits of one request."""
    limits = dict.fromkeys(("connect", "write", "pool"), timeout_s)
    return {"timeout": {**limits, "read": timeout_s + request.wait_s}}


def answer(response: httpcore.Response) -> Answer:
    """The answer, whose body has been read."""
    lines = tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1"))
        for name, value in response.headers
    )
    return Answer(response.status, lines, response.content)


def failure(endpoint: Endpoint, error: Exception) -> Failure:
    """Why there is no answer."""
    timeout = isinstance(error, httpcore.TimeoutException)
    reason = "no answer in time" if timeout else str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return Failure(
        f"{endpoint.name}: {reason}",
        sent=not isinstance(error, _NOT_SENT),
        hopeless=isinstance(cause, ssl.SSLError),
    )
