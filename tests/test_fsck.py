"""logqueue-fsck against one damage of each class: what it finds, what a repair leaves, and that
the daemon then serves exactly that."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from logqueue.storage.format import FRAMES_OFFSET, decode_segment_header, footer_offset
from logqueue.storage.frame import Scan, salt_seed
from tests.daemon import Daemon
from tests.fscktree import (
    directory,
    drain,
    flip,
    fsck,
    kinds,
    make,
    patch,
    payload,
    refused,
    segments,
)

NAME = b"orders"
COUNT, CONSUMED = 100, 10  # in five segments
ALL = {number: payload(NAME, number) for number in range(CONSUMED + 1, COUNT + 1)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "data", {NAME: (COUNT, CONSUMED), b"other": (30, 0)})
    return tmp_path / "data"


def frames(path: Path) -> list[tuple[int, int, int]]:
    """(sequence, offset, end) of the frames of a segment."""
    data = path.read_bytes()
    header = decode_segment_header(str(path), data[:FRAMES_OFFSET])
    scan = Scan(
        lambda offset, length: data[offset : offset + length],
        FRAMES_OFFSET,
        footer_offset(len(data)),
        salt_seed(header.salt),
    )
    return [(frame.sequence, frame.offset, frame.end) for frame in scan]


def damage_payload(root: Path) -> set[int]:
    sequence, offset, _ = frames(segments(root, NAME)[1])[5]
    flip(segments(root, NAME)[1], offset + 100)
    return {sequence}


def damage_length(root: Path) -> set[int]:
    sequence, offset, _ = frames(segments(root, NAME)[1])[5]
    flip(segments(root, NAME)[1], offset + 5)
    return {sequence}


def zero_page(root: Path) -> set[int]:
    path = segments(root, NAME)[1]
    patch(path, 3 * 4096, bytes(4096))
    return {s for s, offset, end in frames_before(path, root) if offset < 4 * 4096 and end > 12288}


_frames: dict[str, list[tuple[int, int, int]]] = {}


def frames_before(path: Path, root: Path) -> list[tuple[int, int, int]]:
    """The frames of a segment as they were in the undamaged directory."""
    return _frames[path.name]


def damage_tail(root: Path) -> set[int]:
    path = segments(root, NAME)[-1]
    sequence, offset, _ = frames(path)[2]
    flip(path, offset + 40)
    return {sequence}


def zero_tail(root: Path) -> set[int]:
    path = segments(root, NAME)[-1]
    found = frames(path)[-3:]
    patch(path, found[0][1], bytes(found[-1][2] - found[0][1]))
    return {sequence for sequence, _, _ in found}


def two_damages(root: Path) -> set[int]:
    return damage_payload(root) | damage_tail(root)


def lose_segment(root: Path) -> set[int]:
    path = segments(root, NAME)[2]
    lost = {sequence for sequence, _, _ in frames(path)}
    path.unlink()
    return lost


def lose_newest_segment(root: Path) -> set[int]:
    path = segments(root, NAME)[-1]
    lost = {sequence for sequence, _, _ in frames(path)}
    path.unlink()
    return lost


def lose_every_segment(root: Path) -> set[int]:
    for path in segments(root, NAME):
        path.unlink()
    return set(ALL)


def truncate_segment(root: Path) -> set[int]:
    path = segments(root, NAME)[2]
    found = frames(path)
    os.truncate(path, found[4][1] + 10)
    return {sequence for sequence, _, _ in found[4:]}


def extend_segment(root: Path) -> set[int]:
    path = segments(root, NAME)[2]
    os.truncate(path, path.stat().st_size + 4096)
    return set()


def damage_header(index: int) -> Callable[[Path], set[int]]:
    def damage(root: Path) -> set[int]:
        flip(segments(root, NAME)[index], 30)
        return set()

    return damage


def damage_header_and_first_frame(root: Path) -> set[int]:
    path = segments(root, NAME)[1]
    first = frames(path)[0][0]
    patch(path, 0, os.urandom(FRAMES_OFFSET + 100))
    return {first}


def damage_header_of_all(root: Path) -> set[int]:
    for path in segments(root, NAME):
        patch(path, 0, bytes(FRAMES_OFFSET))
    return set()


def damage_footer(root: Path) -> set[int]:
    path = segments(root, NAME)[1]
    flip(path, footer_offset(path.stat().st_size) + 20)
    return set()


def lose_footer(root: Path) -> set[int]:
    path = segments(root, NAME)[1]
    patch(path, footer_offset(path.stat().st_size), bytes(4096))
    return set()


def damage_padding(root: Path) -> set[int]:
    path = segments(root, NAME)[1]
    padded = [each for each in frames(path) if len(payload(NAME, each[0])) % 8]
    flip(path, padded[3][2] - 1)
    return set()


def swap_segments(root: Path) -> set[int]:
    one, other = segments(root, NAME)[1:3]
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    return set()


def swap_segments_of_queues(root: Path) -> set[int]:
    one, other = segments(root, NAME)[0], segments(root, b"other")[0]
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    return set()


def copy_segment(root: Path) -> set[int]:
    shutil.copy(segments(root, NAME)[1], directory(root, NAME) / f"{10**9:020d}.log")
    return set()


def damage_meta(root: Path) -> set[int]:
    flip(directory(root, NAME) / "meta", 20)
    return set()


def lose_meta(root: Path) -> set[int]:
    (directory(root, NAME) / "meta").unlink()
    return set()


def swap_metas(root: Path) -> set[int]:
    one, other = directory(root, NAME) / "meta", directory(root, b"other") / "meta"
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    return set()


def damage_cursor_copy(root: Path) -> set[int]:
    flip(directory(root, NAME) / "cursor", newest_entry(root) + 30)
    return set()


def newest_entry(root: Path) -> int:
    data = (directory(root, NAME) / "cursor").read_bytes()
    return max(
        range(0, 8192, 512), key=lambda at: int.from_bytes(data[at + 16 : at + 24], "little")
    )


def wipe_segment_and_header(root: Path) -> set[int]:
    path = segments(root, NAME)[1]
    lost = {sequence for sequence, _, _ in frames(path)}
    path.write_bytes(bytes(path.stat().st_size))
    return lost


def wipe_cursor(root: Path) -> set[int]:
    (directory(root, NAME) / "cursor").write_bytes(bytes(8192))
    return set()


def lose_cursor(root: Path) -> set[int]:
    (directory(root, NAME) / "cursor").unlink()
    return set()


def damage_options(root: Path) -> set[int]:
    """The last bytes of a meta file are the queue's options."""
    path = directory(root, NAME) / "meta"
    path.write_bytes(path.read_bytes() + b"{}")
    return set()


