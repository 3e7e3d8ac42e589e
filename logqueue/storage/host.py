"""What a `Delivery` needs of the queue that it works for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from logqueue.errors import Corrupt
from logqueue.storage.log import Log, Position
from logqueue.storage.token import Acknowledged


class Host(Protocol):
    """The queue that a `Delivery` works for."""

    log: Log
    consumed: int
    damage: Corrupt | None

    @property
    def servable(self) -> int:
        """The newest sequence that may be handed out."""

    @property
    def next_position(self) -> Position:
        """Where the record after `consumed` stands, as far as known."""

    def consume_to(self, sequence: int, following: Position) -> None:
        """Move the cursor; `following` is where the next record stands."""

    def note_leases(self) -> None:
        """There is an acknowledgement log now."""


class Shared(Protocol):
    """What all queues of a store share.  Clocks give milliseconds since the epoch."""

    @property
    def acknowledged(self) -> Acknowledged:
        """The latest acknowledged leases."""

    @property
    def now(self) -> Callable[[], int]:
        """What leases end by: never set back while the process runs."""

    @property
    def clock(self) -> Callable[[], int]:
        """What timestamps records."""
