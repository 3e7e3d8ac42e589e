"""Queues of the v1 API: create, configure, describe, list, purge, pause, delete."""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

from logqueue.errors import BadOption
from logqueue.options import QueueOptions
from logqueue.web.message import Response
from logqueue.web.queues import Details, MessageQueues
from logqueue.web.v1.answers import Routes, json_answer, nothing
from logqueue.web.v1.call import Call, check_name

LISTED_MAX = 1000  # queues in one answer
LISTED = 100  # when the request does not say

MERGE_PATCH = b"application/merge-patch+json"  # RFC 7396, which is what a PATCH here means


class Queues:
    """Operations on whole queues."""

    def __init__(self, queues: MessageQueues) -> None:
        self._queues = queues

    @property
    def routes(self) -> Routes:
        """What this serves."""
        queue = (b"queues", None)
        return {
            (b"queues",): {b"GET": self.list_all},
            queue: {
                b"PUT": self.create,
                b"GET": self.describe,
                b"PATCH": self.update,
                b"DELETE": self.delete,
            },
            (*queue, b"purge"): {b"POST": self.purge},
            (*queue, b"pause"): {b"POST": self.pause},
            (*queue, b"resume"): {b"POST": self.resume},
        }

    async def list_all(self, call: Call) -> Response:
        """A page of the queues, in byte order of their names."""
        call.allow("after", "limit")
        limit = call.number("limit", LISTED, 1, LISTED_MAX)
        found, following = self._queues.list_queues(call.given.get("after"), limit)
        rows = [{**each._asdict(), "name": _quoted(each.name)} for each in found]
        after = None if following is None else _quoted(following)
        return json_answer(200, {"queues": rows, "next": after})

    async def create(self, call: Call) -> Response:
        """A new queue, or the same one."""
        call.allow()
        options = QueueOptions().changed(_options(call))
        created = await self._queues.create_queue(call.queue, options)
        shown = _shown(await self._queues.describe_queue(call.queue))
        place = b"Location: /v1/queues/%b\r\n" % _quoted(call.queue).encode()
        return json_answer(201, shown, place) if created else json_answer(200, shown)

    async def describe(self, call: Call) -> Response:
        """Numbers and options."""
        call.allow()
        return json_answer(200, _shown(await self._queues.describe_queue(call.queue)))

    async def update(self, call: Call) -> Response:
        """Other options."""
        call.allow()
        changed = await self._queues.update_queue(call.queue, _options(call))
        return json_answer(200, _shown(changed))

    async def delete(self, call: Call) -> Response:
        """Remove it and its messages."""
        call.allow()
        await self._queues.delete_queue(call.queue)
        return nothing()

    async def purge(self, call: Call) -> Response:
        """Consume all that is there."""
        call.allow()
        return json_answer(200, {"purged": await self._queues.purge_queue(call.queue)})

    async def pause(self, call: Call) -> Response:
        """Stop delivery."""
        return await self._set_paused(call, True)

    async def resume(self, call: Call) -> Response:
        """Start delivery again."""
        return await self._set_paused(call, False)

    async def _set_paused(self, call: Call, paused: bool) -> Response:
        call.allow()
        changed = await self._queues.update_queue(call.queue, {"paused": paused})
        return json_answer(200, _shown(changed))


def _options(call: Call) -> dict[str, object]:
    given = call.json(MERGE_PATCH)
    dead_letter = given.get("dead_letter")
    if isinstance(dead_letter, str):
        if not dead_letter.isascii():
            raise BadOption("dead_letter", "must be a queue's name, percent-encoded")
        check_name(unquote_to_bytes(dead_letter))
    return given


def _quoted(name: bytes) -> str:
    return quote_from_bytes(name, safe="")


def _shown(details: Details) -> dict[str, object]:
    shown = details._asdict()
    return {**shown, "name": _quoted(details.name), "options": details.options.as_json()}
