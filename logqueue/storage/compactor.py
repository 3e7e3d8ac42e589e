"""Retention: which consumed segments go, and giving them back.  Nothing is ever rewritten."""

from __future__ import annotations

from collections.abc import Sequence

from logqueue.storage.log import Sealed
from logqueue.storage.queue import Queue


def plan(sealed: Sequence[Sealed], consumed: int) -> int:
    """The sequence below which whole segments may go; 0 when none may.  Pure."""
    before = 0
    for segment in sealed:
        if segment.ended.last > consumed:
            break
        before = segment.ended.last + 1
    return before


def step(queue: Queue, before: int) -> int:
    """Unlink what `plan` found; the bytes freed.  Blocks: for a worker that owns the queue.

    A crash on the way leaves consumed segments behind, never a hole: the checkpoint is durable
    first (`Queue.free`), and the oldest goes first.
    """
    return queue.free(before)
