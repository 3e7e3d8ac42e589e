"""Which queue a directory holds, when meta files are lost and segments lie in wrong directories:
records never come out under another queue's name, and none is lost for want of a name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from logqueue.storage.format import MAXQUEUE_DEFAULT
from tests.fscktree import (
    Records,
    directory,
    drain,
    flip,
    fsck,
    kinds,
    make,
    patch,
    payload,
    segments,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The queue `a` in three segments, `b` in one; a part of each is consumed."""
    make(tmp_path / "data", {b"a": (60, 7), b"b": (12, 3)})
    return tmp_path / "data"


def written(name: bytes, first: int, last: int) -> Records:
    return {number: payload(name, number) for number in range(first, last + 1)}


def swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def damage_meta(root: Path, name: bytes) -> None:
    flip(directory(root, name) / "meta", 7)


def mend(capsys: Any, root: Path) -> list[dict[str, Any]]:
    """Repair; the findings.  A second check is clean."""
    status, rows = fsck(capsys, "--repair", "-y", root)
    assert status == 1
    assert fsck(capsys, "--thorough", root)[0] == 0
    return rows


def test_a_segment_in_a_wrong_place_does_not_give_its_queue_a_second_directory(
    root: Path, capsys: Any
) -> None:
    """Under a name that is another segment's it says nothing of whose directory it is."""
    swap(segments(root, b"b")[0], segments(root, b"a")[1])
    damage_meta(root, b"a")
    damage_meta(root, b"b")
    mend(capsys, root)
    assert drain(root, b"a") == written(b"a", 8, 60)
    assert drain(root, b"b") == written(b"b", 4, 12)


def test_an_id_goes_to_the_directory_that_most_files_speak_for(root: Path, capsys: Any) -> None:
    swap(segments(root, b"b")[0], segments(root, b"a")[0])
    os.truncate(directory(root, b"b") / "meta", 34)
    swap(directory(root, b"a") / "meta", segments(root, b"a")[2])
    mend(capsys, root)
    assert drain(root, b"a") == written(b"a", 8, 46)
    assert drain(root, b"b") == written(b"b", 4, 12)


def test_the_tail_of_one_queue_for_the_only_segment_of_another(root: Path, capsys: Any) -> None:
    swap(segments(root, b"b")[0], segments(root, b"a")[2])
    damage_meta(root, b"a")
    damage_meta(root, b"b")
    mend(capsys, root)
    assert drain(root, b"a") == written(b"a", 8, 60)
    assert drain(root, b"b") == written(b"b", 4, 12)


@pytest.mark.parametrize(("index", "at"), [(1, 503), (0, 2050)])
def test_a_damaged_header_still_says_whose_segment_it_is(
    root: Path, capsys: Any, index: int, at: int
) -> None:
    flip(segments(root, b"a")[index], at)
    swap(segments(root, b"b")[0], segments(root, b"a")[index])
    mend(capsys, root)
    assert drain(root, b"a") == written(b"a", 8, 60)
    assert drain(root, b"b") == written(b"b", 4, 12)


def test_where_two_queues_are_as_likely_the_records_get_names_of_their_own(
    tmp_path: Path, capsys: Any
) -> None:
    root = tmp_path / "data"
    make(root, {b"a": (9, 0), b"b": (12, 0)})
    swap(segments(root, b"a")[0], segments(root, b"b")[0])
    for name in (b"a", b"b"):
        (directory(root, name) / "meta").unlink()
    rows = mend(capsys, root)
    assert "lost-queue" in kinds(rows)
    assert drain(root, b"a") == drain(root, b"b") == {}
    recovered = [path.name.encode() for path in (root / "queues").glob("recovered-*")]
    assert sorted((drain(root, name) for name in recovered), key=len) == [
        written(b"a", 1, 9),
        written(b"b", 1, 12),
    ]


def test_a_directory_that_was_renamed_gets_its_name_back(root: Path, capsys: Any) -> None:
    os.rename(directory(root, b"a"), root / "queues" / "old")
    rows = mend(capsys, root)
    assert kinds(rows) == {"meta-bad"}
    assert drain(root, b"a") == written(b"a", 8, 60)
    assert not (root / "queues" / "old").exists()
    assert fsck(capsys, "--undo", rows[-1]["quarantine"], root)[0] == 1
    assert sorted(os.listdir(root / "queues")) == ["b", "old"]


def test_a_copy_of_a_directory_gives_its_records_to_the_one_it_was_made_of(
    root: Path, capsys: Any
) -> None:
    shutil.copytree(directory(root, b"a"), root / "queues" / "backup")
    segments(root, b"a")[1].unlink()
    mend(capsys, root)
    assert drain(root, b"a") == written(b"a", 8, 60)
    assert drain(root, b"backup") == {}


def test_swapped_meta_files_keep_their_settings(root: Path, capsys: Any) -> None:
    swap(directory(root, b"a") / "meta", directory(root, b"b") / "meta")
    assert fsck(capsys, "--stat", root)[1][0]["maxqueue"] == MAXQUEUE_DEFAULT
    mend(capsys, root)
    assert drain(root, b"a") == written(b"a", 8, 60)
    assert drain(root, b"b") == written(b"b", 4, 12)


def test_a_queue_without_any_readable_id_is_mended_too(root: Path, capsys: Any) -> None:
    """Its records are read without the headers, and it gets a new id."""
    (directory(root, b"a") / "meta").unlink()
    for path in segments(root, b"a"):
        patch(path, 0, bytes(4096))
    rows = mend(capsys, root)
    assert kinds(rows) >= {"meta-bad", "cursor-bad", "header-bad"}
    assert drain(root, b"a") == written(b"a", 1, 60)


def test_segments_of_a_queue_that_is_gone_become_a_queue(root: Path, capsys: Any) -> None:
    shutil.copy(segments(root, b"b")[0], directory(root, b"a") / f"{99:020}.log")
    shutil.rmtree(directory(root, b"b"))
    before = sorted(os.listdir(root / "queues"))
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (4, {"foreign-segment", "lost-queue"})
    saved = root.parent / "saved"
    fsck(capsys, "--salvage", saved, root)
    rows = mend(capsys, root)
    (recovered,) = (path.name.encode() for path in (root / "queues").glob("recovered-*"))
    assert drain(root, recovered) == drain(saved, recovered) == written(b"b", 1, 12)
    assert fsck(capsys, "--undo", rows[-1]["quarantine"], root)[0] == 1
    assert sorted(os.listdir(root / "queues")) == before


def test_a_long_name_is_taken_from_a_damaged_meta_file(tmp_path: Path, capsys: Any) -> None:
    """The directory's name is its digest, and proves it."""
    root, name = tmp_path / "data", b"n" * 256
    make(root, {name: (10, 2)})
    damage_meta(root, name)
    mend(capsys, root)
    assert drain(root, name) == written(name, 3, 10)
