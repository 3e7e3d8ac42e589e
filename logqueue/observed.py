"""What an operator asks of the queues.  Opens none, waits for nothing, changes nothing."""

from __future__ import annotations

import heapq
from typing import NamedTuple

from logqueue.chores import Chores
from logqueue.commit import Committer
from logqueue.latency import Latencies
from logqueue.pool import Pool
from logqueue.storage.compactor import Usage
from logqueue.storage.reader import Peek
from logqueue.storage.ring import NEVER_WRITTEN, Positions


class Sight(NamedTuple):
    """One queue as an operator sees it."""

    positions: Positions
    last: int  # the newest sequence, which is the number of messages ever put
    segments: int
    usage: Usage
    is_damaged: bool
    first: Peek | None  # at the oldest unread message; None when there is none


class Recovery(NamedTuple):
    """What a start found."""

    seconds: float = 0.0
    notes: int = 0  # things tidied up, each logged


class Observed:
    """The half of `LocalQueues` that looks."""

    _pool: Pool
    _chores: Chores
    _committer: Committer
    recovery: Recovery

    def names(self) -> list[bytes]:
        """All queues, the damaged ones too, in no order."""
        return list({*self._pool.open, *self._pool.resting, *self._pool.damaged})

    def names_after(self, after: bytes | None, limit: int) -> tuple[list[bytes], bytes | None]:
        """Up to `limit` names in byte order, those after `after`; and what to give as `after` for
        more, None when there are none."""
        names = (name for name in self.names() if after is None or name > after)
        found = heapq.nsmallest(limit + 1, names)
        return found[:limit], found[limit - 1] if len(found) > limit else None

    def sight(self, name: bytes) -> Sight | None:
        """One queue, without opening it; None when there is none, or it is being opened.

        Safe at any time: of a queue that a worker owns it tells what was known before.
        """
        if name in self._pool.damaged:
            return Sight(NEVER_WRITTEN, 0, 0, Usage(0, 0, 0), is_damaged=True, first=None)
        facts = self._pool.facts(name)
        if facts is None:
            return None
        handle = self._pool.open.get(name)
        is_damaged = handle is not None and handle.queue.damage is not None
        usage, segments = self._chores.usage(facts), len(facts.sealed) + 1
        first = self._pool.first_unread(name, facts)
        return Sight(facts.positions, facts.last, segments, usage, is_damaged, first)

    def damaged(self) -> int:
        """How many queues answer errors because their bytes on disk are wrong."""
        met = sum(handle.queue.damage is not None for handle in self._pool.open.values())
        return len(self._pool.damaged) + met

    @property
    def open_count(self) -> int:
        """How many queues are held open."""
        return len(self._pool.open)

    @property
    def sync_latencies(self) -> Latencies:
        """How long syncs took."""
        return self._committer.latencies

    @property
    def syncing_s(self) -> float:
        """How many seconds the oldest sync that runs has been running; 0 without one."""
        return self._committer.syncing_s
