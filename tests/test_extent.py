"""Stores of every size, by way of the map or past it, are one file; names without descriptors."""

from __future__ import annotations

import mmap
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.errors import LimitExceeded, StorageFailed
from logqueue.storage.disk import MmapDisk

PAGE = mmap.PAGESIZE


@pytest.mark.parametrize("length", [0, 1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE])
@pytest.mark.parametrize("offset", [0, 1, PAGE - 8, 3 * PAGE])
def test_what_is_stored_shows_in_the_map_and_in_the_file(
    tmp_path: Path, offset: int, length: int
) -> None:
    extent = MmapDisk().create(str(tmp_path / "file"), 16 * PAGE)
    data = bytes(range(1, 252)) * (length // 251 + 1)
    before = extent.read(0, extent.size)
    extent.write(offset, data[:length])
    expected = before[:offset] + data[:length] + before[offset + length :]
    assert bytes(extent.buffer[:]) == expected
    assert extent.read(0, extent.size) == expected
    extent.close()
    assert (tmp_path / "file").read_bytes() == expected


def test_a_large_store_that_the_kernel_refuses_is_fatal(tmp_path: Path) -> None:
    disk = MmapDisk()
    disk.create(str(tmp_path / "file"), 4 * PAGE).close()
    extent = disk.open(str(tmp_path / "file"))  # to be read
    with pytest.raises(StorageFailed):
        extent.write(0, bytes(PAGE))
    extent.close()


@given(
    stores=st.lists(st.tuples(st.integers(0, 15 * PAGE), st.binary(min_size=1, max_size=64))),
    start=st.integers(0, 16 * PAGE),
)
def test_between_the_stretches_of_data_there_is_nothing_but_zeros(
    tmp_path_factory: pytest.TempPathFactory, stores: list[tuple[int, bytes]], start: int
) -> None:
    path = str(tmp_path_factory.mktemp("holes") / "file")
    extent = MmapDisk().create(path, 16 * PAGE)
    for offset, data in stores:
        extent.write(offset, data)
    seen = bytearray(extent.size)
    seen[:start] = extent.read(0, start)
    end = start
    while True:
        offset, end = extent.next_data(end)
        if offset == extent.size:
            break
        seen[offset:end] = extent.read(offset, end - offset)
    assert seen == extent.read(0, extent.size)
    extent.close()


def test_what_was_allocated_and_never_stored_to_is_no_data(tmp_path: Path) -> None:
    extent = MmapDisk().create(str(tmp_path / "file"), 64 * PAGE)
    assert extent.next_data(0) == (extent.size, extent.size)
    extent.write(40 * PAGE + 1, b"x")
    assert extent.next_data(0) == (40 * PAGE, 41 * PAGE)
    assert extent.next_data(40 * PAGE + 5) == (40 * PAGE + 5, 41 * PAGE)
    assert extent.next_data(41 * PAGE) == (extent.size, extent.size)
    extent.close()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Nothing can be opened any more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_without_descriptors_a_name_is_not_given_and_the_disk_has_not_failed(
    tmp_path: Path,
) -> None:
    disk, old, new = MmapDisk(), str(tmp_path / "old"), str(tmp_path / "new")
    disk.create(old, PAGE).close()
    with no_descriptors():
        with pytest.raises(LimitExceeded):
            disk.publish(old, new)
        with pytest.raises(LimitExceeded):
            disk.sync_directory(str(tmp_path))
        with pytest.raises(LimitExceeded):
            disk.list(str(tmp_path))
    assert os.listdir(tmp_path) == ["old"]
    disk.publish(old, new)
    assert os.listdir(tmp_path) == ["new"]
