"""All queues of one data directory: names to directories, the lock, the format version."""

from __future__ import annotations

import os
from urllib.parse import unquote_to_bytes

from logqueue.errors import Corrupt
from logqueue.storage.disk import Disk, Lock, replace_file
from logqueue.storage.format import decode_meta
from logqueue.storage.layout import (
    FORMAT,
    LOCK,
    META,
    QUEUES,
    TEMPORARY_SUFFIX,
    decode_format,
    directory_name,
    encode_format,
)
from logqueue.storage.queue import Options, Queue
from logqueue.storage.recovery import Report


class Store:
    """An open data directory.  Opening and creating queues blocks; the rest does not."""

    def __init__(self, disk: Disk, root: str, options: Options, lock: Lock) -> None:
        self.root = root
        self._disk = disk
        self._options = options
        self._lock = lock
        self._queues = os.path.join(root, QUEUES)
        self._directories = set(disk.list(self._queues))

    @classmethod
    def open(cls, disk: Disk, root: str, options: Options) -> Store:
        """Open the data directory `root`, or make one there, with its parents.

        Raises Locked, NewerFormat, Corrupt (no readable FORMAT file although there are queues),
        DiskFull, NotWritable.
        """
        _make_directories(disk, os.path.abspath(root))
        lock = disk.lock(os.path.join(root, LOCK), shared=False)
        try:
            _check_format(disk, root)
            queues = os.path.join(root, QUEUES)
            if not disk.exists(queues):
                disk.make_directory(queues)
                disk.sync_directory(root)
            for name in disk.list(queues):
                if name.endswith(TEMPORARY_SUFFIX):  # a queue whose creation a crash cut short
                    disk.remove_tree(os.path.join(queues, name))
            return cls(disk, root, options, lock)
        except BaseException:
            lock.release()
            raise

    def names(self) -> list[bytes]:
        """The names of all queues.  Those too long for a directory's name are read from disk;
        raises Corrupt when that cannot be done."""
        return [self._name_of(directory) for directory in sorted(self._directories)]

    def exists(self, name: bytes) -> bool:
        """Whether the queue was ever written to."""
        return directory_name(name) in self._directories

    def __len__(self) -> int:
        return len(self._directories)

    def open_queue(self, name: bytes) -> tuple[Queue, Report]:
        """Recover an existing queue.  Raises what `Queue.open` does."""
        directory = os.path.join(self._queues, directory_name(name))
        return Queue.open(self._disk, directory, self._options)

    def create_queue(self, name: bytes) -> Queue:
        """Make a new queue, durable on return.  Raises DiskFull, LimitExceeded."""
        directory = directory_name(name)
        assert directory not in self._directories
        queue = Queue.create(self._disk, os.path.join(self._queues, directory), name, self._options)
        self._directories.add(directory)
        return queue

    def close(self) -> None:
        """Release the lock.  The queues must have been closed."""
        self._lock.release()

    def _name_of(self, directory: str) -> bytes:
        if not directory.startswith("~"):
            return b"" if directory == "%" else unquote_to_bytes(directory)
        path = os.path.join(self._queues, directory, META)
        try:
            extent = self._disk.open(path)
        except FileNotFoundError:
            raise Corrupt(path, 0, "the file is missing") from None
        try:
            return decode_meta(path, extent.read(0, extent.size)).name
        finally:
            extent.close()


def _make_directories(disk: Disk, path: str) -> None:
    if not disk.exists(path):
        parent = os.path.dirname(path)
        _make_directories(disk, parent)
        disk.make_directory(path)
        disk.sync_directory(parent)


def _check_format(disk: Disk, root: str) -> None:
    path = os.path.join(root, FORMAT)
    if disk.exists(path):
        extent = disk.open(path)
        try:
            decode_format(path, extent.read(0, extent.size))
        finally:
            extent.close()
    elif disk.exists(os.path.join(root, QUEUES)):
        raise Corrupt(path, 0, "the file is missing although there are queues beside it")
    else:
        replace_file(disk, root, FORMAT, encode_format(), path + TEMPORARY_SUFFIX)
