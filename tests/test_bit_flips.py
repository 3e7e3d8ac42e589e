"""Damage to any byte of any file: what was acknowledged is served exactly, or refused by name.

The suite samples; `python -m tests.bitflips` flips every bit of every file of the queue.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random

import pytest

from logqueue.storage.format import PAGE
from logqueue.storage.layout import (
    CURSOR,
    FORMAT,
    META,
    acks_base,
    segment_base,
    segment_name,
)
from tests.bitflips import DIRECTORY, Place, flips

FLIPS = 2000


@pytest.fixture(params=["clean", "killed", "leased"], scope="module")
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.param)


KINDS: dict[str, Callable[[str], bool]] = {
    "meta": lambda path: path.endswith(META),
    "cursor": lambda path: path.endswith(CURSOR),
    "FORMAT": lambda path: path.endswith(FORMAT),
    "segments": lambda path: segment_base(path.rpartition("/")[2]) is not None,
    "acks": lambda path: acks_base(path.rpartition("/")[2]) is not None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_never_served_and_always_reported(place: Place, kind: str) -> None:
    random = Random(2)
    everywhere = place.bytes_of(KINDS[kind])
    sample = random.sample(everywhere, min(FLIPS // len(KINDS), len(everywhere)))
    found = [place.flip(path, at, random.randrange(8)) for path, at in sample]
    assert found.count("refused") >= len(sample) // 20


def test_a_range_of_the_long_run() -> None:
    assert flips(("clean", 10, 34, 1)) == {"refused": 24 * 8}  # FORMAT
    assert flips(("clean", 0, 1 << 60, 50_000)).total() > 40


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
    stranger = Place("killed", seed=2)
    for path, content in stranger.pristine.items():
        if not path.endswith((FORMAT, META)) and content != place.pristine.get(path):
            place.write(path, content)
            assert place.prove(f"{path} of another queue"), f"{path} was not noticed"
