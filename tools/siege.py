"""A real daemon under siege: how it serves one producer while others do their worst.

    python -m tools.siege            every part; the machine should have nothing else to do
    python -m tools.siege --parts idle,slow

idle     18,000 keep-alive connections that do nothing
slow     1,000 clients that send a head, and 1,000 that send a body, at a byte a second
stops    100 SIGTERMs under load, at every durability, with the clients' journals verified
few      64 descriptors, a flood of connections, and what remains when they go

The producer puts 100 bytes at a time over one connection and is timed before, during and after.
Results go to build/siege.json.  The clients run in processes of their own and come from several
addresses of the loopback.  The exit status is 1 when a figure is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.daemon import Daemon
from tools import besiegers
from tools.clients import Load
from tools.pipeline import Pipeline, put_request
from tools.torture import Round, Torture

KIB = 1024
IDLE = 18_000
IDLE_BYTES_MAX = 10 * KIB  # of the daemon's own memory, each
SLOW = 1000
RATIO_MAX = 2.0  # p99 of a put during, against before and after
LATE_S_MAX = 1.0
STOPS = 100
STOP_S_MAX = 3.0
FEW = 64
FLOOD = 200
PUTS = 4000
DURABILITIES = ("always", "interval", "os")


class Figures:
    """What was found: (part, figure, value, most).  `most` of None: for information."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float, float | None]] = []

    def add(self, part: str, figure: str, value: float, most: float | None = None) -> None:
        """Note one figure, and what it may be at most."""
        self.rows.append((part, figure, value, most))
        print(f"{part:7} {figure}: {value:.4g}", file=sys.stderr, flush=True)

    @property
    def missed(self) -> bool:
        """Whether any is above what it may be."""
        return any(most is not None and value > most for *_, value, most in self.rows)

    def table(self) -> str:
        """All of them, as Markdown."""
        lines = ["| part | figure | found | at most | |", "|---|---|---|---|---|"]
        for part, figure, value, most in self.rows:
            verdict = "" if most is None else "held" if value <= most else "MISSED"
            bound = "" if most is None else f"{most:.4g}"
            lines.append(f"| {part} | {figure} | {value:.4g} | {bound} | {verdict} |")
        return "\n".join(lines)


def put_times(port: int, count: int) -> list[float]:
    """Seconds of `count` puts, one after the other, sorted."""
    request = put_request("besieged", b"m" * 100)
    times = []
    with Pipeline(port) as producer:
        for _ in range(count):
            began = time.perf_counter()
            [answer] = producer.ask([request])
            times.append(time.perf_counter() - began)
            assert answer == b"HTTPSQS_PUT_OK", answer
    return sorted(times)


