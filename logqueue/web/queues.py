"""The queue operations that HTTP needs: a port, which `logqueue.local` fills with the log store.

Every method may raise `Corrupt` (this queue is damaged and stopped) besides what it names.
`StorageFailed` may come out of any of them; it is fatal and passes through every handler.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Status(NamedTuple):
    """A queue in HTTPSQS's words.  A queue that nobody has written to has the default `maxqueue`
    and zeros."""

    maxqueue: int
    putpos: int
    putlap: int
    getpos: int
    getlap: int
    unread: int


class Queues(Protocol):
    """All queues of one daemon, by name (0 to 256 bytes)."""

    async def put(self, name: bytes, payload: bytes) -> int | None:
        """Append `payload`; the ring position once the durability mode's promise is kept.

        None when the ring is full.  Raises DiskFull or LimitExceeded, and then nothing was
        written.  When cancelled, the message may or may not be in the queue.
        """

    async def get(self, name: bytes) -> tuple[int, bytes] | None:
        """Consume the oldest message: (ring position, payload), or None when there is none.

        When cancelled, the message may be consumed all the same.
        """

    async def view(self, name: bytes, position: int) -> bytes | None:
        """The message that stands at a ring position, read or not; None when there is none."""

    async def status(self, name: bytes) -> Status:
        """Positions and size; creates nothing."""

    async def reset(self, name: bytes) -> None:
        """Empty the queue: positions and size go back to their first values."""

    async def set_maxqueue(self, name: bytes, maxqueue: int) -> bool:
        """Change the ring's size, creating the queue if need be; False when the positions forbid
        it, and then nothing was changed."""

    def set_sync_interval(self, seconds: int) -> None:
        """Change the time between syncs under durability `interval`; no effect under others."""
