"""What the storage refused, counted by operation and by queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

FAILING_QUEUES_MAX = 1000  # counted by name between two scrapes; clients choose the names


class Failures:
    """Counters that never fall.  Under None: queues beyond the limit, or that do not exist."""

    def __init__(self) -> None:
        self.by_operation: Counter[bytes] = Counter()
        self.by_queue: Counter[bytes | None] = Counter()

    def count(self, operation: bytes, name: bytes) -> None:
        """The storage refused an operation on a queue."""
        self.by_operation[operation] += 1
        known = name in self.by_queue or len(self.by_queue) < FAILING_QUEUES_MAX
        self.by_queue[name if known else None] += 1

    def fold(self, names: Collection[bytes]) -> None:
        """Keep these names apart, and count all others together."""
        for name in [each for each in self.by_queue if each is not None and each not in names]:
            self.by_queue[None] += self.by_queue.pop(name)