def lose_segment_and_meta(root: Path) -> set[int]:
    return lose_segment(root) | lose_meta(root)


def damage_everything(root: Path) -> set[int]:
    lost = damage_tail(root) | lose_segment(root) | damage_payload(root)
    flip(directory(root, NAME) / "meta", 20)
    flip(segments(root, NAME)[0], 30)
    return lost


def lose_first_segment(root: Path) -> set[int]:
    path = segments(root, NAME)[0]
    lost = {sequence for sequence, _, _ in frames(path)}
    path.unlink()
    return lost


def damage_all_headers_and_meta(root: Path) -> set[int]:
    damage_header_of_all(root)
    return lose_meta(root)


TABLE: list[tuple[str, Callable[[Path], set[int]], set[str]]] = [
    ("payload", damage_payload, {"mid-damage"}),
    ("length", damage_length, {"mid-damage"}),
    ("zeroed page", zero_page, {"mid-damage"}),
    ("tail", damage_tail, {"mid-damage"}),
    ("zero tail", zero_tail, {"zero-tail"}),
    ("two places", two_damages, {"mid-damage"}),
    ("segment gone", lose_segment, {"gap"}),
    ("newest segment gone", lose_newest_segment, {"gap"}),
    ("all segments gone", lose_every_segment, {"no-segment"}),
    ("segment cut", truncate_segment, {"size-bad"}),
    ("segment extended", extend_segment, {"size-bad"}),
    ("header", damage_header(1), {"header-bad"}),
    ("tail header", damage_header(-1), {"header-bad"}),
    ("header and first frame", damage_header_and_first_frame, {"header-bad", "mid-damage"}),
    ("all headers", damage_header_of_all, {"header-bad"}),
    ("segment wiped", wipe_segment_and_header, {"header-bad"}),
    ("footer", damage_footer, {"footer-bad"}),
    ("footer gone", lose_footer, {"footer-bad"}),
    ("padding", damage_padding, {"padding"}),
    ("segments swapped", swap_segments, {"duplicate-segment"}),
    ("segments of two queues swapped", swap_segments_of_queues, {"foreign-segment"}),
    ("segment copied", copy_segment, {"duplicate-segment"}),
    ("meta", damage_meta, {"meta-bad"}),
    ("meta gone", lose_meta, {"meta-bad"}),
    ("metas swapped", swap_metas, {"meta-bad"}),
    ("cursor copy", damage_cursor_copy, {"cursor-entry"}),
    ("cursor", wipe_cursor, {"cursor-bad"}),
    ("cursor gone", lose_cursor, {"cursor-bad"}),
    ("options", damage_options, {"meta-bad"}),
    ("first segment gone", lose_first_segment, {"gap"}),
    ("segment and meta gone", lose_segment_and_meta, {"gap", "meta-bad"}),
    ("all headers and meta gone", damage_all_headers_and_meta, {"header-bad", "cursor-bad"}),
    (
        "everything at once",
        damage_everything,
        {"mid-damage", "gap", "meta-bad", "header-bad"},
    ),
]
AGAIN = {"cursor-bad"}  # with these nobody knows what was consumed: all that is left comes again


