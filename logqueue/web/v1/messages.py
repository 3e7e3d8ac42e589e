"""Messages of the v1 API: put one or many, receive, look."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import trio

from logqueue.errors import LogqueueError
from logqueue.options import LEASE_S_MAX, LEASE_S_MIN
from logqueue.web.httpsqs import WAIT_S_MAX
from logqueue.web.message import Request, Response
from logqueue.web.problem import Failed, retry_after
from logqueue.web.queues import DEAD_HEADER, Message, MessageQueues, State, Stored
from logqueue.web.v1 import batches
from logqueue.web.v1.answers import Routes, answer, json_answer, nothing
from logqueue.web.v1.batches import FRAMES, LINES
from logqueue.web.v1.call import SEQUENCE_MAX, Call, bad_parameter, whole_number

LOOK_MAX = 1000  # messages in one answer
LOOK = 100  # when the request does not say

OCTETS = b"application/octet-stream"
# A message may be a web page of a stranger's: no script of it may speak to us as if it were ours.
SANDBOX = b"Content-Security-Policy: default-src 'none'; sandbox\r\n"


class Messages:
    """Operations on the messages of `queues`; `durable` says where a put is once it is answered."""

    def __init__(self, queues: MessageQueues, durable: str) -> None:
        self._queues = queues
        self._durable = durable

    @property
    def routes(self) -> Routes:
        """What this serves."""
        queue = (b"queues", None)
        return {
            (*queue, b"messages"): {b"POST": self.put, b"GET": self.look_from},
            (*queue, b"messages", b"batch"): {b"POST": self.put_batch},
            (*queue, b"messages", b"receive"): {b"POST": self.receive},
            (*queue, b"messages", None): {b"GET": self.look},
        }

    async def put(self, call: Call) -> Response:
        """Store the body as one message."""
        call.allow()
        content_type = call.request.content_type
        if content_type:
            batches.check_content_type(content_type.decode("latin-1"))
        stored = await self._put(call.queue, [call.request.body], [content_type])
        return self._told(call.queue, stored)

    def put_nowait(self, queue: bytes, request: Request) -> Response | None:
        """`put`, if it needs no waiting but for its promise and goes well; else None, and then
        nothing has happened."""
        kind = request.content_type
        try:
            if kind:
                batches.check_content_type(kind.decode("latin-1"))
            stored, promise = self._queues.put_batch_nowait(
                queue, (request.body,), (kind,) if kind else ()
            )
        except (trio.WouldBlock, Failed, LogqueueError):
            return None  # whatever it is, it is met again by whoever has the time to tell it
        return None if stored is None else self._told(queue, stored)._replace(promise=promise)

    def _told(self, queue: bytes, stored: Stored) -> Response:
        position, sequence = stored.position, stored.first
        body = {"sequence": sequence, "pos": position, "durable": self._durable}
        place = b"/v1/queues/%b/messages/%d" % (
            quote_from_bytes(queue, safe="").encode(),
            sequence,
        )
        lines = b"Location: %b\r\nQueue-Sequence: %d\r\nQueue-Pos: %d\r\n"
        return json_answer(201, body, lines % (place, sequence, position))

    async def put_batch(self, call: Call) -> Response:
        """Store the messages in the body, all or none."""
        call.allow()
        payloads, types = await batches.read(call.request.content_type, call.request.body)
        stored = await self._put(call.queue, payloads, types)
        body = {
            "first": stored.first,
            "last": stored.last,
            "count": len(payloads),
            "pos": stored.position,
            "durable": self._durable,
        }
        return json_answer(201, body)

    async def _put(self, queue: bytes, payloads: list[bytes], types: list[bytes]) -> Stored:
        stored = await self._queues.put_batch(queue, payloads, types if any(types) else ())
        if stored is None:
            detail = "the queue has no room for this; consume messages or raise max_length"
            raise Failed(429, "queue-full", detail, retry_after())
        return stored

    async def receive(self, call: Call) -> Response:
        """Hand messages out."""
        call.allow("max", "wait", "lease")
        maximum = call.number("max", 1, 1, batches.MESSAGES_MAX)
        wait_s = call.duration("wait", WAIT_S_MAX) or 0.0
        lease_s = call.duration("lease", LEASE_S_MAX)
        if lease_s is not None and 0 < lease_s < LEASE_S_MIN:
            bad_parameter("lease", f"must be 0 or at least {LEASE_S_MIN}s")
        form = batches.wanted(call.request.accept)
        found = await self._queues.receive(
            call.queue, maximum, lease_s, wait_s, call.request.presence
        )
        if not found:
            return nothing()
        if maximum == 1 and form is None:
            return _one(found[0])
        count = b"Queue-Count: %d\r\n" % len(found)
        if form == FRAMES:
            return answer(200, FRAMES, batches.frames(found), count)
        return answer(200, LINES, await batches.lines(found), count)

    async def look(self, call: Call) -> Response:
        """One message by its sequence; nothing changes."""
        call.allow()
        sequence = whole_number("sequence", call.item, 1, SEQUENCE_MAX)
        found = await self._queues.peek(call.queue, sequence)
        if isinstance(found, Message):
            return _one(found, b"Queue-State: %b\r\n" % found.state.value.encode())
        if found is State.COMPACTED:
            raise Failed(410, "compacted", "the message was consumed and is gone from the disk")
        raise Failed(404, "not-yet-written", "no message has this sequence yet")

    async def look_from(self, call: Call) -> Response:
        """Some messages from a sequence on; nothing changes."""
        call.allow("from", "limit")
        sequence = call.number("from", 1, 1, SEQUENCE_MAX)
        limit = call.number("limit", LOOK, 1, LOOK_MAX)
        found = await self._queues.peek_from(call.queue, sequence, limit)
        return answer(200, LINES, await batches.lines(found, stated=True))


def _one(message: Message, lines: bytes = b"") -> Response:
    """A message as the body, and what is to be said about it as headers."""
    content_type = OCTETS
    lines += b"Queue-Sequence: %d\r\nQueue-Pos: %d\r\nQueue-Time: %d\r\nQueue-Attempts: %d\r\n" % (
        message.sequence,
        message.position,
        message.timestamp,
        message.attempts,
    )
    if message.lease:
        lines += b"Queue-Lease: %b\r\n" % message.lease.encode()
    for name, value in message.headers:
        if name == b"content-type":
            content_type = value
        elif name == DEAD_HEADER:
            lines += b"Queue-Dead: %b\r\n" % value
    return answer(200, content_type, message.payload, lines + SANDBOX)
