"""Where clients come in: TCP, Unix sockets, and sockets that systemd hands over."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from logqueue.errors import UsageError
from logqueue.listening import SOCKET_MODE, handed_over, tcp
from tests.daemon import START_S, Daemon, assert_refused, running, start

STATUS = b"GET /?name=q&opt=status_json HTTP/1.0\r\n\r\n"


def test_a_port_in_use_is_named() -> None:
    (listener,) = tcp("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with listener, pytest.raises(UsageError, match=rf"127\.0\.0\.1 port {port}.*in use"):
        tcp("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64])
def test_an_unknown_address_is_named(host: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"cannot listen on {host} port 0: ")):
        tcp(host, 0)


def test_both_families_share_a_port() -> None:
    listeners = tcp("::", 0)
    for listener in listeners:
        listener.close()
    assert listeners[0].family == socket.AF_INET6


# ------------------------------------------------------------------ Unix sockets


@pytest.fixture
def place() -> Iterator[Path]:
    """A path short enough for a Unix socket (108 bytes)."""
    with contextlib.ExitStack() as stack:
        directory = Path(f"/tmp/logqueue-test-{os.getpid()}")
        directory.mkdir()
        stack.callback(shutil.rmtree, directory)
        yield directory / "s"


def ask(place: Path, request: bytes = STATUS) -> bytes:
    """The answer to a request on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(START_S)
        client.connect(str(place))
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_a_unix_socket_serves_beside_tcp(tmp_path: Path, place: Path) -> None:
    other = place.with_name("t")
    with running(tmp_path, ["-l", f"unix:{place}", "--listen", f"unix:{other}"]) as daemon:
        assert daemon.says(f"ready on unix:{other} ")
        assert f"ready on unix:{place} " in daemon.log
        put = b"GET /?name=q&opt=put&data=x HTTP/1.0\r\n\r\n"
        assert ask(place, put).endswith(b"HTTPSQS_PUT_OK")
        assert b'"unread":1' in daemon.ask("name=q&opt=status_json")
        assert b'"unread":1' in ask(other)
        assert stat.S_IMODE(place.stat().st_mode) == SOCKET_MODE
        message = bytes(range(256)) * 40_000  # more than the kernel holds
        head = b"POST /?name=q&opt=put HTTP/1.1\r\nContent-Type: application/octet-stream\r\n"
        request = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(message)
        assert ask(place, request + message).endswith(b"HTTPSQS_PUT_OK")
        view = b"GET /?name=q&opt=view&pos=2 HTTP/1.1\r\nConnection: close\r\n\r\n"
        assert ask(place, view).endswith(b"\r\n\r\n" + message)
    assert not place.exists()
    assert not other.exists()


def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path: Path, place: Path) -> None:
    with Daemon(tmp_path, ["-l", f"unix:{place}"]) as daemon:
        daemon.start()
        assert daemon.says("ready on unix:")
        assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        assert place.is_socket()
        daemon.start()
        assert daemon.says("ready on unix:")
        assert ask(place).endswith(b'"unread":0}\n')
        assert daemon.stop() == 0
        assert not place.exists()


def test_nothing_else_is_replaced(tmp_path: Path, place: Path) -> None:
    arguments = ["-x", str(tmp_path / "other"), "-p", "0", "-l", f"unix:{place}"]
    with running(tmp_path, ["-l", f"unix:{place}"]) as daemon:
        assert daemon.says("ready on unix:")
        assert_refused(start(*arguments), f"cannot listen on unix:{place}: Address already in use")
        assert ask(place).endswith(b'"unread":0}\n')
        place.unlink()
        place.write_text("mine")  # what was put there meanwhile is not removed either
        assert daemon.stop() == 0
    assert_refused(start(*arguments), f"cannot listen on unix:{place}: Address already in use")
    assert place.read_text() == "mine"
    outcome = start("-x", "d", "-l", f"unix:/tmp/{'x' * 108}", cwd=tmp_path)
    assert_refused(outcome, "cannot listen on unix:/tmp/x+: AF_UNIX path too long")


