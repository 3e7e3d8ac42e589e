"""Power cuts under load, over and over: `--durability always` must keep what it acknowledged.

    python -m tools.powercut --rounds 1000 --seed 1

Each round mounts a small ext4 of its own, starts the real daemon on it and lets producers and
consumers loose.  Then random pages are written back early, the file system is shut down without a
log flush (`tools.loopdisk`), the daemon is killed, and the next mount replays the journal.  The
clients' journals, which live elsewhere, are held against the promises (`tools.ledger`).  Half of
the cuts happen on files whose pages were written before.

The negative control runs the same with fdatasync and fsync stubbed out by strace, and must be
caught: otherwise these cuts prove nothing.
"""

from __future__ import annotations

import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.clients import Load
from tools.ledger import Broken
from tools.loopdisk import EXTENTS, PREWRITTEN, LoopDisk, missing
from tools.torture import ARGUMENTS, Torture, arguments

DISK_BYTES = 512 << 20
STORAGE_FAILED = 74  # the daemon may notice before it is killed
DRAIN_EVERY = 20  # cuts, before what nobody has consumed yet fills the disk
CUT_S = 0.4  # the longest load before a cut
EARLY = 0.1  # of the cuts hit the start: recovery after a recovery
NO_SYNC = ("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e",
           "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:retval=0")  # fmt: skip


class PowerCuts:
    """Cuts on one disk under one data directory.  Raises Broken, with the log."""

    def __init__(self, directory: Path, disk: LoopDisk, seed: int) -> None:
        self.torture = Torture(directory)
        self._disk = disk
        self._chance = random.Random(seed)
        self._seed = seed

    def cut(self) -> None:
        """Start, load, cut, verify."""
        self.live_and_die("always")
        self.torture.verify(crashed=True)

    def live_and_die(self, durability: str) -> None:
        """Start, load, cut; the disk is mounted again."""
        chance, daemon, crew = self._chance, self.torture.daemon, self.torture.crew
        early = chance.random() < EARLY
        daemon.arguments = [*ARGUMENTS, "--durability", durability]
        daemon.launch()
        if not early:
            if not daemon.wait_ready():
                raise Broken(f"it did not start again ({daemon.wait()}): {daemon.log}")
            crew.start(daemon.port, Load(pipelined=chance.choice((1, 4, 16)), seed=self._seed))
        daemon.ends_within(chance.uniform(0, 0.3 if early else CUT_S))
        self._disk.write_back(chance, pages=chance.choice((0, 5, 40)))
        if "ERROR" in daemon.log or "Traceback" in daemon.log:
            raise Broken(f"damage was reported where there was none: {daemon.log}")
        self._disk.cut()
        status = daemon.stop(signal.SIGKILL)
        if status not in (-signal.SIGKILL, STORAGE_FAILED):
            raise Broken(f"the daemon ended with status {status}: {daemon.log}")
        self._disk.unmount()
        self._disk.mount("commit=1")

    def settle(self) -> None:
        """Drain the queues and settle the account."""
        self.torture.daemon.prefix = []
        self.torture.drain()


def run(
    directory: Path,
    seed: int,
    rounds: int,
    report: Callable[[str], None],
    features: tuple[str, ...],
    until: float = math.inf,
) -> None:
    """All cuts on one kind of disk, or those begun before `until` (monotonic), and the drain.

    Raises Broken.
    """
    with LoopDisk(directory / "disk", directory / "data", DISK_BYTES, features) as disk:
        cuts = PowerCuts(directory, disk, seed)
        with cuts.torture.daemon:
            cuts.torture.prepare()
            number = 0
            while number < rounds and time.monotonic() < until:
                number += 1
                try:
                    cuts.cut()
                except Broken as broken:
                    raise Broken(f"seed {seed}, cut {number}: {broken}") from None
                if number % DRAIN_EVERY == 0:
                    cuts.settle()
                    report(f"{number} cuts, {cuts.torture.crew.account()}")
            cuts.settle()
    report(f"{number} cuts and a drain: {cuts.torture.crew.account()}")


def control(directory: Path, seed: int, rounds: int) -> str:
    """The same without syncs: how it was caught.  Raises AssertionError when it was not."""
    with LoopDisk(directory / "disk", directory / "data", DISK_BYTES) as disk:
        cuts = PowerCuts(directory, disk, seed)
        with cuts.torture.daemon as daemon:
            cuts.torture.prepare()  # so that the queues themselves are there
            daemon.prefix = list(NO_SYNC)
            try:
                for _ in range(rounds):
                    cuts.cut()
                cuts.settle()
            except Broken as broken:
                return str(broken)
    raise AssertionError(f"nothing was synced in {rounds} rounds, and nobody noticed")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 when a promise was broken, or when the control was not caught."""
    given = arguments("python -m tools.powercut", argv)
    if why := missing():
        print(f"powercut: {why}", file=sys.stderr)
        return 2
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)

    print(f"seed {given.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="logqueue-powercut-"))
    try:
        for half, name, features in ((1, "extents", EXTENTS), (2, "pre-written", PREWRITTEN)):
            report(f"on ext4, {name}:")
            (directory / name).mkdir()
            until = began + given.minutes * 60 * half / 2
            run(directory / name, given.seed, given.rounds // 2, report, features, until)
        (directory / "control").mkdir()
        report(f"control, caught: {control(directory / 'control', given.seed, 10)}")
    except Broken as broken:
        print(f"BROKEN: {broken}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
