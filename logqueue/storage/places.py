"""Where the unsettled records of a queue stand, as far as they were seen; reading them there."""

from __future__ import annotations

from logqueue.storage.frame import Frame
from logqueue.storage.log import Log, Position
from logqueue.storage.reader import Fetch

UNKNOWN = Position(0, 0)  # no segment has base 0: the index is asked


class Places:
    """Hints for `Log.read`, by sequence.  A hint that is missing costs a look into the index."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: dict[int, Position] = {}

    def read(self, sequence: int) -> tuple[Frame, Position]:
        """The record `sequence`, and where the next one stands.

        Raises Cold when its bytes are not in memory (then run its fetch, `install` that, try
        again), and Corrupt when they are not what was written.
        """
        frame, following = self._log.read(sequence, self._known.get(sequence, UNKNOWN))
        # The hint may have been the end of the segment before: now it is known.
        self._known[sequence] = Position(following.base, frame.offset)
        return frame, following

    def install(self, fetch: Fetch) -> None:
        """What a `Cold` asked for has run without meeting damage."""
        assert fetch.window is not None
        self._log.install(fetch)
        self._known[fetch.sequence] = Position(fetch.window.base, fetch.window.offset)

    def where(self, sequence: int) -> Position:
        """The hint for one record."""
        return self._known.get(sequence, UNKNOWN)

    def note(self, sequence: int, place: Position) -> None:
        """A record stands at `place`."""
        self._known[sequence] = place

    def forget(self, sequence: int) -> None:
        """The record is settled."""
        self._known.pop(sequence, None)

    def forget_all(self) -> None:
        """Nothing is known."""
        self._known.clear()
