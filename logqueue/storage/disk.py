"""The only system calls of the storage: the `Disk` and `Extent` seam, and its mmap implementation.

Everything stored goes through `Extent.write`, everything made durable through `sync` and
`sync_directory`; a test's disk stands in at exactly this place.

Assumptions about Linux, each measured:
  A1  fdatasync on the descriptor covers what was stored through a shared map of it; mmap.flush()
      would too, but holds the GIL for the whole write-back;
  A2  a file allocated by posix_fallocate before it is mapped never raises SIGBUS for want of
      space; a file extended by truncate, or truncated while mapped, does;
  A3  a name is durable once its directory has been synced after the rename;
  A4  after a failed fdatasync the kernel calls the lost pages clean: no later call tells.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator
from typing import Protocol

from logqueue.errors import Corrupt, DiskFull, StorageFailed
from logqueue.storage.frame import Buffer
from logqueue.storage.lock import FileLock
from logqueue.storage.refusals import NO_SPACE, changing, reading, sparing_descriptors, syncing

PWRITE_BYTES_MIN = mmap.PAGESIZE  # from here on pwrite is cheaper than a store through the map


class Extent(Protocol):
    """One open file of fixed size.  `buffer` is its mapped content, empty when opened to read."""

    path: str
    size: int
    buffer: Buffer

    def write(self, offset: int, data: bytes) -> None:
        """Store `data`; visible to every reader at once, durable only after `sync`."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes, fewer at the end of the file.  Raises Corrupt on a bad sector."""

    def sync(self) -> None:
        """Make everything stored before the call durable.  Raises StorageFailed: then nothing
        may be acknowledged any more.  The one method that is safe in another thread."""

    def next_data(self, offset: int) -> tuple[int, int]:
        """The next stretch [start, end) from `offset` on that may hold anything but zeros; `size`
        twice when there is none.  Costs no read of what was allocated and never written."""

    def read_no_further(self) -> None:
        """From now on reads bring into the cache what they ask for and nothing beyond."""

    def drop_cache(self, offset: int) -> None:
        """Forget clean cached pages from `offset` on, so that the next read is the disk's."""

    def close(self) -> None:
        """Give map and descriptor back.  Does not sync."""


class Disk(Protocol):
    """The file system below one data directory.  Paths are absolute or relative to the process."""

    def list(self, directory: str) -> list[str]:
        """The names in a directory, sorted.  Raises LimitExceeded (descriptors), Corrupt
        (unreadable), else OSError."""

    def exists(self, path: str) -> bool:
        """Whether there is anything at `path`.  Raises OSError when that cannot be told."""

    def make_directory(self, path: str) -> None:
        """Create one directory; fine when it is there.  Raises DiskFull, LimitExceeded."""

    def create(self, path: str, size: int) -> Extent:
        """A new file of `size` allocated zero bytes, mapped.  Raises DiskFull (and leaves
        nothing behind), LimitExceeded (descriptors), StorageFailed."""

    def open(self, path: str, *, writable: bool = False) -> Extent:
        """An existing file; mapped when `writable`.  Raises FileNotFoundError, LimitExceeded,
        Corrupt (unreadable)."""

    def rename(self, old: str, new: str) -> None:
        """Give a file or a directory its name, replacing a file that has it."""

    def publish(self, old: str, new: str) -> None:
        """`rename`, durable on return.  Raises DiskFull or LimitExceeded (descriptors), and then
        nothing has changed; StorageFailed."""

    def unlink(self, path: str) -> None:
        """Remove a file; fine when it is gone already."""

    def remove_tree(self, path: str) -> None:
        """Remove a directory of plain files; fine when it is gone already."""

    def sync_directory(self, path: str) -> None:
        """Make the creations, renames and removals in a directory durable.

        Raises LimitExceeded (descriptors; what was changed there is no less durable for it), and
        StorageFailed.
        """

    def lock(self, path: str, *, shared: bool) -> Lock:
        """Take the lock file.  Raises Locked when somebody else has it."""


class Lock(Protocol):
    """A held lock file."""

    def release(self) -> None:
        """Let the next one in."""


def replace_file(disk: Disk, directory: str, name: str, data: bytes, temporary: str) -> None:
    """Write a small file so that a crash leaves either the old one or the new one, whole."""
    extent = disk.create(temporary, len(data))
    try:
        extent.write(0, data)
        extent.sync()
    finally:
        extent.close()
    disk.publish(temporary, os.path.join(directory, name))


