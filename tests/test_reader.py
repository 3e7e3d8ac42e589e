"""Reading a log that goes on: cold windows, lookups by the sparse index, segments that go away."""

from __future__ import annotations

import os
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logqueue.errors import Corrupt
from logqueue.storage.disk import MmapDisk
from logqueue.storage.format import FRAMES_OFFSET, INDEX_STRIDE, SEGMENT_BYTES_MIN
from logqueue.storage.frame import FRAME_BYTES, frame_bytes
from logqueue.storage.layout import directory_name, segment_name
from logqueue.storage.opening import create_queue, open_queue
from logqueue.storage.queue import Options, Queue
from logqueue.storage.reader import (
    READ_WINDOW_BYTES,
    READ_WINDOW_BYTES_MAX,
    Cold,
    Window,
    build_index,
    opened,
)

DISK = MmapDisk()
OPTIONS = Options(committed_reads=False, segment_bytes_max=256 * 1024)


def make(path: Path, options: Options = OPTIONS) -> Queue:
    return create_queue(DISK, str(path / directory_name(b"q")), b"q", options)


def reopened(queue: Queue, path: Path, *, clean: bool = True) -> Queue:
    queue.close(clean=clean)
    return open_queue(DISK, str(path / directory_name(b"q")), OPTIONS)[0]


def payload(number: int, size: int = 100) -> bytes:
    return (b"%d " % number).ljust(size, b".")


def test_what_was_just_put_is_never_cold(tmp_path: Path) -> None:
    queue = make(tmp_path)
    for number in range(50):
        queue.put(payload(number))
        assert queue.get_nowait() == (number + 1, payload(number))
    queue.close()


def test_records_from_before_the_start_are_cold_once_a_window(tmp_path: Path) -> None:
    """And a window is twice as large as the one before, within its limits."""
    queue = make(tmp_path, Options(committed_reads=False, segment_bytes_max=8 << 20))
    count = 12 * READ_WINDOW_BYTES_MAX // 1000
    for number in range(count):
        queue.put(payload(number, 1000))
    queue = reopened(queue, tmp_path)
    windows: list[tuple[int, int]] = []
    for number in range(count):
        try:
            got = queue.get_nowait()
        except Cold as cold:
            cold.fetch.run()
            if cold.fetch.window:
                windows.append((cold.fetch.window.base, len(cold.fetch.window.data)))
            queue.install(cold.fetch)
            got = queue.get_nowait()
        assert got == (number + 1, payload(number, 1000))
    assert queue.get_nowait() is None
    queue.close()
    size = 0
    for (base, length), (following, _) in pairwise([*windows, (0, 0)]):
        size = min(max(2 * size, READ_WINDOW_BYTES), READ_WINDOW_BYTES_MAX)
        assert length == size or (length < size and following != base)
        size = length
    assert max(length for _, length in windows) == READ_WINDOW_BYTES_MAX


def test_a_record_larger_than_a_window_is_read_whole(tmp_path: Path) -> None:
    queue = make(tmp_path)
    sizes = [10, READ_WINDOW_BYTES - 32, READ_WINDOW_BYTES, 5 * READ_WINDOW_BYTES, 0, 7]
    for number, size in enumerate(sizes):
        queue.put(bytes([number]) * size)
    queue = reopened(queue, tmp_path)
    for number, size in enumerate(sizes):
        assert queue.get() == (number + 1, bytes([number]) * size)
    queue.close()


def test_the_log_may_roll_while_a_window_is_fetched(tmp_path: Path) -> None:
    queue = make(tmp_path)
    for number in range(20):
        queue.put(payload(number))
    queue = reopened(queue, tmp_path)
    with pytest.raises(Cold) as cold:
        queue.get_nowait()
    queue.roll()
    queue.put(payload(20))
    cold.value.fetch.run()
    queue.install(cold.value.fetch)
    assert [queue.get() for _ in range(22)] == [
        *((number + 1, payload(number)) for number in range(21)),
        None,
    ]
    queue.close()


def test_a_reset_while_a_window_is_fetched_wins(tmp_path: Path) -> None:
    queue = make(tmp_path)
    for number in range(20):
        queue.put(payload(number))
    queue = reopened(queue, tmp_path)
    with pytest.raises(Cold) as cold:
        queue.get_nowait()
    cold.value.fetch.run()
    queue.reset()
    queue.put(b"after")
    queue.install(cold.value.fetch)
    assert queue.get_nowait() == (1, b"after")
    queue.close()


