"""The servers under one face: `measure(case, seconds)` makes them ready, loads them, and checks
from what they hold afterwards that they did the work.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import statistics
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tools.benchmark import processes, wrk
from tools.benchmark.cases import DURABILITIES, FDATASYNC, FLOOR, SIZES, Case, Sample
from tools.benchmark.load import Backlog, drive
from tools.benchmark.processes import Service
from tools.benchmark.rivals import Beanstalkd, Webdis
from tools.benchmark.wrk import LoadFailed, Request, Result

PUT_OK_BYTES = len("HTTPSQS_PUT_OK")
PREFILL_CONNECTIONS = 64  # of 64 KiB that is half of what a queue takes before the disk has it
SETTLE_S = 0.2
HTTP_TIMEOUT_S = 60.0


class Contender(Protocol):
    """A server, or what stands in for one."""

    name: str

    def measure(self, case: Case, seconds: int) -> Sample:
        """Put the load on it.  Raises LoadFailed when it did not do the work."""


class Httpsqs:
    """logqueue, or any server that speaks HTTPSQS."""

    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self._service = service
        self._url = service.url.rstrip("/")
        self._backlog = Backlog()

    def measure(self, case: Case, seconds: int) -> Sample:
        if case.operation == "get":
            return self._get(case, seconds)
        queue = f"put{case.size}"
        self._empty(queue)
        result = drive(self._service, self._put(queue, case), case, seconds)
        self._check(result, self._unread(queue), case)
        self._empty(queue)
        return result.sample

    def _get(self, case: Case, seconds: int) -> Sample:
        queue = f"get{case.size}"
        self._ask(queue, "maxqueue&num=1000000000")
        while self._unread(queue) < self._backlog.wanted(case, seconds):
            wrk.run(self._put(queue, case._replace(operation="post")), PREFILL_CONNECTIONS, 1)
        before = self._settled(queue)
        request = Request(self._url, f"/?name={queue}&opt=get", closes=case.closes)
        result = drive(self._service, request, case, seconds)
        self._backlog.learn(case, result.sample)
        self._check(result, before - self._unread(queue), case)
        return result.sample

    def _put(self, queue: str, case: Case) -> Request:
        path, data = f"/?name={queue}&opt=put", "m" * case.size
        if case.operation == "post":
            return Request(self._url, path, data, closes=case.closes)
        return Request(self._url, f"{path}&data={data}", closes=case.closes)

    def _check(self, result: Result, moved: int, case: Case) -> None:
        """wrk leaves with requests under way; beyond those, what was answered was done."""
        if not result.requests <= moved <= result.requests + case.connections:
            raise LoadFailed(
                f"{self.name}, {case.label}: {result.requests} answers, {moved} messages moved"
            )

    def _empty(self, queue: str) -> None:
        self._ask(queue, "reset")
        self._ask(queue, "maxqueue&num=1000000000")

    def _unread(self, queue: str) -> int:
        unread: int = json.loads(self._ask(queue, "status_json"))["unread"]
        return unread

    def _settled(self, queue: str) -> int:
        """`_unread`, once the puts that wrk has left under way have come to an end."""
        unread, before = self._unread(queue), -1
        while unread != before:
            time.sleep(SETTLE_S)
            unread, before = self._unread(queue), unread
        return unread

    def _ask(self, queue: str, operation: str) -> bytes:
        url = f"{self._url}/?name={queue}&opt={operation}"
        with urllib.request.urlopen(url, timeout=HTTP_TIMEOUT_S) as response:
            body: bytes = response.read()
        if body == b"HTTPSQS_ERROR":
            raise LoadFailed(f"{self.name}: {url} is answered with an error")
        return body


class Floor:
    """`tools.floor`: what trio and the sockets cost."""

    name = FLOOR

    def __init__(self, services: dict[str, Service]) -> None:
        self._services = services

    @staticmethod
    def answers() -> list[str]:
        """What the floor is asked to listen for."""
        return [f"{size}{kind}" for size in (PUT_OK_BYTES, *SIZES) for kind in ("", ":close")]

    def measure(self, case: Case, seconds: int) -> Sample:
        size = case.size if case.operation == "get" else PUT_OK_BYTES
        service = self._services[f"{size}:close" if case.closes else str(size)]
        url = service.url
        data = "m" * case.size
        match case.operation:
            case "get":
                request = Request(url, "/?name=get&opt=get", closes=case.closes)
            case "put":
                request = Request(url, f"/?name=put&opt=put&data={data}", closes=case.closes)
            case "post":
                request = Request(url, "/?name=put&opt=put", data, closes=case.closes)
        return drive(service, request, case, seconds).sample


class Fdatasync:
    """The disk alone: one page made dirty through a map of a preallocated file, then synced."""

    name = FDATASYNC

    def __init__(self, directory: Path) -> None:
        self._path = directory / "fdatasync"

    def measure(self, case: Case, seconds: int) -> Sample:
        taken_s: list[float] = []
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)
            with mmap.mmap(descriptor, mmap.PAGESIZE) as page:
                deadline = time.perf_counter() + seconds
                while (began := time.perf_counter()) < deadline:
                    page[:8] = len(taken_s).to_bytes(8, "little")
                    os.fdatasync(descriptor)
                    taken_s.append(time.perf_counter() - began)
        finally:
            os.close(descriptor)
        taken_s.sort()
        p50 = statistics.median(taken_s)
        return Sample(1 / p50, p50 * 1e6, taken_s[len(taken_s) * 99 // 100] * 1e6)


@contextlib.contextmanager
def started(
    names: Sequence[str], peers: dict[str, str], directory: Path
) -> Iterator[dict[str, Contender]]:
    """The contenders of these names, running."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Contender] = {}
        for name in names:
            found[name] = _start(name, peers, directory / name.replace(" ", "-"), stack)
        yield found


def _start(
    name: str, peers: dict[str, str], directory: Path, stack: contextlib.ExitStack
) -> Contender:
    directory.mkdir(parents=True, exist_ok=True)
    if name in peers:
        return Httpsqs(name, Service(peers[name], ()))
    if name in DURABILITIES:
        return Httpsqs(name, stack.enter_context(processes.logqueued(directory, name)))
    if name == FLOOR:
        return Floor(stack.enter_context(processes.floor(Floor.answers())))
    if name == FDATASYNC:
        return Fdatasync(directory)
    if name.startswith("webdis "):
        service, port = stack.enter_context(processes.webdis(directory, name.split()[1]))
        return Webdis(name, service, port)
    assert name.startswith("beanstalkd"), name
    return Beanstalkd(name, directory / "binlog", name.split()[1:])


def installed() -> list[str]:
    """The other queues that this machine has."""
    names = []
    if shutil.which("webdis") and shutil.which("redis-server"):
        names += [f"webdis {policy}" for policy in processes.REDIS_FSYNC]
    if shutil.which("beanstalkd"):
        names += ["beanstalkd", "beanstalkd -f0"]
    return names
