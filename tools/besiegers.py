"""Clients that do their worst to a daemon on this machine, in a process of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

CONNECT_S = 60.0
SOURCES = 8  # addresses of the loopback that connections come from: each has 28,000 ports
TICK_S = 1.0  # between two bytes of a client that is slow
GIVE_UP_S = 120.0

GET = b"GET /?name=besieged&opt=status_json HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"GET /?name=besieged&opt=get HTTP/1.1\r\nX: "
BODY = b"POST /?name=besieged&opt=put HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"

Siege = Callable[[int, int, Connection], list[float]]


class Process:
    """A siege that runs: `wait` until it is complete, `finish` for what it has found."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def wait(self) -> None:
        """Until all clients are connected."""
        assert self._pipe.recv() == "complete"

    @property
    def finished(self) -> bool:
        """Whether it has ended by itself."""
        return self._pipe.poll()

    def finish(self) -> list[float]:
        """Have it end, if it has not yet; its list of times in seconds."""
        self._pipe.send("finish")
        found = self._pipe.recv()
        assert isinstance(found, list), found
        return found


@contextlib.contextmanager
def process(siege: Siege, port: int, count: int) -> Iterator[Process]:
    """Run a siege in another process, which is gone afterwards."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    running = multiprocessing.get_context("spawn").Process(
        target=_run, args=(siege, port, count, theirs), daemon=True
    )
    running.start()
    theirs.close()
    try:
        yield Process(ours)
    finally:
        running.kill()
        running.join()


def _run(siege: Siege, port: int, count: int, pipe: Connection) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pipe.send(siege(port, count, pipe))
    with contextlib.suppress(EOFError):
        pipe.recv()  # until nobody needs the connections any more


def _connect(port: int, number: int) -> socket.socket:
    source = (f"127.0.0.{2 + number % SOURCES}", 0)
    client = socket.create_connection(("127.0.0.1", port), CONNECT_S, source)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _is_answered(client: socket.socket) -> bool:
    try:
        client.sendall(GET)
        return client.recv(1000).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def hold(port: int, count: int, pipe: Connection) -> list[float]:
    """Keep-alive connections that make a request, then nothing, then another one at the end.

    How long that took, for each that was answered both times.
    """
    clients = [_connect(port, number) for number in range(count)]
    served = [client for client in clients if _is_answered(client)]
    pipe.send("complete")
    pipe.recv()
    times = []
    for client in served:
        began = time.monotonic()
        if _is_answered(client):
            times.append(time.monotonic() - began)
    for client in clients:
        client.close()
    return times


def trickle(port: int, count: int, pipe: Connection) -> list[float]:
    """`count` clients whose heads, and as many whose bodies, come at a byte a second.

    How long each was suffered: those with the heads first.  A client that was not closed within
    GIVE_UP_S is left out.
    """
    ends: dict[int, float] = {}
    began: list[float] = []
    clients: list[socket.socket] = []
    for number in range(2 * count):
        clients.append(_connect(port, number))
        clients[-1].sendall(HEAD if number < count else BODY)
        began.append(time.monotonic())
        clients[-1].setblocking(False)
    pipe.send("complete")
    poll = select.epoll()
    numbers = {client.fileno(): number for number, client in enumerate(clients)}
    for descriptor in numbers:
        poll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP)
    next_tick = time.monotonic()
    while numbers and time.monotonic() < began[0] + GIVE_UP_S:
        for descriptor, _ in poll.poll(max(0.0, next_tick - time.monotonic())):
            number = numbers.pop(descriptor)  # nobody is answered: it is the end
            ends[number] = time.monotonic() - began[number]
            poll.unregister(descriptor)
        if time.monotonic() >= next_tick:
            next_tick += TICK_S
            for number in numbers.values():
                with contextlib.suppress(OSError):
                    clients[number].send(b"x")
    return [ends[number] for number in sorted(ends)]
