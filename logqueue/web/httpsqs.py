"""The HTTPSQS 1.7 dialect: a request becomes one queue operation, its result one answer.

Every answer has status 200: what happened stands in the body, and clients compare whole bodies.
The path means nothing; all parameters stand in the query, never in the body.  `docs/http.md` is
the reference, and lists where this differs from HTTPSQS on purpose.
"""

from __future__ import annotations

import hmac
import logging
import re
from urllib.parse import unquote_to_bytes

import trio

from logqueue.errors import LogqueueError
from logqueue.web.message import Request, Response
from logqueue.web.queues import Queues, Status

NAME_BYTES_MAX = 256
OPERATION_BYTES_MAX = len("status_json")
CHARSET_BYTES_MAX = 40
NUMBER_MAX = 1_000_000_000  # of pos and num
MAXQUEUE_MIN = 10
NUMBER_BYTES_MAX = 255  # of its digits and what stands around them
PARAMETERS_MAX = 10_000  # a bound for the loop; HTTPSQS had none
DECODE_BYTES_MAX = 65536  # decoded in one go: 5 ms, when all of it is escapes

_log = logging.getLogger("logqueue.web")

_atoi = re.compile(rb"[ \t\n\v\f\r]*([+-]?)0*([0-9]*)")
_header_break = re.compile(rb"[\r\n\0]")
_control = re.compile(rb"[\x00-\x1f\x7f]")
_json_unsafe = re.compile(rb'[\x00-\x1f"\\]')

Parameters = dict[bytes, bytes]


def decode(value: bytes) -> bytes:
    """Undo URL encoding once: `+` is a blank, `%XX` a byte; a broken escape stays as it is."""
    if b"+" in value:
        value = value.replace(b"+", b" ")
    return unquote_to_bytes(value) if b"%" in value else value


async def decode_message(value: bytes) -> bytes:
    """`decode` for values of any size, giving way to other tasks meanwhile."""
    if len(value) <= DECODE_BYTES_MAX or b"%" not in value:
        return decode(value)
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


def parameters(target: bytes) -> Parameters:
    """The query's values, not decoded yet, by lower-case key; of repeated keys the first counts.

    A piece without a key or without `=` voids all of them, as in HTTPSQS; one trailing `&` is no
    piece.
    """
    query = target.partition(b"#")[0].partition(b"?")[2].removesuffix(b"&")
    if not query or query.count(b"&") >= PARAMETERS_MAX:
        return {}
    found: Parameters = {}
    for piece in query.split(b"&"):
        key, equals, value = piece.partition(b"=")
        if not equals or not key:
            return {}
        found.setdefault(key.lower(), value)
    return found


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


