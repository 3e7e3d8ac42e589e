"""Nothing acknowledged is lost, whatever crashes where; and the proof can fail.

The sweeps are those of `make crash`, cut short.  Each control takes one rule out of the storage
and must be caught by the same sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from logqueue.errors import Corrupt
from logqueue.storage import opening, recovery, store
from logqueue.storage.cursor import Cursor
from logqueue.storage.disk import Extent
from logqueue.storage.format import Ring
from logqueue.storage.log import Log
from logqueue.storage.queue import Queue
from logqueue.storage.sync import Sync
from logqueue.storage.tail import Tail, scan_tail
from tests.crashdisk import CrashDisk
from tests.crashextent import CrashExtent
from tests.crashsteps import Workload
from tests.crashsweep import chains, die, every_operation, seeded

CUTS_CHAINED = 6600
CUTS_TO_CATCH = 8000  # within so many the sweep must have caught any of the controls


@pytest.mark.parametrize("committed_reads", [True, False], ids=["always", "weaker"])
def test_a_crash_at_every_operation_keeps_every_promise(committed_reads: bool) -> None:
    assert every_operation(1, committed_reads=committed_reads, stride=10) > 1700


@pytest.mark.parametrize("seed", [1_000_000, 2_000_000])
def test_chains_of_random_crashes_keep_every_promise(seed: int) -> None:
    chains(seed, CUTS_CHAINED // 2)


def test_one_seed_is_one_run() -> None:
    def content() -> dict[str, bytes]:
        world = Workload(5, committed_reads=True)
        world.start()
        for _ in range(40):
            world.step()
        world.cut_power("mixed")
        return {path: bytes(file.live) for path, file in world.disk.files().items()}

    with seeded(5):
        first = content()
    with seeded(5):
        assert content() == first


# ---------------------------------------------------------------- what the sweeps have found


def test_a_killed_start_and_a_killed_roll_leave_no_name_in_the_cache_only() -> None:
    """A kill between rename and directory sync; what is put after it must survive a power cut."""
    world = Workload(1, committed_reads=True)
    for at in range(1, 25):
        die(world, at, "before", world.start)
        world.kill()
    world.start()
    for renamed in (1, 4, 5, 6):
        die(world, renamed, "after", world.roll)
        world.kill()
        world.start()
        world.put()
        world.sync()
        world.cut_power("none")
        world.start()


def test_a_reset_that_a_crash_cut_short_goes_on_with_the_next_record() -> None:
    """The ring was reset and the cursor was not: its place is that of an older record."""
    world = Workload(1, committed_reads=True)
    world.start()
    for _ in range(3):
        world.put_some()
    world.sync()
    world.get()
    world.sync()
    assert die(world, 7, "before", world.reset)
    world.kill()
    world.start()
    assert world.ledger.got == world.ledger.put, "died too early for this test"
    world.put_some()
    world.sync()
    world.kill()
    world.start()
    world.drain()


def test_a_close_keeps_the_gets_since_a_clean_start() -> None:
    world = Workload(1, committed_reads=True)
    world.start()
    world.put_some()
    world.restart()
    world.get()
    world.close()
    world.cut_power("none")
    world.start()
    assert world.ledger.got == 1


def test_a_ring_does_not_shrink_past_a_reader_that_a_crash_took_back() -> None:
    """Puts went into the room of gets that a power cut then took back: the reader is a lap
    behind, and a new ring that began on the writer's lap would skip what is between them."""
    world = Workload(1, committed_reads=True)
    world.start()
    queue = world.queue
    assert queue.set_maxqueue(10)
    for number in range(10):
        queue.put(b"%d" % number)
    queue.sync()
    for _ in range(9):
        queue.get()
    for number in range(10, 18):
        queue.put(b"%d" % number)
    sync = queue.begin_sync()
    assert sync is not None
    assert sync.segment is not None
    sync.segment.sync()
    world.cut_power("none")
    world.ledger.created, world.ledger.put = True, 18
    world.ledger.payloads = {each: b"%d" % (each - 1) for each in range(1, 19)}
    world.ledger.rings = [Ring(0, 0, 10)]
    world.start()
    assert (world.queue.log.last, world.queue.consumed) == (18, 0)
    assert not world.queue.set_maxqueue(100)
    world.restart()
    assert [world.queue.get() for _ in range(18)] == [
        (each % 10 + 1, b"%d" % each) for each in range(18)
    ]


