"""The storage alone: microseconds a record for append, get, view and scan.  No HTTP, no syncs.

`python -m tools.bench_storage` prints the table.  The median of blocks is what a record costs; the
mean adds the rolls from segment to segment, and whatever disturbed the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from logqueue.storage.disk import MmapDisk
from logqueue.storage.layout import directory_name
from logqueue.storage.opening import create_queue
from logqueue.storage.queue import Options, Queue
from logqueue.storage.recovery import inspect

BLOCK = 1000  # records between two looks at the clock
SIZES = (100, 1024)
RECORDS = 200_000
VIEWS = 5_000  # each reads an index and some 64 KiB
NAME = b"bench"
SCANS = 5
STRIDE = 7919  # a prime: views jump


class Cost(NamedTuple):
    """Microseconds a record."""

    median_us: float
    mean_us: float


Costs = dict[str, Cost]


def measure(directory: Path, size: int, records: int = RECORDS) -> Costs:
    """append, get, view and scan of `records` messages of `size` bytes in a new queue."""
    payload = b"m" * size
    with TemporaryDirectory(dir=directory) as root:
        queue = _create(root)
        try:
            costs = {"append": _time(lambda _: queue.put(payload), records)}
            queue.sync()
            costs["get"] = _time(lambda _: queue.get(), records)
            assert queue.consumed == records
            costs["view"] = _time(lambda number: queue.view(number * STRIDE % records + 1), VIEWS)
        finally:
            queue.close(clean=False)
    with TemporaryDirectory(dir=directory) as root:
        queue = _create(root)
        _time(lambda _: queue.put(payload), records)
        queue.close(clean=False)
        costs["scan"] = _scan(root)
    return costs


def _create(root: str) -> Queue:
    return create_queue(MmapDisk(), str(Path(root) / directory_name(NAME)), NAME, Options())


def _time(operation: Callable[[int], object], records: int) -> Cost:
    blocks_s = []
    for first in range(0, records, BLOCK):
        began = time.perf_counter()
        for number in range(first, first + BLOCK):
            operation(number)
        blocks_s.append(time.perf_counter() - began)
    return Cost(statistics.median(blocks_s) / BLOCK * 1e6, sum(blocks_s) / records * 1e6)


def _scan(root: str) -> Cost:
    """What a start after a crash costs for each record of the newest segment, from the disk."""
    path = str(Path(root) / directory_name(NAME))
    taken_us = []
    for _ in range(SCANS):
        began = time.perf_counter()
        report = inspect(MmapDisk(), path)
        taken_s = time.perf_counter() - began
        assert not report.damage
        assert report.tail is not None
        taken_us.append(taken_s / (report.tail.last - report.tail.header.base + 1) * 1e6)
    return Cost(statistics.median(taken_us), statistics.fmean(taken_us))


def table(costs: dict[int, Costs]) -> str:
    """For people; Markdown."""
    lines = ["| us a record | " + " | ".join(f"{size} B | mean" for size in costs) + " |"]
    lines.append("|---" * (1 + 2 * len(costs)) + "|")
    for operation in next(iter(costs.values())):
        found = [each[operation] for each in costs.values()]
        cells = [f"{cost.median_us:.2f} | {cost.mean_us:.2f}" for cost in found]
        lines.append(f"| {operation} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure both sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    parser.add_argument("--records", type=int, default=RECORDS)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    print(table({size: measure(given.directory, size, given.records) for size in SIZES}))


if __name__ == "__main__":
    main()
