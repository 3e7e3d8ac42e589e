"""Queues as metrics see them: ages, counters that never fall, and looks beside workers."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from logqueue import census
from logqueue.census import OTHERS, Census
from logqueue.messages import LocalMessageQueues
from logqueue.options import QueueOptions
from logqueue.web.failures import FAILING_QUEUES_MAX, Failures
from tests.daemon import Daemon, running
from tests.test_local import serving
from tests.test_monitor import fetch, metrics


def test_the_oldest_age_is_that_of_the_oldest_message(tmp_path: Path) -> None:
    """Hot, after a get, behind a roll, empty, after restarts with and without a clean end."""

    def age_once(fits: Callable[[float], bool]) -> float:
        """The age when it fits; a scrape is remembered for a second."""
        deadline = time.monotonic() + 30
        while True:
            value = metrics(daemon).get(("logqueue_queue_oldest_age_seconds", ("q",)))
            if value is not None and fits(value):
                return value
            assert time.monotonic() < deadline

    with Daemon(tmp_path) as daemon:
        daemon.start()
        began = time.time()
        daemon.ask("name=q&opt=put", b"x" * 20_000)
        assert age_once(lambda age: age >= 1) <= time.time() - began
        daemon.stop()
        daemon.start()
        assert age_once(lambda age: age >= 1) <= time.time() - began
        second = time.time()
        daemon.ask("name=q&opt=put", b"y" * 20_000)  # a segment of its own
        daemon.stop(signal.SIGKILL)
        daemon.start()
        daemon.ask("name=q&opt=get")
        assert age_once(lambda age: age > 0) <= time.time() - second
        daemon.ask("name=q&opt=get")
        assert age_once(lambda age: age == 0) == 0
        daemon.stop()


async def test_a_look_at_a_queue_that_a_worker_owns_shows_what_was_before(tmp_path: Path) -> None:
    working, looked = threading.Event(), threading.Event()

    async with serving(tmp_path) as queues, trio.open_nursery() as nursery:
        for number in range(3):
            await queues.put(b"q", b"%d" % number)
        before = queues.sight(b"q")
        handle = await queues._pool.acquire(b"q")

        def halfway() -> None:
            """What a reset or a roll may look like in the middle."""
            log, handle.queue.log = handle.queue.log, None  # type: ignore[assignment]
            working.set()
            assert looked.wait(30)
            handle.queue.log = log

        nursery.start_soon(queues._pool.hand_over, handle, halfway)
        await trio.to_thread.run_sync(working.wait)
        try:
            assert handle.away
            assert queues.sight(b"q") == before
        finally:
            looked.set()
    # The context closed the queue: it had come back.


def test_looks_beside_rolls_resets_and_closes(tmp_path: Path) -> None:
    """Twelve queues of which three may be open, and workers have them all the time."""
    arguments = ["--max-open-queues", "3", "--segment-bytes", "65536", "--durability", "os"]
    stop = threading.Event()

    def load(number: int) -> None:
        with daemon.connect() as client:
            turn = 0
            while not stop.is_set():
                turn += 1
                name = f"q{(number * 4 + turn) % 12}"
                for target in (
                    f"/?name={name}&opt=put&data={'x' * 9000}",
                    f"/?name={name}&opt=get",
                    f"/?name={name}&opt={'reset' if turn % 7 == 0 else 'maxqueue&num=1000'}",
                    f"/v1/queues/{name}/messages/receive?lease=1s",
                ):
                    method = "POST" if target.startswith("/v1") else "GET"
                    ask(client, method, target)

    with running(tmp_path, arguments) as daemon:
        workers = [threading.Thread(target=load, args=(number,)) for number in range(3)]
        for each in workers:
            each.start()
        last: dict[str, float] = {}
        try:
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                listed = json.loads(fetch(daemon, "/?opt=queues&limit=1000")[2])
                assert all(row["bytes"] >= 0 and row["unread"] >= 0 for row in listed["queues"])
                assert fetch(daemon, "/v1/queues")[0] == b"HTTP/1.1 200 OK"
                for (name, labels), value in metrics(daemon).items():
                    if name == "logqueue_queue_put_total":
                        assert value >= last.get(labels[0], 0)
                        last[labels[0]] = value
        finally:
            stop.set()
            for each in workers:
                each.join()
        assert len(last) == 12
        assert "bug in logqueue" not in daemon.log


def ask(client: socket.socket, method: str, target: str) -> None:
    client.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(1 << 16)
    head, _, body = answer.partition(b"\r\n\r\n")
    left = int((head.lower() + b"\r\ncontent-length: 0").split(b"content-length: ")[1].split()[0])
    left -= len(body)
    while left > 0:
        left -= len(client.recv(1 << 16))


async def test_counters_never_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when queues without a label are deleted, nor when one of them gets a label."""
    monkeypatch.setattr(census, "METRIC_QUEUES_MAX", 1)
    monkeypatch.setattr("tests.test_local.LocalQueues", LocalMessageQueues)
    async with serving(tmp_path) as queues:
        assert isinstance(queues, LocalMessageQueues)
        for name in (b"a", b"b", b"c"):
            await queues.create_queue(name, QueueOptions())
            await queues.put(name, b"x")
        found = Census(queues, Failures())
        await found.look()
        (labelled,) = set(found.numbers) - {OTHERS}
        assert found.numbers[OTHERS].put == 2
        assert found.numbers[OTHERS].unread == 2
        await queues.delete_queue(labelled.encode())
        await found.look()
        assert found.numbers[OTHERS].put == 2  # one of the two has a label now
        assert found.numbers[OTHERS].unread == 1
        (again,) = set(found.numbers) - {OTHERS}
        (other,) = {b"a", b"b", b"c"} - {labelled.encode(), again.encode()}
        await queues.put(other, b"x")
        await queues.get(other)
        await found.look()
        assert (found.numbers[OTHERS].put, found.numbers[OTHERS].taken) == (3, 1)
        await queues.delete_queue(other)
        await found.look()
        assert (found.numbers[OTHERS].put, found.numbers[OTHERS].unread) == (3, 0)
        assert found.ages_s.keys() == found.numbers.keys() - {OTHERS}


