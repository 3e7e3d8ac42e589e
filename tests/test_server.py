"""The server's sockets: time limits, bounds, drain, and clients that misbehave.

A server in this process, with a handler that the test holds in its hand; real sockets.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import trio
import trio.testing

from logqueue.config import KIB, MIB, Config
from logqueue.errors import StorageFailed
from logqueue.listening import tcp
from logqueue.web.message import Handler, Prepared, Promise, Request, Response
from logqueue.web.server import Listener, serve

CONFIG = Config(data_directory="", timeout_idle_s=30, drain_s=30)
GET = b"GET / HTTP/1.1\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
REPEATED = b"GET /?name=q&opt=get HTTP/1.1\r\n\r\n"  # as often as it is sent


def with_limits(**limits: Any) -> Config:
    return dataclasses.replace(CONFIG, **limits)


class Sometimes:
    """A handler that answers every other request at once and the others in their own task."""

    def __init__(
        self, answer: Callable[[Request], Response], *, at_once_first: bool = True
    ) -> None:
        self._answer = answer
        self._at_once = itertools.cycle([at_once_first, not at_once_first])

    def prepare(self, request: Request) -> Prepared | None:
        return None

    def handle_nowait(self, request: Request) -> Response | None:
        return self._answer(request) if next(self._at_once) else None

    async def handle(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        return self._answer(request)


class FirstLater(Sometimes):
    """A handler that has to wait for the first answer only."""

    def handle_nowait(self, request: Request) -> Response | None:
        return None if request.target == b"/first" else self._answer(request)


class Later:
    """A handler that has to wait for every answer."""

    def __init__(self, answer: Callable[[Request], Coroutine[Any, Any, Response]]) -> None:
        self.handle = answer

    def prepare(self, request: Request) -> Prepared | None:
        return None

    def handle_nowait(self, request: Request) -> Response | None:
        return None


class Promising(Later):
    """A handler whose answers have a promise, which takes what it is to call."""

    def __init__(self, kept: Promise) -> None:
        super().__init__(echo_later)
        self._kept = kept

    def handle_nowait(self, request: Request) -> Response | None:
        return echo(request)._replace(promise=self._kept)


class Repeating(Sometimes):
    """A handler that is prepared for requests that repeat one: to those it says `body`."""

    def __init__(
        self,
        answer: Callable[[Request], Response],
        kept: Promise | None = None,
        body: bytes = b"again",
    ) -> None:
        super().__init__(answer)
        self._done = body, 1, kept

    def prepare(self, request: Request) -> Prepared | None:
        return Prepared(b"text/plain", takes_message=False, run=lambda _: self._done)


def echo(request: Request) -> Response:
    return Response(request.body or request.target)


class Served:
    """A running server and its clients."""

    def __init__(self, port: int, drain: trio.Event) -> None:
        self.port = port
        self.drain = drain
        self.done = trio.Event()
        self.clients: list[trio.SocketStream] = []

    async def connect(self) -> trio.SocketStream:
        self.clients.append(await trio.open_tcp_stream("127.0.0.1", self.port))
        return self.clients[-1]


@contextlib.asynccontextmanager
async def served(
    answer: Callable[[Request], Response] = echo,
    config: Config = CONFIG,
    *,
    handler: Handler | None = None,
) -> AsyncIterator[Served]:
    """A server for the length of a block; the whole test fails after 20 s."""
    listeners = [Listener(each) for each in tcp("127.0.0.1", 0)]
    server = Served(listeners[0].socket.getsockname()[1], trio.Event())

    async def run() -> None:
        await serve(listeners, handler or Sometimes(answer), config, drain=server.drain)
        server.done.set()

    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                yield server
                nursery.cancel_scope.cancel()
    finally:
        for client in server.clients:
            client.socket.close()


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def exchange(client: trio.SocketStream, request: bytes = GET) -> bytes:
    """One request, one answer of a length; its body."""
    await client.send_all(request)
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        answer += await client.receive_some()
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += await client.receive_some()
    return bytes(body)


async def read_to_end(client: trio.SocketStream) -> bytes:
    received = b""
    while data := await client.receive_some():
        received += data
    return received


async def reset(client: trio.SocketStream) -> None:
    """Close with a reset instead of an end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.aclose()


