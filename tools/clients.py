"""Producers and consumers in processes of their own, each with a journal (see `tools.ledger`).

Each client keeps one connection and pipelines on it: it writes down what it is about to ask, sends
that many requests in one go, reads the answers, writes down what they say.  When the daemon goes
away it writes down what had come until then, and ends.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import random
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from pathlib import Path

from tools.ledger import Ledger, message, sender

# A server process is forked once, early and without threads, and forks the clients: 5 ms each.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tools.clients"])

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


class _Busy:
    """Tells the crew once that a client is at work, or will never be."""

    def __init__(self, semaphore: Semaphore) -> None:
        self._semaphore = semaphore
        self._told = False

    def __enter__(self) -> _Busy:
        return self

    def __exit__(self, *_: object) -> None:
        self.tell()

    def tell(self) -> None:
        if not self._told:
            self._told = True
            self._semaphore.release()


class _Connection:
    """Pipelined requests out, answers in."""

    def __init__(self, port: int) -> None:
        self._buffer = b""
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # it has died already: so nothing is answered
            self._socket.connect(("127.0.0.1", port))

    def ask(self, requests: list[bytes]) -> Iterator[tuple[int, bytes]]:
        """Send all, then yield (position, body) of each answer; fewer when the daemon dies."""
        with contextlib.suppress(ConnectionError):  # what it answered before can still be read
            self._socket.sendall(b"".join(requests))
        for _ in requests:
            answer = self._answer()
            if answer is None:
                return
            yield answer

    def _answer(self) -> tuple[int, bytes] | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not self._receive():
                return None
        head = self._buffer[: end + 2]
        length = _length.search(head)
        assert length is not None, head
        end += 4 + int(length[1])
        while len(self._buffer) < end:
            if not self._receive():
                return None
        body, self._buffer = self._buffer[end - int(length[1]) : end], self._buffer[end:]
        position = _position.search(head)
        return int(position[1]) if position else 0, body

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
    with _Busy(busy) as at_work, journal.open("w", encoding="ascii") as file:
        connection = _Connection(port)
        while first < end:
            last = min(first + load.pipelined, end) - 1
            payloads = [message(producer, n, _size(chance)) for n in range(first, last + 1)]
            file.write(f"i {first} {last}\n")
            file.flush()
            requests = [b"%b%d\r\n\r\n%b" % (head, len(each), each) for each in payloads]
            n = first
            for position, body in connection.ask(requests):
                if body == b"HTTPSQS_PUT_OK":
                    file.write(f"a {n} {position}\n")
                else:
                    file.write(f"f {n} {body[:200]!r}\n")
                n += 1
            if n <= last:
                return
            first = last + 1
            at_work.tell()


def _size(chance: random.Random) -> int:
    return SIZE_RARE if chance.random() < RARELY else chance.choice(SIZES)


def consume(busy: Semaphore, port: int, queue: str, journal: Path, load: Load, drain: bool) -> None:
    """Get messages until the daemon goes away; with `drain`, until the queue is empty."""
    depth = 2 * load.pipelined  # to keep up with twice as many producers
    request = f"GET /?name={queue}&opt=get HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with _Busy(busy) as at_work, journal.open("w", encoding="ascii") as file:
        connection = _Connection(port)
        while True:
            file.write(f"g {depth}\n")
            file.flush()
            answered = empty = 0
            for position, body in connection.ask([request] * depth):
                answered += 1
                if body == b"HTTPSQS_GET_END":
                    empty += 1
                    file.write("e\n")
                else:
                    file.write(_receipt(position, body))
            if answered < depth or (drain and empty == answered):
                return
            at_work.tell()
            if empty == answered:
                time.sleep(PAUSE_EMPTY_S)


def _receipt(position: int, body: bytes) -> str:
    if position == 0:  # no message
        return f"f {body[:200]!r}\n"
    try:
        producer, n = sender(body)
    except ValueError as error:
        return f"x {position} {error} {body[:100]!r}\n"
    return f"r {position} {producer} {n}\n"


@dataclass
class Crew:
    """Clients of one daemon, their journals in `directory`, and the ledgers of their queues.

    Client i works on queue i modulo the number of queues.
    """

    directory: Path
    queues: Sequence[str]
    producers: int
    consumers: int
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    _working: list[BaseProcess] = field(default_factory=list)
    _busy: Semaphore = field(default_factory=lambda: _CONTEXT.Semaphore(0))
    _producing: dict[int, Path] = field(default_factory=dict)
    _consuming: dict[int, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledgers = {queue: Ledger() for queue in self.queues}

    def start(self, port: int, load: Load, *, consume_only: bool = False) -> None:
        """Start every client, and wait until each has had its first answers; `consume_only`
        starts the consumers alone, until all queues are empty."""
        for i in range(0 if consume_only else self.producers):
            queue = self.queues[i % len(self.queues)]
            path = self._producing[i] = self.directory / f"producer-{i}"
            self._start(produce, port, queue, i, self.ledgers[queue].next_of(i), path, load)
        for i in range(max(self.consumers, len(self.queues))):
            queue = self.queues[i % len(self.queues)]
            path = self._consuming[i] = self.directory / f"consumer-{i}"
            self._start(consume, port, queue, path, load, consume_only)
        for _ in self._working:  # so that a slow machine has its share of work done, too
            assert self._busy.acquire(timeout=TIMEOUT_S), "a client does not get to work"

    def _start(self, *command: object) -> None:
        run, *arguments = command
        assert callable(run)
        process = _CONTEXT.Process(target=run, args=(self._busy, *arguments))
        process.start()
        self._working.append(process)

    def join(self) -> None:
        """Wait until the clients have noticed that the daemon is gone."""
        for process in self._working:
            process.join(TIMEOUT_S + 10)
            assert process.exitcode == 0, f"a client ended with {process.exitcode}"
        self._working.clear()

    def join_producers(self) -> None:
        """Wait until the producers have put all that their load allows."""
        for process in self._working[: self.producers]:
            process.join(TIMEOUT_S)
            assert process.exitcode == 0, f"a producer ended with {process.exitcode}"

    def finish(self, *, crashed: bool) -> None:
        """Wait for the clients, and take their journals in.

        Raises Broken when the daemon has broken a promise.
        """
        self.join()
        for at, queue in enumerate(self.queues):
            mine = slice(at, None, len(self.queues))
            self.ledgers[queue].absorb(
                {i: _lines(self._producing[i]) for i in sorted(self._producing)[mine]},
                [_lines(self._consuming[i]) for i in sorted(self._consuming)[mine]],
                crashed=crashed,
            )
        self._producing.clear()
        self._consuming.clear()


def _lines(path: Path) -> list[str]:
    return path.read_text("ascii").splitlines() if path.exists() else []
