"""A plan -> a new queue directory, durable when it is done.  Nothing that exists is touched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from logqueue.fsck.plan import Plan
from logqueue.fsck.segmentfile import Piece, SegmentFile, patient
from logqueue.fsck.survey import is_acks
from logqueue.storage.clock import clock_ms
from logqueue.storage.cursor import Cursor
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    NOTHING_BEFORE,
    SEGMENT_BYTES_MIN,
    Checkpoint,
    Ended,
    Footer,
    SegmentHeader,
    encode_footer,
    encode_meta,
    footer_offset,
    repaired_links,
    segment_size_for,
    with_repaired_links,
)
from logqueue.storage.frame import MORE, Frame, Scan
from logqueue.storage.layout import CURSOR, META, SPARE, segment_name
from logqueue.storage.reader import Reader, build_index
from logqueue.storage.recovery import queue_seed
from logqueue.storage.segment import Segment, new_salt
from logqueue.storage.tail import open_existing

SEGMENT_BYTES_MAX = 64 << 20  # the daemon's default
_BLOCK_BYTES = 4 << 20


class Writer:
    """Writes records in the order of their sequences, as a chain of segments behind `previous`.

    A step in the sequences starts a new segment.  Raises DiskFull, StorageFailed.
    """

    def __init__(self, disk: Disk, directory: str, queue_id: bytes, previous: Ended) -> None:
        self.previous = previous  # what the next segment will stand behind
        self._disk = disk
        self._directory = directory
        self._queue_id = queue_id
        self._active: Segment | None = None
        self._timestamp = 0

    def put(self, frame: Frame) -> None:
        """Write one record; its batch mark goes, for a batch counts until it is durable."""
        active = self._active
        length = len(frame.payload)
        if active is None or active.last + 1 != frame.sequence or not active.fits(length):
            grown = active is not None and active.last + 1 == frame.sequence
            size = min(active.header.size * 2, SEGMENT_BYTES_MAX) if active and grown else 0
            active = self.start(frame.sequence, length, size, frame.timestamp)
        self._timestamp = frame.timestamp
        active.append(frame.payload, frame.timestamp, 0, frame.flags & ~MORE)

    def start(
        self, base: int, length: int = 0, size: int = 0, created: int | None = None
    ) -> Segment:
        """Seal what there is, and start the segment `base`, with room for a payload of `length`."""
        self.seal()
        size = segment_size_for(length, max(size, SEGMENT_BYTES_MIN))
        header = SegmentHeader(
            self._queue_id,
            base,
            new_salt(),
            size,
            clock_ms() if created is None else created,
            self.previous,
        )
        extent = self._disk.create(os.path.join(self._directory, SPARE), size)
        self._active = Segment.publish(self._disk, self._directory, extent, header)
        return self._active

    def seal(self) -> None:
        """Complete the segment that is being written, if there is one."""
        active, self._active = self._active, None
        if active is not None:
            try:
                self.previous = active.seal(self._timestamp)
            finally:
                active.extent.close()

    def close(self) -> None:
        """Give the file back that is being written."""
        if self._active is not None:
            self._active.extent.close()


def build(disk: Disk, directory: str, plan: Plan) -> list[str]:
    """Make `directory` with the queue that `plan` describes; the names of the files in it that
    are the old ones, by a hard link.

    Raises DiskFull, StorageFailed, LimitExceeded, and OSError when a link cannot be made.
    """
    disk.make_directory(directory)
    if plan.apart:
        kept: list[str] = []
        _copy_acks(disk, directory, plan)
    else:
        kept = [name for name in plan.survey.carried if _link(plan, name, directory)]
    links: dict[int, Ended] = {}
    writer = Writer(disk, directory, plan.meta.queue_id, NOTHING_BEFORE)
    with contextlib.closing(writer):
        for part in plan.parts:
            if isinstance(part.source, Piece):
                for frame in records(disk, part.source, part.first, part.last):
                    writer.put(frame)
            else:
                kept += _keep(disk, directory, plan, part.source, writer, links)
        end = _finish_log(directory, plan, writer, links, kept)
    _write_meta(disk, directory, plan, links, kept)
    if plan.cursor_stays:
        kept += [CURSOR] if _link(plan, CURSOR, directory) else []
    else:
        _write_cursor(disk, directory, plan, end)
    disk.sync_directory(directory)
    return kept


def records(disk: Disk, piece: Piece, first: int, last: int) -> Iterator[Frame]:
    """The records `first` to `last` of a piece, past pages that the disk does not give back."""
    with contextlib.closing(open_existing(disk, piece.path)) as extent:
        for frame in Scan(patient(extent), piece.offset, piece.limit, piece.seed):
            if frame.sequence >= first:
                yield frame
            if frame.sequence >= last:
                return


def _link(plan: Plan, name: str, directory: str) -> bool:
    """Give an old file a second name in the new directory; not what is no plain file."""
    source = os.path.join(plan.survey.directory, name)
    if not os.path.isfile(source) or os.path.islink(source):
        return False
    os.link(source, os.path.join(directory, name))
    return True


def _keep(
    disk: Disk,
    directory: str,
    plan: Plan,
    segment: SegmentFile,
    writer: Writer,
    links: dict[int, Ended],
) -> list[str]:
    """Take a complete segment over, and note what stands before it now; the names of old files."""
    assert segment.ended is not None
    writer.seal()
    _note_link(plan, segment, writer.previous, links)
    writer.previous = segment.ended
    if segment.footer_sound:
        name = segment_name(segment.base)
        os.link(segment.path, os.path.join(directory, name))
        return [name]
    _copy_with_footer(disk, directory, segment)
    return []


def _note_link(plan: Plan, segment: SegmentFile, before: Ended, links: dict[int, Ended]) -> None:
    """A segment's header says what stood before it; note where that is not so any more."""
    assert segment.header is not None
    said = repaired_links(plan.meta).get(segment.base, segment.header.previous)
    gone = before == NOTHING_BEFORE and said.last <= plan.consumed  # consumed and removed
    if gone:
        before = said
    if before != segment.header.previous:
        links[segment.base] = before


