"""Segments as one sequence space: append, read, roll, drop_before.

Sequences are dense inside a segment.  Between two segments there may be a step up (a reset, or
records that a power cut took under a weaker durability), never one down: the base of a new
segment lies past every sequence that was ever given out.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from logqueue.errors import Corrupt, LogqueueError
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    FRAMES_OFFSET,
    NOTHING_BEFORE,
    PAGE,
    SEGMENT_BYTES_MIN,
    Ended,
    SegmentHeader,
    decode_segment_header,
    segment_size_for,
)
from logqueue.storage.frame import LAG_UNKNOWN, BadFrame, Frame, salt_seed
from logqueue.storage.layout import SPARE, segment_name
from logqueue.storage.segment import Reader, Segment, damage, find, new_salt, stored_index


class Position(NamedTuple):
    """Where a record stands: the segment's base, and the offset in its file."""

    base: int
    offset: int


class Sealed(NamedTuple):
    """A complete segment below the active one; times in milliseconds since the epoch."""

    ended: Ended
    size: int  # bytes of the file
    sealed_at: int


class Log:
    """The records of one queue.  Not thread-safe: it has one owner at a time."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        queue_id: bytes,
        sealed: list[Sealed],
        active: Segment,
        clock: Callable[[], int],
        segment_bytes_max: int,
    ) -> None:
        self.sealed = sealed
        self.active = active
        self._disk = disk
        self._directory = directory
        self._queue_id = queue_id
        self._clock = clock
        self._segment_bytes_max = segment_bytes_max
        self._spare: Extent | None = None
        self._readers: dict[int, Reader] = {}

    @classmethod
    def create(
        cls,
        disk: Disk,
        directory: str,
        queue_id: bytes,
        clock: Callable[[], int],
        segment_bytes_max: int,
        base: int = 1,
    ) -> Log:
        """The log of a new queue: one empty segment, durable on return."""
        header = SegmentHeader(
            queue_id, base, new_salt(), SEGMENT_BYTES_MIN, clock(), NOTHING_BEFORE
        )
        extent = disk.create(os.path.join(directory, SPARE), header.size)
        active = Segment.publish(disk, directory, extent, header)
        return cls(disk, directory, queue_id, [], active, clock, segment_bytes_max)

    @property
    def first(self) -> int:
        """The oldest sequence that is still on disk."""
        return self.sealed[0].ended.base if self.sealed else self.active.base

    @property
    def last(self) -> int:
        """The newest sequence."""
        return self.active.last

    @property
    def end(self) -> Position:
        """Where the next record goes."""
        return Position(self.active.base, self.active.end)

    def fits(self, length: int) -> bool:
        """Whether a payload of `length` bytes goes in without a roll."""
        return self.active.fits(length)

    def append(self, payload: bytes, durable: int, flags: int = 0) -> int:
        """Store one record and give it the next sequence; rolls first when it does not fit.

        `durable` is the newest sequence known to be synced.  Raises DiskFull or LimitExceeded,
        and then nothing was stored.
        """
        if not self.active.fits(len(payload)):
            self.roll(len(payload))
        lag = self.active.last + 1 - durable
        return self.active.append(payload, self._clock(), min(lag, LAG_UNKNOWN), flags)

    def read(self, sequence: int, hint: Position) -> tuple[Frame, Position]:
        """The record `sequence` and the position after it; `hint` is where it probably stands.

        Raises Corrupt when what stands there is not the record that was written.
        """
        base, offset = hint
        if base == self.active.base and sequence > base:
            segment: Segment | Reader = self.active
        else:
            base, offset, segment = self._locate(sequence, hint)
        try:
            frame = segment.frame(offset)
        except BadFrame as bad:
            raise damage(self._path(base), bad, sequence) from None
        if frame.sequence != sequence:
            reason = f"sequence {frame.sequence} stands here"
            raise Corrupt(self._path(base), offset, reason, sequence)
        return frame, Position(base, frame.end)

    def find(self, sequence: int) -> Position | None:
        """Where the record `sequence` stands, by the sparse index; None when it is not here."""
        at = self._segment_of(sequence)
        if at is None:
            return None
        if at == len(self.sealed):
            return Position(self.active.base, self.active.find(sequence))
        base = self.sealed[at].ended.base
        reader = self._open(self.sealed[at])
        try:
            return Position(base, find(reader, stored_index(reader), sequence))
        finally:
            reader.extent.close()

    def roll(self, length: int = 0, *, base: int | None = None, restart: bool = False) -> None:
        """Seal the active segment and start the next; it has room for `length` bytes of payload.

        `base` lets the sequence step up; `restart` starts again at the smallest size.  Room is
        allocated before anything is sealed, so DiskFull and LimitExceeded change nothing.
        """
        now = self._clock()
        wanted = min(self.active.header.size * 2, self._segment_bytes_max)
        size = segment_size_for(length, SEGMENT_BYTES_MIN if restart else wanted)
        extent = self._take_spare(size)
        try:
            ended = self.active.seal(now)
        except BaseException:
            extent.close()
            raise
        base = base or ended.last + 1
        # A segment without records is replaced by its successor, which then has the same name.
        replaced = base == ended.base
        previous = self.active.header.previous if replaced else ended
        header = SegmentHeader(self._queue_id, base, new_salt(), extent.size, now, previous)
        active = Segment.publish(self._disk, self._directory, extent, header)
        if not replaced:
            self.sealed.append(Sealed(ended, self.active.header.size, now))
        self.active.extent.close()
        self.active = active

    def prepare(self) -> None:
        """Allocate the next segment ahead of its roll.  Raises DiskFull, LimitExceeded."""
        if self._spare is None:
            size = min(self.active.header.size * 2, self._segment_bytes_max)
            self._spare = self._disk.create(os.path.join(self._directory, SPARE), size)

    def drop_before(self, sequence: int) -> int:
        """Unlink the sealed segments whose records are all below `sequence`; the bytes freed.

        The caller has made the checkpoint durable first.  Oldest first: a crash on the way leaves
        old segments behind, never a hole.
        """
        freed = 0
        while self.sealed and self.sealed[0].ended.last < sequence:
            oldest = self.sealed[0]
            self._close_reader(oldest.ended.base)
            self._disk.unlink(self._path(oldest.ended.base))
            del self.sealed[0]
            freed += oldest.size
        if freed:
            self._disk.sync_directory(self._directory)
        return freed

    def move(self, directory: str) -> None:
        """The queue's directory has been renamed, with the log open."""
        self._directory = directory
        self.active.extent.path = self._path(self.active.base)

    def close(self) -> None:
        """Give every map and descriptor back; syncs nothing."""
        for base in list(self._readers):
            self._close_reader(base)
        if self._spare is not None:
            self._spare.close()
            self._disk.unlink(self._spare.path)
            self._spare = None
        self.active.extent.close()

    def _take_spare(self, size: int) -> Extent:
        spare, self._spare = self._spare, None
        if spare is not None:
            if spare.size == size:
                return spare
            spare.close()
        return self._disk.create(os.path.join(self._directory, SPARE), size)

    def _segment_of(self, sequence: int) -> int | None:
        """The index in `sealed` of the segment with this sequence; len(sealed) is the active."""
        if self.active.base <= sequence <= self.active.last:
            return len(self.sealed)
        at = bisect_right(self.sealed, sequence, key=lambda each: each.ended.base) - 1
        return at if at >= 0 and sequence <= self.sealed[at].ended.last else None

    def _locate(self, sequence: int, hint: Position) -> tuple[int, int, Segment | Reader]:
        """Base, offset and reader of a record that is not the next one of the active segment."""
        at = self._segment_of(sequence)
        if at is None:
            raise Corrupt(self._path(hint.base), hint.offset, "the record is missing", sequence)
        active = at == len(self.sealed)
        base = self.active.base if active else self.sealed[at].ended.base
        for other in [each for each in self._readers if each != base]:
            self._close_reader(other)
        if sequence == base:
            offset = FRAMES_OFFSET
        elif hint.base == base:
            offset = hint.offset
        else:
            found = self.find(sequence)
            assert found is not None
            offset = found.offset
        if active:
            return base, offset, self.active
        if base not in self._readers:
            self._readers[base] = self._open(self.sealed[at])
        return base, offset, self._readers[base]

    def _open(self, sealed: Sealed) -> Reader:
        path = self._path(sealed.ended.base)
        try:
            extent = self._disk.open(path)
        except FileNotFoundError:
            raise Corrupt(path, 0, "the file is gone", sealed.ended.base) from None
        try:
            header = decode_segment_header(path, extent.read(0, PAGE))
        except LogqueueError:
            extent.close()
            raise
        return Reader(extent, salt_seed(header.salt), sealed.ended.end)

    def _close_reader(self, base: int) -> None:
        with contextlib.suppress(KeyError):
            self._readers.pop(base).extent.close()

    def _path(self, base: int) -> str:
        return os.path.join(self._directory, segment_name(base))
