"""The acknowledgement log: the durable form of `Leases`, in one preallocated file beside the log.

Each step of the state machine that a promise depends on is one frame: leased, settled, given back,
extended.  Expiry is no step, it follows from the clock.  When the file is full the whole state is
written into the spare file as its first frame, the spare gets its name once it is durable, and the
full file becomes the spare: so a full disk stops no acknowledgement.

Invariants:
  K1  the first frame of a named file is a snapshot, durable before the name;
  K2  every step says how far the cursor was: whatever lies below is settled, even when the
      cursor's own move was lost;
  K3  every sequence in (low, frontier] stands in the snapshot or a later step of the same file,
      so any prefix of the steps, which is what a crash leaves, is a state that once was.

Frames and recovery rules are those of the log (`frame.py`, `tail.py`); the frame type is
SETTLEMENT, and the queue id in the file's header is a digest of the queue's own, so that neither
can pass for the other.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from logqueue.errors import Corrupt, DiskFull
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    FRAMES_OFFSET,
    NOTHING_BEFORE,
    SegmentHeader,
    encode_segment_header,
    footer_offset,
)
from logqueue.storage.frame import (
    LAG_UNKNOWN,
    SETTLEMENT,
    Scan,
    encode_header,
    frame_bytes,
    salt_seed,
)
from logqueue.storage.layout import ACKS_SPARE, TEMPORARY_SUFFIX, acks_base, acks_name
from logqueue.storage.leases import Leases, Snapshot
from logqueue.storage.steps import (
    Kind,
    decode_snapshot,
    encode_snapshot,
    encode_step,
    replay,
    step_bytes,
)
from logqueue.storage.tail import Tail, open_existing, read_header, scan_tail

ACKS_BYTES_MIN = 64 * 1024  # about a thousand steps
REPLAY_MAX = 100_000  # sequences that steps may name: a start does them again, 2 us each
_ZEROS = bytes(64 * 1024)


def acks_id(queue_id: bytes) -> bytes:
    """What stands for the queue id in the header of its acknowledgement log."""
    return blake2b(queue_id, digest_size=16, person=b"acks").digest()


class AckTail(NamedTuple):
    """What recovery found: the newest file, the state it leads to, and files it replaced;
    `records` is the newest record that the log still has, `named` counts sequences in steps."""

    tail: Tail
    leases: Leases
    stale: list[str]
    records: int
    named: int


def missing_acks(directory: str) -> Corrupt:
    """What to say of a queue that was leased from, and has no acknowledgement log."""
    return Corrupt(
        directory, 0, "the acknowledgement log is missing: it says what was acknowledged"
    )


def inspect_acks(
    disk: Disk,
    directory: str,
    names: Iterable[str],
    queue_id: bytes,
    records: int,
    notes: list[str],
) -> AckTail | None:
    """The acknowledgement log among the file `names` of a queue whose newest record is `records`;
    None when there is none.

    Never writes.  Raises Corrupt, NewerFormat, LimitExceeded, StorageFailed.
    """
    ours = sorted((base, name) for name in names if (base := acks_base(name)) is not None)
    if not ours:
        return None
    stale, (base, newest) = [name for _, name in ours[:-1]], ours[-1]
    path = os.path.join(directory, newest)
    header = read_header(disk, path, base, acks_id(queue_id))
    with contextlib.closing(open_existing(disk, path)) as extent:
        tail = scan_tail(extent, header, base - 1, FRAMES_OFFSET, base, notes)
        leases, named = _replay_all(extent, tail)
        return AckTail(tail, leases, stale, records, named)


def _replay_all(extent: Extent, tail: Tail) -> tuple[Leases, int]:
    leases: Leases | None = None
    named = 0
    for frame in Scan(extent.read, FRAMES_OFFSET, tail.end, salt_seed(tail.header.salt)):
        try:
            if leases is None:
                leases = decode_snapshot(frame.payload)
            else:
                named += replay(leases, frame.payload)
        except ValueError as error:
            raise Corrupt(extent.path, frame.offset, str(error), frame.sequence) from None
    assert leases is not None  # `base` was durable, or the scan had raised
    return leases, named


class AckLog:
    """The open acknowledgement log of one queue.  Owned as the queue is."""

    def __init__(
        self, disk: Disk, directory: str, queue_id: bytes, clock: Callable[[], int]
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._id = acks_id(queue_id)
        self._clock = clock
        self._extent: Extent | None = None
        self._seed = self._end = self._limit = 0
        self._last = 0  # the newest step
        self._named = 0  # sequences in the steps since the snapshot
        self._durable = self._syncing = self._marked = 0

    @classmethod
    def create(
        cls,
        disk: Disk,
        directory: str,
        queue_id: bytes,
        clock: Callable[[], int],
        state: Snapshot,
    ) -> AckLog:
        """The first acknowledgement log of a queue, and its spare; durable on return.

        Blocks.  Raises DiskFull, LimitExceeded, StorageFailed; then there is none.
        """
        acks = cls(disk, directory, queue_id, clock)
        acks.roll(state)
        try:
            disk.create(os.path.join(directory, ACKS_SPARE), ACKS_BYTES_MIN).close()
        except BaseException:
            acks.close()
            disk.unlink(os.path.join(directory, acks_name(1)))
            raise
        return acks

    @classmethod
    def open(
        cls,
        disk: Disk,
        directory: str,
        queue_id: bytes,
        clock: Callable[[], int],
        found: AckTail,
    ) -> AckLog:
        """Go on behind what recovery found.  The caller rolls unless the tail is appendable.

        Raises LimitExceeded, Corrupt.
        """
        acks = cls(disk, directory, queue_id, clock)
        tail = found.tail
        for name in found.stale:  # a crash came before it was made the spare
            disk.rename(os.path.join(directory, name), os.path.join(directory, ACKS_SPARE))
        path = os.path.join(directory, acks_name(tail.header.base))
        acks._adopt(disk.open(path, writable=True), tail.header, tail.last, tail.end)
        acks._named = found.named
        return acks

    @property
    def room(self) -> int:
        """The bytes of steps that go in without a roll, which blocks."""
        return 0 if self._named > REPLAY_MAX else self._limit - self._end

    def append(
        self, kind: Kind, low: int, due: int = 0, ranges: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Store one step, which must fit; durable after the next sync."""
        self._store(encode_step(kind, low, due, ranges))
        self._named += sum(last + 1 - first for first, last in ranges)

    def mark(self, low: int) -> bool:
        """Prove the steps so far durable, if they are and nothing proves it yet."""
        full = self._limit - self._end < step_bytes(0)
        if full or self._durable < self._last or self._marked == self._last:
            return False
        self.append(Kind.MARK, low)
        self._marked = self._last
        return True

    def roll(self, state: Snapshot, room: int = 0) -> None:
        """Start again with `state` in the spare file, with room for `room` bytes of steps.

        Blocks; no sync may be running.  Durable on return.  Raises DiskFull or LimitExceeded, and
        then nothing has changed; StorageFailed.
        """
        snapshot = encode_snapshot(state)
        # Half of the file is left for steps, so that the snapshots cost as much as they at most.
        needed = 2 * frame_bytes(len(snapshot)) + room
        extent = self._take_spare(needed)
        base, salt = self._last + 1, secrets.randbits(64)
        header = SegmentHeader(self._id, base, salt, extent.size, self._clock(), NOTHING_BEFORE)
        old = self._extent, self._seed, self._end, self._limit, self._last
        self._adopt(extent, header, base - 1, FRAMES_OFFSET)
        try:
            extent.write(0, encode_segment_header(header))
            self._store(snapshot)
            extent.sync()
            path = os.path.join(self._directory, acks_name(base))
            self._disk.publish(extent.path, path)
            extent.path = path
        except BaseException:
            extent.close()
            self._extent, self._seed, self._end, self._limit, self._last = old
            raise
        self._durable, self._named = self._last, 0
        if old[0] is not None:
            old[0].close()
            with contextlib.suppress(DiskFull):  # the next start makes it the spare otherwise
                self._disk.rename(old[0].path, os.path.join(self._directory, ACKS_SPARE))

    def begin_sync(self) -> Extent | None:
        """The file to sync so that every step so far is durable; None when they are."""
        if self._last == self._durable:
            return None
        self._syncing = self._last
        return self._extent

    def finish_sync(self) -> None:
        """The sync that `begin_sync` asked for is done."""
        self._durable = self._syncing

    @property
    def oversized(self) -> bool:
        """Whether the file has grown beyond the smallest."""
        return self._extent is not None and self._extent.size > ACKS_BYTES_MIN

    def shrink(self, state: Snapshot) -> None:
        """`roll` into the smallest file that `state` fits into, the spare likewise."""
        self._replace_spare(ACKS_BYTES_MIN).close()
        self.roll(state)
        self._replace_spare(ACKS_BYTES_MIN).close()

    def close(self) -> None:
        """Give the file back; syncs nothing."""
        if self._extent is not None:
            self._extent.close()

    def _adopt(self, extent: Extent, header: SegmentHeader, last: int, end: int) -> None:
        self._extent, self._seed, self._end = extent, salt_seed(header.salt), end
        self._limit = footer_offset(extent.size)
        self._last = self._durable = last

    def _store(self, payload: bytes) -> None:
        assert self._extent is not None
        last, end = self._last + 1, self._end
        lag = min(last - self._durable, LAG_UNKNOWN)
        header = encode_header(self._seed, end, last, self._clock(), lag, 0, payload, SETTLEMENT)
        self._extent.write(end, header + payload)
        self._last, self._end = last, end + frame_bytes(len(payload))

    def _take_spare(self, needed: int) -> Extent:
        """A file of zeros with room for `needed` bytes of frames: the spare if it will do."""
        path = os.path.join(self._directory, ACKS_SPARE)
        size = ACKS_BYTES_MIN
        while footer_offset(size) - FRAMES_OFFSET < needed:
            size *= 2
        if self._disk.exists(path):
            spare = self._disk.open(path, writable=True)
            if spare.size >= size:
                for offset in range(0, spare.size, len(_ZEROS)):
                    spare.write(offset, _ZEROS[: spare.size - offset])
                return spare
            spare.close()
        return self._replace_spare(size)

    def _replace_spare(self, size: int) -> Extent:
        path = os.path.join(self._directory, ACKS_SPARE)
        self._disk.create(path + TEMPORARY_SUFFIX, size).close()
        self._disk.rename(path + TEMPORARY_SUFFIX, path)
        return self._disk.open(path, writable=True)
