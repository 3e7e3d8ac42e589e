"""What a running store does by itself: sync regularly, note durable marks, give disk space back."""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Callable

import trio

from logqueue.commit import Committer
from logqueue.config import Config
from logqueue.errors import Corrupt, DiskFull, LimitExceeded, LogqueueError
from logqueue.handle import Handle
from logqueue.pool import Pool
from logqueue.storage.clock import clock_ms
from logqueue.storage.compactor import Retention, Usage, next_due_ms, plan, usage
from logqueue.storage.delivery import NoRoom
from logqueue.storage.reader import Cold, Fetch
from logqueue.storage.store import Resting

TICK_S = 0.25  # the pool's clock
QUIET_TICKS = 2  # a queue untouched for this long notes its durable mark in the cursor
COMPACT_S = 1.0  # between rounds that found nothing to free
IDLE_TICKS = 40  # an empty queue untouched for this long gives up its grown segment
AGE_CHECK_MS = 60_000  # until the next look for messages that are too old, when nothing tells
VISITS_PER_ROUND = 64  # queues opened for a chore, so that those in use are not kept waiting
STEP_BYTES = 16 << 20  # unlinked in one go, by whole segments
# An unlink keeps the syncs of puts waiting for some milliseconds (64 MiB: about 10).  Paced like
# this that happens to less than one put in a hundred, and no consumer gets ahead of it.
FREED_BYTES_PER_S = 512 << 20


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
        self._visits: dict[bytes, float] = {}  # the entry that counts, by name

    def stored(self, handle: Handle) -> None:
        """Something was stored in the queue just now."""
        handle.stored = self._pool.tick
        self._recent.add(handle)
        if self._interval:
            self._dirty.add(handle)

    async def run(self) -> None:
        """Do the chores until cancelled.  Raises StorageFailed."""
        self.note_leftovers()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            nursery.start_soon(self._compact_regularly)
            if self._interval:
                nursery.start_soon(self._sync_regularly)

    def note_leftovers(self) -> None:
        """After a start: note the queues that a crash or their retention left something to do."""
        for name, facts in self._pool.resting.items():
            self._visit_later(name, facts)

    async def compact(self, handle: Handle) -> bool:
        """Free some of what one queue has consumed; it stays in use meanwhile.

        Whether there may be more to free.  Raises StorageFailed.
        """
        if handle.away:
            return False
        queue = handle.queue
        before = self._goes_before(Resting.of(queue))
        if queue.cursor.durable.consumed + 1 < before:
            await self._committer.commit(handle)
        if not before:
            return False
        async with handle.unlinking:
            if handle.away:
                return False
            removal = queue.release(before, STEP_BYTES)
            if removal.paths:
                await trio.to_thread.run_sync(removal.run)
        if removal.paths:
            await trio.sleep(removal.size / FREED_BYTES_PER_S)
        return removal.paths != []

    def usage(self, facts: Resting) -> Usage:
        """What the segments of a queue take on disk."""
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

    def _note_quiet(self) -> None:
        """Have queues that fell quiet note how far they are durable."""
        for handle in self._recent:
            quiet = self._pool.tick - handle.stored >= QUIET_TICKS
            if quiet and not handle.away and handle.queue.checkpoint():
                self._committer.request(handle)

    async def _compact_regularly(self) -> None:
        while True:
            if not await self.compact_all():
                await trio.sleep(COMPACT_S)

    async def compact_all(self) -> bool:
        """One round over the queues that are not idle, or that have something due; whether the
        next one will find more to free."""
        await self._visit_due()
        more = False
        for handle in list(self._recent):
            idle = handle.closed or self._pool.tick - handle.stored >= IDLE_TICKS
            if not handle.away and (idle or handle.queue.consumed == handle.queue.log.last):
                handle.queue.log.forget_window()  # it may hold one message of 64 MiB
            freed = await self._expire(handle) or await self.compact(handle)
            if freed or (idle and await self._shrink(handle)):
                more = True
            elif idle:
                self._settle(handle)
        return more

    async def _visit_due(self) -> None:
        """Open the queues whose time has come, a few at a time."""
        now = self._clock()
        for _ in range(VISITS_PER_ROUND):
            if not self._due or self._due[0][0] > now:
                return
            due_ms, name = heapq.heappop(self._due)
            if self._visits.get(name) != due_ms:
                continue
            del self._visits[name]
            if self._pool.exists(name):
                with contextlib.suppress(LogqueueError):  # its users are told
                    self._recent.add(await self._pool.acquire(name))

    async def _expire(self, handle: Handle) -> bool:
        """Consume what is too old in one queue; whether there may be more of it."""
        delivery = handle.queue.delivery
        if handle.away or delivery is None:
            return False
        before = delivery.expired
        try:
            handle.expires_ms = delivery.expire()
        except Cold as cold:
            return await self._fetch(handle, cold.fetch)
        except NoRoom as wanted:
            with contextlib.suppress(DiskFull, LimitExceeded):
                await self._pool.hand_over(handle, delivery.make_room, wanted.size)
                return True
            return False
        except Corrupt:  # its users are told
            return False
        if delivery.expired > before:
            if self._interval:
                self._dirty.add(handle)
            await trio.lowlevel.checkpoint()  # there may be hundreds of thousands
        return handle.expires_ms == 0

    async def _fetch(self, handle: Handle, fetch: Fetch) -> bool:
        """Read ahead for `_expire`; whether that may have got it any further."""
        with contextlib.suppress(Corrupt, LimitExceeded):  # its users are told
            await trio.to_thread.run_sync(fetch.run)
            if not handle.away:
                handle.queue.install(fetch)
            return not handle.closed
        return False

    async def _shrink(self, handle: Handle) -> bool:
        """Let an empty queue give up its grown segment; whether it did."""
        if handle.away or not handle.queue.oversized:
            return False
        with contextlib.suppress(DiskFull, LimitExceeded):
            await self._pool.hand_over(handle, handle.queue.shrink)
            return True
        return False

    def _settle(self, handle: Handle) -> None:
        """Leave a queue alone that is idle or closed, until something is due."""
        self._recent.discard(handle)
        facts = self._pool.facts(handle.queue.name)
        if facts is not None:
            self._visit_later(handle.queue.name, facts, handle.expires_ms)

    def _visit_later(self, name: bytes, facts: Resting, expires_ms: int | None = 0) -> None:
        """Note when there will be something to do for a queue that nobody uses."""
        retention = Retention.of(facts.options, self._retention)
        due_ms = next_due_ms(facts.sealed, facts.consumed, retention)
        if facts.unfinished or self._goes_before(facts):
            due_ms = 0
        if facts.positions.unread and "max_age_s" in facts.options:
            due_ms = min(due_ms, self._clock() + AGE_CHECK_MS if expires_ms is None else expires_ms)
        if due_ms < self._visits.get(name, math.inf):
            heapq.heappush(self._due, (due_ms, name))
            self._visits[name] = due_ms

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
