"""The servers' processes: each its own directory and free port of 127.0.0.1, ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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


class Running(NamedTuple):
    """A process; what it says goes to `output`."""

    pid: int
    output: Path


class Service(NamedTuple):
    """One or more processes that serve HTTP."""

    url: str
    pids: tuple[int, ...]


def processor_s(pids: Iterable[int]) -> float:
    """Processor time that processes have used so far."""
    ticks = 0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat").read_text()
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:13]))  # utime, stime: proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(command: Sequence[str], directory: Path, port: int) -> Iterator[Running]:
    """A process in `directory`, once it accepts connections."""
    directory.mkdir(parents=True, exist_ok=True)
    output = directory / f"{Path(command[0]).name}.out"
    with output.open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        _wait_until_it_listens(process, port, output)
        yield Running(process.pid, output)
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
def logqueued(directory: Path, durability: str) -> Iterator[Service]:
    """A daemon."""
    port = free_port()
    command = [sys.executable, "-m", "logqueue", "-p", str(port), "-x", "data"]
    with running([*command, "--durability", durability], directory, port) as daemon:
        yield Service(f"http://127.0.0.1:{port}", (daemon.pid,))


@contextlib.contextmanager
def floor(answers: Sequence[str]) -> Iterator[dict[str, Service]]:
    """The floor, by wanted answer (see `tools.floor`)."""
    command = [sys.executable, floor_server.__file__, *answers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = process.stdout.readline().split()
            services = [Service(f"http://127.0.0.1:{port}", (process.pid,)) for port in ports]
            yield dict(zip(answers, services, strict=True))
        finally:
            process.terminate()


@contextlib.contextmanager
def webdis(directory: Path, appendfsync: str) -> Iterator[tuple[Service, int]]:
    """webdis on a Redis of its own, and Redis's port."""
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
    with running(redis, directory, redis_port) as behind:
        (directory / "webdis.json").write_text(json.dumps(settings))
        with running(["webdis", "webdis.json"], directory, port) as front:
            yield Service(f"http://127.0.0.1:{port}", (front.pid, behind.pid)), redis_port


@contextlib.contextmanager
def beanstalkd(directory: Path, options: Sequence[str]) -> Iterator[tuple[int, int]]:
    """beanstalkd with its binlog in `directory`; its port and process id."""
    port = free_port()
    command = ["beanstalkd", "-l", "127.0.0.1", "-p", str(port), "-b", "."]
    command += ["-z", str(BEANSTALKD_JOB_BYTES_MAX), *options]
    with running(command, directory, port) as process:
        yield port, process.pid
