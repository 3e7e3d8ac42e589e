"""What is known of each queue, for metrics: a bounded number of series, counters that never fall.

Puts and gets are not counted: the sequences on disk are the counters, so a scrape costs and the
hot path does not.  METRIC_QUEUES_MAX queues have a label of their own, as long as they exist; the
others are added up under OTHERS.  When one of those is deleted, or gets a label of its own, the
sums of what they had in all stay: a counter that falls looks like a restart, and would be taken
for a burst of messages.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import trio

from logqueue.local import LocalQueues
from logqueue.observed import Sight
from logqueue.storage.clock import clock_ms
from logqueue.storage.reader import Peek
from logqueue.web.failures import Failures

METRIC_QUEUES_MAX = 500
OTHERS = ""  # the label of all the other queues; the queue with the empty name is shown as %
SIGHT_BATCH = 32  # queues looked at before others get their turn

_hidden = re.compile("[\udc80-\udcff\x00-\x1f\x7f%]")


class Numbers(NamedTuple):
    """What is known of one queue, or of several added up."""

    unread: int = 0
    put: int = 0
    taken: int = 0
    segments: int = 0
    live: int = 0
    consumed: int = 0
    retained: int = 0
    damaged: int = 0

    @classmethod
    def of(cls, sight: Sight) -> Numbers:
        """The numbers of one queue."""
        unread = sight.positions.unread
        taken = max(0, sight.last - unread)
        damaged = int(sight.is_damaged)
        return cls(unread, sight.last, taken, sight.segments, *sight.usage, damaged)

    def plus(self, other: Numbers) -> Numbers:
        """Both added up."""
        return Numbers(*(a + b for a, b in zip(self, other, strict=True)))


class Census:
    """The queues as `look` has found them last, by label; `ages_s` of those with messages."""

    def __init__(self, queues: LocalQueues, failures: Failures) -> None:
        self.numbers: dict[str, Numbers] = {}
        self.ages_s: dict[str, float] = {}
        self.errors: dict[str, int] = {}
        self.count = self.damaged = 0
        self._queues = queues
        self._failures = failures
        self._labelled: set[bytes] = set()
        self._seen: dict[bytes, tuple[int, int]] = {}  # put and taken of those without a label
        self._put = self._taken = 0  # of all that ever had none
        self._oldest: dict[bytes, tuple[int, int]] = {}  # sequence and time of the oldest message

    async def look(self) -> None:
        """Look at all queues, some at a time."""
        names = self._queues.names()
        self._labelled.intersection_update(names)
        numbers: dict[str, Numbers] = {}
        firsts: dict[bytes, Peek] = {}
        seen: dict[bytes, tuple[int, int]] = {}
        for at, name in enumerate(names):
            if at % SIGHT_BATCH == 0:
                await trio.lowlevel.checkpoint()
            sight = self._queues.sight(name)
            if sight is None:
                continue
            if len(self._labelled) < METRIC_QUEUES_MAX:
                self._labelled.add(name)
            found = Numbers.of(sight)
            if name in self._labelled:
                numbers[shown(name)] = found
                if sight.first is not None:
                    firsts[name] = sight.first
            else:
                numbers[OTHERS] = numbers.get(OTHERS, Numbers()).plus(found)
                seen[name] = found.put, found.taken
        self._add_up(seen, numbers)
        self.numbers = numbers
        self.count, self.damaged = len(names), self._queues.damaged()
        self._count_errors()
        await self._measure_ages(firsts)

    def _add_up(self, seen: dict[bytes, tuple[int, int]], numbers: dict[str, Numbers]) -> None:
        """The counters of those without a label: what was added since the last look."""
        for name, (put, taken) in seen.items():
            put_before, taken_before = self._seen.get(name, (0, 0))
            self._put += max(0, put - put_before)
            self._taken += max(0, taken - taken_before)
        self._seen = seen
        if OTHERS in numbers or self._put:
            others = numbers.get(OTHERS, Numbers())
            numbers[OTHERS] = others._replace(put=self._put, taken=self._taken)

    def _count_errors(self) -> None:
        """From the first look on each label has its counter, at 0: a rise from nothing is lost."""
        self._failures.fold(self._labelled)
        counts = self._failures.by_queue
        self.errors = {shown(name): counts[name] for name in self._labelled}
        self.errors[OTHERS] = counts[None]

    async def _measure_ages(self, firsts: dict[bytes, Peek]) -> None:
        """How old the oldest messages are; read from the disk once for each of them."""
        known = self._oldest
        oldest = {
            n: known[n] for n, peek in firsts.items() if known.get(n, (0,))[0] == peek.sequence
        }
        peeks = [(n, peek) for n, peek in firsts.items() if n not in oldest]
        times = await trio.to_thread.run_sync(_run, [peek for _, peek in peeks])
        for (name, peek), time_ms in zip(peeks, times, strict=True):
            if time_ms is not None:
                oldest[name] = peek.sequence, time_ms
        self._oldest = oldest
        now = clock_ms()
        self.ages_s = {shown(n): max(0, now - time) / 1000 for n, (_, time) in oldest.items()}
        for name in self._labelled - firsts.keys():
            self.ages_s[shown(name)] = 0.0


def _run(peeks: list[Peek]) -> list[int | None]:
    return [peek.run() for peek in peeks]


def shown(name: bytes) -> str:
    """A queue's name for people: UTF-8, with `%XX` for what is not, for controls and for `%`.

    No two names are shown alike.
    """
    text = name.decode("utf-8", "surrogateescape")
    return _hidden.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", text) or "%"