def test_settings_change_although_the_ring_could_not() -> None:
    """The writer is a lap ahead: another size is refused, and nothing else is."""
    world = Workload(1, committed_reads=True)
    world.start()
    queue = world.queue
    assert queue.set_maxqueue(10)
    for _ in range(10):
        queue.put(b"x")
    queue.sync()
    assert [queue.get() for _ in range(2)] == [(1, b"x"), (2, b"x")]
    assert queue.put(b"x") == 1
    assert not queue.configure(replace(queue.settings, max_length=20))
    assert queue.configure(replace(queue.settings, paused=True))
    assert queue.get() is None


# ---------------------------------------------------------------- controls: each must be caught


def sync_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CrashExtent, "sync", lambda self: None)


def sync_no_directory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CrashDisk, "sync_directory", lambda self, path: None)


def acknowledge_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sync, "run", lambda self: None)


def acknowledge_what_came_during_the_sync(patch: pytest.MonkeyPatch) -> None:
    finish = Queue.finish_sync

    def late(self: Queue, sync: Sync) -> None:
        finish(self, sync._replace(last=self.log.last, end=self.log.end))

    patch.setattr(Queue, "finish_sync", late)


def append_behind_a_tear(patch: pytest.MonkeyPatch) -> None:
    def believing(*arguments: Any) -> Tail:
        return replace(scan_tail(*arguments), appendable=True)

    patch.setattr(recovery, "scan_tail", believing)


def recover_from_the_page_cache(patch: pytest.MonkeyPatch) -> None:
    def unsynced(extent: Extent, *arguments: Any) -> Tail:
        class Unsynced(CrashExtent):
            def sync(self) -> None:
                pass

        extent.__class__ = Unsynced
        return scan_tail(extent, *arguments)

    patch.setattr(recovery, "scan_tail", unsynced)


def trust_the_names_that_are_there(patch: pytest.MonkeyPatch) -> None:
    recover, sync_directory = opening.open_queue, CrashDisk.sync_directory

    def trusting(*arguments: Any) -> Any:
        synced: list[str] = []

        def all_but_the_first(self: CrashDisk, path: str) -> None:
            if synced:
                sync_directory(self, path)
            synced.append(path)

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(CrashDisk, "sync_directory", all_but_the_first)
            return recover(*arguments)

    patch.setattr(store, "open_queue", trusting)


def unlink_before_the_checkpoint(patch: pytest.MonkeyPatch) -> None:
    def hasty(self: Queue, before: int) -> int:
        removal = self.log.detach_before(min(before, self.consumed + 1))
        removal.run()
        return removal.size

    patch.setattr(Queue, "free", hasty)


def publish_a_segment_before_its_predecessor_is_synced(patch: pytest.MonkeyPatch) -> None:
    roll = Log.roll

    def hasty(self: Log, length: int = 0, **options: Any) -> None:
        class Unsynced(CrashExtent):
            def sync(self) -> None:
                pass

        self.active.extent.__class__ = Unsynced
        roll(self, length, **options)

    patch.setattr(Log, "roll", hasty)


def forget_the_cursor(patch: pytest.MonkeyPatch) -> None:
    begin = Cursor.begin_sync

    def nothing(self: Cursor) -> None:
        begin(self)
        self.finish_sync()

    patch.setattr(Cursor, "begin_sync", nothing)


def serve_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    create = Queue.__init__

    def hasty(self: Queue, *arguments: Any) -> None:
        create(self, *arguments)
        self._committed_reads = False

    patch.setattr(Queue, "__init__", hasty)


def call_everything_proved(patch: pytest.MonkeyPatch) -> None:
    append = Log.append

    def without_lag(self: Log, payload: bytes, durable: int, flags: int = 0) -> int:
        return append(self, payload, self.last, flags)

    patch.setattr(Log, "append", without_lag)


@pytest.mark.parametrize(
    "sabotage",
    [
        sync_nothing,
        sync_no_directory,
        acknowledge_before_the_sync,
        acknowledge_what_came_during_the_sync,
        append_behind_a_tear,
        recover_from_the_page_cache,
        trust_the_names_that_are_there,
        unlink_before_the_checkpoint,
        publish_a_segment_before_its_predecessor_is_synced,
        forget_the_cursor,
        serve_what_is_not_durable,
        call_everything_proved,
    ],
    ids=lambda each: each.__name__,
)
def test_the_sweep_catches(
    sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    with pytest.raises((AssertionError, Corrupt)) as caught:
        chains(3_000_000, CUTS_TO_CATCH)
    assert "reproduce with: make crash KIND=queue SEED=" in caught.value.__notes__[0]
