"""The segments of one queue together: what each must end with, what is missing between them.

A segment's successor says what it ended with, so a segment is judged by the header behind it; the
newest one, the tail, by the cursor's durable mark and by recovery's own rules (`scan_tail`).
"""

from __future__ import annotations

import contextlib
import os
from itertools import pairwise

from logqueue.errors import Corrupt
from logqueue.fsck.finding import Kind
from logqueue.fsck.segmentfile import SegmentFile
from logqueue.fsck.segments import (
    Progress,
    examine_sealed,
    report_hole,
    walk,
)
from logqueue.fsck.survey import Survey
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import FRAMES_OFFSET, Ended, repaired_links
from logqueue.storage.frame import FRAME_BYTES, LAG_UNKNOWN, Scan
from logqueue.storage.layout import CURSOR, segment_name
from logqueue.storage.tail import open_existing, scan_tail


def examine_chain(
    disk: Disk, found: Survey, *, online: bool, thorough: bool, progress: Progress
) -> None:
    """Check every segment of `found`, and what must stand between them."""
    previous = _previous(found)
    _set_stale_aside(found, previous)
    claims = {ended.base: ended for ended in previous.values()}
    bases = sorted({segment.base for segment in found.segments})
    following = dict(pairwise(bases))
    for segment in found.segments[:-1]:
        before = following.get(segment.base)
        if segment.seed is not None:
            claim = claims.get(segment.base)
            examine_sealed(disk, segment, claim, before, thorough, progress)
        elif before:
            text = "no record of it can be told from noise"
            place = {"first": segment.base, "last": before - 1}
            segment.report(Kind.MID_DAMAGE, FRAMES_OFFSET, text, **place)
    _examine_tail(disk, found, found.segments[-1], online, progress)
    _report_gaps(found, previous)
    _check_position(disk, found)


def _previous(found: Survey) -> dict[int, Ended]:
    """What stands before each sound segment, by its base."""
    links = repaired_links(found.meta) if found.meta else {}
    sound = [segment.header for segment in found.segments if segment.header]
    return {header.base: links.get(header.base, header.previous) for header in sound}


def _set_stale_aside(found: Survey, previous: dict[int, Ended]) -> None:
    """Take out what was consumed and removed once: all below the newest segment whose predecessor
    is rightly gone."""
    bases = {segment.base for segment in found.segments}
    for at in range(len(found.segments) - 1, 0, -1):
        before = previous.get(found.segments[at].base)
        if before and before.base not in bases and before.last <= found.consumed:
            for segment in found.segments[:at]:
                name = os.path.basename(segment.path)
                found.report(Kind.STALE_SEGMENT, name, 0, "consumed long ago", size=segment.size)
                found.findings += segment.findings
            del found.segments[:at]
            return


def _report_gaps(found: Survey, previous: dict[int, Ended]) -> None:
    """Report the records of segments that are missing as a whole."""
    known = found.consumed if found.checkpoint else 0
    last_base = 0
    for segment in found.segments:
        before = previous.get(segment.base)
        missing = before.last if before and before.base != last_base else 0
        if missing > known:
            text = "the segment is missing"
            name = segment_name(before.base if before else known + 1)
            found.report(Kind.GAP, name, 0, text, first=known + 1, last=missing)
        known, last_base = max(known, segment.last), segment.base
    tail, checkpoint = found.segments[-1], found.checkpoint
    if checkpoint and checkpoint.durable_base > tail.base and checkpoint.durable > known:
        text = "the newest segment is missing"
        name = segment_name(checkpoint.durable_base)
        found.report(Kind.GAP, name, 0, text, first=known + 1, last=checkpoint.durable)
    elif checkpoint and checkpoint.durable_base > tail.base:
        found.report(Kind.GAP, segment_name(checkpoint.durable_base), 0, "the segment is missing")


