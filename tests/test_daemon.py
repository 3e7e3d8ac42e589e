"""The running daemon: damaged queues, the pid file, signals, the background."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from logqueue import daemon as program
from logqueue.errors import StorageFailed
from tests.daemon import START_S, Daemon, assert_refused, running, start

NOBODY = 65534


# ---------------------------------------------------------------- a damaged queue


def fill(daemon: Daemon, *queues: str) -> None:
    for queue in queues:
        for n in range(10):
            assert daemon.ask(f"name={queue}&opt=put", b"%d" % n) == b"HTTPSQS_PUT_OK"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("file", "offset"),
    [("00000000000000000001.log", 20), ("meta", 20), ("cursor", 0), ("cursor", None)],
)
def test_a_damaged_queue_stops_alone(tmp_path: Path, file: str, offset: int | None) -> None:
    daemon = Daemon(tmp_path)
    with daemon:
        daemon.start()
        fill(daemon, "bad", "good")
        assert daemon.stop() == 0
        path = daemon.data / "queues" / "bad" / file
        if offset is None:
            path.unlink()
        elif file == "cursor":
            path.write_bytes(b"x" * path.stat().st_size)
        else:
            flip(path, offset)
        daemon.start()
        named = [line for line in daemon.log.splitlines() if "ERROR" in line]
        assert len(named) == 1
        assert f"queue b'bad' is not served: {path}: offset " in named[0]
        for operation in ("get", "status", "view&pos=1", "reset", "maxqueue&num=100"):
            assert daemon.ask(f"name=bad&opt={operation}") == b"HTTPSQS_ERROR"
        assert daemon.ask("name=bad&opt=put", b"x") == b"HTTPSQS_PUT_ERROR"
        assert daemon.ask("name=good&opt=get") == b"0"
        assert daemon.ask("name=good&opt=put", b"x") == b"HTTPSQS_PUT_OK"
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log


def test_a_damaged_message_is_met_by_its_consumer(tmp_path: Path) -> None:
    """After a clean stop nobody reads the messages again before they are asked for."""
    with running(tmp_path) as daemon:
        fill(daemon, "bad", "good")
        assert daemon.stop() == 0
        path = daemon.data / "queues" / "bad" / "00000000000000000001.log"
        second = 4096 + 40  # the header page, a frame of 32 + 1 bytes, aligned
        flip(path, second + 32)
        daemon.start()
        assert daemon.ask("name=bad&opt=get") == b"0"
        for operation in ("get", "get", "view&pos=2"):
            assert daemon.ask(f"name=bad&opt={operation}") == b"HTTPSQS_ERROR"
        assert daemon.says(f"{path}: offset {second}, sequence 2: ")
        assert daemon.ask("name=bad&opt=put", b"x") == b"HTTPSQS_PUT_ERROR"
        assert daemon.ask("name=good&opt=get") == b"0"
        assert daemon.ask("name=bad&opt=reset") == b"HTTPSQS_RESET_OK"  # what is lost is given up
        assert daemon.ask("name=bad&opt=put", b"y") == b"HTTPSQS_PUT_OK"
        assert daemon.ask("name=bad&opt=get") == b"y"


def test_a_queue_whose_very_name_is_unreadable(tmp_path: Path) -> None:
    name = "n" * 250  # its directory is named by a digest
    daemon = Daemon(tmp_path)
    with daemon:
        daemon.start()
        fill(daemon, name, "good")
        assert daemon.stop() == 0
        [path] = (daemon.data / "queues").glob("~*/meta")
        flip(path, 30)
        daemon.start()
        assert daemon.says(f"a queue is not served: {path}: offset 0")
        assert daemon.ask(f"name={name}&opt=put", b"x") == b"HTTPSQS_PUT_ERROR"
        assert daemon.ask(f"name={name}&opt=get") == b"HTTPSQS_ERROR"
        assert daemon.ask("name=good&opt=get") == b"0"


def test_what_is_left_of_a_queue_that_was_being_made_is_cleared(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        pass
    left = daemon.data / "queues" / "q.tmp"
    left.mkdir()
    (left / "meta").write_bytes(b"half")
    with running(tmp_path) as daemon:
        assert not left.exists()
        assert daemon.ask("name=q&opt=put", b"x") == b"HTTPSQS_PUT_OK"


# ---------------------------------------------------------------- running


def test_the_ready_line_names_the_port(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        time, level, message = daemon.log.split(" ", 2)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
        assert (level, message) == (
            "INFO",
            f"ready on http://127.0.0.1:{daemon.port}/ "
            f"(data in {daemon.data}, durability always)\n",
        )
        assert daemon.ask("name=q&opt=get") == b"HTTPSQS_GET_END"


def test_the_pid_file_lives_as_long_as_the_daemon(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text("99999999999\n")  # of one that was killed
    with running(tmp_path, ["-i", str(pid_file)]) as daemon:
        assert pid_file.read_text() == f"{daemon.pid}\n"
    assert not pid_file.exists()


def test_private_files(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        fill(daemon, "q")
        for path in (daemon.data, *daemon.data.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path


def test_no_other_error_hides_that_the_disk_failed() -> None:
    failed = StorageFailed("/data/q", OSError(5, "Input/output error"))
    group = BaseExceptionGroup("", [ValueError("x"), BaseExceptionGroup("", [failed])])
    assert program._innermost(group) is failed


# ---------------------------------------------------------------- stopping


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered(tmp_path: Path, how: signal.Signals) -> None:
    with running(tmp_path) as daemon, daemon.connect() as half, daemon.connect() as idle:
        half.sendall(
            b"POST /?name=q&opt=put HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
            b"Content-Length: 10\r\n\r\n"
        )
        assert half.recv(100).startswith(b"HTTP/1.1 100 ")  # so it is known to be in flight
        daemon.send(how)
        assert idle.recv(1) == b""  # the drain has begun
        with pytest.raises(ConnectionRefusedError):
            daemon.connect()
        half.sendall(b"0123456789")
        answer = b"".join(iter(lambda: half.recv(1000), b""))
        assert answer.endswith(b"HTTPSQS_PUT_OK")
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log
        daemon.start()
        assert daemon.ask("name=q&opt=get") == b"0123456789"


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.connect() as half, daemon.connect() as idle:
        half.sendall(b"POST /?name=q&opt=put HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n")
        assert daemon.ask("name=q&opt=put", b"kept") == b"HTTPSQS_PUT_OK"
        daemon.send(signal.SIGTERM)
        assert idle.recv(1) == b""
        daemon.send(signal.SIGTERM)  # `half` would hold the drain up for 10 s
        assert daemon.wait() == 128 + signal.SIGTERM
        daemon.start()
        assert daemon.ask("name=q&opt=get") == b"kept"


def test_a_clean_stop_leaves_nothing_to_recover(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        fill(daemon, "q")
        assert daemon.stop() == 0
        files = {path: path.read_bytes() for path in daemon.data.rglob("*.log")}
        daemon.start()
        assert daemon.log.count("\n") == 1  # the ready line
        assert daemon.ask("name=q&opt=status_json").endswith(b'"unread":10}\n')
        assert daemon.stop() == 0
        assert {path: path.read_bytes() for path in daemon.data.rglob("*.log")} == files


# ---------------------------------------------------------------- in the background


def test_detached(tmp_path: Path) -> None:
    arguments = ["-d", "-x", "data", "-p", "0", "-i", "pid"]
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    launched = subprocess.run(
        [sys.executable, "-m", "logqueue", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=True,
        close_fds=False,
    )
    os.close(inherited)
    pid = int((tmp_path / "pid").read_text())
    try:
        found = re.fullmatch(
            r"\S+ INFO ready on http://127\.0\.0\.1:(\d+)/ [^\n]*\n", launched.stderr
        )
        assert found, launched.stderr
        with socket.create_connection(("127.0.0.1", int(found[1])), START_S) as client:
            client.sendall(b"GET /?name=q&opt=put&data=x HTTP/1.0\r\n\r\n")
            assert b"".join(iter(lambda: client.recv(1000), b"")).endswith(b"HTTPSQS_PUT_OK")
        process = Path(f"/proc/{pid}")
        assert os.getsid(pid) == pid != os.getsid(0)
        assert (process / "cwd").readlink() == Path("/")
        descriptors = {int(each.name): os.readlink(each) for each in (process / "fd").iterdir()}
        assert [descriptors[n] for n in range(3)] == ["/dev/null"] * 3
        assert str(tmp_path) not in descriptors.values()
        assert "\nUmask:\t0022\n" in (process / "status").read_text()
    finally:
        with open(os.pidfd_open(pid)) as ended:
            os.kill(pid, signal.SIGTERM)
            assert select.select([ended], [], [], START_S)[0]
    assert not (tmp_path / "pid").exists()
    with running(tmp_path) as daemon:
        assert daemon.ask("name=q&opt=get") == b"x"


@pytest.mark.parametrize("existing", [False, True], ids=["usage", "locked"])
def test_a_detached_start_that_fails_is_told(tmp_path: Path, existing: bool) -> None:
    with running(tmp_path) as other:
        data, complaint = "", "-x/--data is missing or empty"
        if existing:
            data, complaint = str(other.data), f"in use by process {other.pid};"
        outcome = start("-d", "-x", data, "-p", "0", "-i", str(tmp_path / "pid"))
    assert_refused(outcome, complaint)
    assert not (tmp_path / "pid").exists()
