"""The open queues of one store: opened on first use, closed least recently used first.

A queue belongs to the event loop, which puts and gets without waiting.  For what blocks (opening,
a roll, reset, a new size, closing) it is handed over to a worker thread as a whole, and nobody
else touches it until it comes back; who needs it meanwhile waits.

An open queue costs two maps, four descriptors and a few KiB, one that was leased from three maps
and six descriptors; a closed one costs its `Resting` facts.  So any number of queues can exist
while `open_max` of them are open.
"""

from __future__ import annotations

import contextlib
import logging
import resource
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import ParamSpec, TypeAlias, TypeVar

import trio

from logqueue.commit import Committer
from logqueue.errors import Corrupt, DiskFull, LimitExceeded, LogqueueError, StorageFailed
from logqueue.handle import Handle
from logqueue.options import DEFAULT, QueueOptions
from logqueue.storage.queue import Queue
from logqueue.storage.reader import Peek
from logqueue.storage.store import Resting, Store

CLOSERS = 8  # queues closed at once; each takes a few syncs, see commit.SYNC_THREADS
# Threads that look at queues at start once that waits for the disk.  While everything is in the
# cache one thread does it, because more of them only fight for the GIL: 10,000 queues took 0.8 s
# with one thread and 2.0 s with eight; with their files out of the cache 3.1 s and 1.9 s.
INSPECTORS = 8
INSPECT_BATCH = 64  # queues per visit of such a thread
BLOCKS_READ_COLD = INSPECT_BATCH * 8  # by one visit, of 512 bytes: a page a queue

_P = ParamSpec("_P")
_T = TypeVar("_T")
Found: TypeAlias = Resting | LogqueueError  # of one queue, by an inspection

_log = logging.getLogger("logqueue.store")


