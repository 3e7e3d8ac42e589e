"""What workers saw of a queue that they lease from, and what it proves.  Pure but for journals.

A worker's journal is lines of text; T is the machine's monotonic clock in ns, S a sequence:

    g T LEASE_MS              at T, about to ask for messages, leased for so long
    d T S ATTEMPTS PRODUCER N this one had come by T, unaltered
    x S WHY                   delivered, but altered
    k T S...                  about to acknowledge these
    l T S...                  about to give these back
    s T S...                  it was done by T, but not for these: their leases had ended
    f ANSWER                  a request was refused

The promises, kill -9 or not: what was acknowledged never comes again; what nobody acknowledged
does, once its lease has ended and no sooner; each delivery counts as one attempt more, in every
life of the daemon.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tools.ledger import Broken, Outbox

MS = 1_000_000  # ns
TOLERANCE = 50 * MS  # between the clock here and the daemon's, which starts anew with each life


class Delivery(NamedTuple):
    """One message handed out: asked for at `asked`, here by `came`, leased until `ends`."""

    sequence: int
    attempts: int
    sender: tuple[int, int]
    asked: int
    came: int
    ends: int


@dataclass(slots=True)
class Journal:
    """What one worker did in one life."""

    deliveries: list[Delivery] = field(default_factory=list)
    freed: dict[tuple[int, int], int] = field(default_factory=dict)  # (sequence, attempts): when
    settled: dict[int, int] = field(default_factory=dict)  # sequence: acknowledged by then
    maybe: set[int] = field(default_factory=set)  # asked to be, but the daemon died
    refused: int = 0


def read_worker(lines: Iterable[str]) -> Journal:
    """Raises Broken when a message was altered, or a lease did not last."""
    journal = Journal()
    held: dict[int, Delivery] = {}
    asked = lease = 0
    acknowledging: list[int] = []
    for line in lines:
        what, *words = line.split()
        if what == "g":
            asked, lease = int(words[0]), int(words[1]) * MS
        elif what == "d":
            came, sequence, attempts, producer, n = map(int, words)
            held[sequence] = Delivery(sequence, attempts, (producer, n), asked, came, asked + lease)
            journal.deliveries.append(held[sequence])
        elif what == "x":
            raise Broken(f"altered: {line.strip()}")
        elif what in ("k", "l"):
            now, *sequences = map(int, words)
            for sequence in sequences:
                journal.freed[sequence, held[sequence].attempts] = now
            if what == "k":
                acknowledging = sequences
                journal.maybe.update(sequences)
        elif what == "s":
            now, *ended = map(int, words)
            for sequence in ended:
                if now < held[sequence].ends - TOLERANCE:
                    raise Broken(f"a lease ended early: {held[sequence]}, gone at {now}")
            journal.maybe.difference_update(acknowledging)
            journal.settled.update((each, now) for each in set(acknowledging) - set(ended))
            acknowledging = []
        else:
            journal.refused += 1
    return journal


@dataclass(slots=True)
class _Job:
    """A message that is not settled: who sent it, and its newest lease that was seen."""

    sender: tuple[int, int]
    attempts: int = 0
    ends: int = 0
    freed: int | None = None  # when somebody wanted to give it back or acknowledge it


class JobLedger:
    """One queue that is leased from.  `absorb` each life's journals; `finish` after a drain.

    Both raise Broken.
    """

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.delivered = 0
        self.settled = 0
        self._refused = 0
        self._settled = bytearray()  # by sequence
        self._maybe: set[int] = set()
        self._jobs: dict[int, _Job] = {}

    @property
    def refused(self) -> int:
        """How many puts and requests of workers were refused."""
        return self.outbox.refused + self._refused

    @property
    def awaited(self) -> int:
        """How many messages were put, as far as known, and not settled."""
        return len(self.outbox.awaited)

    def absorb(
        self, producers: Mapping[int, Iterable[str]], workers: Iterable[Iterable[str]]
    ) -> None:
        """Take in the journals of one life of the daemon."""
        self.outbox.read(producers)
        journals = [read_worker(each) for each in workers]
        settled = {s: when for each in journals for s, when in each.settled.items()}
        freed = {lease: when for each in journals for lease, when in each.freed.items()}
        for delivery in sorted(each for journal in journals for each in journal.deliveries):
            self._deliver(delivery, settled, freed.get(delivery[:2]))
        for sequence in settled:
            self._settle(sequence)
        for journal in journals:
            self._maybe |= journal.maybe - settled.keys()
            self._refused += journal.refused

    def finish(self) -> None:
        """Everything that was left has just been delivered and acknowledged."""
        for sender, position in self.outbox.awaited.items():
            if position not in self._maybe:
                raise Broken(f"lost: {sender} stood at {position}, and nobody acknowledged it")

    def _deliver(self, it: Delivery, settled: dict[int, int], freed: int | None) -> None:
        if it.sequence < len(self._settled) and self._settled[it.sequence]:
            raise Broken(f"came back after it was acknowledged in an earlier life: {it}")
        if it.asked > settled.get(it.sequence, it.asked):
            raise Broken(f"came back after it was acknowledged: {it}, {settled[it.sequence]}")
        job = self._jobs.setdefault(it.sequence, _Job(it.sender))
        if job.sender != it.sender or not self.outbox.may_be(it.sender, it.sequence):
            raise Broken(f"moved, never sent, or refused: {it}, {job}")
        if it.attempts <= job.attempts:
            raise Broken(f"an attempt was forgotten: {it}, {job}")
        if it.came < job.ends - TOLERANCE and (job.freed is None or job.freed > it.came):
            raise Broken(f"leased twice at once: {it}, {job}")
        self.outbox.found(it.sender, it.sequence)
        job.attempts, job.ends, job.freed = it.attempts, it.ends, freed
        self._maybe.discard(it.sequence)
        self.delivered += 1

    def _settle(self, sequence: int) -> None:
        self.outbox.done(self._jobs.pop(sequence).sender)
        self._settled.extend(bytes(max(0, sequence + 1 - len(self._settled))))
        self._settled[sequence] = 1
        self._maybe.discard(sequence)
        self.settled += 1
