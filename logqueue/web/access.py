"""The access log: one event for each answer, without passwords and without messages.

It stands in front of the handler and answers nothing at once, so that each request runs in a task
that knows its client.  Without it a request costs not an instruction more.
"""

from __future__ import annotations

import logging
import re
import time

import trio

from logqueue.web.message import Handler, Prepared, Refused, Request, Response

TARGET_BYTES_MAX = 512  # shown of a target; a message in it is 8 MiB at most

_log = logging.getLogger("logqueue.access")

# Values of these parameters, and what stands for a user in an absolute URL.  Like the parameters
# themselves these are not decoded before they are compared, and of a repeated one all are hidden.
_secret = re.compile(rb"([?&](?:auth|data)=)[^&#]*|(?<=://)[^/?#@]*@", re.IGNORECASE)


def redacted(target: bytes) -> str:
    """A request's target for the log: cut, and without a password or a message."""
    shown = _secret.sub(lambda found: (found[1] or b"") + b"***", target[: 4 * TARGET_BYTES_MAX])
    cut = b"..." if len(shown) > TARGET_BYTES_MAX or len(target) > 4 * TARGET_BYTES_MAX else b""
    return (shown[:TARGET_BYTES_MAX] + cut).decode("utf-8", "backslashreplace")


def write(client: str, method: bytes, target: bytes, status: int, size: int, took_s: float) -> None:
    """Log one answer with a body of `size` bytes."""
    fields = {
        "client": client,
        "method": method.decode("ascii", "backslashreplace"),
        "target": redacted(target),
        "status": status,
        "bytes": size,
        "seconds": round(took_s, 6),
    }
    _log.info("%s %s %s %d %d %.6f", *fields.values(), extra={"fields": fields})


def refused(client: str, refusal: Refused) -> None:
    """Log an answer to what was no request, or did not become one."""
    write(client, b"-", refusal.target or b"-", refusal.status, 0, 0.0)


class AccessLog:
    """A handler that logs what another one answers."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def handle_nowait(self, request: Request) -> Response | None:
        """None, always: who has to be logged has to be asked for."""
        return None

    def prepare(self, request: Request) -> Prepared | None:
        """None, always."""
        return None

    async def handle(self, request: Request) -> Response:
        """The answer of the other one, once its promise is kept.  Raises what that one does."""
        began = time.perf_counter()
        response = self._handler.handle_nowait(request)
        if response is None:
            response = await self._handler.handle(request)
        if response.promise is not None:
            kept = trio.Event()
            response.promise(kept.set)
            await kept.wait()
            response = response._replace(promise=None)
        size = 0 if request.method == b"HEAD" else len(response.body)
        took_s = time.perf_counter() - began
        write(request.client, request.method, request.target, response.status, size, took_s)
        return response
