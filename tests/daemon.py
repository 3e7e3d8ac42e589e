"""A real `logqueued` for tests: its own process, its own data directory, ended by its id."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

START_S = 20.0


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Daemon:
    """One daemon on 127.0.0.1; `start` and `stop` may be repeated on the same data directory."""

    def __init__(self, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.directory = directory
        self.port = free_port()
        self.arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it accepts connections."""
        assert self._process is None
        command = [sys.executable, "-m", "logqueue", "-l", "127.0.0.1", "-p", str(self.port)]
        command += ["-x", str(self.directory / "data"), *self.arguments]
        self._process = subprocess.Popen(command, cwd=self.directory, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), self.connect():
                return
            assert self._process.poll() is None, f"exited with {self._process.returncode}"
            time.sleep(0.02)
        raise AssertionError(f"not listening after {START_S} s")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit status (negative for a signal)."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(how)
        try:
            return process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

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


@contextlib.contextmanager
def running(directory: Path, arguments: Sequence[str] = ()) -> Iterator[Daemon]:
    """A daemon for the length of a `with` block."""
    daemon = Daemon(directory, arguments)
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon._process is not None:
            daemon.stop()
