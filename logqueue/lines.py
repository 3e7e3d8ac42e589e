"""Long polls: who waits for a queue, in arrival order.  Nobody polls.

Each queue has one line.  Only the first in line tries to take something; whoever may have made
something ready wakes it, and when it leaves, for whatever reason, it wakes the next one.  So a
message is taken by a task that is awake and has just made sure that it is not cancelled: a client
that went while it waited takes nothing, because its waiter has left the line by then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from logqueue.errors import LimitExceeded
from logqueue.web.message import Presence

T = TypeVar("T")


class _Waiter:
    """One long poll.  `task` while it is parked."""

    __slots__ = ("task", "woken")

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.woken = False

    def wake(self) -> None:
        self.woken = True
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None

    async def park(self, deadline: float) -> bool:
        """Sleep until somebody wakes us; False when `deadline` came first."""
        with trio.move_on_at(deadline):
            if not self.woken:

                def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
                    self.task = None
                    return trio.lowlevel.Abort.SUCCEEDED

                self.task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
        woken, self.woken = self.woken, False
        return woken


class Lines:
    """The lines of all queues; true while anybody waits.  At most `waiting_max` wait at once."""

    def __init__(self, waiting_max: int) -> None:
        self.count = 0
        self._waiting_max = waiting_max
        self._lines: dict[bytes, OrderedDict[_Waiter, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __contains__(self, name: bytes) -> bool:
        return name in self._lines

    def length(self, name: bytes) -> int:
        """How many wait for the queue `name`."""
        return len(self._lines.get(name, ()))

    def wake(self, name: bytes) -> None:
        """There may be something for the first in the line of `name`."""
        line = self._lines.get(name)
        if line:
            next(iter(line)).wake()

    async def wait(
        self,
        name: bytes,
        deadline: float,
        take: Callable[[], Awaitable[T | None]],
        presence: Presence | None = None,
    ) -> T | None:
        """Queue up until `take` gives something, which is then the result; None at `deadline`, a
        time of trio's clock, or when `presence` is over.  `take` is called when it is our turn,
        once at least before `deadline`.

        Raises LimitExceeded, and what `take` raises.  When cancelled before `take` is called,
        nothing was taken.
        """
        if self.count >= self._waiting_max:
            raise LimitExceeded("parked long polls", self.count + 1, self._waiting_max)
        waiter = _Waiter()
        line = self._lines.setdefault(name, OrderedDict())
        line[waiter] = None
        self.count += 1
        if presence is not None:
            presence.on_over = waiter.wake
        try:
            while presence is None or not presence.is_over():
                if next(iter(line)) is waiter:
                    await trio.lowlevel.checkpoint_if_cancelled()
                    taken = await take()
                    if taken is not None:
                        return taken
                if not await waiter.park(deadline):
                    return None
            return None
        finally:
            if presence is not None:
                presence.on_over = None
            self._leave(name, line, waiter)

    def _leave(self, name: bytes, line: OrderedDict[_Waiter, None], waiter: _Waiter) -> None:
        first = next(iter(line)) is waiter
        del line[waiter]
        self.count -= 1
        if not line:
            del self._lines[name]
        elif first:
            next(iter(line)).wake()
