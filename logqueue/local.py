"""The log store behind the async `Queues` port: opens queues on demand, keeps each mode's promise.

A queue belongs to the event loop, which puts and gets without waiting.  For what blocks (opening,
a roll, reset, a new size, freeing segments, closing) it is handed over to a worker thread as a
whole, and nobody else touches it until it comes back; puts and gets for it wait meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import trio

from logqueue.commit import Committer, Group
from logqueue.config import Config
from logqueue.errors import Corrupt, DiskFull, LimitExceeded, LogqueueError
from logqueue.storage import compactor
from logqueue.storage.queue import NEVER_WRITTEN, Queue
from logqueue.storage.reader import Cold, Fetch
from logqueue.storage.store import Store
from logqueue.web.queues import Status

UNSYNCED_BYTES_SYNC = 4 << 20  # start a sync, so that no mode leaves much for the next roll
UNSYNCED_BYTES_MAX = 8 << 20  # and make puts wait here, below what wakes the kernel's throttling
QUIET_TICK_S = 0.25  # a queue untouched for this long notes its durable mark in the cursor
COMPACT_TICK_S = 1.0
IDLE_TICKS = 10  # an empty queue untouched for this many compactor ticks gives up its segment

_P = ParamSpec("_P")
_T = TypeVar("_T")

_log = logging.getLogger("logqueue.store")


class _Handle(Group):
    """An open queue.  `away` while a worker owns it."""

    __slots__ = ("away", "changed", "fetched", "idle_ticks", "quiet", "touched")

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue)
        self.away = False
        self.changed = trio.Event()  # set, and replaced, when the queue comes back
        self.fetched: trio.Event | None = None  # set when the read-ahead that runs has come
        self.quiet = False  # nothing was stored since the last quiet tick
        self.touched = False  # something was stored since the last compactor tick
        self.idle_ticks = 0


class LocalQueues:
    """All queues of one data directory.  Satisfies `logqueue.web.queues.Queues`."""

    def __init__(self, store: Store, committer: Committer, config: Config) -> None:
        self._store = store
        self._committer = committer
        self._always = config.durability == "always"
        self._interval = config.durability == "interval"
        self._sync_interval_s = config.sync_interval_s
        self._open: dict[bytes, _Handle] = {}
        self._opening: dict[bytes, trio.Event] = {}
        self._damaged: dict[bytes, Corrupt] = {}
        self._dirty: set[_Handle] = set()  # stored to since their last sync was asked for
        self._recent: set[_Handle] = set()  # touched since the last compactor tick

    # ------------------------------------------------------------ the port

    async def put(self, name: bytes, payload: bytes) -> int | None:
        handle = self._open.get(name)
        if handle is None or handle.away or not self._has_room(handle.queue, len(payload)):
            handle = await self._make_room(name, len(payload))
        position = handle.queue.put(payload)
        if position is not None:
            await self._stored(handle)
        return position

    async def get(self, name: bytes) -> tuple[int, bytes] | None:
        handle = self._open.get(name)
        if handle is None or handle.away:
            if not self._store.exists(name):
                return None
            handle = await self._acquire(name)
        while True:
            try:
                got = handle.queue.get_nowait()
                break
            except Cold as cold:
                handle = await self._fetch(handle, cold.fetch)
        if got is not None:
            await self._stored(handle)
        return got

    async def view(self, name: bytes, position: int) -> bytes | None:
        if not self._store.exists(name):
            return None
        handle = await self._acquire(name)
        lookup = handle.queue.seek(position)
        if lookup is None:
            return None
        frame = await trio.to_thread.run_sync(lookup.run)
        handle.queue.log.learn(lookup)
        return frame.payload if frame else None

    async def status(self, name: bytes) -> Status:
        if not self._store.exists(name):
            return Status(*NEVER_WRITTEN)
        return Status(*(await self._acquire(name)).queue.positions)

    async def reset(self, name: bytes) -> None:
        if self._store.exists(name):
            handle = await self._acquire(name)
            await self._hand_over(handle, handle.queue.reset)

    async def set_maxqueue(self, name: bytes, maxqueue: int) -> bool:
        handle = await self._acquire(name)
        return await self._hand_over(handle, handle.queue.set_maxqueue, maxqueue)

    def set_sync_interval(self, seconds: int) -> None:
        self._sync_interval_s = seconds

    # ------------------------------------------------------------ life cycle

    async def recover(self) -> None:
        """Open every queue once; the damaged ones are logged, and answer errors from then on."""
        for name in self._store.names():
            try:
                await self._acquire(name)
            except LogqueueError as error:
                _log.error("queue %r is not served: %s", name, error)

    async def run(self) -> None:
        """The chores of the running store, until cancelled.  Raises StorageFailed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._note_quiet if self._always else self._sync_regularly)
            nursery.start_soon(self._compact_regularly)

    async def close(self) -> None:
        """Sync and close every queue, then release the directory.  Raises StorageFailed."""
        for name in list(self._open):
            handle = await self._acquire(name)
            await self._hand_over(handle, handle.queue.close)
            del self._open[name]
        self._store.close()

    # ------------------------------------------------------------ keeping promises

    async def _stored(self, handle: _Handle) -> None:
        """Something was stored: wait for what the durability mode promises."""
        handle.quiet, handle.touched = False, True
        self._recent.add(handle)
        if self._always:
            await self._committer.commit(handle)
            return
        self._dirty.add(handle)
        if handle.queue.unsynced_bytes > UNSYNCED_BYTES_SYNC:
            self._committer.request(handle)

    async def _fetch(self, handle: _Handle, fetch: Fetch) -> _Handle:
        """Have a worker read ahead for the queue's consumers, once for all that wait.

        The queue stays with the event loop: producers go on.  Raises Corrupt, LimitExceeded.
        """
        if handle.fetched is not None:
            await handle.fetched.wait()
        else:
            handle.fetched = trio.Event()
            try:
                await trio.to_thread.run_sync(fetch.run)
                handle.queue.install(fetch)
            finally:
                handle.fetched.set()
                handle.fetched = None
        return await self._acquire(handle.queue.name)

    async def _sync_regularly(self) -> None:
        """Durability `interval`: sync all that was stored to, every few seconds."""
        while True:
            began = trio.current_time()
            while (left := began + self._sync_interval_s - trio.current_time()) > 0:
                await trio.sleep(min(left, 1))  # the interval may be changed meanwhile
            if self._interval:
                dirty, self._dirty = self._dirty, set()
                for handle in dirty:
                    if handle.away:
                        self._dirty.add(handle)
                    else:
                        handle.queue.checkpoint()
                        self._committer.request(handle)

    async def _note_quiet(self) -> None:
        """Durability `always`: have queues that fell quiet note how far they are durable."""
        while True:
            await trio.sleep(QUIET_TICK_S)
            for handle in list(self._recent):
                if not handle.quiet:
                    handle.quiet = True
                elif not handle.away and handle.queue.checkpoint():
                    self._committer.request(handle)

    async def _compact_regularly(self) -> None:
        while True:
            await trio.sleep(COMPACT_TICK_S)
            for handle in list(self._recent):
                await self._compact(handle)

    async def _compact(self, handle: _Handle) -> None:
        """Free what one queue has consumed; forget it once there is nothing more to do."""
        queue = handle.queue
        if handle.away:
            return
        before = compactor.plan(queue.log.sealed, queue.consumed)
        if before:
            await self._hand_over(handle, compactor.step, queue, before)
        handle.idle_ticks = 0 if handle.touched else handle.idle_ticks + 1
        handle.touched = False
        if handle.idle_ticks < IDLE_TICKS:
            return
        if queue.oversized:
            with contextlib.suppress(DiskFull, LimitExceeded):
                await self._hand_over(handle, queue.shrink)
        self._recent.discard(handle)

    # ------------------------------------------------------------ ownership

    async def _acquire(self, name: bytes) -> _Handle:
        """The open queue `name`, owned by the event loop; opened or created if need be.

        Raises Corrupt, DiskFull, LimitExceeded, NewerFormat, StorageFailed.
        """
        while True:
            handle = self._open.get(name)
            if handle is not None:
                if not handle.away:
                    return handle
                await handle.changed.wait()
            elif name in self._damaged:
                raise self._damaged[name]
            elif name in self._opening:
                await self._opening[name].wait()
            else:
                await self._open_queue(name)

    async def _open_queue(self, name: bytes) -> None:
        opened = self._opening[name] = trio.Event()
        try:
            if self._store.exists(name):
                queue, report = await trio.to_thread.run_sync(self._store.open_queue, name)
                for note in report.notes:
                    _log.warning("%s", note)
            else:
                queue = await trio.to_thread.run_sync(self._store.create_queue, name)
            self._open[name] = _Handle(queue)
        except Corrupt as error:
            self._damaged[name] = error
            raise
        finally:
            del self._opening[name]
            opened.set()

    async def _hand_over(
        self, handle: _Handle, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Run blocking `work` on the handle's queue in a worker thread that owns it meanwhile.

        When cancelled, either nothing was done or `work` was done to its end.
        """
        handle.away = True
        try:
            await self._committer.settle(handle)
            return await trio.to_thread.run_sync(partial(work, *args, **kwargs))
        finally:
            handle.away = False
            changed, handle.changed = handle.changed, trio.Event()
            changed.set()

    @staticmethod
    def _has_room(queue: Queue, length: int) -> bool:
        """Whether a put goes through without waiting, or is refused without waiting."""
        return queue.unsynced_bytes <= UNSYNCED_BYTES_MAX and queue.fits(length)

    async def _make_room(self, name: bytes, length: int) -> _Handle:
        """The open queue `name` once it has room.  Raises what `_acquire` does."""
        while True:
            handle = await self._acquire(name)
            queue = handle.queue
            if self._has_room(queue, length) or queue.full or queue.damage:
                return handle
            if queue.unsynced_bytes > UNSYNCED_BYTES_MAX:
                await self._committer.commit(handle)
            else:
                await self._hand_over(handle, queue.roll, length)