class MmapExtent:
    """A file that is read with pread and, when writable, stored to through a shared map."""

    def __init__(self, path: str, descriptor: int, size: int, *, writable: bool) -> None:
        self.path = path
        self.size = size
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None
        self.buffer: Buffer = b""
        if writable:
            self._map = self.buffer = mmap.mmap(descriptor, size)
            # Read-ahead past the tail would build large folios there, and a small append would
            # then write back up to 2 MiB (measured on ext4 since 6.16).
            self._map.madvise(mmap.MADV_RANDOM)

    def write(self, offset: int, data: bytes) -> None:
        length = len(data)
        if length < PWRITE_BYTES_MIN:
            self._map[offset : offset + length] = data  # type: ignore[index]
            return
        # The map shows what pwrite stores.  A store through the map faults in every page, and the
        # kernel zeroes it first: 64 KiB took 67 us that way and 16 us this way.
        try:
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                offset, data = offset + written, data[written:]
        except OSError as error:
            raise StorageFailed(self.path, error) from error

    def read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise Corrupt(self.path, offset, f"cannot be read: {error.strerror}") from error

    def sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise StorageFailed(self.path, error) from error

    def next_data(self, offset: int) -> tuple[int, int]:
        try:
            start = os.lseek(self._descriptor, offset, os.SEEK_DATA)
            return start, os.lseek(self._descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return self.size, self.size
            raise Corrupt(self.path, offset, f"cannot be read: {error.strerror}") from error

    def read_no_further(self) -> None:
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def drop_cache(self, offset: int) -> None:
        start = offset & -mmap.PAGESIZE
        os.posix_fadvise(self._descriptor, start, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map, self.buffer = None, b""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    """A descriptor to sync a directory by.  Raises LimitExceeded, StorageFailed."""
    with syncing(directory), sparing_descriptors():
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class MmapDisk:
    """The real file system.  `reserve_bytes` of free space are never allocated."""

    def __init__(self, reserve_bytes: int = 0) -> None:
        self._reserve_bytes = reserve_bytes

    def list(self, directory: str) -> list[str]:
        with reading(directory):
            return sorted(os.listdir(directory))

    def exists(self, path: str) -> bool:
        try:
            os.lstat(path)
        except FileNotFoundError:
            return False
        return True

    def make_directory(self, path: str) -> None:
        with changing(path), contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)

    def create(self, path: str, size: int) -> Extent:
        free = self._free_bytes(os.path.dirname(path) or ".")
        # The reserve is there for small files: a full disk must not stop a reset.
        reserve = self._reserve_bytes if size > mmap.PAGESIZE else 0
        if free - reserve < size:
            raise DiskFull(path, size, free, reserve)
        with changing(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            return MmapExtent(path, descriptor, size, writable=True)
        except OSError as error:
            # A failed fallocate leaves on ext4 what it got so far: it would fill the disk.
            os.close(descriptor)
            self.unlink(path)
            if error.errno in NO_SPACE:
                raise DiskFull(path, size, free, reserve) from error
            raise StorageFailed(path, error) from error

    def open(self, path: str, *, writable: bool = False) -> Extent:
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with sparing_descriptors():
                descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Corrupt(path, 0, f"cannot be opened: {error.strerror}") from error
        try:
            size = os.fstat(descriptor).st_size
            return MmapExtent(path, descriptor, size, writable=writable and size > 0)
        except OSError as error:
            os.close(descriptor)
            raise Corrupt(path, 0, f"cannot be mapped: {error.strerror}") from error

    def rename(self, old: str, new: str) -> None:
        with changing(new):
            os.rename(old, new)

    def publish(self, old: str, new: str) -> None:
        # The descriptor first: when there is none, nothing has happened yet.
        with _opened(os.path.dirname(new) or ".") as descriptor:
            self.rename(old, new)
            with syncing(new):
                os.fsync(descriptor)

    def unlink(self, path: str) -> None:
        with changing(path), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_tree(self, path: str) -> None:
        if self.exists(path):
            for name in self.list(path):
                self.unlink(os.path.join(path, name))
            with changing(path):
                os.rmdir(path)

    def sync_directory(self, path: str) -> None:
        with _opened(path) as descriptor, syncing(path):
            os.fsync(descriptor)

    def lock(self, path: str, *, shared: bool) -> Lock:
        with changing(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
        return FileLock.take(path, descriptor, shared=shared)

    @staticmethod
    def _free_bytes(directory: str) -> int:
        with changing(directory):
            found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize
