"""Long polls over real sockets: order, wake-ups, and clients that go while they wait."""

from __future__ import annotations

import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest

from tests.daemon import START_S, Daemon, running
from tests.v1 import Client

_names = (f"q{number}" for number in count())


@pytest.fixture(scope="module", params=["always", "interval"])
def daemon(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("waits")
    with running(directory, ["--durability", request.param]) as started:
        yield started


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.port) as connected:
        yield connected


@pytest.fixture
def queue(client: Client) -> str:
    """An empty queue that no other test uses."""
    name = next(_names)
    assert client.ask("PUT", f"/queues/{name}").status == 201
    return name


class Parked:
    """A client whose long poll is parked."""

    sockets: ClassVar[list[socket.socket]] = []  # of one test

    def __init__(
        self, daemon: Daemon, queue: str, *, legacy: bool = False, more: bytes = b""
    ) -> None:
        target = f"/v1/queues/{queue}/messages/receive?wait=60s&lease=0"
        if legacy:
            target = f"/?name={queue}&opt=get&wait=60"
        self.socket = daemon.connect()
        self.sockets.append(self.socket)
        method = "GET" if legacy else "POST"
        with Client(daemon.port) as watching:
            before = watching.details(queue)["waiting"]
            self.socket.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + more)
            until(watching, queue, int(str(before)) + 1)

    def answer(self) -> bytes:
        """What has come, or comes, up to the end of one body."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += (received := self.socket.recv(65536))
            assert received, data
        head, _, body = data.partition(b"\r\n\r\n")
        (length,) = [
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.startswith(b"Content-Le")
        ] or [0]
        while len(body) < length:
            body += self.socket.recv(65536)
        return head + b"\r\n\r\n" + body

    def is_silent(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]

    def reset(self) -> None:
        """Go with a reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.fixture(autouse=True)
def _hang_up() -> Iterator[None]:
    yield
    while Parked.sockets:
        Parked.sockets.pop().close()


def until(client: Client, queue: str, waiting: int) -> None:
    """Ask until so many wait."""
    deadline = time.monotonic() + START_S
    while (found := client.details(queue)["waiting"]) != waiting:
        assert time.monotonic() < deadline, found


def test_answers_come_in_arrival_order(daemon: Daemon, client: Client, queue: str) -> None:
    parked = [Parked(daemon, queue, legacy=number % 2 == 1) for number in range(6)]
    for number, each in enumerate(parked):
        assert each.is_silent()
        client.put(queue, b"message %d" % number)
        assert each.answer().endswith(b"\r\n\r\nmessage %d" % number)
    assert client.details(queue)["waiting"] == 0


def test_one_batch_wakes_many(daemon: Daemon, client: Client, queue: str) -> None:
    parked = [Parked(daemon, queue) for _ in range(5)]
    client.put(queue, *(b"%d" % number for number in range(6)))
    assert [each.answer()[-1:] for each in parked] == [b"%d" % number for number in range(5)]
    assert client.receive(queue, "lease=0").body == b"5"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("how", ["close", "reset", "behind a pipelined request"])
def test_who_hangs_up_takes_nothing(
    daemon: Daemon, client: Client, queue: str, how: str, legacy: bool
) -> None:
    """At once behind the end: nobody is given time to notice it."""
    for number in range(20):
        pipelined = b"GET /healthz HTTP/1.1\r\n\r\n" if how.startswith("behind") else b""
        parked = Parked(daemon, queue, legacy=legacy, more=pipelined)
        parked.reset() if how == "reset" else parked.socket.close()
        client.put(queue, b"%d" % number)
        assert client.receive(queue, "lease=0").body == b"%d" % number
    until(client, queue, 0)


def test_who_hangs_up_leaves_the_line(daemon: Daemon, client: Client, queue: str) -> None:
    gone, stays = Parked(daemon, queue), Parked(daemon, queue)
    gone.socket.close()
    until(client, queue, 1)
    client.put(queue, b"1")
    assert stays.answer().endswith(b"\r\n\r\n1")


def test_who_sends_no_more_is_told_that_nothing_came(
    daemon: Daemon, client: Client, queue: str
) -> None:
    parked = Parked(daemon, queue)
    parked.socket.shutdown(socket.SHUT_WR)
    assert parked.answer().startswith(b"HTTP/1.1 204 ")
    legacy = Parked(daemon, queue, legacy=True)
    legacy.socket.shutdown(socket.SHUT_WR)
    assert legacy.answer().endswith(b"\r\n\r\nHTTPSQS_GET_END")
    client.put(queue, b"1")
    assert client.receive(queue).body == b"1"


def test_a_pipelined_request_waits_its_turn(daemon: Daemon, client: Client, queue: str) -> None:
    parked = Parked(daemon, queue, more=b"GET /healthz HTTP/1.1\r\n\r\n")
    assert parked.is_silent()
    client.put(queue, b"1")
    data = b""
    while b"ok\n" not in data:
        data += parked.socket.recv(65536)
    assert data.index(b"\r\n\r\n1HTTP/1.1 200") < data.index(b"ok\n")
    more = Parked(daemon, queue)  # the other connection is served as before
    parked.socket.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert parked.socket.recv(65536).endswith(b"ok\n")
    assert more.is_silent()


