"""Damage to any byte of any file: what was acknowledged is served exactly, or refused by name.

The suite samples; `python -m tests.test_bit_flips` flips every bit of every file of the queue.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from random import Random

import pytest

from logqueue.errors import Corrupt, LogqueueError, NewerFormat
from logqueue.storage.format import PAGE
from logqueue.storage.layout import CURSOR, FORMAT, META, segment_base, segment_name
from logqueue.storage.queue import Options
from logqueue.storage.store import Store
from tests.crashdisk import CrashDisk
from tests.crashsweep import seeded

FLIPS = 2000
ROOT = "/srv/data"
NAME = b"orders"
OPTIONS = Options(segment_bytes_max=64 << 10)
DIRECTORY = f"{ROOT}/queues/orders"

Messages = list[bytes]


class Place:
    """A small data directory: one queue over four segments, closed or killed, and what it holds.

    `pristine` is each file's content; a test damages it, looks, and puts it back.
    """

    def __init__(self, *, clean: bool, seed: int = 1) -> None:
        random = Random(1)
        self.disk = CrashDisk(Random(1))
        with seeded(seed):
            store = Store.open(self.disk, ROOT, OPTIONS)
            queue = store.create_queue(NAME)
            queue.set_maxqueue(1000)
            messages = [random.randbytes(random.choice((0, 5, 300, 3000))) for _ in range(130)]
            for number, message in enumerate(messages):
                queue.put(message)
                if number % 40 == 39:
                    queue.sync()
                    queue.roll()
            for message in messages[:20]:
                queue.sync()
                assert (queue.get() or (0, b""))[1] == message
            queue.sync()
            queue.checkpoint()
            queue.sync()
            self.expected = messages[20:]
            if clean:
                queue.close()
        self.disk.cut_power("none")
        self.pristine = {path: bytes(file.live) for path, file in self.disk.files().items()}

    def bytes_of(self, kind: Callable[[str], bool]) -> list[tuple[str, int]]:
        """Every byte of the files whose paths `kind` takes."""
        return [
            (path, at)
            for path, content in self.pristine.items()
            if kind(path)
            for at in range(len(content))
        ]

    def serve(self) -> tuple[Messages, LogqueueError | None]:
        """Start and consume everything; the messages, and what kept back the rest."""
        messages: Messages = []
        try:
            store = Store.open(self.disk, ROOT, OPTIONS)
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


@pytest.fixture(params=["clean", "killed"], scope="module")
def place(request: pytest.FixtureRequest) -> Place:
    return Place(clean=request.param == "clean")


KINDS: dict[str, Callable[[str], bool]] = {
    "meta": lambda path: path.endswith(META),
    "cursor": lambda path: path.endswith(CURSOR),
    "FORMAT": lambda path: path.endswith(FORMAT),
    "segments": lambda path: segment_base(path.rpartition("/")[2]) is not None,
}


def flip(place: Place, path: str, at: int, bit: int) -> bool:
    place.disk.file(path).live[at] ^= 1 << bit
    return place.prove(f"{path}: byte {at}, bit {bit}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_never_served(place: Place, kind: str) -> None:
    random = Random(2)
    everywhere = place.bytes_of(KINDS[kind])
    sample = random.sample(everywhere, min(FLIPS // len(KINDS), len(everywhere)))
    refused = sum(flip(place, path, at, random.randrange(8)) for path, at in sample)
    assert refused > len(sample) // 20  # zeros that nobody reads are most of a segment


def test_a_damaged_file_is_never_served_nor_taken_for_an_empty_queue(place: Place) -> None:
    for path, content in place.pristine.items():
        size = len(content)
        damaged = {
            "empty": b"",
            "one byte": content[:1],
            "half": content[: size // 2],
            "one byte short": content[:-1],
            "one byte long": content + b"\0",
            "doubled": content * 2,
            "zeroed": bytes(size),
            "first page zeroed": bytes(min(size, PAGE)) + content[PAGE:],
            "ones": b"\xff" * size,
        }
        for what, replacement in damaged.items():
            place.write(path, replacement)
            assert place.prove(f"{path}: {what}"), f"{path}: {what} was not noticed"
        place.disk.unlink(path)
        assert place.prove(f"{path}: missing"), f"{path}: missing was not noticed"


def test_swapped_and_copied_files_are_noticed(place: Place) -> None:
    for one, other in itertools.combinations(place.pristine, 2):
        place.write(one, place.pristine[other])
        place.write(other, place.pristine[one])
        assert place.prove(f"{one} <-> {other}"), f"{one} <-> {other} was not noticed"
    for one, other in itertools.permutations(place.pristine, 2):
        place.write(one, place.pristine[other])
        assert place.prove(f"{other} over {one}"), f"{other} over {one} was not noticed"
    for path in filter(KINDS["segments"], place.pristine):
        place.write(f"{DIRECTORY}/{segment_name(9000)}", place.pristine[path])
        assert place.prove(f"{path} under another name")


def test_a_file_of_another_queue_is_noticed(place: Place) -> None:
    """The same names, the same sequences, another id."""
    stranger = Place(clean=False, seed=2)
    for path, content in stranger.pristine.items():
        if not path.endswith((FORMAT, META)) and content != place.pristine.get(path):
            place.write(path, content)
            assert place.prove(f"{path} of another queue"), f"{path} was not noticed"


def main() -> None:
    """Flip every bit of every file, or with an argument every Nth."""
    stride = int(sys.argv[1]) if sys.argv[1:] else 1
    began, flips, refused = time.monotonic(), 0, 0
    for clean in (True, False):
        place = Place(clean=clean)
        for number, (path, at) in enumerate(place.bytes_of(lambda path: True)):
            for bit in range(number % stride, 8, stride) if stride < 8 else (number % 8,):
                flips, refused = flips + 1, refused + flip(place, path, at, bit)
            if number % 10_000 == 0:
                seconds = time.monotonic() - began
                print(f"{flips} flips, {refused} refused, {seconds:.0f} s: {path}", flush=True)
    print(f"{flips} flips, {refused} refused, the others served exactly; no altered byte served")


if __name__ == "__main__":
    main()
