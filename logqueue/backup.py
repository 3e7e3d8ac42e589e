"""A consistent copy of a data directory while the daemon goes on.

    python -m logqueue.backup DATA_DIR DESTINATION

Restored by starting a daemon on DESTINATION.  Each queue is copied as it was at one moment between
the start and the end of its own copy; nothing is promised between queues.  Everything that was
acknowledged before the backup began is in it.

Plan, per queue.  The files are taken in an order in which each may be newer than those before it,
never older: the cursor, the acknowledgement log, the segments.  Sealed segments never change again:
they become hard links where the file system allows it, so that a backup costs the tail only.  Of
files that are still written to, the valid frames are copied.  Meta and acknowledgement log are
replaced by rename: when either was, or when compaction took a segment that the cursor still needs,
the copy starts again.  Recovery's own eyes then judge the copy (`inspect`).

What it needs of the daemon is what it promises to kill -9: it neither stops nor slows it, and needs
no lock.  Quarantined files stay behind.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from logqueue.errors import Corrupt, UsageError
from logqueue.storage.disk import Disk, MmapDisk
from logqueue.storage.format import FRAMES_OFFSET, PAGE, decode_segment_header, footer_offset
from logqueue.storage.frame import Scan, salt_seed
from logqueue.storage.layout import (
    CURSOR,
    FORMAT,
    META,
    QUEUES,
    TEMPORARY_SUFFIX,
    acks_base,
    decode_format,
    segment_base,
)
from logqueue.storage.recovery import inspect

PARTIAL_SUFFIX = ".partial"
TRIES = 10  # of one queue; a copy takes milliseconds, and what disturbs it is rare
PAUSE_S = 0.05
THREADS = 4  # they wait for the disk most of the time
_BLOCK_BYTES = 1 << 20


def backup(
    source: str, destination: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Copy the data directory `source` to `destination`, which must not exist; durable on return.

    `progress` is told how many queues have been copied, and of how many.

    Returns one line for each queue whose copy was damaged at every try, because the queue is: it
    was copied as it is.  Raises UsageError, NewerFormat, Corrupt (no readable FORMAT file),
    DiskFull, NotWritable, StorageFailed; then `destination` does not exist, and what was copied
    so far stands beside it.
    """
    disk = MmapDisk()
    partial = os.path.abspath(destination) + PARTIAL_SUFFIX
    _check(disk, source, destination, partial)
    disk.make_directory(partial)
    _copy(os.path.join(source, FORMAT), os.path.join(partial, FORMAT))
    queues, copies = os.path.join(source, QUEUES), os.path.join(partial, QUEUES)
    disk.make_directory(copies)
    names = [name for name in disk.list(queues) if not name.endswith(TEMPORARY_SUFFIX)]
    with ThreadPoolExecutor(THREADS) as threads:
        found = threads.map(
            lambda name: _copy_queue(disk, os.path.join(queues, name), os.path.join(copies, name)),
            names,
        )
        damage = []
        for done, line in enumerate(found, 1):
            damage += [] if line is None else [line]
            progress(done, len(names))
    disk.sync_directory(copies)
    disk.sync_directory(partial)
    disk.publish(partial, os.path.abspath(destination))
    return damage


def _check(disk: Disk, source: str, destination: str, partial: str) -> None:
    path = os.path.join(source, FORMAT)
    if not disk.exists(path):
        raise UsageError(f"{source}: there is no data directory here (no {FORMAT} file)")
    with open(path, "rb") as file:
        decode_format(path, file.read())
    for taken in (destination, partial):
        if disk.exists(taken):
            raise UsageError(f"{taken}: exists already; name a new directory, or remove this one")


def _copy_queue(disk: Disk, source: str, target: str) -> str | None:
    """Copy one queue; a line of text when the copy is damaged after every try."""
    reason = ""
    for attempt in range(TRIES):
        time.sleep(PAUSE_S * attempt)
        disk.remove_tree(target)
        if not disk.exists(source):  # it was deleted
            return None
        try:
            unchanged = _try_copy(disk, source, target)
            damage = inspect(disk, target).damage
        except (FileNotFoundError, Corrupt) as error:
            reason = str(error)
            continue
        if unchanged and not damage:
            disk.sync_directory(target)
            return None
        reason = str(damage[0]) if damage else f"{source}: never came to rest"
    disk.remove_tree(target)
    shutil.copytree(source, target)
    return reason


def _try_copy(disk: Disk, source: str, target: str) -> bool:
    """Copy a queue's files; whether none was replaced meanwhile."""
    before = _replaceable(source)
    disk.make_directory(target)
    _copy(os.path.join(source, CURSOR), os.path.join(target, CURSOR))
    names = os.listdir(source)
    for name in names:
        if acks_base(name) is not None:
            _copy_frames(disk, os.path.join(source, name), os.path.join(target, name))
    segments = sorted(name for name in os.listdir(source) if segment_base(name) is not None)
    for name in segments[:-1]:
        _link(os.path.join(source, name), os.path.join(target, name))
    for name in segments[-1:]:
        _copy_frames(disk, os.path.join(source, name), os.path.join(target, name))
    _copy(os.path.join(source, META), os.path.join(target, META))
    return _replaceable(source) == before


def _replaceable(directory: str) -> list[tuple[str, int]]:
    """The files of a queue that a rename may replace, by name and inode."""
    names = [name for name in os.listdir(directory) if name == META or acks_base(name) is not None]
    return sorted((name, os.lstat(os.path.join(directory, name)).st_ino) for name in names)


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as file:
        data = file.read()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _link(source: str, target: str) -> None:
    """A second name for a sealed segment; a copy where that cannot be.  Gone is fine: whether it
    is missed, `inspect` tells."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
        with open(target, "rb+") as file:
            os.fsync(file.fileno())


def _copy_frames(disk: Disk, source: str, target: str) -> None:
    """Copy the header and the valid frames of a file that may be written to meanwhile.

    Frames are stored once and never change, so what has been verified stays as it is.
    """
    extent = disk.open(source)
    try:
        header = decode_segment_header(source, extent.read(0, PAGE))
        limit = footer_offset(extent.size)
        scan = Scan(extent.read, FRAMES_OFFSET, limit, salt_seed(header.salt))
        for _ in scan:
            pass
        copy = disk.create(target, extent.size)
        try:
            for offset in range(0, scan.offset, _BLOCK_BYTES):
                length = min(_BLOCK_BYTES, scan.offset - offset)
                copy.write(offset, extent.read(offset, length))
            copy.sync()
        finally:
            copy.close()
    finally:
        extent.close()
