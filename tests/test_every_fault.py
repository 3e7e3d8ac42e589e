"""Every system call may fail, at any time: nothing promised is lost, and nothing leaks."""

from __future__ import annotations

import errno

import pytest

from logqueue.errors import StorageFailed
from logqueue.storage.layout import CURSOR
from tests.crashextent import CrashExtent
from tests.crashsteps import Workload
from tests.faultsweep import Branches, refusal, scripted, sweep, traced


def test_every_operation_of_the_script_may_fail() -> None:
    assert sweep(lambda: scripted(1, committed_reads=True), Branches(1)) > 400


def test_a_sample_may_fail_under_a_weaker_mode() -> None:
    assert sweep(lambda: scripted(1, committed_reads=False), Branches(1, stride=5)) > 60


def test_a_sample_of_a_random_life_may_fail() -> None:
    assert sweep(lambda: traced(4, 300), Branches(4, stride=13)) > 40


@pytest.mark.parametrize("closing", [False, True], ids=["syncing", "closing"])
def test_a_cursor_that_a_failed_sync_has_lost_is_not_read_from_the_cache(closing: bool) -> None:
    """A start after the failure goes on from what the disk has, not from what the cache says."""
    world = Workload(1, committed_reads=True)
    world.start()
    for _ in range(3):
        world.put_some()
    world.sync()
    world.get()
    world.sync()
    world.get()

    def failing(operation: str, path: str) -> None:
        if operation == "sync" and path.endswith(CURSOR):
            raise refusal(operation, path, errno.EIO)

    world.disk.fault = failing
    world.disk.random.seed(2)  # a write-back of which nothing arrives
    with pytest.raises(StorageFailed):
        world.close() if closing else world.sync()
    world.disk.fault = None
    world.abandon()
    world.start()
    found = world.queue.consumed
    world.cut_power("none")
    world.start()
    assert world.queue.consumed == found


def test_a_sample_of_a_life_with_leases_may_fail() -> None:
    assert sweep(lambda: traced(4, 300, leasing=True), Branches(4, stride=13)) > 40
    assert sweep(lambda: traced(3, 300, leasing=True), Branches(3, stride=13)) > 40


def test_the_sweep_catches_a_sync_that_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second fdatasync says that all is well, and the pages are lost (A4)."""
    sync = CrashExtent.sync

    def stubborn(self: CrashExtent) -> None:
        try:
            sync(self)
        except StorageFailed:
            sync(self)

    monkeypatch.setattr(CrashExtent, "sync", stubborn)
    with pytest.raises(AssertionError, match="a promise that was broken"):
        sweep(lambda: scripted(1, committed_reads=True), Branches(1))
    assert "seed 1, sync " in capfd.readouterr().err
