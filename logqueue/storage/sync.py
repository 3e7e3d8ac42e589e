"""One write-back: what a queue wants synced, for whichever thread does it."""

from __future__ import annotations

from typing import NamedTuple

from logqueue.storage.disk import Extent
from logqueue.storage.log import Position


class Sync(NamedTuple):
    """One write-back: `run` it in any thread, then give it back to `Queue.finish_sync`."""

    last: int
    end: Position
    segment: Extent | None
    cursor: Extent | None
    acks: Extent | None = None

    def run(self) -> None:
        """Blocks until the disk has it all.  Raises StorageFailed."""
        if self.segment is not None:
            self.segment.sync()
        if self.cursor is not None:
            self.cursor.sync()
        if self.acks is not None:
            self.acks.sync()
