"""Hot backups: taken while a daemon works, restored by starting on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from logqueue.backup import backup
from logqueue.cli.command import main
from logqueue.errors import Corrupt, NewerFormat, UsageError
from logqueue.storage.disk import MmapDisk
from logqueue.storage.format import SEGMENT_BYTES_MIN
from logqueue.storage.opening import open_queue
from logqueue.storage.queue import Options
from logqueue.storage.store import Store
from tests.daemon import Daemon
from tools.pipeline import Pipeline, put_request, request

SMALL = ["--segment-bytes", str(64 << 10)]
END = b"HTTPSQS_GET_END"


def drain(port: int, queue: str) -> list[int]:
    """The numbers that the messages of a queue begin with."""
    numbers = []
    with Pipeline(port) as connection:
        while (body := connection.ask([request(queue, "get")])[0]) != END:
            numbers.append(int(body.split()[0]))
    return numbers


class Traffic:
    """Threads that use a daemon until told to stop, each with a count of what is behind it."""

    def __init__(self, port: int) -> None:
        self.put = 0  # messages of `busy` that were acknowledged
        self.got = 0
        self.rounds = 0
        self._port = port
        self._stop = threading.Event()
        self._moved = threading.Condition()
        works: list[Callable[[Pipeline], None]] = [self._produce, self._consume, self._reset]
        self._threads = [threading.Thread(target=self._repeat, args=(each,)) for each in works]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_until_it_moves(self) -> None:
        """Until every thread has done something more."""
        with self._moved:
            put, rounds = self.put, self.rounds
            assert self._moved.wait_for(
                lambda: self.put >= put + 30 and self.rounds > rounds, timeout=60
            )

    def _repeat(self, work: Callable[[Pipeline], None]) -> None:
        with Pipeline(self._port) as connection:
            while not self._stop.is_set():
                work(connection)
                with self._moved:
                    self._moved.notify_all()

    def _produce(self, connection: Pipeline) -> None:
        numbers = range(self.put + 1, self.put + 11)
        puts = [put_request("busy", b"%d " % number + bytes(3000)) for number in numbers]
        assert set(connection.ask(puts)) == {b"HTTPSQS_PUT_OK"}
        self.put += 10

    def _consume(self, connection: Pipeline) -> None:
        if self.put - self.got < 60:
            return
        for body in connection.ask([request("busy", "get")] * 10):
            self.got += 1
            assert int(body.split()[0]) == self.got

    def _reset(self, connection: Pipeline) -> None:
        puts = [put_request("reset", b"%d " % number + bytes(9000)) for number in range(20)]
        connection.ask([*puts, request("reset", "reset"), request("reset", "maxqueue&num=999")])
        self.rounds += 1


def test_backups_under_load_are_moments_of_the_queue(tmp_path: Path) -> None:
    with Daemon(tmp_path, SMALL) as daemon:
        daemon.start()
        taken = []
        with Traffic(daemon.port) as traffic:
            for number in range(4):
                traffic.wait_until_it_moves()
                put, got = traffic.put, traffic.got
                copy = tmp_path / f"copy{number}" / "data"
                copy.parent.mkdir()
                assert backup(str(daemon.data), str(copy)) == []
                taken.append((copy, put, got, traffic.got))
        assert traffic.got > 0
        daemon.stop()
    for copy, put, got, got_after in (taken[0], taken[-1]):
        with Daemon(copy.parent, SMALL) as restored:
            restored.start()
            assert "WARNING" not in restored.log
            numbers = drain(restored.port, "busy")
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            # A pipelined batch of gets is in flight when the counts are read.
            assert got < numbers[0] <= got_after + 11
            assert numbers[-1] >= put
            restart = drain(restored.port, "reset")
            assert restart == list(range(len(restart)))
            restored.stop()


def closed_store(path: Path, count: int = 300) -> Path:
    """A data directory with one queue of several segments, a third of them consumed."""
    store = Store.open(MmapDisk(), str(path), Options(False, SEGMENT_BYTES_MIN))
    queue = store.create_queue(b"q")
    for number in range(count):
        queue.put(b"%d " % number + bytes(500))
    for _ in range(count // 3):
        queue.get()
    queue.close()
    store.close()
    return path


def test_sealed_segments_are_shared_and_the_tail_is_not(tmp_path: Path) -> None:
    source = closed_store(tmp_path / "data")
    assert backup(str(source), str(tmp_path / "copy")) == []
    pairs = [
        (path.stat(), (tmp_path / "copy/queues/q" / path.name).stat())
        for path in sorted((source / "queues/q").glob("*.log"))
    ]
    assert len(pairs) > 3
    assert [a.st_ino == b.st_ino for a, b in pairs] == [True] * (len(pairs) - 1) + [False]
    assert [a.st_size for a, _ in pairs] == [b.st_size for _, b in pairs]


def test_a_restored_queue_is_the_queue(tmp_path: Path) -> None:
    source = closed_store(tmp_path / "data")
    backup(str(source), str(tmp_path / "copy"))
    queues = []
    for path in (source, tmp_path / "copy"):
        queue, report = open_queue(MmapDisk(), str(path / "queues/q"), Options(False))
        assert report.notes == []
        queues.append((queue.positions, [queue.get() for _ in range(201)]))
        queue.close()
    assert queues[0] == queues[1]


def test_what_stands_behind_a_tear_is_not_taken_along(tmp_path: Path) -> None:
    source = closed_store(tmp_path / "data", count=10)
    [segment] = (source / "queues/q").glob("*.log")
    with segment.open("rb+") as file:
        file.seek(20_000)
        file.write(b"\xff" * 100)
    assert backup(str(source), str(tmp_path / "copy")) == []
    copied = (tmp_path / "copy/queues/q" / segment.name).read_bytes()
    assert copied[20_000:] == bytes(len(copied) - 20_000)


def test_a_damaged_queue_is_copied_as_it_is_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logqueue.backup.PAUSE_S", 0.0)
    source = closed_store(tmp_path / "data")
    (source / "queues/q/cursor").write_bytes(bytes(8192))
    assert main(["backup", str(source), str(tmp_path / "copy")]) == 6
    assert "cursor: offset 0: no cursor entry is readable" in capsys.readouterr().err
    for path in (source / "queues/q").iterdir():
        assert (tmp_path / "copy/queues/q" / path.name).read_bytes() == path.read_bytes()


def test_an_unfinished_creation_is_left_out(tmp_path: Path) -> None:
    source = closed_store(tmp_path / "data", count=1)
    (source / "queues/other.tmp").mkdir()
    assert backup(str(source), str(tmp_path / "copy")) == []
    assert os.listdir(tmp_path / "copy/queues") == ["q"]


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = closed_store(tmp_path / "data", count=1)
    (tmp_path / "copy").mkdir()
    with pytest.raises(UsageError, match="copy: exists already"):
        backup(str(source), str(tmp_path / "copy"))
    assert main(["backup", str(source), str(tmp_path / "copy")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert os.listdir(tmp_path / "copy") == []


def test_only_a_data_directory_of_a_known_format_is_copied(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no FORMAT file"):
        backup(str(tmp_path), str(tmp_path / "copy"))
    source = closed_store(tmp_path / "data", count=1)
    (source / "FORMAT").write_text("logqueue data directory, format 99\n")
    with pytest.raises(NewerFormat):
        backup(str(source), str(tmp_path / "copy"))
    (source / "FORMAT").write_text("?")
    with pytest.raises(Corrupt):
        backup(str(source), str(tmp_path / "copy"))
