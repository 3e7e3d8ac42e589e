"""`logqueue.Client` and `logqueue.AsyncClient` against real daemons over real sockets."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import trio
import trustme

import logqueue
from logqueue import AsyncClient, Client
from logqueue.client import InDoubt, LeaseLost, Message, Refused, Unreachable
from tests.daemon import START_S, Daemon, running

_names = (f"q{number}" for number in count())


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("client"), ["--durability", "os"]) as started:
        yield started


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(at(daemon)) as connected:
        yield connected


@pytest.fixture
def queue() -> str:
    """A name that no other test uses."""
    return next(_names)


def at(daemon: Daemon) -> str:
    return f"http://127.0.0.1:{daemon.port}"


def bodies(messages: list[Message]) -> list[bytes]:
    return [each.body for each in messages]


# ------------------------------------------------------------------ operations


def test_put_and_get(client: Client, queue: str) -> None:
    everything = bytes(range(256))
    assert client.put(queue, everything, content_type="image/png; x=1").sequence == 1
    stored = client.put(queue, b"")
    assert (stored.sequence, stored.pos, stored.durable) == (2, 2, "page-cache")
    got = client.get(queue)
    assert got is not None
    assert (got.body, got.content_type, got.lease) == (everything, "image/png; x=1", None)
    assert got.time_ms > 1_700_000_000_000
    empty = client.get(queue)
    assert empty is not None
    assert (empty.body, empty.content_type) == (b"", "application/octet-stream")
    assert client.get(queue) is None
    assert client.get(queue, wait_s=0.01) is None


def test_a_type_that_is_no_header_is_refused_here(client: Client, queue: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        client.put(queue, b"", content_type="a/b\r\nX: y")


def test_many(client: Client, queue: str) -> None:
    messages = [b"\xff%d" % number for number in range(3000)]
    stored = client.put_many(queue, iter(messages))
    assert (stored.first, stored.last, stored.count) == (1, 3000, 3000)
    with client.receive_many(queue, 2000) as taken:
        assert bodies(taken) == messages[:2000]
    with client.receive_many(queue, 10_000) as taken:
        assert bodies(taken) == messages[2000:]
    with client.receive_many(queue, 10) as taken:
        assert taken == []


@pytest.mark.parametrize("name", ["", "a/b?c=%&+", "é", "\udcff", "..", "x" * 256])
def test_every_name(client: Client, name: str) -> None:
    client.put(name, b"x")
    assert client.describe(name).name == name
    assert name in [each.name for each in client.queues()]
    got = client.get(name)
    assert got is not None
    assert got.body == b"x"


def test_receive_acknowledges_at_the_end(client: Client, queue: str) -> None:
    client.put(queue, b"job")
    with client.receive(queue, lease_s=60) as message:
        assert message is not None
        assert (message.body, message.attempts) == (b"job", 1)
        assert client.describe(queue).leased == 1
    assert client.describe(queue).leased == client.describe(queue).ready == 0
    with client.receive(queue) as message:
        assert message is None


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_receive_gives_back_when_the_work_fails(
    client: Client, queue: str, fault: type[BaseException]
) -> None:
    client.put_many(queue, [b"a", b"b"])
    with pytest.raises(fault), client.receive_many(queue, 2, lease_s=60):
        raise fault
    with client.receive_many(queue, 2) as messages:
        assert bodies(messages) == [b"a", b"b"]
        assert [each.attempts for each in messages] == [2, 2]


def test_a_lease_that_ended_is_told(client: Client, queue: str) -> None:
    client.put(queue, b"slow")
    with contextlib.ExitStack() as block:
        message = block.enter_context(client.receive(queue, lease_s=0.01))
        assert message is not None
        again = client.lease(queue, wait_s=START_S, lease_s=60)
        assert bodies(again) == [b"slow"]
        with pytest.raises(LeaseLost) as caught:
            block.close()
    assert caught.value.expired == (message.lease,)
    assert again[0].lease is not None
    client.extend(queue, again[0].lease, 120)
    client.ack(queue, [again[0].lease])
    client.ack(queue, [again[0].lease])  # once more is the same
    assert message.lease is not None
    with pytest.raises(LeaseLost):
        client.extend(queue, message.lease, 1)
    with pytest.raises(LeaseLost) as caught:
        client.ack(queue, ["x"])
    assert caught.value.unknown == ("x",)


def test_release_with_a_delay(client: Client, queue: str) -> None:
    client.put(queue, b"later")
    leases = [each.lease for each in client.lease(queue) if each.lease]
    assert client.release(queue, leases, delay_s=3600) == 1
    assert client.release(queue, leases) == 0
    assert client.describe(queue).delayed == 1
    assert client.get(queue) is None


def test_consume_is_a_loop(client: Client, queue: str) -> None:
    client.put_many(queue, [b"1", b"2", b"3"])
    seen = []
    for delivery in client.consume(queue, lease_s=60, idle_s=0.0):
        with delivery as message:
            seen.append(message.body)
    assert seen == [b"1", b"2", b"3"]
    assert client.describe(queue).consumed == 3


def test_a_queue_that_is_not_there_yet_is_empty(client: Client, queue: str) -> None:
    assert client.get(queue) is None
    assert client.lease(queue, 10, wait_s=0.01) == []
    with client.receive(queue) as message:
        assert message is None
    assert queue not in [each.name for each in client.queues()]


def test_consume_wakes_up_for_each_message(client: Client, daemon: Daemon, queue: str) -> None:
    seen = []
    puts = threading.Thread(
        target=lambda: [daemon.ask(f"name={queue}&opt=put&data={each}") for each in "abc"]
    )
    puts.start()
    for delivery in client.consume(queue):
        with delivery as message:
            seen.append(message.body)
        if len(seen) == 3:
            break
    puts.join()
    assert seen == [b"a", b"b", b"c"]


def test_administration(client: Client, queue: str) -> None:
    made = client.create(queue, max_attempts=3, dead_letter="dead")
    assert made == client.create(queue, max_attempts=3, dead_letter="dead")
    assert made.options["max_attempts"] == 3
    with pytest.raises(Refused) as caught:
        client.create(queue)
    assert (caught.value.status, caught.value.code) == (409, "queue-exists")
    assert client.change(queue, paused=True).options["paused"] is True
    client.put_many(queue, [b"a", b"b"])
    assert client.get(queue) is None
    assert [(each.body, each.state) for each in client.peek(queue)] == [
        (b"a", "ready"),
        (b"b", "ready"),
    ]
    assert bodies(client.peek(queue, 2, 1)) == [b"b"]
    assert client.purge(queue) == 2
    client.delete(queue)
    with pytest.raises(Refused, match="no-such-queue"):
        client.describe(queue)
    assert client.ready() == (True, "ok")


def test_a_full_queue_is_told_at_once(client: Client, queue: str) -> None:
    client.create(queue, max_length=10)
    client.put_many(queue, [b"x"] * 10)
    with pytest.raises(Refused) as caught:
        client.put(queue, b"x")
    assert (caught.value.code, caught.value.retry_after_s) == ("queue-full", 1)


def test_a_long_list_of_queues_has_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logqueue.client.operations.LIST_LIMIT", 2)
    with running(tmp_path, ["--durability", "os"]) as daemon, Client(at(daemon)) as client:
        names = ["", "%", "a", "b&c", "d"]
        for name in names:
            client.create(name)
        assert [each.name for each in client.queues()] == names


def test_connections_are_reused(client: Client, daemon: Daemon, queue: str) -> None:
    client.put(queue, b"x")
    before = os.listdir(f"/proc/{daemon.pid}/fd")
    for _ in range(50):
        client.put(queue, b"x")
    assert os.listdir(f"/proc/{daemon.pid}/fd") == before


def test_one_client_for_many_threads(client: Client, queue: str) -> None:
    def produce(number: int) -> None:
        for index in range(20):
            client.put(queue, b"%d %d" % (number, index))

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with client.receive_many(queue, 1000) as messages:
        found = bodies(messages)
    assert sorted(found) == sorted(b"%d %d" % (n, i) for n in range(8) for i in range(20))


# ------------------------------------------------------------------ trio


async def test_trio_does_the_same(daemon: Daemon, queue: str) -> None:
    async with AsyncClient(at(daemon)) as client:
        await client.put_many(queue, [b"1", b"2"])
        await client.put(queue, b"3", content_type="a/b")
        got = await client.get(queue)
        assert got is not None
        assert got.body == b"1"
        async with client.receive(queue) as message:
            assert message is not None
            assert message.body == b"2"
        seen = []
        async for delivery in client.consume(queue, idle_s=0.0):
            async with delivery as message:
                seen.append((message.body, message.content_type))
        assert seen == [(b"3", "a/b")]
        await client.put(queue, b"4")
        with pytest.raises(ZeroDivisionError):
            async with client.receive_many(queue, 5) as messages:
                assert bodies(messages)[1 // 0]
        assert queue in [each.name async for each in client.queues()]
        details = await client.describe(queue)
        assert (details.consumed, details.ready, details.leased) == (3, 1, 0)
        assert await client.ready() == (True, "ok")


async def test_a_cancelled_wait_takes_no_message(daemon: Daemon, queue: str) -> None:
    async with AsyncClient(at(daemon)) as client:
        await client.create(queue)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.get, queue, wait_s=START_S))
            while not (await client.describe(queue)).waiting:
                pass
            nursery.cancel_scope.cancel()
        await client.put(queue, b"x")
        assert await client.get(queue) is not None


async def test_a_cancelled_consumer_gives_its_message_back(daemon: Daemon, queue: str) -> None:
    async with AsyncClient(at(daemon)) as client:
        await client.put(queue, b"x")
        with trio.CancelScope() as scope:
            async with client.receive(queue, lease_s=3600) as message:
                assert message is not None
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert (await client.describe(queue)).ready == 1


# ------------------------------------------------------------------ faults


@contextmanager
def misbehaving(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives each connection one of these answers and closes it; what it was sent."""
    received: list[bytes] = []

    def serve() -> None:
        for each in answers:
            connection, _ = listener.accept()
            with connection:
                received.append(_request(connection))
                connection.sendall(each)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", received
        server.join()


