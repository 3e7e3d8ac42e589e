"""A daemon under mixed load for as long as you like, watched from outside, audited to the message.

    python -m tools.soak --minutes 30

Worker processes own queues: each knows exactly what every of its queues holds, checks each answer
against that, and drains them at the end, so that not one message can be lost, doubled, altered or
out of order unseen.  Few queues are busy, the others are used now and then, and far fewer may be
open than there are; segments are small.  So the daemon rolls, compacts, opens and closes queues all
the time; a hot backup is taken every minute.

Meanwhile anonymous memory, descriptors, maps, disk and stalls of the event loop are sampled.  The
exit status is 0 when everything held.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from logqueue.backup import backup
from logqueue.config import DESCRIPTORS_PER_QUEUE
from logqueue.storage.disk import MmapDisk
from logqueue.storage.recovery import inspect
from tests.daemon import Daemon
from tools.pipeline import Pipeline, request
from tools.soak_load import QUEUES, WORKERS, Broken, work
from tools.years import disk_bytes

OPEN_MAX = 60
SEGMENT_BYTES = 256 << 10
ARGUMENTS = ["--max-open-queues", str(OPEN_MAX), "--segment-bytes", str(SEGMENT_BYTES)]
BACKUP_EVERY_S = 60.0
SAMPLE_S = 0.5
IN_FLIGHT = 10  # descriptors and maps that come and go: a roll, a view, a read-ahead, a thread
IDLE_DISK_BYTES = 192 << 10  # what an empty and idle queue may keep that was leased from
SETTLE_S = 60.0  # in which it must have come down to that

# A server process is forked once, early and without threads, and forks the workers.
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Sample:
    """The daemon at one moment."""

    anonymous_bytes: int
    descriptors: int
    maps: int
    disk_bytes: int
    stall_s: float  # how long the event loop took to answer


class Watch:
    """Samples a daemon; takes a backup now and then."""

    def __init__(self, daemon: Daemon, connection: Pipeline) -> None:
        self.samples: list[Sample] = []
        self.backups = 0
        self._daemon = daemon
        self._connection = connection
        self._backup_due = time.monotonic()

    def sample(self) -> None:
        """Look once, from outside.  Raises Broken when a backup is damaged."""
        process = Path(f"/proc/{self._daemon.pid}")
        status = (process / "status").read_text()
        anonymous = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        began = time.perf_counter()
        self._connection.ask([request("nobody", "status")])  # no queue: only the loop answers
        stall_s = time.perf_counter() - began
        descriptors = len(os.listdir(process / "fd"))
        maps = (process / "maps").read_text().count("\n")
        disk = disk_bytes(self._daemon.data)
        kib = int(anonymous.split()[1])
        self.samples.append(Sample(kib * 1024, descriptors, maps, disk, stall_s))
        if time.monotonic() >= self._backup_due:
            self._back_up()
            self._backup_due = time.monotonic() + BACKUP_EVERY_S

    def _back_up(self) -> None:
        copy = self._daemon.directory / "backup"
        damage = backup(str(self._daemon.data), str(copy))
        for queue in (copy / "queues").iterdir():
            damage += [str(each) for each in inspect(MmapDisk(), str(queue)).damage]
        if damage:
            raise Broken(f"a damaged backup: {damage}")
        shutil.rmtree(copy)
        self.backups += 1


def soak(directory: Path, seconds: float, seed: int) -> None:
    """Run it all in `directory`, which must be empty; prints figures.  Raises Broken."""
    with Daemon(directory, ARGUMENTS) as daemon:
        daemon.start()
        with Pipeline(daemon.port) as connection:
            watch = Watch(daemon, connection)
            messages = _load(daemon, watch, seconds, seed)
        print(f"{messages:,} messages put and got, {watch.backups} backups")
        judge(watch.samples)
        if seconds > SETTLE_S:
            _wait_for_disk(daemon)
        if status := daemon.stop():
            raise Broken(f"exit status {status}")
        if "ERROR" in daemon.log or "Traceback" in daemon.log:
            raise Broken(f"errors were logged: {daemon.log}")


def _load(daemon: Daemon, watch: Watch, seconds: float, seed: int) -> int:
    stop, results = _CONTEXT.Event(), _CONTEXT.Queue()
    workers = [
        _CONTEXT.Process(target=work, args=(daemon.port, number, seed, stop, results))
        for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end and results.empty():  # a result before the end is bad news
            watch.sample()
            time.sleep(SAMPLE_S)
        stop.set()
        found = [results.get(timeout=300) for _ in workers]
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    failed = [each for each in found if isinstance(each, str)]
    if failed:
        raise Broken("; ".join(failed))
    return sum(each for each in found if isinstance(each, int))


def judge(samples: Sequence[Sample]) -> None:
    """Print the figures and compare the end with the time after the start.  Raises Broken."""
    tenth = max(1, len(samples) // 10)
    first, last = samples[tenth : 3 * tenth] or samples[:1], samples[-2 * tenth :]

    def grown(of: Callable[[Sample], int]) -> float:
        return statistics.median(map(of, last)) - statistics.median(map(of, first))

    memory = grown(lambda each: each.anonymous_bytes)
    more = max(grown(lambda each: each.descriptors), grown(lambda each: each.maps))
    descriptors = max(each.descriptors for each in samples)
    maps, maps_first = max(each.maps for each in samples), max(each.maps for each in first)
    stalls = sorted(each.stall_s for each in samples)
    print(f"RssAnon {last[-1].anonymous_bytes / 1e6:.1f} MB, growth {memory / 1e6:+.2f} MB")
    print(f"descriptors at most {descriptors}, growth {grown(lambda each: each.descriptors):+.0f}")
    print(f"maps at most {maps}, growth {grown(lambda each: each.maps):+.0f} (early {maps_first})")
    print(f"disk at most {max(each.disk_bytes for each in samples) / 1e6:.0f} MB")
    print(
        f"loop answered in {stalls[len(stalls) // 2] * 1e3:.1f} ms (median), "
        f"{stalls[-1] * 1e3:.1f} ms (worst of {len(stalls)})"
    )
    is_long = len(samples) > 1000  # a short run ends before caches are filled
    if memory > (2e6 if is_long else 16e6):
        raise Broken(f"anonymous memory grew by {memory / 1e6:.1f} MB")
    if is_long and more > IN_FLIGHT:
        raise Broken(f"descriptors or maps grew by {more:.0f}")
    if descriptors > DESCRIPTORS_PER_QUEUE * OPEN_MAX + 100:
        raise Broken(f"{descriptors} descriptors for {OPEN_MAX} open queues")
    if maps > 3 * OPEN_MAX + 500:
        raise Broken(f"{maps} maps for {OPEN_MAX} open queues")


def _wait_for_disk(daemon: Daemon) -> None:
    """All queues are empty: their disk space must come back while nobody uses them."""
    end = time.monotonic() + SETTLE_S
    while (found := disk_bytes(daemon.data)) > QUEUES * IDLE_DISK_BYTES:
        if time.monotonic() > end:
            raise Broken(f"{found / QUEUES / 1024:.0f} KiB a queue are still taken")
        time.sleep(SAMPLE_S)
    print(f"disk when idle {found / QUEUES / 1024:.1f} KiB a queue")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="an empty one; a temporary one otherwise")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak") as temporary:
        try:
            soak(given.directory or Path(temporary), given.minutes * 60, given.seed)
        except Broken as error:
            print(f"broken: {error}")
            return 1
    print("held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
