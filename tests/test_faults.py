"""The world at its worst, with the real daemon: no descriptors, failing system calls,
read-only directories, signals under full load, clocks that jump.
"""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from logqueue.storage.disk import MmapDisk
from logqueue.storage.layout import META, QUEUES, SPARE
from logqueue.storage.opening import create_queue, open_queue
from logqueue.storage.queue import Options
from logqueue.storage.recovery import inspect
from tests.daemon import START_S, Daemon, assert_refused, eventually, running, start
from tools.clients import Load
from tools.loopdisk import LoopDisk, missing
from tools.torture import Round, Torture

needs_mounts = pytest.mark.skipif(missing() != "", reason=missing())
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

STORAGE_FAILED = 74


# ---------------------------------------------------------------- failing system calls


def failing(call: str, error: str, nth: int, path: Path | None = None) -> list[str]:
    """A command under which the nth `call` of each thread fails, and all that follow; only those
    on `path`, if given."""
    return [
        *("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"),
        *(() if path is None else ("-P", str(path))),
        *("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={nth}+"),
    ]


@needs_strace
@needs_mounts
@pytest.mark.parametrize(
    ("call", "error", "nth"),
    [
        ("fdatasync", "EIO", 1),
        ("fdatasync", "ENOSPC", 7),
        ("fdatasync", "EIO", 40),
        ("fsync", "EIO", 4),
        ("fallocate", "EIO", 4),
        ("rename", "EIO", 4),
        ("unlink", "EIO", 3),
    ],
)
def test_a_failing_disk_ends_the_daemon_and_nothing_acknowledged_is_lost(
    tmp_path: Path, call: str, error: str, nth: int
) -> None:
    """The sync that fails has not happened here, and then the power goes: what had been
    acknowledged on the strength of it would be gone."""
    with LoopDisk(tmp_path / "disk", tmp_path / "data", 64 << 20) as disk:
        torture = Torture(tmp_path, queues=1, producers=2, consumers=1)
        with torture.daemon as daemon:
            daemon.arguments = ["--segment-bytes", "65536"]
            daemon.start()
            assert daemon.stop() == 0
            daemon.prefix = failing(call, error, nth)
            daemon.launch()
            if daemon.wait_ready():
                torture.crew.start(daemon.port, Load(pipelined=4))
            status = daemon.wait()
            disk.cut()
            disk.unmount()
            disk.mount()
            assert status == STORAGE_FAILED, daemon.log
            complaint = [line for line in daemon.log.splitlines() if line.startswith("logqueued:")]
            assert "the disk did not take what was written" in complaint[-1]
            assert "Check the disk" in complaint[-1]
            assert "Traceback" not in daemon.log
            torture.verify(crashed=True)
            daemon.prefix = []
            torture.drain()


@needs_strace
@pytest.mark.parametrize(
    ("call", "error", "nth"),
    [
        ("fallocate", "ENOSPC", 5),
        ("fallocate", "EDQUOT", 4),
        ("openat", "ENOSPC", 1),
        ("openat", "EMFILE", 1),
    ],
)
def test_no_room_refuses_and_goes_on(tmp_path: Path, call: str, error: str, nth: int) -> None:
    torture = Torture(tmp_path, queues=1, producers=2, consumers=1)
    with torture.daemon as daemon:
        daemon.arguments = ["--segment-bytes", "65536"]
        # Every open file of Python would be hit; the next segment's is the one to try.
        path = daemon.data / QUEUES / "q0" / SPARE if call == "openat" else None
        daemon.prefix = failing(call, error, nth, path)
        daemon.start()
        torture.crew.start(daemon.port, Load(pipelined=4, limit=60))
        torture.crew.join_producers()
        assert daemon.stop() == 0
        torture.verify(crashed=False)
        assert torture.crew.ledgers["q0"].refused > 0
        assert "Traceback" not in daemon.log
        daemon.prefix = []
        torture.drain()


