"""One queue's directory: all its files, and what is wrong with them and between them.  Reads only.

Goes on where the daemon's own inspection stops at the first damage: what cannot be read is taken
from where it can be inferred (a salt from a frame, settings from a meta file gone astray), so that
one damage does not hide the next.  At the end the daemon's `inspect` has the last word: a queue
that it refuses is never called clean.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Set
from urllib.parse import unquote_to_bytes

from logqueue.errors import Corrupt, NewerFormat
from logqueue.fsck.chain import examine_chain
from logqueue.fsck.finding import Finding, Kind
from logqueue.fsck.identity import Identities, name_in_damaged_meta, read_meta
from logqueue.fsck.segmentfile import load
from logqueue.fsck.segments import Progress
from logqueue.fsck.survey import Survey, is_acks
from logqueue.storage.acks import inspect_acks, missing_acks
from logqueue.storage.clock import clock_ms
from logqueue.storage.cursor import read_cursor
from logqueue.storage.disk import Disk
from logqueue.storage.format import (
    CURSOR_FILE_BYTES,
    MAXQUEUE_DEFAULT,
    Meta,
    Ring,
)
from logqueue.storage.layout import (
    CURSOR,
    META,
    TEMPORARY_SUFFIX,
    acks_name,
    directory_name,
    segment_base,
)
from logqueue.storage.recovery import inspect, queue_seed
from logqueue.storage.tail import open_existing

QUEUE_ID_BYTES = 16


def survey(
    disk: Disk,
    directory: str,
    identities: Identities,
    *,
    online: bool,
    thorough: bool,
    progress: Progress,
) -> Survey:
    """Look at everything in the directory of one queue, which is the one of `identities`.

    `online`: a daemon may be at work there; only what the cursor notes as durable is judged.
    Raises StorageFailed, LimitExceeded.
    """
    found = Survey(os.path.basename(directory), directory)
    try:
        found.queue_id = identities.ids.get(found.queue)
        _read_meta(disk, found, identities.settings_of(found.queue))
        _survey(disk, found, identities, online=online, thorough=thorough, progress=progress)
        if not online:
            _last_word(disk, found)
    except NewerFormat as error:
        found.findings.append(Finding(Kind.VERSION_NEWER, found.queue, error.path, 0, str(error)))
    return found


def _survey(
    disk: Disk,
    found: Survey,
    identities: Identities,
    *,
    online: bool,
    thorough: bool,
    progress: Progress,
) -> None:
    names = disk.list(found.directory)
    segments = {name: base for name in names if (base := segment_base(name)) is not None}
    _read_cursor(disk, found)
    _sort_names(found, names)
    for name, base in segments.items():
        _load(disk, found, os.path.join(found.directory, name), base, identities.known)
    found.segments.sort(key=lambda segment: (segment.base, segment.header is not None))
    if not found.segments:
        found.report(Kind.NO_SEGMENT, "", 0, "no file here is a segment of this queue")
    else:
        examine_chain(disk, found, online=online, thorough=thorough, progress=progress)
    _read_acks(disk, found, names)
    for segment in [*found.segments, *found.strays]:
        found.findings += segment.findings
    last = found.last
    if found.checkpoint and found.checkpoint.consumed > last and not found.harmful:
        text = f"records up to {found.checkpoint.consumed} are consumed, {last} is the newest"
        place = {"first": last + 1, "last": found.checkpoint.consumed}
        found.report(Kind.CURSOR_PAST_END, CURSOR, 0, text, **place)


def _last_word(disk: Disk, found: Survey) -> None:
    """Nothing that the daemon refuses may pass for clean."""
    report = inspect(disk, found.directory)
    if report.damage and not found.harmful:
        error = report.damage[0]
        sequence = error.sequence or 0
        found.findings.append(
            Finding(
                Kind.REFUSED,
                found.queue,
                error.path,
                error.offset,
                error.reason,
                sequence,
                sequence,
            )
        )


def _read_meta(disk: Disk, found: Survey, settings: Meta | None) -> None:
    """The meta file, or what stands in for it: `settings` if there are any, else the default ones
    under the name that the directory has."""
    try:
        meta = read_meta(disk, found.directory)
        expected = directory_name(meta.name)
        if meta.queue_id == found.queue_id and expected == found.queue:
            found.meta = meta
            return
        found.report(Kind.META_BAD, META, 0, f"it is for the directory {expected}")
    except Corrupt as error:
        found.report(Kind.META_BAD, META, error.offset, error.reason)
    found.meta_sound = False
    found.meta = settings or default_meta(found.queue_id, _name_of(disk, found))


def default_meta(queue_id: bytes | None, name: bytes) -> Meta:
    """What stands in for a lost meta file; a queue without an id gets a new one."""
    queue_id = queue_id or secrets.token_bytes(QUEUE_ID_BYTES)
    return Meta(queue_id, clock_ms(), name, (Ring(0, 0, MAXQUEUE_DEFAULT),), {})


def _name_of(disk: Disk, found: Survey) -> bytes:
    """The queue name that a directory's name tells.  A long name is only there as its digest:
    unless the damaged meta file still has it, the messages go to a queue called after that."""
    name = name_in_damaged_meta(disk, found.directory)
    if name is not None:
        return name
    if found.queue.startswith("~"):
        return b"recovered-" + found.queue[1:33].encode()
    return b"" if found.queue == "%" else unquote_to_bytes(found.queue)


def _read_cursor(disk: Disk, found: Survey) -> None:
    path = os.path.join(found.directory, CURSOR)
    try:
        if found.queue_id is None:
            raise Corrupt(path, 0, "nothing says which queue this is")
        with contextlib.closing(open_existing(disk, path)) as extent:
            data = extent.read(0, CURSOR_FILE_BYTES + 1)
        state = read_cursor(path, data, queue_seed(found.queue_id))
    except Corrupt as error:
        found.cursor_sound = False
        found.report(Kind.CURSOR_BAD, CURSOR, error.offset, error.reason)
        return
    found.checkpoint = state.checkpoint
    # A crash leaves marks of its own (`half_stored`); anything else was altered on the disk.
    kind = Kind.CURSOR_ENTRY if state.checkpoint.clean else Kind.CURSOR_STALE
    found.cursor_sound = not state.damage
    for entry in state.damage:
        found.report(kind, CURSOR, entry.offset, entry.reason)
    if state.half_stored:
        text = f"{state.half_stored} entries were being stored"
        found.report(Kind.CURSOR_OLDER, CURSOR, 0, text)


def _sort_names(found: Survey, names: list[str]) -> None:
    """Files that are neither segments nor the queue's own two."""
    for name in names:
        if name in (META, CURSOR) or segment_base(name) is not None:
            continue
        if name.endswith(TEMPORARY_SUFFIX):
            found.report(Kind.ORPHAN_TMP, name, 0, "unfinished")
            continue
        if not is_acks(name):
            found.report(Kind.FOREIGN_FILE, name, 0, "left alone")
        found.carried.append(name)


