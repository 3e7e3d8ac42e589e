"""The tables, in Markdown, and the run as JSON.  Pure."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from tools.benchmark.cases import FDATASYNC, FLOOR, Case
from tools.benchmark.results import Results
from tools.benchmark.targets import Target

REMARKS = {
    "beanstalkd": "beanstalkd speaks its own protocol to a Python client, which limits it; "
    "a get is reserve and delete. -f0 syncs each job; the default syncs every 50 ms",
    "webdis": "webdis passes LPUSH and RPOP to Redis: two more processes on the same cores",
    FLOOR: "floor: tools/floor.py, a trio server that reads and answers fixed bytes",
}


def machine() -> dict[str, str]:
    """What a figure cannot be read without."""
    return {
        "cpus": str(os.cpu_count()),
        "cpu": _cpu(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "trio": version("trio"),
        "logqueue": version("logqueue"),
    }


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded)


def rates(results: Results) -> str:
    """Requests/s of every cell, and in parentheses what part of the floor's that is."""
    names = results.names()
    rows = [
        [case.label, *(_cell(results, case, name) for name in names)] for case in results.cases()
    ]
    remarks = [
        remark for name, remark in REMARKS.items() if any(each.startswith(name) for each in names)
    ]
    return "\n\n".join([table(["requests/s", *names], rows), *remarks])


def _cell(results: Results, case: Case, name: str) -> str:
    found = results.median(case, name)
    if found is None:
        return ""
    ratio = results.ratio(case, name, FLOOR)
    return f"{found.rate:,.0f}" + (f" ({ratio:.2f})" if ratio and name != FLOOR else "")


def latencies(results: Results) -> str:
    """How long a request took, median and 99th percentile."""
    names = results.names()
    rows = []
    for case in results.cases():
        found = [results.median(case, name) for name in names]
        cells = ["" if s is None else f"{s.p50_us:,.0f} / {s.p99_us:,.0f}" for s in found]
        rows.append([case.label, *cells])
    return table(["us, p50 / p99", *names], rows)


def costs(results: Results) -> str:
    """Processor time of the server's processes for each request."""
    names = [name for name in results.names() if name != FDATASYNC]
    rows = []
    for case in results.cases():
        found = [results.median(case, name) for name in names]
        cells = ["" if s is None or not s.cpu_us else f"{s.cpu_us:,.1f}" for s in found]
        rows.append([case.label, *cells])
    return table(["us of processor a request", *names], rows)


def verdicts(targets: Iterable[Target]) -> str:
    """Target, reached, verdict."""
    rows = [
        [
            target.what,
            target.wanted,
            "" if target.reached is None else f"{target.reached:.2f}",
            target.verdict,
            target.note,
        ]
        for target in targets
    ]
    return table(["target", "wanted", "reached", "verdict", "medians"], rows)


def as_json(results: Results, targets: Iterable[Target]) -> dict[str, object]:
    """Everything, sample by sample."""
    return {
        "machine": machine(),
        "cells": [
            {
                **case._asdict(),
                "contender": name,
                "samples": [sample._asdict() for sample in results.samples(case, name)],
            }
            for case in results.cases()
            for name in results.names()
            if results.samples(case, name)
        ],
        "targets": [{**target._asdict(), "verdict": target.verdict} for target in targets],
    }
