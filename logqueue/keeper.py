"""What happens to leased messages by themselves: leases end, delays end, the dead are moved.

A queue only needs looking after when somebody waits for it or it has a dead-letter queue: all
else follows from the clock when it is next used.  The keeper sleeps until the earliest such moment.

Moving a dead message: its copy in the dead-letter queue is durable before it is settled in its own
queue, under every durability mode.  A crash between leaves both: at least once, never lost.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Awaitable, Callable

import trio

from logqueue.errors import LogqueueError

RETRY_MS = 1000  # until a move is tried again that failed, for a full disk or a full queue

_log = logging.getLogger("logqueue.leases")


class Keeper:
    """Visits queues when their time comes.  `now` in milliseconds, as the leases' deadlines."""

    def __init__(
        self, visit: Callable[[bytes], Awaitable[int | None]], now: Callable[[], int]
    ) -> None:
        self._visit = visit  # looks after one queue; when to come again, or None
        self._now = now
        self._heap: list[tuple[int, bytes]] = []
        self._due: dict[bytes, int] = {}  # the entry that counts, by name
        self._earlier = trio.Event()

    def look_after(self, name: bytes, due_ms: int | None) -> None:
        """Visit the queue at `due_ms`, or earlier; None is never."""
        if due_ms is None or due_ms >= self._due.get(name, math.inf):
            return
        self._due[name] = due_ms
        heapq.heappush(self._heap, (due_ms, name))
        if self._heap[0] == (due_ms, name):
            self._earlier.set()

    async def run(self) -> None:
        """Visit queues until cancelled.  Raises StorageFailed."""
        while True:
            await self._sleep()
            now = self._now()
            while self._heap and self._heap[0][0] <= now:
                due, name = heapq.heappop(self._heap)
                if self._due.get(name) == due:
                    del self._due[name]
                    await self._look_at(name)

    async def _look_at(self, name: bytes) -> None:
        try:
            self.look_after(name, await self._visit(name))
        except LogqueueError as error:
            _log.error("queue %r: dead messages stay where they are for now: %s", name, error)
            self.look_after(name, self._now() + RETRY_MS)

    async def _sleep(self) -> None:
        self._earlier = trio.Event()
        wait_s = (self._heap[0][0] - self._now()) / 1000 if self._heap else math.inf
        with trio.move_on_after(max(wait_s, 0)):
            await self._earlier.wait()
        await trio.lowlevel.checkpoint()
