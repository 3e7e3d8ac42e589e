"""Segments as one space of sequences: sizes, edges, rolls that fail, footers, the lag."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from logqueue.errors import DiskFull, LimitExceeded
from logqueue.storage.disk import Extent, MmapDisk
from logqueue.storage.format import (
    FRAMES_OFFSET,
    SEGMENT_BYTES_MIN,
    decode_footer,
    decode_segment_header,
    footer_offset,
)
from logqueue.storage.frame import FRAME_BYTES, LAG_UNKNOWN, Scan, salt_seed
from logqueue.storage.layout import SPARE, segment_name
from logqueue.storage.opening import create_queue
from logqueue.storage.queue import Options
from logqueue.storage.segment import crc_of
from tests.queues import DISK, EAGER, create, directory, drain, look, overwrite, reopened

LARGE = Options(committed_reads=False, segment_bytes_max=256 << 10)
ROOM = footer_offset(SEGMENT_BYTES_MIN) - FRAMES_OFFSET - FRAME_BYTES  # of a first segment


def test_sizes_double_up_to_the_maximum(tmp_path: Path) -> None:
    queue = create(tmp_path, LARGE)
    for number in range(200):
        queue.put(b"%d " % number * 1000)
    sizes = [each.size for each in queue.log.sealed] + [queue.log.active.header.size]
    assert sizes == [min(SEGMENT_BYTES_MIN << each, 256 << 10) for each in range(len(sizes))]
    assert len(sizes) == 5
    assert len(drain(queue)) == 200
    queue.close()


def test_a_record_may_fill_a_segment_to_the_last_byte(tmp_path: Path) -> None:
    queue = create(tmp_path, EAGER)
    exact = b"x" * ROOM
    assert queue.put(exact) == 1
    assert queue.log.active.base == 1
    assert queue.log.active.end == queue.log.active.limit
    assert not queue.fits(0)
    assert queue.put(b"") == 2
    assert queue.log.active.base == 2
    queue.close(clean=False)
    with reopened(tmp_path, EAGER) as queue:
        assert drain(queue) == [exact, b""]


def test_a_full_segment_at_the_end_is_recovered(tmp_path: Path) -> None:
    queue = create(tmp_path, EAGER)
    queue.put(b"x" * ROOM)
    queue.close(clean=False)
    report = look(tmp_path)
    assert (report.damage, report.notes) == ([], [])
    with reopened(tmp_path, EAGER) as queue:
        assert queue.put(b"next") == 2
        assert drain(queue) == [b"x" * ROOM, b"next"]


@pytest.mark.parametrize("size", [ROOM + 1, 100_000, 1_000_000])
def test_a_record_that_fits_no_segment_gets_one_of_its_own(tmp_path: Path, size: int) -> None:
    queue = create(tmp_path, EAGER)
    large = b"y" * size
    assert [queue.put(each) for each in (b"before", large, b"after")] == [1, 2, 3]
    assert (queue.log.active.header.size > 64 << 10) is (size > 64 << 10)
    queue.close(clean=False)
    with reopened(tmp_path, EAGER) as queue:
        assert [queue.view(position) for position in (1, 2, 3)] == [b"before", large, b"after"]
        assert drain(queue) == [b"before", large, b"after"]


def test_an_empty_segment_is_replaced_not_chained(tmp_path: Path) -> None:
    queue = create(tmp_path, EAGER)
    queue.put(b"1")
    for _ in range(5):
        queue.roll()
    names = [each for each in os.listdir(directory(tmp_path)) if each.endswith(".log")]
    assert sorted(names) == [segment_name(1), segment_name(2)]
    queue.put(b"2")
    queue.close(clean=False)
    with reopened(tmp_path, EAGER) as queue:
        assert drain(queue) == [b"1", b"2"]


def test_the_lag_tells_what_was_durable_and_saturates(tmp_path: Path) -> None:
    queue = create(tmp_path, EAGER)
    for number in range(3):
        queue.put(b"%d" % number)
    queue.sync()
    for number in range(2):
        queue.put(b"%d" % number)
    queue.durable -= 2**33  # as if so many records were not synced yet
    queue.put(b"far")
    active = queue.log.active
    scan = Scan(active.extent.read, FRAMES_OFFSET, active.limit, active.seed)
    assert [frame.lag for frame in scan] == [1, 2, 3, 1, 2, LAG_UNKNOWN]
    queue.close(clean=False)


def test_a_sealed_segment_says_what_its_successor_repeats(tmp_path: Path) -> None:
    queue = create(tmp_path, LARGE)
    for number in range(90):
        queue.put(b"%d " % number * 500)
    queue.close()
    report = look(tmp_path)
    assert len(report.sealed) >= 2
    for sealed in report.sealed:
        path = directory(tmp_path) / segment_name(sealed.ended.base)
        extent = DISK.open(str(path))
        seed = salt_seed(decode_segment_header("", extent.read(0, 4096)).salt)
        at = footer_offset(extent.size)
        footer = decode_footer("", at, extent.read(at, extent.size), seed)
        assert footer is not None
        assert footer.ended == sealed.ended
        assert crc_of(extent, sealed.ended.end) == sealed.ended.crc
        extent.close()


class FullDisk(MmapDisk):
    """A disk without room for another file, as long as a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.full_at = ""

    def create(self, path: str, size: int) -> Extent:
        if self.full_at == "create":
            raise DiskFull(path, size, 0, 0)
        if self.full_at == "descriptors" and path.endswith(SPARE):
            raise LimitExceeded("open files", 65, 64)
        return super().create(path, size)

    def rename(self, old: str, new: str) -> None:
        if self.full_at == "rename":
            raise DiskFull(new, 4096, 0, 0)
        super().rename(old, new)