def _request(connection: socket.socket) -> bytes:
    """One request whose head says how long its body is."""
    found = b""
    while data := connection.recv(1 << 16):
        found += data
        head, end, body = found.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        if end and length is not None and len(body) == int(length[1]):
            break
    return found


STORED = b"HTTP/1.1 201 Created\r\nContent-Length: 39\r\n\r\n" + (
    b'{"sequence":1,"pos":1,"durable":"disk"}'
)
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
ACKNOWLEDGED = b"HTTP/1.1 200 OK\r\nContent-Length: 59\r\n\r\n" + (
    b'{"acknowledged":1,"released":0,"expired":[],"unknown":[]}  '
)


def test_a_put_is_repeated_when_it_was_refused_unseen() -> None:
    with misbehaving(BUSY, BUSY, STORED) as (url, received), Client(url) as client:
        assert client.put("q", b"x").sequence == 1
    assert len(received) == 3


@pytest.mark.parametrize("answer", [b"", STORED[:10], STORED[:-1]], ids=["none", "head", "body"])
def test_a_put_in_doubt_is_not_repeated(answer: bytes) -> None:
    with misbehaving(answer) as (url, received), Client(url) as client:
        with pytest.raises(InDoubt, match=url):
            client.put("q", b"x")
        assert len(received) == 1


