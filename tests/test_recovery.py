"""Named damage to a queue's directory, and exactly what survives it.

Records are 40 bytes, so frames are 72 and record n of a segment that begins with record b stands
at 4096 + 72 * (n - b).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from struct import pack_into
from typing import NamedTuple

import pytest
from crc32c import crc32c

from logqueue.errors import Corrupt, NewerFormat
from logqueue.storage.format import (
    CURSOR_ENTRY_BYTES,
    CURSOR_FILE_BYTES,
    FRAMES_OFFSET,
    MAXQUEUE_DEFAULT,
    PAGE,
    SECTOR,
    VERSION,
    Ring,
    decode_meta,
    decode_segment_header,
    encode_meta,
    footer_offset,
)
from logqueue.storage.frame import (
    LAG_UNKNOWN,
    encode_header,
    salt_seed,
)
from logqueue.storage.layout import CURSOR, META, META_TEMPORARY, SPARE, segment_name
from logqueue.storage.queue import Queue
from logqueue.storage.recovery import queue_seed
from tests.queues import (
    COMMITTED,
    create,
    directory,
    drain,
    flip,
    look,
    overwrite,
    put_synced,
    reopen,
    reopened,
)

FRAME = 72


def record(number: int) -> bytes:
    return (b"record %d " % number).ljust(40, b".")


def offset(number: int, base: int = 1) -> int:
    return FRAMES_OFFSET + FRAME * (number - base)


def records(first: int, last: int) -> list[bytes]:
    return [record(number) for number in range(first, last + 1)]


def seed_of(path: Path) -> int:
    return salt_seed(decode_segment_header(str(path), path.read_bytes()[:PAGE]).salt)


def frame(path: Path, at: int, sequence: int, lag: int, payload: bytes = b"x" * 40) -> bytes:
    """A valid frame for this place of this segment."""
    return encode_header(seed_of(path), at, sequence, 0, lag, 0, payload) + payload


# ---------------------------------------------------------------- the tail


class Torn(NamedTuple):
    """The records 1..`intact` survive, and `dropped` bytes that nobody was promised do not."""

    intact: int
    dropped: int


class Damaged(NamedTuple):
    """The queue refuses and names this record and offset."""

    sequence: int
    offset: int


def acknowledged(queue: Queue) -> None:
    """Eight records, each of them synced before the next: every frame proves its forerunners."""
    put_synced(queue, *records(1, 8))


def in_flight(queue: Queue) -> None:
    """Four acknowledged records, and four that no sync has covered: these prove the first four."""
    put_synced(queue, *records(1, 4))
    for payload in records(5, 8):
        queue.put(payload)


def noted(queue: Queue) -> None:
    """Eight acknowledged records, and the cursor knows."""
    acknowledged(queue)
    assert queue.checkpoint()
    queue.sync()


def zero(path: Path, begin: int, end: int) -> None:
    overwrite(path, begin, bytes(end - begin))


def only_frame(path: Path, at: int, sequence: int, lag: int) -> None:
    """Three records, and this frame somewhere behind."""
    zero(path, offset(4), offset(9))
    overwrite(path, at, frame(path, at, sequence, lag))


LIMIT = footer_offset(32 * 1024)

TAILS: list[tuple[str, Callable[[Queue], None], Callable[[Path], object], Torn | Damaged]] = [
    # A tear, or damage that nobody can tell from one: at the very end of an unclean stop.
    ("nothing", acknowledged, lambda path: None, Torn(8, 0)),
    ("torn_length_field", acknowledged, lambda path: flip(path, offset(8) + 4), Torn(7, 72)),
    ("torn_crc_field", acknowledged, lambda path: flip(path, offset(8)), Torn(7, 72)),
    ("torn_type_field", acknowledged, lambda path: flip(path, offset(8) + 28), Torn(7, 72)),
    ("torn_payload", in_flight, lambda path: flip(path, offset(8) + 60), Torn(7, 72)),
    ("half_a_frame", in_flight, lambda path: zero(path, offset(8) + 36, offset(9)), Torn(7, 36)),
    ("half_a_header", in_flight, lambda path: zero(path, offset(8) + 6, offset(9)), Torn(7, 5)),
    ("payload_headless", in_flight, lambda p: zero(p, offset(8), offset(8) + 32), Torn(7, 72)),
    ("never_written", in_flight, lambda path: zero(path, offset(5), offset(9)), Torn(4, 0)),
    ("hole_before_valid", in_flight, lambda path: zero(path, offset(5), offset(6)), Torn(4, 288)),
    ("hole_between_valid", in_flight, lambda path: zero(path, offset(7), offset(8)), Torn(6, 144)),
    ("flip_before_valid", in_flight, lambda path: flip(path, offset(6) + 50), Torn(5, 216)),
    ("length_before_valid", in_flight, lambda path: flip(path, offset(6) + 5), Torn(5, 216)),
    (
        "wrong_sequence",
        acknowledged,
        lambda path: overwrite(path, offset(9), frame(path, offset(9), 11, LAG_UNKNOWN)),
        Torn(8, 72),
    ),
    (
        "frame_of_another_place",
        acknowledged,
        lambda path: overwrite(path, offset(9), frame(path, offset(10), 9, 1)),
        Torn(8, 72),
    ),
    (
        "saturated_lag_proves_nothing",
        in_flight,
        lambda path: only_frame(path, offset(8), 8, LAG_UNKNOWN),
        Torn(3, 4 * 72 + 72),
    ),
    (
        "garbage_at_the_very_end",
        acknowledged,
        lambda path: overwrite(path, LIMIT - 1, b"\x01"),
        Torn(8, LIMIT - offset(9)),
    ),
    ("garbage_in_the_footer", acknowledged, lambda p: overwrite(p, LIMIT + 9, b"\x01"), Torn(8, 0)),
    # Damage to what was promised.
    ("first_payload", acknowledged, lambda p: flip(p, offset(1) + 40), Damaged(1, offset(1))),
    ("middle_payload", acknowledged, lambda p: flip(p, offset(4) + 40), Damaged(4, offset(4))),
    ("middle_length", acknowledged, lambda path: flip(path, offset(4) + 6), Damaged(4, offset(4))),
    ("middle_hole", acknowledged, lambda p: zero(p, offset(4), offset(5)), Damaged(4, offset(4))),
    ("all_but_one", acknowledged, lambda p: zero(p, offset(1), offset(8)), Damaged(1, offset(1))),
    ("below_the_batch", in_flight, lambda p: flip(p, offset(4) + 40), Damaged(4, offset(4))),
    (
        "below_the_batch_and_within",
        in_flight,
        lambda path: overwrite(path, offset(4) + 40, b"!" * 2 * FRAME),
        Damaged(4, offset(4)),
    ),
    (
        "one_late_witness",
        in_flight,
        lambda path: only_frame(path, LIMIT - 72, 300, 296),
        Damaged(4, offset(4)),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fill", "damage", "expected"), [each[1:] for each in TAILS], ids=[each[0] for each in TAILS]
)
def test_the_tail_after_an_unclean_stop(
    tmp_path: Path,
    fill: Callable[[Queue], None],
    damage: Callable[[Path], object],
    expected: Torn | Damaged,
) -> None:
    queue = create(tmp_path)
    fill(queue)
    queue.close(clean=False)
    path = directory(tmp_path) / segment_name(1)
    damage(path)
    report = look(tmp_path)
    if isinstance(expected, Damaged):
        (error,) = report.damage
        assert (error.path, error.sequence, error.offset) == (str(path), *expected)
        before = path.read_bytes()
        with pytest.raises(Corrupt, match="were acknowledged"):
            reopen(tmp_path)
        assert path.read_bytes() == before  # nothing is repaired behind anybody's back
        return
    assert report.damage == []
    assert report.tail is not None
    assert (report.tail.last, report.tail.dropped_bytes) == expected
    assert len(report.notes) == bool(expected.dropped)
    if expected.dropped:
        assert f"offset {offset(expected.intact + 1)}: torn tail" in report.notes[0]
        assert f"{expected.dropped} bytes" in report.notes[0]
    with reopened(tmp_path) as queue:
        assert queue.put(record(99)) == expected.intact + 1
        # R3: never behind a tear
        torn = report.tail.dropped_bytes or not report.tail.appendable
        assert queue.log.active.base == (expected.intact + 1 if torn else 1)
        queue.sync()
    with reopened(tmp_path) as queue:  # and nothing that was dropped comes back
        assert drain(queue) == [*records(1, expected.intact), record(99)]


def test_the_cursor_shrinks_what_looks_like_a_tear(tmp_path: Path) -> None:
    """The same flip as `torn_payload`, below the durable mark that the cursor notes."""
    queue = create(tmp_path)
    noted(queue)
    queue.close(clean=False)
    path = directory(tmp_path) / segment_name(1)
    flip(path, offset(8) + 40)
    with reopened(tmp_path) as queue:
        assert [queue.get() for _ in range(7)] == [*enumerate(records(1, 7), 1)]
        for _ in range(2):  # it stays stopped
            with pytest.raises(Corrupt) as error:
                queue.get()
            assert (error.value.path, error.value.offset) == (str(path), offset(8))
            assert error.value.sequence == 8
        with pytest.raises(Corrupt):
            queue.put(b"refused")
        assert queue.consumed == 7


@pytest.mark.parametrize("number", [1, 4, 8])
def test_damage_after_a_clean_stop_is_never_taken_for_a_tear(tmp_path: Path, number: int) -> None:
    queue = create(tmp_path)
    acknowledged(queue)
    queue.close()
    flip(directory(tmp_path) / segment_name(1), offset(number) + 40)
    with reopened(tmp_path) as queue:
        assert [queue.get() for _ in range(number - 1)] == [*enumerate(records(1, number - 1), 1)]
        with pytest.raises(Corrupt) as error:
            queue.get()
        assert (error.value.sequence, error.value.offset) == (number, offset(number))


def test_frames_behind_the_clean_mark_are_recovered(tmp_path: Path) -> None:
    """Opened, put, killed: the mark still stands, and does not hide what came after it."""
    queue = create(tmp_path)
    put_synced(queue, *records(1, 3))
    queue.close()
    queue, _ = reopen(tmp_path)
    put_synced(queue, *records(4, 5))
    queue.close(clean=False)
    assert look(tmp_path).checkpoint is not None
    with reopened(tmp_path) as queue:
        assert drain(queue) == records(1, 5)


def test_a_tear_behind_the_clean_mark_is_dropped(tmp_path: Path) -> None:
    queue = create(tmp_path)
    put_synced(queue, *records(1, 3))
    queue.close()
    overwrite(directory(tmp_path) / segment_name(1), offset(4), b"half a rec")
    report = look(tmp_path)
    assert report.tail is not None
    assert (report.tail.last, report.tail.dropped_bytes, report.damage) == (3, 10, [])
    with reopened(tmp_path) as queue:
        assert drain(queue) == records(1, 3)


def test_a_tear_in_an_empty_segment_replaces_it(tmp_path: Path) -> None:
    queue = create(tmp_path)
    put_synced(queue, *records(1, 3))
    queue.roll()
    queue.put(record(4))
    queue.close(clean=False)
    path = directory(tmp_path) / segment_name(4)
    flip(path, FRAMES_OFFSET + 50)
    salt = seed_of(path)
    with reopened(tmp_path) as queue:
        assert queue.put(record(44)) == 4
        queue.sync()
    assert seed_of(path) != salt
    with reopened(tmp_path) as queue:
        assert drain(queue) == [*records(1, 3), record(44)]


# ---------------------------------------------------------------- the chain of segments


def chain(tmp_path: Path, consumed: int = 0, *, clean: bool = False) -> Path:
    """Nine records in three segments, which begin with 1, 4 and 7."""
    queue = create(tmp_path)
    for first in (1, 4, 7):
        put_synced(queue, *records(first, first + 2))
        if first < 7:
            queue.roll()
    for _ in range(consumed):
        queue.get()
    queue.sync()
    queue.close(clean=clean)
    return directory(tmp_path)


both_stops = pytest.mark.parametrize("clean", [False, True], ids=["unclean", "clean"])


@both_stops
def test_an_undamaged_chain(tmp_path: Path, clean: bool) -> None:
    chain(tmp_path, clean=clean)
    report = look(tmp_path)
    assert (report.damage, report.notes) == ([], [])
    assert [each.ended.base for each in report.sealed] == [1, 4]
    with reopened(tmp_path) as queue:
        assert [queue.view(number) for number in range(1, 11)] == [*records(1, 9), None]
        assert drain(queue) == records(1, 9)


@both_stops
@pytest.mark.parametrize("base", [1, 4])
@pytest.mark.parametrize("damage", ["flipped", "zeroed", "garbage"])
def test_a_footer_is_only_a_cache(tmp_path: Path, base: int, damage: str, clean: bool) -> None:
    path = chain(tmp_path, clean=clean) / segment_name(base)
    at = footer_offset(path.stat().st_size)
    if damage == "flipped":
        flip(path, at + 20)
    else:
        fill = {"zeroed": b"\0", "garbage": b"\x5a"}[damage]
        overwrite(path, at, fill * (path.stat().st_size - at))
    with reopened(tmp_path) as queue:
        assert [queue.view(number) for number in range(1, 10)] == records(1, 9)
        assert drain(queue) == records(1, 9)


@both_stops
@pytest.mark.parametrize(
    ("base", "consumed", "expected"),
    [
        (1, 0, "the segment is missing"),
        (1, 2, "the segment is missing"),
        (1, 3, 6),
        (4, 0, "the segment is missing"),
        (4, 5, "the segment is missing"),
        (4, 6, 3),
        (7, 0, "the newest segment is missing"),
        (7, 9, "the newest segment is missing"),
    ],
)
def test_a_missing_segment(
    tmp_path: Path, base: int, consumed: int, expected: str | int, clean: bool
) -> None:
    """Missed when it held a record that was not consumed; the newest one always."""
    path = chain(tmp_path, consumed, clean=clean) / segment_name(base)
    path.unlink()
    report = look(tmp_path)
    if isinstance(expected, str):
        (error,) = report.damage
        assert (error.path, error.reason) == (str(path), expected)
        newest = report.checkpoint.durable if report.checkpoint else 0
        assert error.sequence == {1: 3, 4: 6, 7: newest}[base]
        return
    assert report.damage == []
    with reopened(tmp_path) as queue:
        assert drain(queue) == records(10 - expected, 9)
    assert report.stale == ([segment_name(1)] if base == 4 else [])


def test_no_segment_at_all(tmp_path: Path) -> None:
    path = chain(tmp_path)
    for base in (1, 4, 7):
        (path / segment_name(base)).unlink()
    (error,) = look(tmp_path).damage
    assert (error.path, error.reason) == (str(path), "there is no segment file")


def test_a_consumed_segment_that_comes_back_is_removed_again(tmp_path: Path) -> None:
    """A power cut may undo an unlink."""
    path = chain(tmp_path, 8)
    kept = tmp_path / "kept"
    shutil.copy(path / segment_name(1), kept)
    with reopened(tmp_path) as queue:
        assert queue.free(7) > 0
    assert sorted(each.name for each in path.iterdir()) == [segment_name(7), CURSOR, META]
    shutil.copy(kept, path / segment_name(1))
    report = look(tmp_path)
    assert report.damage == []
    assert report.stale == [segment_name(1)]
    assert report.notes == [f"{path / segment_name(1)}: consumed long ago, is removed"]
    with reopened(tmp_path) as queue:
        assert not (path / segment_name(1)).exists()
        assert queue.view(1) is None
        assert drain(queue) == [record(9)]


def swap(path: Path) -> None:
    (path / segment_name(1)).rename(path / "aside")
    (path / segment_name(4)).rename(path / segment_name(1))
    (path / "aside").rename(path / segment_name(4))


def another(path: Path) -> Path:
    """The directory of another queue, of the same name and content."""
    root = path.parent / "elsewhere"
    root.mkdir()
    return chain(root)


def foreign_segment(path: Path) -> None:
    shutil.copy(another(path) / segment_name(4), path / segment_name(4))


def fill(path: Path, byte: bytes) -> None:
    overwrite(path, 0, byte * path.stat().st_size)


SEGMENTS: list[tuple[str, Callable[[Path], object], int, int, str]] = [
    ("swapped", swap, 1, 0, "this is a copy of the segment 4"),
    (
        "duplicated_as_newest",
        lambda path: shutil.copy(path / segment_name(4), path / segment_name(10)),
        10,
        0,
        "this is a copy of the segment 4",
    ),
    ("foreign", foreign_segment, 4, 0, "this is a segment of another queue"),
    ("zeroed", lambda path: fill(path / segment_name(4), b"\0"), 4, 0, "this is no segment header"),
    ("garbage", lambda path: fill(path / segment_name(4), b"\xa5"), 4, 0, "no segment header"),
    ("zeroed_newest", lambda path: fill(path / segment_name(7), b"\0"), 7, 0, "no segment header"),
    ("header_flip", lambda path: flip(path / segment_name(7), 30), 7, 0, "CRC of the segment head"),
    ("header_page_flip", lambda path: flip(path / segment_name(1), 4000), 1, 0, "CRC of the segm"),
    (
        "truncated",
        lambda path: os.truncate(path / segment_name(4), 8192),
        4,
        8192,
        "the file must have 65536 bytes",
    ),
    ("truncated_newest", lambda path: os.truncate(path / segment_name(7), 5000), 7, 5000, "must"),
    ("truncated_header", lambda path: os.truncate(path / segment_name(7), 99), 7, 99, "ends insi"),
    ("emptied", lambda path: os.truncate(path / segment_name(7), 0), 7, 0, "the file ends inside"),
    ("extended", lambda path: os.truncate(path / segment_name(7), 1 << 20), 7, 1 << 20, "must"),
]  # fmt: skip


@both_stops
@pytest.mark.parametrize(
    ("damage", "base", "at", "reason"),
    [each[1:] for each in SEGMENTS],
    ids=[each[0] for each in SEGMENTS],
)
def test_a_damaged_segment_file_stops_the_queue(
    tmp_path: Path,
    damage: Callable[[Path], object],
    base: int,
    at: int,
    reason: str,
    clean: bool,
) -> None:
    path = chain(tmp_path, clean=clean)
    damage(path)
    error = look(tmp_path).damage[0]
    assert (error.path, error.offset) == (str(path / segment_name(base)), at)
    assert reason in error.reason
    with pytest.raises(Corrupt):
        reopen(tmp_path)


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("part", [4, 28, 40])
def test_a_damaged_record_in_a_sealed_segment_is_never_served(
    tmp_path: Path, number: int, part: int
) -> None:
    """The start costs nothing; the delivery finds it, stops the queue and names the place."""
    base = 1 if number < 4 else 4
    path = chain(tmp_path, clean=True) / segment_name(base)
    flip(path, offset(number, base) + part)
    with reopened(tmp_path) as queue:
        assert [queue.get() for _ in range(number - 1)] == [*enumerate(records(1, number - 1), 1)]
        with pytest.raises(Corrupt) as error:
            queue.get()
        assert (error.value.path, error.value.sequence) == (str(path), number)
        assert error.value.offset == offset(number, base)
        with pytest.raises(Corrupt):
            queue.put(b"refused")
        with pytest.raises(Corrupt):
            queue.view(number)
        assert queue.view(9) == record(9)


# ---------------------------------------------------------------- meta, cursor, strays


def foreign(path: Path, name: str) -> None:
    shutil.copy(another(path) / name, path / name)


def every_cursor_entry(path: Path) -> None:
    for at in range(0, CURSOR_FILE_BYTES, SECTOR):
        flip(path / CURSOR, at + 70)


SMALL_FILES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("meta_missing", lambda path: (path / META).unlink(), META, "the file is missing"),
    ("meta_emptied", lambda path: os.truncate(path / META, 0), META, "ends inside the meta header"),
    ("meta_cut", lambda path: os.truncate(path / META, 60), META, "the CRC of the meta file"),
    ("meta_flip", lambda path: flip(path / META, 50), META, "the CRC of the meta file"),
    ("meta_zeroed", lambda path: fill(path / META, b"\0"), META, "this is no meta file"),
    ("meta_of_another", lambda path: foreign(path, META), CURSOR, "no cursor entry is readable"),
    ("cursor_missing", lambda path: (path / CURSOR).unlink(), CURSOR, "the file is missing"),
    ("cursor_cut", lambda path: os.truncate(path / CURSOR, PAGE), CURSOR, "must have 8192 bytes"),
    ("cursor_zeroed", lambda path: fill(path / CURSOR, b"\0"), CURSOR, "no cursor entry is readab"),
    ("cursor_of_another", lambda path: foreign(path, CURSOR), CURSOR, "no cursor entry"),
    ("both_cursor_slots", every_cursor_entry, CURSOR, "no cursor entry is readable"),
]  # fmt: skip


@both_stops
@pytest.mark.parametrize(
    ("damage", "name", "reason"),
    [each[1:] for each in SMALL_FILES],
    ids=[each[0] for each in SMALL_FILES],
)
def test_damaged_meta_or_cursor_stops_the_queue(
    tmp_path: Path, damage: Callable[[Path], object], name: str, reason: str, clean: bool
) -> None:
    path = chain(tmp_path, 5, clean=clean)
    damage(path)
    (error,) = look(tmp_path).damage
    assert error.path == str(path / name)
    assert reason in error.reason
    with pytest.raises(Corrupt):
        reopen(tmp_path)


def test_the_directory_of_another_queue(tmp_path: Path) -> None:
    chain(tmp_path)
    directory(tmp_path).rename(directory(tmp_path, b"r"))
    (error,) = look(tmp_path, b"r").damage
    assert error.reason == "this is the meta file of another queue, q"


@both_stops
@pytest.mark.parametrize("slot", [0, 1])
def test_a_bad_cursor_slot_stops_the_queue(tmp_path: Path, slot: int, clean: bool) -> None:
    """It may be the one that knew what was answered last, so the other one is not believed."""
    path = chain(tmp_path, 5, clean=clean)
    overwrite(path / CURSOR, slot * PAGE, b"\xa5" * PAGE)
    damage = look(tmp_path).damage
    assert [error.offset for error in damage] == [
        *range(slot * PAGE, (slot + 1) * PAGE, SECTOR),
        slot * PAGE,
    ]
    with pytest.raises(Corrupt):
        reopen(tmp_path)


def test_unfinished_files_are_removed_and_strangers_left_alone(tmp_path: Path) -> None:
    path = chain(tmp_path)
    for name in (SPARE, META_TEMPORARY, "notes.txt"):
        (path / name).write_bytes(b"x" * 100)
    report = look(tmp_path)
    assert report.damage == []
    assert report.unfinished == [META_TEMPORARY, SPARE]
    assert report.notes == [f"{path / 'notes.txt'}: not a file of logqueue, is left alone"]
    with reopened(tmp_path) as queue:
        assert drain(queue) == records(1, 9)
    assert (path / "notes.txt").exists()
    assert not (path / SPARE).exists()
    assert not (path / META_TEMPORARY).exists()


def test_unfinished_files_stay_when_the_queue_is_damaged(tmp_path: Path) -> None:
    path = chain(tmp_path)
    (path / SPARE).write_bytes(b"x" * 100)
    (path / META).unlink()
    with pytest.raises(Corrupt):
        reopen(tmp_path)
    assert (path / SPARE).exists()


def make_newer(path: Path, at: int, end: int, seed: int) -> None:
    data = bytearray(path.read_bytes())
    pack_into("<H", data, at + 8, VERSION + 1)
    pack_into("<I", data, at + 12, 0)
    pack_into("<I", data, at + 12, crc32c(bytes(data[at:end]), seed))
    path.write_bytes(data)


@pytest.mark.parametrize("name", [META, CURSOR, segment_name(1), segment_name(7)])
def test_a_newer_file_is_named_and_nothing_is_touched(tmp_path: Path, name: str) -> None:
    path = chain(tmp_path)
    (path / SPARE).write_bytes(b"x" * 100)
    meta = decode_meta("", (path / META).read_bytes())
    if name == CURSOR:
        seed = queue_seed(meta.queue_id)
        at = next(at for at in range(0, PAGE * 2, SECTOR) if (path / CURSOR).read_bytes()[at])
        make_newer(path / CURSOR, at, at + CURSOR_ENTRY_BYTES, seed)
    else:
        size = (path / META).stat().st_size if name == META else PAGE
        make_newer(path / name, 0, size, 0)
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    with pytest.raises(NewerFormat) as error:
        reopen(tmp_path)
    assert (error.value.path, error.value.found) == (str(path / name), VERSION + 1)
    assert {each.name: each.read_bytes() for each in path.iterdir()} == before


# ---------------------------------------------------------------- a reset cut short


@pytest.mark.parametrize("consumed", [0, 3, 5, 9])
@both_stops
def test_a_reset_that_was_cut_between_meta_and_cursor(
    tmp_path: Path, consumed: int, clean: bool
) -> None:
    """The ring's base says that everything below it is consumed."""
    path = chain(tmp_path, consumed, clean=clean)
    meta = decode_meta("", (path / META).read_bytes())
    meta = meta._replace(rings=(Ring(9, 9, MAXQUEUE_DEFAULT),))
    (path / META).write_bytes(encode_meta(meta))
    for _ in range(2):  # the second start finds what the first one left
        with reopened(tmp_path) as queue:
            assert queue.get() is None
            assert queue.positions.unread == 0
            assert queue.view(9) is None
    with reopened(tmp_path) as queue:
        put_synced(queue, b"after")
    with reopened(tmp_path) as queue:
        put_synced(queue, b"and again")
        assert drain(queue) == [b"after", b"and again"]
    with reopened(tmp_path) as queue:
        assert queue.free(10) > 0
        assert queue.get() is None


def test_a_ring_base_past_the_end_of_the_log_steps_the_sequence_up(tmp_path: Path) -> None:
    """Weaker durability: the log lost its tail, and the ring knows sequences that were given."""
    path = chain(tmp_path)
    meta = decode_meta("", (path / META).read_bytes())
    (path / META).write_bytes(encode_meta(meta._replace(rings=(Ring(20, 20, 10),))))
    with reopened(tmp_path) as queue:
        assert queue.put(b"first of its ring") == 1
        queue.sync()
        assert queue.log.last == 21
    with reopened(tmp_path) as queue:
        assert drain(queue) == [b"first of its ring"]


def test_a_sealed_tail_is_not_appended_to(tmp_path: Path) -> None:
    """A crash between the footer and the next segment."""
    queue = create(tmp_path)
    put_synced(queue, *records(1, 3))
    queue.log.active.seal(0)
    queue.close(clean=False)
    report = look(tmp_path)
    assert report.tail is not None
    assert (report.tail.last, report.tail.appendable) == (3, False)
    with reopened(tmp_path) as queue:
        put_synced(queue, record(4))
        assert queue.log.active.base == 4
    with reopened(tmp_path, COMMITTED) as queue:
        assert drain(queue) == records(1, 4)
