"""Which records of a queue are ready, leased, delayed, dead or settled.  Pure: no I/O, no clock.

    low         everything up to here is settled: the queue's cursor
    frontier    the newest sequence that was ever handed out; beyond it everything is ready
    entries     what lies between and is not settled; so what lies between and has no entry, is

Memory is proportional to what is leased, delayed or given back, never to the backlog, and not to
what was acknowledged out of order either.

Invariants:
  L1  low <= frontier, and every entry lies in (low, frontier];
  L2  low + 1 has an entry, or low == frontier: low is as high as it can be;
  L3  a settled sequence never becomes ready again;
  L4  attempts of a sequence only rise, and a lease is named by (sequence, attempts): it is valid
      while that is the entry's state, so an old token never answers for a new lease;
  L5  of what is ready, the lowest sequence goes first.

Times are milliseconds of one clock, injected; `due` 0 means at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import NamedTuple


class State(IntEnum):
    """The state of a record that was handed out and is not settled; the values stand on disk."""

    READY = 0  # came back
    LEASED = 1  # until `due`
    DELAYED = 2  # given back, ready again at `due`
    DEAD = 3  # out of attempts: waits to be moved to the dead-letter queue


class Entry:
    """One such record."""

    __slots__ = ("attempts", "due", "state")

    def __init__(self, attempts: int, due: int, state: State) -> None:
        self.attempts = attempts
        self.due = due
        self.state = state


class Snapshot(NamedTuple):
    """The whole state, as a value: entries as (sequence, due, attempts, state), ascending."""

    low: int
    frontier: int
    entries: list[tuple[int, int, int, int]]


class Leases:
    """The state of one queue.  `attempts_max` 0 lets a record come back for ever."""

    def __init__(self, consumed: int, attempts_max: int = 0) -> None:
        self.low = consumed
        self.frontier = consumed
        self._attempts_max = attempts_max
        self.counts = [0, 0, 0, 0]  # of entries, by State
        self._entries: dict[int, Entry] = {}
        # Both heaps may hold what is no longer so; it is thrown away when it comes to the top.
        self._ready: list[int] = []
        self._timers: list[tuple[int, int]] = []  # (due, sequence)

    @classmethod
    def restore(cls, snapshot: Snapshot) -> Leases:
        """The state that `snapshot` was taken of.  Raises ValueError when it breaks L1."""
        leases = cls(snapshot.low)
        leases.frontier = snapshot.frontier
        for sequence, due, attempts, state in snapshot.entries:
            if not snapshot.low < sequence <= snapshot.frontier or sequence in leases._entries:
                raise ValueError(f"sequence {sequence} does not belong into the snapshot")
            leases._entries[sequence] = entry = Entry(attempts, due, State(state))
            leases.counts[entry.state] += 1
            leases._schedule(sequence, entry)
        leases._rise()
        return leases

    def snapshot(self) -> Snapshot:
        """The whole state."""
        entries = sorted(self._entries.items())
        return Snapshot(
            self.low,
            self.frontier,
            [(sequence, each.due, each.attempts, int(each.state)) for sequence, each in entries],
        )

    # ------------------------------------------------------------ looking

    @property
    def settled_above(self) -> int:
        """How many records above `low` are settled."""
        return self.frontier - self.low - len(self._entries)

    def state(self, sequence: int) -> State | None:
        """The state of one sequence; None when it is settled."""
        if sequence > self.frontier:
            return State.READY
        entry = self._entries.get(sequence)
        return None if entry is None else entry.state

    def attempts(self, sequence: int) -> int:
        """How often the record was leased; 0 when it never was, or is settled."""
        entry = self._entries.get(sequence)
        return 0 if entry is None else entry.attempts

    def holds(self, sequence: int, attempt: int) -> bool:
        """Whether the lease (sequence, attempt) is still good."""
        entry = self._entries.get(sequence)
        return entry is not None and entry.state is State.LEASED and entry.attempts == attempt

    def next_ready(self, upper: int) -> int | None:
        """The lowest ready sequence up to `upper`."""
        ready, entries = self._ready, self._entries
        while ready:
            entry = entries.get(ready[0])
            if entry is not None and entry.state is State.READY:
                return ready[0] if ready[0] <= upper else None
            heappop(ready)
        return self.frontier + 1 if self.frontier < upper else None

    def next_due(self) -> int | None:
        """When the next lease or delay ends."""
        timers = self._timers
        while timers and not self._ticks(*timers[0]):
            heappop(timers)
        return timers[0][0] if timers else None

    def next_event(self) -> int | None:
        """When somebody has to look after the records next: at once, 0, if one is dead."""
        return 0 if self.counts[State.DEAD] else self.next_due()

    def dead(self) -> list[int]:
        """The records that are out of attempts, ascending."""
        if not self.counts[State.DEAD]:
            return []
        return sorted(s for s, each in self._entries.items() if each.state is State.DEAD)

    # ------------------------------------------------------------ changing

    def lease(self, sequence: int, due: int) -> int:
        """Hand out a ready record until `due`; the attempts so far, this one included."""
        entry = self._entry(sequence)
        entry.attempts += 1
        self._enter(sequence, entry, State.LEASED, due)
        return entry.attempts

    def settle(self, sequence: int) -> None:
        """The record is done with: a consumed, acknowledged, expired or moved one."""
        if sequence == self.frontier + 1:
            self.frontier = sequence
        else:
            self.counts[self._entries.pop(sequence).state] -= 1
        self._rise()

    def give_back(self, sequence: int, due: int) -> None:
        """Make a leased record ready at `due`, or dead when it is out of attempts."""
        self._return(sequence, self._entries[sequence], due)

    def extend(self, sequence: int, due: int) -> None:
        """Let a lease end at `due` instead."""
        self._enter(sequence, self._entries[sequence], State.LEASED, due)

    def expire(self, now: int) -> bool:
        """Take back what is due; whether there was anything."""
        found = False
        while (due := self.next_due()) is not None and due <= now:
            sequence = heappop(self._timers)[1]
            entry = self._entries[sequence]
            if entry.state is State.LEASED:
                self._return(sequence, entry, 0)
            else:
                self._enter(sequence, entry, State.READY, 0)
            found = True
        return found

    def advance(self, low: int) -> None:
        """Everything up to `low` is settled, whatever was known of it."""
        if low <= self.low:
            return
        entries = self._entries
        passed: Iterable[int] = range(self.low + 1, low + 1)
        if len(entries) < low - self.low:
            passed = [each for each in entries if each <= low]
        for sequence in passed:
            if (entry := entries.pop(sequence, None)) is not None:
                self.counts[entry.state] -= 1
        self.low = low
        self.frontier = max(self.frontier, low)
        self._rise()

    def forget_above(self, last: int) -> bool:
        """The records above `last` are gone: a power cut took them under a weaker durability.
        Whether any of them was open."""
        gone = [each for each in self._entries if each > last]
        for sequence in gone:
            self.counts[self._entries.pop(sequence).state] -= 1
        self._rise()
        return bool(gone)

    def limit_attempts(self, attempts_max: int) -> None:
        """Change the limit: what is not leased is dead or ready as if it had held all along."""
        self._attempts_max = attempts_max
        for sequence, entry in self._entries.items():
            spent = 0 < attempts_max <= entry.attempts
            if entry.state is not State.LEASED and spent is not (entry.state is State.DEAD):
                self._return(sequence, entry, 0)

    def clamp(self, latest: int) -> None:
        """No lease or delay ends after `latest`: the clock was set back while we were away."""
        for sequence, entry in self._entries.items():
            if entry.state in (State.LEASED, State.DELAYED) and entry.due > latest:
                self._enter(sequence, entry, entry.state, latest)

    # ------------------------------------------------------------ inside

    def _entry(self, sequence: int) -> Entry:
        """The entry of a record that was handed out before, or of the next one."""
        if sequence != self.frontier + 1:
            return self._entries[sequence]
        self.frontier = sequence
        self._entries[sequence] = entry = Entry(0, 0, State.READY)
        self.counts[State.READY] += 1
        return entry

    def _return(self, sequence: int, entry: Entry, due: int) -> None:
        if 0 < self._attempts_max <= entry.attempts:
            self._enter(sequence, entry, State.DEAD, 0)
        else:
            self._enter(sequence, entry, State.DELAYED if due else State.READY, due)

    def _enter(self, sequence: int, entry: Entry, state: State, due: int) -> None:
        self.counts[entry.state] -= 1
        self.counts[state] += 1
        entry.state, entry.due = state, due
        self._schedule(sequence, entry)

    def _schedule(self, sequence: int, entry: Entry) -> None:
        if entry.state is State.READY:
            heappush(self._ready, sequence)
        elif entry.state is not State.DEAD:
            heappush(self._timers, (entry.due, sequence))
            if len(self._timers) > 2 * len(self._entries) + 64:  # many short leases, few expiries
                self._timers = [each for each in set(self._timers) if self._ticks(*each)]
                heapify(self._timers)

    def _ticks(self, due: int, sequence: int) -> bool:
        entry = self._entries.get(sequence)
        return (
            entry is not None and entry.due == due and entry.state in (State.LEASED, State.DELAYED)
        )

    def _rise(self) -> None:
        """Restore L2.  Every sequence is passed once in the queue's life."""
        low, frontier, entries = self.low, self.frontier, self._entries
        if not entries:
            low = frontier
        while low < frontier and low + 1 not in entries:
            low += 1
        self.low = low


def ranges(sequences: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending sequences as (first, last) of each dense run."""
    first = last = -1
    for sequence in sequences:
        if sequence != last + 1 or first < 0:
            if first >= 0:
                yield first, last
            first = sequence
        last = sequence
    if first >= 0:
        yield first, last
