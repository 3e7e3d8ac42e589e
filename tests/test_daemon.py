"""Starting, stopping, and everything that can be wrong with a start: one clear line each."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logqueue import daemon as program
from logqueue.errors import StorageFailed
from tests.daemon import START_S, Daemon, running

NOBODY = 65534


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


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param([], r"required: -x/--data; see logqueued --help", id="no_data_directory"),
        pytest.param(["-x"], r"-x/--data: expected one argument", id="data_directory_missing"),
        pytest.param(["-x", ""], "-x/--data is empty; give a directory", id="data_directory_empty"),
        pytest.param(["-x", "d", "--zzz"], "unrecognized arguments: --zzz; see", id="unknown_flag"),
        pytest.param(["-x", "d", "stray"], "unrecognized arguments: stray", id="stray_word"),
        pytest.param(["-x", "d", "-p", "65536"], "'65536' is not a number from 0 to", id="port"),
        pytest.param(["-x", "d", "-p", "http"], "'http' is not a number", id="port_no_number"),
        pytest.param(["-x", "d", "-s", "0"], "'0' is not a number from", id="sync_interval"),
        pytest.param(["-x", "d", "-t", "nan"], "'nan' is not a number from", id="timeout"),
        pytest.param(["-x", "d", "--durability", "x"], "choose from 'always'", id="durability"),
        pytest.param(["-x", "d", "--segment-bytes", "9"], "not a number from 65536", id="segments"),
        pytest.param(["-x", "d", "--auth-file", "absent"], "absent: No such file", id="auth_file"),
        pytest.param(
            ["-x", "d", "-l", "192.0.2.1"],
            r"cannot listen on 192\.0\.2\.1 port 1218: .*; choose another with -l and -p",
            id="foreign_address",
        ),
        pytest.param(
            ["-x", "d", "-p", "0", "-i", "absent/pid"],
            "-i absent/pid: No such file or directory; choose a path you may write",
            id="pid_file",
        ),
    ],
)
def test_a_command_line_that_cannot_be(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    assert_refused(start(*arguments, cwd=tmp_path), complaint)


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = start("-x", "d", "-p", str(port), cwd=tmp_path)
    assert_refused(outcome, rf"port {port}: Address already in use; choose another .*stop what")


def test_an_unknown_failpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGQUEUE_FAILPOINT", "somewhere")
    assert_refused(start("-x", "d", cwd=tmp_path), "LOGQUEUE_FAILPOINT=somewhere: .*unset it")


# ---------------------------------------------------------------- the data directory


def a_file(data: Path) -> None:
    data.write_text("not a directory")


def below_a_file(data: Path) -> None:
    data.parent.joinpath("file").write_text("")
    data.symlink_to("file/data")


def newer(data: Path) -> None:
    data.mkdir()
    (data / "FORMAT").write_text("logqueue data directory, format 7\n")


def foreign(data: Path) -> None:
    data.mkdir()
    (data / "FORMAT").write_text("something else\n")


def beheaded(data: Path) -> None:
    (data / "queues").mkdir(parents=True)


def queues_no_directory(data: Path) -> None:
    newer(data)
    (data / "FORMAT").write_text("logqueue data directory, format 1\n")
    (data / "queues").write_text("")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (a_file, "data': Not a directory; choose another with -x"),
        (below_a_file, "data': .*; choose another with -x"),
        (newer, "FORMAT: format version 7 is newer than the 1 .*start the newer logqueue"),
        (foreign, "FORMAT: offset 0: this is no FORMAT file .*logqueue-fsck"),
        (beheaded, "FORMAT: .*missing although there are queues .*logqueue-fsck"),
        (queues_no_directory, "queues: Not a directory; look at its owner and mode"),
    ],
)
def test_a_directory_that_cannot_be_served(
    tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    damage(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    assert_refused(start("-x", str(tmp_path / "data"), "-p", "0"), complaint)
    created = {each.name for each in set(tmp_path.rglob("*")) - set(before)}
    assert created <= {"LOCK"}


def test_a_directory_that_nobody_can_make() -> None:
    assert_refused(start("-x", "/proc/nope", "-p", "0"), "'/proc/nope': No such file or directory;")


def as_another_user() -> tuple[str, ...]:
    """A command that gives root's privileges up; nothing for who has none."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, to stop being root")
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


@pytest.fixture
def shared_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that another user reaches: pytest's own are private."""
    path = tmp_path_factory.mktemp("shared")
    opened = [each for each in (path, *path.parents) if each.stat().st_mode & 0o5 != 0o5]
    modes = [each.stat().st_mode for each in opened]
    for each in opened:
        each.chmod(0o755)
    yield path
    for each, mode in zip(opened, modes, strict=True):
        each.chmod(mode)


@pytest.mark.parametrize("existing", [False, True], ids=["to_be_made", "existing"])
def test_a_directory_that_is_not_ours(shared_path: Path, existing: bool) -> None:
    data = shared_path / "data"
    if existing:
        with running(shared_path):
            pass
        (data / "LOCK").chmod(0o400)
    if os.geteuid() != 0:
        shared_path.chmod(0o500)
    outcome = start("-x", str(data), "-p", "0", prefix=as_another_user(), cwd=Path("/"))
    assert_refused(outcome, r"data.*(not writable )?\(?Permission denied\)?; (give|choose)")


def test_a_directory_in_use(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        assert first.ask("name=q&opt=put", b"mine") == b"HTTPSQS_PUT_OK"
        outcome = start("-x", str(first.data), "-p", "0")
        assert_refused(outcome, rf"LOCK: in use by process {first.pid}; stop it first, or choose")
        assert first.ask("name=q&opt=get") == b"mine"


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
        assert daemon.log == (
            f"logqueued: ready on http://127.0.0.1:{daemon.port}/ "
            f"(data in {daemon.data}, durability always)\n"
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
            r"logqueued: ready on http://127\.0\.0\.1:(\d+)/ [^\n]*\n", launched.stderr
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
        data, complaint = "", "-x/--data is empty"
        if existing:
            data, complaint = str(other.data), f"in use by process {other.pid};"
        outcome = start("-d", "-x", data, "-p", "0", "-i", str(tmp_path / "pid"))
    assert_refused(outcome, complaint)
    assert not (tmp_path / "pid").exists()
