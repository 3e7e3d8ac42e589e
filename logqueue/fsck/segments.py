"""Checking one segment file: which records are in it, and what is wrong with it.

A complete segment is proved in bulk: when the CRC over all its bytes is the one that its successor
(or its own footer) names, every byte is the one that was sealed, and nothing needs to be decoded.
Where that fails, or when every record is asked for, its frames are swept one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from crc32c import crc32c

from logqueue.errors import Corrupt, LogqueueError
from logqueue.fsck.finding import Kind
from logqueue.fsck.segmentfile import Piece, SegmentFile, patient
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    FRAMES_OFFSET,
    INDEX_STRIDE,
    Ended,
    Footer,
    decode_footer,
)
from logqueue.storage.frame import FRAME_BYTES, Frame
from logqueue.storage.sweep import sweep
from logqueue.storage.tail import open_existing, reach

_BLOCK_BYTES = 512 << 10  # what the bulk check reads at a time: it stays in the core's cache

Progress = Callable[[int], None]  # is told how many bytes have been checked


def _quiet(_: int) -> None:
    pass


def examine_sealed(
    disk: Disk,
    segment: SegmentFile,
    claim: Ended | None,
    before: int | None,
    thorough: bool,
    progress: Progress,
) -> None:
    """Check a complete segment and fill in what is known of it.

    `claim` is what its successor says that it ended with; `before` the base of the next segment:
    records from there on were dropped as torn once, and their sequences given out again.
    """
    assert segment.seed is not None
    with contextlib.closing(open_existing(disk, segment.path)) as extent:
        footer = _read_footer(extent, segment)
        own = footer.ended if footer and footer.ended.base == segment.base else None
        claim = claim or own
        if segment.header is None or extent.size != segment.header.size:
            _sweep(extent, segment, claim, before, progress)
            return
        proved = claim is not None and _crc_holds(extent, claim, progress)
        if claim and proved and not thorough:
            _whole(segment, claim)
        else:
            index = _sweep(extent, segment, claim, before, _quiet if proved else progress)
            segment.intact = proved and not segment.findings
            if not proved and claim and not segment.findings:
                text = "the CRC over the whole segment does not hold, though every record's does"
                segment.report(Kind.PADDING, 0, text, size=claim.end)
            if footer and footer.entries != index and segment.intact:
                segment.footer_sound = False
                text = "its index names places where no such record begins"
                segment.report(Kind.FOOTER_STALE, segment.limit, text)
        segment.ended = claim
        _judge_footer(segment, footer, claim)


def _whole(segment: SegmentFile, ended: Ended) -> None:
    assert segment.seed is not None
    segment.intact = True
    if ended.last >= ended.base:
        place = (segment.path, segment.seed, segment.limit, FRAMES_OFFSET, ended.end)
        segment.pieces = [Piece(*place, ended.base, ended.last)]


def _read_footer(extent: Extent, segment: SegmentFile) -> Footer | None:
    assert segment.seed is not None
    limit = segment.limit
    if limit < FRAMES_OFFSET:
        return None
    try:
        data = extent.read(limit, max(0, extent.size - limit))
        return decode_footer(segment.path, limit, data, segment.seed)
    except LogqueueError:
        return None


def _judge_footer(segment: SegmentFile, footer: Footer | None, claim: Ended | None) -> None:
    if not segment.intact:
        return  # it is replaced as a whole
    if footer is None:
        segment.footer_sound = False
        segment.report(Kind.FOOTER_BAD, segment.limit, "no footer can be read here")
    elif footer.ended != claim:
        segment.footer_sound = False
        text = f"the footer says {footer.ended}, the segment is {claim}"
        segment.report(Kind.FOOTER_STALE, segment.limit, text)


def _crc_holds(extent: Extent, claim: Ended, progress: Progress) -> bool:
    crc = 0
    for offset in range(0, claim.end, _BLOCK_BYTES):
        try:
            block = extent.read(offset, min(_BLOCK_BYTES, claim.end - offset))
        except Corrupt:
            return False
        crc = crc32c(block, crc)
        progress(len(block))
    return crc == claim.crc


def _sweep(
    extent: Extent,
    segment: SegmentFile,
    claim: Ended | None,
    before: int | None,
    progress: Progress,
) -> list[tuple[int, int]]:
    """Walk a segment's frames; its sparse index as it should be."""
    index: list[tuple[int, int]] = []
    end = claim.end if claim else segment.limit
    for frame in walk(extent, segment, min(end, extent.size), before, progress):
        if frame.offset >= (index[-1][1] // INDEX_STRIDE + 1) * INDEX_STRIDE if index else True:
            index.append((frame.sequence, frame.offset))
    last = claim.last if claim else (before or segment.last + 1) - 1
    if claim:
        report_hole(extent, segment, claim.end, last)
    elif last > segment.last:
        text = "nothing says where the segment ended, and these are not in it"
        segment.report(Kind.GAP, segment.limit, text, first=segment.last + 1, last=last)
    return index


def walk(
    extent: Extent,
    segment: SegmentFile,
    end: int,
    before: int | None,
    progress: Progress,
) -> Iterator[Frame]:
    """Every valid record of a segment up to offset `end`, in order; `segment.pieces` grows by it.

    What lies between valid records is reported, and so is padding that is not zero.
    """
    assert segment.seed is not None
    seed, limit = segment.seed, max(segment.limit, end)
    for frame in sweep(patient(extent, segment), FRAMES_OFFSET, limit, seed, end):
        progress(frame.end - frame.offset)
        if frame.sequence <= segment.last or (before is not None and frame.sequence >= before):
            continue  # never an acknowledged record: sequences only rise
        _check_padding(extent, segment, frame)
        pieces = segment.pieces
        begun = pieces[-1].end if pieces else FRAMES_OFFSET
        if frame.offset == begun and frame.sequence == segment.last + 1 and pieces:
            pieces[-1] = pieces[-1]._replace(end=frame.end, last=frame.sequence)
        else:
            report_hole(extent, segment, frame.offset, frame.sequence - 1)
            place = (segment.path, seed, limit, frame.offset, frame.end)
            pieces.append(Piece(*place, frame.sequence, frame.sequence))
        yield frame


def report_hole(extent: Extent, segment: SegmentFile, end: int, last: int) -> None:
    """Report what is wrong between the records known so far and `end`, where `last` + 1 stands."""
    begin = segment.pieces[-1].end if segment.pieces else FRAMES_OFFSET
    if begin >= end and last <= segment.last:
        return
    zeros = begin < end and _all_zero(extent, begin, min(end, extent.size))
    place = {"first": segment.last + 1, "last": last} if last > segment.last else {}
    text = "zeros" if zeros else "no valid record begins here" if begin < end else "nothing is here"
    kind = Kind.ZERO_TAIL if zeros and place else Kind.MID_DAMAGE if place else Kind.PADDING
    segment.report(kind, begin, f"{text} up to offset {end}", size=max(0, end - begin), **place)


def _all_zero(extent: Extent, begin: int, end: int) -> bool:
    try:
        return reach(extent, begin, end) == begin
    except Corrupt:
        return False


def _check_padding(extent: Extent, segment: SegmentFile, frame: Frame) -> None:
    content = frame.offset + FRAME_BYTES + len(frame.payload)
    if content < frame.end and any(extent.read(content, frame.end - content)):
        place = {"first": frame.sequence, "last": frame.sequence, "size": frame.end - content}
        segment.report(Kind.PADDING, content, "the padding behind a record is not zero", **place)
