"""Other queues as contenders: webdis on Redis, and beanstalkd."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from tools.benchmark import beanstalk, processes
from tools.benchmark.cases import Case, Sample
from tools.benchmark.load import Backlog, drive, loaded
from tools.benchmark.processes import Service
from tools.benchmark.wrk import LoadFailed, Request, Result

REDIS_TIMEOUT_S = 60.0
BEANSTALKD_GETS = 20_000  # a second, before any have been measured: its client is written in Python


class Webdis:
    """webdis on Redis: LPUSH and RPOP on a list."""

    def __init__(self, name: str, service: Service, redis_port: int) -> None:
        self.name = name
        self._service = service
        self._url = service.url
        self._redis_port = redis_port
        self._backlog = Backlog()

    def measure(self, case: Case, seconds: int) -> Sample:
        if case.operation == "get":
            self._prefill(case, self._backlog.wanted(case, seconds))
            request = Request(self._url, f"/RPOP/{self._list(case)}", closes=case.closes)
        else:
            self._redis("DEL", self._list(case))
            command, data = f"LPUSH/{self._list(case)}/", "m" * case.size
            if case.operation == "put":
                request = Request(self._url, f"/{command}{data}", closes=case.closes)
            else:
                request = Request(self._url, "/", command + data, closes=case.closes)
        before = self._redis("LLEN", self._list(case))
        result = drive(self._service, request, case, seconds)
        moved = abs(self._redis("LLEN", self._list(case)) - before)
        # With a connection each, webdis answered 8 of 8,235 pops that took nothing.
        if abs(moved - result.requests) > case.connections + result.requests // 100:
            raise LoadFailed(f"{self.name}: {result.requests} answers, {moved} messages moved")
        if case.operation == "get":
            self._backlog.learn(case, result.sample)
        else:
            self._redis("DEL", self._list(case))
        return result.sample

    @staticmethod
    def _list(case: Case) -> str:
        return f"{'get' if case.operation == 'get' else 'put'}{case.size}"

    def _prefill(self, case: Case, wanted: int) -> None:
        batch = max(1, (1 << 20) // case.size)
        values = ["m" * case.size] * batch
        while (found := self._redis("LLEN", self._list(case))) < wanted:
            for _ in range(-(-(wanted - found) // batch)):
                self._redis("LPUSH", self._list(case), *values)

    def _redis(self, *words: str) -> int:
        """Run one command that answers a number."""
        encoded = b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)
        with socket.create_connection(("127.0.0.1", self._redis_port), REDIS_TIMEOUT_S) as client:
            client.sendall(b"*%d\r\n%b" % (len(words), encoded))
            with client.makefile("rb") as answers:
                line = answers.readline()
        if not line.startswith(b":"):
            raise LoadFailed(f"redis answers {line!r}")
        return int(line[1:])


class Beanstalkd:
    """beanstalkd, in its own protocol; each case has a fresh backlog in the default tube."""

    def __init__(self, name: str, directory: Path, options: Sequence[str]) -> None:
        self.name = name
        self._directory = directory
        self._options = options
        self._backlog = Backlog(BEANSTALKD_GETS)

    def measure(self, case: Case, seconds: int) -> Sample:
        try:
            result, moved = (self._get if case.operation == "get" else self._put)(case, seconds)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
        # What was under way when the clock stopped may count, or come back, or neither.
        if abs(moved - result.requests) > 2 * case.connections:
            raise LoadFailed(f"{self.name}: {result.requests} answers, {moved} messages moved")
        return result.sample

    def _put(self, case: Case, seconds: int) -> tuple[Result, int]:
        payload = b"m" * case.size
        with processes.beanstalkd(self._directory, self._options) as (port, pid):
            result = loaded(
                (pid,), lambda: beanstalk.puts(port, payload, case.connections, seconds)
            )
            return result, beanstalk.ready_jobs(port)

    def _get(self, case: Case, seconds: int) -> tuple[Result, int]:
        """The jobs come from its binlog: to put them under `-f 0` takes a sync each."""
        with processes.beanstalkd(self._directory, ()) as (port, _):
            beanstalk.prefill(port, b"m" * case.size, self._backlog.wanted(case, seconds))
        with processes.beanstalkd(self._directory, self._options) as (port, pid):
            before = beanstalk.ready_jobs(port)
            result = loaded((pid,), lambda: beanstalk.gets(port, case.connections, seconds))
            self._backlog.learn(case, result.sample)
            return result, before - beanstalk.ready_jobs(port)
