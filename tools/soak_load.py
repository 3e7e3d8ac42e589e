"""The load of the soak: workers that know exactly what each of their queues holds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from multiprocessing.queues import Queue as Results
from multiprocessing.synchronize import Event
from struct import Struct

from tools.pipeline import Pipeline, put_request, request

WORKERS = 2
QUEUES = 300
BUSY = 6  # of them, half of the work goes to these
SIZES = (20, 20, 100, 100, 100, 1000, 1000, 10_000, 60_000)  # bytes of a payload
BATCH_MAX = 30
DEPTH_MAX = 3000  # unread messages of one queue
RING = 1_000_000  # HTTPSQS's default size of a queue
END = b"HTTPSQS_GET_END"
FRAMES = b"application/vnd.logqueue.frames"
LENGTH = Struct(">I")


class Broken(Exception):
    """The daemon did not do what it promises."""


class Worker:
    """The only user of its queues."""

    def __init__(self, connection: Pipeline, number: int, seed: int) -> None:
        mine = range(number, QUEUES, WORKERS)
        self.messages = 0
        self._connection = connection
        self._chance = random.Random(f"{seed} {number}")
        self._held = dict.fromkeys(mine, (0, 0, 0))  # last put, last got, last before reset

    def run(self, stop: Event) -> None:
        """Work until told to stop, then drain.  Raises Broken."""
        busy, all_of_them = [each for each in self._held if each < BUSY], list(self._held)
        works: list[tuple[Callable[[int], None], int]] = [
            (self.put, 350),
            (self.put_batch, 100),
            (self.get, 350),
            (self.lease, 100),
            (self.view, 60),
            (self.status, 38),
            (self.reset, 2),
        ]
        does, weights = zip(*works, strict=True)
        for queue in all_of_them:  # it has all of its files from now on
            self.put_batch(queue)
            self.lease(queue)
        while not stop.is_set():
            queue = self._chance.choice(busy if self._chance.random() < 0.5 else all_of_them)
            [do] = self._chance.choices(does, weights)
            put, got, _ = self._held[queue]
            (self.get if put - got > DEPTH_MAX else do)(queue)
        for queue in all_of_them:
            self.drain(queue)

    def put(self, queue: int) -> None:
        """Put a batch.  Raises Broken."""
        put, got, base = self._held[queue]
        numbers = range(put + 1, put + 1 + self._chance.randrange(1, BATCH_MAX))
        asked = [put_request(_name(queue), _message(queue, n)) for n in numbers]
        for number, answer in zip(numbers, self._connection.ask(asked), strict=True):
            if answer != b"HTTPSQS_PUT_OK":
                raise Broken(f"put {number} of {queue}: {answer[:100]!r}")
        self._held[queue] = numbers[-1], got, base
        self.messages += len(numbers)

    def put_batch(self, queue: int) -> None:
        """Put a batch that is stored whole or not at all.  Raises Broken."""
        put, got, base = self._held[queue]
        numbers = range(put + 1, put + 1 + self._chance.randrange(1, BATCH_MAX))
        body = b"".join(_framed(_message(queue, number)) for number in numbers)
        [answer] = self._connection.ask([_v1(queue, "messages/batch", body, FRAMES)])
        if b'"count":%d,' % len(numbers) not in answer:
            raise Broken(f"batch {numbers} of {queue}: {answer[:100]!r}")
        self._held[queue] = numbers[-1], got, base
        self.messages += len(numbers)

    def lease(self, queue: int) -> None:
        """Lease a batch, acknowledge the first of it, give the others back.  Raises Broken."""
        put, got, base = self._held[queue]
        if put == got:
            return  # an answer without a body
        count = self._chance.randrange(2, BATCH_MAX)
        target = f"messages/receive?max={count}&lease=600s"
        leased = _unframed(self._connection.ask([_v1(queue, target, b"", FRAMES)])[0])
        tokens, messages = leased[::2], leased[1::2]
        expected = [_message(queue, number) for number in range(got + 1, put + 1)[: len(messages)]]
        if messages != expected or not messages:
            raise Broken(f"lease {got + 1} of {queue} (last put {put}): {messages!r:.100}")
        done = self._chance.randrange(len(tokens) + 1)
        answers = {
            "ack": [token.decode() for token in tokens[:done]],
            "release": [{"lease": token.decode()} for token in tokens[done:]],
        }
        body = json.dumps(answers).encode()
        [answer] = self._connection.ask([_v1(queue, "leases", body, b"application/json")])
        told = json.loads(answer)
        if (told["acknowledged"], told["released"]) != (done, len(tokens) - done):
            raise Broken(f"leases of {queue}: {answer[:100]!r}")
        self._held[queue] = put, got + done, base

    def get(self, queue: int) -> None:
        """Get a batch; each must be the next one.  Raises Broken."""
        put, got, base = self._held[queue]
        count = self._chance.randrange(1, BATCH_MAX)
        for answer in self._connection.ask([request(_name(queue), "get")] * count):
            expected = END if got == put else _message(queue, got + 1)
            if answer != expected:
                raise Broken(f"get {got + 1} of {queue} (last put {put}): {answer[:100]!r}")
            got += got < put
        self._held[queue] = put, got, base

    def view(self, queue: int) -> None:
        """Look at a message, consumed ones too.  Raises Broken."""
        put, got, base = self._held[queue]
        if put == base:
            return
        number = self._chance.randrange(max(base, put - 2 * DEPTH_MAX) + 1, put + 1)
        position = (number - base - 1) % RING + 1
        [answer] = self._connection.ask([request(_name(queue), f"view&pos={position}")])
        if answer != _message(queue, number) and (answer or number > got):
            raise Broken(f"view {number} of {queue} (last got {got}): {answer[:100]!r}")

    def status(self, queue: int) -> None:
        """Compare the number of unread messages.  Raises Broken."""
        put, got, _ = self._held[queue]
        [answer] = self._connection.ask([request(_name(queue), "status_json")])
        if not answer.rstrip().endswith(b'"unread":%d}' % (put - got)):
            raise Broken(f"status of {queue}, where {put - got} are unread: {answer[:300]!r}")

    def reset(self, queue: int) -> None:
        """Empty the queue.  Raises Broken."""
        put, _, _ = self._held[queue]
        [answer] = self._connection.ask([request(_name(queue), "reset")])
        if answer != b"HTTPSQS_RESET_OK":
            raise Broken(f"reset of {queue}: {answer[:100]!r}")
        self._held[queue] = put, put, put

    def drain(self, queue: int) -> None:
        """Get all that is left, and see that it was all.  Raises Broken."""
        while self._held[queue][0] != self._held[queue][1]:
            self.get(queue)
        self.status(queue)
        [answer] = self._connection.ask([request(_name(queue), "get")])
        if answer != END:
            raise Broken(f"{queue} had one message too many: {answer[:100]!r}")


def _name(queue: int) -> str:
    return f"soak-{queue}"


def _message(queue: int, number: int) -> bytes:
    return (b"%d %d " % (queue, number)).ljust(SIZES[number * 7 % 9], b"%d" % (number % 10))


def _v1(queue: int, target: str, body: bytes, content_type: bytes) -> bytes:
    head = b"POST /v1/queues/%b/%b HTTP/1.1\r\nHost: localhost\r\nAccept: %b\r\n"
    kind = b"Content-Type: %b\r\n" % content_type if body else b""
    head %= (_name(queue).encode(), target.encode(), content_type)
    return head + kind + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _framed(message: bytes) -> bytes:
    return LENGTH.pack(len(message)) + message


def _unframed(body: bytes) -> list[bytes]:
    found = []
    at = 0
    while at < len(body):
        [length] = LENGTH.unpack_from(body, at)
        found.append(body[at + LENGTH.size : at + LENGTH.size + length])
        at += LENGTH.size + length
    return found


def work(port: int, number: int, seed: int, stop: Event, results: Results[str | int]) -> None:
    """A worker process: it leaves its count of messages in `results`, or what was wrong."""
    try:
        with Pipeline(port) as connection:
            worker = Worker(connection, number, seed)
            worker.run(stop)
        results.put(worker.messages)
    except (Broken, OSError) as error:
        results.put(f"worker {number}: {error!r}")
