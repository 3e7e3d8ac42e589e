"""Every valid frame of a stretch of file, whatever stands between them.  Pure: no I/O of its own.

`Scan` walks frames that follow each other and stops at the first bad one; a sweep goes on looking
behind it.  It believes nothing that a bad frame says of itself, its length least of all: it tries
every multiple of 8 whose type byte could be a frame's, so no valid frame can hide behind damage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from logqueue.storage.frame import (
    ALIGNMENT,
    FRAME_BYTES,
    TYPE_OFFSET,
    TYPES,
    WINDOW_BYTES,
    BadFrame,
    Frame,
    Read,
    Scan,
    Short,
    decode,
)

_TYPE = re.compile(b"[" + bytes(TYPES) + b"]")


def sweep(
    read: Read,
    start: int,
    limit: int,
    seed: int,
    end: int | None = None,
    window_bytes: int = WINDOW_BYTES,
) -> Iterator[Frame]:
    """The valid frames that begin between `start` and `end`, in order; none crosses `limit`.

    `end` is `limit` when it is not given.  `start` must be a multiple of 8.  No more memory than
    two windows of `window_bytes`, or two of the largest frame.
    """
    end = limit if end is None else end
    search = _Search(read, limit, end, seed, window_bytes)
    offset = search.first(start)
    while offset is not None:
        scan = Scan(read, offset, limit, seed, window_bytes)
        for frame in scan:
            if frame.offset >= end:
                return
            yield frame
        offset = search.first(scan.offset + ALIGNMENT)


class _Search(NamedTuple):
    read: Read
    limit: int
    end: int
    seed: int
    window_bytes: int

    def first(self, offset: int) -> int | None:
        """The offset of the first valid frame at or behind `offset`; None when there is none."""
        while offset < self.end and offset + FRAME_BYTES <= self.limit:
            window = self.read(offset, min(self.window_bytes, self.limit - offset))
            types = window[TYPE_OFFSET::ALIGNMENT]  # a byte for each place where a frame may begin
            for match in _TYPE.finditer(types):
                at = match.start() * ALIGNMENT
                if offset + at >= self.end:
                    return None
                if self._is_frame(window, at, offset + at):
                    return offset + at
            if not types:
                return None
            offset += len(types) * ALIGNMENT
        return None

    def _is_frame(self, window: bytes, at: int, offset: int) -> bool:
        try:
            decode(window, at, offset, self.seed, self.limit)
        except Short:  # the rest of it lies behind the window
            return (
                next(Scan(self.read, offset, self.limit, self.seed, FRAME_BYTES), None) is not None
            )
        except BadFrame:
            return False
        return True
