"""Producers and consumers in processes of their own, each with a journal (see `tools.ledger`).

Each client keeps one connection and pipelines on it: it writes down what it is about to ask, sends
that many requests in one go, reads the answers, writes down what they say.  When the daemon goes
away it writes down what had come until then, and ends.
"""

from __future__ import annotations

import contextlib
import errno
import random
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import NamedTuple

from tools.ledger import message, sender

TIMEOUT_S = 60.0  # a daemon that answers nothing for so long has hung
PAUSE_EMPTY_S = 0.002  # of a consumer that found nothing
SIZES = (40,) * 40 + (100,) * 40 + (1000,) * 16 + (6000, 12_000, 30_000)  # bytes of a payload
SIZE_RARE, RARELY = 100_000, 0.002  # larger than the smallest segment
_length = re.compile(rb"Content-Length: ([0-9]+)\r\n")
_position = re.compile(rb"Pos: ([0-9]+)\r\n")


@dataclass(frozen=True)
class Load:
    """How clients work: so many messages in one go; a producer stops after `limit`."""

    pipelined: int = 16
    limit: int = 1 << 60
    seed: int = 0
    life: int = 0  # of the daemon: what workers do differs from one to the next


class Busy:
    """Tells the crew once that a client is at work, or will never be."""

    def __init__(self, semaphore: Semaphore) -> None:
        self._semaphore = semaphore
        self._told = False

    def __enter__(self) -> Busy:
        return self

    def __exit__(self, *_: object) -> None:
        self.tell()

    def tell(self) -> None:
        if not self._told:
            self._told = True
            self._semaphore.release()


class Answer(NamedTuple):
    """`position` is that of the message which was put or got; 0 when there is none."""

    status: int
    position: int
    body: bytes


class Connection:
    """Pipelined requests out, answers in."""

    def __init__(self, port: int) -> None:
        self._buffer = b""
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # it has died already: so nothing is answered
            self._socket.connect(("127.0.0.1", port))

    def ask(self, requests: list[bytes]) -> Iterator[Answer]:
        """Send all, then yield each answer; fewer when the daemon dies."""
        with contextlib.suppress(ConnectionError):  # what it answered before can still be read
            self._socket.sendall(b"".join(requests))
        for _ in requests:
            answer = self._answer()
            if answer is None:
                return
            yield answer

    def _answer(self) -> Answer | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not self._receive():
                return None
        head = self._buffer[: end + 2]
        length = _length.search(head)
        end += 4 + (int(length[1]) if length else 0)
        while len(self._buffer) < end:
            if not self._receive():
                return None
        body, self._buffer = self._buffer[len(head) + 2 : end], self._buffer[end:]
        position = _position.search(head)
        return Answer(int(head[9:12]), int(position[1]) if position else 0, body)

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(1 << 18)
        except ConnectionError:
            return False
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                return False
            raise
        self._buffer += data
        return data != b""


def produce(
    busy: Semaphore, port: int, queue: str, producer: int, first: int, journal: Path, load: Load
) -> None:
    """Put messages from number `first` on until the daemon goes away or the limit is reached."""
    chance = random.Random(f"{load.seed} {producer} {first}")
    head = (
        f"POST /?name={queue}&opt=put HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/octet-stream\r\nContent-Length: "
    ).encode()
    end = first + load.limit
    with Busy(busy) as at_work, journal.open("w", encoding="ascii") as file:
        connection = Connection(port)
        while first < end:
            last = min(first + load.pipelined, end) - 1
            payloads = [message(producer, n, size(chance)) for n in range(first, last + 1)]
            file.write(f"i {first} {last}\n")
            file.flush()
            requests = [b"%b%d\r\n\r\n%b" % (head, len(each), each) for each in payloads]
            n = first
            for _, position, body in connection.ask(requests):
                if body == b"HTTPSQS_PUT_OK":
                    file.write(f"a {n} {position}\n")
                else:
                    file.write(f"f {n} {body[:200]!r}\n")
                n += 1
            if n <= last:
                return
            first = last + 1
            at_work.tell()


def size(chance: random.Random) -> int:
    """Bytes of the next message."""
    return SIZE_RARE if chance.random() < RARELY else chance.choice(SIZES)


def consume(busy: Semaphore, port: int, queue: str, journal: Path, load: Load, drain: bool) -> None:
    """Get messages until the daemon goes away; with `drain`, until the queue is empty."""
    depth = 2 * load.pipelined  # to keep up with twice as many producers
    request = f"GET /?name={queue}&opt=get HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with Busy(busy) as at_work, journal.open("w", encoding="ascii") as file:
        connection = Connection(port)
        while True:
            file.write(f"g {depth}\n")
            file.flush()
            answered = empty = 0
            for _, position, body in connection.ask([request] * depth):
                answered += 1
                if body == b"HTTPSQS_GET_END":
                    empty += 1
                    file.write("e\n")
                else:
                    file.write(receipt(position, body))
            if answered < depth or (drain and empty == answered):
                return
            at_work.tell()
            if empty == answered:
                time.sleep(PAUSE_EMPTY_S)


def receipt(position: int, body: bytes) -> str:
    """The journal's line for a message that was got."""
    if position == 0:  # no message
        return f"f {body[:200]!r}\n"
    try:
        producer, n = sender(body)
    except ValueError as error:
        return f"x {position} {error} {body[:100]!r}\n"
    return f"r {position} {producer} {n}\n"