@needs_strace
def test_an_unreadable_message_stops_its_queue_alone(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        for queue in ("a", "b"):
            assert daemon.ask(f"name={queue}&opt=put", b"message") == b"HTTPSQS_PUT_OK"
        assert daemon.stop() == 0
        path = daemon.data / QUEUES / "a" / f"{1:020d}.log"
        daemon.prefix = failing("pread64", "EIO", 1, path)
        daemon.start()
        assert daemon.ask("name=a&opt=get") == b"HTTPSQS_ERROR"
        assert daemon.ask("name=b&opt=get") == b"message"
        assert daemon.says("cannot be read: Input/output error")
        assert daemon.stop() == 0
        daemon.prefix = []
        daemon.start()
        assert daemon.ask("name=a&opt=get") == b"message"


@needs_strace
def test_sigterm_does_not_wait_for_a_long_recovery(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        for n in range(100):
            assert daemon.ask(f"name=q{n}&opt=put", b"message") == b"HTTPSQS_PUT_OK"
        daemon.stop(signal.SIGKILL)
        daemon.prefix = failing("fdatasync", "EIO", 1)
        daemon.prefix[-1] = "inject=fdatasync:delay_enter=100000"  # microseconds
        daemon.launch()
        deadline = time.monotonic() + START_S
        while not (daemon.data / "LOCK").read_text().startswith(f"{daemon.pid} "):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        daemon.send(signal.SIGTERM)
        status = daemon.wait()
        assert "ready" not in daemon.log
        assert status in (0, -signal.SIGTERM), daemon.log  # the latter before it listens to signals
        daemon.prefix = []
        daemon.start()
        assert daemon.ask("name=q99&opt=get") == b"message"


# ---------------------------------------------------------------- not allowed


@needs_mounts
def test_a_read_only_file_system(tmp_path: Path) -> None:
    with LoopDisk(tmp_path / "disk", tmp_path / "data", 16 << 20) as disk:
        with running(tmp_path, ["--reserve-bytes", "0"]) as daemon:
            assert daemon.ask("name=q&opt=put", b"kept") == b"HTTPSQS_PUT_OK"
        disk.unmount()
        disk.mount("ro")
        outcome = start("-x", str(daemon.data), "-p", "0")
        assert_refused(
            outcome, r"LOCK: not writable \(Read-only file system\); .*mount it writable"
        )


@needs_mounts
@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
def test_a_directory_that_takes_no_new_queue(tmp_path: Path) -> None:
    with (
        LoopDisk(tmp_path / "disk", tmp_path / "data", 16 << 20),
        running(tmp_path, ["--reserve-bytes", "0"]) as daemon,
    ):
        assert daemon.ask("name=old&opt=put", b"1") == b"HTTPSQS_PUT_OK"
        subprocess.run(["chattr", "+i", daemon.data / QUEUES], check=True)
        assert daemon.ask("name=new&opt=put", b"1") == b"HTTPSQS_PUT_ERROR"
        assert daemon.says("not writable (Operation not permitted); give the directory")
        assert daemon.ask("name=old&opt=put", b"2") == b"HTTPSQS_PUT_OK"
        assert daemon.ask("name=old&opt=get") == b"1"
        subprocess.run(["chattr", "-i", daemon.data / QUEUES], check=True)
        assert daemon.ask("name=new&opt=put", b"1") == b"HTTPSQS_PUT_OK"


# ---------------------------------------------------------------- descriptors


def limited(files: int) -> tuple[str, ...]:
    return ("prlimit", f"--nofile={files}:{files}")


needs_prlimit = pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")


@needs_prlimit
def test_too_few_descriptors_to_start_with(tmp_path: Path) -> None:
    outcome = start("-x", str(tmp_path / "data"), "-p", "0", prefix=limited(63))
    assert_refused(outcome, r"63 open files are too few; raise the limit \(ulimit -n")


@needs_prlimit
@pytest.mark.parametrize("files", [64, 150])
def test_many_connections_and_queues_on_few_descriptors(tmp_path: Path, files: int) -> None:
    with Daemon(tmp_path, prefix=limited(files)) as daemon:
        daemon.start()
        assert daemon.says(f"the limit of {files} open files")
        for n in range(40):
            assert daemon.ask(f"name=q{n}&opt=put", b"%d" % n) == b"HTTPSQS_PUT_OK"
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(daemon.connect()) for _ in range(150)]
            answers = []
            for client in clients:
                with contextlib.suppress(OSError):
                    client.sendall(b"GET /?name=q0&opt=status HTTP/1.1\r\nHost: h\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    answers.append(client.recv(1000)[:12])
            assert set(answers) == {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        eventually(daemon, "name=q0&opt=status_json", b'"unread":1}')
        for n in range(40):
            assert daemon.ask(f"name=q{n}&opt=get") == b"%d" % n
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log


def test_the_last_descriptor_gone_while_running(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.connect() as client:

        def ask(request: bytes) -> bytes:
            client.sendall(request + b" HTTP/1.1\r\nHost: h\r\n\r\n")
            return client.recv(10_000).partition(b"\r\n\r\n")[2]

        assert ask(b"GET /?name=q&opt=put&data=1") == b"HTTPSQS_PUT_OK"
        limit = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (10, limit[1]))
        assert ask(b"GET /?name=new&opt=put&data=1") == b"HTTPSQS_PUT_ERROR"
        assert ask(b"GET /?name=q&opt=put&data=2") == b"HTTPSQS_PUT_OK"
        with daemon.connect() as waiting:
            waiting.sendall(b"GET /?name=q&opt=put&data=3 HTTP/1.0\r\n\r\n")
            assert daemon.says("cannot accept connections")
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limit)
            answer = b"".join(iter(lambda: waiting.recv(1000), b""))
            assert answer.endswith(b"HTTPSQS_PUT_OK")
        assert ask(b"GET /?name=new&opt=put&data=1") == b"HTTPSQS_PUT_OK"
        for n in (b"1", b"2", b"3"):
            assert ask(b"GET /?name=q&opt=get") == n


# ---------------------------------------------------------------- signals, clocks


def test_sigterm_under_full_load_loses_nothing(tmp_path: Path) -> None:
    torture = Torture(tmp_path)
    with torture.daemon:
        for number, durability in enumerate(("always", "os"), 1):
            load = Load(pipelined=32 // number)
            torture.round(Round(number, durability, "", True, False, 0.3, load))
            for directory in (torture.daemon.data / QUEUES).iterdir():
                report = inspect(MmapDisk(), str(directory))
                assert report.checkpoint is not None
                assert report.checkpoint.clean
                assert not report.damage
                assert not report.notes
        torture.drain()
    assert torture.ends == {"SIGTERM": 2}
    assert not any(each.taken_unseen for each in torture.crew.ledgers.values())


def test_order_and_sequence_never_depend_on_the_clock(tmp_path: Path) -> None:
    """Days back, years ahead, standing still, from one put to the next and over restarts."""
    chance = random.Random(1)
    times = [0, 1, 1_700_000_000_000, 2**31 * 1000, 2**40 * 1000]
    options = Options(segment_bytes_max=65536, clock=lambda: chance.choice(times))
    disk, directory = MmapDisk(), str(tmp_path / "q")
    queue = create_queue(disk, directory, b"q", options)
    got = []
    for n in range(1000):
        queue.put(b"%d" % n * 40)
        queue.sync()
        if n % 3 == 0:
            got.append(queue.get())
        if n % 250 == 249:
            queue.close(clean=chance.random() < 0.5)
            queue, report = open_queue(disk, directory, options)
            assert not report.damage
    while (message := queue.get()) is not None:
        got.append(message)
    assert got == [(n + 1, b"%d" % n * 40) for n in range(1000)]
    assert (tmp_path / "q" / META).exists()
    queue.close()