def test_a_wait_ends_when_its_time_is_up(daemon: Daemon, client: Client, queue: str) -> None:
    assert client.receive(queue, "wait=50ms").status == 204
    assert daemon.ask(f"name={queue}&opt=get&wait=0.05") == b"HTTPSQS_GET_END"
    assert daemon.ask(f"name={queue}-new&opt=get&wait=50ms") == b"HTTPSQS_GET_END"


def test_a_legacy_wait_finds_what_is_there(daemon: Daemon, client: Client, queue: str) -> None:
    client.put(queue, b"1", b"2")
    answer = daemon.talk(f"GET /?name={queue}&opt=get&wait=0 HTTP/1.1\r\n\r\n".encode())
    assert b"\r\nPos: 1\r\n" in answer
    with daemon.connect() as patient:  # not closed for sending: it may wait
        patient.sendall(f"GET /?name={queue}&opt=get&wait=60 HTTP/1.1\r\n\r\n".encode())
        assert patient.recv(65536).endswith(b"\r\n\r\n2")


@pytest.mark.parametrize("wait", ["61", "-1", "x", "", "60.1s", "1e1"])
def test_a_legacy_wait_out_of_range(daemon: Daemon, queue: str, wait: str) -> None:
    assert daemon.ask(f"name={queue}&opt=get&wait={wait}") == b"HTTPSQS_ERROR"


def test_head_waits_for_nothing(daemon: Daemon, client: Client, queue: str) -> None:
    client.put(queue, b"1")
    answer = daemon.talk(f"HEAD /?name={queue}&opt=get&wait=5 HTTP/1.1\r\n\r\n".encode())
    assert b"Content-Length: 13\r\n" in answer  # HTTPSQS_ERROR
    assert client.receive(queue).body == b"1"


def test_waits_outlive_their_queue(daemon: Daemon, client: Client, queue: str) -> None:
    parked = Parked(daemon, queue)
    assert client.call("DELETE", f"/queues/{queue}").status == 204
    client.put(queue, b"of a new one")
    assert parked.answer().endswith(b"\r\n\r\nof a new one")


def test_a_queue_that_is_not_there_is_empty(client: Client) -> None:
    for query in ("", "wait=10ms", "wait=10ms&lease=0&max=9"):
        assert client.receive("nobody's", query).status == 204
    assert client.call("GET", "/queues/nobody's").code == "no-such-queue"


def test_resume_and_lease_ends_wake(daemon: Daemon, client: Client, queue: str) -> None:
    client.call("POST", f"/queues/{queue}/pause")
    client.put(queue, b"1", b"2")
    parked = Parked(daemon, queue)
    assert parked.is_silent()
    client.call("POST", f"/queues/{queue}/resume")
    assert parked.answer().endswith(b"\r\n\r\n1")
    assert client.receive(queue, "lease=100ms").body == b"2"
    assert Parked(daemon, queue).answer().endswith(b"\r\n\r\n2")
    path = f"/queues/{queue}/leases"
    client.put(queue, b"3")
    lease = client.receive(queue, "lease=1h").headers["Queue-Lease"]
    parked = Parked(daemon, queue)
    client.ask("POST", path, {"release": [{"lease": lease, "delay": "50ms"}]})
    assert parked.answer().endswith(b"\r\n\r\n3")


def test_a_stop_ends_all_waits(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        with Client(daemon.port) as client:
            client.ask("PUT", "/queues/q")
        parked = [Parked(daemon, "q"), Parked(daemon, "q", legacy=True)]
        daemon.send(signal.SIGTERM)
        assert b"HTTP/1.1 204 No Content\r\n" in (answer := parked[0].answer())
        assert b"\r\nConnection: close\r\n" in answer
        assert parked[1].answer().endswith(b"\r\n\r\nHTTPSQS_GET_END")
        assert daemon.wait(START_S) == 0


def test_a_wait_may_outlast_the_time_limits_of_a_connection(tmp_path: Path) -> None:
    with running(tmp_path, ["-t", "0.2"]) as daemon:
        with Client(daemon.port) as client:
            client.ask("PUT", "/queues/q")
            assert client.receive("q", "wait=1s").status == 204
        parked = Parked(daemon, "q")
        with Client(daemon.port) as client:
            assert client.receive("q", "wait=500ms").status == 204  # behind the other one
            client.put("q", b"1")
        assert parked.answer().endswith(b"\r\n\r\n1")


def test_waits_are_bounded(tmp_path: Path) -> None:
    with running(tmp_path, ["--max-waits", "2"]) as daemon, Client(daemon.port) as client:
        client.ask("PUT", "/queues/q")
        parked = [Parked(daemon, "q"), Parked(daemon, "q", legacy=True)]
        assert b"\nlogqueue_long_polls 2.0\n" in daemon.talk(
            b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        refused = client.receive("q", "wait=1s")
        assert (refused.status, refused.code) == (503, "too-many-waits")
        assert refused.headers["Retry-After"] == "1"
        assert daemon.ask("name=q&opt=get&wait=1") == b"HTTPSQS_ERROR"
        assert client.receive("q").status == 204  # who does not wait is served
        parked[0].socket.close()
        until(client, "q", 1)
        assert client.receive("q", "wait=10ms").status == 204