class Dialect:
    """Serves HTTPSQS requests from `queues`; a `password` is required of each when given."""

    def __init__(self, queues: Queues, password: bytes | None = None) -> None:
        self._queues = queues
        self._password = password

    async def handle(self, request: Request) -> Response:
        """Run the operation that `request` names.

        Raises StorageFailed, which ends the daemon; every other error of the storage is an
        answer.  When cancelled, the operation may or may not have happened.
        """
        given = parameters(request.target)
        if self._password is None or self._authorises(given):
            response = await self._operate(request, given)
        else:
            response = Response(b"HTTPSQS_AUTH_FAILED")
        charset = short(given, b"charset", CHARSET_BYTES_MAX)
        if charset is None or _header_break.search(charset):
            return response
        return response._replace(content_type=b"text/plain; charset=" + charset)

    def _authorises(self, given: Parameters) -> bool:
        assert self._password is not None
        auth = short(given, b"auth", len(self._password))
        return auth is not None and hmac.compare_digest(auth, self._password)

    async def _operate(self, request: Request, given: Parameters) -> Response:
        name = short(given, b"name", NAME_BYTES_MAX)
        operation = short(given, b"opt", OPERATION_BYTES_MAX)
        if name is None or b"\0" in name:
            return Response(b"HTTPSQS_ERROR")
        try:
            if operation == b"put":
                return await self._put(name, request, given)
            if operation == b"get":
                return await self._get(name, request.method)
            return await self._administer(name, operation, given)
        except LogqueueError as error:
            _log.error("%s of queue %r: %s", (operation or b"").decode(), name, error)
            return Response(b"HTTPSQS_PUT_ERROR" if operation == b"put" else b"HTTPSQS_ERROR")

    async def _put(self, name: bytes, request: Request, given: Parameters) -> Response:
        message = await _message(request, given)
        if message is None:
            return Response(b"HTTPSQS_PUT_ERROR")
        position = await self._queues.put(name, message)
        if position is None:
            return Response(b"HTTPSQS_PUT_END")
        return Response(b"HTTPSQS_PUT_OK", position)

    async def _get(self, name: bytes, method: bytes) -> Response:
        if method == b"HEAD":  # its answer has no body: the message would be lost
            return Response(b"HTTPSQS_ERROR")
        found = await self._queues.get(name)
        if found is None:
            return Response(b"HTTPSQS_GET_END")
        position, message = found
        return Response(message, position)

    async def _administer(
        self, name: bytes, operation: bytes | None, given: Parameters
    ) -> Response:
        queues = self._queues
        match operation:
            case b"view":
                position = number(given, b"pos")
                if 1 <= position <= NUMBER_MAX:
                    return Response(await queues.view(name, position) or b"")
            case b"status":
                return Response(_status_text(name, await queues.status(name)))
            case b"status_json":
                return Response(_status_json(name, await queues.status(name)))
            case b"reset":
                await queues.reset(name)
                return Response(b"HTTPSQS_RESET_OK")
            case b"maxqueue":
                size = number(given, b"num")
                if MAXQUEUE_MIN <= size <= NUMBER_MAX:
                    done = await queues.set_maxqueue(name, size)
                    return Response(b"HTTPSQS_MAXQUEUE_OK" if done else b"HTTPSQS_MAXQUEUE_CANCEL")
            case b"synctime":
                seconds = number(given, b"num")
                if 1 <= seconds <= NUMBER_MAX:
                    queues.set_sync_interval(seconds)
                    return Response(b"HTTPSQS_SYNCTIME_OK")
        return Response(b"HTTPSQS_ERROR")


async def _message(request: Request, given: Parameters) -> bytes | None:
    """What a put stores.  A body wins over `data=`; an empty body counts as none.

    Both are decoded as a message; `data=` has then been decoded twice.  Clients rely on it.
    """
    if not request.body:
        data = given.get(b"data")
        return None if data is None else await decode_message(await decode_message(data))
    media_type = request.content_type.partition(b";")[0].strip().lower()
    if media_type == b"application/octet-stream":
        return request.body
    return await decode_message(request.body)


def _status_text(name: bytes, status: Status) -> bytes:
    return (
        b"HTTP Simple Queue Service v1.7\n"
        b"------------------------------\n"
        b"Queue Name: %b\n"
        b"Maximum number of queues: %d\n"
        b"Put position of queue (%b lap): %d\n"
        b"Get position of queue (%b lap): %d\n"
        b"Number of unread queue: %d\n"
    ) % (
        _control.sub(lambda raw: b"%%%02X" % ord(raw[0]), name),
        status.maxqueue,
        b"1st" if status.putlap == 1 else b"2nd",
        status.putpos,
        b"1st" if status.getlap == 1 else b"2nd",
        status.getpos,
        status.unread,
    )


def _status_json(name: bytes, status: Status) -> bytes:
    """One line of JSON.  The name's bytes beyond ASCII go out as they came in, GBK included."""
    return (
        b'{"name":"%b","maxqueue":%d,"putpos":%d,"putlap":%d,"getpos":%d,"getlap":%d,"unread":%d}\n'
    ) % (
        _json_unsafe.sub(lambda raw: b"\\u%04x" % ord(raw[0]), name),
        status.maxqueue,
        status.putpos,
        status.putlap,
        status.getpos,
        status.getlap,
        status.unread,
    )
