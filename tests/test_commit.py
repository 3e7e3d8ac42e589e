"""Group commit over a real queue: who is called, when, and how many syncs that takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from logqueue.commit import Committer, Group
from logqueue.errors import StorageFailed
from logqueue.storage.disk import MmapDisk
from logqueue.storage.opening import create_queue
from logqueue.storage.queue import Options, Queue
from logqueue.storage.sync import Sync


class Counted(Queue):
    """Counts its syncs."""

    syncs = 0

    def begin_sync(self) -> Sync | None:
        self.syncs += 1
        return super().begin_sync()


@asynccontextmanager
async def committing(directory: Path) -> AsyncIterator[tuple[Committer, Group, Counted]]:
    queue = create_queue(MmapDisk(), str(directory / "q"), b"q", Options())
    queue.__class__ = Counted
    assert isinstance(queue, Counted)
    try:
        async with trio.open_nursery() as nursery:
            committer = Committer()
            await nursery.start(committer.run)
            yield committer, Group(queue), queue
            nursery.cancel_scope.cancel()
    finally:
        queue.close()


async def test_everyone_is_called_once_when_what_he_did_is_durable(tmp_path: Path) -> None:
    async with committing(tmp_path) as (committer, group, queue):
        called: list[int] = []
        finished = trio.Event()

        def done(sequence: int) -> None:
            assert queue.durable >= sequence
            called.append(sequence)
            if len(called) == 100:
                finished.set()

        for _ in range(100):
            sequence = queue.put(b"m")
            assert sequence is not None
            committer.when_durable(group, partial(done, sequence))
        assert not called
        await finished.wait()
        assert called == list(range(1, 101))
        assert queue.syncs == 2  # the first one's, and one for all who came meanwhile


async def test_who_is_called_may_put_and_wait_again(tmp_path: Path) -> None:
    async with committing(tmp_path) as (committer, group, queue):
        finished = trio.Event()

        def again() -> None:
            assert queue.durable == queue.log.last
            if queue.durable == 20:
                finished.set()
                return
            queue.put(b"m")
            committer.when_durable(group, again)

        committer.when_durable(group, again)
        await finished.wait()
        await committer.settle(group)
        assert queue.durable == 20
        assert queue.syncs == 21  # one for each, and one that found nothing to do


async def test_producers_fall_into_step(tmp_path: Path) -> None:
    async with committing(tmp_path) as (committer, group, queue):
        finished = trio.Event()

        def again(left: int) -> None:
            if left == 0:
                if queue.durable == 500:
                    finished.set()
                return
            queue.put(b"m")
            committer.when_durable(group, partial(again, left - 1))

        for _ in range(10):
            again(50)
        await finished.wait()
        assert queue.syncs <= 52


async def test_a_sync_that_runs_covers_nothing_that_came_after_it_began(tmp_path: Path) -> None:
    async with committing(tmp_path) as (committer, group, queue):
        order: list[str] = []
        queue.put(b"first")
        committer.when_durable(group, lambda: order.append(f"first {queue.durable}"))
        while not group.running:
            await trio.lowlevel.checkpoint()
        queue.put(b"second")
        committer.when_durable(group, lambda: order.append(f"second {queue.durable}"))
        await committer.commit(group)
        assert order == ["first 1", "second 2"]
        assert queue.syncs == 2


async def test_a_cancelled_waiter_is_not_woken(tmp_path: Path) -> None:
    async with committing(tmp_path) as (committer, group, queue):
        queue.put(b"m")
        with trio.move_on_after(0):
            await committer.commit(group)
            raise AssertionError("not cancelled")
        assert not group.waiting
        await committer.commit(group)
        assert queue.durable == 1


async def test_a_caller_that_meets_failed_storage_ends_the_committer(tmp_path: Path) -> None:
    def failing() -> None:
        raise StorageFailed("/disk", OSError(5, "Input/output error"))

    with pytest.RaisesGroup(StorageFailed):
        async with committing(tmp_path) as (committer, group, queue):
            queue.put(b"m")
            committer.when_durable(group, failing)
            await trio.sleep_forever()
