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
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from crc32c import crc32c

from logqueue.errors import Corrupt
from logqueue.storage.cursor import read_cursor
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    FRAMES_OFFSET,
    PAGE,
    Checkpoint,
    Meta,
    SegmentHeader,
    decode_meta,
    decode_segment_header,
    footer_offset,
)
from logqueue.storage.frame import (
    ALIGNMENT,
    FRAME_BYTES,
    LAG_UNKNOWN,
    MESSAGE,
    TYPE_OFFSET,
    WINDOW_BYTES,
    BadFrame,
    Scan,
    salt_seed,
)
from logqueue.storage.layout import (
    CURSOR,
    META,
    TEMPORARY_SUFFIX,
    directory_name,
    segment_base,
    segment_name,
)
from logqueue.storage.log import Sealed


@dataclass(slots=True)
class Tail:
    """The newest segment: `last` and `end` of its valid records, and what follows them.

    `appendable` says that everything after `end` is zero, so that new frames may go there.
    """

    header: SegmentHeader
    last: int
    end: int
    dropped_bytes: int = 0
    appendable: bool = True

    @property
    def name(self) -> str:
        """The file's name."""
        return segment_name(self.header.base)


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
    damage: list[Corrupt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def next_sequence(self) -> int:
        """The next sequence to give out: past every one that was ever acknowledged."""
        assert self.tail is not None
        assert self.checkpoint is not None
        assert self.meta is not None
        return max(self.tail.last, self.checkpoint.consumed, self.meta.rings[-1].base) + 1


def inspect(disk: Disk, directory: str) -> Report:
    """Look at one queue's directory.  Raises NewerFormat and StorageFailed; damage is reported."""
    report = Report(directory)
    try:
        report.meta = _read_meta(disk, directory)
        report.checkpoint = _read_checkpoint(disk, report)
        headers = _read_headers(disk, report)
        if not report.damage:
            _link(headers, report)
            report.tail = _read_tail(disk, headers[-1], report)
    except Corrupt as error:
        report.damage.append(error)
    return report


def queue_seed(queue_id: bytes) -> int:
    """The CRC state that a queue's cursor entries start from."""
    return crc32c(queue_id)


def _read_whole(disk: Disk, path: str) -> bytes:
    extent = _open(disk, path)
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
    extent = _open(disk, path)
    try:
        extent.sync()  # what is read here must be what a power cut would leave
        state = read_cursor(path, extent.read(0, extent.size), queue_seed(report.meta.queue_id))
    finally:
        extent.close()
    report.notes += [f"{each}; an older entry is used" for each in state.unreadable]
    return state.checkpoint


def _open(disk: Disk, path: str) -> Extent:
    try:
        return disk.open(path)
    except FileNotFoundError:
        raise Corrupt(path, 0, "the file is missing") from None


def _read_headers(disk: Disk, report: Report) -> list[SegmentHeader]:
    """The headers of all segments, in order; damaged ones are reported and left out."""
    assert report.meta is not None
    headers = []
    for name in disk.list(report.directory):
        path = os.path.join(report.directory, name)
        base = segment_base(name)
        if base is None:
            if name.endswith(TEMPORARY_SUFFIX):
                report.unfinished.append(name)
            elif name not in (META, CURSOR):
                report.notes.append(f"{path}: not a file of logqueue, is left alone")
            continue
        try:
            headers.append(_read_header(disk, path, base, report.meta.queue_id))
        except Corrupt as error:
            report.damage.append(error)
    if not headers and not report.damage:
        raise Corrupt(report.directory, 0, "there is no segment file")
    return headers


def _read_header(disk: Disk, path: str, base: int, queue_id: bytes) -> SegmentHeader:
    extent = _open(disk, path)
    try:
        header = decode_segment_header(path, extent.read(0, PAGE))
        size = extent.size
    finally:
        extent.close()
    if header.queue_id != queue_id:
        raise Corrupt(path, 0, "this is a segment of another queue")
    if header.base != base:
        raise Corrupt(path, 0, f"this is a copy of {segment_name(header.base)}")
    if header.size != size:
        raise Corrupt(path, size, f"the file must have {header.size} bytes")
    return header


def _link(headers: list[SegmentHeader], report: Report) -> None:
    """Follow the segments from the newest down, and note what each but the newest ended with."""
    assert report.checkpoint is not None
    assert report.meta is not None
    consumed = max(report.checkpoint.consumed, report.meta.rings[-1].base)
    successor = headers[-1]
    for header in reversed(headers[:-1]):
        if successor.previous.base != header.base:
            break
        report.sealed.insert(0, Sealed(successor.previous, header.size, successor.created))
        successor = header
    if successor.previous.last > consumed:
        missing = os.path.join(report.directory, segment_name(successor.previous.base))
        raise Corrupt(missing, 0, "the segment is missing", successor.previous.last)
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
    extent = _open(disk, _path(report, header))
    try:
        # The clean mark spares the sync, but only when nothing at all was stored after it: what
        # was may be in the page cache only.
        if report.checkpoint.clean and _untouched(extent, header, report.checkpoint):
            return Tail(header, report.checkpoint.durable, report.checkpoint.durable_offset)
        extent.sync()
        extent.drop_cache(0)
        return _scan_tail(extent, header, report)
    finally:
        extent.close()


def _untouched(extent: Extent, header: SegmentHeader, checkpoint: Checkpoint) -> bool:
    """Whether everything behind a cleanly closed tail is still zero."""
    if checkpoint.durable_base != header.base:
        return False
    reach, _ = _behind(extent, checkpoint.durable_offset, extent.size, 0)
    extent.drop_cache(checkpoint.durable_offset)
    return reach == checkpoint.durable_offset


def _scan_tail(extent: Extent, header: SegmentHeader, report: Report) -> Tail:
    assert report.checkpoint is not None
    last, start = header.base - 1, FRAMES_OFFSET
    if report.checkpoint.durable_base == header.base:
        last, start = report.checkpoint.durable, report.checkpoint.durable_offset
    scan = Scan(extent.read, start, footer_offset(header.size), salt_seed(header.salt))
    for frame in scan:
        if frame.sequence != last + 1:
            scan.offset = frame.offset
            scan.stop = BadFrame(frame.offset, f"sequence {frame.sequence} stands here")
            break
        last = frame.sequence
    reason = scan.stop.reason if scan.stop else "the segment is full"
    tail = _judge(extent, Tail(header, last, scan.offset), reason, report)
    # Read-ahead past the tail builds large folios there: see MmapExtent.
    extent.drop_cache(tail.end)
    return tail


def _judge(extent: Extent, tail: Tail, reason: str, report: Report) -> Tail:
    """Tell a tear from damage at the tail's end (R1, R2), and whether frames may go there."""
    assert report.checkpoint is not None
    limit = footer_offset(extent.size)
    reach, proved = _behind(extent, tail.end, limit, salt_seed(tail.header.salt))
    durable = max(report.checkpoint.durable, proved)
    if tail.last < durable:
        acknowledged = f"{reason}, but records up to {durable} were acknowledged"
        raise Corrupt(extent.path, tail.end, acknowledged, tail.last + 1)
    if reach > tail.end:
        tail.dropped_bytes = reach - tail.end
        report.notes.append(
            f"{extent.path}: offset {tail.end}: torn tail ({reason}), "
            f"{tail.dropped_bytes} bytes that were never acknowledged are dropped"
        )
    footer = extent.read(limit, extent.size - limit)
    tail.appendable = reach == tail.end and footer.count(0) == len(footer)
    return tail


_ZEROS = bytes(WINDOW_BYTES)


def _behind(extent: Extent, start: int, limit: int, seed: int) -> tuple[int, int]:
    """Look at everything between the tail's end and `limit`.

    Returns the offset after the last byte that is not zero (`start` when there is none), and the
    highest sequence that valid frames there prove to have been durable.
    """
    reach, durable, offset = start, 0, start
    while offset < limit:
        window = extent.read(offset, min(WINDOW_BYTES, limit - offset))
        at = 0
        if window != _ZEROS[: len(window)]:
            reach = max(reach, offset + len(window.rstrip(b"\0")))
            while (at := _candidate(window, at)) + FRAME_BYTES <= len(window):
                frame = next(Scan(extent.read, offset + at, limit, seed, FRAME_BYTES), None)
                at = frame.end - offset if frame else at + ALIGNMENT
                if frame and frame.lag != LAG_UNKNOWN:
                    durable = max(durable, frame.sequence - frame.lag)
        if offset + len(window) >= limit or not window:
            break
        # A header may straddle two windows; a frame may end behind this one.
        offset += max(at, len(window) - FRAME_BYTES + ALIGNMENT)
        reach = max(reach, min(offset, limit) if at > len(window) else 0)
    return reach, durable


def _candidate(window: bytes, at: int) -> int:
    """The next index from `at` on, in steps of 8, that has a frame's type in its place."""
    while at + FRAME_BYTES <= len(window) and window[at + TYPE_OFFSET] != MESSAGE:
        at += ALIGNMENT
    return at