def p99_ms(times: Sequence[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return times[len(times) * 99 // 100] * 1e3


def compare(
    figures: Figures, part: str, before: list[float], during: list[float], after: list[float]
) -> None:
    """The put's p99 during a siege against those around it."""
    unloaded = p99_ms(sorted(before + after))
    figures.add(part, "put p99 before and after, ms", unloaded)
    figures.add(part, "put p99 during, ms", p99_ms(during))
    figures.add(part, "put p50 during, ms", during[len(during) // 2] * 1e3)
    figures.add(part, "put p99, times", p99_ms(during) / unloaded, RATIO_MAX)


def anonymous_bytes(daemon: Daemon) -> int:
    """The daemon's own memory: mapped segments do not count."""
    status = Path(f"/proc/{daemon.pid}/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) * KIB


@contextlib.contextmanager
def running(directory: Path, *arguments: str, prefix: Sequence[str] = ()) -> Iterator[Daemon]:
    """A daemon that must end well and have nothing to report."""
    with Daemon(directory, arguments, prefix=prefix) as daemon:
        daemon.start()
        yield daemon
        status = daemon.stop()
        assert status == 0, daemon.log
        assert "Traceback" not in daemon.log, daemon.log


def idle(directory: Path, figures: Figures, count: int = IDLE, puts: int = PUTS) -> None:
    """Connections that have made one request and then nothing."""
    limits = ["-t", "3600", "--max-connections", f"{count + 100}", "--max-open-queues", "20"]
    with running(directory, *limits) as daemon:
        before = put_times(daemon.port, puts)
        empty = anonymous_bytes(daemon)
        with besiegers.process(besiegers.hold, daemon.port, count) as siege:
            siege.wait()
            each = (anonymous_bytes(daemon) - empty) / count
            during = put_times(daemon.port, puts)
            alive = siege.finish()
        after = put_times(daemon.port, puts)
        figures.add("idle", "connections", count)
        figures.add("idle", "of them not answered at the end", count - len(alive), 0)
        figures.add("idle", "bytes for each", each, IDLE_BYTES_MAX)
        compare(figures, "idle", before, during, after)


def slow(
    directory: Path, figures: Figures, count: int = SLOW, puts: int = PUTS, *limits: str
) -> None:
    """Heads and bodies that never end; each must be closed soon after its deadline."""
    with running(directory, *limits) as daemon:
        before = put_times(daemon.port, puts)
        head_s, body_s = (
            float(limits[limits.index(option) + 1]) if option in limits else default
            for option, default in (("--head-timeout", 10.0), ("--body-timeout", 30.0))
        )
        during: list[float] = []
        with besiegers.process(besiegers.trickle, daemon.port, count) as siege:
            siege.wait()
            while not siege.finished or not during:
                during += put_times(daemon.port, puts // 10)
            ends = siege.finish()
        after = put_times(daemon.port, puts)
        heads, bodies = ends[:count], ends[count:]
        figures.add("slow", "clients", 2 * count)
        figures.add("slow", "of them not closed", 2 * count - len(ends), 0)
        figures.add("slow", "heads: s after the deadline", max(heads) - head_s, LATE_S_MAX)
        figures.add("slow", "bodies: s after the deadline", max(bodies) - body_s, LATE_S_MAX)
        figures.add("slow", "heads: earliest end, s", min(heads))
        figures.add("slow", "bodies: earliest end, s", min(bodies))
        compare(figures, "slow", before, sorted(during), after)


def stops(directory: Path, figures: Figures, count: int = STOPS) -> None:
    """SIGTERM while producers, consumers and workers are busy; then the account is settled."""
    torture = Torture(directory)
    with torture.daemon:
        torture.prepare()
        for number in range(1, count + 1):
            durability = DURABILITIES[number % len(DURABILITIES)]
            load = Load(pipelined=(1, 16)[number % 2], life=number)
            torture.round(Round(number, durability, "", True, False, 0.3, load))
        torture.drain()
    figures.add("stops", "SIGTERMs with exit status 0", torture.ends.get("SIGTERM", 0))
    figures.add("stops", "others", count - torture.ends.get("SIGTERM", 0), 0)
    figures.add("stops", "slowest, s", max(torture.stops_s), STOP_S_MAX)


def few(directory: Path, figures: Figures, flood: int = FLOOD) -> None:
    """More connections than descriptors: some are refused, nothing breaks, and all comes back."""
    files = ("prlimit", f"--nofile={FEW}:{FEW}")
    with running(directory, prefix=files) as daemon:
        put_times(daemon.port, 10)
        with besiegers.process(besiegers.hold, daemon.port, flood) as siege:
            siege.wait()
            served = siege.finish()
        began = time.monotonic()
        while b"HTTPSQS_PUT_OK" not in daemon.ask("name=besieged&opt=put&data=x"):
            assert time.monotonic() < began + 30, daemon.log
        figures.add("few", "descriptors", FEW)
        figures.add("few", "connections that were served", len(served), FEW)
        figures.add("few", "connections that were refused", flood - len(served), flood - 1)
        figures.add("few", "s until a put succeeds again", time.monotonic() - began, 1.0)


PARTS: dict[str, Callable[[Path, Figures], None]] = {
    "idle": idle,
    "slow": slow,
    "stops": stops,
    "few": few,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit status is 1 when a figure was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--output", type=Path, default=Path("build/siege.json"))
    given = parser.parse_args(argv)
    figures = Figures()
    for part in given.parts.split(","):
        directory = Path(tempfile.mkdtemp(prefix="logqueue-siege-"))
        try:
            PARTS[part](directory, figures)
        finally:
            shutil.rmtree(directory)
    print(figures.table())
    given.output.parent.mkdir(parents=True, exist_ok=True)
    keys = ("part", "figure", "found", "most")
    rows = [dict(zip(keys, row, strict=True)) for row in figures.rows]
    given.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if figures.missed else 0


if __name__ == "__main__":
    sys.exit(main())
