"""What the world outside knows of a queue, and must find again after a crash."""

from __future__ import annotations

from dataclasses import dataclass, field

from logqueue.options import QueueOptions
from logqueue.storage.format import MAXQUEUE_DEFAULT, Ring


def check(condition: bool, complaint: str) -> None:
    """An invariant; `assert` would vanish under -O."""
    if not condition:
        raise AssertionError(complaint)


@dataclass(slots=True)
class Ledger:
    """What the world outside knows of the queue.

    Each end has three marks: asked for, answered (which `kill -9` must keep), and promised (which
    a power cut must keep).  A change of the ring or the settings that a crash may have cut short
    leaves two of them.
    """

    payloads: dict[int, bytes] = field(default_factory=dict)
    put: int = 0
    put_answered: int = 0
    put_promised: int = 0
    got: int = 0
    got_answered: int = 0
    got_promised: int = 0
    rings: list[Ring] = field(default_factory=lambda: [Ring(0, 0, MAXQUEUE_DEFAULT)])
    settings: list[QueueOptions] = field(default_factory=lambda: [QueueOptions()])
    created: bool = False

    @property
    def ring(self) -> Ring:
        return self.rings[-1]

    def promise(self, put: int, got: int) -> None:
        """Everything up to here survives a power cut."""
        self.put_promised = max(self.put_promised, put)
        self.got_promised = max(self.got_promised, got)

    def power_cut(self) -> None:
        """What was only answered is no longer certain."""
        self.put_answered, self.got_answered = self.put_promised, self.got_promised

    def found(self, last: int, consumed: int) -> None:
        """Recovery says so, and from now on must keep it."""
        for sequence in range(last + 1, self.put + 1):
            self.payloads.pop(sequence, None)
        self.put = self.put_answered = self.put_promised = last
        self.got = self.got_answered = self.got_promised = consumed


def position(ring: Ring, sequence: int) -> int:
    """Where a ring shows a sequence; 0 when nothing has been there yet."""
    return (sequence - ring.base - 1) % ring.maxqueue + 1 if sequence > ring.base else 0
