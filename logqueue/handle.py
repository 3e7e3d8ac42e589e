"""An open queue and who owns it: the event loop, or a worker thread that it was lent to."""

from __future__ import annotations

import trio

from logqueue.commit import Group
from logqueue.storage.queue import Queue
from logqueue.storage.store import Resting


class Handle(Group):
    """An open queue.  `away` while a worker owns it, and for good once it is `closed`."""

    __slots__ = (
        "away",
        "changed",
        "closed",
        "expires_ms",
        "fetched",
        "lent",
        "stored",
        "unlinking",
        "used",
    )

    def __init__(self, queue: Queue, tick: int) -> None:
        super().__init__(queue)
        self.away = False
        self.closed = False
        self.lent: Resting | None = None  # the facts when it went away
        self.changed = trio.Event()  # set, and replaced, when the queue comes back
        self.fetched: trio.Event | None = None  # set when the read-ahead that runs has come
        self.unlinking = trio.Lock()  # held while files are unlinked that the queue has let go of
        self.expires_ms: int | None = None  # when its oldest message is too old, as far as known
        self.stored = tick  # of the pool's clock, when something was stored last
        self.used = tick  # when it was acquired last

    @property
    def facts(self) -> Resting:
        """What is known of the queue.  While a worker owns it: what was known before, because
        the worker may be halfway through anything."""
        return self.lent if self.away and self.lent is not None else Resting.of(self.queue)