def test_an_acknowledgement_in_doubt_is_repeated() -> None:
    with misbehaving(b"", ACKNOWLEDGED) as (url, received), Client(url) as client:
        client.ack("q", ["x"])
    assert received[0] == received[1]


def test_no_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = Client(url, timeout_s=0.01, retry_s=0)
        with client, pytest.raises(InDoubt, match="no answer in time"):
            client.put("q", b"x")


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:1", retry_s=0.0) as client, pytest.raises(Unreachable):
        client.put("q", b"x")


async def test_nobody_there_for_trio() -> None:
    async with AsyncClient("http://127.0.0.1:1", retry_s=0.0) as client:
        with pytest.raises(Unreachable):
            await client.put("q", b"x")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_consumer_outlives_its_daemon(tmp_path: Path, how: signal.Signals) -> None:
    """Neither the end nor the start of the daemon is seen by who consumes with leases."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.arguments = ["-p", str(daemon.port)]
        with Client(at(daemon)) as producer, Client(at(daemon), retry_s=START_S) as client:
            producer.put("q", b"1")
            deliveries = client.consume("q")
            with next(deliveries) as message:
                assert message.body == b"1"
                daemon.stop(how)
                daemon.start()
            producer.put("q", b"2")
            with next(deliveries) as message:
                assert message.body == b"2"

            def restart() -> None:
                daemon.stop(how)
                daemon.start()
                producer.put("q", b"3")

            meanwhile = threading.Thread(target=restart)
            meanwhile.start()
            with next(deliveries) as message:
                assert message.body == b"3"
            meanwhile.join()
        assert daemon.stop() == 0


# ------------------------------------------------------------------ ways to a server


def test_a_unix_socket() -> None:
    directory = Path(f"/tmp/logqueue-test-client-{os.getpid()}")  # short enough for a socket
    directory.mkdir()
    try:
        with running(directory, ["-l", f"unix:{directory}/s"]):
            with Client(f"unix:{directory}/s") as client:
                assert client.put("q", b"x").durable == "disk"

            async def get() -> Message | None:
                async with AsyncClient(f"unix:{directory}/s") as client:
                    return await client.get("q")

            assert trio.run(get) is not None
    finally:
        shutil.rmtree(directory)


def test_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p:ä @\n", encoding="utf-8")
    with running(tmp_path, ["--auth-file", str(secret)]) as daemon:
        with Client(at(daemon)) as client, pytest.raises(Refused) as caught:
            client.put("q", b"x")
        assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        with Client(at(daemon), password="p:ä @") as client:
            client.put("q", b"x")
        with Client(f"http://:p%3A%C3%A4%20%40@127.0.0.1:{daemon.port}") as client:
            client.put("q", b"x")
        monkeypatch.setenv("LOGQUEUE_AUTH", "p:ä @")
        monkeypatch.setenv("LOGQUEUE_URL", at(daemon))
        with Client() as client:
            assert client.put("q", b"x").sequence == 3


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(tmp_path / "certificate", append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    arguments = ["--tls-cert", str(tmp_path / "certificate"), "--tls-key", str(tmp_path / "key")]
    with running(tmp_path, arguments) as daemon:
        url = f"https://127.0.0.1:{daemon.port}"
        with Client(url, ssl_context=trusting) as client:
            client.put("q", b"x")
        with Client(url) as client, pytest.raises(Unreachable, match="certificate verify failed"):
            client.put("q", b"x")

        async def get() -> Message | None:
            async with AsyncClient(url, ssl_context=trusting) as client:
                return await client.get("q")

        assert trio.run(get) is not None

        async def stranger() -> None:
            async with AsyncClient(url) as client:
                with pytest.raises(Unreachable):
                    await client.get("q")

        trio.run(stranger)


def test_what_is_not_there_is_said_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clients'"):
        logqueue.Clients  # noqa: B018
