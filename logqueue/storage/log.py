"""Segments as one sequence space: append, read, roll, drop_before.

Sequences are dense inside a segment.  Between two segments there may be a step up (a reset, or
records that a power cut took under a weaker durability), never one down: the base of a new
segment lies past every sequence that was ever given out.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from logqueue.errors import Corrupt, LimitExceeded
from logqueue.storage.disk import Disk
from logqueue.storage.format import (
    FRAMES_OFFSET,
    NOTHING_BEFORE,
    SEGMENT_BYTES_MIN,
    Ended,
    SegmentHeader,
    segment_size_for,
)
from logqueue.storage.frame import (
    FRAME_BYTES,
    LAG_UNKNOWN,
    BadFrame,
    Frame,
    decode_run,
    frame_bytes,
)
from logqueue.storage.layout import SPARE, segment_name
from logqueue.storage.reader import READ_WINDOW_BYTES, Cold, Fetch, Lookup, Window, damage
from logqueue.storage.segment import Segment, new_salt


def batch_length(payloads: Sequence[bytes]) -> int:
    """The length of the one payload that takes as many bytes as these together."""
    return sum([frame_bytes(len(each)) for each in payloads]) - FRAME_BYTES


class Position(NamedTuple):
    """Where a record stands: the segment's base, and the offset in its file."""

    base: int
    offset: int


# Half the cost of calling the class; for every message.
_new_position: Callable[[tuple[int, int]], Position] = partial(tuple.__new__, Position)


class Sealed(NamedTuple):
    """A complete segment below the active one; times in milliseconds since the epoch."""

    ended: Ended
    size: int  # bytes of the file
    sealed_at: int


