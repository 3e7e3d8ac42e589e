"""Stores of every size, by way of the map or past it, are one file."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from logqueue.errors import StorageFailed
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
