"""A survey -> the queue as it should be.  Pure: no I/O.

Whatever is intact stays as it is.  From everything else the valid records are taken over into new
segments, wherever they were found; each record once, in the order of the sequences, which they
keep.  Where records are lost the sequence steps up between two segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from logqueue.fsck.finding import Kind
from logqueue.fsck.segmentfile import Piece, SegmentFile
from logqueue.fsck.survey import Survey
from logqueue.storage.format import Meta
from logqueue.storage.layout import directory_name

_OF_RECORDS = (Kind.MID_DAMAGE, Kind.ZERO_TAIL, Kind.GAP)  # findings that name lost records


class Part(NamedTuple):
    """Records `first` to `last`: an intact segment as it is, or a piece to be written anew."""

    first: int
    last: int
    source: SegmentFile | Piece


@dataclass(frozen=True, slots=True)
class Plan:
    """One queue as it should be.

    `tail` is the intact segment that stays the active one; None when the log goes on in a new
    segment with `next_sequence`.  `consumed` is where the cursor must stand.
    """

    survey: Survey
    directory: str
    meta: Meta
    parts: list[Part]
    tail: SegmentFile | None
    next_sequence: int
    consumed: int
    cursor_stays: bool
    apart: bool  # for another data directory: no file is shared with the old one

    @property
    def records(self) -> int:
        """How many records the queue will hold, consumed ones included."""
        kept = sum(part.last - part.first + 1 for part in self.parts)
        return kept + (self.tail.last - self.tail.base + 1 if self.tail else 0)

    @property
    def lost(self) -> list[tuple[int, int]]:
        """The stretches of records that were acknowledged, not consumed, and are nowhere."""
        behind = self.tail.base if self.tail and self.tail.pieces else self.next_sequence
        there = sorted({(first, last) for first, last, _ in self.parts})
        gone: list[tuple[int, int]] = []
        for finding in sorted(self.survey.findings, key=lambda each: each.first):
            if finding.kind in _OF_RECORDS and finding.first:
                first = max(finding.first, self.survey.consumed + 1, gone[-1][1] + 1 if gone else 0)
                gone += _uncovered(first, min(finding.last, behind - 1), there)
        return gone


def plan(survey: Survey, strays: Iterable[SegmentFile] = (), *, apart: bool = False) -> Plan:
    """The plan for one queue.  `strays` are its segments that lie in other queues' directories.

    `apart`: for another data directory, so every record is written anew.
    """
    assert survey.meta is not None
    segments = [*survey.segments, *strays]
    tail: SegmentFile | None = survey.segments[-1] if survey.segments else None
    newest = max(segments, key=lambda each: (each.base, each is tail), default=None)
    intact: list[SegmentFile] = []
    if not apart:
        intact = [each for each in segments if each.intact and each.pieces and each is not tail]
    pieces = [piece for each in segments for piece in each.pieces]
    if apart or tail is None or newest is not tail or not _goes_on(survey, tail):
        tail = None
    else:  # what a copy of it has behind its end was never acknowledged
        pieces = [piece for piece in pieces if piece.first < tail.base]
    parts = _parts(intact, pieces)
    next_sequence = _next_sequence(survey, parts)
    consumed = _consumed(survey, parts, tail, next_sequence)
    checkpoint = survey.checkpoint
    return Plan(
        survey,
        directory_name(survey.meta.name),
        survey.meta,
        parts,
        tail,
        next_sequence,
        consumed,
        apart=apart,
        cursor_stays=tail is not None
        and survey.cursor_sound
        and survey.acks_sound  # the cursor says that there is an acknowledgement log
        and checkpoint is not None
        and checkpoint.consumed == consumed
        and all(isinstance(part.source, SegmentFile) for part in parts)
        and not any(each.kind is Kind.CURSOR_POSITION for each in survey.findings),
    )


def _goes_on(survey: Survey, tail: SegmentFile) -> bool:
    """Whether the newest segment is sound and nothing behind it was ever acknowledged."""
    mark = survey.checkpoint
    return tail.intact and (
        mark is None or (mark.durable <= tail.last and mark.durable_base <= tail.base)
    )


def _parts(intact: list[SegmentFile], pieces: list[Piece]) -> list[Part]:
    parts: list[Part] = []
    for segment in intact:
        if not parts or segment.base > parts[-1].last:
            parts.append(Part(segment.base, segment.last, segment))
    for piece in sorted(pieces, key=lambda each: (each.first, -each.last)):
        there = [(part.first, part.last) for part in parts]
        fresh = _uncovered(piece.first, piece.last, there)
        parts += [Part(first, last, piece) for first, last in fresh]
        parts.sort()
    return parts


def _uncovered(
    first: int, last: int, stretches: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """What of `first` to `last` is in none of the `stretches`, which are in order."""
    for begin, end in stretches:
        if end < first:
            continue
        if begin > last:
            break
        if first < begin:
            yield first, begin - 1
        first = end + 1
    if first <= last:
        yield first, last


def _next_sequence(survey: Survey, parts: list[Part]) -> int:
    """Past every sequence that is known to have been given out."""
    known = [survey.consumed, survey.frontier, *(part.last for part in parts)]
    if survey.checkpoint:
        known.append(survey.checkpoint.durable)
    for segment in survey.segments:
        known.append(segment.base - 1)
        if segment.header:
            known.append(segment.header.previous.last)
    known += [finding.last for finding in survey.findings]
    return max(known) + 1


def _consumed(
    survey: Survey, parts: list[Part], tail: SegmentFile | None, next_sequence: int
) -> int:
    """Never less than what is known to be consumed, and no gap ahead of the first record left."""
    consumed = survey.consumed
    stretches = [(part.first, part.last) for part in parts]
    if tail and tail.pieces:
        stretches.append((tail.base, tail.last))
    for first, last in stretches:
        if last > consumed:
            return max(consumed, first - 1)
    return max(consumed, tail.last if tail else next_sequence - 1)
