"""Dying on purpose: a disk that kills its process at a chosen operation.

For proving what a crash leaves behind.  `LOGQUEUE_FAILPOINT=after-sync-segment:3` makes the daemon
kill itself, as by kill -9, right after the third sync of a segment has succeeded.  The point is

    (before | within | after) - (create | write | sync | rename | unlink) - FILE [ : N ]

with FILE one of segment, cursor, acks, meta, format, or directory; `within` goes with `write` alone
and stores the first half of the bytes.  As everything on disk goes through the `Disk` seam, this
names every place where a crash can matter, and no other code knows of it:

    after-write-segment    appended, not synced        before-sync-segment    sync never begun
    after-sync-segment     synced, not acknowledged    within-write-segment   torn record
    before-rename-segment  in the middle of a roll     within-write-cursor    torn checkpoint
    after-unlink-segment   in the middle of compaction after-rename-meta      in the middle of reset
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from typing import NamedTuple

from logqueue.errors import UsageError
from logqueue.storage.disk import Disk, Extent, Lock
from logqueue.storage.layout import (
    ACKS_SUFFIX,
    CURSOR,
    FORMAT,
    META,
    SEGMENT_SUFFIX,
    SPARE,
    TEMPORARY_SUFFIX,
)

VARIABLE = "LOGQUEUE_FAILPOINT"
OPERATIONS = ("create", "write", "sync", "rename", "unlink")
FILES = ("segment", "cursor", "acks", "meta", "format", "directory")
_SPELLED = re.compile(
    rf"(before|within|after)-({'|'.join(OPERATIONS)})-({'|'.join(FILES)})(?::([1-9][0-9]{{0,8}}))?"
)


class Point(NamedTuple):
    """Where to die: `when` around which `operation` on which kind of `file`."""

    when: str
    operation: str
    file: str


def around(disk: Disk, spelled: str | None) -> Disk:
    """`disk` as it is, or one that dies at the point `spelled`.  Raises UsageError."""
    if not spelled:
        return disk
    found = _SPELLED.fullmatch(spelled)
    if found is None or (found[1] == "within" and found[2] != "write"):
        raise UsageError(
            f"{VARIABLE}={spelled}: this is no failpoint; unset it, or see logqueue.storage."
            "failpoint for their names"
        )
    return _MortalDisk(disk, _Fate(Point(found[1], found[2], found[3]), int(found[4] or 1)))


class _Fate:
    """Counts how often the point is passed, in whichever thread, and ends the process at the
    `nth` time."""

    def __init__(self, point: Point, nth: int) -> None:
        self._point = point
        self._passed = itertools.count(1)
        self._nth = nth

    def meet(self, when: str, operation: str, path: str) -> None:
        if self.awaits(when, operation, path):
            os.kill(os.getpid(), signal.SIGKILL)

    def awaits(self, when: str, operation: str, path: str) -> bool:
        if (when, operation, _kind(path)) != self._point:
            return False
        return next(self._passed) == self._nth


def _kind(path: str) -> str:
    name = os.path.basename(path)
    if name == SPARE or name.endswith(SEGMENT_SUFFIX):
        return "segment"
    if name.endswith(ACKS_SUFFIX):
        return "acks"
    plain = name.removesuffix(TEMPORARY_SUFFIX)
    return {CURSOR: "cursor", META: "meta", FORMAT: "format"}.get(plain, "directory")


class _MortalExtent:
    def __init__(self, extent: Extent, fate: _Fate) -> None:
        self._extent = extent
        self._fate = fate
        self.size = extent.size
        self.buffer = extent.buffer

    @property
    def path(self) -> str:
        return self._extent.path

    @path.setter
    def path(self, path: str) -> None:
        self._extent.path = path

    def write(self, offset: int, data: bytes) -> None:
        self._fate.meet("before", "write", self.path)
        if self._fate.awaits("within", "write", self.path):
            self._extent.write(offset, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        self._extent.write(offset, data)
        self._fate.meet("after", "write", self.path)

    def read(self, offset: int, length: int) -> bytes:
        return self._extent.read(offset, length)

    def sync(self) -> None:
        self._fate.meet("before", "sync", self.path)
        self._extent.sync()
        self._fate.meet("after", "sync", self.path)

    def next_data(self, offset: int) -> tuple[int, int]:
        return self._extent.next_data(offset)

    def read_no_further(self) -> None:
        self._extent.read_no_further()

    def drop_cache(self, offset: int) -> None:
        self._extent.drop_cache(offset)

    def close(self) -> None:
        self.buffer = b""
        self._extent.close()


class _MortalDisk:
    def __init__(self, disk: Disk, fate: _Fate) -> None:
        self._disk = disk
        self._fate = fate

    def list(self, directory: str) -> list[str]:
        return self._disk.list(directory)

    def exists(self, path: str) -> bool:
        return self._disk.exists(path)

    def make_directory(self, path: str) -> None:
        self._fate.meet("before", "create", path)
        self._disk.make_directory(path)
        self._fate.meet("after", "create", path)

    def create(self, path: str, size: int) -> Extent:
        self._fate.meet("before", "create", path)
        extent = self._disk.create(path, size)
        self._fate.meet("after", "create", path)
        return _MortalExtent(extent, self._fate)

    def open(self, path: str, *, writable: bool = False) -> Extent:
        return _MortalExtent(self._disk.open(path, writable=writable), self._fate)

    def rename(self, old: str, new: str) -> None:
        self._fate.meet("before", "rename", new)
        self._disk.rename(old, new)
        self._fate.meet("after", "rename", new)

    def publish(self, old: str, new: str) -> None:
        directory = os.path.dirname(new)
        self._fate.meet("before", "rename", new)
        between = ("after", "rename", new), ("before", "sync", directory)
        if any(self._fate.awaits(*each) for each in between):
            self._disk.rename(old, new)
            os.kill(os.getpid(), signal.SIGKILL)
        self._disk.publish(old, new)
        self._fate.meet("after", "sync", directory)

    def unlink(self, path: str) -> None:
        self._fate.meet("before", "unlink", path)
        self._disk.unlink(path)
        self._fate.meet("after", "unlink", path)

    def remove_tree(self, path: str) -> None:
        if self.exists(path):
            self._fate.meet("before", "unlink", path)
            self._disk.remove_tree(path)
            self._fate.meet("after", "unlink", path)

    def sync_directory(self, path: str) -> None:
        self._fate.meet("before", "sync", path)
        self._disk.sync_directory(path)
        self._fate.meet("after", "sync", path)

    def lock(self, path: str, *, shared: bool) -> Lock:
        return self._disk.lock(path, shared=shared)
