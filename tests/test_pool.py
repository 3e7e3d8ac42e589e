"""Many queues, few of them open: the LRU, its bounds, recovery, closing, and giving space back."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from logqueue.chores import AGE_CHECK_MS, IDLE_TICKS, STEP_BYTES, Chores
from logqueue.commit import Committer
from logqueue.config import DESCRIPTORS_PER_QUEUE, Config
from logqueue.errors import Corrupt, LimitExceeded, UsageError
from logqueue.handle import Handle
from logqueue.options import QueueOptions
from logqueue.pool import Pool
from logqueue.storage.acks import ACKS_BYTES_MIN
from logqueue.storage.compactor import Usage
from logqueue.storage.delivery import SKIPS_MAX
from logqueue.storage.disk import MmapDisk
from logqueue.storage.format import SEGMENT_BYTES_MIN
from logqueue.storage.layout import directory_name, segment_name
from logqueue.storage.queue import Options
from logqueue.storage.reader import Cold
from logqueue.storage.store import Store
from logqueue.storage.token import Outcome

HOUR_MS = 3_600_000


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


class World:
    """A store with its pool and chores; the chores run when a test says so."""

    def __init__(self, store: Store, committer: Committer, config: Config, clock: Clock) -> None:
        self.pool = Pool(
            store, committer, open_max=config.queues_open_max, queues_max=config.queues_max
        )
        self.chores = Chores(self.pool, committer, config, clock)
        self.committer = committer
        self.clock = clock

    async def put(self, name: bytes, payload: bytes) -> Handle:
        while True:
            handle = await self.pool.acquire(name)
            if handle.queue.fits(len(payload)):
                break
            await self.pool.hand_over(handle, handle.queue.roll, len(payload))
        assert handle.queue.put(payload) is not None
        self.chores.stored(handle)
        await self.committer.commit(handle)
        return handle

    async def take_all(self, name: bytes) -> list[bytes]:
        taken = []
        handle = await self.pool.acquire(name)
        while (got := handle.queue.get()) is not None:
            taken.append(got[1])
        self.chores.stored(handle)
        await self.committer.commit(handle)
        return taken

    def usage(self, name: bytes) -> Usage:
        facts = self.pool.facts(name)
        assert facts is not None
        return self.chores.usage(facts)

    async def round(self, ticks: int = 4) -> None:
        self.pool.tick += ticks
        while await self.chores.compact_all():
            pass


@contextlib.asynccontextmanager
async def world(
    path: Path, *, close: bool = True, disk: MmapDisk | None = None, **settings: object
) -> AsyncIterator[World]:
    clock = Clock()
    config = Config(str(path), **settings)  # type: ignore[arg-type]
    options = Options(clock=clock, segment_bytes_max=config.segment_bytes_max)
    store = Store.open(disk or MmapDisk(), str(path), options)
    async with trio.open_nursery() as nursery:
        committer = Committer()
        await nursery.start(committer.run)
        it = World(store, committer, config, clock)
        await it.pool.recover()
        yield it
        if close:
            await it.pool.close()
        else:  # as kill -9 does
            for handle in it.pool.open.values():
                handle.queue.close(clean=False)
            store.close()
        nursery.cancel_scope.cancel()


def segments(path: Path, name: bytes) -> list[Path]:
    return sorted((path / "queues" / directory_name(name)).glob("*.log"))


def names(count: int) -> Iterator[bytes]:
    return (b"q%d" % number for number in range(count))


async def test_queues_beyond_the_limit_are_closed_least_recently_used_first(tmp_path: Path) -> None:
    async with world(tmp_path, queues_open_max=3) as it:
        for number, name in enumerate(names(10)):
            it.pool.tick = number
            await it.put(name, b"m of " + name)
            assert len(it.pool.open) <= 3
        assert set(it.pool.open) == {b"q7", b"q8", b"q9"}
        it.pool.tick = 10
        await it.pool.acquire(b"q7")
        it.pool.tick = 11
        await it.pool.acquire(b"q0")
        assert set(it.pool.open) == {b"q7", b"q9", b"q0"}
        for name in names(10):
            assert await it.take_all(name) == [b"m of " + name]


async def test_a_hundred_tasks_share_two_open_queues(tmp_path: Path) -> None:
    async with world(tmp_path, queues_open_max=2) as it:

        async def use(name: bytes) -> None:
            for number in range(5):
                await it.put(name, b"%d" % number)
                assert len(it.pool.open) <= 2

        async with trio.open_nursery() as nursery:
            for name in names(20):
                for _ in range(5):
                    nursery.start_soon(use, name)
        for name in names(20):
            assert len(await it.take_all(name)) == 25


async def test_a_cancelled_wait_for_an_open_queue_wedges_nobody(tmp_path: Path) -> None:
    async with world(tmp_path, queues_open_max=1) as it:
        async with trio.open_nursery() as nursery:
            for name in names(30):
                nursery.start_soon(it.put, name, b"m")
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            for name in names(30):
                await it.put(name, b"again")
        assert len(it.pool.open) == 1


async def test_descriptors_do_not_grow_with_the_number_of_queues(tmp_path: Path) -> None:
    async with world(tmp_path, queues_open_max=4) as it:
        for name in names(4):
            await it.put(name, b"m")
        before = len(os.listdir("/proc/self/fd"))
        for name in names(60):
            await it.put(name, b"m")
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_creation_stops_at_the_limit_and_what_exists_is_served(tmp_path: Path) -> None:
    async with world(tmp_path, queues_max=3) as it:
        for name in names(3):
            await it.put(name, b"m")
        with pytest.raises(LimitExceeded, match=r"--max-queues.*4 exceeds the maximum of 3"):
            await it.put(b"one too many", b"m")
        assert not it.pool.exists(b"one too many")
        await it.put(b"q0", b"m")
    async with world(tmp_path, queues_max=1) as it:
        assert [await it.take_all(name) for name in names(3)] == [[b"m", b"m"], [b"m"], [b"m"]]


async def test_the_limit_holds_for_queues_that_are_created_at_once(tmp_path: Path) -> None:
    refused = []
    async with world(tmp_path, queues_max=5) as it:

        async def create(name: bytes) -> None:
            try:
                await it.put(name, b"m")
            except LimitExceeded:
                refused.append(name)

        async with trio.open_nursery() as nursery:
            for name in names(20):
                nursery.start_soon(create, name)
        assert len(it.pool) == 5
    assert len(refused) == 15


@pytest.mark.parametrize("clean", [True, False])
async def test_recovery_knows_every_queue_and_opens_none(tmp_path: Path, clean: bool) -> None:
    async with world(tmp_path, close=clean) as it:
        for number, name in enumerate(names(70)):
            for _ in range(number % 3):
                await it.put(name, b"m")
        await it.put(b"", b"the empty name")
        await it.put(b"\xff" * 256, b"a long one")
    async with world(tmp_path) as it:
        assert not it.pool.open
        unread = {name: facts.positions.unread for name, facts in it.pool.resting.items()}
        expected = {name: number % 3 for number, name in enumerate(names(70)) if number % 3}
        assert unread == {**expected, b"": 1, b"\xff" * 256: 1}
        assert await it.take_all(b"\xff" * 256) == [b"a long one"]


async def test_a_damaged_queue_keeps_no_other_from_being_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as it:
        for name in names(3):
            await it.put(name, b"m")
        await it.put(b"\xff" * 256, b"its name stands in its meta file only")
    os.unlink(tmp_path / "queues" / "q1" / "cursor")
    (tmp_path / "queues" / directory_name(b"\xff" * 256) / "meta").write_bytes(b"")
    async with world(tmp_path) as it:
        assert "q1/cursor: offset 0: the file is missing" in caplog.text
        assert "inside the meta header" in caplog.text
        for damaged in (b"q1", b"\xff" * 256):
            assert it.pool.exists(damaged)
            with pytest.raises(Corrupt):
                await it.pool.acquire(damaged)
        assert await it.take_all(b"q2") == [b"m"]


async def test_consumed_segments_go_while_the_queue_is_in_use(tmp_path: Path) -> None:
    async with world(tmp_path, segment_bytes_max=SEGMENT_BYTES_MIN) as it:
        for _ in range(30):
            await it.put(b"q", bytes(10_000))
        assert len(segments(tmp_path, b"q")) == 15
        for _ in range(21):
            (await it.pool.acquire(b"q")).queue.get()
        await it.round()
        assert len(segments(tmp_path, b"q")) == 5
        assert len(await it.take_all(b"q")) == 9
        await it.round()
        assert len(segments(tmp_path, b"q")) == 1


class SlowDisk(MmapDisk):
    """The first segment to be unlinked is so once `goes_on` is set; `waits` tells that it is to
    be."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on, self.waits = threading.Event(), threading.Event()

    def unlink(self, path: str) -> None:
        if path.endswith(".log") and not self.waits.is_set():
            self.waits.set()
            assert self.goes_on.wait(60)
        super().unlink(path)


