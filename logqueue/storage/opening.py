"""Making a queue, and recovering one: the only two ways to a `Queue`.

A queue is built beside its place and gets its name when it is whole; one that is there is opened
as `inspect` has found it, and nothing is changed before that has seen the whole directory.
"""

from __future__ import annotations

import os
import secrets

from logqueue.options import DEFAULT, QueueOptions
from logqueue.storage.cursor import Cursor
from logqueue.storage.disk import Disk
from logqueue.storage.format import Checkpoint, Meta
from logqueue.storage.log import Log
from logqueue.storage.queue import Options, Queue, write_meta
from logqueue.storage.recovery import Report, inspect, queue_seed
from logqueue.storage.ring import fresh
from logqueue.storage.segment import Segment


def create_queue(
    disk: Disk,
    directory: str,
    name: bytes,
    options: Options,
    settings: QueueOptions = DEFAULT,
) -> Queue:
    """A new queue in `directory`, whose basename is `directory_name(name)`.

    It is built beside and given its name when it is whole, its `settings` included.  Raises
    DiskFull, LimitExceeded.
    """
    building = directory + ".tmp"
    disk.remove_tree(building)
    disk.make_directory(building)
    rings = fresh(0, settings.max_length)
    meta = Meta(secrets.token_bytes(16), options.clock(), name, rings, settings.stored({}))
    write_meta(disk, building, meta)
    log = Log.create(disk, building, meta.queue_id, options.clock, options.segment_bytes_max)
    cursor = None
    try:
        first = Checkpoint(1, 0, 0, *log.end, 0, *log.end)
        cursor = Cursor.create(disk, building, queue_seed(meta.queue_id), first)
        disk.sync_directory(building)
        disk.publish(building, directory)
    except BaseException:
        if cursor is not None:
            cursor.close(clean=False)
        log.close()
        raise
    log.move(directory)
    cursor.move(directory)
    return Queue(disk, directory, meta, log, cursor, options)


def open_queue(disk: Disk, directory: str, options: Options) -> tuple[Queue, Report]:
    """Recover the queue in `directory`.

    Raises Corrupt when acknowledged data is damaged or missing, NewerFormat, DiskFull (when
    sequences must step up, which takes a new segment), LimitExceeded, StorageFailed.  Nothing
    is changed before the whole directory has been inspected.
    """
    disk.sync_directory(directory)  # R4
    report = inspect(disk, directory)
    if report.damage:
        raise report.damage[0]
    meta, tail = report.meta, report.tail
    assert meta is not None
    assert tail is not None
    for name in [*report.unfinished, *report.stale]:
        disk.unlink(os.path.join(directory, name))
    extent = disk.open(os.path.join(directory, tail.name), writable=True)
    active = Segment(extent, tail.header, tail.last, tail.end)
    log = Log(
        disk,
        directory,
        meta.queue_id,
        report.sealed,
        active,
        options.clock,
        options.segment_bytes_max,
    )
    try:
        if not tail.appendable:  # R3: the next put rolls
            active.retire()
        if report.next_sequence != tail.last + 1:
            log.roll(base=report.next_sequence)
        cursor = Cursor.open(disk, directory, queue_seed(meta.queue_id))
    except BaseException:
        log.close()
        raise
    queue = Queue(disk, directory, meta, log, cursor, options)
    if report.acks is not None:
        try:
            queue.deliver().restore(report.acks)
        except BaseException:
            queue.close(clean=False)
            raise
    return queue, report
