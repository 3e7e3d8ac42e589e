"""What a running store does by itself: sync regularly, note durable marks, give disk space back."""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Callable

import trio

from logqueue.commit import Committer
from logqueue.config import Config
from logqueue.errors import DiskFull, LimitExceeded, LogqueueError
from logqueue.pool import Handle, Pool
from logqueue.storage.compactor import Retention, Usage, next_due_ms, plan, usage
from logqueue.storage.queue import clock_ms
from logqueue.storage.store import Resting

TICK_S = 0.25  # the pool's clock
QUIET_TICKS = 2  # a queue untouched for this long notes its durable mark in the cursor
COMPACT_TICKS = 4
IDLE_TICKS = 40  # an empty queue untouched for this long gives up its grown segment
VISITS_PER_ROUND = 64  # queues opened for a chore, so that those in use are not kept waiting
SEGMENTS_PER_STEP = 4  # unlinked in one go: what a disk does in a few tens of milliseconds


class Chores:
    """The chores of one store.  `stored` tells of every put and get."""

    def __init__(
        self,
        pool: Pool,
        committer: Committer,
        config: Config,
        clock: Callable[[], int] = clock_ms,
    ) -> None:
        self.sync_interval_s = config.sync_interval_s
        self._pool = pool
        self._committer = committer
        self._always = config.durability == "always"
        self._interval = config.durability == "interval"
        self._clock = clock  # of what stands on disk: milliseconds since the epoch
        self._retention = Retention(config.retain_bytes, config.retain_seconds)
        self._dirty: set[Handle] = set()  # stored to since their last sync was asked for
        self._recent: set[Handle] = set()  # not idle yet
        self._due: list[tuple[float, bytes]] = []  # a heap: when to visit which queue, in ms
        self._visits: set[bytes] = set()  # the names in it

    def stored(self, handle: Handle) -> None:
        """Something was stored in the queue just now."""
        handle.stored = self._pool.tick
        self._recent.add(handle)
        if self._interval:
            self._dirty.add(handle)

    async def run(self) -> None:
        """Do the chores until cancelled.  Raises StorageFailed."""
        for name, facts in self._pool.resting.items():
            self._visit_later(name, facts)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            if self._interval:
                nursery.start_soon(self._sync_regularly)

    async def compact(self, handle: Handle) -> None:
        """Free what one queue has consumed, a few segments at a time; it stays in use meanwhile.

        Raises StorageFailed.
        """
        while not handle.away:
            queue = handle.queue
            before = self._goes_before(Resting.of(queue))
            if queue.cursor.durable.consumed + 1 < before:
                await self._committer.commit(handle)
            if not before or handle.away:
                return
            removal = queue.release(before, SEGMENTS_PER_STEP)
            if not removal.paths:
                return
            await trio.to_thread.run_sync(removal.run)

    def usage(self, name: bytes) -> Usage:
        """What the segments of an existing queue take on disk."""
        facts = self._pool.facts(name)
        if facts is None:  # damaged
            return Usage(0, 0, 0)
        return usage(facts.sealed, facts.active_bytes, facts.consumed, self._goes_before(facts))

    def _goes_before(self, facts: Resting) -> int:
        retention = Retention.of(facts.options, self._retention)
        return plan(facts.sealed, facts.consumed, retention, self._clock(), facts.hidden)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            self._pool.tick += 1
            if self._always:
                self._note_quiet()
            if self._pool.tick % COMPACT_TICKS == 0:
                await self.compact_all()

    def _note_quiet(self) -> None:
        """Have queues that fell quiet note how far they are durable."""
        for handle in self._recent:
            quiet = self._pool.tick - handle.stored >= QUIET_TICKS
            if quiet and not handle.away and handle.queue.checkpoint():
                self._committer.request(handle)

    async def compact_all(self) -> None:
        """One round over the queues that are not idle, or that have something due."""
        await self._visit_due()
        for handle in list(self._recent):
            await self.compact(handle)
            if handle.closed or self._pool.tick - handle.stored >= IDLE_TICKS:
                await self._settle(handle)

    async def _visit_due(self) -> None:
        """Open the queues whose time has come, a few at a time."""
        now = self._clock()
        for _ in range(VISITS_PER_ROUND):
            if not self._due or self._due[0][0] > now:
                return
            _, name = heapq.heappop(self._due)
            self._visits.discard(name)
            if self._pool.exists(name):
                with contextlib.suppress(LogqueueError):  # its users are told
                    self._recent.add(await self._pool.acquire(name))

    async def _settle(self, handle: Handle) -> None:
        """Leave a queue alone that is idle or closed; an empty one gives up its grown segment."""
        queue = handle.queue
        if queue.oversized and not handle.away:
            with contextlib.suppress(DiskFull, LimitExceeded):
                await self._pool.hand_over(handle, queue.shrink)
                await self.compact(handle)
        self._recent.discard(handle)
        facts = self._pool.facts(queue.name)
        if facts is not None:
            self._visit_later(queue.name, facts)

    def _visit_later(self, name: bytes, facts: Resting) -> None:
        """Note when there will be something to do for a queue that nobody uses."""
        retention = Retention.of(facts.options, self._retention)
        due_ms = next_due_ms(facts.sealed, facts.consumed, retention)
        if facts.unfinished or self._goes_before(facts):
            due_ms = 0
        if due_ms < math.inf and name not in self._visits:
            heapq.heappush(self._due, (due_ms, name))
            self._visits.add(name)

    async def _sync_regularly(self) -> None:
        """Durability `interval`: sync all that was stored to, every few seconds."""
        while True:
            began = trio.current_time()
            while (left := began + self.sync_interval_s - trio.current_time()) > 0:
                await trio.sleep(min(left, 1))  # the interval may be changed meanwhile
            dirty, self._dirty = self._dirty, set()
            for handle in dirty:
                if not handle.away:
                    handle.queue.checkpoint()
                    self._committer.request(handle)
                elif not handle.closed:
                    self._dirty.add(handle)