# ------------------------------------------------------------------ time


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("timeout_idle_s", b""),
        ("timeout_idle_s", POST % 5 + b"hello"),
        ("timeout_head_s", b"G"),
        ("timeout_head_s", GET[:-2]),
        ("timeout_head_s", POST % 5 + b"hello" + GET[:-2]),
        ("timeout_body_s", POST % 5),
        ("timeout_body_s", POST % 5 + b"hell"),
        ("timeout_body_s", POST % (4 * MIB) + bytes(3 * MIB)),  # what it earned is no stock
    ],
)
async def test_a_silent_client_is_closed_without_a_word(limit: str, sent: bytes) -> None:
    """By that limit: the others are longer than the test may take."""
    async with served(config=with_limits(**{limit: 0.2})) as server:
        client = await server.connect()
        began = trio.current_time()
        await client.send_all(sent)
        assert body_of(await read_to_end(client)) in (b"", b"hello")
        assert trio.current_time() >= began + 0.2


@pytest.mark.parametrize("request_", [GET, REPEATED])
async def test_an_answer_gives_time_for_the_next_request(request_: bytes) -> None:
    config = dataclasses.replace(CONFIG, timeout_idle_s=0.4)
    async with served(config=config, handler=Repeating(lambda _: Response(b"again"))) as server:
        client = await server.connect()
        began = trio.current_time()
        while trio.current_time() < began + 3 * config.timeout_idle_s:
            assert await exchange(client, request_) == b"again"
            await trio.sleep(config.timeout_idle_s / 4)


@pytest.mark.parametrize(("limit", "begun"), [("head", b""), ("body", POST % MIB)])
async def test_a_trickling_client_is_closed(limit: str, begun: bytes) -> None:
    """Each byte on time, but the whole request is not: a byte buys 1/rate of a second."""
    config = with_limits(**{f"timeout_{limit}_s": 0.2})
    async with served(config=config) as server:
        client = await server.connect()
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send_all(begun)
            while True:
                await client.send_all(b"x")
                await trio.sleep(0.02)


@pytest.mark.parametrize("limit", ["head", "body"])
async def test_a_steady_upload_may_take_longer_than_the_timeout(limit: str) -> None:
    config = with_limits(**{f"timeout_{limit}_s": 0.2}, rate_min=10 * KIB)
    async with served(config=config) as server:
        client = await server.connect()
        await client.send_all(POST % (20 * KIB) if limit == "body" else b"GET /")
        for _ in range(20):
            await client.send_all(b"x" * KIB)
            await trio.sleep(0.03)
        await client.send_all(b"" if limit == "body" else b" HTTP/1.1\r\n\r\n")
        assert (await client.receive_some()).startswith(b"HTTP/1.1 200 OK")


async def test_waiting_for_the_reader_does_not_cost_the_time_to_send() -> None:
    """A client that sends its next request slowly while it is still taking the last answer."""

    def answer(request: Request) -> Response:
        return Response(bytes(16 * MIB) if request.target == b"/large" else request.body)

    config = dataclasses.replace(CONFIG, timeout_body_s=0.4)
    async with served(answer, config) as server:
        client = await server.connect()
        await client.send_all(b"GET /large HTTP/1.1\r\n\r\n" + POST % 5 + b"he")
        await trio.sleep(2 * config.timeout_body_s)
        received = 0
        while received < 16 * MIB:
            received += len(await client.receive_some())
        await client.send_all(b"llo")
        assert (await client.receive_some()).endswith(b"hello")


async def test_a_client_that_does_not_read_is_closed() -> None:
    def flood(request: Request) -> Response:
        return Response(bytes(32 * MIB) if request.target == b"/flood" else b"")

    config = dataclasses.replace(CONFIG, timeout_write_s=0.2, connections_max=1)
    async with served(flood, config) as server:
        client = await server.connect()
        await client.send_all(b"GET /flood HTTP/1.1\r\n\r\n")
        await until_answered(server)
        with contextlib.suppress(trio.BrokenResourceError):
            assert len(await read_to_end(client)) < 32 * MIB


# ------------------------------------------------------------------ bounds


async def test_connections_beyond_the_limit_get_503() -> None:
    async with served(config=dataclasses.replace(CONFIG, connections_max=2)) as server:
        first, second = await server.connect(), await server.connect()
        assert await exchange(first) == await exchange(second) == b"/"
        answer = await read_to_end(await server.connect())
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer
        assert b"too many connections" in answer
        await first.aclose()
        await until_answered(server)


