"""How fast is it: logqueue against the floor, its own weaker modes, and other queues.

wrk is the load, and it shares the cores with the server, so figures differ between machines and
hours; what compares is the ratio of two servers in one run.  Every round measures each cell once,
the contenders of a case one after the other; shown are medians, and medians of the rounds' ratios.

  python -m tools.bench             some rows, two minutes
  python -m tools.bench --targets   the rows that logqueue is held to, with verdicts
  python -m tools.bench --full      all that, every row, and every queue that is installed

No round is begun that would not end within --minutes, and the first one is cut short by them.  Rows
and contenders can be chosen; results go to build/bench as JSON, Markdown and SVG.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tools import bench_storage, bench_ticks
from tools.benchmark import cases, contenders, picture, processes, report, targets, wrk
from tools.benchmark.cases import CONNECTIONS, DURABILITIES, FLOOR, OPERATIONS, SIZES, Plan
from tools.benchmark.results import Results
from tools.benchmark.targets import Target

PICTURES: dict[str, picture.Figure] = {"rates.svg": "rate", "processor.svg": "cpu_us"}
TICK_PRODUCERS = 64
TICK_S = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit status is 1 when a target was missed, or a server did not do the work."""
    given = _arguments(argv)
    wrk.check_installed()
    given.output.mkdir(parents=True, exist_ok=True)
    results = Results()
    found: list[Target] = []
    tables: list[str] = []
    with TemporaryDirectory(dir=given.output, prefix="data-") as directory:
        failures = _measure(_plan(given), given, Path(directory), results)
        if given.targets or given.full:
            sizes = bench_storage.SIZES if given.full else bench_storage.SIZES[:1]
            costs = {size: bench_storage.measure(Path(directory), size) for size in sizes}
            found = _held_to(Path(directory), results, costs[bench_storage.SIZES[0]])
            tables = [report.verdicts(found), bench_storage.table(costs)]
    tables += [report.rates(results), report.latencies(results), report.costs(results), *failures]
    text = "\n\n".join(tables)
    print(text)
    _write(given.output, text, results, found)
    return 1 if failures or any(target.verdict == "MISSED" for target in found) else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--full", action="store_true", help="every row")
    kind.add_argument("--targets", action="store_true", help="the rows with a target")
    choose = parser.add_argument_group("rows (comma-separated)")
    choose.add_argument("--operations", type=_list, metavar="put,post,get")
    choose.add_argument("--sizes", type=_integers, metavar="100,1024,65536")
    choose.add_argument("--connections", type=_integers, metavar="1,16,64,256")
    choose.add_argument("--contenders", type=_list, metavar="floor,always,...")
    choose.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="an HTTPSQS that runs already; its queues put* and get* are emptied",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=12, help="for all rounds together (%(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=1, help="for each cell and round")
    parser.add_argument(
        "--output", type=Path, default=Path("build/bench"), help="results and data; on a real disk"
    )
    return parser.parse_args(argv)


def _list(text: str) -> list[str]:
    return text.split(",")


def _integers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _peers(given: argparse.Namespace) -> dict[str, str]:
    return dict(each.split("=", 1) for each in given.peer)


def _plan(given: argparse.Namespace) -> Plan:
    peers = list(_peers(given))
    if given.targets:
        plan = targets.plan()
        return {case: [*names, *peers] for case, names in plan.items()}
    names = given.contenders or [FLOOR, *DURABILITIES]
    if given.full and not given.contenders:
        names += contenders.installed()
    if given.full:
        return cases.matrix(OPERATIONS, SIZES, CONNECTIONS, [*names, *peers])
    chosen = given.operations or OPERATIONS, given.sizes or [100], given.connections or [16]
    return cases.matrix(*chosen, [*names, *peers])


def _measure(plan: Plan, given: argparse.Namespace, directory: Path, results: Results) -> list[str]:
    """As many rounds as are asked for and fit the time; what was not measured, a line each."""
    failures: list[str] = []
    names = list(dict.fromkeys(name for each in plan.values() for name in each))
    began = time.monotonic()
    end = began + given.minutes * 60
    with contenders.started(names, _peers(given), directory) as running:
        for number, cells in enumerate(cases.in_rounds(plan, given.rounds)):
            now = time.monotonic()
            if number and now + (now - began) / number > end:
                print(f"time for {number} rounds: see --minutes", file=sys.stderr)
                break
            for at, (case, name) in enumerate(cells, 1):
                label = f"{case.label}: {name}"
                print(f"round {number + 1}, {at}/{len(cells)} {label}", file=sys.stderr)
                try:
                    if number == 0 and time.monotonic() > end:
                        raise wrk.LoadFailed("no time: see --minutes")
                    results.add(case, name, running[name].measure(case, given.seconds))
                except wrk.LoadFailed as failure:
                    failures.append(f"FAILED {label}: {failure}")
    return failures


def _held_to(directory: Path, results: Results, costs: bench_storage.Costs) -> list[Target]:
    return [
        *targets.ratios(results),
        *(
            Target(
                f"storage: {operation} of 100 B, us",
                costs[operation].median_us,
                most=targets.STORAGE_US_MAX,
            )
            for operation in ("append", "get")
        ),
        _tick_gap(directory),
    ]


def _tick_gap(directory: Path) -> Target:
    """p99.9 of the gaps between event-loop ticks under durable producers."""
    port = processes.free_port()
    command = [sys.executable, bench_ticks.__file__, "-p", str(port), "-x", "ticks"]
    with processes.running(command, directory, port) as process:
        request = wrk.Request(f"http://127.0.0.1:{port}", f"/?name=q&opt=put&data={'m' * 100}")
        wrk.run(request, TICK_PRODUCERS, TICK_S)
    found = json.loads(process.output.read_text().splitlines()[-1])
    return Target(
        f"p99.9 gap between loop ticks, {TICK_PRODUCERS} durable producers, ms",
        found["p999_ms"],
        most=targets.TICK_GAP_MS_MAX,
        note=f"p50 {found['p50_ms']:.2f}, p99 {found['p99_ms']:.2f}, max {found['max_ms']:.1f}",
    )


def _write(output: Path, text: str, results: Results, found: Sequence[Target]) -> None:
    machine = ", ".join(f"{key} {value}" for key, value in report.machine().items())
    (output / "results.md").write_text(f"{machine}\n\n{text}\n")
    (output / "results.json").write_text(json.dumps(report.as_json(results, found), indent=1))
    size = min(case.size for case in results.cases())
    for name, figure in PICTURES.items():
        shown = picture.panels(results, size, figure)
        (output / name).write_text(picture.draw(results.names(), shown))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except wrk.LoadFailed as failure:
        sys.exit(f"bench: {failure}")
