"""kill -9 under load, over and over: the daemon must keep every promise that its clients saw.

    python -m tools.torture --rounds 1000 --seed 1

A round starts the real daemon on the same data directory and lets producers, consumers, and workers
who lease loose on it from other processes.  It ends them by kill -9 at a random moment, by a
failpoint (the daemon kills itself at its nth disk operation of a kind, also inside recovery and
inside a clean stop), or by SIGTERM.  Then the clients' journals are held against each other
(`tools.ledger`, `tools.jobs`).  Durability changes from round to round: kill -9 loses nothing in
any mode.  Now and then, and at last, a round drains the queues.

The seed fixes what each round does and sends; when a kill hits, the machine decides.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from logqueue.storage.failpoint import VARIABLE
from tests.daemon import Daemon
from tools.clients import Load
from tools.crew import Crew
from tools.ledger import Broken

# Each point with a count that is reached within a round or so.
POINTS = {
    "before-write-segment": 5000,
    "within-write-segment": 5000,
    "after-write-segment": 5000,
    "before-sync-segment": 500,
    "after-sync-segment": 500,
    "before-create-segment": 10,
    "after-create-segment": 10,
    "before-rename-segment": 10,
    "after-rename-segment": 10,
    "before-unlink-segment": 10,
    "after-unlink-segment": 10,
    "before-write-cursor": 5000,
    "within-write-cursor": 5000,
    "after-write-cursor": 5000,
    "before-sync-cursor": 500,
    "after-sync-cursor": 500,
    "before-write-acks": 1000,
    "within-write-acks": 1000,
    "after-write-acks": 1000,
    "before-sync-acks": 200,
    "after-sync-acks": 200,
    "before-create-acks": 1,
    "after-create-acks": 1,
    "before-rename-acks": 3,
    "after-rename-acks": 3,
    "before-sync-directory": 20,
    "after-sync-directory": 20,
}
ROUND_S = 0.8  # the longest wait for the end of a round: by then it has put thousands
DRAIN_EVERY = 40  # rounds, before what nobody has consumed yet takes minutes
RING_MAX = 1_000_000_000
STOP_S = 30.0  # what SIGTERM may take on a busy machine
ARGUMENTS = ("--segment-bytes", str(256 << 10), "-s", "1")  # small: so that rolls are frequent


@dataclass(frozen=True)
class Round:
    """What one round does.  `failpoint` is empty for none; SIGTERM instead of kill -9 if `stops`;
    the daemon is ended `after_s`, counted from its start or, if not `early`, from its readiness."""

    number: int
    durability: str
    failpoint: str
    stops: bool
    early: bool
    after_s: float
    load: Load


def plan(seed: int, number: int) -> Round:
    """The same round for the same numbers."""
    chance = random.Random(f"{seed} {number}")
    failpoint = ""
    if chance.random() < 0.5:
        point = chance.choice(list(POINTS))
        failpoint = f"{point}:{int(math.exp(chance.uniform(0, math.log(POINTS[point]))))}"
    early = chance.random() < 0.05
    return Round(
        number,
        durability=chance.choice(("always", "os", "interval")),
        failpoint=failpoint,
        stops=not early and chance.random() < 0.15,
        early=early,
        after_s=chance.uniform(0.0, 0.3 if early else ROUND_S),
        load=Load(pipelined=chance.choice((1, 4, 16, 64)), seed=seed, life=number),
    )


class Torture:
    """One data directory with its clients through many rounds.  Raises Broken, with the log."""

    def __init__(
        self,
        directory: Path,
        queues: int = 2,
        producers: int = 4,
        consumers: int = 2,
        workers: int = 1,
    ) -> None:
        names = [f"q{i}" for i in range(queues)]
        self.crew = Crew(directory, names, producers, consumers, workers)
        self.daemon = Daemon(directory)
        self.ends: dict[str, int] = {}
        self.stops_s: list[float] = []  # what each SIGTERM took

    def prepare(self) -> None:
        """Make the queues, with rings so large that no position ever comes round again."""
        self.daemon.start()
        for queue in self.crew.all_queues:
            answer = self.daemon.ask(f"name={queue}&opt=maxqueue&num={RING_MAX}")
            assert answer == b"HTTPSQS_MAXQUEUE_OK", answer
        self._expect(self.daemon.stop(), {0})

    def round(self, round_: Round) -> None:
        """Start, load, end, verify."""
        daemon = self.daemon
        daemon.environment = {VARIABLE: round_.failpoint} if round_.failpoint else {}
        daemon.arguments = [*ARGUMENTS, "--durability", round_.durability]
        daemon.launch()
        if not round_.early and daemon.wait_ready():
            self.crew.start(daemon.port, round_.load)
        crashed = self._end(round_)
        self.verify(crashed=crashed)

    def drain(self) -> None:
        """Get everything that is left, stop in order, and settle the account."""
        self.daemon.environment = {}
        self.daemon.start()
        self.crew.start(self.daemon.port, Load(pipelined=64), consume_only=True)
        self.verify(crashed=False)
        self._expect(self.daemon.stop(), {0})
        self.crew.settle()

    def verify(self, *, crashed: bool) -> None:
        """Hold the journals of this life against the promises."""
        try:
            self.crew.finish(crashed=crashed)
        except Broken as broken:
            raise Broken(f"{broken}\n{self.daemon.log}") from None

    def _end(self, round_: Round) -> bool:
        """End the daemon as planned; whether that was a crash."""
        died = self.daemon.ends_within(round_.after_s)
        if died or not round_.stops:
            how = "failpoint" if died else "kill -9"
            status = self.daemon.stop(signal.SIGKILL)
            self._expect(status, {-signal.SIGKILL} if round_.failpoint or not died else set())
        else:
            self.daemon.send(signal.SIGTERM)
            began = time.monotonic()
            status = self.daemon.wait(STOP_S)
            self.stops_s.append(time.monotonic() - began)
            how = "SIGTERM" if status == 0 else "failpoint in SIGTERM"
            self._expect(status, {0, -signal.SIGKILL} if round_.failpoint else {0})
        self.ends[how] = self.ends.get(how, 0) + 1
        return status != 0

    def _expect(self, status: int, allowed: set[int]) -> None:
        log = self.daemon.log
        if status not in allowed or "Traceback" in log or "ERROR" in log:
            raise Broken(f"the daemon ended with status {status}:\n{log}")


def run(
    torture: Torture,
    seed: int,
    rounds: int,
    report: Callable[[str], None],
    *,
    until: float = math.inf,
) -> None:
    """All rounds, or those begun before `until` (monotonic), and the drain.

    Raises Broken, naming the round.
    """
    torture.prepare()
    number = 0
    while number < rounds and time.monotonic() < until:
        number += 1
        planned = plan(seed, number)
        try:
            torture.round(planned)
        except Broken as broken:
            raise Broken(f"seed {seed}, {planned}: {broken}") from None
        if number % DRAIN_EVERY == 0:
            torture.drain()
            report(f"{number} rounds, {torture.crew.account()}")
    torture.drain()
    report(f"{number} rounds ({torture.ends}) and a drain: {torture.crew.account()}")
    if torture.crew.refused:
        raise Broken("requests were refused although nothing was in the way")


def arguments(program: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a long run; SIGTERM ends it like Ctrl-C from now on, leaving nothing."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no round later")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 when a promise was broken."""
    given = arguments("python -m tools.torture", argv)
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)

    print(f"seed {given.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="logqueue-torture-"))
    try:
        torture = Torture(directory)
        with torture.daemon:
            until = began + given.minutes * 60
            run(torture, given.seed, given.rounds, report, until=until)
    except Broken as broken:
        print(f"BROKEN: {broken}\nThe evidence is in {directory}", file=sys.stderr)
        return 1
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    os.rmdir(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
