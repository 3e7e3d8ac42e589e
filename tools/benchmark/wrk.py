"""The load: wrk, driven by a script of its own for each request."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from typing import NamedTuple
from urllib.parse import urlsplit

from tools.benchmark.cases import Sample

REMEDY = "wrk is not installed: apt install wrk, or build https://github.com/wg/wrk"
TIMEOUT_S = 60.0  # beyond its duration; it then hangs

_SCRIPT = """
wrk.method = "%(method)s"
wrk.path = "%(path)s"
%(body)s%(close)s
function done(summary, latency, requests)
  io.write(string.format(
    '\\n{"requests":%%d,"duration_us":%%d,"p50_us":%%d,"p99_us":%%d,"errors":%%d,"status":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    summary.errors.status))
end
"""
_BODY = 'wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"\nwrk.body = "%s"\n'
_CLOSE = 'wrk.headers["Connection"] = "close"\n'


class Request(NamedTuple):
    """What is sent over and over.  `path` and `body` are plain ASCII without quotes."""

    url: str  # scheme, host and port
    path: str
    body: str | None = None
    closes: bool = False


class Result(NamedTuple):
    """What came of it; `requests` were answered."""

    requests: int
    sample: Sample


class LoadFailed(Exception):
    """Some requests were not answered, or with an error: the figure would mean nothing."""


def check_installed() -> None:
    """Raises LoadFailed with the remedy."""
    if shutil.which("wrk") is None:
        raise LoadFailed(REMEDY)


def run(request: Request, connections: int, seconds: int) -> Result:
    """Send the request as fast as answers come.  Raises LoadFailed."""
    script = _SCRIPT % {
        "method": "GET" if request.body is None else "POST",
        "path": request.path,
        "body": "" if request.body is None else _BODY % request.body,
        "close": _CLOSE if request.closes else "",
    }
    parts = urlsplit(request.url)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", file.name]
        done = subprocess.run(
            [*command, f"{parts.scheme}://{parts.netloc}/"],
            capture_output=True,
            text=True,
            timeout=seconds + TIMEOUT_S,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise LoadFailed(f"wrk: {done.stdout}{done.stderr}")
    found = json.loads(lines[-1])
    if found["errors"] or found["status"] or not found["requests"]:
        raise LoadFailed(f"{request.url}{request.path[:60]}: {lines[-1]}")
    rate = found["requests"] / found["duration_us"] * 1e6
    return Result(found["requests"], Sample(rate, found["p50_us"], found["p99_us"]))
