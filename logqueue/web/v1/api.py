"""The v1 API as one `Handler`: who may call, what a path means, errors into problems.

What is not below /v1/ goes to the HTTPSQS dialect, and so does whatever needs no waiting: the
dialect's hot path is called as if there were no v1 API.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache

import trio

from logqueue.errors import LogqueueError
from logqueue.web.access import redacted
from logqueue.web.answer import problem_response
from logqueue.web.credentials import password_in, same
from logqueue.web.httpsqs import Dialect
from logqueue.web.message import Request, Response, split_v1
from logqueue.web.problem import Failed, Problem, of
from logqueue.web.queues import MessageQueues
from logqueue.web.v1.answers import Operation, answer, nothing
from logqueue.web.v1.call import JSON, Call, check_name, read_path, read_query
from logqueue.web.v1.leases import Leases
from logqueue.web.v1.messages import Messages
from logqueue.web.v1.openapi import document
from logqueue.web.v1.queues import Queues

TARGETS_MAX = 1024  # of puts that are remembered
CHALLENGE = (
    b'WWW-Authenticate: Bearer realm="logqueue"\r\nWWW-Authenticate: Basic realm="logqueue"\r\n'
)

_log = logging.getLogger("logqueue.web")


@lru_cache(maxsize=TARGETS_MAX)
def _queue_of_put(target: bytes) -> bytes | None:
    """The queue that a POST to `target` puts one message into; None when it does anything else."""
    split = split_v1(target)
    if split is None or split[1]:
        return None
    try:
        parts = read_path(split[0])
        if len(parts) != 5 or (parts[2], parts[4]) != (b"queues", b"messages"):
            return None
        check_name(parts[3])
    except Failed:
        return None
    return parts[3]


class Api:
    """Serves the v1 API from `queues`, and everything else from `dialect`.

    A `password` is required of each request when given; failures count with those of the
    dialect.  `durable` names where a message is when its put is answered.
    """

    def __init__(
        self, queues: MessageQueues, dialect: Dialect, password: bytes | None, durable: str
    ) -> None:
        self.prepare = dialect.prepare
        self._dialect = dialect
        self._password = password
        self._openapi = document()
        self._messages = Messages(queues, durable)
        self._routes = {
            (b"openapi.json",): {b"GET": self._describe},
            **Queues(queues).routes,
            **self._messages.routes,
            **Leases(queues).routes,
        }

    def handle_nowait(self, request: Request) -> Response | None:
        """The answer to a put or a legacy get that needs no waiting but for its promise.

        Else None, and nothing has happened.  Raises StorageFailed.
        """
        if not request.target.startswith(b"/v1/"):
            return self._dialect.handle_nowait(request)
        if request.method != b"POST" or not self._trusts(request):
            return None
        queue = _queue_of_put(request.target)
        return None if queue is None else self._messages.put_nowait(queue, request)

    async def handle(self, request: Request) -> Response:
        """The answer to any request.

        Raises StorageFailed, which ends the daemon; every other error of the storage is an
        answer.  When cancelled, the operation may or may not have happened.
        """
        split = split_v1(request.target)
        if split is None:
            return await self._dialect.handle(request)
        try:
            await self._check_password(request)
            return await self._call(request, *split)
        except Failed as failed:
            return problem_response(failed.problem)
        except LogqueueError as error:
            queue = read_path(split[0])[3]  # what can fail is below /v1/queues/
            return problem_response(self._refused(request, queue, error))

    async def _check_password(self, request: Request) -> None:
        if self._trusts(request):
            return
        await trio.sleep(self._dialect.patience.failed(request.client, trio.current_time()))
        detail = "the request needs Authorization: Bearer with the password"
        raise Failed(401, "unauthorized", detail, CHALLENGE)

    def _trusts(self, request: Request) -> bool:
        given = request.authorization
        return self._password is None or same(password_in(given), self._password)

    async def _call(self, request: Request, path: bytes, query: bytes) -> Response:
        parts = read_path(path)[2:]
        methods = self._resource(parts)
        allowed = sorted({*methods, b"OPTIONS", *([b"HEAD"] if b"GET" in methods else [])})
        allow = b"Allow: %b\r\n" % b", ".join(allowed)
        if request.method == b"OPTIONS":
            return nothing(allow)
        method = b"GET" if request.method == b"HEAD" else request.method
        if method not in methods:
            detail = f"this path takes {b', '.join(allowed).decode()}"
            raise Failed(405, "method-not-allowed", detail, allow)
        queue = parts[1] if len(parts) > 1 else b""
        check_name(queue)
        item = parts[3] if len(parts) > 3 else b""
        return await methods[method](Call(request, queue, item, read_query(query)))

    def _resource(self, parts: list[bytes]) -> Mapping[bytes, Operation]:
        wanted: list[bytes | None] = [*parts]
        for at in (None, 1, 3):  # first as it stands, then with the queue, then the item as names
            if at is not None and len(wanted) > at:
                wanted[at] = None
            if (found := self._routes.get(tuple(wanted))) is not None:
                return found
        raise Failed(404, "no-such-path", "there is nothing here; see /v1/openapi.json")

    async def _describe(self, call: Call) -> Response:
        call.allow()
        return answer(200, JSON, self._openapi)

    def _refused(self, request: Request, queue: bytes, error: LogqueueError) -> Problem:
        """A problem for the client, and for the operator a line when it is his to solve."""
        problem = of(error)
        if problem.status >= 500:
            self._dialect.failures.count(b"v1", queue)
            target = redacted(request.target)
            _log.error("%s %s: %s", request.method.decode(), target, error)
        return problem
