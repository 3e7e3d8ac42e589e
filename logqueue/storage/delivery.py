"""Handing out a queue's records other than first in, first consumed: leases, ages, pauses.

A queue has a `Delivery` once it was leased from, or an option wants one; until then it pays
nothing.  `Leases` decides, the acknowledgement log remembers, the queue's cursor follows as the
low-water mark.

Invariants:
  D1  memory and file change together, with no way to fail between: room for the steps is made sure
      of before the first change (`NoRoom`), and reading comes before changing (`Cold`, `Corrupt`);
  D2  what was done is durable after the queue's next sync; the caller answers after it;
  D3  a step is not stored for what the cursor's own move says already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from logqueue.errors import Corrupt, LimitExceeded
from logqueue.options import LEASE_S_MAX, QueueOptions
from logqueue.storage.acks import AckLog, AckTail
from logqueue.storage.disk import Disk
from logqueue.storage.frame import Frame
from logqueue.storage.host import Host, Shared
from logqueue.storage.leases import Leases, State
from logqueue.storage.log import Position
from logqueue.storage.places import UNKNOWN, Places
from logqueue.storage.reader import Cold, Fetch
from logqueue.storage.steps import Kind, Steps, step_bytes
from logqueue.storage.token import Outcome, Tokens

LEASED_MAX = 100_000  # records of one queue that are leased at once; each costs about 300 bytes
SKIPS_MAX = 1000  # records too old that one call steps over, so that it cannot hold up the loop
GAP_MAX = 50_000  # missing records that one call steps over
STEPS_BYTES = 16 * 1024  # room that a receive asks for when there is none
_DUE_AFTER_MAX_MS = int(LEASE_S_MAX * 1000)


class NoRoom(Exception):
    """Nothing was done: `Delivery.make_room`, which blocks, then try again."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__()


class Delivered(NamedTuple):
    """A record that was handed out; `attempts` counts this time if it was leased."""

    frame: Frame
    attempts: int


