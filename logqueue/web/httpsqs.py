"""The HTTPSQS 1.7 dialect: a request becomes one queue operation, its result one answer.

Every answer has status 200: what happened stands in the body, and clients compare whole bodies.
The path means nothing; all parameters stand in the query, never in the body.  `docs/http.md` is
the reference, and lists where this differs from HTTPSQS on purpose.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache, partial
from typing import NamedTuple

import trio

from logqueue.duration import seconds
from logqueue.errors import LogqueueError
from logqueue.web.credentials import Patience, password_in, same
from logqueue.web.failures import Failures
from logqueue.web.message import Prepared, Promise, Request, Response
from logqueue.web.pages import Pages
from logqueue.web.query import (
    Decoder,
    Parameters,
    decode_once,
    decode_slowly,
    decode_twice,
    number,
    parameters,
    short,
    split_message,
)
from logqueue.web.queues import Queues
from logqueue.web.status import status_json, status_text

NAME_BYTES_MAX = 256
WAIT_S_MAX = 60.0  # proxies give up on an answer after about that
WAIT_BYTES_MAX = 24
AUTH_FAILED = b"HTTPSQS_AUTH_FAILED"
OPERATION_BYTES_MAX = len("status_json")
GET_AND_WAIT = b"get and wait"  # a get with a `wait`; longer than what a client can ask for
CHARSET_BYTES_MAX = 40
NUMBER_MAX = 1_000_000_000  # of pos and num
MAXQUEUE_MIN = 10
QUERY_BYTES_MAX = 256  # of queries that are remembered, and how many of them
QUERIES_MAX = 1024

_log = logging.getLogger("logqueue.web")

_header_break = re.compile(rb"[\r\n\0]")
_octets = re.compile(rb"application/octet-stream[ \t]*(?:;|\Z)", re.IGNORECASE)


class Call(NamedTuple):
    """A query, read.  `refusal` is the whole answer when the operation must not run."""

    refusal: bytes
    operation: bytes
    name: bytes
    content_type: bytes  # of the answer
    given: Parameters


class Dialect:
    """Serves HTTPSQS requests from `queues`; a `password` is required of each when given."""

    def __init__(
        self,
        queues: Queues,
        password: bytes | None = None,
        pages: Pages | None = None,
        failures: Failures | None = None,
    ) -> None:
        self.patience = Patience()
        self.failures = failures or Failures()
        self._queues = queues
        self._password = password
        self._pages = pages
        self._read_again = lru_cache(maxsize=QUERIES_MAX)(self._read)

    def handle_nowait(self, request: Request) -> Response | None:
        """The answer to a put or get that needs no waiting; else None, and nothing has happened.

        Raises StorageFailed.
        """
        query, data = split_message(request.target)
        if len(query) > QUERY_BYTES_MAX:
            return None
        refusal, operation, name, content_type, given = self._read_again(query)
        if refusal:
            return None
        try:
            if operation == b"put":
                message = _short_message(request, given.get(b"data", data))
                if message is not None:
                    return _put_answer(*self._queues.put_nowait(name, message), content_type)
            elif operation == b"get" and request.method != b"HEAD":
                return _get_answer(*self._queues.get_nowait(name), content_type)
        except trio.WouldBlock:
            pass
        except LogqueueError as error:
            return Response(self._failure(operation, name, error), None, content_type)
        return None

    def prepare(self, request: Request) -> Prepared | None:
        """What `handle_nowait` would do with all requests like this one."""
        query, _ = split_message(request.target)
        refusal, operation, name, content_type, _ = self._read(query)
        if refusal:
            return None
        if operation == b"put":
            run = partial(self._put_again, name, _decoder(request))
            return Prepared(content_type, takes_message=True, run=run)
        if operation == b"get" and request.method != b"HEAD" and not request.body:
            return Prepared(content_type, takes_message=False, run=partial(self._get_again, name))
        return None

    def _put_again(
        self, name: bytes, decoded: Decoder, coded: bytes
    ) -> tuple[bytes, int, Promise | None] | None:
        message = decoded(coded)
        if message is None:
            return None
        try:
            position, promise = self._queues.put_nowait(name, message)
        except (trio.WouldBlock, LogqueueError):
            return None  # the long way tells what
        return None if position is None else (b"HTTPSQS_PUT_OK", position, promise)

    def _get_again(self, name: bytes, _: bytes) -> tuple[bytes, int, Promise | None] | None:
        try:
            found, promise = self._queues.get_nowait(name)
        except (trio.WouldBlock, LogqueueError):
            return None
        return None if found is None else (found[1], found[0], promise)

    async def handle(self, request: Request) -> Response:
        """The answer to any request.

        Raises StorageFailed, which ends the daemon; every other error of the storage is an
        answer.  When cancelled, the operation may or may not have happened.
        """
        query, data = split_message(request.target)
        read = self._read_again if len(query) <= QUERY_BYTES_MAX else self._read
        call = read(query)
        if call.refusal == AUTH_FAILED and self._trusts(request.authorization):
            call = read(query, trusted=True)
        refusal, operation, name, content_type, given = call
        if refusal:
            return await self._refuse(request, call)
        try:
            if operation == b"put":
                message = await _message(request, given.get(b"data", data))
                if message is None:
                    return Response(b"HTTPSQS_PUT_ERROR", None, content_type)
                return _put_answer(await self._queues.put(name, message), None, content_type)
            if operation == b"get" and request.method != b"HEAD":
                return _get_answer(await self._queues.get(name), None, content_type)
            if operation == GET_AND_WAIT and request.method != b"HEAD":
                return await self._get_and_wait(request, call)
            return Response(await self._administer(operation, name, given), None, content_type)
        except LogqueueError as error:
            return Response(self._failure(operation, name, error), None, content_type)

    async def _get_and_wait(self, request: Request, call: Call) -> Response:
        wait_s = seconds((short(call.given, b"wait", WAIT_BYTES_MAX) or b"").decode("latin-1"))
        if wait_s is None or wait_s > WAIT_S_MAX:
            return Response(b"HTTPSQS_ERROR", None, call.content_type)
        found = await self._queues.get(call.name, wait_s, request.presence)
        return _get_answer(found, None, call.content_type)

    def _failure(self, operation: bytes, name: bytes, error: LogqueueError) -> bytes:
        """The answer when the storage refused."""
        self.failures.count(operation, name)
        _log.error("%s of queue %r: %s", operation.decode(), name, error)
        return b"HTTPSQS_PUT_ERROR" if operation == b"put" else b"HTTPSQS_ERROR"

    async def _refuse(self, request: Request, call: Call) -> Response:
        """The answer to what is no queue operation: a page perhaps."""
        authorised = call.refusal != AUTH_FAILED
        if self._pages is not None:
            found = await self._pages.find(request.target, call.given, authorised)
            if found is not None:
                return found
        if not authorised:
            delay_s = self.patience.failed(request.client, trio.current_time())
            await trio.sleep(delay_s)
        return Response(call.refusal, None, call.content_type)

    def _read(self, query: bytes, trusted: bool = False) -> Call:
        given = parameters(query)
        content_type = b"text/plain"
        charset = short(given, b"charset", CHARSET_BYTES_MAX)
        if charset is not None and not _header_break.search(charset):
            content_type += b"; charset=" + charset
        name = short(given, b"name", NAME_BYTES_MAX)
        operation = short(given, b"opt", OPERATION_BYTES_MAX)
        if operation == b"get" and b"wait" in given:
            operation = GET_AND_WAIT
        refusal = b""
        if not (trusted or self._is_authorised(given)):
            refusal = AUTH_FAILED
        elif name is None or b"\0" in name:
            refusal = b"HTTPSQS_ERROR"
        return Call(refusal, operation or b"", name or b"", content_type, given)

    def _is_authorised(self, given: Parameters) -> bool:
        if self._password is None:
            return True
        return same(short(given, b"auth", len(self._password)), self._password)

    def _trusts(self, authorization: bytes) -> bool:
        return self._password is not None and same(password_in(authorization), self._password)

    async def _administer(self, operation: bytes, name: bytes, given: Parameters) -> bytes:
        queues = self._queues
        match operation:
            case b"view":
                position = number(given, b"pos")
                if 1 <= position <= NUMBER_MAX:
                    return await queues.view(name, position) or b""
            case b"status":
                return status_text(name, await queues.status(name))
            case b"status_json":
                return status_json(name, await queues.status(name))
            case b"reset":
                await queues.reset(name)
                return b"HTTPSQS_RESET_OK"
            case b"maxqueue":
                size = number(given, b"num")
                if MAXQUEUE_MIN <= size <= NUMBER_MAX:
                    done = await queues.set_maxqueue(name, size)
                    return b"HTTPSQS_MAXQUEUE_OK" if done else b"HTTPSQS_MAXQUEUE_CANCEL"
            case b"synctime":
                seconds = number(given, b"num")
                if 1 <= seconds <= NUMBER_MAX:
                    queues.set_sync_interval(seconds)
                    return b"HTTPSQS_SYNCTIME_OK"
        # Also HEAD of a get: its answer has no body, so the message would be lost.
        return b"HTTPSQS_ERROR"


def _put_answer(position: int | None, promise: Promise | None, content_type: bytes) -> Response:
    if position is None:
        return Response(b"HTTPSQS_PUT_END", None, content_type)
    return Response(b"HTTPSQS_PUT_OK", position, content_type, promise)


def _get_answer(
    found: tuple[int, bytes] | None, promise: Promise | None, content_type: bytes
) -> Response:
    if found is None:
        return Response(b"HTTPSQS_GET_END", None, content_type)
    position, message = found
    return Response(message, position, content_type, promise)


def _short_message(request: Request, data: bytes | None) -> bytes | None:
    """What a put stores; None when there is nothing, or too much to decode in one go.

    A body wins over `data=`; an empty body counts as none.
    """
    coded = request.body or data
    return None if coded is None else _decoder(request)(coded)


def _decoder(request: Request) -> Decoder:
    """What makes a message of the body, or of `data=` when there is no body.

    Both are decoded as a message; `data=` has been decoded as a parameter before.  Clients rely on
    it.
    """
    if not request.body:
        return decode_twice
    return _as_it_is if _octets.match(request.content_type) else decode_once


def _as_it_is(body: bytes) -> bytes:
    return body


async def _message(request: Request, data: bytes | None) -> bytes | None:
    """`_short_message` of any size; None when there is nothing to store."""
    message = _short_message(request, data)
    if message is None and request.body:
        return await decode_slowly(request.body)
    if message is None and data is not None:
        return await decode_slowly(await decode_slowly(data))
    return message
