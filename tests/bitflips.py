"""Every bit of every file of a queue, flipped one at a time: `python -m tests.bitflips --help`.

What was put is served exactly, or refused by name; and whatever was flipped is reported, by the
daemon or else by fsck, unless it lies where nothing is stored: behind the last record of a segment.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from multiprocessing import Pool
from random import Random
from typing import Literal, get_args

from logqueue.errors import Corrupt, LogqueueError, NewerFormat
from logqueue.fsck.identity import identify
from logqueue.fsck.queue import survey
from logqueue.storage.delivery import STEPS_BYTES, Delivered, Delivery
from logqueue.storage.format import footer_offset
from logqueue.storage.layout import ACKS_SPARE, acks_name, segment_name
from logqueue.storage.queue import Options, Queue
from logqueue.storage.reader import Cold
from logqueue.storage.recovery import inspect
from logqueue.storage.store import Store
from logqueue.storage.token import Outcome
from tests.crashdisk import CrashDisk
from tests.crashsweep import seeded

ROOT = "/srv/data"
NAME = b"orders"
DIRECTORY = f"{ROOT}/queues/orders"
SEGMENTS = 8  # of 32 KiB: the queue has 256 KiB of them
OPTIONS = Options(
    segment_bytes_max=32 << 10,
    clock=lambda: 1_700_000_000_000,
    now=lambda: 1_700_000_000_000,
)
LATER = Options(segment_bytes_max=32 << 10, clock=OPTIONS.clock, now=lambda: 1_700_001_000_000)
SIZES = (0, 11_900, 300, 11_900)  # bytes of a message: two of the largest fill a segment
CONSUMED, LEASED = 4, 8
CHUNK = 256  # bytes of one piece of work

State = Literal["clean", "killed", "leased"]
Messages = list[bytes]


class Place:
    """A small data directory with one queue, and what it holds.

    It was closed in order, or killed; or closed after some records were leased, and every other
    one of these acknowledged.  `pristine` is each file's content; a test damages it, looks, and
    puts it back.  `unused` is the part of a file that holds nothing.
    """

    def __init__(self, state: State, seed: int = 1) -> None:
        self.disk = CrashDisk(Random(1))
        with seeded(seed):
            store = Store.open(self.disk, ROOT, OPTIONS)
            queue = store.create_queue(NAME)
            queue.set_maxqueue(1000)
            self.expected = _fill(queue)
            for _ in range(CONSUMED):
                assert (queue.get() or (0, b""))[1] == self.expected.pop(0)
            if state == "leased":
                self.expected = _lease(queue.deliver(), self.expected)
            queue.sync()
            queue.checkpoint()
            queue.sync()
            if state != "killed":
                queue.close()
        self.disk.cut_power("none")
        self.pristine = {path: bytes(file.live) for path, file in self.disk.files().items()}
        self.unused = dict(self._unused())

    def _unused(self) -> Iterator[tuple[str, range]]:
        report = inspect(self.disk, DIRECTORY)
        assert report.tail is not None
        for ended, size, _ in report.sealed:
            yield f"{DIRECTORY}/{segment_name(ended.base)}", range(ended.end, footer_offset(size))
        header, end = report.tail.header, report.tail.end
        yield f"{DIRECTORY}/{segment_name(header.base)}", range(end, header.size)
        if report.acks is not None:
            header, end = report.acks.tail.header, report.acks.tail.end
            yield f"{DIRECTORY}/{acks_name(header.base)}", range(end, header.size)
            yield f"{DIRECTORY}/{ACKS_SPARE}", range(header.size)

    def bytes_of(self, kind: Callable[[str], bool]) -> list[tuple[str, int]]:
        """Every byte of the files whose paths `kind` takes."""
        return [
            (path, at)
            for path, content in sorted(self.pristine.items())
            if kind(path)
            for at in range(len(content))
        ]

    def serve(self) -> tuple[Messages, LogqueueError | None]:
        """Start and consume everything; the messages, and what kept back the rest."""
        messages: Messages = []
        try:
            store = Store.open(self.disk, ROOT, LATER)
            if store.exists(NAME):
                queue, _ = store.open_queue(NAME)
                while (got := queue.get()) is not None:
                    messages.append(got[1])
        except LogqueueError as error:
            return messages, error
        finally:
            self.disk.kill()
        return messages, None

    def put_back(self) -> None:
        """Undo the damage and what was done about it."""
        for path in self.disk.files():
            if path not in self.pristine:
                self.disk.unlink(path)
        for path, content in self.pristine.items():
            self.write(path, content)

    def write(self, path: str, content: bytes) -> None:
        """Make this the content of a file, new or not."""
        if not self.disk.exists(path):
            self.disk.create(path, len(content)).close()
        file = self.disk.file(path)
        file.live[:] = content
        file.durable[:] = content
        file.versions.clear()

    def prove(self, what: str) -> bool:
        """Served exactly, or refused with a place; whether it was refused."""
        messages, error = self.serve()
        self.put_back()
        assert messages == self.expected[: len(messages)], f"{what}: served altered"
        if error is None:
            assert len(messages) == len(self.expected), f"{what}: cut short without a word"
            return False
        assert isinstance(error, Corrupt | NewerFormat), f"{what}: {error!r}"
        assert error.path.startswith(ROOT), what
        return True

    def flip(self, path: str, at: int, bit: int) -> str:
        """Flip one bit, prove, and undo it: refused, reported (by fsck), or unused."""
        what = f"{path}: byte {at}, bit {bit}"
        self.disk.file(path).live[at] ^= 1 << bit
        if self.prove(what):
            return "refused"
        self.disk.file(path).live[at] ^= 1 << bit
        queues, name = os.path.split(DIRECTORY)
        known = identify(self.disk, queues, [name])
        found = survey(
            self.disk, DIRECTORY, known, online=False, thorough=False, progress=lambda n: None
        )
        self.disk.kill()
        self.disk.file(path).live[at] ^= 1 << bit
        if found.findings:
            return "reported"
        assert at in self.unused.get(path, ()), f"{what}: nobody has noticed"
        return "unused"


def _fill(queue: Queue) -> Messages:
    """Put messages until the last segment is nearly full."""
    random, messages = Random(1), []
    for number in count():
        message = random.randbytes(SIZES[number % len(SIZES)])
        queue.put(message)
        messages.append(message)
        if number % 4 == 3:
            queue.sync()
        if len(queue.log.sealed) == SEGMENTS - 1 and not queue.fits(12 << 10):
            queue.sync()
            break
    return messages


def _lease(delivery: Delivery, messages: Messages) -> Messages:
    """Lease some, acknowledge every other one; what is left."""
    delivery.make_room(STEPS_BYTES)
    taken: list[Delivered] = []
    while len(taken) < LEASED:
        try:
            taken += delivery.receive(LEASED - len(taken), 60_000, 1 << 20)
        except Cold as cold:
            cold.fetch.run()
            delivery.install(cold.fetch)
    tokens = [delivery.tokens.make(each.frame.sequence, each.attempts) for each in taken]
    assert set(delivery.acknowledge(tokens[1::2])) == {Outcome.DONE}
    return [*messages[:LEASED:2], *messages[LEASED:]]


@cache
def _place(state: State) -> Place:
    """One for each process."""
    return Place(state)


def flips(work: tuple[State, int, int, int]) -> Counter[str]:
    """Flip the bits of the bytes `first` to `last` of a place, or every `stride`th of them."""
    state, first, last, stride = work
    place, found = _place(state), Counter[str]()
    for number, (path, at) in enumerate(place.bytes_of(lambda path: True)[first:last], first):
        for bit in range(-number * 8 % stride, 8, stride):
            found[place.flip(path, at, bit)] += 1
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bitflips", description=main.__doc__)
    parser.add_argument("--state", choices=get_args(State), default="clean")
    parser.add_argument("--first", type=int, default=0, help="the first byte, of all files in turn")
    parser.add_argument("--last", type=int, default=1 << 60, help="the byte behind the last one")
    parser.add_argument("--stride", type=int, default=1, help="flip every so many bits")
    given = parser.parse_args()
    began, found = time.monotonic(), Counter[str]()
    end = min(given.last, len(_place(given.state).bytes_of(lambda path: True)))
    work = [
        (given.state, at, min(at + CHUNK, end), given.stride)
        for at in range(given.first, end, CHUNK)
    ]
    with Pool() as pool:
        for number, each in enumerate(pool.imap(flips, work)):
            found += each
            if number % 64 == 0 or number == len(work) - 1:
                seconds = time.monotonic() - began
                print(f"{seconds:7.1f} s  to byte {work[number][2]}: {dict(found)}", flush=True)
    print(
        f"{found.total()} flips of a queue that was {given.state}, bytes {given.first} to {end}: "
        f"{found['refused']} refused, {found['reported']} served exactly and reported by fsck, "
        f"{found['unused']} where nothing is stored; nothing altered was served"
    )


if __name__ == "__main__":
    main()
