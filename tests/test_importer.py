"""`logqueue import`: from one real server to another, cut short at every step."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from logqueue.cli.command import main
from logqueue.importer import ImportFailed, Journal, Remote, import_queue
from tests.daemon import Daemon, running

MESSAGES = [b"one", b"", b"t%77o+%00\xff", b"", b"four" * 5000]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    with (
        running(tmp_path_factory.mktemp("old"), ["--durability", "os"]) as old,
        running(tmp_path_factory.mktemp("new"), ["--durability", "os"]) as new,
    ):
        yield old, new


def url(daemon: Daemon) -> str:
    return f"http://127.0.0.1:{daemon.port}"


def at(daemon: Daemon, queue: str) -> Remote:
    return Remote(url(daemon), queue, None)


def fill(daemon: Daemon, queue: str, messages: list[bytes]) -> None:
    """Put messages, the first of them at the end of the first lap of a small ring."""
    with at(daemon, queue) as remote:
        assert remote.ask("maxqueue", num=10)[0] == b"HTTPSQS_MAXQUEUE_OK"
        for number in range(8):
            remote.put(b"old %d" % number)
            remote.ask("get")
        for message in messages:
            remote.put(message)


def drain(daemon: Daemon, queue: str) -> list[bytes]:
    found = []
    with at(daemon, queue) as remote:
        while (got := remote.ask("get"))[1] is not None:
            found.append(got[0])
    return found


class Cut(Exception):
    """The importer ends here."""


class Wire:
    """Counts requests to both servers, and cuts before or after one of them."""

    def __init__(self, at: int, *, sent: bool) -> None:
        self.left = at
        self.sent = sent


class CutRemote(Remote):
    def __init__(self, url: str, queue: str, wire: Wire) -> None:
        super().__init__(url, queue, None)
        self.wire = wire

    def ask(self, opt: str, body: bytes | None = None, **given: object) -> tuple[bytes, int | None]:
        self.wire.left -= 1
        if self.wire.left == 0 and not self.wire.sent:
            raise Cut
        answer = super().ask(opt, body, **given)
        if self.wire.left == 0:
            raise Cut
        return answer


@pytest.mark.parametrize("sent", [False, True], ids=["before", "after"])
def test_cut_short_at_every_request_and_repeated(
    servers: tuple[Daemon, Daemon], sent: bool, tmp_path: Path
) -> None:
    old, new = servers
    for cut_at in itertools.count(1):
        queue = f"cut{sent}{cut_at}"
        fill(old, queue, MESSAGES)
        journal = Journal(str(tmp_path / queue))
        wire = Wire(cut_at, sent=sent)
        with CutRemote(url(old), queue, wire) as source, CutRemote(url(new), queue, wire) as target:
            try:
                import_queue(source, target, journal, lambda *_: None)
                break
            except Cut:
                pass
        with at(old, queue) as again, at(new, queue) as there:
            import_queue(again, there, journal, lambda *_: None)
        assert drain(new, queue) == MESSAGES, cut_at
        assert drain(old, queue) == []
    assert cut_at > 30  # it was cut at least once at each kind of request


def test_killed_at_random_moments(servers: tuple[Daemon, Daemon], tmp_path: Path) -> None:
    old, new = servers
    chance = random.Random(5)
    messages = [b"message %d" % number for number in range(600)]
    with at(old, "killed") as remote:
        for message in messages:
            remote.put(message)
    command = [sys.executable, "-m", "logqueue.cli.command", "import", url(old), "killed"]
    command += ["--to", url(new), "--journal", str(tmp_path)]
    kills = 0
    while True:
        importer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            _, said = importer.communicate(timeout=chance.uniform(0.1, 0.8) if kills < 8 else 60)
            assert importer.returncode == 0, said
            break
        except subprocess.TimeoutExpired:
            importer.send_signal(chance.choice([signal.SIGKILL, signal.SIGINT]))
            importer.communicate()
            kills += 1
    assert drain(new, "killed") == messages
    assert drain(old, "killed") == []
    assert list(tmp_path.iterdir()) == []  # no journal is left


def test_a_consumer_of_the_old_queue_is_noticed(
    servers: tuple[Daemon, Daemon], tmp_path: Path
) -> None:
    old, new = servers
    fill(old, "watched", [b"a", b"b", b"c"])
    journal = Journal(str(tmp_path / "watched"))
    wire = Wire(8, sent=True)  # inside the first batch
    source = CutRemote(url(old), "watched", wire)
    with source, CutRemote(url(new), "watched", wire) as target, pytest.raises(Cut):
        import_queue(source, target, journal, lambda *_: None)
    assert drain(old, "watched") == [b"a", b"b", b"c"]
    with at(old, "watched") as again, at(new, "watched") as there:
        again.put(b"d")
        again.ask("get")
        with pytest.raises(ImportFailed, match="read by somebody else"):
            import_queue(again, there, journal, lambda *_: None)


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["import", "ftp://127.0.0.1", "q"], 2, "is no http:// address"),
        (["import", "http://127.0.0.1:1", "q"], 1, "Connection refused"),
        (["import", "http://127.0.0.1:1", "q", "--auth-file", "/none"], 2, "No such file"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str],
    status: int,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert main([*arguments, *(["--journal", str(tmp_path)])]) == status
    said = capsys.readouterr().err
    assert complaint in said
    assert "Traceback" not in said


def test_names_and_passwords(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p%s&=\n")
    name = "q/é &=%"
    (tmp_path / "o").mkdir()
    (tmp_path / "n").mkdir()
    with (
        running(tmp_path / "o", ["--auth-file", str(secret)]) as old,
        running(tmp_path / "n") as new,
    ):
        with Remote(url(old), name, "p%s&=") as source:
            source.put(b"x")
        stranger = Remote(url(old), name, "wrong")
        with stranger, pytest.raises(ImportFailed, match="password"):
            stranger.put(b"x")
        command = ["import", url(old), name, "--to", url(new), "--journal", str(tmp_path)]
        assert main([*command, "--source-auth-file", str(secret)]) == 0
        assert new.ask(f"name={quote(name)}&opt=get") == b"x"
