"""Segments as recovery reads them: the header, and the one scan that tells a tear from damage.

The rules R1 to R3 are those of `logqueue.storage.recovery`.  Reads only.
"""

from __future__ import annotations

from dataclasses import dataclass

from logqueue.errors import Corrupt
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import PAGE, SegmentHeader, decode_segment_header, footer_offset
from logqueue.storage.frame import LAG_UNKNOWN, MORE, WINDOW_BYTES, BadFrame, Scan, salt_seed
from logqueue.storage.layout import segment_name
from logqueue.storage.sweep import sweep


@dataclass(slots=True)
class Tail:
    """The newest segment: `last` and `end` of its valid records, and what follows them.

    `appendable` says that everything after `end` is zero, so that new frames may go there.
    """

    header: SegmentHeader
    last: int
    end: int
    dropped_bytes: int = 0
    torn: str = ""  # what stands there, when bytes are dropped
    appendable: bool = True

    @property
    def name(self) -> str:
        """The file's name."""
        return segment_name(self.header.base)


def open_existing(disk: Disk, path: str) -> Extent:
    """A file that must be there, to read.  Raises Corrupt, LimitExceeded."""
    try:
        return disk.open(path)
    except FileNotFoundError:
        raise Corrupt(path, 0, "the file is missing") from None


def read_header(disk: Disk, path: str, base: int, queue_id: bytes) -> SegmentHeader:
    """The header of a segment file, checked against what its name and place claim.

    Raises Corrupt, NewerFormat, LimitExceeded.
    """
    extent = open_existing(disk, path)
    try:
        extent.read_no_further()
        header = decode_segment_header(path, extent.read(0, PAGE))
        size = extent.size
    finally:
        extent.close()
    if header.queue_id != queue_id:
        raise Corrupt(path, 0, "this is a segment of another queue")
    if header.base != base:
        raise Corrupt(path, 0, f"this is a copy of the segment {header.base}")
    if header.size != size:
        raise Corrupt(path, size, f"the file must have {header.size} bytes")
    return header


def scan_tail(
    extent: Extent, header: SegmentHeader, last: int, start: int, durable: int, notes: list[str]
) -> Tail:
    """Find the end of a segment's records, from offset `start` on, behind the record `last`.

    Everything up to `durable` was acknowledged: raises Corrupt when it, or what the frames behind
    a bad one prove to have been, is not there.  A tear is told in `notes`.  The file is synced and
    dropped from the cache first.  Raises StorageFailed.
    """
    extent.sync()
    extent.drop_cache(0)
    scan = Scan(extent.read, start, footer_offset(header.size), salt_seed(header.salt))
    whole = Tail(header, last, start)  # as far as no batch is cut short
    for frame in scan:
        if frame.sequence != last + 1:
            scan.stop = BadFrame(frame.offset, f"sequence {frame.sequence} stands here")
            break
        last = frame.sequence
        if not frame.flags & MORE:
            whole.last, whole.end = last, frame.end
    reason = scan.stop.reason if scan.stop else "the segment is full"
    if whole.last < last:
        reason = f"the batch that begins here is cut short at {scan.offset}: {reason}"
    tail = _judge(extent, whole, reason, durable, notes)
    # Read-ahead past the tail builds large folios there: see MmapExtent.
    extent.drop_cache(tail.end)
    return tail


def _judge(extent: Extent, tail: Tail, reason: str, durable: int, notes: list[str]) -> Tail:
    """Tell a tear from damage at the tail's end (R1, R2), and whether frames may go there."""
    limit = footer_offset(extent.size)
    end, proved = behind(extent, tail.end, limit, salt_seed(tail.header.salt))
    durable = max(durable, proved)
    if tail.last < durable:
        acknowledged = f"{reason}, but records up to {durable} were acknowledged"
        raise Corrupt(extent.path, tail.end, acknowledged, tail.last + 1)
    if end > tail.end:
        tail.dropped_bytes, tail.torn = end - tail.end, reason
        notes.append(
            f"{extent.path}: offset {tail.end}: torn tail ({reason}), "
            f"{tail.dropped_bytes} bytes that were never acknowledged are dropped"
        )
    footer = extent.read(limit, extent.size - limit)
    tail.appendable = end == tail.end and footer.count(0) == len(footer)
    return tail


_ZEROS = bytes(WINDOW_BYTES)


def behind(extent: Extent, start: int, limit: int, seed: int) -> tuple[int, int]:
    """Look at everything between the tail's end and `limit`.

    Returns the offset after the last byte that is not zero (`start` when there is none), and the
    highest sequence that valid frames there prove to have been durable.
    """
    end, durable = reach(extent, start, limit), 0
    for frame in sweep(extent.read, start, limit, seed, end):
        if frame.lag != LAG_UNKNOWN:
            durable = max(durable, frame.sequence - frame.lag)
    return end, durable


def reach(extent: Extent, start: int, limit: int) -> int:
    """The offset after the last byte before `limit` that is not zero; `start` if all are."""
    found, end = start, start
    while True:
        offset, end = extent.next_data(end)
        if offset >= limit:
            return found
        end = min(end, offset + WINDOW_BYTES, limit)
        window = extent.read(offset, end - offset)
        if window != _ZEROS[: len(window)]:
            found = offset + len(window.rstrip(b"\0"))