# ------------------------------------------------------------------ from systemd

# What systemd does between fork and exec: descriptors from 3 on, and their count.
HANDING_OVER = """
import os, sys
for at, descriptor in enumerate(map(int, sys.argv[1].split(","))):
    os.dup2(descriptor, 3 + at)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(at + 1)}
os.execv(sys.executable, [sys.executable, "-m", "logqueue", *sys.argv[2:]])
"""


@contextlib.contextmanager
def activated(sockets: Sequence[socket.socket], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon to which sockets are handed over."""
    spares = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # so that none is 3 or 4 here
    descriptors = [os.dup(each.fileno()) for each in sockets]
    process = subprocess.Popen(
        [sys.executable, "-c", HANDING_OVER, ",".join(map(str, descriptors)), *arguments],
        pass_fds=descriptors,
        stderr=subprocess.PIPE,
        text=True,
    )
    for each in (*spares, *descriptors):
        os.close(each)
    with process:
        try:
            yield process
        finally:
            process.kill()


def ready_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stderr is not None
    return [process.stderr.readline() for _ in range(count)]


def test_sockets_of_systemd_are_served_in_place_of_the_default(tmp_path: Path, place: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as internet,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_UNIX) as waiting,
    ):
        local.bind(str(place))
        local.listen()
        waiting.connect(str(place))
        waiting.sendall(STATUS)  # before there is anybody
        port = internet.getsockname()[1]
        with activated([internet, local], "-x", str(tmp_path / "data")) as process:
            lines = ready_lines(process, 2)
            assert f"ready on http://127.0.0.1:{port}/ " in lines[0]
            assert f"ready on unix:{place} " in lines[1]
            assert waiting.recv(1000).startswith(b"HTTP/1.0 200 OK")
            with socket.create_connection(("127.0.0.1", port), START_S) as client:
                client.sendall(STATUS)
                assert client.recv(1000).startswith(b"HTTP/1.0 200 OK")
            held = os.listdir(f"/proc/{process.pid}/fd")
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_S) == 0
        assert place.is_socket(), "it is systemd's"
        assert len(held) < 40


def test_sockets_of_systemd_beside_addresses_that_are_given(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as internet:
        port = internet.getsockname()[1]
        given = ["-x", str(tmp_path / "data"), "-l", "127.0.0.1:0"]
        with activated([internet], *given) as process:
            lines = ready_lines(process, 2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_S) == 0
    ports = [int(found[1]) for line in lines if (found := re.search(r":(\d+)/ ", line))]
    assert ports[0] == port != ports[1]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_takes_no_connections_is_refused(
    tmp_path: Path, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_INET, kind) as useless:
        useless.bind(("127.0.0.1", 0))
        with activated([useless], "-x", str(tmp_path / "data")) as process:
            assert process.wait(START_S) == 1
            assert process.stderr is not None
            said = process.stderr.read()
    assert re.fullmatch(r"logqueued: descriptor 3 of systemd: .*Accept=no\n", said), said


def test_what_was_meant_for_another_process_is_left_alone() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert handed_over(environment) == []
    assert environment == {"HOME": "/"}
    assert handed_over({}) == []


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="no systemd")
def test_with_the_real_one(tmp_path: Path) -> None:
    (free,) = tcp("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}"]
    command += [sys.executable, "-m", "logqueue", "-x", str(tmp_path / "data")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "Listening on" not in (line := process.stderr.readline()):
                assert line, "it has ended"
            with socket.create_connection(("127.0.0.1", port), START_S) as client:
                client.sendall(STATUS)
                assert client.recv(1000).startswith(b"HTTP/1.0 200 OK")
        finally:
            process.terminate()  # it has become the daemon
        assert process.wait(START_S) == 0