async def until_answered(server: Served, request: bytes = b"GET / HTTP/1.1\r\n\r\n") -> None:
    """Try until the server has noticed that another connection is gone."""
    while True:
        client = await server.connect()
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send_all(request)
            await client.send_eof()
            if (await read_to_end(client)).startswith(b"HTTP/1.1 200 OK"):
                return
        await client.aclose()


async def test_half_sent_requests_are_bounded_together() -> None:
    config = dataclasses.replace(CONFIG, bytes_in_flight_max=MIB)
    async with served(config=config) as server:
        holder = await server.connect()
        await holder.send_all(POST % (2 * MIB) + bytes(MIB - 64 * KIB))
        small = await server.connect()
        for _ in range(100):  # the server reads from every connection meanwhile
            await exchange(small)
        other = await server.connect()
        with contextlib.suppress(trio.BrokenResourceError):
            await other.send_all(POST % MIB + bytes(MIB - 1))
        answer = await read_to_end(other)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert await exchange(small, POST % 5 + b"small") == b"small"
        await holder.aclose()
        await until_answered(server, POST % MIB + bytes(MIB))


@pytest.mark.parametrize("request_", [GET, REPEATED])
async def test_answers_that_are_not_taken_are_bounded_together(request_: bytes) -> None:
    """Over the limit nobody is answered, until those who take nothing have been closed."""

    def answer(request: Request) -> Response:
        return Response(bytes(16 * MIB) if request.target == b"/large" else b"small")

    config = dataclasses.replace(CONFIG, bytes_in_flight_max=24 * MIB)
    handler = Repeating(answer, body=b"small")
    async with served(config=config, handler=handler) as server:
        small = await server.connect()
        for _ in range(2):
            assert await exchange(small, request_) == b"small"
            holder = await server.connect()
            await holder.send_all(b"GET /large HTTP/1.1\r\n\r\n")
            assert await holder.receive_some(1) == b"H"
        await small.send_all(request_)
        answer_to_small = await read_to_end(small)
        assert answer_to_small.startswith(b"HTTP/1.1 503 ")
        assert b"too many answers are not taken" in answer_to_small
        await until_answered(server)


async def test_a_refused_upload_can_read_why() -> None:
    """It is still sending when the answer comes: a reset would eat the answer."""
    async with served(config=dataclasses.replace(CONFIG, body_bytes_max=MIB)) as server:
        client = await server.connect()
        await client.send_all(POST % (MIB + 1))
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send_all(bytes(MIB + 1))
        answer = await read_to_end(client)
        assert answer.startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
        assert b"body exceeds 1048576 bytes" in answer


# ------------------------------------------------------------------ answers


async def echo_later(request: Request) -> Response:
    await trio.lowlevel.checkpoint()
    return echo(request)


@pytest.mark.parametrize("handler", [Sometimes(echo), Later(echo_later)])
async def test_pipelined_answers_come_in_order(handler: Handler) -> None:
    count = 10 * CONFIG.pipelined_max + 1
    async with served(handler=handler) as server:
        client = await server.connect()
        requests = [b"GET /%06d HTTP/1.1\r\n\r\n" % each for each in range(count)]
        await client.send_all(b"".join(requests[:-1]))
        await client.send_all(b"GET /%06d HTTP/1.1\r\nConnection: close\r\n\r\n" % (count - 1))
        answers = (await read_to_end(client)).split(b"HTTP/1.1 200 OK")[1:]
        assert [body_of(each) for each in answers] == [b"/%06d" % each for each in range(count)]


