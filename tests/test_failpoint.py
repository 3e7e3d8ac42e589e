"""Every failpoint that a queue's life passes ends the process, and the next start recovers."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest

from logqueue.errors import UsageError
from logqueue.storage.disk import MmapDisk
from logqueue.storage.failpoint import around
from logqueue.storage.queue import Options
from logqueue.storage.store import Store

OPTIONS = Options(segment_bytes_max=64 << 10)
POINTS = [
    *(f"{when}-{what}" for when in ("before", "after") for what in (
        "create-segment", "write-segment", "sync-segment", "rename-segment", "unlink-segment",
        "create-cursor", "write-cursor", "sync-cursor",
        "create-meta", "write-meta", "sync-meta", "rename-meta",
        "create-format", "write-format", "sync-format", "rename-format",
        "create-directory", "sync-directory", "rename-directory", "unlink-directory",
    )),
    *(f"within-write-{what}" for what in ("segment", "cursor", "meta", "format")),
]  # fmt: skip
_processes = multiprocessing.get_context("forkserver")


def live(directory: Path, point: str | None) -> None:
    """The whole life of a queue: made, filled, rolled, consumed, compacted, reset, closed."""
    store = Store.open(around(MmapDisk(), point), str(directory), OPTIONS)
    queue = store.open_queue(b"q")[0] if store.exists(b"q") else store.create_queue(b"q")
    for n in range(100):
        queue.put(b"%d" % n * 1000)
        queue.sync()
        queue.get()
    queue.free(queue.consumed)
    queue.reset()
    queue.close()
    store.close()


@pytest.mark.parametrize("point", POINTS)
def test_the_process_dies_there_and_the_next_one_recovers(tmp_path: Path, point: str) -> None:
    if point.endswith("unlink-directory"):  # what a crash leaves of a queue that was being made
        live(tmp_path, None)
        (tmp_path / "queues" / "left.tmp").mkdir()
    child = _processes.Process(target=live, args=(tmp_path, point))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    live(tmp_path, None)


def test_the_nth_time(tmp_path: Path) -> None:
    child = _processes.Process(target=live, args=(tmp_path, "after-sync-segment:50"))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    store = Store.open(MmapDisk(), str(tmp_path), OPTIONS)
    queue, _ = store.open_queue(b"q")
    assert 40 < queue.log.last < 60
    queue.close()
    store.close()


@pytest.mark.parametrize(
    "spelled",
    ["x", "within-sync-segment", "before-write-segment:0", "before-write", "before-write-x"],
)
def test_what_is_no_failpoint_is_refused(spelled: str) -> None:
    with pytest.raises(UsageError, match="LOGQUEUE_FAILPOINT"):
        around(MmapDisk(), spelled)


def test_no_failpoint_costs_nothing() -> None:
    disk = MmapDisk()
    assert around(disk, None) is disk
    assert around(disk, "") is disk
