"""A real `logqueued` for tests: its own process, its own data directory, ended by its id."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

START_S = 30.0  # for a start, or for what must happen by itself, on a busy machine
WITHOUT_FAST_PATH = """
from logqueue.daemon import main
from logqueue.web import fastpath

fastpath.recognise = lambda buffer: None
raise SystemExit(main())
"""
_READY = re.compile(r".*ready on https?://.*:([0-9]+)/")


class Daemon:
    """One daemon on 127.0.0.1; `start` and `stop` may be repeated on the same data directory.

    It takes a free port at every start, unless `arguments` have `-p`.  `prefix` is a command to
    run it under (strace, setpriv), which must become the daemon by exec; `program` is what Python
    runs.
    """

    def __init__(
        self,
        directory: Path,
        arguments: Sequence[str] = (),
        *,
        prefix: Sequence[str] = (),
        program: Sequence[str] = ("-m", "logqueue"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.arguments = list(arguments)
        self.prefix = list(prefix)
        self.program = list(program)
        self.environment = dict(environment or {})
        self.port = 0  # of the running daemon
        self._process: subprocess.Popen[str] | None = None
        self._log: list[str] = []
        self._reading: threading.Thread | None = None
        self._port_told = threading.Event()
        self._said = threading.Condition()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind."""
        if self.running:
            self.stop(signal.SIGKILL)

    @property
    def log(self) -> str:
        """What it has written to stderr since its start; all of it once it has ended."""
        return "".join(self._log)

    def says(self, text: str, times: int = 1) -> bool:
        """Wait until the log has `text` so many times; False when that takes too long."""
        with self._said:
            return self._said.wait_for(lambda: self.log.count(text) >= times, START_S)

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        """Start the process without waiting for anything."""
        assert self._process is None
        command = [*self.prefix, sys.executable, *self.program, "-l", "127.0.0.1"]
        command += ["-p", "0", "-x", str(self.data), *self.arguments]
        self._process = subprocess.Popen(
            command,
            cwd=self.directory,
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self._log = []
        self._port_told = threading.Event()
        told = self._port_told
        self._reading = threading.Thread(
            target=self._read, args=(self._process.stderr, self._log, told), daemon=True
        )
        self._reading.start()

    def wait_ready(self) -> bool:
        """Wait for the ready line; False when the process ended instead."""
        assert self._port_told.wait(START_S), f"not ready after {START_S} s: {self.log}"
        return self.port != 0

    def start(self) -> None:
        """Start the process and wait until it serves."""
        self.launch()
        if not self.wait_ready():
            raise AssertionError(f"exited with {self.wait()}: {self.log}")

    def wait(self, timeout_s: float = START_S) -> int:
        """Wait for its end; the exit status (negative for a signal)."""
        assert self._process is not None
        if not self.ends_within(timeout_s):
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"still there after {timeout_s} s: {self.log}")
        status = self._process.wait()
        self._process = None
        return status

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself in that time; `wait` for it afterwards.

        The end of its stderr tells: `Popen.wait` with a timeout looks every 50 ms.
        """
        assert self._reading is not None
        self._reading.join(seconds)
        return not self._reading.is_alive()

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit status (negative for a signal)."""
        self.send(how)
        return self.wait()

    @property
    def running(self) -> bool:
        """Whether there is a process that has not been waited for."""
        return self._process is not None

    def connect(self) -> socket.socket:
        """A new connection to it."""
        client = socket.create_connection(("127.0.0.1", self.port), START_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def talk(self, request: bytes) -> bytes:
        """Send bytes on a connection of their own, close the sending side, read to the end."""
        with self.connect() as client:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
            answer = b""
            while data := client.recv(1 << 16):
                answer += data
            return answer

    def ask(self, query: str, body: bytes | None = None) -> bytes:
        """The body of the answer to one request of the HTTPSQS dialect, sent with `body` if any."""
        method = "GET" if body is None else "POST"
        head = f"{method} /?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n"
        answer = self.talk(head.encode() + b"\r\n" + (body or b""))
        return answer.partition(b"\r\n\r\n")[2]

    def _read(self, stderr: IO[str], log: list[str], told: threading.Event) -> None:
        """Collect what the process says; its port, or 0 if it ends without telling one."""
        self.port = 0
        with stderr:
            for line in stderr:
                with self._said:
                    log.append(line)
                    self._said.notify_all()
                if not told.is_set() and (found := _READY.match(line)):
                    self.port = int(found[1])
                    told.set()
        told.set()


@contextlib.contextmanager
def running(
    directory: Path, arguments: Sequence[str] = (), *, fast_path: bool = True
) -> Iterator[Daemon]:
    """A daemon for the length of a `with` block, which must end well.

    Without the fast path h11 judges every head.
    """
    program = ("-m", "logqueue") if fast_path else ("-c", WITHOUT_FAST_PATH)
    with Daemon(directory, arguments, program=program) as daemon:
        daemon.start()
        yield daemon
        if daemon.running:
            assert daemon.stop() == 0, daemon.log


def start(
    *arguments: str, cwd: Path | None = None, prefix: tuple[str, ...] = ()
) -> tuple[int, str]:
    """Run a daemon that does not stay: (status, what it said on stderr)."""
    command = [*prefix, sys.executable, "-m", "logqueue", *arguments]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=START_S, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def assert_refused(outcome: tuple[int, str], complaint: str, status: int = 1) -> None:
    """Exactly one line, which says what is wrong, and where or how it is put right."""
    assert outcome[0] == status, outcome
    assert re.fullmatch(rf"logqueued: [^\n]*{complaint}[^\n]*\n", outcome[1]), outcome


def eventually(daemon: Daemon, query: str, expected: bytes, body: bytes | None = None) -> None:
    """Ask until the answer contains what is expected."""
    deadline = time.monotonic() + START_S
    answer = b""
    while expected not in answer:
        assert time.monotonic() < deadline, (answer, daemon.log)
        with contextlib.suppress(ConnectionResetError):  # refused
            answer = daemon.ask(query, body)
