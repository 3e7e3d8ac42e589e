"""HTTPSQS's ring: the positions that sequences have, and the sizes that a queue may take.

Pure arithmetic.  A queue keeps the rings of its last sizes, oldest first, because `view` looks
back across a change of size; the last one is in force.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from logqueue.storage.format import MAXQUEUE_DEFAULT, MAXQUEUE_MAX, MAXQUEUE_MIN, Ring

RINGS_MAX = 16  # size changes that `view` can look back across


class Positions(NamedTuple):
    """A queue in HTTPSQS's words."""

    maxqueue: int
    putpos: int
    putlap: int
    getpos: int
    getlap: int
    unread: int


NEVER_WRITTEN = Positions(MAXQUEUE_DEFAULT, 0, 1, 0, 1, 0)


def fresh(last: int, maxqueue: int = MAXQUEUE_DEFAULT) -> tuple[Ring, ...]:
    """The rings of a queue that begins anew after the sequence `last`."""
    return (Ring(last, last, maxqueue),)


def position_of(ring: Ring, sequence: int) -> int:
    """The ring position of a sequence, 1 to `maxqueue`."""
    return (sequence - ring.base - 1) % ring.maxqueue + 1


def capacity(ring: Ring, consumed: int) -> int:
    """The messages that the ring takes.  HTTPSQS's holds one less once it was read from, because
    its writer may not stand on its reader."""
    return ring.maxqueue if consumed == ring.base else ring.maxqueue - 1


def positions(ring: Ring, last: int, consumed: int, settled_above: int = 0) -> Positions:
    """Where writer and reader stand when `last` is the newest sequence; `settled_above` records
    behind `consumed` are consumed too."""
    put = position_of(ring, last) if last > ring.base else 0
    get = position_of(ring, consumed) if consumed > ring.base else 0
    unread = last - consumed - settled_above
    return Positions(ring.maxqueue, put, 2 if put < get else 1, get, 1, unread)


def newest_at(rings: tuple[Ring, ...], position: int, last: int) -> int | None:
    """The newest sequence, `last` at most, that was stored at a ring position; None when none
    of these rings has one."""
    for ring in reversed(rings):
        sequence = last - (last - ring.base - position) % ring.maxqueue
        if position <= ring.maxqueue and sequence > ring.after:
            return sequence
        last = min(last, ring.after)
    return None


def resized(
    rings: tuple[Ring, ...], maxqueue: int, last: int, consumed: int, first: int
) -> tuple[Ring, ...] | None:
    """The rings after a change of size, `first` being the oldest sequence on disk; None when the
    positions of writer and reader do not allow the change.

    `maxqueue` must lie within MAXQUEUE_MIN and MAXQUEUE_MAX.
    """
    assert MAXQUEUE_MIN <= maxqueue <= MAXQUEUE_MAX
    now = positions(rings[-1], last, consumed)
    if maxqueue < now.putpos or maxqueue < now.getpos or now.putpos < now.getpos:
        return None
    if last - now.putpos > consumed:
        # A crash took gets that had made room for puts: the reader is a lap behind, and the
        # new ring would begin past it.
        return None
    if maxqueue == now.maxqueue:
        return rings
    # A ring whose successor begins below the oldest record has nothing left to show.
    kept = [ring for ring, successor in pairwise(rings) if successor.after >= first]
    return (*kept, rings[-1], Ring(last, last - now.putpos, maxqueue))[-RINGS_MAX:]
