"""One segment file: what is known of it, and how its records are found when its header is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from logqueue.errors import Corrupt
from logqueue.fsck.finding import Finding, Kind
from logqueue.fsck.seed import seed_of, start_of
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    FOOTER,
    FOOTER_BYTES,
    FRAMES_OFFSET,
    INDEX_ENTRY_BYTES,
    PAGE,
    SEGMENT,
    SEGMENT_BYTES,
    Ended,
    SegmentHeader,
    decode_segment_header,
    footer_offset,
)
from logqueue.storage.frame import FRAME, FRAME_BYTES, Read, salt_seed
from logqueue.storage.layout import segment_name
from logqueue.storage.sweep import sweep
from logqueue.storage.tail import open_existing

_CRC_AT = 12  # of the footer
MENDED_FRAME_MAX = 64 << 20  # the largest first frame that a lost salt is computed from


class Piece(NamedTuple):
    """Valid records that follow each other without a gap, in one file."""

    path: str
    seed: int
    limit: int
    offset: int
    end: int
    first: int
    last: int


@dataclass(slots=True)
class SegmentFile:
    """What is known of one file.  `intact`: it may stay as it is, and ends as `ended` says."""

    queue: str
    path: str
    base: int
    queue_id: bytes | None  # of the queue that it belongs to
    size: int = 0
    header: SegmentHeader | None = None  # None when the file is not a sound segment of its queue
    seed: int | None = None
    pieces: list[Piece] = field(default_factory=list)
    ended: Ended | None = None
    intact: bool = False
    footer_sound: bool = True
    findings: list[Finding] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The newest record that is there; base - 1 when none is."""
        return self.pieces[-1].last if self.pieces else self.base - 1

    @property
    def limit(self) -> int:
        """Where frames must have ended."""
        return footer_offset(self.header.size if self.header else self.size)

    def report(self, kind: Kind, offset: int, text: str, **place: int) -> None:
        """Note a finding in this file."""
        self.findings.append(Finding(kind, self.queue, self.path, offset, text, **place))


def patient(extent: Extent, segment: SegmentFile | None = None) -> Read:
    """Reads like `extent.read`, with zeros for the pages that the disk does not give back; they
    are reported of `segment`."""

    def page(offset: int, length: int) -> bytes:
        try:
            return extent.read(offset, length)
        except Corrupt as error:
            if segment is not None:
                _report_unreadable(segment, offset, length, error.reason)
            return bytes(length)

    def read(offset: int, length: int) -> bytes:
        try:
            return extent.read(offset, length)
        except Corrupt:
            stop = offset + max(0, min(length, extent.size - offset))
            # Page by page, so that no readable one is lost with its neighbour.
            edges = [offset, *range((offset & -PAGE) + PAGE, stop, PAGE), stop]
            return b"".join(page(begin, end - begin) for begin, end in pairwise(edges))

    return read


def _report_unreadable(segment: SegmentFile, offset: int, length: int, reason: str) -> None:
    finding = Finding(Kind.UNREADABLE, segment.queue, segment.path, offset, reason, size=length)
    if finding not in segment.findings:
        segment.findings.append(finding)


def load(
    disk: Disk, queue: str, path: str, base: int, queue_id: bytes | None, known: Set[bytes]
) -> SegmentFile:
    """The file's header, and the seed of its frames when that can be found at all.

    `base` is what its name claims; `known` are the ids of all queues: a damaged header is believed
    when it has one of them.  Raises NewerFormat.
    """
    segment = SegmentFile(queue, path, base, queue_id)
    with contextlib.closing(open_existing(disk, path)) as extent:
        segment.size = extent.size
        page = extent.read(0, PAGE)
        try:
            header = decode_segment_header(path, page)
        except Corrupt as error:
            said_id, said_base = _raw(page)
            segment.seed, segment.base = _lost_seed(extent, (base, said_base))
            found = "its records can still be read"
            if segment.seed is None:
                found = "its key is lost with it"
            segment.report(Kind.HEADER_BAD, error.offset, f"{error.reason}; {found}", size=PAGE)
            if said_id in known and said_id != queue_id:
                _report_foreign(segment, said_id)
            return segment
    segment.seed = salt_seed(header.salt)
    segment.base = header.base
    if header.queue_id != queue_id:
        _report_foreign(segment, header.queue_id)
    elif header.base != base:
        name = segment_name(header.base)
        segment.report(Kind.DUPLICATE_SEGMENT, 0, f"its header says {name}", size=extent.size)
    else:
        segment.header = header
        if header.size != extent.size:
            text = f"{extent.size} bytes, and must have {header.size}"
            segment.report(Kind.SIZE_BAD, min(extent.size, header.size), text)
    return segment


def _report_foreign(segment: SegmentFile, queue_id: bytes) -> None:
    segment.queue_id = queue_id
    segment.report(Kind.FOREIGN_SEGMENT, 0, f"queue id {queue_id.hex()}", size=segment.size)


def _raw(page: bytes) -> tuple[bytes, int]:
    """The queue id and the base that a damaged header page has."""
    if len(page) < SEGMENT_BYTES:
        return b"", 0
    _, _, _, queue_id, base, *_ = SEGMENT.unpack_from(page)
    return queue_id, base


def _lost_seed(extent: Extent, bases: tuple[int, ...]) -> tuple[int | None, int]:
    """The seed of a segment without a header, and its base, which is probably the first of
    `bases`: from its first frame, else from its footer."""
    head = extent.read(FRAMES_OFFSET, FRAME_BYTES)
    if len(head) == FRAME_BYTES:
        length = FRAME.unpack(head)[1]
        if length <= min(extent.size, MENDED_FRAME_MAX):
            frame = extent.read(FRAMES_OFFSET, FRAME_BYTES + length + 8)
            for base in bases:
                seed = seed_of(frame, FRAMES_OFFSET, base, extent.size)
                if seed is not None:
                    return seed, base
    if extent.size < FRAMES_OFFSET + PAGE:
        return None, bases[0]
    area = footer_offset(extent.size)
    data = extent.read(area, extent.size - area)
    if len(data) < FOOTER_BYTES:
        return None, bases[0]
    _, _, crc, base, _, _, _, count, _ = FOOTER.unpack_from(data)
    data = data[: FOOTER_BYTES + count * INDEX_ENTRY_BYTES]
    seed = start_of(crc, data[:_CRC_AT] + bytes(4) + data[_CRC_AT + 4 :])
    proof = next(sweep(extent.read, FRAMES_OFFSET, area, seed), None)
    return (seed, base) if proof is not None and proof.sequence >= base else (None, bases[0])
