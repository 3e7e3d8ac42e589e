"""The servers' processes: each its own directory and free port of 127.0.0.1, ended by its id."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools import floor as floor_server

START_S = 20.0
REDIS_FSYNC = ("everysec", "always")  # appendfsync
BEANSTALKD_JOB_BYTES_MAX = 1 << 20


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: Sequence[str], directory: Path, port: int) -> Iterator[Path]:
    """A process in `directory`, once it accepts connections; the file that what it says goes to."""
    directory.mkdir(parents=True, exist_ok=True)
    output = directory / f"{Path(command[0]).name}.out"
    with output.open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        _wait_until_it_listens(process, port, output)
        yield output
    finally:
        process.terminate()
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}: see {output}")


@contextlib.contextmanager
def logqueued(directory: Path, durability: str) -> Iterator[str]:
    """A daemon; its URL."""
    port = free_port()
    command = [sys.executable, "-m", "logqueue", "-p", str(port), "-x", "data"]
    with running([*command, "--durability", durability], directory, port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def floor(answers: Sequence[str]) -> Iterator[dict[str, str]]:
    """The floor; for each wanted answer (see `tools.floor`) the URL that gives it."""
    command = [sys.executable, floor_server.__file__, *answers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = process.stdout.readline().split()
            urls = [f"http://127.0.0.1:{port}" for port in ports]
            yield dict(zip(answers, urls, strict=True))
        finally:
            process.terminate()


@contextlib.contextmanager
def webdis(directory: Path, appendfsync: str) -> Iterator[tuple[str, int]]:
    """webdis on a Redis of its own: its URL, and Redis's port."""
    redis_port, port = free_port(), free_port()
    redis = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""]
    redis += ["--appendonly", "yes", "--appendfsync", appendfsync]
    settings = {
        "redis_host": "127.0.0.1",
        "redis_port": redis_port,
        "http_host": "127.0.0.1",
        "http_port": port,
        "threads": 2,  # as shipped
        "daemonize": False,
        "verbosity": 0,
        "logfile": "webdis.log",
    }
    with running(redis, directory, redis_port):
        (directory / "webdis.json").write_text(json.dumps(settings))
        with running(["webdis", "webdis.json"], directory, port):
            yield f"http://127.0.0.1:{port}", redis_port


@contextlib.contextmanager
def beanstalkd(directory: Path, options: Sequence[str]) -> Iterator[int]:
    """beanstalkd with its binlog in `directory`; its port."""
    port = free_port()
    command = ["beanstalkd", "-l", "127.0.0.1", "-p", str(port), "-b", "."]
    command += ["-z", str(BEANSTALKD_JOB_BYTES_MAX), *options]
    with running(command, directory, port):
        yield port
