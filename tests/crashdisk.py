"""A disk that keeps what was synced and forgets what it may: `Disk` and `Extent` in memory.

The model, harsher than a journalled file system wherever that is not impossible:

- A file has a durable image and, for each 4 KiB page stored to since, every version of the page.
  The kernel writes pages back when it likes, so a power cut leaves of each page any version,
  independently of all others: whole, torn between two versions at 512 bytes, or caught in the
  middle of a store (`memcpy` promises no order).
- A sync makes durable what each page held when the sync began, or something newer.
- A file that was never synced may come back with any size.  A name is durable after
  `sync_directory`; until then each change of a directory is kept or lost on its own.  Only
  changes of one name stay in order, and a rename is atomic.  A file whose name is lost is lost.
- `kill -9` loses no store and no name, but may stop in the middle of a store.
- After a failed sync the cache calls the lost pages clean: they read as new until `drop_cache`,
  no later sync tells, and a power cut shows what the disk really has.

The process dies where `die_at` says, by `Died`; from then on every change is `Died` too.  `fault`
is asked before each operation and may raise what `MmapDisk` would.  All chance is one `Random`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random

from logqueue.errors import Locked
from logqueue.storage.disk import Extent
from tests.crashextent import CrashExtent, CrashLock, Died, How
from tests.crashfile import Change, Directory, File, Mood


class CrashDisk:
    """The file system of one machine, across any number of crashes."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.operations = 0  # changes so far: each is a place to die at
        self.die_at = 0
        self.how: How = "before"
        self.dead = False
        self.fault: Callable[[str, str], None] | None = None
        self.meanwhile: Callable[[], None] | None = None  # runs in the middle of the next sync
        self.extents: set[CrashExtent] = set()
        self._locks: set[str] = set()
        self._root = Directory()
        self._pending: list[tuple[Change, ...]] = []

    # ------------------------------------------------------------ crashes

    def step(self, operation: str, path: str) -> None:
        """A change begins."""
        if self.dead:
            raise Died
        self.operations += 1
        self.ask(operation, path)
        if self.operations == self.die_at:
            self.dead = True
            if self.how == "before":
                raise Died

    def ask(self, operation: str, path: str) -> None:
        """Something that changes nothing, but can fail."""
        if self.fault is not None and not self.dead:
            self.fault(operation, path)

    def done(self) -> None:
        """A change has been made."""
        if self.dead:
            raise Died

    def kill(self) -> None:
        """kill -9, or the end of it: all that was stored stays, descriptors and locks go."""
        for extent in list(self.extents):
            extent.close()
        self._locks.clear()
        self.meanwhile = None
        self.dead = False

    def cut_power(self, mood: Mood) -> None:
        """Leave what a disk might have, and start from there."""
        self.kill()
        odds = {"none": 0.0, "all": 1.0, "all but one": 0.9, "only one": 0.1, "mixed": 0.5}[mood]
        lost: set[tuple[int, str]] = set()
        for changes in self._pending:
            names = {(id(directory), name) for directory, name, _ in changes}
            if names & lost or self.random.random() >= odds:
                lost |= names
            else:
                self._make_durable(changes)
        self._pending.clear()
        self._revive(self._root, mood)

    def _revive(self, directory: Directory, mood: Mood) -> None:
        for name, node in directory.durable.items():
            if isinstance(node, Directory):
                self._revive(node, mood)
            else:
                image = bytes(node.survivor(self.random, mood))
                directory.durable[name] = File(image, synced=True)
        directory.live = dict(directory.durable)

    @staticmethod
    def _make_durable(changes: tuple[Change, ...]) -> None:
        for directory, name, node in changes:
            if node is None:
                directory.durable.pop(name, None)
            else:
                directory.durable[name] = node

    def _change(self, *changes: Change) -> None:
        for directory, name, node in changes:
            if node is None:
                del directory.live[name]
            else:
                directory.live[name] = node
        self._pending.append(changes)

    # ------------------------------------------------------------ the file system

    def list(self, directory: str) -> list[str]:
        self.ask("list", directory)
        return sorted(self._directory(directory).live)

    def exists(self, path: str) -> bool:
        try:
            parent, name = self._parent(path)
        except FileNotFoundError:
            return False
        return name in parent.live or not name

    def make_directory(self, path: str) -> None:
        self.step("make_directory", path)
        parent, name = self._parent(path)
        if name not in parent.live:
            self._change((parent, name, Directory()))
        self.done()

    def create(self, path: str, size: int) -> Extent:
        self.step("create", path)
        parent, name = self._parent(path)
        old = parent.live.get(name)
        assert not isinstance(old, Directory)
        assert old is None or not old.maps, f"{path}: truncated while mapped: SIGBUS"
        file = File(bytes(size), synced=False)
        self._change((parent, name, file))
        self.done()
        return CrashExtent(self, path, file, writable=True)

    def open(self, path: str, *, writable: bool = False) -> Extent:
        self.ask("open", path)
        file = self.file(path)
        return CrashExtent(self, path, file, writable=writable)

    def rename(self, old: str, new: str) -> None:
        self.step("rename", new)
        old_parent, old_name = self._parent(old)
        new_parent, new_name = self._parent(new)
        node = old_parent.live[old_name]
        assert not isinstance(node, Directory) or new_name not in new_parent.live
        self._change((old_parent, old_name, None), (new_parent, new_name, node))
        self.done()

    def publish(self, old: str, new: str) -> None:
        directory = os.path.dirname(new)
        self.ask("open_directory", directory)
        self.rename(old, new)
        self._sync_names(directory)

    def unlink(self, path: str) -> None:
        self.step("unlink", path)
        parent, name = self._parent(path)
        if name in parent.live:
            self._change((parent, name, None))
        self.done()

    def remove_tree(self, path: str) -> None:
        if self.exists(path):
            for name in self.list(path):
                self.unlink(os.path.join(path, name))
            self.step("remove_directory", path)
            parent, name = self._parent(path)
            self._change((parent, name, None))
            self.done()

    def sync_directory(self, path: str) -> None:
        self.ask("open_directory", path)
        self._sync_names(path)

    def _sync_names(self, path: str) -> None:
        self.step("sync_directory", path)
        directory = self._directory(path)
        waiting = []
        for changes in self._pending:
            if any(each is directory for each, _, _ in changes):
                self._make_durable(changes)
            else:
                waiting.append(changes)
        self._pending = waiting
        self.done()

    def lock(self, path: str, *, shared: bool) -> CrashLock:
        self.ask("lock", path)
        self._parent(path)
        if path in self._locks:
            raise Locked(path, "another life")
        self._locks.add(path)
        return CrashLock(self._locks, path)

    def file(self, path: str) -> File:
        """The file at `path`, for a test to look at or to damage."""
        parent, name = self._parent(path)
        node = parent.live.get(name)
        if not isinstance(node, File):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return node

    def files(self, path: str = "/") -> dict[str, File]:
        """Every file below `path`, by its path."""
        found = {}
        for name, node in self._directory(path).live.items():
            below = os.path.join(path, name)
            found.update({below: node} if isinstance(node, File) else self.files(below))
        return found

    def _directory(self, path: str) -> Directory:
        node: File | Directory | None = self._root
        for part in filter(None, path.split("/")):
            node = node.live.get(part) if isinstance(node, Directory) else None
        if not isinstance(node, Directory):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        head, _, name = path.rpartition("/")
        return self._directory(head), name