def test_a_missing_segment_is_damage_and_names_the_record(tmp_path: Path) -> None:
    queue = make(tmp_path)
    queue.put(payload(0))
    queue.roll()
    queue.put(payload(1))
    os.unlink(tmp_path / directory_name(b"q") / segment_name(1))
    with pytest.raises(Corrupt, match="sequence 1: the file is gone"):
        queue.get()
    with pytest.raises(Corrupt, match="the file is gone"):
        queue.put(b"stopped")
    queue.close(clean=False)


def test_a_file_that_ends_early_is_damage_not_an_endless_fetch(tmp_path: Path) -> None:
    queue = make(tmp_path)
    queue.put(payload(0, 20_000))
    queue.roll()
    path = tmp_path / directory_name(b"q") / segment_name(1)
    os.truncate(path, FRAMES_OFFSET + 10_000)
    with pytest.raises(Corrupt, match="the file ends before"):
        queue.get()
    queue.close(clean=False)


def test_view_finds_every_record_before_and_after_a_restart(tmp_path: Path) -> None:
    queue = make(tmp_path)
    for number in range(3000):
        queue.put(payload(number, 300))
        if number == 1500:
            queue = reopened(queue, tmp_path, clean=False)
    assert len(queue.log.sealed) >= 4
    for number in [*range(0, 3000, 7), 2999]:
        assert queue.view(number + 1) == payload(number, 300)
    assert queue.view(3001) is None
    queue.close()


@pytest.mark.parametrize("byte", range(FRAME_BYTES + 5))
def test_damage_before_a_record_or_in_it_never_alters_what_a_view_shows(
    tmp_path: Path, byte: int
) -> None:
    queue = make(tmp_path)
    for number in range(10):
        queue.put(payload(number))
    queue.roll()
    path = tmp_path / directory_name(b"q") / segment_name(1)
    with path.open("rb+") as file:
        at = FRAMES_OFFSET + 4 * frame_bytes(100) + byte
        file.seek(at)
        [old] = file.read(1)
        file.seek(at)
        file.write(bytes([old ^ 0x10]))
    for number in range(4):
        assert queue.view(number + 1) == payload(number)
    with pytest.raises(Corrupt, match=f"offset {FRAMES_OFFSET + 4 * frame_bytes(100)}"):
        queue.view(5)
    for number in range(5, 10):
        try:
            assert queue.view(number + 1) == payload(number)
        except Corrupt:
            assert 4 <= byte < 16  # the length or the sequence that lead there
    queue.close()


def test_a_lookup_whose_segment_goes_away_finds_nothing(tmp_path: Path) -> None:
    queue = make(tmp_path)
    queue.put(payload(0))
    queue.get()
    queue.roll()
    lookup = queue.seek(1)
    assert lookup is not None
    assert queue.free(2) == SEGMENT_BYTES_MIN
    assert lookup.run() is None
    assert queue.seek(1) is None
    queue.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=40), st.integers(0, 40))
def test_the_index_of_a_continued_segment_is_that_of_its_frames(
    sizes: list[int], restart_after: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        options = Options(committed_reads=False, segment_bytes_max=1 << 21)
        queue = make(path, options)
        queue.log.roll(1_000_000)  # everything fits the next segment
        for number, size in enumerate(sizes):
            if number == restart_after:
                queue = reopened(queue, path, clean=False)
            queue.put(payload(number, size))
        for number, size in enumerate(sizes):
            assert queue.view(number + 1) == payload(number, size)
        active = queue.log.active
        active.seal(0)
        with opened(DISK, active.extent.path, active.end) as reader:
            rebuilt = build_index(reader)
        assert active.index == rebuilt
        assert {offset // INDEX_STRIDE for _, offset in rebuilt} >= {0}
        queue.close(clean=False)


def test_a_window_gives_whole_frames_only(tmp_path: Path) -> None:
    queue = make(tmp_path)
    for number in range(200):
        queue.put(payload(number, 1000))
    path, end = queue.log._path(queue.log.first), queue.log.sealed[0].ended.end
    with opened(DISK, path, end) as reader:
        window = Window.read(1, reader, FRAMES_OFFSET)
        assert window.frame(FRAMES_OFFSET - 8) is None
        assert window.frame(FRAMES_OFFSET + len(window.data)) is None
        cut = Window(1, reader.seed, end, FRAMES_OFFSET, window.data[:1500])
    first = cut.frame(FRAMES_OFFSET)
    assert first is not None
    assert first.payload == payload(0, 1000)
    assert cut.frame(first.end) is None
    queue.close()
