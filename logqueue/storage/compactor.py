"""Retention: which consumed segments go and when.  Pure; nothing is ever rewritten.

Whole sealed segments go, oldest first, once everything in them is consumed.  Without limits that
is at once.  With limits, consumed messages stay for `view` and replay:

  retain_seconds  no consumed message goes before this long after it was put;
  retain_bytes    consumed segments of one queue take no more than this on disk.

Given alone, a limit is the only one.  Given both, `retain_bytes` wins: a segment goes as soon as it
exceeds either.  What a reset or a purge left behind nobody can see any more: it goes at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from logqueue.storage.log import Sealed


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of what is consumed stays, per queue.  None is no limit; twice None is nothing."""

    bytes_max: int | None = None
    seconds_max: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, object], default: Retention) -> Retention:
        """The limits in a queue's own options, where 0 is none; `default` when it has none."""
        size, age_s = options.get("retain_bytes"), options.get("retain_s")
        if not size and not age_s:
            return default
        assert isinstance(size, int | None)
        assert isinstance(age_s, int | float | None)
        return cls(size or None, age_s or None)

    def keeps(self, size: int, age_ms: int) -> bool:
        """Whether a consumed segment stays that is `age_ms` old, when it and all the newer
        consumed ones take `size` bytes."""
        if self.bytes_max is None and self.seconds_max is None:
            return False
        within_bytes = self.bytes_max is None or size <= self.bytes_max
        return within_bytes and (self.seconds_max is None or age_ms <= self.seconds_max * 1000)


KEEP_NOTHING = Retention()


class Usage(NamedTuple):
    """What the segment files of one queue take on disk, in bytes of files."""

    live: int  # with messages that are not consumed yet, and the active one
    consumed: int  # that may go, and will within seconds
    retained: int  # consumed, and kept


def plan(
    sealed: Sequence[Sealed], consumed: int, retention: Retention, now_ms: int, hidden: int = 0
) -> int:
    """The sequence below which whole segments may go; 0 when none may.

    `sealed` is oldest first.  Everything up to `consumed` is consumed, and nobody can see what
    stands up to `hidden`.
    """
    size = 0
    for segment in reversed(sealed[: _consumed_count(sealed, consumed)]):
        size += segment.size
        age_ms = now_ms - segment.sealed_at
        if segment.ended.last <= hidden or not retention.keeps(size, age_ms):
            return segment.ended.last + 1
    return 0


def next_due_ms(sealed: Sequence[Sealed], consumed: int, retention: Retention) -> float:
    """When the oldest segment's time is over, in milliseconds since the epoch; else infinity.

    For a queue that nothing else happens to, after `plan` has found nothing.
    """
    if retention.seconds_max is None or not _consumed_count(sealed, consumed):
        return math.inf
    return sealed[0].sealed_at + retention.seconds_max * 1000


def usage(sealed: Sequence[Sealed], active_bytes: int, consumed: int, before: int) -> Usage:
    """What the files of a queue take; `before` is what `plan` says."""
    count = _consumed_count(sealed, consumed)
    going = sum(each.size for each in sealed if each.ended.last < before)
    kept = sum(each.size for each in sealed[:count]) - going
    live = sum(each.size for each in sealed[count:]) + active_bytes
    return Usage(live, going, kept)


def _consumed_count(sealed: Sequence[Sealed], consumed: int) -> int:
    """How many of the oldest segments are consumed to their end."""
    count = 0
    while count < len(sealed) and sealed[count].ended.last <= consumed:
        count += 1
    return count