class Removal(NamedTuple):
    """Consumed segments that the log has let go of: `run` it in any thread."""

    disk: Disk
    directory: str
    paths: list[str]
    size: int  # bytes that are given back

    def run(self) -> None:
        """Unlink the files, durably.  Oldest first: a crash on the way leaves old segments
        behind, which recovery removes, never a hole.  Raises StorageFailed, NotWritable."""
        for path in self.paths:
            self.disk.unlink(path)
        if self.paths:
            # Without a descriptor they are gone too, if not yet for good.
            with contextlib.suppress(LimitExceeded):
                self.disk.sync_directory(self.directory)


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
        self._window: Window | None = None
        self._window_first = 0  # the sequence that it was fetched for

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

    def append_batch(
        self, payloads: Sequence[bytes], durable: int, flags: Sequence[int] = ()
    ) -> int:
        """Store records that a crash leaves all or none of; the first one's sequence.

        They stand in one segment: rolls first when they do not fit.  Raises as `append` does.
        """
        length = batch_length(payloads)
        if not self.active.fits(length):
            self.roll(length)
        lag = self.active.last + 1 - durable
        return self.active.append_batch(payloads, self._clock(), lag, flags)

    def read(self, sequence: int, hint: Position) -> tuple[Frame, Position]:
        """The record `sequence` and the position after it; `hint` is where it probably stands.

        Raises Cold when its bytes are not in memory, and Corrupt when they are not the record
        that was written.
        """
        base, offset = hint
        active, window = self.active, self._window
        frame = None
        try:
            if base == active.base and offset >= active.hot_from:
                frame = active.frame(offset)
            elif window is not None and base == window.base:
                frame = window.frame(offset)
            if frame is None:
                base, offset, frame = self._read_cold(sequence, hint)
        except BadFrame as bad:
            raise damage(self._path(base), bad, sequence) from None
        if frame.sequence != sequence:
            reason = f"sequence {frame.sequence} stands here"
            raise Corrupt(self._path(base), offset, reason, sequence)
        return frame, _new_position((base, frame.end))

    def read_run(
        self, sequence: int, hint: Position, count: int, room: int
    ) -> tuple[list[Frame], Position]:
        """As many of `count` records from `sequence` on as stand in memory one after the other
        and are sound, with at most `room` bytes of payload; and the position after them.

        None at all says nothing: `read` tells what is the matter.
        """
        base, offset = hint
        active, window = self.active, self._window
        frames: list[Frame] = []
        if base == active.base and offset >= active.hot_from:
            frames = decode_run(
                active.extent.buffer, offset, offset, active.seed, active.end, sequence, count, room
            )
        elif window is not None and base == window.base and offset >= window.offset:
            at = offset - window.offset
            frames = decode_run(
                window.data, at, offset, window.seed, window.limit, sequence, count, room
            )
        return frames, _new_position((base, frames[-1].end)) if frames else hint

    def after_gap(self, sequence: int) -> int | None:
        """The base of the next segment, when `sequence` was stepped over between two, of which the
        older one may be gone; else None.

        Steps are declared by headers and repairs, and recovery has checked both: nothing that is
        missing without a word gets here.
        """
        if sequence > self.last or self._segment_of(sequence) is not None:
            return None
        at = bisect_right(self.sealed, sequence, key=lambda each: each.ended.base)
        return self.sealed[at].ended.base if at < len(self.sealed) else self.active.base

    def install(self, fetch: Fetch) -> None:
        """Take over what `fetch.run` has read."""
        self._window, self._window_first = fetch.window, fetch.sequence

    def forget_window(self) -> None:
        """Give the memory of the read-ahead back; the next read fetches again."""
        self._window = None

    def lookup(self, sequence: int) -> Lookup | None:
        """How to find the record `sequence` by the sparse index; None when it is not on disk."""
        at = self._segment_of(sequence)
        if at is None:
            return None
        index = None
        if at < len(self.sealed):
            base, _, end, _ = self.sealed[at].ended
        else:
            base, index = self.active.base, self.active.index_for(sequence)
            end = self.active.hot_from if index is None else self.active.end
        return Lookup(self._disk, self._path(base), base, end, sequence, index)

    def learn(self, lookup: Lookup) -> None:
        """Keep the index that a lookup had to build, for the next one."""
        if lookup.base == self.active.base and lookup.built is not None:
            self.active.learn(lookup.built)

    def roll(self, length: int = 0, *, base: int | None = None, restart: bool = False) -> None:
        """Seal the active segment and start the next; it has room for `length` bytes of payload.

        `base` lets the sequence step up; `restart` starts again at the smallest size.  Room is
        allocated before anything is sealed, so DiskFull and LimitExceeded change nothing.
        """
        now = self._clock()
        wanted = min(self.active.header.size * 2, self._segment_bytes_max)
        size = segment_size_for(length, SEGMENT_BYTES_MIN if restart else wanted)
        extent = self._disk.create(os.path.join(self._directory, SPARE), size)
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

    def detach_before(self, sequence: int, bytes_enough: int | None = None) -> Removal:
        """Let go of sealed segments whose records are all below `sequence`, oldest first, until
        they have `bytes_enough`; nobody reads them any more.

        The caller has made the checkpoint durable first, and runs the removal.
        """
        count = size = 0
        while count < len(self.sealed) and self.sealed[count].ended.last < sequence:
            if bytes_enough is not None and size >= bytes_enough:
                break
            size += self.sealed[count].size
            count += 1
        gone, self.sealed[:count] = self.sealed[:count], []
        paths = [self._path(each.ended.base) for each in gone]
        return Removal(self._disk, self._directory, paths, size)

    def move(self, directory: str) -> None:
        """The queue's directory has been renamed, with the log open."""
        self._directory = directory
        self.active.extent.path = self._path(self.active.base)

    def close(self) -> None:
        """Give every map, descriptor and window back; syncs nothing."""
        self.active.extent.close()
        self.forget_window()

    def _segment_of(self, sequence: int) -> int | None:
        """The index in `sealed` of the segment with this sequence; len(sealed) is the active."""
        if self.active.base <= sequence <= self.active.last:
            return len(self.sealed)
        at = bisect_right(self.sealed, sequence, key=lambda each: each.ended.base) - 1
        return at if at >= 0 and sequence <= self.sealed[at].ended.last else None

    def _read_cold(self, sequence: int, hint: Position) -> tuple[int, int, Frame]:
        """Base, offset and frame of a record that is not the next one of the hot part."""
        at = self._segment_of(sequence)
        if at is None:
            raise Corrupt(self._path(hint.base), hint.offset, "the record is missing", sequence)
        active = at == len(self.sealed)
        base = self.active.base if active else self.sealed[at].ended.base
        end = self.active.hot_from if active else self.sealed[at].ended.end
        offset: int | None = hint.offset
        if hint.base != base:
            offset = FRAMES_OFFSET if sequence == base else None
        if active and offset is not None and offset >= end:
            return base, offset, self.active.frame(offset)
        window = self._window
        if window is not None and window.base == base:
            if offset is None and self._window_first == sequence:
                offset = window.offset
            frame = window.frame(offset) if offset is not None else None
            if offset is not None and frame is not None:
                return base, offset, frame
        goes_on = window is not None and self._window_first < sequence
        ahead = window.next_bytes if window and goes_on else READ_WINDOW_BYTES
        raise Cold(Fetch(self._disk, self._path(base), base, end, sequence, offset, ahead))

    def _path(self, base: int) -> str:
        return os.path.join(self._directory, segment_name(base))
