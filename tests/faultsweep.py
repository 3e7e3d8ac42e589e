"""Every system call may fail, at any time: `python -m tests.faultsweep --help`.

A script, or a long random workload, runs once; at each operation that may fail the process forks
for each error that the kernel has for it, which comes once, or stays.

- What `MmapDisk` calls DiskFull or LimitExceeded refuses one operation; the queue works on.
- StorageFailed and Corrupt end the process; the next one finds all that was promised, whether the
  machine went down too or not (then the cache may hold what the disk has not).
"""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Protocol

from logqueue.errors import Corrupt, DiskFull, LimitExceeded, StorageFailed, UsageError
from logqueue.storage.store import Store
from tests.crashdisk import CrashDisk
from tests.crashfile import Mood
from tests.crashleases import LeaseWork
from tests.crashledger import check
from tests.crashsteps import Workload
from tests.crashsweep import SCRIPT, seeded

ERRORS: dict[str, tuple[int, ...]] = {
    "sync": (errno.EIO, errno.ENOSPC),
    "sync_directory": (errno.EIO,),
    "open_directory": (errno.EMFILE, errno.EIO),
    "create": (errno.ENOSPC, errno.EMFILE, errno.EIO),
    "rename": (errno.ENOSPC, errno.EIO),
    "unlink": (errno.ENOSPC, errno.EIO),
    "open": (errno.EMFILE, errno.EIO),
    "list": (errno.EMFILE, errno.EIO),
    "lock": (errno.EMFILE,),
    "read": (errno.EIO,),
    "make_directory": (errno.ENOSPC, errno.EIO),
}
KINDS = max(map(len, ERRORS.values()))
STEPS_AFTER = 40  # steps that a life goes on for after a fault, at most
REFUSED = (DiskFull, LimitExceeded, UsageError)
FATAL = (StorageFailed, Corrupt)
Branch = Callable[[int, str], "tuple[int, bool] | None"]


def refusal(operation: str, path: str, number: int) -> Exception:
    """What `MmapDisk` raises when the kernel answers `operation` with this error."""
    cause = OSError(number, os.strerror(number))
    if operation == "read" or (operation == "list" and number == errno.EIO):
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


class Survivor(Protocol):
    """A world of the crash disk that can be led through failures."""

    disk: CrashDisk
    store: Store | None
    files_max: int  # open at rest

    def start(self) -> None:
        """Recover, and hold what is there against what was promised."""

    def choose(self) -> str:
        """The name of the next random step."""

    def do(self, step: str) -> None:
        """The step of this name."""

    def reconcile(self) -> None:
        """A step was refused: take over what it has done all the same."""

    def abandon(self) -> None:
        """The disk has failed: give everything back without a word to it."""

    def cut_power(self, mood: Mood) -> None:
        """Pull the plug."""

    def finish(self) -> None:
        """Work once more, consume everything, close in good order."""


class Fault:
    """Where the run may branch: at each operation that can fail, `branch` is asked with its number
    and name which error to raise (an index into ERRORS, and whether it stays), or None."""

    def __init__(self, branch: Branch = lambda number, operation: None) -> None:
        self.count = 0
        self.operation: str | None = None  # what has failed
        self.gone = False
        self._branch = branch
        self._kind = 0
        self._sticky = False

    def __call__(self, operation: str, path: str) -> None:
        errors = ERRORS.get(operation, ())
        if not errors or self.gone:
            return
        if self.operation is None:
            self.count += 1
            chosen = self._branch(self.count, operation)
            if chosen is None:
                return
            self.operation, (self._kind, self._sticky) = operation, chosen
            self.gone = not self._sticky
        elif operation != self.operation:
            return
        raise refusal(operation, path, errors[self._kind])


def survive(world: Survivor, steps: Iterable[str], fault: Fault, random: Random) -> None:
    """Go through the steps, in as many lives as it takes, with the fault somewhere on the way;
    STEPS_AFTER of them at most come after it."""
    world.disk.fault = fault
    left = random.randrange(STEPS_AFTER)
    for step in steps:
        left -= fault.operation is not None
        if left < 0 or (world.store is None and step == "close"):
            break
        _go(world, step, fault, random)
    fault.gone = True
    if world.store is not None and random.random() < 0.5:
        world.cut_power("none")
    if world.store is None:
        world.start()
    world.finish()
    world.cut_power("none")
    world.start()
    world.finish()


def _go(world: Survivor, step: str, fault: Fault, random: Random) -> None:
    """One step, in a new life if there must be one."""
    if world.store is None and step != "start":
        _start(world, fault)
    try:
        world.do(step)
    except REFUSED:
        check(fault.operation is not None, f"{step} was refused although nothing failed")
        if world.store is not None:
            world.reconcile()
            check(len(world.disk.extents) <= world.files_max, f"{step}: files left open")
        fault.gone = fault.gone or random.random() < 0.3
    except FATAL:
        check(fault.operation is not None, f"{step} failed although nothing had")
        _fall(world, random)
        fault.gone = fault.gone or random.random() < 0.5


