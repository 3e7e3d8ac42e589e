"""Every system call may fail, at any time: nothing promised is lost, and nothing leaks.

A script, or a long random workload, runs once to count what can fail.  Then it runs once for each
of these operations and each error that the kernel has for it: the error comes once, or stays.

- What `MmapDisk` calls DiskFull or LimitExceeded refuses one operation; the queue works on.
- StorageFailed and Corrupt end the process; the next one finds all that was promised, whether the
  machine went down too or not (then the cache may hold what the disk has not).
"""

from __future__ import annotations

import argparse
import errno
import os
import time
from collections.abc import Callable
from random import Random

import pytest

from logqueue.errors import Corrupt, DiskFull, LimitExceeded, StorageFailed, UsageError
from tests.crashdisk import CrashExtent
from tests.crashledger import check
from tests.crashsteps import Workload
from tests.crashsweep import SCRIPT, seeded

ERRORS: dict[str, tuple[int, ...]] = {
    "sync": (errno.EIO, errno.ENOSPC),
    "sync_directory": (errno.EIO, errno.EMFILE),
    "create": (errno.ENOSPC, errno.EMFILE, errno.EIO),
    "rename": (errno.ENOSPC, errno.EIO),
    "unlink": (errno.ENOSPC, errno.EIO),
    "open": (errno.EMFILE, errno.EIO),
    "read": (errno.EIO,),
    "make_directory": (errno.ENOSPC, errno.EIO),
}
KINDS = max(map(len, ERRORS.values()))
OPEN_FILES_MAX = 3  # of one queue at rest: active segment, cursor, the segment made ahead
REFUSED = (DiskFull, LimitExceeded, UsageError)
FATAL = (StorageFailed, Corrupt)


def refusal(operation: str, path: str, number: int) -> Exception:
    """What `MmapDisk` raises when the kernel answers `operation` with this error."""
    cause = OSError(number, os.strerror(number))
    if operation == "read":
        return Corrupt(path, 0, f"cannot be read: {cause.strerror}")
    if operation in ("sync", "sync_directory"):
        return StorageFailed(path, cause)
    if number == errno.EMFILE:
        return LimitExceeded("open files", 1025, 1024)
    if operation == "open":
        return Corrupt(path, 0, f"cannot be opened: {cause.strerror}")
    if number == errno.ENOSPC:
        return DiskFull(path, 4096, 0, 0)
    return StorageFailed(path, cause)


class Fault:
    """Fails the `nth` operation that can fail, with its error number `kind`; then, if `sticky`,
    every operation of that name, until `gone`."""

    def __init__(self, nth: int = 0, kind: int = 0, *, sticky: bool = False) -> None:
        self.count = 0
        self.operation: str | None = None
        self.gone = False
        self._nth = nth
        self._kind = kind
        self._sticky = sticky

    def __call__(self, operation: str, path: str) -> None:
        errors = ERRORS.get(operation, ())
        if not errors or self.gone:
            return
        self.count += 1
        if self.count == self._nth and self._kind < len(errors):
            self.operation = operation
            self.gone = not self._sticky
        elif operation != self.operation:
            return
        raise refusal(operation, path, errors[self._kind])


def survive(world: Workload, steps: list[str], fault: Fault, random: Random) -> None:
    """Go through the steps, in as many lives as it takes, with the fault somewhere on the way."""
    world.disk.fault = fault
    for step in steps:
        if world.store is None and step == "close":
            break
        if world.store is None and step != "start":
            _start(world, fault)
        try:
            world.do(step)
        except REFUSED:
            check(fault.operation is not None, f"{step} was refused although nothing failed")
            if world.store is not None:
                world.reconcile()
                check(len(world.disk.extents) <= OPEN_FILES_MAX, f"{step}: files left open")
            fault.gone = fault.gone or random.random() < 0.3
        except FATAL:
            check(fault.operation is not None, f"{step} failed although nothing had")
            _fall(world, random)
            fault.gone = fault.gone or random.random() < 0.5
    fault.gone = True
    if world.store is not None and random.random() < 0.5:
        world.cut_power("none")
    if world.store is None:
        world.start()
    world.put()
    world.drain()
    world.close()
    world.cut_power("none")
    world.start()
    world.close()


def _start(world: Workload, fault: Fault) -> None:
    try:
        world.start()
    except (*REFUSED, *FATAL):
        check(not world.disk.extents, "a start that failed left files open")
        fault.gone = True
        world.start()


def _fall(world: Workload, random: Random) -> None:
    """The daemon ends without another word to the disk; now and then the machine does too."""
    world.abandon()
    if random.random() < 0.5:
        world.cut_power(random.choice(("none", "mixed", "all")))


def sweep(make: Callable[[], tuple[Workload, list[str]]], seed: int, stride: int = 1) -> int:
    """Every fault in the life that `make` describes, or every `stride`th; how many there were."""
    counting = Fault()
    with seeded(seed):
        world, steps = make()
        survive(world, steps, counting, Random(seed))
    faults = 0
    for number in range(counting.count * KINDS * 2):
        nth, kind, sticky = 1 + number // (2 * KINDS), number // 2 % KINDS, bool(number % 2)
        if number % stride:
            continue
        fault = Fault(nth, kind, sticky=sticky)
        with seeded(seed):
            world, steps = make()
            try:
                survive(world, steps, fault, Random(seed + number))
            except Exception as error:
                error.add_note(f"seed {seed}, operation {nth}, error {kind}, sticky {sticky}")
                raise
        faults += fault.operation is not None
    return faults


def scripted(seed: int, *, committed_reads: bool) -> tuple[Workload, list[str]]:
    """The script of the crash sweep: put, roll, checkpoint, compaction, reset, close, start."""
    world = Workload(seed, committed_reads=committed_reads, segment_bytes_max=256 << 10)
    return world, SCRIPT.split()


def traced(seed: int, operations: int) -> tuple[Workload, list[str]]:
    """A random life in which about so many operations can fail."""
    world = Workload(seed, committed_reads=True)
    steps, counting = ["start"], Fault()
    world.disk.fault = counting
    with seeded(seed):
        world.start()
        while counting.count < operations:
            steps.append(world.choose())
            world.do(steps[-1])
    return Workload(seed, committed_reads=True), steps


def test_every_operation_of_the_script_may_fail() -> None:
    assert sweep(lambda: scripted(1, committed_reads=True), 1) > 400


def test_a_sample_may_fail_under_a_weaker_mode() -> None:
    assert sweep(lambda: scripted(1, committed_reads=False), 1, stride=5) > 60


def test_a_sample_of_a_random_life_may_fail() -> None:
    assert sweep(lambda: traced(3, 300), 3, stride=23) > 20


def test_the_sweep_catches_a_sync_that_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second fdatasync says that all is well, and the pages are lost (A4)."""
    sync = CrashExtent.sync

    def stubborn(self: CrashExtent) -> None:
        try:
            sync(self)
        except StorageFailed:
            sync(self)

    monkeypatch.setattr(CrashExtent, "sync", stubborn)
    with pytest.raises((AssertionError, Corrupt)):
        sweep(lambda: scripted(1, committed_reads=True), 1)


def main() -> None:
    """Every fault of a long trace."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    world, steps = traced(arguments.seed, arguments.operations)
    del world

    def make() -> tuple[Workload, list[str]]:
        return Workload(arguments.seed, committed_reads=True), steps

    faults = sweep(make, arguments.seed, arguments.stride)
    seconds = time.monotonic() - began
    print(f"{faults} faults in a trace of {arguments.operations} operations, {seconds:.0f} s")


if __name__ == "__main__":
    main()
