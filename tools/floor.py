"""The floor: the least that a Python HTTP server on trio must do, to measure logqueue against.

It has the daemon's socket loop (wait until readable, read without blocking, answer with a direct
send) and nothing else: a request ends where its head ends, or its Content-Length after that, and
is answered with the same bytes always.  It keeps no message and trusts its client.

`python -m tools.floor 14 14:close 100` listens on three free ports of 127.0.0.1, answers bodies of
14, 14 and 100 bytes, closes each connection of the second one after its answer, and prints the
ports on one line.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Sequence

import trio

RECEIVE_BYTES = 65536  # as logqueue.web.server
BACKLOG = 1024
LENGTH = b"Content-Length: "  # as wrk spells it


def reply(body_bytes: int, *, closes: bool) -> bytes:
    """An answer of the same length as logqueue's with a body of that size."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: %b\r\n"
        b"Cache-Control: no-cache\r\nPos: 100000\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
        b"Content-Length: %d\r\n\r\n%b"
    ) % (b"close" if closes else b"keep-alive", body_bytes, b"m" * body_bytes)


async def answer(client: socket.socket, fixed: bytes, *, closes: bool) -> None:
    """Serve one connection until the client closes it."""
    head = b""  # of a request whose head has not ended yet
    missing = 0  # bytes of the body that is arriving
    with client:
        while True:
            await trio.lowlevel.wait_readable(client)
            data = client.recv(RECEIVE_BYTES)
            if not data:
                return
            if missing:
                missing -= len(data)
            else:
                head = head + data if head else data
                end = head.find(b"\r\n\r\n")
                if end < 0:
                    continue
                missing = end + 4 - len(head) + _body_bytes(head)
                head = b""
            if missing == 0:
                await send(client, fixed)
                if closes:
                    return


def _body_bytes(head: bytes) -> int:
    at = head.find(LENGTH)
    return int(head[at + len(LENGTH) : head.index(b"\r", at)]) if at >= 0 else 0


async def send(client: socket.socket, data: bytes) -> None:
    """Send without waiting, unless the kernel's buffer is full."""
    sent = client.send(data)
    while sent < len(data):
        await trio.lowlevel.wait_writable(client)
        sent += client.send(memoryview(data)[sent:])


async def _shielded(client: socket.socket, fixed: bytes, closes: bool) -> None:
    with contextlib.suppress(OSError):  # the client has gone
        await answer(client, fixed, closes=closes)


async def accept(listener: socket.socket, fixed: bytes, closes: bool) -> None:
    """Serve whoever connects, until cancelled."""
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                continue
            client.setblocking(False)
            nursery.start_soon(_shielded, client, fixed, closes)


def listen() -> socket.socket:
    """A listening socket on a free port."""
    listener = socket.socket()
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    return listener


async def main(arguments: Sequence[str]) -> None:
    """One listener for each argument, until cancelled."""
    listeners = [listen() for _ in arguments]
    async with trio.open_nursery() as nursery:
        for listener, argument in zip(listeners, arguments, strict=True):
            size, _, closes = argument.partition(":")
            fixed = reply(int(size), closes=bool(closes))
            nursery.start_soon(accept, listener, fixed, bool(closes))
        print(*(listener.getsockname()[1] for listener in listeners), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
