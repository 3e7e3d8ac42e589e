"""What a queue's directory holds after whatever happened to it: `inspect`.  Never writes.

The daemon and fsck see a directory through the same eyes.  The order matters:

1. meta and cursor.  Unreadable means damage, never "does not exist".
2. The chain of segments.  A valid successor proves a segment complete, because it is published
   only after the segment was synced; so only the newest one, the tail, is scanned.
3. The tail, from the checkpointed durable offset.  Unless the queue was closed cleanly the file is
   synced and dropped from the cache first: after kill -9 the scan then reads what the disk has,
   and after a write-back error it does not read what the page cache only pretends (A4).
4. At the first bad frame, D = max(sequence - lag) over the valid frames behind it, and the
   checkpoint.  Records up to D were durable: a bad frame at or below D is damage
   (R1).  Above D it is a tear, the normal trace of a crash (R2); what lies behind it was never
   acknowledged, is counted, and never comes back, because nothing is appended behind a tear (R3).

What kill -9 leaves is in the page cache only, names included.  So files and directories are synced
before they are read (R4): what recovery builds on is what a power cut would leave.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from crc32c import crc32c

from logqueue.errors import Corrupt
from logqueue.storage.acks import AckTail, inspect_acks, missing_acks
from logqueue.storage.cursor import read_cursor, settle
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    FRAMES_OFFSET,
    Checkpoint,
    Meta,
    SegmentHeader,
    decode_meta,
    repaired_links,
)
from logqueue.storage.layout import (
    ACKS_SPARE,
    CURSOR,
    META,
    TEMPORARY_SUFFIX,
    acks_base,
    directory_name,
    segment_base,
    segment_name,
)
from logqueue.storage.log import Sealed
from logqueue.storage.tail import Tail, open_existing, reach, read_header, scan_tail


@dataclass(slots=True)
class Report:
    """All that was found.  `damage` is empty when the queue can be served; `notes` are harmless.

    The other fields hold as far as the damage let the inspection come.
    """

    directory: str
    meta: Meta | None = None
    checkpoint: Checkpoint | None = None
    sealed: list[Sealed] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)  # consumed segments that may be removed
    unfinished: list[str] = field(default_factory=list)  # temporary files, likewise
    tail: Tail | None = None
    acks: AckTail | None = None  # None too when nothing was ever leased
    damage: list[Corrupt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def consumed(self) -> int:
        """Everything up to here is consumed."""
        assert self.checkpoint is not None
        assert self.meta is not None
        low = 0 if self.acks is None else self.acks.leases.low
        return max(self.checkpoint.consumed, self.meta.rings[-1].base, low)

    @property
    def next_sequence(self) -> int:
        """The next sequence to give out: past every one that was ever acknowledged."""
        assert self.tail is not None
        frontier = 0 if self.acks is None else self.acks.leases.frontier
        return max(self.tail.last, self.consumed, frontier) + 1


def inspect(disk: Disk, directory: str) -> Report:
    """Look at one queue's directory.  Raises NewerFormat and StorageFailed; damage is reported."""
    report = Report(directory)
    try:
        report.meta = _read_meta(disk, directory)
        report.checkpoint = _read_checkpoint(disk, report)
        names = disk.list(directory)
        headers = _read_headers(disk, names, report)
        if not report.damage:
            _link(headers, report)
            report.tail = _read_tail(disk, headers[-1], report)
            report.acks = _read_acks(disk, names, report)
    except Corrupt as error:
        report.damage.append(error)
    return report


def queue_seed(queue_id: bytes) -> int:
    """The CRC state that a queue's cursor entries start from."""
    return crc32c(queue_id)


def _read_whole(disk: Disk, path: str) -> bytes:
    extent = open_existing(disk, path)
    try:
        return extent.read(0, extent.size)
    finally:
        extent.close()


def _read_meta(disk: Disk, directory: str) -> Meta:
    path = os.path.join(directory, META)
    meta = decode_meta(path, _read_whole(disk, path))
    expected = directory_name(meta.name)
    if expected != os.path.basename(directory):
        raise Corrupt(path, 0, f"this is the meta file of another queue, {expected}")
    return meta


