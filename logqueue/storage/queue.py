"""One FIFO: a log, a cursor, and what was promised of them.

Invariants:
  Q1  durable <= written: a record is promised only after the sync that began after its append;
  Q2  consumed <= durable when `committed_reads` (durability `always`), else <= written;
  Q3  the cursor moves before the message leaves, and only past a record whose bytes verified;
  Q4  sequences are dense, given in arrival order and never reused; positions derive from them.

A queue has one owner at a time: the event loop, or a worker that it was handed to.  The one
thing that may go on beside the owner is `Sync.run`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from logqueue.errors import Corrupt, DiskFull, LimitExceeded
from logqueue.options import QueueOptions
from logqueue.storage.acks import AckLog
from logqueue.storage.clock import clock_ms, steady_ms
from logqueue.storage.cursor import Cursor
from logqueue.storage.delivery import Delivery, NoRoom
from logqueue.storage.disk import Disk, replace_file
from logqueue.storage.format import (
    FRAMES_OFFSET,
    SEGMENT_BYTES_MIN,
    Meta,
    Ring,
    encode_meta,
)
from logqueue.storage.frame import Frame
from logqueue.storage.headers import body_of
from logqueue.storage.layout import META, META_TEMPORARY
from logqueue.storage.log import Log, Position, Removal
from logqueue.storage.reader import Cold, Fetch, Lookup
from logqueue.storage.ring import (
    Positions,
    capacity,
    fresh,
    newest_at,
    position_of,
    positions,
    resized,
)
from logqueue.storage.sync import Sync
from logqueue.storage.token import Acknowledged

CHECKPOINT_BYTES = 4 << 20  # appended bytes after which the durable mark is noted again


@dataclass(frozen=True, slots=True)
class Options:
    """How the queues of one store behave."""

    committed_reads: bool = True  # serve only what is durable
    segment_bytes_max: int = 64 << 20
    clock: Callable[[], int] = clock_ms
    now: Callable[[], int] = steady_ms  # what leases end by
    acknowledged: Acknowledged = field(default_factory=Acknowledged)


class Queue:
    """One open queue."""

    def __init__(
        self, disk: Disk, directory: str, meta: Meta, log: Log, cursor: Cursor, options: Options
    ) -> None:
        self.name = meta.name
        self.log = log
        self.cursor = cursor
        self.damage: Corrupt | None = None
        self.delivery: Delivery | None = None  # once it takes more than first in, first out
        self._options = options
        self._disk = disk
        self._directory = directory
        self._meta = meta
        self._ring = meta.rings[-1]
        self._committed_reads = options.committed_reads
        state = cursor.latest
        self.consumed = max(state.consumed, self._ring.base)
        # The cursor's place counts for its own sequence only: not after a reset that a crash cut
        # short.  Base 0 means that only the index knows.
        known = self.consumed == state.consumed
        self._position = Position(state.base, state.offset) if known else Position(0, 0)
        if self.consumed == log.last:
            self._position = log.end
        self.durable = log.last
        self._durable_end = log.end
        self._noted_end = Position(state.durable_base, state.durable_offset)
        self.settings = QueueOptions.loaded(meta.options, self._ring.maxqueue)
        if self.settings.needs_delivery:
            self.deliver()

    # ------------------------------------------------------------ the hot path

    def fits(self, length: int) -> bool:
        """Whether a put of `length` bytes needs no roll, which would block."""
        return self.log.active.fits(length)

    @property
    def full(self) -> bool:
        """Whether the ring takes no message."""
        return self.log.active.last - self.consumed >= self.capacity

    @property
    def capacity(self) -> int:
        """The messages that the ring takes now."""
        return capacity(self._ring, self.consumed)

    def put(self, payload: bytes) -> int | None:
        """Append one message: its position, or None when the ring is full.

        Raises Corrupt (the queue has stopped), DiskFull, LimitExceeded; then nothing was stored.
        """
        if self.damage is not None:
            raise self.damage
        ring, log = self._ring, self.log
        if log.active.last - self.consumed >= ring.maxqueue - 1 and self.full:
            return None
        sequence = log.append(payload, self.durable)
        return (sequence - ring.base - 1) % ring.maxqueue + 1

    def get(self) -> tuple[int, bytes] | None:
        """`get_nowait`, waiting for the disk if need be."""
        while True:
            try:
                got = self.get_nowait()
                if got is not None or not self.unfinished:
                    return got
            except Cold as cold:
                cold.fetch.run()
                self.install(cold.fetch)
            except NoRoom as wanted:
                self.deliver().make_room(wanted.size)

    def install(self, fetch: Fetch) -> None:
        """`fetch.run` has returned: its window serves the gets to come.

        Raises Corrupt when it met damage: then the queue stops.
        """
        if self.delivery is not None:
            self.delivery.install(fetch)
            return
        if fetch.sequence != self.consumed + 1:
            return  # the queue was reset meanwhile
        if fetch.damage is not None:
            self.damage = fetch.damage
            raise fetch.damage
        self.log.install(fetch)
        if fetch.window is not None:  # the index has told where the record stands
            self._position = Position(fetch.window.base, fetch.window.offset)

    def get_nowait(self) -> tuple[int, bytes] | None:
        """Consume the oldest message: (position, payload), or None when there is none; also when
        it is `unfinished`, and another call gets further.

        Raises Cold when it is not in memory (then run its fetch, `install` that, try again), and
        Corrupt when its bytes are not what was written: then it is not consumed, and the queue
        stops.
        """
        if self.damage is not None:
            raise self.damage
        if self.delivery is not None:
            frame = self.delivery.get()
            return (self.position_of(frame.sequence), body_of(frame)) if frame else None
        sequence = self.consumed + 1
        if sequence > (self.durable if self._committed_reads else self.log.active.last):
            return None
        try:
            frame, following = self.log.read(sequence, self._position)
        except Corrupt as error:
            self._step_over_gap(sequence, error)
            return self.get_nowait()
        self.consumed, self._position = sequence, following
        base, offset = following
        self.cursor.advance(sequence, base, offset)
        ring = self._ring
        return (sequence - ring.base - 1) % ring.maxqueue + 1, body_of(frame)

    def _step_over_gap(self, sequence: int, error: Corrupt) -> None:
        """The next record is missing: go on behind a declared gap, else the queue stops."""
        resume = self.log.after_gap(sequence)
        if resume is None:
            self.damage = error
            raise error
        self.consumed, self._position = resume - 1, Position(resume, FRAMES_OFFSET)

    # ------------------------------------------------------------ batches, leases

    def put_batch(self, payloads: Sequence[bytes], flags: Sequence[int] = ()) -> int | None:
        """Append records under consecutive sequences, all or nothing across a crash; the first
        sequence, or None when the ring has no room for all.  `flags` is empty or one for each.

        Raises as `put` does; LimitExceeded when they do not fit a segment of their own.
        """
        if self.damage is not None:
            raise self.damage
        if self.log.active.last + len(payloads) - self.consumed > self.capacity:
            return None
        return self.log.append_batch(payloads, self.durable, flags)

    def get_batch(self, maximum: int, bytes_max: int) -> list[Frame]:
        """Consume up to `maximum` records, and no more than `bytes_max` of payload after the
        first; the cursor moves once.  Raises as `get_nowait` does, when there is not even one."""
        if self.damage is not None:
            raise self.damage
        if self.delivery is not None:
            return [each.frame for each in self.delivery.receive(maximum, 0, bytes_max)]
        taken: list[Frame] = []
        sequence, place, upper = self.consumed + 1, self._position, self.servable
        try:
            while len(taken) < maximum and sequence <= upper:
                count = min(maximum - len(taken), upper + 1 - sequence)
                frames, following = self.log.read_run(sequence, place, count, bytes_max)
                if not frames:
                    frame, following = self.log.read(sequence, place)
                    if taken and len(frame.payload) > bytes_max:
                        break
                    frames = [frame]
                bytes_max -= sum([len(each.payload) for each in frames])
                taken += frames
                sequence, place = sequence + len(frames), following
        except Cold:
            if not taken:
                raise
        except Corrupt as error:
            if not taken:
                self._step_over_gap(sequence, error)
                return self.get_batch(maximum, bytes_max)
        if taken:
            self.consume_to(sequence - 1, place)
        return taken

    @property
    def unfinished(self) -> bool:
        """Whether a get or receive that found nothing gave up among records that are too old or
        missing, of which it steps over a number at a time."""
        return self.delivery is not None and self.delivery.ready

    @property
    def servable(self) -> int:
        """The newest sequence that may be handed out."""
        return self.durable if self._committed_reads else self.log.active.last

    @property
    def next_position(self) -> Position:
        """Where the record after `consumed` stands; base 0 when only the index knows."""
        return self._position

    def consume_to(self, sequence: int, following: Position) -> None:
        """Move the cursor; `following` is where the next record stands."""
        self.consumed, self._position = sequence, following
        self.cursor.advance(sequence, *following)

    def position_of(self, sequence: int) -> int:
        """The ring position of a sequence."""
        return position_of(self._ring, sequence)

    @property
    def _acks(self) -> AckLog | None:
        return None if self.delivery is None else self.delivery.acks

    def deliver(self) -> Delivery:
        """The queue's `Delivery`; from the first call on, all consumption goes through it."""
        if self.delivery is None:
            self.delivery = Delivery(
                self, self._disk, self._directory, self._meta.queue_id, self.settings, self._options
            )
        return self.delivery

    def note_leases(self) -> None:
        """There is an acknowledgement log now: after the next sync it must not be missing."""
        if not self.cursor.latest.leased:
            self.cursor.note_leases()
            self._store_cursor()

    # ------------------------------------------------------------ looking

    def view(self, position: int) -> bytes | None:
        """The message that was stored last at a ring position, while it is on disk.

        Blocks.  Raises Corrupt, LimitExceeded.
        """
        lookup = self.seek(position)
        frame = lookup.run() if lookup else None
        if lookup:
            self.log.learn(lookup)
        return body_of(frame) if frame else None

    def seek(self, position: int) -> Lookup | None:
        """How to find the message that was stored last at a ring position; None when there is
        none, or it is no longer on disk.  Run it in any thread, then give it to `log.learn`."""
        upper = self.durable if self._committed_reads else self.log.last
        sequence = newest_at(self._meta.rings, position, upper)
        return None if sequence is None else self.log.lookup(sequence)

    @property
    def positions(self) -> Positions:
        """Where writer and reader stand."""
        settled_above = 0 if self.delivery is None else self.delivery.leases.settled_above
        return positions(self._ring, self.log.last, self.consumed, settled_above)

    @property
    def queue_id(self) -> bytes:
        """The 16 random bytes that no other queue has."""
        return self._meta.queue_id

    @property
    def options(self) -> Mapping[str, object]:
        """The options in the meta file."""
        return self._meta.options

    @property
    def hidden(self) -> int:
        """The newest sequence that `view` cannot reach any more, whatever is on disk."""
        return self._meta.rings[0].after

    @property
    def unsynced_bytes(self) -> int:
        """Bytes appended since the last sync; the roll syncs, so one segment is all there is."""
        base, offset = self._durable_end
        return self.log.active.end - offset if base == self.log.active.base else 0

    # ------------------------------------------------------------ write-back

    def begin_sync(self) -> Sync | None:
        """What must be synced so that all puts and gets so far are durable; None when they are.

        One at a time: `finish_sync` or `fail` must follow before the next.
        """
        last, end = self.log.last, self.log.end
        if last > self.durable and self._checkpoint_due(end):
            self._store_cursor()
        segment = self.log.active.extent if last > self.durable else None
        cursor = self.cursor.begin_sync()
        acks = None if self._acks is None else self._acks.begin_sync()
        if segment is None and cursor is None and acks is None:
            return None
        return Sync(last, end, segment, cursor, acks)

    def finish_sync(self, sync: Sync) -> None:
        """`sync.run()` returned: what it covered is durable."""
        self.durable = sync.last
        self._durable_end = sync.end
        if sync.cursor is not None:
            self.cursor.finish_sync()
        if sync.acks is not None:
            assert self._acks is not None
            self._acks.finish_sync()

    def sync(self) -> None:
        """Make everything so far durable, here and now."""
        pending = self.begin_sync()
        if pending is not None:
            pending.run()
            self.finish_sync(pending)

    def checkpoint(self) -> bool:
        """Note the durable marks in the files, for the next sync; False when they stand there.

        Done when a queue falls quiet: it shrinks what recovery cannot tell from a tear.
        """
        marked = self.delivery is not None and self.delivery.mark()
        if self._noted_end == self._durable_end:
            return marked
        self._store_cursor()
        return True

    def _checkpoint_due(self, end: Position) -> bool:
        return end.base != self._noted_end.base or (
            end.offset - self._noted_end.offset >= CHECKPOINT_BYTES
        )

    def _store_cursor(self) -> None:
        self.cursor.store(self.consumed, *self._position, self.durable, *self._durable_end)
        self._noted_end = self._durable_end

    # ------------------------------------------------------------ changes that block

    def roll(self, length: int = 0) -> None:
        """Seal the active segment and start one with room for `length` bytes.

        Raises DiskFull, LimitExceeded; then nothing has changed.
        """
        self.log.roll(length)
        self.durable, self._durable_end = self.log.last, self.log.end

    def reset(self) -> None:
        """Empty the queue: positions and size back to their first values.  What it held is
        `hidden` then, and `release` lets go of it.

        The meta file goes first: should a crash come between, the ring's base says that
        everything below it is consumed.  Raises DiskFull when not even that page is to be had.
        """
        self.sync()
        first = fresh(self.log.last)
        try:
            self._change_meta(first)
        except DiskFull:
            if not self.log.sealed:
                raise
            # What the queue holds makes the room; a crash now leaves it empty, but not yet reset.
            self._consume_all()
            self.free(self.log.last + 1)
            self._change_meta(first)
        self._consume_all()
        self.damage = None
        with contextlib.suppress(DiskFull, LimitExceeded):
            self._restart()

    def _consume_all(self) -> None:
        if self.delivery is not None:
            self.delivery.purge()
        self.consumed, self._position = self.log.last, self.log.end
        self._store_cursor()
        self.sync()

    def set_maxqueue(self, maxqueue: int) -> bool:
        """Change the ring's size; False when the positions do not allow it (`ring.resized`)."""
        rings = self._resized(maxqueue)
        if rings is None:
            return False
        if rings != self._meta.rings:
            self._change_meta(rings)
        return True

    def _resized(self, maxqueue: int) -> tuple[Ring, ...] | None:
        return resized(self._meta.rings, maxqueue, self.log.last, self.consumed, self.log.first)

    def purge(self) -> int:
        """Consume everything that was written; how many records that were."""
        count = self.positions.unread
        if self.delivery is not None:
            self.delivery.purge()
        self.consume_to(self.log.last, self.log.end)
        return count

    def configure(self, settings: QueueOptions) -> bool:
        """Change the settings, all of them at once; False when the positions forbid the new
        `max_length`.  Raises DiskFull.  Either way nothing was changed then.  StorageFailed."""
        rings: tuple[Ring, ...] | None = self._meta.rings
        if settings.max_length != self._ring.maxqueue:
            rings = self._resized(settings.max_length)
        if rings is None:
            return False
        self._change_meta(rings, settings.stored(self._meta.options))
        if self.delivery is not None:
            self.delivery.set_options(settings)
        elif settings.needs_delivery:
            self.deliver()
        return True

    def free(self, before: int) -> int:
        """Unlink the sealed segments below `before` that are consumed; bytes freed.  Blocks."""
        self.sync()
        removal = self.release(before)
        removal.run()
        return removal.size

    def release(self, before: int, bytes_enough: int | None = None) -> Removal:
        """Let go of consumed sealed segments below `before`, of the oldest with `bytes_enough`.

        Only below the durable checkpoint: what a crash brings back must never be a record whose
        segment is gone.  Does not block; the removal does.
        """
        durable = self.cursor.durable.consumed
        return self.log.detach_before(min(before, durable + 1), bytes_enough)

    @property
    def oversized(self) -> bool:
        """Whether the queue is empty and one of its files has grown beyond the smallest."""
        grown = self.log.active.header.size > SEGMENT_BYTES_MIN
        grown |= self._acks is not None and self._acks.oversized
        return grown and self.consumed == self.log.active.last

    def shrink(self) -> None:
        """Start again with the smallest files, if `oversized`; a large segment is sealed then.

        Raises DiskFull, LimitExceeded; then it is `oversized` still.
        """
        if self.oversized:
            self.sync()
            self._restart()
            if self._acks is not None:
                self._acks.shrink(self.deliver().leases.snapshot())

    def close(self, *, clean: bool = True) -> None:
        """Sync everything, mark the queue as cleanly closed, give the files back.

        With `clean=False` only the files are given back: for a queue whose sync has failed.
        """
        try:
            state, moved = self.cursor.durable, self.cursor.moved
            untouched = state.clean and not moved and self.log.last == state.durable
            untouched &= self.delivery is None or not self.delivery.unsynced
            if clean and not untouched:
                self.sync()
                if self.delivery is not None and self.delivery.mark():
                    self.sync()
                self._store_cursor()
            self.cursor.close(clean=clean and not untouched)
        finally:
            self.log.close()
            if self.delivery is not None:
                self.delivery.close()

    def _restart(self) -> None:
        if self.log.active.last >= self.log.active.base:
            self.log.roll(restart=True)
            self.durable, self._durable_end = self.log.last, self.log.end
            self._position = self.log.end
            self._store_cursor()
            self.sync()

    def _change_meta(
        self, rings: tuple[Ring, ...], options: Mapping[str, object] | None = None
    ) -> None:
        meta = self._meta._replace(rings=rings)
        if options is not None:
            meta = meta._replace(options=dict(options))
        write_meta(self._disk, self._directory, meta)
        self._meta, self._ring = meta, meta.rings[-1]
        self.settings = QueueOptions.loaded(meta.options, self._ring.maxqueue)


def write_meta(disk: Disk, directory: str, meta: Meta) -> None:
    """Put a new meta file in place of the old one, durably.  Raises DiskFull, StorageFailed."""
    temporary = os.path.join(directory, META_TEMPORARY)
    replace_file(disk, directory, META, encode_meta(meta), temporary)
