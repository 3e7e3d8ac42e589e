"""The command line `logqueue` as scripts and people see it: real processes, a real daemon."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from logqueue.cli.bench import Done, figures
from logqueue.cli.command import SHELLS, main, parser
from logqueue.cli.program import perform
from logqueue.client import Client, Message
from tests.daemon import START_S, Daemon, running

_names = (f"q{number}" for number in count())
COMMANDS = (
    *("put", "get", "ack", "release", "status", "queues", "peek", "purge"),
    *("import", "backup", "bench", "completion"),
)
Start = Callable[..., subprocess.Popen[bytes]]
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("cli"), ["--durability", "os"]) as started:
        yield started


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(url(daemon)) as connected:
        yield connected


@pytest.fixture
def queue() -> str:
    """A name that no other test uses."""
    return next(_names)


def url(daemon: Daemon) -> str:
    return f"http://127.0.0.1:{daemon.port}"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "logqueue.cli.command", *arguments]


def environment(daemon: Daemon) -> dict[str, str]:
    return {**os.environ, "LOGQUEUE_URL": url(daemon)}


def run(daemon: Daemon, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """(exit status, stdout, stderr) of one command."""
    done = subprocess.run(
        command(*arguments),
        input=stdin,
        env=environment(daemon),
        capture_output=True,
        timeout=START_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def heed_interrupts() -> None:
    """A shell starts what runs in its background with SIGINT ignored, the tests perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(daemon: Daemon) -> Iterator[Start]:
    """Starts commands that go on beside the test, and leaves none behind."""
    with contextlib.ExitStack() as started:

        def begin(*arguments: str, url: str = "") -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                command(*arguments),
                env=environment(daemon) | ({"LOGQUEUE_URL": url} if url else {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=heed_interrupts,
            )
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield begin


# ------------------------------------------------------------------ put


def test_any_bytes_go_in_and_come_out(daemon: Daemon, queue: str) -> None:
    everything = bytes(range(256)) * 300
    status, out, _ = run(daemon, "put", "--type", "image/png", queue, stdin=everything)
    assert (status, json.loads(out)) == (0, {"sequence": 1, "pos": 1, "durable": "page-cache"})
    assert run(daemon, "put", queue, "é")[0] == 0
    assert run(daemon, "put", queue, "")[0] == 0
    assert run(daemon, "put", queue)[0] == 0  # nothing on stdin is a message too
    assert run(daemon, "get", queue) == (0, everything, "")
    assert run(daemon, "get", queue) == (0, "é".encode(), "")
    assert run(daemon, "get", "--max", "5", queue) == (0, b"\n\n", "")
    assert run(daemon, "get", queue) == (3, b"", "")


def test_lines_are_messages(daemon: Daemon, client: Client, queue: str) -> None:
    lines = [b"", b"x" * 3_000_000, b"\xff\r", *(b"%d" % number for number in range(20_000))]
    status, out, _ = run(daemon, "put", "--lines", queue, stdin=b"\n".join(lines))
    assert (status, json.loads(out)) == (0, {"first": 1, "last": 20_003, "count": 20_003})
    assert run(daemon, "get", "--max", "30000", queue)[1] == b"\n".join(lines) + b"\n"


def test_lines_are_put_as_they_come(
    start: Start, daemon: Daemon, client: Client, queue: str
) -> None:
    writer = start("put", "--lines", queue)
    assert writer.stdin is not None
    for number in range(3):
        writer.stdin.write(b"line %d\nun" % number)
        writer.stdin.flush()
        message = client.get(queue, wait_s=START_S)
        assert message is not None
        assert message.body.endswith(b"line %d" % number)
    assert writer.communicate(timeout=START_S)[1] == b""
    last = client.get(queue)
    assert last is not None
    assert last.body == b"un"


def test_what_was_stored_before_an_error_is_told(
    start: Start, daemon: Daemon, client: Client, queue: str
) -> None:
    client.create(queue, max_length=10)
    writer = start("put", "--lines", queue)
    assert writer.stdin is not None
    writer.stdin.write(b"a\n" * 7)
    writer.stdin.flush()
    while len(client.peek(queue)) < 7:
        pass
    _, said = writer.communicate(b"b\n" * 7, timeout=START_S)
    assert writer.returncode == 4
    assert b"7 lines were stored before this" in said
    assert b"queue-full" in said
    assert len(client.peek(queue)) == 7


# ------------------------------------------------------------------ get


def test_get_waits(start: Start, daemon: Daemon, client: Client, queue: str) -> None:
    client.create(queue)
    reader = start("get", "--wait", "1m", queue)
    while not client.describe(queue).waiting:
        pass
    client.put(queue, b"x")
    assert reader.communicate(timeout=START_S) == (b"x", b"")
    assert reader.returncode == 0


def test_follow_goes_on_until_interrupted(
    start: Start, daemon: Daemon, client: Client, queue: str
) -> None:
    reader = start("get", "--follow", queue)
    assert reader.stdout is not None
    for number in range(3):
        client.put(queue, b"%d" % number)
        assert reader.stdout.readline() == b"%d\n" % number
    reader.send_signal(signal.SIGINT)
    reader.communicate(timeout=START_S)
    assert reader.returncode == 130
    assert client.describe(queue).consumed >= 2  # the last one may not be acknowledged yet


def test_a_closed_pipe_loses_nothing(
    start: Start, daemon: Daemon, client: Client, queue: str
) -> None:
    client.put_many(queue, [b"x" * 10_000] * 100)
    reader = start("get", "--max", "100", queue)
    assert reader.stdout is not None
    reader.stdout.read(10_001)
    reader.stdout.close()
    assert reader.wait(START_S) == 141
    assert reader.stderr is not None
    assert reader.stderr.read() == b""
    details = client.describe(queue)
    assert details.leased == 0
    assert 1 <= details.consumed < 99
    assert details.ready == 100 - details.consumed


def test_leases_by_hand(daemon: Daemon, client: Client, queue: str) -> None:
    client.put_many(queue, [b"a", b"\xff", b"c"])
    status, out, _ = run(daemon, "get", "--max", "5", "--lease", "1h", queue)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (status, [row.get("data", row.get("data_b64")) for row in rows]) == (
        0,
        ["a", "/w==", "c"],
    )
    leases = [row["lease"] for row in rows]
    assert run(daemon, "release", queue, leases[0])[0] == 0
    assert run(daemon, "release", queue, leases[0])[0] == 6
    assert run(daemon, "ack", queue, leases[1], "-", stdin=leases[2].encode())[0] == 0
    status, _, said = run(daemon, "ack", queue, leases[0], leases[1])
    assert (status, "1 leases that have ended" in said) == (6, True)
    details = client.describe(queue)
    assert (details.ready, details.leased) == (1, 0)


# ------------------------------------------------------------------ --exec


def test_a_program_for_each_message(
    daemon: Daemon, client: Client, queue: str, tmp_path: Path
) -> None:
    client.put_many(queue, [b"a\0b", b"c"])
    script = f'cat > {tmp_path}/$QUEUE_SEQUENCE && echo "$QUEUE_NAME $QUEUE_ATTEMPTS"'
    status, out, _ = run(daemon, "get", "--max", "9", "--exec", script, queue)
    assert (status, out) == (0, f"{queue} 1\n{queue} 1\n".encode())
    assert (tmp_path / "1").read_bytes() == b"a\0b"
    assert client.describe(queue).consumed == 2
    assert run(daemon, "get", "--exec", script, queue)[0] == 3


def test_a_program_that_fails_gives_back(daemon: Daemon, client: Client, queue: str) -> None:
    client.put_many(queue, [b"bad", b"good"])
    script = "grep -q good"
    status, _, said = run(daemon, "get", "--max", "2", "--exec", script, queue)
    assert status == 6
    assert "message 1: CMD ended with 1; it comes again in 1 s" in said
    details = client.describe(queue)
    assert (details.delayed + details.ready, details.leased) == (1, 0)
    again = client.lease(queue, wait_s=START_S)
    assert [(each.body, each.attempts) for each in again] == [(b"bad", 2)]


def test_the_lease_lives_as_long_as_the_program(
    start: Start, daemon: Daemon, client: Client, queue: str, tmp_path: Path
) -> None:
    client.put(queue, b"slow")
    go = tmp_path / "go"
    os.mkfifo(go)
    worker = start("get", "--lease", "3s", "--exec", f"cat {go}", queue)
    while not (client.peek(queue) and client.peek(queue)[0].state == "leased"):
        pass
    assert client.get(queue, wait_s=4.0) is None  # longer than the lease
    go.write_bytes(b"done")
    assert worker.communicate(timeout=START_S) == (b"done", b"")
    assert (worker.returncode, client.describe(queue).consumed) == (0, 1)


def test_a_signal_from_the_program_itself_ends_it(tmp_path: Path) -> None:
    """As early as can be: on a busy machine the program is at work before we know its number."""
    number = tmp_path / "number"
    message = Message(b"x", sequence=1, pos=1, time_ms=0)

    class Ended(BaseException):
        pass

    def end(_: int, frame: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        command = f"echo $$ > {number}; kill -TERM $PPID; exec sleep 1000"
        with pytest.raises(Ended):
            perform(command, "q", message, lambda: None, 60.0)
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_worker_gives_back(
    start: Start, daemon: Daemon, client: Client, queue: str, how: signal.Signals, status: int
) -> None:
    client.put(queue, b"x")
    program = ["--exec", "echo; exec sleep 1000"]
    worker = start("get", "--follow", "--lease", "1h", *program, queue)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"\n"
    worker.send_signal(how)
    worker.communicate(timeout=START_S)  # its program has ended too, or stdout were open
    assert worker.returncode == status
    details = client.describe(queue)
    assert (details.ready, details.leased) == (1, 0)


# ------------------------------------------------------------------ looking, purging


def test_status_queues_and_peek(daemon: Daemon, client: Client, queue: str) -> None:
    client.put_many(queue, [b"one\x1b[2J", "é".encode() * 100])
    status, out, _ = run(daemon, "status", queue)
    shown = json.loads(out)
    assert (status, shown["name"], shown["ready"]) == (0, queue, 2)
    assert shown["options"]["max_attempts"] == 0
    shown = json.loads(run(daemon, "status")[1])
    assert shown["ready"] is True
    assert shown["unread"] >= 2
    rows = [json.loads(line) for line in run(daemon, "queues")[1].splitlines()]
    assert [row["unread"] for row in rows if row["name"] == queue] == [2]
    table = run(daemon, "peek", "--table", queue)[1].decode().splitlines()
    assert table[0].split() == [
        "sequence",
        "state",
        "put",
        "at",
        "attempts",
        "bytes",
        "type",
        "message",
    ]
    assert table[1].endswith(r"one\x1b[2J")  # nothing steers the terminal
    assert table[2].endswith("é...")
    row = json.loads(run(daemon, "peek", "--from", "1", "--limit", "1", queue)[1])
    assert (row["sequence"], row["state"], row["data"]) == (1, "ready", "one\x1b[2J")
    assert run(daemon, "status", "no such queue")[0] == 1


def test_purge_wants_to_be_sure(daemon: Daemon, client: Client, queue: str) -> None:
    client.put_many(queue, [b"a", b"b"])
    assert run(daemon, "purge", queue)[0] == 2
    assert client.describe(queue).ready == 2
    assert json.loads(run(daemon, "purge", "--yes", queue)[1]) == {"purged": 2}
    assert client.describe(queue).ready == 0


def test_a_terminal_gets_tables(daemon: Daemon, client: Client, queue: str) -> None:
    client.put(queue, b"no line end")
    shown = on_terminal(daemon, "status", queue)
    assert "\r\nready           1\r\n" in shown
    assert "\r\npaused          no\r\n" in shown
    assert "\r\ndead_letter\r\n" in shown.replace(" ", "")
    assert "{" not in shown
    assert on_terminal(daemon, "get", queue) == "no line end\r\n"


def on_terminal(daemon: Daemon, *arguments: str) -> str:
    """What a command shows on a terminal of its own."""
    parent, child = pty.openpty()
    with open(parent, "rb", buffering=0) as screen:
        done = subprocess.run(
            command(*arguments),
            env=environment(daemon),
            stdin=child,
            stdout=child,
            stderr=subprocess.PIPE,
            timeout=START_S,
            check=False,
        )
        os.close(child)
        assert (done.returncode, done.stderr) == (0, b"")
        shown = b""
        try:
            while data := screen.read(1 << 16):
                shown += data
        except OSError:  # EIO: the end of a terminal
            pass
        return shown.decode()


# ------------------------------------------------------------------ what scripts can rely on


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["get", "--url", NOWHERE, "q"], 4, "refused"),
        (["put", "--url", NOWHERE, "q", "x"], 4, "refused"),
        (["status", "--url", NOWHERE], 4, "refused"),
        (["put", "--url", "ftp://x", "q", "x"], 2, "URL"),
        (["put", "--lines", "q", "x"], 2, "--lines"),
        (["put", "--lines", "--type", "a/b", "q"], 2, "--lines"),
        (["put", "--type", "a\nb", "q", "x"], 1, "printable"),
        (["get", "--exec", "true", "--json", "q"], 2, "--json"),
        (["get", "--lease", "0", "q"], 2, "--lease"),
        (["get", "--wait", "soon", "q"], 2, "no duration"),
        (["get", "--max", "0", "q"], 2, "not a number"),
        (["peek", "--limit", "1001", "q"], 2, "--limit"),
        (["put", "x" * 257, "x"], 1, "bad-name"),
        (["get"], 2, "QUEUE"),
        (["nonsense"], 2, "invalid choice"),
        ([], 2, "COMMAND"),
        (["backup", "/nonexistent", "/nonexistent2"], 2, "data directory"),
    ],
)
def test_exit_statuses(
    daemon: Daemon,
    arguments: list[str],
    status: int,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGQUEUE_URL", url(daemon))
    assert ended(*arguments) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert complaint in said.err


def ended(*arguments: str) -> int:
    """The exit status of a command that runs in this process."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_retry_waits_for_a_daemon(start: Start, tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        port = daemon.port
        daemon.stop()
        daemon.arguments = ["-p", str(port)]
        url = f"http://127.0.0.1:{port}"
        writer = start("put", "--retry", f"{START_S}s", "q", "x", url=url)
        daemon.start()
        assert writer.communicate(timeout=START_S)[1] == b""
        assert writer.returncode == 0
        assert daemon.stop() == 0


def test_each_command_has_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--help") == 0
    out = capsys.readouterr().out
    assert "exit status:" in out
    assert "LOGQUEUE_URL" in out
    for name in COMMANDS:
        assert f"\n    {name}" in out
        assert ended(name, "--help") == 0
        page = capsys.readouterr().out
        assert "examples:" in page
        assert max(map(len, page.splitlines())) <= 100


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("completion", shell) == 0
    script = capsys.readouterr().out
    assert "follow" in script
    if shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(script)
        subprocess.run([shell, "-n", str(file)], timeout=START_S, check=True)


def test_bash_completes_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("completion", "bash") == 0
    file = tmp_path / "script"
    file.write_text(capsys.readouterr().out)
    ask = f"source {file}; COMP_WORDS=(logqueue pu); COMP_CWORD=1; _shtab_logqueue"
    ask += '; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, timeout=START_S, check=True)
    assert done.stdout.split() == [b"put", b"purge"]


# ------------------------------------------------------------------ bench


@pytest.mark.parametrize("batch", ["1", "7"])
def test_bench_counts_and_cleans_up(daemon: Daemon, client: Client, batch: str) -> None:
    before = [each.name for each in client.queues()]
    arguments = ["--messages", "101", "--size", "10", "--connections", "3", "--batch", batch]
    status, out, said = run(daemon, "bench", *arguments)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (status, said) == (0, "")
    assert [(row["phase"], row["messages"]) for row in rows] == [("put", 101), ("get", 101)]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"] for row in rows)
    assert [each.name for each in client.queues()] == before


def test_the_figures_of_bench() -> None:
    done = [Done(2, number / 1000) for number in range(100, 0, -1)]
    assert figures("put", done, 4.0, 1000) == {
        "phase": "put",
        "messages": 200,
        "seconds": 4.0,
        "messages_per_s": 50,
        "mb_per_s": 0.05,
        "p50_ms": 50.0,
        "p95_ms": 95.0,
        "p99_ms": 99.0,
        "max_ms": 100.0,
    }


def test_every_option_says_what_it_is() -> None:
    """No option without help, in any command."""
    for group in parser()._subparsers._group_actions:  # type: ignore[union-attr]
        for name, page in group.choices.items():  # type: ignore[union-attr]
            for action in page._actions:
                assert action.help, f"{name} {action.option_strings or action.dest}"