@pytest.mark.parametrize("full_at", ["create", "rename"])
def test_a_roll_without_room_changes_nothing_and_works_later(tmp_path: Path, full_at: str) -> None:
    disk = FullDisk()
    path = directory(tmp_path)
    queue = create_queue(disk, str(path), b"q", EAGER)
    payloads = [b"%d " % number * 2000 for number in range(5)]
    for payload in payloads:
        queue.put(payload)
    disk.full_at = full_at
    for _ in range(3):
        with pytest.raises(DiskFull):
            queue.put(b"z" * 9000)
    assert not (path / SPARE).exists()
    assert queue.log.last == 5
    assert [queue.get() for _ in range(2)] == [(1, payloads[0]), (2, payloads[1])]
    disk.full_at = ""
    assert queue.put(b"z" * 9000) == 6
    queue.close(clean=False)
    with reopened(tmp_path, EAGER) as queue:
        assert drain(queue) == [*payloads[2:], b"z" * 9000]


def test_a_reset_is_done_although_there_is_no_room_for_a_fresh_segment(tmp_path: Path) -> None:
    """It has happened once the meta file says so; the space is a bonus."""
    disk = FullDisk()
    queue = create_queue(disk, str(directory(tmp_path)), b"q", EAGER)
    queue.put(b"old")
    disk.full_at = "descriptors"
    queue.reset()
    assert queue.get() is None
    assert queue.put(b"new") == 1
    queue.close(clean=False)
    with reopened(tmp_path, EAGER) as queue:
        assert drain(queue) == [b"new"]


@pytest.mark.parametrize("view_first", [False, True])
def test_a_footer_that_knows_more_than_the_torn_segment(tmp_path: Path, view_first: bool) -> None:
    """The power went while a segment was sealed: its footer is there, its last frames are not.
    The footer that replaces it must speak of what is there."""
    queue = create(tmp_path, LARGE)
    queue.log.roll(200_000)  # several strides of the index
    for number in range(4):
        queue.put(b"%d " % number * 25_000)
    queue.log.active.seal(0)
    end, at = queue.log.active.end, queue.log.active.limit
    queue.close(clean=False)
    path = directory(tmp_path) / segment_name(1)
    size = path.stat().st_size
    overwrite(path, FRAMES_OFFSET + 2 * 50_032, bytes(end - FRAMES_OFFSET - 2 * 50_032))
    with reopened(tmp_path, LARGE) as queue:
        assert queue.log.last == 2
        if view_first:  # which reads the footer for its index
            assert queue.view(1) == b"0 " * 25_000
        queue.roll()
        assert drain(queue) == [b"0 " * 25_000, b"1 " * 25_000]
    extent = DISK.open(str(path))
    seed = salt_seed(decode_segment_header("", extent.read(0, 4096)).salt)
    footer = decode_footer(str(path), at, extent.read(at, size - at), seed)
    extent.close()
    assert footer is not None
    assert footer.ended.last == 2
    assert all(sequence <= 2 for sequence, _ in footer.entries)
