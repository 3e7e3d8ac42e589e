"""What a process holds of the crash disk: open files and locks; and how it dies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from logqueue.errors import StorageFailed
from logqueue.storage.frame import Buffer
from tests.crashfile import PAGE, File, partial

if TYPE_CHECKING:
    from tests.crashdisk import CrashDisk

How = Literal["before", "within", "after"]  # where in an operation the process dies


class Died(BaseException):
    """The process ends here.  No handler of the storage may take it for an error."""


class CrashExtent:
    """An open file."""

    def __init__(self, disk: CrashDisk, path: str, file: File, *, writable: bool) -> None:
        self.path = path
        self.size = len(file.live)
        self.file = file
        self.buffer: Buffer = file.live if writable else b""
        self._disk = disk
        self._writable = writable
        self._open = True
        file.maps += writable
        disk.extents.add(self)

    def write(self, offset: int, data: bytes) -> None:
        assert self._open
        assert self._writable
        self._disk.step("write", self.path)
        if self._disk.dead and self._disk.how == "within":
            old = bytes(self.file.live[offset : offset + len(data)])
            self.file.store(offset, partial(self._disk.random, old, data))
        else:
            self.file.store(offset, data)
        self._disk.done()

    def read(self, offset: int, length: int) -> bytes:
        assert self._open
        self._disk.ask("read", self.path)
        return bytes(self.file.live[offset : offset + length])

    def sync(self) -> None:
        assert self._open
        disk, file = self._disk, self.file
        try:
            disk.step("sync", self.path)
        except StorageFailed:
            file.lose(disk.random)
            raise
        marks = {page: len(versions) for page, versions in file.versions.items()}
        if disk.meanwhile is not None:
            work, disk.meanwhile = disk.meanwhile, None
            work()
        file.settle(marks)
        disk.done()

    def next_data(self, offset: int) -> tuple[int, int]:
        """Pages that hold zeros only are holes, as those that were never stored to."""
        assert self._open
        self._disk.ask("read", self.path)
        start = offset
        while start < self.size and self._is_hole(start):
            start = (start // PAGE + 1) * PAGE
        end = start
        while end < self.size and not self._is_hole(end):
            end = (end // PAGE + 1) * PAGE
        return min(start, self.size), min(end, self.size)

    def _is_hole(self, offset: int) -> bool:
        at = offset // PAGE * PAGE
        return not any(self.file.live[at : at + PAGE])

    def read_no_further(self) -> None:
        pass

    def drop_cache(self, offset: int) -> None:
        assert self._open
        self.file.drop_cache(offset)

    def close(self) -> None:
        if self._open:
            self._open = False
            self.buffer = b""
            self.file.maps -= self._writable
            self._disk.extents.discard(self)


class CrashLock:
    """A held lock; a crash lets it go."""

    def __init__(self, held: set[str], path: str) -> None:
        self._held = held
        self._path = path

    def release(self) -> None:
        self._held.discard(self._path)