def test_errors_are_counted_by_queue_and_bounded() -> None:
    failures = Failures()
    for number in range(FAILING_QUEUES_MAX + 5):
        failures.count(b"put", b"%d" % number)
    failures.count(b"get", b"0")
    assert len(failures.by_queue) == FAILING_QUEUES_MAX + 1
    assert failures.by_queue[None] == 5
    failures.fold({b"0", b"1"})
    assert failures.by_queue == {b"0": 2, b"1": 1, None: FAILING_QUEUES_MAX + 3}
    assert failures.by_operation == {b"put": FAILING_QUEUES_MAX + 5, b"get": 1}


def test_errors_of_a_queue_show(tmp_path: Path) -> None:
    with Daemon(tmp_path, ["--max-queues", "2"]) as daemon:
        daemon.start()
        for name in ("bad", "good"):
            daemon.ask(f"name={name}&opt=put&data=x")
        daemon.stop()
        (segment,) = (daemon.data / "queues" / "bad").glob("*.log")
        content = bytearray(segment.read_bytes())
        content[4096 + 32] ^= 1
        segment.write_bytes(content)
        daemon.start()
        daemon.ask("name=bad&opt=get")
        daemon.talk(b"POST /v1/queues/bad/messages/receive HTTP/1.1\r\nHost: x\r\n\r\n")
        daemon.ask("name=new&opt=put&data=x")
        found = metrics(daemon)
        assert found["logqueue_queue_errors_total", ("bad",)] == 2
        assert found["logqueue_queue_errors_total", ("good",)] == 0
        assert found["logqueue_queue_errors_total", (OTHERS,)] == 1
        assert found["logqueue_queue_damaged", ("bad",)] == 1
        assert found["logqueue_operation_errors_total", ("v1",)] == 1
        daemon.stop()


def test_the_exposition_is_well_formed(tmp_path: Path) -> None:
    """What promtool checks: names, types, help, histograms that rise to their count."""
    with running(tmp_path) as daemon:
        for name in ("q", "a%22b%5C%0A", "%FF", ""):
            daemon.ask(f"name={name}&opt=put&data=x")
        families = list(text_string_to_metric_families(fetch(daemon, "/metrics")[2]))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert family.documentation
        assert family.type in ("gauge", "counter", "histogram")
        assert family.name.startswith(("logqueue_", "process_"))
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        seen = [(sample.name, tuple(sample.labels.items())) for sample in family.samples]
        assert len(seen) == len(set(seen))
        if family.type == "histogram":
            counts = [each.value for each in family.samples if each.name.endswith("_bucket")]
            (total,) = (each.value for each in family.samples if each.name.endswith("_count"))
            assert counts == sorted(counts)
            assert counts[-1] == total