def _examine_tail(
    disk: Disk, found: Survey, tail: SegmentFile, online: bool, progress: Progress
) -> None:
    if tail.seed is None:
        known = found.checkpoint.durable if found.checkpoint else 0
        place = {"first": tail.base, "last": known} if known >= tail.base else {}
        text = "no record of it can be told from noise"
        tail.report(Kind.MID_DAMAGE, FRAMES_OFFSET, text, **place)
        return
    with contextlib.closing(open_existing(disk, tail.path)) as extent:
        if online:
            _walk_to_mark(extent, found, tail, progress)
        elif tail.header is None or extent.size != tail.header.size:
            _walk_damaged(extent, found, tail, progress)
        else:
            _judge_tail(extent, found, tail, progress)


def _durable(found: Survey, tail: SegmentFile) -> int:
    """The newest record that must be in the tail or before it."""
    checkpoint = found.checkpoint
    return checkpoint.durable if checkpoint and checkpoint.durable_base <= tail.base else 0


def _judge_tail(extent: Extent, found: Survey, tail: SegmentFile, progress: Progress) -> None:
    header = tail.header
    assert header is not None
    durable = _durable(found, tail)
    try:
        end = scan_tail(extent, header, header.base - 1, FRAMES_OFFSET, durable, [])
    except Corrupt as error:
        _walk_damaged(extent, found, tail, progress)
        if not tail.findings:
            tail.report(Kind.MID_DAMAGE, error.offset, error.reason)
        return
    for _ in walk(extent, tail, end.end, None, progress):
        pass
    tail.intact = not tail.findings
    tail.ended = Ended(header.base, end.last, end.end, 0)
    if end.dropped_bytes:
        tail.report(Kind.TORN_TAIL, end.end, end.torn, size=end.dropped_bytes)


def _walk_damaged(extent: Extent, found: Survey, tail: SegmentFile, progress: Progress) -> None:
    """Find every record of a tail that recovery refuses, or that is not sound as a file."""
    durable, end = _durable(found, tail), FRAMES_OFFSET
    for frame in walk(extent, tail, min(tail.limit, extent.size), None, progress):
        end = frame.end
        if frame.lag != LAG_UNKNOWN:
            durable = max(durable, frame.sequence - frame.lag)
    checkpoint = found.checkpoint
    if checkpoint and checkpoint.durable_base == tail.base:
        end = max(end, checkpoint.durable_offset)
    report_hole(extent, tail, end, durable)


def _walk_to_mark(extent: Extent, found: Survey, tail: SegmentFile, progress: Progress) -> None:
    """A daemon is at work behind the durable mark: what lies before it must be there."""
    checkpoint = found.checkpoint
    if checkpoint and checkpoint.durable_base == tail.base:
        for _ in walk(extent, tail, checkpoint.durable_offset, None, progress):
            pass
        report_hole(extent, tail, checkpoint.durable_offset, checkpoint.durable)


def _check_position(disk: Disk, found: Survey) -> None:
    """The cursor's place must be that of the record behind the consumed one, and the durable mark
    must be where its record ends."""
    checkpoint = found.checkpoint
    if checkpoint is None:
        return
    holder = next((each for each in found.segments if each.base == checkpoint.base), None)
    sequence = checkpoint.consumed + 1
    if (
        holder is not None
        and checkpoint.consumed == found.consumed
        and any(piece.first <= sequence <= piece.last for piece in holder.pieces)
        and not _stands(disk, holder, checkpoint.offset, sequence)
    ):
        text = f"record {sequence} does not stand at offset {checkpoint.offset} of {holder.path}"
        found.report(Kind.CURSOR_POSITION, CURSOR, 0, text, first=sequence, last=sequence)
    tail = found.segments[-1]
    if tail.intact and checkpoint.durable_base == tail.base and checkpoint.durable < tail.last:
        sequence = checkpoint.durable + 1
        if not _stands(disk, tail, checkpoint.durable_offset, sequence):
            text = f"record {sequence} does not stand at the durable mark"
            found.report(Kind.CURSOR_POSITION, CURSOR, 0, text, first=sequence, last=sequence)


def _stands(disk: Disk, segment: SegmentFile, offset: int, sequence: int) -> bool:
    """Whether the record `sequence` stands at `offset`."""
    assert segment.seed is not None
    with contextlib.closing(open_existing(disk, segment.path)) as extent:
        scan = Scan(extent.read, offset, segment.limit, segment.seed, FRAME_BYTES)
        frame = next(scan, None)
    return frame is not None and frame.sequence == sequence