async def test_pipelined_answers_with_promises_come_in_order() -> None:
    soon = trio.lowlevel.current_trio_token().run_sync_soon
    async with served(handler=Promising(soon)) as server:
        client = await server.connect()
        await client.send_all(GET * 100 + b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n")
        answers = (await read_to_end(client)).split(b"HTTP/1.1 200 OK")[1:]
        assert [body_of(each) for each in answers] == [b"/"] * 100 + [b"/last"]


async def test_an_answer_does_not_leave_before_its_promise_is_kept() -> None:
    send, promises = trio.open_memory_channel[Callable[[], object]](10)
    async with served(handler=Promising(send.send_nowait)) as server:
        waiting, gone, other = [await server.connect() for _ in range(3)]
        await waiting.send_all(GET)
        keep = await promises.receive()
        await waiting.send_all(GET)  # it is not read yet: it does not make the server spin either
        await gone.send_all(GET)
        keep_for_nobody = await promises.receive()
        await reset(gone)
        await other.send_all(GET)
        (await promises.receive())()
        assert b"200 OK" in await other.receive_some()
        assert select.select([waiting.socket.fileno()], [], [], 0) == ([], [], [])
        keep_for_nobody()
        keep()
        assert b"200 OK" in await waiting.receive_some()
        (await promises.receive())()
        assert b"200 OK" in await waiting.receive_some()


async def test_a_repeated_request_waits_for_its_promise_as_well() -> None:
    send, promises = trio.open_memory_channel[Callable[[], object]](10)
    async with served(handler=Repeating(echo, send.send_nowait)) as server:
        client, other = await server.connect(), await server.connect()
        assert await exchange(client, REPEATED) == b"/?name=q&opt=get"
        await client.send_all(REPEATED)
        keep = await promises.receive()
        assert await exchange(other) == b"/"
        assert select.select([client.socket.fileno()], [], [], 0) == ([], [], [])
        keep()
        assert body_of(await client.receive_some()) == b"again"


async def test_large_answers_that_wait_for_their_promise_are_bounded_together() -> None:
    send, promises = trio.open_memory_channel[Callable[[], object]](10)
    handler = Repeating(echo, send.send_nowait, bytes(MIB))
    async with served(config=with_limits(bytes_in_flight_max=MIB), handler=handler) as server:
        clients = [await server.connect() for _ in range(3)]
        for client in clients:
            assert await exchange(client, REPEATED) == b"/?name=q&opt=get"
        for client in clients[:2]:
            await client.send_all(REPEATED)
        keep = [await promises.receive() for _ in range(2)]
        await clients[2].send_all(REPEATED)
        assert (await read_to_end(clients[2])).startswith(b"HTTP/1.1 503 ")
        for each in keep:
            each()
        await until_answered(server)


async def test_drain_keeps_promises() -> None:
    send, promises = trio.open_memory_channel[Callable[[], object]](10)
    async with served(handler=Promising(send.send_nowait)) as server:
        client = await server.connect()
        await client.send_all(GET)
        keep = await promises.receive()
        server.drain.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not server.done.is_set()
        keep()
        assert b"Connection: close" in await read_to_end(client)
        await server.done.wait()


async def test_a_batch_goes_on_when_nothing_else_happens() -> None:
    """The first request waits, so its task runs the others, up to the turn of others."""
    count = 3 * CONFIG.pipelined_max
    async with served(handler=FirstLater(echo)) as server:
        client = await server.connect()
        await client.send_all(b"GET /first HTTP/1.1\r\n\r\n" + GET * count)
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < count + 1:
            received += await client.receive_some()


@pytest.mark.parametrize("count", [3, 4])
async def test_pipelined_requests_beyond_the_limit_wait_their_turn(count: int) -> None:
    order: list[bytes] = []

    def note(request: Request) -> Response:
        order.append(request.target[:2])
        return Response(b"")

    class AtOnce(Sometimes):
        def handle_nowait(self, request: Request) -> Response:
            return self._answer(request)

    config = dataclasses.replace(CONFIG, pipelined_max=3)
    async with served(config=config, handler=AtOnce(note)) as server:
        many, one = await server.connect(), await server.connect()
        for client in (many, one):
            await exchange(client)
        order.clear()
        # Without an await: the server looks when both have come.
        os.write(many.socket.fileno(), b"GET /m HTTP/1.1\r\n\r\n" * count)
        os.write(one.socket.fileno(), b"GET /o HTTP/1.1\r\n\r\n")
        while len(order) < count + 1:
            await trio.lowlevel.checkpoint()
    assert order == [b"/m"] * 3 + [b"/o"] + [b"/m"] * (count - 3)


async def test_a_flood_does_not_starve_others() -> None:
    async with served() as server, trio.open_nursery() as nursery:
        flooder = await server.connect()

        async def flood() -> None:
            while True:
                await flooder.send_all(GET * 1000)

        async def drink() -> None:
            while True:
                await flooder.receive_some()

        nursery.start_soon(flood)
        nursery.start_soon(drink)
        client = await server.connect()
        for _ in range(20):
            assert await exchange(client) == b"/"
        nursery.cancel_scope.cancel()


async def test_a_large_answer_to_a_slow_reader() -> None:
    message = bytes(range(256)) * (128 * KIB)  # more than the kernel's buffers hold
    async with served() as server:
        client = await server.connect()
        assert await exchange(client, POST % len(message) + message) == message
        assert await exchange(client) == b"/"


async def test_a_client_that_has_finished_sending_is_answered() -> None:
    async with served() as server:
        client = await server.connect()
        await client.send_all(GET)
        await client.send_eof()
        assert body_of(await read_to_end(client)) == b"/"


async def test_surplus_after_a_closing_request_does_not_eat_the_answer() -> None:
    async with served() as server:
        client = await server.connect()
        await client.send_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n" + b"\r\n" * 1000)
        assert body_of(await read_to_end(client)) == b"/"


# ------------------------------------------------------------------ the boundary


async def test_resets_stay_with_their_connection() -> None:
    busy, go_on = trio.Event(), trio.Event()

    async def wait(request: Request) -> Response:
        if request.target == b"/wait":
            busy.set()
            await go_on.wait()
        return Response(b"x" * MIB)

    async with served(handler=Later(wait)) as server:
        for sent in (b"", b"GET /", GET):
            client = await server.connect()
            await client.send_all(sent or b"G")
            await reset(client)
        client = await server.connect()
        await client.send_all(b"GET /wait HTTP/1.1\r\n\r\n")
        await busy.wait()
        await reset(client)
        go_on.set()
        assert len(await exchange(await server.connect())) == MIB


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_bug_in_a_handler_is_a_500(caplog: pytest.LogCaptureFixture, at_once: bool) -> None:
    def broken(request: Request) -> Response:
        if request.target == b"/bug":
            raise OSError("not the client's socket")
        return Response(b"well")

    handler = Sometimes(broken, at_once_first=not at_once)  # the bug comes second
    async with served(handler=handler) as server:
        client = await server.connect()
        await client.send_all(GET + b"GET /bug HTTP/1.1\r\n\r\n" + GET)
        first, second = (await read_to_end(client)).split(b"HTTP/1.1 ")[1:]
        assert first.startswith(b"200 OK")
        assert second.startswith(b"500 Internal Server Error")
        assert await exchange(await server.connect()) == b"well"
    assert "not the client's socket" in caplog.text


@pytest.mark.parametrize("at_once", [True, False])
async def test_failed_storage_ends_the_server(at_once: bool) -> None:
    def failing(request: Request) -> Response:
        raise StorageFailed("/disk", OSError(5, "Input/output error"))

    handler = Sometimes(failing, at_once_first=at_once)
    with pytest.RaisesGroup(StorageFailed, flatten_subgroups=True):
        async with served(handler=handler) as server:
            client = await server.connect()
            await client.send_all(GET)
            await trio.sleep_forever()


# ------------------------------------------------------------------ drain


async def test_drain_finishes_what_is_in_flight() -> None:
    busy, go_on = trio.Event(), trio.Event()

    async def slow(request: Request) -> Response:
        if request.target == b"/slow":
            busy.set()
            await go_on.wait()
        return Response(b"done")

    async with served(handler=Later(slow)) as server:
        idle, in_flight, half = [await server.connect() for _ in range(3)]
        assert await exchange(idle) == b"done"
        await half.send_all(POST % 4 + b"12")
        await in_flight.send_all(b"GET /slow HTTP/1.1\r\n\r\n")
        await busy.wait()
        server.drain.set()
        assert await read_to_end(idle) == b""
        with pytest.raises(OSError, match="all attempts to connect"):
            await server.connect()
        assert not server.done.is_set()
        go_on.set()
        await half.send_all(b"34")
        for client in (in_flight, half):
            answer = await read_to_end(client)
            assert b"Connection: close\r\n\r\ndone" in answer
        await server.done.wait()


async def test_drain_ends_after_its_grace() -> None:
    async def stuck(request: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    short = dataclasses.replace(CONFIG, drain_s=0.05)
    async with served(config=short, handler=Later(stuck)) as server:
        client = await server.connect()
        await client.send_all(GET)
        server.drain.set()
        await server.done.wait()
        assert await read_to_end(client) == b""