def _start(world: Survivor, fault: Fault) -> None:
    try:
        world.start()
    except (*REFUSED, *FATAL):
        check(not world.disk.extents, "a start that failed left files open")
        fault.gone = True
        world.start()


def _fall(world: Survivor, random: Random) -> None:
    """The daemon ends without another word to the disk; now and then the machine does too."""
    world.abandon()
    if random.random() < 0.5:
        world.cut_power(random.choice(("none", "mixed", "all")))


class Branches:
    """Forks the process at each operation that can fail, once for each way of failing, so that a
    trace of N operations costs N times one fault and not N times the trace.

    The parent goes on as if nothing had been; `fork` is None in it, and in a child says which
    fault it is.  Only `first` to `last` fork, of these every `stride`th way.
    """

    def __init__(self, seed: int, stride: int = 1, first: int = 1, last: int = 1 << 60) -> None:
        self.forked = 0
        self.random = Random(seed)
        self.fork: str | None = None
        self.seed = seed
        self._stride = stride
        self._range = range(first, last + 1)
        self._running: set[int] = set()

    def __call__(self, number: int, operation: str) -> tuple[int, bool] | None:
        if number not in self._range:
            return None
        for kind, sticky in itertools.product(range(len(ERRORS[operation])), (False, True)):
            way = (number * KINDS + kind) * 2 + sticky
            if way % self._stride == 0 and self._forks():
                error = errno.errorcode[ERRORS[operation][kind]]
                self.fork = f"{operation} {number}: {error}{', for good' if sticky else ''}"
                self.random.seed(self.seed + way)
                return kind, sticky
        return None

    def _forks(self) -> bool:
        """Whether this is the child."""
        if len(self._running) >= (os.cpu_count() or 1):
            self._reap()
        child = os.fork()
        if child:
            self.forked += 1
            self._running.add(child)
        else:
            self._running.clear()
        return not child

    def _reap(self) -> None:
        child, status = os.wait()
        self._running.discard(child)
        check(status == 0, f"process {child} has reported a promise that was broken")

    def join(self) -> None:
        """Wait for all that are left.  Raises AssertionError when one has failed."""
        while self._running:
            self._reap()


def sweep(make: Callable[[], tuple[Survivor, Iterable[str]]], branches: Branches) -> int:
    """Every fault in the life that `make` describes; how many there were.

    A child reports on stderr.  Raises AssertionError.
    """
    fault, seed = Fault(branches), branches.seed
    try:
        with seeded(seed):
            survive(*make(), fault, branches.random)
    except BaseException:
        if branches.fork is None:
            raise
        sys.stderr.write(f"seed {seed}, {branches.fork}\n{traceback.format_exc()}")
        sys.stderr.flush()
        os._exit(1)
    if branches.fork is not None:
        os._exit(0)
    branches.join()
    return branches.forked


def scripted(seed: int, *, committed_reads: bool) -> tuple[Survivor, Iterable[str]]:
    """The script of the crash sweep: put, roll, checkpoint, compaction, reset, close, start."""
    world = Workload(seed, committed_reads=committed_reads, segment_bytes_max=256 << 10)
    return world, SCRIPT.split()


def traced(seed: int, operations: int, *, leasing: bool = False) -> tuple[Survivor, Iterable[str]]:
    """A random life in which about so many operations can fail; some are under a weaker mode."""
    always = seed % 3 != 0
    world: Survivor = (LeaseWork if leasing else Workload)(seed, committed_reads=always)

    def steps() -> Iterator[str]:
        yield "start"
        fault = world.disk.fault
        assert isinstance(fault, Fault)
        while fault.count < operations or fault.operation is not None:
            yield world.choose()

    return world, steps()


def main() -> None:
    """Every fault of a long trace."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leases", action="store_true", help="a life of leases, dead letters")
    parser.add_argument("--first", type=int, default=1, help="the first operation that fails")
    parser.add_argument("--last", type=int, default=1 << 60, help="the last one")
    arguments = parser.parse_args()
    began, seed = time.monotonic(), arguments.seed
    branches = Branches(seed, arguments.stride, arguments.first, arguments.last)
    try:
        faults = sweep(
            lambda: traced(seed, arguments.operations, leasing=arguments.leases), branches
        )
    except AssertionError as error:
        sys.exit(f"seed {seed}: {error}")
    seconds = time.monotonic() - began
    print(
        f"{faults} faults in a trace of {arguments.operations} operations"
        f"{' with leases' if arguments.leases else ''}, seed {seed}, "
        f"{seconds:.0f} s: nothing promised was lost, nothing leaked"
    )


if __name__ == "__main__":
    main()
