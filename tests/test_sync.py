"""Group commit with syncs that are slow, fail or break: who is woken by which, and by none."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from logqueue.commit import Committer, Group
from logqueue.errors import StorageFailed
from logqueue.storage.queue import Queue
from logqueue.storage.sync import Sync
from tests.queues import create, drain, reopened


class Gate:
    """Holds every sync until a test lets it through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.runs = 0
        original = Sync.run

        def run(sync: Sync) -> None:
            self.begun.release()
            self.allowed.acquire()
            self.runs += 1
            original(sync)

        monkeypatch.setattr(Sync, "run", run)

    async def wait_begun(self) -> None:
        await trio.to_thread.run_sync(self.begun.acquire)


@contextlib.asynccontextmanager
async def committing(tmp_path: Path) -> AsyncIterator[tuple[Committer, Group]]:
    queue = create(tmp_path)
    try:
        async with trio.open_nursery() as nursery:
            committer = Committer()
            await nursery.start(committer.run)
            yield committer, Group(queue)
            nursery.cancel_scope.cancel()
    finally:
        queue.close(clean=False)


async def put(committer: Committer, group: Group, payload: bytes, done: list[bytes]) -> None:
    assert group.queue.put(payload) is not None
    await committer.commit(group)
    done.append(payload)


async def test_a_put_beside_a_running_sync_waits_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    done: list[bytes] = []
    async with committing(tmp_path) as (committer, group), trio.open_nursery() as nursery:
        nursery.start_soon(put, committer, group, b"first", done)
        await gate.wait_begun()
        nursery.start_soon(put, committer, group, b"beside", done)
        await trio.testing.wait_all_tasks_blocked()
        gate.allowed.release()
        await gate.wait_begun()  # of the second sync: the first one is over
        await trio.testing.wait_all_tasks_blocked()
        assert done == [b"first"]
        assert group.queue.durable == 1
        gate.allowed.release()
    assert done == [b"first", b"beside"]
    assert gate.runs == 2


async def test_many_puts_share_few_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    gate.allowed.release(10_000)
    done: list[bytes] = []
    async with committing(tmp_path) as (committer, group), trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(put, committer, group, b"%d" % number, done)
    assert len(done) == 200
    assert gate.runs <= 2
    with reopened(tmp_path) as queue:
        assert sorted(drain(queue)) == sorted(done)


async def test_a_commit_of_nothing_returns(tmp_path: Path) -> None:
    async with committing(tmp_path) as (committer, group):
        with trio.fail_after(5):
            await committer.commit(group)


@pytest.mark.parametrize("when", ["waiting", "covered"])
async def test_a_cancelled_commit_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    gate = Gate(monkeypatch)
    done: list[bytes] = []
    async with committing(tmp_path) as (committer, group), trio.open_nursery() as nursery:
        if when == "waiting":
            nursery.start_soon(put, committer, group, b"ahead", done)
            await gate.wait_begun()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(put, committer, group, b"cancelled", done)
                await trio.testing.wait_all_tasks_blocked()
                if when == "covered":
                    await gate.wait_begun()
                scope.cancel()
        nursery.start_soon(put, committer, group, b"behind", done)
        gate.allowed.release(10)
    assert done == [b"ahead", b"behind"][when == "covered" :]
    with reopened(tmp_path) as queue:
        assert drain(queue)[-2:] == [b"cancelled", b"behind"]  # stored, though nobody was told


async def test_a_failed_sync_ends_the_run_and_wakes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    done: list[bytes] = []

    async def puts() -> None:
        async with committing(tmp_path) as (committer, group), trio.open_nursery() as nursery:
            monkeypatch.setattr(os, "fdatasync", failing)
            for number in range(5):
                nursery.start_soon(put, committer, group, b"%d" % number, done)

    with pytest.raises(ExceptionGroup) as failure:
        await puts()
    assert failure.group_contains(StorageFailed, match="the disk did not take what was written")
    assert done == []
    assert calls == 1  # no retry: the kernel would say that all is well


async def test_a_bug_in_a_sync_thread_is_loud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for a thread that is gone."""

    def broken(sync: Sync) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with committing(tmp_path) as (committer, group):
            monkeypatch.setattr(Sync, "run", broken)
            group.queue.put(b"x")
            with trio.fail_after(5):
                await committer.commit(group)

    with pytest.raises(trio.TrioInternalError) as error:
        await trio.to_thread.run_sync(trio.run, main)
    cause = error.value.__cause__
    while isinstance(cause, BaseExceptionGroup):
        (cause,) = cause.exceptions
    assert isinstance(cause, ZeroDivisionError)


async def test_settle_waits_for_what_runs_and_what_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    settled = trio.Event()

    async def settle(committer: Committer, group: Group) -> None:
        await committer.settle(group)
        settled.set()

    async with committing(tmp_path) as (committer, group), trio.open_nursery() as nursery:
        await committer.settle(group)
        group.queue.put(b"x")
        committer.request(group)
        nursery.start_soon(settle, committer, group)
        await gate.wait_begun()
        await trio.testing.wait_all_tasks_blocked()
        assert not settled.is_set()
        gate.allowed.release(5)
    assert settled.is_set()
    assert not group.running
    assert not group.wanted


async def test_queues_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow sync of one queue holds back only that queue."""
    held: list[Queue] = []
    gate = threading.Event()
    original = Sync.run

    def run(sync: Sync) -> None:
        if sync.segment is held[0].log.active.extent:
            gate.wait()
        original(sync)

    monkeypatch.setattr(Sync, "run", run)
    other = create(tmp_path, name=b"other")
    done: list[bytes] = []
    async with committing(tmp_path) as (committer, group), trio.open_nursery() as nursery:
        held.append(group.queue)
        nursery.start_soon(put, committer, group, b"slow", done)
        await put(committer, Group(other), b"fast", done)
        assert done == [b"fast"]
        gate.set()
    other.close(clean=False)