class Pool:
    """The queues of one store by name.  `tick` is its clock; whoever runs the chores moves it."""

    def __init__(
        self, store: Store, committer: Committer, *, open_max: int, queues_max: int
    ) -> None:
        self.open: dict[bytes, Handle] = {}
        self.resting: dict[bytes, Resting] = {}
        self.damaged: dict[bytes, Corrupt] = {}
        self.tick = 0
        self._store = store
        self._committer = committer
        self._queues_max = queues_max
        self._slots = open_max  # queues that may be opened without closing another
        self._creating = 0
        self._opening: dict[bytes, trio.Event] = {}
        self._closing = False
        self._waiting_for_slot = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._store)

    def exists(self, name: bytes) -> bool:
        """Whether the queue was ever written to."""
        return name in self.open or name in self.resting or self._store.exists(name)

    def facts(self, name: bytes) -> Resting | None:
        """What is known of a queue; None when it does not exist or is damaged."""
        handle = self.open.get(name)
        return self.resting.get(name) if handle is None else handle.facts

    def first_unread(self, name: bytes, facts: Resting) -> Peek | None:
        """How to look at the oldest record that is not consumed; None without one."""
        return self._store.first_unread(name, facts)

    async def acquire(self, name: bytes) -> Handle:
        """The open queue `name`, owned by the event loop; opened or created if need be.

        It is the caller's until its next checkpoint.  Raises Corrupt, DiskFull, LimitExceeded,
        NewerFormat, StorageFailed.
        """
        while True:
            handle = self.open.get(name)
            if handle is not None:
                if not handle.away:
                    handle.used = self.tick
                    return handle
                await handle.changed.wait()
            elif name in self.damaged:
                raise self.damaged[name]
            elif name in self._opening:
                await self._opening[name].wait()
            else:
                await self._open(name)

    async def create(self, name: bytes, settings: QueueOptions) -> bool:
        """Make the queue `name` with these settings; False when it exists.

        A crash leaves it with its settings or not at all.  Raises what `acquire` does.
        """
        while name in self._opening:
            await self._opening[name].wait()
        if self.exists(name):
            return False
        await self._open(name, settings)
        return True

    async def hand_over(
        self, handle: Handle, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Run blocking `work` on the handle's queue in a worker thread that owns it meanwhile.

        When cancelled, either nothing was done or `work` was done to its end.
        """
        handle.lent = handle.facts
        handle.away = True
        try:
            # A queue that is deleted may be made again at once: with files of the same names.
            async with handle.unlinking:
                await self._committer.settle(handle)
                return await trio.to_thread.run_sync(partial(work, *args, **kwargs))
        except StorageFailed:
            # It stays away: whoever waits for it must not store and sync again, because the
            # kernel would say that all is well (A4 in storage/disk.py).
            handle.closed = True
            raise
        finally:
            handle.away = handle.closed
            changed, handle.changed = handle.changed, trio.Event()
            changed.set()
            self._waiting_for_slot.unpark()

    def names(self) -> Iterable[bytes]:
        """The names of all queues, in no order; damaged ones too."""
        return chain(self.open, self.resting, self.damaged)

    async def delete(self, handle: Handle) -> None:
        """Remove a queue and everything in it from the disk, durably.  Raises StorageFailed.

        When cancelled, either nothing was done or all of it.
        """
        with trio.CancelScope(shield=True):
            await self.hand_over(handle, self._store.delete_queue, handle.queue)
            self._drop(handle)

    async def recover(self) -> None:
        """Inspect every queue; the damaged ones are logged, and answer errors from then on.

        Raises StorageFailed.
        """
        names, unnamed = await trio.to_thread.run_sync(self._store.names)
        for error in unnamed:
            _log.error("a queue is not served: %s", error)
        batches = [names[at : at + INSPECT_BATCH] for at in range(0, len(names), INSPECT_BATCH)]
        while batches and not await self._inspect(batches.pop()):
            pass
        async with trio.open_nursery() as nursery:
            for _ in range(min(INSPECTORS, len(batches))):
                nursery.start_soon(self._inspect_all, batches)

    async def close(self) -> None:
        """Sync and close every queue, then release the directory.  Raises StorageFailed.

        No queue is opened any more: who asks for one gets trio.ClosedResourceError.
        """
        self._closing = True
        while self._opening:
            await next(iter(self._opening.values())).wait()
        limiter = trio.CapacityLimiter(CLOSERS)

        async def close_one(name: bytes) -> None:
            async with limiter:
                handle = await self.acquire(name)
                await self._shut(handle, handle.queue.close)

        async with trio.open_nursery() as nursery:
            for name in self.open:
                nursery.start_soon(close_one, name)
        self._store.close()

    async def _inspect_all(self, batches: list[list[bytes]]) -> None:
        while batches:
            await self._inspect(batches.pop())

    async def _inspect(self, names: list[bytes]) -> bool:
        """Look at some queues; whether that had to wait for the disk."""
        found, blocks_read = await trio.to_thread.run_sync(self._look_at, names)
        for name, facts in found:
            if isinstance(facts, Corrupt):
                self.damaged[name] = facts
            if isinstance(facts, LogqueueError):
                _log.error("queue %r is not served: %s", name, facts)
            else:
                self.resting[name] = facts
                for note in facts.notes:
                    _log.warning("%s", note)
        return blocks_read >= BLOCKS_READ_COLD

    def _look_at(self, names: list[bytes]) -> tuple[list[tuple[bytes, Found]], int]:
        """What the queues hold, and how many blocks were read from the disk for it.  Blocks."""
        found: list[tuple[bytes, Found]] = []
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_inblock
        for name in names:
            try:
                found.append((name, self._store.inspect(name)))
            except LogqueueError as error:
                found.append((name, error))
        return found, resource.getrusage(resource.RUSAGE_THREAD).ru_inblock - before

    async def _open(self, name: bytes, settings: QueueOptions = DEFAULT) -> None:
        if self._closing:  # the directory may be somebody else's already
            raise trio.ClosedResourceError("the store is closed")
        opened = self._opening[name] = trio.Event()
        try:
            await self._take_slot()
            try:
                queue = await self._open_or_create(name, settings)
            except BaseException:
                self._give_slot()
                raise
            self.open[name] = Handle(queue, self.tick)
            self.resting.pop(name, None)
            self._waiting_for_slot.unpark()
        except Corrupt as error:
            self.damaged[name] = error
            raise
        finally:
            del self._opening[name]
            opened.set()

    async def _open_or_create(self, name: bytes, settings: QueueOptions) -> Queue:
        if self._store.exists(name):
            return (await trio.to_thread.run_sync(self._store.open_queue, name))[0]
        count = len(self._store) + self._creating + 1
        if count > self._queues_max:
            raise LimitExceeded("number of queues (--max-queues)", count, self._queues_max)
        self._creating += 1
        try:
            return await trio.to_thread.run_sync(self._store.create_queue, name, settings)
        finally:
            self._creating -= 1

    async def _take_slot(self) -> None:
        """Wait until one more queue may be open, closing the least recently used one for it.

        Every queue that is opened, comes back, has been read ahead for or is closed wakes one
        waiter.
        """
        while not self._slots:
            # What is being read ahead for is about to be used: closing it would lose the window,
            # and queues that contend for the last slots would fetch for ever.
            idle = [h for h in self.open.values() if not h.away and h.fetched is None]
            if idle:
                # Damage that was met while running would be forgotten: such queues go last.
                handle = min(
                    idle, key=lambda h: (h.queue.damage is not None, max(h.stored, h.used))
                )
                await self._shut(handle, partial(_give_back, handle.queue))
            else:
                await self._waiting_for_slot.park()
        self._slots -= 1

    def let_go(self) -> None:
        """An open queue may be closed again for another one's sake."""
        self._waiting_for_slot.unpark()

    def _give_slot(self) -> None:
        self._slots += 1
        self._waiting_for_slot.unpark()

    async def _shut(self, handle: Handle, close: Callable[[], None]) -> None:
        await self.hand_over(handle, close)
        self.resting[handle.queue.name] = Resting.of(handle.queue)
        self._drop(handle)

    def _drop(self, handle: Handle) -> None:
        handle.closed = handle.away = True
        del self.open[handle.queue.name]
        handle.queue.delivery = None  # a cycle: what it holds would wait for the garbage collector
        self._give_slot()


def _give_back(queue: Queue) -> None:
    """Close a queue that may stay closed for long: an empty one gives its disk space back."""
    with contextlib.suppress(DiskFull, LimitExceeded):
        queue.shrink()
    queue.close()