def _read_checkpoint(disk: Disk, report: Report) -> Checkpoint:
    assert report.meta is not None
    path = os.path.join(report.directory, CURSOR)
    seed = queue_seed(report.meta.queue_id)
    state = read_cursor(path, _read_whole(disk, path), seed)
    # What is read here must be what a power cut would leave.  Of a pair that says the same the
    # older one is durable; ten thousand queues at rest are not worth as many flushes.
    if not state.closed:
        settle(disk, path)
        state = read_cursor(path, _read_whole(disk, path), seed)
    report.damage += state.damage
    return state.checkpoint


def _read_headers(disk: Disk, names: list[str], report: Report) -> list[SegmentHeader]:
    """The headers of all segments, in order; damaged ones are reported and left out."""
    assert report.meta is not None
    headers = []
    for name in names:
        path = os.path.join(report.directory, name)
        base = segment_base(name)
        if base is None:
            if name.endswith(TEMPORARY_SUFFIX):
                report.unfinished.append(name)
            elif name not in (META, CURSOR, ACKS_SPARE) and acks_base(name) is None:
                report.notes.append(f"{path}: not a file of logqueue, is left alone")
            continue
        try:
            headers.append(read_header(disk, path, base, report.meta.queue_id))
        except Corrupt as error:
            report.damage.append(error)
    if not headers and not report.damage:
        raise Corrupt(report.directory, 0, "there is no segment file")
    return headers


def _link(headers: list[SegmentHeader], report: Report) -> None:
    """Follow the segments from the newest down, and note what each but the newest ended with."""
    assert report.checkpoint is not None
    assert report.meta is not None
    consumed = max(report.checkpoint.consumed, report.meta.rings[-1].base)
    repaired = repaired_links(report.meta)
    successor, previous = headers[-1], repaired.get(headers[-1].base, headers[-1].previous)
    for header in reversed(headers[:-1]):
        if previous.base != header.base:
            break
        report.sealed.insert(0, Sealed(previous, header.size, successor.created))
        successor, previous = header, repaired.get(header.base, header.previous)
    if previous.last > consumed:
        missing = os.path.join(report.directory, segment_name(previous.base))
        raise Corrupt(missing, 0, "the segment is missing", previous.last)
    if report.checkpoint.durable_base > headers[-1].base:
        missing = os.path.join(report.directory, segment_name(report.checkpoint.durable_base))
        raise Corrupt(missing, 0, "the newest segment is missing", report.checkpoint.durable)
    for header in headers:
        if header.base < successor.base:  # a power cut undid its removal
            report.stale.append(segment_name(header.base))
            report.notes.append(f"{_path(report, header)}: consumed long ago, is removed")


def _path(report: Report, header: SegmentHeader) -> str:
    return os.path.join(report.directory, segment_name(header.base))


def _read_tail(disk: Disk, header: SegmentHeader, report: Report) -> Tail:
    """Find the end of the newest segment.  Raises Corrupt when durable records are not there."""
    assert report.checkpoint is not None
    extent = open_existing(disk, _path(report, header))
    try:
        # The clean mark spares the sync, but only when nothing at all was stored after it: what
        # was may be in the page cache only.
        if report.checkpoint.clean and _untouched(extent, header, report.checkpoint):
            return Tail(header, report.checkpoint.durable, report.checkpoint.durable_offset)
        last, start = header.base - 1, FRAMES_OFFSET
        if report.checkpoint.durable_base == header.base:
            last, start = report.checkpoint.durable, report.checkpoint.durable_offset
        return scan_tail(extent, header, last, start, report.checkpoint.durable, report.notes)
    finally:
        extent.close()


def _read_acks(disk: Disk, names: list[str], report: Report) -> AckTail | None:
    assert report.meta is not None
    assert report.tail is not None
    acks = inspect_acks(
        disk, report.directory, names, report.meta.queue_id, report.tail.last, report.notes
    )
    if acks is not None:
        acks.leases.advance(report.consumed)
    elif report.checkpoint is not None and report.checkpoint.leased:
        raise missing_acks(report.directory)
    return acks


def _untouched(extent: Extent, header: SegmentHeader, checkpoint: Checkpoint) -> bool:
    """Whether everything behind a cleanly closed tail is still zero."""
    if checkpoint.durable_base != header.base:
        return False
    extent.read_no_further()  # read-ahead past the tail builds large folios: see MmapExtent
    end = reach(extent, checkpoint.durable_offset, extent.size)
    return end == checkpoint.durable_offset
