"""The log store behind the async `Queues` port: puts, gets, and each durability mode's promise."""

from __future__ import annotations

from functools import partial

import trio

from logqueue.chores import Chores
from logqueue.commit import Committer
from logqueue.config import Config
from logqueue.handle import Handle
from logqueue.lines import Lines
from logqueue.observed import Observed, Recovery
from logqueue.pool import Pool
from logqueue.storage.delivery import NoRoom
from logqueue.storage.headers import body_of
from logqueue.storage.queue import Queue
from logqueue.storage.reader import Cold, Fetch
from logqueue.storage.ring import NEVER_WRITTEN
from logqueue.storage.store import Store
from logqueue.web.message import Presence, Promise
from logqueue.web.queues import Status

UNSYNCED_BYTES_SYNC = 4 << 20  # start a sync, so that no mode leaves much for the next roll
UNSYNCED_BYTES_MAX = 8 << 20  # and make puts wait here, below what wakes the kernel's throttling


class LocalQueues(Observed):
    """All queues of one data directory.  Satisfies `logqueue.web.queues.Queues`."""

    def __init__(self, store: Store, committer: Committer, config: Config) -> None:
        self._committer = committer
        self._always = config.durability == "always"
        self._pool = Pool(
            store, committer, open_max=config.queues_open_max, queues_max=config.queues_max
        )
        self._chores = Chores(self._pool, committer, config)
        self._open = self._pool.open
        self._lines = Lines(config.long_polls_max)
        self.recovery = Recovery()

    # ------------------------------------------------------------ the port

    async def put(self, name: bytes, payload: bytes) -> int | None:
        handle = self._open.get(name)
        if handle is None or handle.away or not self._has_room(handle.queue, len(payload)):
            handle = await self._make_room(name, len(payload))
        position = handle.queue.put(payload)
        if position is not None:
            if self._lines:
                self._arrived(handle)
            await self._stored(handle)
        return position

    async def get(
        self, name: bytes, wait_s: float = 0.0, presence: Presence | None = None
    ) -> tuple[int, bytes] | None:
        if wait_s <= 0:
            return await self._get(name)
        deadline = trio.current_time() + wait_s
        take = partial(self._get, name)
        return await self._lines.wait(name, deadline, take, presence)

    async def _get(self, name: bytes) -> tuple[int, bytes] | None:
        handle = self._open.get(name)
        if handle is None or handle.away:
            facts = self._pool.resting.get(name)
            if not self._pool.exists(name) or (facts and not facts.positions.unread):
                return None
            handle = await self._pool.acquire(name)
        while True:
            try:
                got = handle.queue.get_nowait()
                if got is not None or not handle.queue.unfinished:
                    break
                self._note(handle)  # nothing but messages that were too old: go on behind them
                await trio.lowlevel.checkpoint()
                handle = await self._pool.acquire(name)
            except Cold as cold:
                handle = await self._fetch(handle, cold.fetch)
                await trio.lowlevel.checkpoint_if_cancelled()
            except NoRoom as wanted:
                handle = await self._make_room_to_settle(handle, wanted)
        if got is not None:
            await self._stored(handle)
        else:
            self._expect(handle)
        return got

    def put_nowait(self, name: bytes, payload: bytes) -> tuple[int | None, Promise | None]:
        handle = self._open.get(name)
        if handle is None or handle.away or not self._has_room(handle.queue, len(payload)):
            raise trio.WouldBlock
        position = handle.queue.put(payload)
        if position is None:
            return None, None
        if self._lines:
            self._arrived(handle)
        return position, self._note(handle)

    def get_nowait(self, name: bytes) -> tuple[tuple[int, bytes] | None, Promise | None]:
        handle = self._open.get(name)
        if handle is None or handle.away:
            raise trio.WouldBlock
        try:
            got = handle.queue.get_nowait()
        except (Cold, NoRoom):
            raise trio.WouldBlock from None
        if got is None and handle.queue.unfinished:
            raise trio.WouldBlock
        return got, None if got is None else self._note(handle)

    async def view(self, name: bytes, position: int) -> bytes | None:
        if not self._pool.exists(name):
            return None
        handle = await self._pool.acquire(name)
        lookup = handle.queue.seek(position)
        if lookup is None:
            return None
        frame = await trio.to_thread.run_sync(lookup.run)
        if not handle.away:
            handle.queue.log.learn(lookup)
        return body_of(frame) if frame else None

    async def status(self, name: bytes) -> Status:
        facts = self._pool.resting.get(name)
        if facts is not None:
            return Status(*facts.positions)
        if not self._pool.exists(name):
            return Status(*NEVER_WRITTEN)
        return Status(*(await self._pool.acquire(name)).queue.positions)

    async def reset(self, name: bytes) -> None:
        if self._pool.exists(name):
            handle = await self._pool.acquire(name)
            await self._pool.hand_over(handle, handle.queue.reset)
            self._chores.stored(handle)  # what it held is freed soon

    async def set_maxqueue(self, name: bytes, maxqueue: int) -> bool:
        handle = await self._pool.acquire(name)
        return await self._pool.hand_over(handle, handle.queue.set_maxqueue, maxqueue)

    def set_sync_interval(self, seconds: int) -> None:
        self._chores.sync_interval_s = seconds

    # ------------------------------------------------------------ life cycle

    async def recover(self) -> None:
        """Inspect every queue; the damaged ones are logged, and answer errors from then on.

        Raises StorageFailed.
        """
        began = trio.current_time()
        await self._pool.recover()
        notes = sum(len(facts.notes) for facts in self._pool.resting.values())
        self.recovery = Recovery(trio.current_time() - began, notes)

    async def run(self) -> None:
        """The chores of the running store, until cancelled.  Raises StorageFailed."""
        await self._chores.run()

    async def close(self) -> None:
        """Sync and close every queue, then release the directory.  Raises StorageFailed."""
        await self._pool.close()

    # ------------------------------------------------------------ keeping promises

    async def _stored(self, handle: Handle) -> None:
        """Something was stored: wait for what the durability mode promises."""
        if self._note(handle):
            await self._committer.commit(handle)

    def _arrived(self, handle: Handle) -> None:
        """Something was put: wake who waits for it, once it may be served."""
        wake = partial(self._lines.wake, handle.queue.name)
        if self._always:  # by itself: whoever put it may be cancelled before it is durable
            self._committer.when_durable(handle, wake)
        else:
            wake()

    def _expect(self, handle: Handle) -> None:
        """There is nothing to take: what was stored before anybody waited, and may not be served
        yet, wakes who waits for it."""
        if handle.queue.servable < handle.queue.log.last and handle.queue.name in self._lines:
            self._arrived(handle)

    def _note(self, handle: Handle) -> Promise | None:
        """Something was stored: tell the chores; what the durability mode promises about it."""
        self._chores.stored(handle)
        if self._always:
            return partial(self._committer.when_durable, handle)
        if handle.queue.unsynced_bytes > UNSYNCED_BYTES_SYNC:
            self._committer.request(handle)
        return None

    async def _fetch(self, handle: Handle, fetch: Fetch) -> Handle:
        """Have a worker read ahead for the queue's consumers, once for all that wait.

        The queue stays with the event loop: producers go on.  Raises Corrupt, LimitExceeded.
        """
        if handle.fetched is not None:
            await handle.fetched.wait()
        else:
            handle.fetched = trio.Event()
            try:
                await trio.to_thread.run_sync(fetch.run)
                if not handle.away:  # else a worker owns the queue, and the next get fetches again
                    handle.queue.install(fetch)
            finally:
                handle.fetched.set()
                handle.fetched = None
                self._pool.let_go()
        return await self._pool.acquire(handle.queue.name)

    async def _make_room_to_settle(self, handle: Handle, wanted: NoRoom) -> Handle:
        """Have room made in the acknowledgement log.  Raises DiskFull, LimitExceeded."""
        delivery = handle.queue.deliver()
        await self._pool.hand_over(handle, delivery.make_room, wanted.size)
        return await self._pool.acquire(handle.queue.name)

    @staticmethod
    def _has_room(queue: Queue, length: int) -> bool:
        """Whether a put goes through without waiting, or is refused without waiting."""
        return queue.unsynced_bytes <= UNSYNCED_BYTES_MAX and queue.log.active.fits(length)

    async def _make_room(self, name: bytes, length: int) -> Handle:
        """The open queue `name` once it has room.  Raises what `Pool.acquire` does."""
        while True:
            handle = await self._pool.acquire(name)
            queue = handle.queue
            if self._has_room(queue, length) or queue.full or queue.damage:
                return handle
            if queue.unsynced_bytes > UNSYNCED_BYTES_MAX:
                await self._committer.commit(handle)
            else:
                await self._pool.hand_over(handle, queue.roll, length)