def _finish_log(
    directory: str, plan: Plan, writer: Writer, links: dict[int, Ended], kept: list[str]
) -> tuple[int, int, int]:
    """The active segment: its last sequence, base and end."""
    tail = plan.tail
    if tail is None:
        active = writer.start(plan.next_sequence)
        return active.last, active.base, active.end
    writer.seal()
    _note_link(plan, tail, writer.previous, links)
    assert tail.ended is not None
    name = segment_name(tail.base)
    os.link(tail.path, os.path.join(directory, name))
    kept.append(name)
    return tail.last, tail.base, tail.ended.end


def _copy_with_footer(disk: Disk, directory: str, segment: SegmentFile) -> None:
    """A complete segment with a footer as it should be."""
    ended, seed = segment.ended, segment.seed
    assert ended is not None
    assert seed is not None
    path = os.path.join(directory, segment_name(segment.base))
    with contextlib.closing(open_existing(disk, segment.path)) as old:
        index = build_index(Reader(old, seed, ended.end))
        with contextlib.closing(disk.create(path, segment.size)) as new:
            _copy(old, new, ended.end)
            footer = encode_footer(Footer(ended, clock_ms(), index), seed)
            new.write(footer_offset(segment.size), footer)
            new.sync()


def _copy(old: Extent, new: Extent, end: int) -> None:
    for offset in range(0, end, _BLOCK_BYTES):
        new.write(offset, old.read(offset, min(_BLOCK_BYTES, end - offset)))


def _copy_acks(disk: Disk, directory: str, plan: Plan) -> None:
    """The acknowledgement log names records by their sequences, so it holds in the new queue."""
    for name in filter(is_acks, plan.survey.carried):
        path = os.path.join(plan.survey.directory, name)
        with (
            contextlib.closing(open_existing(disk, path)) as old,
            contextlib.closing(disk.create(os.path.join(directory, name), old.size)) as new,
        ):
            _copy(old, new, old.size)
            new.sync()


def _write_meta(
    disk: Disk, directory: str, plan: Plan, links: dict[int, Ended], kept: list[str]
) -> None:
    meta = with_repaired_links(plan.meta, links)
    if plan.survey.meta_sound and meta == plan.meta and not plan.apart:
        kept += [META] if _link(plan, META, directory) else []
        return
    data = encode_meta(meta)
    with contextlib.closing(disk.create(os.path.join(directory, META), len(data))) as extent:
        extent.write(0, data)
        extent.sync()


def _write_cursor(disk: Disk, directory: str, plan: Plan, end: tuple[int, int, int]) -> None:
    """The cursor behind what is consumed; the daemon looks the place of the next record up."""
    old = plan.survey.checkpoint
    generation = old.generation + 1 if old else 1
    last, base, offset = end
    checkpoint = Checkpoint(generation, 0, plan.consumed, 0, 0, last, base, offset)
    Cursor.create(disk, directory, queue_seed(plan.meta.queue_id), checkpoint).close(clean=False)