@pytest.mark.parametrize(("damage", "found"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE])
def test_a_damage_is_named_and_mended_and_nothing_valid_is_lost(
    root: Path, capsys: Any, damage: Callable[[Path], set[int]], found: set[str]
) -> None:
    _frames.clear()
    _frames.update({path.name: frames(path) for path in segments(root, NAME)})
    before = snapshot(root)
    lost = damage(root)
    damaged = snapshot(root)
    assert damaged != before

    status, rows = fsck(capsys, root)
    assert status == 4
    assert found <= kinds(rows)
    assert all(row["remedy"] for row in rows if row.get("severity") in ("safe", "loss"))
    assert snapshot(root) == damaged, "a check changes nothing"

    status, _ = fsck(capsys, "--repair", "-n", root)
    assert status == 4
    assert snapshot(root) == damaged, "a dry run changes nothing"

    status, rows = fsck(capsys, "--repair", "-y", root)
    assert status == 1
    ident = rows[-1]["quarantine"]
    status, rows = fsck(capsys, "--thorough", root)
    assert (status, kinds(rows)) == (0, set())

    fresh = root.parent / "again"
    shutil.copytree(root, fresh / "data")
    first = 1 if found & AGAIN else CONSUMED + 1
    numbers = (number for number in range(first, COUNT + 1) if number not in lost)
    expected = [payload(NAME, number) for number in numbers]
    assert served(fresh) == [expected, [payload(b"other", number) for number in range(1, 31)]]

    status, _ = fsck(capsys, "--undo", ident, root)
    assert status == 1
    assert snapshot(root) == damaged


def served(place: Path) -> list[list[bytes]]:
    """What a daemon hands out of both queues, in its order."""
    with Daemon(place, ["--durability", "os"]) as daemon:
        daemon.start()
        taken = [
            list(iter(partial(daemon.ask, f"name={name}&opt=get"), b"HTTPSQS_GET_END"))
            for name in ("orders", "other")
        ]
        assert daemon.stop() == 0, daemon.log
    return taken


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file but the lock and the quarantine."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "LOCK" and "quarantine" not in path.parts
    }


def test_a_clean_directory_is_clean(root: Path, capsys: Any) -> None:
    for option in ([], ["--thorough"], ["--online"], ["--repair", "-y"]):
        status, rows = fsck(capsys, *option, root)
        assert status == 0
        assert kinds(rows) == set()
    assert not (root / "quarantine").exists()


def test_an_unreadable_cursor_means_redelivery_from_the_oldest(root: Path, capsys: Any) -> None:
    (directory(root, NAME) / "cursor").write_bytes(bytes(8192))
    assert refused(root, NAME)
    assert fsck(capsys, "--repair", "-p", root)[0] == 4
    assert refused(root, NAME)
    status, rows = fsck(capsys, "--repair", "-y", root)
    assert (status, kinds(rows)) == (1, {"cursor-bad"})
    assert sorted(drain(root, NAME)) == list(range(1, COUNT + 1))


def test_preening_mends_what_costs_nothing_and_leaves_the_rest(root: Path, capsys: Any) -> None:
    damage_footer(root)
    path = segments(root, b"other")[0]
    flip(path, frames(path)[1][1] + 50)
    status, _ = fsck(capsys, "--repair", "-p", root)
    assert status == 5
    status, rows = fsck(capsys, root)
    assert status == 4
    assert {(row["queue"], row["finding"]) for row in rows if "finding" in row} == {
        ("other", "mid-damage")
    }