class Delivery:
    """What hands out the records of one queue.  Owned as the queue is."""

    def __init__(
        self,
        host: Host,
        disk: Disk,
        directory: str,
        queue_id: bytes,
        settings: QueueOptions,
        shared: Shared,
    ) -> None:
        self.leases = Leases(host.consumed)
        self.tokens = Tokens(queue_id, shared.acknowledged)
        self.acks: AckLog | None = None
        self.expired = 0  # records skipped for their age
        self._host = host
        self._files = disk, directory, queue_id, shared.clock
        self._now = shared.now
        self._clock = shared.clock
        self._places = Places(host.log)
        self._places.note(host.consumed + 1, host.next_position)
        self.set_options(settings)

    def restore(self, found: AckTail) -> None:
        """Go on with what recovery found; nothing was handed out yet.

        Blocks.  Raises LimitExceeded, DiskFull, StorageFailed.
        """
        log, leases = self._host.log, found.leases
        forgotten = leases.forget_above(found.records)
        self.leases, self.acks = leases, AckLog.open(*self._files, found)
        if forgotten or not found.tail.appendable:
            self.acks.roll(leases.snapshot())
        self._places.forget_all()
        if leases.low == self._host.consumed:
            self._places.note(leases.low + 1, self._host.next_position)
        if leases.frontier >= log.last:
            self._places.note(leases.frontier + 1, log.end)
        leases.limit_attempts(self._attempts_max)
        leases.clamp(self._now() + _DUE_AFTER_MAX_MS)
        if leases.low > self._host.consumed:
            self._host.consume_to(leases.low, self._places.where(leases.low + 1))
        self._host.note_leases()

    def set_options(self, options: QueueOptions) -> None:
        """Take over changed options."""
        self._paused = options.paused
        self._age_ms_max = int(options.max_age_s * 1000)
        self._attempts_max = options.max_attempts
        self.leases.limit_attempts(options.max_attempts)

    # ------------------------------------------------------------ handing out

    def get(self) -> Frame | None:
        """Consume the next ready record.  Raises as `receive` does."""
        taken = self.receive(1, 0, 0)
        return taken[0].frame if taken else None

    def receive(self, maximum: int, lease_ms: int, bytes_max: int) -> list[Delivered]:
        """Hand out up to `maximum` ready records, the lowest sequences first, and no more than
        `bytes_max` of payload after the first one; they are consumed when `lease_ms` is 0.

        Comes back empty too after SKIPS_MAX records that are too old, and in a gap: ask `ready`
        whether to go on.  Raises Cold and NoRoom, Corrupt (the queue stops), LimitExceeded
        (LEASED_MAX).
        """
        if self._host.damage is not None:
            raise self._host.damage
        leases, now = self.leases, self._now()
        leases.expire(now)
        if self._paused:
            return []
        if lease_ms:
            if self.acks is None:
                if leases.next_ready(self._host.servable) is None:
                    return []  # a consumer that is early leaves no files behind
                raise NoRoom(0)
            free = LEASED_MAX - leases.counts[State.LEASED]
            if free <= 0:
                raise LimitExceeded("leased messages", LEASED_MAX + 1, LEASED_MAX)
            maximum = min(maximum, free)
        return self._take(maximum, now + lease_ms if lease_ms else 0, bytes_max)

    def _take(self, maximum: int, due: int, bytes_max: int) -> list[Delivered]:
        leases, upper = self.leases, self._host.servable
        oldest = self._clock() - self._age_ms_max if self._age_ms_max else 0
        steps, skipped = Steps(self._room), 0
        taken: list[Delivered] = []
        while len(taken) < maximum and skipped < SKIPS_MAX:
            sequence = leases.next_ready(upper)
            if sequence is None:
                break
            try:
                found = self._read_ready(sequence, steps)
                if found is None:
                    break  # the next call goes on behind the gap
                frame, following = found
                stale = frame.timestamp < oldest
                if taken and not stale and len(frame.payload) > bytes_max:
                    break
                attempts = self._hand_out(sequence, 0 if stale else due, following, steps)
            except (Cold, Corrupt, NoRoom):
                if taken or skipped:
                    break  # first what is there; the next call meets it again
                raise
            if stale:
                skipped += 1
            else:
                bytes_max -= len(frame.payload)
                taken.append(Delivered(frame, attempts))
        self.expired += skipped
        self._store(steps)
        return taken

    def _hand_out(self, sequence: int, due: int, following: Position, steps: Steps) -> int:
        """Lease a ready record until `due`, or settle it; its attempts.  Raises NoRoom."""
        leases = self.leases
        # A move of the cursor needs no step: consuming goes on when the disk is full.
        if due or sequence != leases.low + 1:
            kind = Kind.LEASE if due else Kind.SETTLE
            if not steps.add(kind, due, sequence):
                raise NoRoom(STEPS_BYTES)
        if leases.state(sequence + 1) is not None:
            self._places.note(sequence + 1, following)
        if due:
            return leases.lease(sequence, due)
        attempts = leases.attempts(sequence)
        self._settle(sequence)
        return attempts

    def expire(self) -> int | None:
        """Settle ready records that are too old, oldest first, without anybody asking for them.

        Returns when the next one will be, in milliseconds since the epoch: 0 when there may be
        more already, None when that is not known.  Raises Cold, NoRoom, Corrupt (the queue stops).
        """
        leases, age_ms = self.leases, self._age_ms_max
        if self._host.damage is not None or not age_ms:
            return None
        leases.expire(self._now())
        oldest, upper = self._clock() - age_ms, self._host.servable
        self._skip_segments(oldest, upper)
        steps, skipped, due = Steps(self._room), 0, None
        try:
            while due is None and (sequence := leases.next_ready(upper)) is not None:
                found = self._read_ready(sequence, steps)
                if found is None or skipped == SKIPS_MAX:
                    due = 0
                elif found[0].timestamp >= oldest:
                    due = found[0].timestamp + age_ms + 1
                else:
                    self._hand_out(sequence, 0, found[1], steps)
                    skipped += 1
        except (Cold, Corrupt, NoRoom):
            if not skipped:
                raise
            due = 0
        self.expired += skipped
        self._store(steps)
        return due

    def _skip_segments(self, oldest: int, upper: int) -> None:
        """Consume whole segments that were sealed before `oldest`, without reading them, unless
        something was handed out that is not settled."""
        leases, low = self.leases, self.leases.low
        if leases.frontier > low:
            return
        for segment in self._host.log.sealed:
            base, last, *_ = segment.ended
            if segment.sealed_at >= oldest or last > upper:
                break
            self.expired += max(0, last - max(base - 1, low))
            leases.advance(last)
        if leases.low > low:
            self._places.forget_all()
            self._host.consume_to(leases.low, UNKNOWN)

    @property
    def ready(self) -> bool:
        """Whether `receive` would find something, were it in memory."""
        self.leases.expire(self._now())
        return not self._paused and self.leases.next_ready(self._host.servable) is not None

    # ------------------------------------------------------------ reading

    def read(self, sequence: int) -> Frame:
        """The record of an unsettled sequence.  Raises Cold, Corrupt (the queue stops)."""
        return self._read(sequence)[0]

    def _read(self, sequence: int) -> tuple[Frame, Position]:
        try:
            return self._places.read(sequence)
        except Corrupt as error:
            self._host.damage = error
            raise

    def _read_ready(self, sequence: int, steps: Steps) -> tuple[Frame, Position] | None:
        """A ready record and the place behind it; None when it is missing and a header or a repair
        has declared that: then some of the gap is settled.  Raises as `_read` does, and NoRoom."""
        try:
            return self._places.read(sequence)
        except Corrupt as error:
            resume = self._host.log.after_gap(sequence)
            if resume is None:
                self._host.damage = error
                raise
        if sequence <= self.leases.frontier:  # what follows may be settled, leased, ...
            resume = sequence + 1
        for missing in range(sequence, min(resume, sequence + GAP_MAX)):
            self._hand_out(missing, 0, UNKNOWN, steps)
        return None

    def install(self, fetch: Fetch) -> None:
        """What a `Cold` asked for has run: it serves the reads to come.

        Raises Corrupt when it met damage: then the queue stops.
        """
        if self.leases.state(fetch.sequence) is None:
            return  # settled meanwhile, and its file may be gone
        if fetch.damage is not None:
            self._host.damage = fetch.damage
            raise fetch.damage
        self._places.install(fetch)

    # ------------------------------------------------------------ answers

    def acknowledge(self, tokens: Sequence[str]) -> list[Outcome]:
        """Settle leased records for good.  Raises NoRoom, Corrupt."""
        judged = self._judge(tokens)
        steps = self._steps_for(len(tokens))
        leases = sorted({lease for lease, outcome in judged if outcome is Outcome.DONE})
        for sequence, _ in leases:
            self._settle(sequence)
            steps.add(Kind.SETTLE, 0, sequence)
        self._store(steps)
        remembers = self.tokens.remembers
        outcomes = [Outcome.DONE if remembers(lease) else given for lease, given in judged]
        self.tokens.remember(leases)
        return outcomes

    def extend(self, tokens: Sequence[str], lease_ms: int) -> list[Outcome]:
        """Let leases end `lease_ms` from now.  Raises NoRoom, Corrupt."""
        judged = self._judge(tokens)
        steps = self._steps_for(len(tokens))
        due = self._now() + lease_ms
        for sequence in sorted({lease[0] for lease, each in judged if each is Outcome.DONE}):
            self.leases.extend(sequence, due)
            steps.add(Kind.EXTEND, due, sequence)
        self._store(steps)
        return [outcome for _, outcome in judged]

    def release(self, given: Sequence[tuple[str, int]]) -> list[Outcome]:
        """Give leased records back: (token, milliseconds until they are ready again).

        Raises NoRoom, Corrupt.
        """
        outcomes = self._judge([token for token, _ in given])
        judged = [(*each, delay) for each, (_, delay) in zip(outcomes, given, strict=True)]
        steps = self._steps_for(len(given))
        now = self._now()
        dues = {
            lease[0]: now + delay if delay else 0
            for lease, outcome, delay in judged
            if outcome is Outcome.DONE
        }
        for sequence, due in sorted(dues.items(), key=lambda item: (item[1], item[0])):
            self.leases.give_back(sequence, due)
            steps.add(Kind.RETURN, due, sequence)
        self._store(steps)
        return [outcome for _, outcome, _ in judged]

    def settle_dead(self, sequences: Sequence[int]) -> None:
        """These, as far as they are still dead, stand durably in the dead-letter queue.

        Raises NoRoom.
        """
        steps = self._steps_for(len(sequences))
        for sequence in sequences:
            if self.leases.state(sequence) is State.DEAD:
                self._settle(sequence)
                steps.add(Kind.SETTLE, 0, sequence)
        self._store(steps)

    def purge(self) -> None:
        """Everything that was written is settled; the queue moves its cursor."""
        self.leases.advance(self._host.log.last)
        self._places.forget_all()
        self._places.note(self._host.log.last + 1, self._host.log.end)

    def mark(self) -> bool:
        """Prove in the acknowledgement log how far it is durable; whether there was need."""
        return self.acks is not None and self.acks.mark(self.leases.low)

    @property
    def unsynced(self) -> bool:
        """Whether the acknowledgement log has steps that are not durable."""
        return self.acks is not None and self.acks.begin_sync() is not None

    def close(self) -> None:
        """Give the file back; syncs nothing."""
        if self.acks is not None:
            self.acks.close()

    def make_room(self, size: int) -> None:
        """Make sure of room for `size` bytes of steps: what a `NoRoom` asks for.  Blocks.

        Raises DiskFull, LimitExceeded (and then nothing has changed), StorageFailed.
        """
        state = self.leases.snapshot()
        if self.acks is None:
            self.acks = AckLog.create(*self._files, state)
            self._host.note_leases()
        elif self.acks.room < size:
            self.acks.roll(state, size)

    # ------------------------------------------------------------ inside

    @property
    def _room(self) -> int:
        return 0 if self.acks is None else self.acks.room

    def _steps_for(self, count: int) -> Steps:
        """Steps with room for `count` sequences, each in a step of its own.  Raises NoRoom."""
        size = count * step_bytes(1)
        if self.acks is not None and self.acks.room < size:
            raise NoRoom(size)
        return Steps(size)

    def _judge(self, tokens: Sequence[str]) -> list[tuple[tuple[int, int], Outcome]]:
        if self._host.damage is not None:
            raise self._host.damage
        self.leases.expire(self._now())
        judge, leases = self.tokens.judge, self.leases
        return [judge(token, leases) for token in tokens]

    def _settle(self, sequence: int) -> None:
        self.leases.settle(sequence)
        self._places.forget(sequence)

    def _store(self, steps: Steps) -> None:
        """What happened in memory goes to the files; both halves cannot fail (D1)."""
        low = self.leases.low
        for kind, due, runs in steps.above(low):
            assert self.acks is not None  # without leases everything follows the cursor
            self.acks.append(kind, low, due, runs)
        if low > self._host.consumed:
            self._host.consume_to(low, self._places.where(low + 1))
