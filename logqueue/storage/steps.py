"""One step of the acknowledgement log: encode, decode, do it again.  Pure: no I/O.

A step is the payload of one frame: kind, a count, the cursor, a time, and then as many ranges of
sequences as the count says, or in a snapshot as many entries.  Integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from struct import Struct
from struct import error as StructError

from logqueue.storage.frame import frame_bytes
from logqueue.storage.leases import Leases, Snapshot, ranges

STEP = Struct("<B3xIQQ")  # kind, count, low, due (of a snapshot: frontier)
STEP_BYTES = 24
assert STEP.size == STEP_BYTES
RANGE = Struct("<QQ")  # first and last sequence
RANGE_BYTES = 16
assert RANGE.size == RANGE_BYTES
ENTRY = Struct("<QQIB3x")  # of a snapshot: sequence, due, attempts, state
ENTRY_BYTES = 24
assert ENTRY.size == ENTRY_BYTES

RUN_MAX = 1 << 20  # sequences in one range; far above what one operation may name


class Kind(IntEnum):
    """What a step does with its sequences."""

    SNAPSHOT = 1
    LEASE = 2  # one attempt more, until `due`
    SETTLE = 3
    RETURN = 4  # ready again at `due`
    EXTEND = 5  # leased until `due`
    MARK = 6  # nothing: proves by its lag that the steps before it were durable


def encode_step(kind: Kind, low: int, due: int, ranges: Sequence[tuple[int, int]]) -> bytes:
    """One step; `due` in milliseconds since the epoch."""
    return STEP.pack(kind, len(ranges), low, due) + b"".join([RANGE.pack(*r) for r in ranges])


def step_bytes(count: int) -> int:
    """What a step over `count` ranges takes in the file."""
    return frame_bytes(STEP_BYTES + count * RANGE_BYTES)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The whole state as the first step of a file."""
    low, frontier, entries = snapshot
    head = STEP.pack(Kind.SNAPSHOT, len(entries), low, frontier)
    return head + b"".join([ENTRY.pack(*entry) for entry in entries])


def decode_snapshot(payload: bytes) -> Leases:
    """The reverse.  Raises ValueError."""
    try:
        kind, count, low, frontier = STEP.unpack_from(payload)
        if kind != Kind.SNAPSHOT or len(payload) != STEP_BYTES + count * ENTRY_BYTES:
            raise ValueError("the first step is no snapshot")
        entries = list(ENTRY.iter_unpack(payload[STEP_BYTES:]))
    except StructError as error:
        raise ValueError(str(error)) from None
    return Leases.restore(Snapshot(low, frontier, entries))


def replay(leases: Leases, payload: bytes) -> int:
    """Do one step again; how many sequences it names.

    Raises ValueError when it cannot have been done in this state.
    """
    named = 0
    try:
        kind, count, low, due = STEP.unpack_from(payload)
        if len(payload) != STEP_BYTES + count * RANGE_BYTES:
            raise ValueError("its length is wrong")
        step = Kind(kind)
        leases.advance(low)
        for first, last in RANGE.iter_unpack(payload[STEP_BYTES:]):
            if not 0 <= last - first < RUN_MAX:
                raise ValueError(f"{first} to {last} is no range")
            named += last + 1 - first
            for sequence in range(max(first, leases.low + 1), last + 1):
                _replay_one(leases, step, sequence, due)
    except (StructError, KeyError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return named


def _replay_one(leases: Leases, step: Kind, sequence: int, due: int) -> None:
    if sequence > leases.frontier + 1 or step is Kind.SNAPSHOT:
        raise ValueError(f"sequence {sequence} does not follow {leases.frontier}")
    if step is Kind.LEASE:
        leases.lease(sequence, due)
    elif step is Kind.SETTLE:
        leases.settle(sequence)
    elif step is Kind.RETURN:
        leases.give_back(sequence, due)
    elif step is Kind.EXTEND:
        leases.extend(sequence, due)


class Steps:
    """What one operation does, in order, before it is stored.  At most `room` bytes of frames."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._runs: list[tuple[Kind, int, list[int]]] = []  # kind, due, ascending sequences

    def add(self, kind: Kind, due: int, sequence: int) -> bool:
        """One more; False when there is no room for it, and then nothing was added."""
        runs = self._runs
        if not runs or runs[-1][0] is not kind or runs[-1][1] != due or sequence < runs[-1][2][-1]:
            growth = step_bytes(1)
        else:
            growth = 0 if sequence == runs[-1][2][-1] + 1 else RANGE_BYTES
        if growth > self._room:
            return False
        self._room -= growth
        if growth > RANGE_BYTES:
            runs.append((kind, due, [sequence]))
        else:
            runs[-1][2].append(sequence)
        return True

    def above(self, low: int) -> Iterator[tuple[Kind, int, list[tuple[int, int]]]]:
        """Kind, due and ranges of every step that a cursor at `low` does not say already."""
        for kind, due, sequences in self._runs:
            remaining = list(ranges([each for each in sequences if each > low]))
            if remaining:
                yield kind, due, remaining
