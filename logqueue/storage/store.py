"""All queues of one data directory: names to directories, the lock, the format version."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from logqueue.errors import Corrupt, LogqueueError, StorageFailed, UsageError
from logqueue.options import DEFAULT, QueueOptions
from logqueue.storage.acks import ACKS_BYTES_MIN
from logqueue.storage.disk import Disk, Lock, replace_file
from logqueue.storage.format import FRAMES_OFFSET, SEGMENT_BYTES_MIN, decode_meta
from logqueue.storage.layout import (
    FORMAT,
    LOCK,
    META,
    QUEUES,
    TEMPORARY_SUFFIX,
    decode_format,
    directory_name,
    encode_format,
    segment_name,
)
from logqueue.storage.leases import Leases
from logqueue.storage.log import Position, Sealed
from logqueue.storage.opening import create_queue, open_queue
from logqueue.storage.queue import Options, Queue
from logqueue.storage.reader import Peek
from logqueue.storage.recovery import Report, inspect
from logqueue.storage.ring import Positions, positions


class Resting(NamedTuple):
    """What is known of a queue that is not open."""

    positions: Positions
    consumed: int
    sealed: tuple[Sealed, ...]
    active_bytes: int
    hidden: int  # the newest sequence that nobody can view any more, see `Queue.hidden`
    options: Mapping[str, object]
    unfinished: bool  # opening it would tidy something up
    notes: tuple[str, ...] = ()
    due_ms: int | None = None  # when the next lease or delay ends; 0 with a dead record
    last: int = 0  # the newest sequence
    front: Position = Position(0, 0)  # where the next record to consume stands, as far as known

    @classmethod
    def of(cls, queue: Queue) -> Resting:
        """The facts about a queue that is being closed."""
        return cls(
            queue.positions,
            queue.consumed,
            tuple(queue.log.sealed),
            queue.log.active.header.size,
            queue.hidden,
            queue.options,
            queue.oversized,
            due_ms=None if queue.delivery is None else queue.delivery.leases.next_event(),
            last=queue.log.last,
            front=queue.next_position,
        )

    @classmethod
    def reported(cls, report: Report) -> Resting:
        """The facts out of an inspection that has found no damage."""
        assert report.meta is not None
        assert report.tail is not None
        rings, size = report.meta.rings, report.tail.header.size
        consumed, last = report.consumed, report.next_sequence - 1
        assert report.checkpoint is not None
        front = Position(report.checkpoint.base, report.checkpoint.offset)
        leases = Leases(consumed)
        if report.acks is not None:
            leases = report.acks.leases
            leases.forget_above(report.tail.last)
            settings = QueueOptions.loaded(report.meta.options, rings[-1].maxqueue)
            leases.limit_attempts(settings.max_attempts)
        grown = size > SEGMENT_BYTES_MIN
        if report.acks is not None:
            grown |= report.acks.tail.header.size > ACKS_BYTES_MIN
        return cls(
            positions(rings[-1], last, consumed, leases.settled_above),
            consumed,
            tuple(report.sealed),
            size,
            rings[0].after,
            report.meta.options,
            (grown and consumed == last) or bool(report.stale or report.unfinished),
            tuple(report.notes),
            leases.next_event(),
            last,
            front if consumed == report.checkpoint.consumed else Position(0, 0),
        )


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

        Raises UsageError (there can be no directory), Locked, NewerFormat, Corrupt (no readable
        FORMAT file although there are queues), DiskFull, NotWritable.
        """
        _make_root(disk, root)
        lock = disk.lock(os.path.join(root, LOCK), shared=False)
        try:
            _check_format(disk, root)
            queues = os.path.join(root, QUEUES)
            # R4: a start that was killed may have left names that are in the cache only.
            disk.sync_directory(root)
            if not disk.exists(queues):  # only now, so that FORMAT is never the one to be missing
                disk.make_directory(queues)
                disk.sync_directory(root)
            found = disk.list(queues)
            disk.sync_directory(queues)
            for name in found:
                if name.endswith(TEMPORARY_SUFFIX):  # a queue whose creation a crash cut short
                    disk.remove_tree(os.path.join(queues, name))
            return cls(disk, root, options, lock)
        except BaseException:
            lock.release()
            raise

    def names(self) -> tuple[list[bytes], list[LogqueueError]]:
        """The names of all queues, and what kept some of them unread.

        Those too long for a directory's name stand in a file, so this may block.
        """
        names, unreadable = [], []
        for directory in sorted(self._directories):
            try:
                names.append(self._name_of(directory))
            except LogqueueError as error:
                unreadable.append(error)
        return names, unreadable

    def exists(self, name: bytes) -> bool:
        """Whether the queue was ever written to."""
        return directory_name(name) in self._directories

    def __len__(self) -> int:
        return len(self._directories)

    def inspect(self, name: bytes) -> Resting:
        """What an existing queue holds, without opening it.

        Raises Corrupt, NewerFormat, LimitExceeded (descriptors), StorageFailed.
        """
        report = inspect(self._disk, os.path.join(self._queues, directory_name(name)))
        if report.damage:
            raise report.damage[0]
        return Resting.reported(report)

    def open_queue(self, name: bytes) -> tuple[Queue, Report]:
        """Recover an existing queue.  Raises what `opening.open_queue` does."""
        directory = os.path.join(self._queues, directory_name(name))
        return open_queue(self._disk, directory, self._options)

    def create_queue(self, name: bytes, settings: QueueOptions = DEFAULT) -> Queue:
        """Make a new queue, durable on return.  Raises DiskFull, LimitExceeded."""
        directory = directory_name(name)
        assert directory not in self._directories
        path = os.path.join(self._queues, directory)
        queue = create_queue(self._disk, path, name, self._options, settings)
        self._directories.add(directory)
        return queue

    def delete_queue(self, queue: Queue) -> None:
        """Close a queue and remove it, durably on return.  Blocks.  Raises StorageFailed.

        It loses its name first: a crash on the way leaves what the next start clears away.
        """
        directory = directory_name(queue.name)
        path = os.path.join(self._queues, directory)
        queue.close(clean=False)
        self._disk.publish(path, path + TEMPORARY_SUFFIX)
        self._directories.discard(directory)
        self._disk.remove_tree(path + TEMPORARY_SUFFIX)

    def first_unread(self, name: bytes, facts: Resting) -> Peek | None:
        """How to look at the oldest record of a queue that is not consumed; None without one."""
        sequence, (base, offset) = facts.consumed + 1, facts.front
        if sequence > facts.last:
            return None
        at = bisect_right(facts.sealed, base, key=lambda each: each.ended.base) - 1
        is_sealed = at >= 0 and facts.sealed[at].ended.base == base
        if not base or (is_sealed and facts.sealed[at].ended.last < sequence):
            base, offset = sequence, FRAMES_OFFSET  # it is the first one of the next segment
        path = os.path.join(self._queues, directory_name(name), segment_name(base))
        return Peek(self._disk, path, offset, sequence)

    def close(self) -> None:
        """Release the lock.  The queues must have been closed."""
        self._lock.release()

    def _name_of(self, directory: str) -> bytes:
        path = os.path.join(self._queues, directory)
        name = b"" if directory == "%" else unquote_to_bytes(directory)
        if directory.startswith("~"):
            name = self._stored_name(os.path.join(path, META))
        if directory_name(name) != directory:
            raise Corrupt(path, 0, "not the directory of a queue, is left alone")
        return name

    def _stored_name(self, path: str) -> bytes:
        try:
            extent = self._disk.open(path)
        except FileNotFoundError:
            raise Corrupt(path, 0, "the file is missing") from None
        try:
            return decode_meta(path, extent.read(0, extent.size)).name
        finally:
            extent.close()


def _make_root(disk: Disk, root: str) -> None:
    try:
        if not disk.exists(os.path.join(root, FORMAT)):
            _make_directories(disk, os.path.abspath(root))
        disk.list(root)
    except StorageFailed as failure:
        if failure.cause.errno == errno.EIO:
            raise
        raise _no_root(root, failure.cause) from failure
    except OSError as error:
        raise _no_root(root, error) from error


def _no_root(root: str, error: OSError) -> UsageError:
    return UsageError(f"data directory {root!r}: {error.strerror}; choose another with -x")


def _make_directories(disk: Disk, path: str) -> None:
    """Make `path` with its parents, durably; also those that a killed first start had made."""
    parent = os.path.dirname(path)
    if parent == path:
        return
    _make_directories(disk, parent)
    missing = not disk.exists(path)
    if missing:
        disk.make_directory(path)
    try:
        disk.sync_directory(parent)
    except StorageFailed as failure:
        # Not ours to sync, if it was not ours to make.
        if missing or failure.cause.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL):
            raise


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