async def test_a_deleted_queue_takes_no_file_of_its_successor_along(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with world(tmp_path, disk=disk) as it, trio.open_nursery() as nursery:
        await it.put(b"q", bytes(20_000))
        await it.put(b"q", bytes(20_000))
        await it.take_all(b"q")
        handle = await it.pool.acquire(b"q")
        nursery.start_soon(it.chores.compact, handle)
        await trio.to_thread.run_sync(disk.waits.wait)

        async def replace() -> None:
            await it.pool.delete(handle)
            await it.put(b"q", b"new")

        nursery.start_soon(replace)
        await wait_all_tasks_blocked(0.1)
        disk.goes_on.set()
    assert [path.name for path in segments(tmp_path, b"q")] == [segment_name(1)]
    async with world(tmp_path) as it:
        assert await it.take_all(b"q") == [b"new"]


async def test_nothing_goes_before_the_checkpoint_is_durable(tmp_path: Path) -> None:
    async with world(tmp_path, segment_bytes_max=SEGMENT_BYTES_MIN) as it:
        for _ in range(4):
            handle = await it.put(b"q", bytes(10_000))
        for _ in range(4):
            handle.queue.get()
        assert handle.queue.release(100).paths == []
        await it.committer.commit(handle)
        assert len(handle.queue.release(100).paths) == 1


async def test_an_empty_idle_queue_gives_up_its_grown_segment(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        for _ in range(20):
            await it.put(b"q", bytes(100_000))
        await it.take_all(b"q")
        await it.round()
        [grown] = segments(tmp_path, b"q")
        assert grown.stat().st_size > SEGMENT_BYTES_MIN
        await it.round(IDLE_TICKS)
        [small] = segments(tmp_path, b"q")
        assert small.stat().st_size == SEGMENT_BYTES_MIN
        assert (await it.put(b"q", b"goes on")).queue.log.last == 21
        assert await it.take_all(b"q") == [b"goes on"]


async def test_a_queue_that_is_closed_for_others_gives_up_its_grown_segment(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, queues_open_max=1) as it:
        for _ in range(5):
            await it.put(b"q", bytes(100_000))
        await it.take_all(b"q")
        await it.put(b"other", b"m")
        assert set(it.pool.open) == {b"other"}
        await it.round()  # notes that there is something to do for it
        await it.round()
        assert sum(path.stat().st_size for path in segments(tmp_path, b"q")) == SEGMENT_BYTES_MIN


async def test_what_a_crash_left_behind_is_freed_after_the_start(tmp_path: Path) -> None:
    async with world(tmp_path, close=False) as it:
        for _ in range(20):
            await it.put(b"q", bytes(100_000))
        await it.take_all(b"q")
        await it.put(b"other", b"m")
    assert sum(path.stat().st_size for path in segments(tmp_path, b"q")) > 2_000_000
    async with world(tmp_path) as it:
        it.chores.note_leftovers()
        await it.round(IDLE_TICKS)
        await it.round(IDLE_TICKS)
        assert sum(path.stat().st_size for path in segments(tmp_path, b"q")) == SEGMENT_BYTES_MIN
        assert b"other" not in it.pool.open


async def test_retained_seconds_hold_for_a_queue_that_nobody_uses(tmp_path: Path) -> None:
    size = SEGMENT_BYTES_MIN
    async with world(
        tmp_path, queues_open_max=1, retain_seconds=3600, segment_bytes_max=size
    ) as it:
        for number in range(5):
            await it.put(b"q", bytes([number]) * 20_000)
        await it.take_all(b"q")
        await it.round(IDLE_TICKS)
        assert (await it.pool.acquire(b"q")).queue.view(1) == bytes(20_000)
        usage = it.usage(b"q")
        assert (usage.consumed, usage.retained) == (0, 4 * SEGMENT_BYTES_MIN)
        await it.put(b"other", b"m")
        assert it.usage(b"q") == usage
        await it.round(IDLE_TICKS)
        it.clock.now_ms += HOUR_MS
        await it.round()
        assert len(segments(tmp_path, b"q")) == 5
        it.clock.now_ms += 1
        assert it.usage(b"q").consumed == 4 * SEGMENT_BYTES_MIN
        await it.round()
        assert len(segments(tmp_path, b"q")) == 1
        assert (await it.pool.acquire(b"q")).queue.view(1) is None


async def test_a_reset_frees_everything_whatever_is_retained(tmp_path: Path) -> None:
    size = SEGMENT_BYTES_MIN
    async with world(tmp_path, retain_bytes=1 << 40, segment_bytes_max=size) as it:
        for _ in range(30):
            handle = await it.put(b"q", bytes(10_000))
        await it.pool.hand_over(handle, handle.queue.reset)
        it.chores.stored(handle)
        assert it.usage(b"q") == (size, 15 * size, 0)
        await it.round()
        assert [path.name for path in segments(tmp_path, b"q")] == [segment_name(31)]
        assert it.usage(b"q") == (size, 0, 0)
        await it.put(b"q", b"m")
        assert await it.take_all(b"q") == [b"m"]


async def test_freeing_goes_in_steps_and_queues_take_turns(tmp_path: Path) -> None:
    async with world(tmp_path, segment_bytes_max=STEP_BYTES) as it:
        for name in names(2):
            for _ in range(40):
                await it.put(name, bytes(1 << 20))
            await it.take_all(name)
        assert await it.chores.compact_all()
        left = [sum(path.stat().st_size for path in segments(tmp_path, n)) for n in names(2)]
        assert max(left) - min(left) <= STEP_BYTES
        await it.round()
        assert [len(segments(tmp_path, name)) for name in names(2)] == [1, 1]


@pytest.mark.parametrize(
    ("descriptors", "queues", "connections"),
    [(20_000, 1000, 10_000), (1024, 53, 642), (128, 4, 62), (64, 2, 31)],
)
def test_a_limit_of_descriptors_is_shared_out(
    descriptors: int, queues: int, connections: int
) -> None:
    fitting = Config("x").within(descriptors)
    assert (fitting.queues_open_max, fitting.connections_max) == (queues, connections)
    reserved = min(64, descriptors // 3)
    assert reserved + queues * DESCRIPTORS_PER_QUEUE + connections <= descriptors


async def test_a_queue_that_was_leased_from_costs_what_is_budgeted(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.put(b"other", b"m")
        before = len(os.listdir("/proc/self/fd"))
        handle = await it.put(b"q", b"m")
        handle.queue.deliver().make_room(0)
        assert len(os.listdir("/proc/self/fd")) - before == DESCRIPTORS_PER_QUEUE


def test_too_few_descriptors_are_refused() -> None:
    with pytest.raises(UsageError, match="63 open files are too few"):
        Config("x").within(63)


async def aging(it: World, count: int = 30) -> Handle:
    """A queue of messages that are too old after an hour; small segments are half full each."""
    handle = await it.pool.acquire(b"q")
    await it.pool.hand_over(handle, handle.queue.configure, QueueOptions(max_age_s=3600))
    for _ in range(count):
        handle = await it.put(b"q", bytes(10_000))
    return handle


async def test_what_is_too_old_is_freed_though_nobody_reads(tmp_path: Path) -> None:
    async with world(tmp_path, segment_bytes_max=2 * SEGMENT_BYTES_MIN) as it:
        handle = await aging(it)
        it.clock.now_ms += HOUR_MS // 2
        await it.put(b"q", b"young")
        it.clock.now_ms += HOUR_MS // 2
        await it.round()
        assert handle.queue.positions.unread == 31
        it.clock.now_ms += 1
        await it.round()
        assert handle.queue.positions.unread == 1
        assert len(segments(tmp_path, b"q")) == 1
        await it.round(IDLE_TICKS)
        it.clock.now_ms += HOUR_MS // 2
        await it.round(IDLE_TICKS)
        assert handle.queue.positions.unread == 0
        [small] = segments(tmp_path, b"q")
        assert small.stat().st_size == SEGMENT_BYTES_MIN
        assert handle.queue.delivery is not None
        assert handle.queue.delivery.expired == 31


async def test_a_message_that_is_leased_outlives_its_age(tmp_path: Path) -> None:
    async with world(tmp_path, segment_bytes_max=SEGMENT_BYTES_MIN) as it:
        handle = await aging(it, 1)
        delivery = handle.queue.deliver()
        delivery.make_room(0)
        (leased,) = delivery.receive(1, 10**9, 1 << 20)
        for _ in range(4):
            await it.put(b"q", bytes(10_000))
        it.clock.now_ms += HOUR_MS + 1
        await it.round()
        assert handle.queue.positions.unread == 1
        assert delivery.acknowledge([delivery.tokens.make(leased.frame.sequence, 1)]) == [
            Outcome.DONE
        ]
        await it.round()
        assert handle.queue.positions.unread == 0
        assert len(segments(tmp_path, b"q")) == 1


@pytest.mark.parametrize("how", ["restart", "closed for others"])
async def test_what_is_too_old_is_freed_in_a_queue_that_is_not_open(
    tmp_path: Path, how: str
) -> None:
    async with world(tmp_path, queues_open_max=1, segment_bytes_max=SEGMENT_BYTES_MIN) as it:
        await aging(it)
        if how == "restart":
            it.clock.now_ms += HOUR_MS + 1
        else:
            await it.put(b"other", b"m")
            await it.round(IDLE_TICKS)
            assert b"q" in it.pool.resting
            it.clock.now_ms += HOUR_MS + AGE_CHECK_MS
            await it.round(IDLE_TICKS)
            await it.round(IDLE_TICKS)
            assert len(segments(tmp_path, b"q")) == 1
    clock = it.clock
    async with world(tmp_path, segment_bytes_max=SEGMENT_BYTES_MIN) as it:
        it.clock.now_ms = clock.now_ms
        it.chores.note_leftovers()
        await it.round(IDLE_TICKS)
        assert len(segments(tmp_path, b"q")) == 1
        facts = it.pool.facts(b"q")
        assert facts is not None
        assert facts.positions.unread == 0


async def test_many_messages_too_old_are_consumed_without_reading_them(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, segment_bytes_max=SEGMENT_BYTES_MIN) as it:
        handle = await aging(it)
        for path in segments(tmp_path, b"q")[:-1]:  # nobody will read them
            os.truncate(path, 0)
        it.clock.now_ms += HOUR_MS + 1
        await it.round()
        assert handle.queue.damage is None
        assert handle.queue.positions.unread == 0
        assert len(segments(tmp_path, b"q")) == 1


async def test_read_ahead_is_given_back_when_the_queue_is_idle(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        for _ in range(3):
            await it.put(b"q", b"m")
    async with world(tmp_path) as it:
        handle = await it.pool.acquire(b"q")
        assert handle.queue.get() == (1, b"m")  # reads ahead
        it.chores.stored(handle)
        await it.round()
        assert handle.queue.get_nowait() == (2, b"m")
        await it.round(IDLE_TICKS)
        with pytest.raises(Cold):
            handle.queue.get_nowait()


@pytest.mark.parametrize("how", ["open", "closed for others", "restart"])
async def test_an_idle_queue_gives_up_its_grown_acknowledgement_log(
    tmp_path: Path, how: str
) -> None:
    async with world(tmp_path, queues_open_max=1, close=how != "restart") as it:
        handle = await it.put(b"q", b"m")
        delivery = handle.queue.deliver()
        for size in (0, 10 * ACKS_BYTES_MIN, 20 * ACKS_BYTES_MIN):  # then the spare has grown too
            delivery.make_room(size)
        (leased,) = delivery.receive(1, 10**9, 1 << 20)
        await it.round(IDLE_TICKS)
        sizes = [path.stat().st_size for path in (tmp_path / "queues" / "q").glob("*.ack")]
        assert len(sizes) == 2
        assert min(sizes) >= 10 * ACKS_BYTES_MIN
        delivery.acknowledge([delivery.tokens.make(leased.frame.sequence, 1)])
        it.chores.stored(handle)
        await it.committer.commit(handle)
        if how == "closed for others":
            await it.put(b"other", b"m")
        if how != "restart":
            await it.round(IDLE_TICKS)
    if how == "restart":
        async with world(tmp_path) as it:
            it.chores.note_leftovers()
            await it.round(IDLE_TICKS)
            await it.round(IDLE_TICKS)
    files = (tmp_path / "queues" / "q").glob("*.ack")
    assert [path.stat().st_size for path in files] == [ACKS_BYTES_MIN] * 2
    async with world(tmp_path) as it:
        assert await it.take_all(b"q") == []


async def test_a_closed_queue_holds_no_memory_until_the_garbage_collector_comes(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, queues_open_max=1) as it:
        handle = await it.put(b"q", b"m")
        handle.queue.deliver().make_room(0)
        await it.put(b"other", b"m")
        gc.collect()
        gc.disable()
        try:
            handle = await it.pool.acquire(b"q")  # by way of its acknowledgement log
            closed = weakref.ref(handle.queue.deliver())
            await it.put(b"other", b"m")
            assert closed() is None
        finally:
            gc.enable()


async def test_expiry_lets_others_work_between_its_slices(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        handle = await aging(it, 1)
        for _ in range(20):
            handle.queue.put_batch([b"m"] * SKIPS_MAX)
        await it.committer.commit(handle)
        it.chores.stored(handle)
        it.clock.now_ms += HOUR_MS + 1
        delivery = handle.queue.deliver()
        seen = set()

        async def others() -> None:
            while True:
                seen.add(delivery.expired)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            while await it.chores.compact_all():
                pass
            nursery.cancel_scope.cancel()
        assert delivery.expired == 20 * SKIPS_MAX + 1
        assert len(seen) >= 5  # what was not sealed is read, some thousands of records