def _read_acks(disk: Disk, found: Survey, names: list[str]) -> None:
    notes: list[str] = []
    try:
        if found.queue_id is None:
            if any(is_acks(name) for name in names):
                raise Corrupt(found.directory, 0, "nothing says which queue this is")
            return
        acks = inspect_acks(disk, found.directory, names, found.queue_id, found.last, notes)
        if acks is not None:
            found.settled, found.frontier = acks.leases.low, acks.leases.frontier
            if notes:
                tail = acks.tail
                text = "steps that were never acknowledged"
                name = acks_name(tail.header.base)
                found.report(Kind.TORN_TAIL, name, tail.end, text, size=tail.dropped_bytes)
        elif found.checkpoint is not None and found.checkpoint.leased:
            raise missing_acks(found.directory)
    except Corrupt as error:
        found.acks_sound = False
        name = "" if error.path == found.directory else os.path.basename(error.path)
        found.report(Kind.ACKS_BAD, name, error.offset, error.reason)
        found.carried = [each for each in found.carried if not is_acks(each)]


def _load(disk: Disk, found: Survey, path: str, base: int, known: Set[bytes]) -> None:
    try:
        segment = load(disk, found.queue, path, base, found.queue_id, known)
    except Corrupt as error:
        found.findings.append(Finding(Kind.UNREADABLE, found.queue, path, 0, error.reason))
        return
    stray = segment.queue_id != found.queue_id
    (found.strays if stray else found.segments).append(segment)