def test_a_torn_tail_is_clean_and_stays_to_the_daemon(tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "data"
    make(root, {NAME: (10, 0)}, clean=False)
    path = segments(root, NAME)[0]
    patch(path, frames(path)[-1][2], b"torn" * 20)
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (0, {"torn-tail"})
    assert fsck(capsys, "--repair", "-y", root)[0] == 0
    assert len(drain(root, NAME)) == 10


def test_harmless_files_are_named_and_left(root: Path, capsys: Any) -> None:
    (directory(root, NAME) / "spare.tmp").write_bytes(b"")
    (directory(root, NAME) / "notes.txt").write_bytes(b"mine")
    (root / "README").write_bytes(b"mine")
    (root / "queues" / "half.tmp").mkdir()
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (0, {"orphan-tmp", "foreign-file"})
    damage_payload(root)
    assert fsck(capsys, "--repair", "-y", root)[0] == 1
    assert (directory(root, NAME) / "notes.txt").read_bytes() == b"mine"


def test_what_is_no_queue_is_set_aside(root: Path, capsys: Any) -> None:
    (root / "queues" / "README").write_bytes(b"mine")
    (root / "queues" / "empty").mkdir()
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (4, {"not-a-queue"})
    status, rows = fsck(capsys, "--repair", "-y", root)
    assert status == 1
    aside = root / "quarantine" / rows[-1]["quarantine"]
    assert (aside / "README").read_bytes() == b"mine"
    assert fsck(capsys, "--thorough", root)[0] == 0


@pytest.mark.parametrize("content", [None, b"", b"logqueue data directory, format one\n"])
def test_the_format_file_is_made_anew(root: Path, capsys: Any, content: bytes | None) -> None:
    good = (root / "FORMAT").read_bytes()
    (root / "FORMAT").unlink()
    if content is not None:
        (root / "FORMAT").write_bytes(content)
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (4, {"format-bad"})
    assert fsck(capsys, "--repair", "-p", root)[0] == 1
    assert (root / "FORMAT").read_bytes() == good
    assert fsck(capsys, root)[0] == 0
    (ident,) = os.listdir(root / "quarantine")
    kept = [path.read_bytes() for path in root.glob(f"quarantine/{ident}/FORMAT.old")]
    assert kept == ([] if content is None else [content])
    assert fsck(capsys, "--undo", ident, root)[0] == 1
    assert (root / "FORMAT").exists() == (content is not None)
    assert content in (None, *(path.read_bytes() for path in root.glob("FORMAT")))
    assert kinds(fsck(capsys, root)[1]) == {"format-bad"}


def test_the_format_file_is_made_anew_where_queues_cannot_be_exchanged(
    root: Path, capsys: Any
) -> None:
    (root / "queues").rename(root.parent / "elsewhere")
    (root / "queues").symlink_to(root.parent / "elsewhere")
    (root / "FORMAT").unlink()
    assert fsck(capsys, "--repair", "-y", root)[0] == 1
    assert fsck(capsys, root)[0] == 0


def test_a_queue_called_format_is_no_format_file(tmp_path: Path, capsys: Any) -> None:
    root, name = tmp_path / "data", b"FORMAT"
    make(root, {name: (10, 0)})
    (root / "FORMAT").write_bytes(b"")
    (directory(root, name) / "meta").unlink()
    (directory(root, name) / "cursor").unlink()
    flip(segments(root, name)[0], 4096 + 100)
    before = snapshot(root)
    ident = fsck(capsys, "--repair", "-y", root)[1][-1]["quarantine"]
    assert len(drain(root, name)) == 9
    assert fsck(capsys, "--undo", ident, root)[0] == 1
    after = snapshot(root)
    assert {path: after.get(path) for path in before} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_what_root_repairs_stays_the_owners(root: Path, capsys: Any) -> None:
    damage_payload(root)
    (root / "FORMAT").unlink()
    for path in (root, *root.rglob("*")):
        os.chown(path, 12345, 12345)
    assert fsck(capsys, "--repair", "-y", root)[0] == 1
    served = [root / "FORMAT", *(root / "queues").rglob("*")]
    assert {path.stat().st_uid for path in served} == {12345}


def test_a_newer_format_is_left_alone(root: Path, capsys: Any) -> None:
    (root / "FORMAT").write_bytes(b"logqueue data directory, format 9\n")
    before = snapshot(root)
    status, rows = fsck(capsys, "--repair", "-y", root)
    assert (status, kinds(rows)) == (4, {"version-newer"})
    assert snapshot(root) == before


def test_a_long_name_that_is_lost_becomes_a_recovered_queue(tmp_path: Path, capsys: Any) -> None:
    root, name = tmp_path / "data", b"n" * 256
    make(root, {name: (10, 2)})
    ended = directory(root, name)
    (ended / "meta").unlink()
    assert fsck(capsys, "--repair", "-y", root)[0] == 1
    assert fsck(capsys, root)[0] == 0
    assert len(drain(root, b"recovered-" + ended.name[1:33].encode())) == 8


def test_a_quarantine_that_was_changed_is_told_and_not_undone(root: Path, capsys: Any) -> None:
    damage_payload(root)
    ident = fsck(capsys, "--repair", "-y", root)[1][-1]["quarantine"]
    aside = next((root / "quarantine" / ident / "orders").glob("*.log"))
    flip(aside, 5000)
    assert fsck(capsys, root)[0] == 0
    status, rows = fsck(capsys, "--thorough", root)
    assert (status, kinds(rows)) == (4, {"quarantine-bad"})
    assert fsck(capsys, "--undo", ident, root)[0] == 16
    os.truncate(aside, 100)
    assert kinds(fsck(capsys, root)[1]) == {"quarantine-bad"}


def test_the_command_leaves_the_signals_of_its_process_alone(root: Path, capsys: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert fsck(capsys, root)[0] == 0
    assert signal.getsignal(signal.SIGTERM) is before
