"""`LocalQueues`: many tasks on few queues, cancelled and closed at any point."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from logqueue.commit import Committer
from logqueue.config import Config
from logqueue.errors import Corrupt, StorageFailed
from logqueue.local import LocalQueues
from logqueue.storage.disk import MmapDisk
from logqueue.storage.layout import directory_name, segment_name
from logqueue.storage.queue import Options
from logqueue.storage.store import Store
from logqueue.web.queues import Status
from tests.queues import flip

SEGMENT_BYTES = 64 << 10


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[LocalQueues]:
    """The store as the daemon opens and closes it, unless the test has closed it already."""
    config = Config(str(path), segment_bytes_max=SEGMENT_BYTES)
    store = Store.open(MmapDisk(), str(path), Options(segment_bytes_max=SEGMENT_BYTES))
    async with trio.open_nursery() as nursery:
        committer = Committer()
        await nursery.start(committer.run)
        queues = LocalQueues(store, committer, config)
        await queues.recover()
        yield queues
        await queues.close()
        nursery.cancel_scope.cancel()


async def take_all(queues: LocalQueues, name: bytes) -> list[bytes]:
    taken = []
    while (got := await queues.get(name)) is not None:
        taken.append(got[1])
    return taken


async def test_concurrent_first_puts_make_one_queue(tmp_path: Path) -> None:
    positions = []

    async def put(queues: LocalQueues, number: int) -> None:
        positions.append(await queues.put(b"new", b"%d" % number))

    async with serving(tmp_path) as queues:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(put, queues, number)
        assert sorted(each for each in positions if each) == [*range(1, 51)]
        assert await queues.status(b"new") == Status(1_000_000, 50, 1, 0, 1, 50)
        assert sorted(await take_all(queues, b"new")) == sorted(b"%d" % n for n in range(50))
    assert os.listdir(tmp_path / "queues") == ["new"]


async def test_puts_across_many_rolls_keep_each_producers_order(tmp_path: Path) -> None:
    async def produce(queues: LocalQueues, producer: int) -> None:
        for number in range(30):
            assert await queues.put(b"q", (b"%d %d " % (producer, number)).ljust(5000))

    async with serving(tmp_path) as queues:
        async with trio.open_nursery() as nursery:
            for producer in range(6):
                nursery.start_soon(produce, queues, producer)
        taken = [tuple(map(int, each.split())) for each in await take_all(queues, b"q")]
    assert len(taken) == 180
    for producer in range(6):
        assert [number for each, number in taken if each == producer] == [*range(30)]


async def test_everything_else_waits_while_a_worker_owns_the_queue(tmp_path: Path) -> None:
    """Resets, new sizes, rolls, puts, gets and views at once: nobody is lost or wedged."""
    answered = 0

    async def call(operation: Callable[[], Awaitable[object]]) -> None:
        nonlocal answered
        await operation()
        answered += 1

    async with serving(tmp_path) as queues:
        for number in range(20):
            await queues.put(b"q", b"%d" % number * 2000)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for turn in range(120):
                    operations: list[Callable[[], Awaitable[object]]] = [
                        lambda: queues.put(b"q", b"x" * 9000),
                        lambda: queues.get(b"q"),
                        lambda: queues.view(b"q", 1),
                        lambda: queues.status(b"q"),
                        lambda: queues.set_maxqueue(b"q", 500),
                        lambda: queues.reset(b"q"),
                    ]
                    kind = 5 if turn % 40 == 39 else turn % 5
                    nursery.start_soon(call, operations[kind])
        assert answered == 120
        await queues.reset(b"q")
        assert await queues.put(b"q", b"first") == 1
        assert await queues.get(b"q") == (1, b"first")


@pytest.mark.parametrize("operation", ["put", "put that rolls", "first put", "get", "cold get"])
async def test_cancellation_at_every_step_leaves_a_queue_that_works(
    tmp_path: Path, operation: str
) -> None:
    """What a cancelled put stored is there or not, as a whole; nothing else changes."""
    tried: list[bytes] = []
    for steps in range(12):
        name = b"q%d" % steps if operation == "first put" else b"q"
        payload = b"%d " % steps * (8000 if operation == "put that rolls" else 2)
        async with serving(tmp_path) as queues:
            if operation in ("put", "put that rolls", "get"):
                await queues.put(name, b"before")
                tried.append(b"before")
            with trio.CancelScope() as scope:

                async def cancel_after(count: int, scope: trio.CancelScope = scope) -> None:
                    for _ in range(count):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, steps)
                    if "put" in operation:
                        tried.append(payload)
                        await queues.put(name, payload)
                    else:
                        await queues.get(name)
            with trio.fail_after(20):
                await queues.put(name, b"after")
                tried.append(b"after")
                if operation == "first put":
                    taken = await take_all(queues, name)
                    assert taken in ([b"after"], [payload, b"after"])
    if operation != "first put":
        async with serving(tmp_path) as queues:
            taken = await take_all(queues, b"q")
        rest = iter(tried)
        assert all(each in rest for each in taken)  # in order, nothing twice, nothing invented
        assert taken.count(b"after") == 12 if "put" in operation else b"after" in taken


async def test_closing_while_puts_are_in_flight(tmp_path: Path) -> None:
    """Whoever was answered is in the queue; the others are refused, and nothing is reopened."""
    answered, refused = [], 0

    async def produce(queues: LocalQueues, producer: int) -> None:
        nonlocal refused
        try:
            for number in range(10_000):
                payload = b"%d %d" % (producer, number)
                await queues.put(b"q%d" % (producer % 3), payload)
                answered.append(payload)
        except trio.ClosedResourceError:
            refused += 1

    async with trio.open_nursery() as nursery, serving(tmp_path) as queues:
        for producer in range(9):
            nursery.start_soon(produce, queues, producer)
        while len(answered) < 50:
            await trio.lowlevel.checkpoint()
    assert refused == 9
    async with serving(tmp_path) as again:  # the lock is free
        taken = [each for name in (b"q0", b"q1", b"q2") for each in await take_all(again, name)]
    assert set(answered) <= set(taken)
    assert len(taken) == len(set(taken))
    with pytest.raises(trio.ClosedResourceError):
        await queues.put(b"q0", b"too late")


async def test_a_failed_sync_in_a_worker_wakes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A roll whose sync failed, and puts that wait for the queue to come back: none is answered,
    although the kernel says of every later sync that all is well."""
    answered: list[bytes] = []
    real, calls = os.fdatasync, 0

    def once(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    async def put(queues: LocalQueues, payload: bytes) -> None:
        with trio.CancelScope(shield=True):  # as a handler that takes its time
            with trio.move_on_after(1):
                await queues.put(b"q", payload)
                answered.append(payload)

    async def puts() -> None:
        async with serving(tmp_path) as queues:
            await queues.put(b"q", b"x" * 20_000)
            monkeypatch.setattr(os, "fdatasync", once)
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(put, queues, b"%d" % number * 9000)

    with pytest.raises(ExceptionGroup) as failure:
        await puts()
    assert failure.group_contains(StorageFailed)
    assert answered == []


async def test_damage_stops_one_queue_and_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as queues:
        for name in (b"bad", b"good"):
            await queues.put(name, b"payload")
    flip(tmp_path / "queues" / directory_name(b"bad") / segment_name(1), 4096 + 33)
    async with serving(tmp_path) as queues:
        for _ in range(2):
            with pytest.raises(Corrupt):
                await queues.get(b"bad")
            with pytest.raises(Corrupt):
                await queues.put(b"bad", b"more")
        assert await queues.get(b"good") == (1, b"payload")
        await queues.reset(b"bad")  # gives up what it held
        assert await queues.put(b"bad", b"fresh") == 1
        assert await queues.get(b"bad") == (1, b"fresh")
