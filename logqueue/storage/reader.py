"""Reading segments with pread: windows for consumers, lookups for everybody else.

Nothing here shares anything with an open log.  What blocks (`Fetch.run`, `Lookup.run`) opens its
file by itself, so it may run in any thread while the log appends, rolls and lets go of segments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from logqueue.errors import Corrupt, LogqueueError
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    FRAMES_OFFSET,
    INDEX_STRIDE,
    PAGE,
    decode_footer,
    decode_segment_header,
    footer_offset,
    index_lookup,
)
from logqueue.storage.frame import (
    FRAME,
    FRAME_BYTES,
    LENGTH_AND_SEQUENCE,
    LENGTH_OFFSET,
    BadFrame,
    BadHeader,
    Frame,
    Scan,
    Short,
    decode,
    frame_bytes,
    salt_seed,
)

# Read-ahead of a consumer: a thousand small records at first, and twice as much each time it comes
# to the end.  Every window stops all consumers of the queue and costs them a task each: with 16 of
# them and 128 KiB always, a get took 12.0 us of processor, of which 1.6 were for that.
READ_WINDOW_BYTES = 128 * 1024
READ_WINDOW_BYTES_MAX = 512 * 1024

Index: TypeAlias = list[tuple[int, int]]  # (sequence, offset), rising


class Reader(NamedTuple):
    """An open segment to look around in.  `limit` is where its frames end."""

    extent: Extent
    seed: int
    limit: int


class Window:
    """A stretch of one segment's frames, copied out of the file."""

    __slots__ = ("base", "data", "limit", "offset", "seed")

    def __init__(self, base: int, seed: int, limit: int, offset: int, data: bytes) -> None:
        self.base = base
        self.seed = seed
        self.limit = limit
        self.offset = offset
        self.data = data

    @classmethod
    def read(
        cls, base: int, reader: Reader, offset: int, bytes_max: int = READ_WINDOW_BYTES
    ) -> Window:
        """The frames from `offset` on: as many as fit `bytes_max`, at least one."""
        length = min(bytes_max, reader.limit - offset)
        data = reader.extent.read(offset, length)
        try:
            decode(data, 0, offset, reader.seed, reader.limit)
        except Short as short:
            data = reader.extent.read(offset, short.end - offset)
        except BadFrame:
            pass  # whoever asks for it will be told
        return cls(base, reader.seed, reader.limit, offset, data)

    @property
    def next_bytes(self) -> int:
        """How far to read ahead for who has come to its end."""
        return min(max(2 * len(self.data), READ_WINDOW_BYTES), READ_WINDOW_BYTES_MAX)

    def frame(self, offset: int) -> Frame | None:
        """The frame at `offset`; None when it is not in here as a whole.  Raises BadFrame."""
        at = offset - self.offset
        if not 0 <= at < len(self.data):
            return None
        try:
            return decode(self.data, at, offset, self.seed, self.limit)
        except Short as short:
            if at:
                return None  # the rest of it lies behind the window
            raise BadHeader(offset, f"the file ends before {short.end}") from None


def find(reader: Reader, index: Index, sequence: int) -> Frame:
    """The frame `sequence` by way of the sparse index.  Raises Corrupt."""
    start = index_lookup(index, sequence)
    stretch = reader.extent.read(start, min(INDEX_STRIDE, reader.limit - start))
    at = _stride(stretch, sequence)
    if at is not None:
        try:
            frame = decode(stretch, at, start + at, reader.seed, reader.limit)
            if frame.sequence == sequence:
                return frame
        except BadFrame:
            pass  # the walk below tells what is wrong
    scan = Scan(reader.extent.read, start, reader.limit, reader.seed, INDEX_STRIDE)
    for frame in scan:
        if frame.sequence == sequence:
            return frame
    reason = scan.stop.reason if scan.stop else "the segment ends before it"
    raise Corrupt(reader.extent.path, scan.offset, f"record not found: {reason}", sequence)


def _stride(stretch: bytes, sequence: int) -> int | None:
    """Where the frame `sequence` stands if all headers before it are sound, which nobody checks:
    a fifth of the cost of decoding the hundreds of records between."""
    at, last = 0, len(stretch) - FRAME_BYTES
    while at <= last:
        length, found = LENGTH_AND_SEQUENCE.unpack_from(stretch, at + LENGTH_OFFSET)
        if found == sequence:
            return at
        at += frame_bytes(length)
    return None


def build_index(reader: Reader) -> Index:
    """The sparse index of a segment that has none: the first frame in every INDEX_STRIDE."""
    index: Index = []
    boundary = 0
    for frame in Scan(reader.extent.read, FRAMES_OFFSET, reader.limit, reader.seed):
        if frame.offset >= boundary:
            index.append((frame.sequence, frame.offset))
            boundary = (frame.offset // INDEX_STRIDE + 1) * INDEX_STRIDE
    return index


def stored_index(reader: Reader) -> Index:
    """A sealed segment's index: its footer's, rebuilt when the footer cannot be believed."""
    extent = reader.extent
    at = footer_offset(extent.size)
    try:
        footer = decode_footer(extent.path, at, extent.read(at, extent.size - at), reader.seed)
    except Corrupt:
        footer = None
    return footer.entries if footer else build_index(reader)


@contextlib.contextmanager
def opened(disk: Disk, path: str, end: int) -> Iterator[Reader]:
    """The segment at `path` for the length of a `with` block; its frames end at `end`.

    Raises FileNotFoundError, Corrupt, NewerFormat, LimitExceeded.
    """
    extent = disk.open(path)
    try:
        header = decode_segment_header(path, extent.read(0, PAGE))
        yield Reader(extent, salt_seed(header.salt), end)
    finally:
        extent.close()


class Fetch:
    """Reading ahead for a consumer: `run` it in any thread, then give it to `Log.install`.

    It opens the file by itself and shares nothing with the log, so the log may roll, append and
    let go of segments meanwhile.
    """

    def __init__(
        self,
        disk: Disk,
        path: str,
        base: int,
        end: int,
        sequence: int,
        offset: int | None,
        window_bytes: int,
    ) -> None:
        self.sequence = sequence
        self.window: Window | None = None
        self.damage: Corrupt | None = None
        self._disk = disk
        self._path = path
        self._base = base
        self._end = end
        self._offset = offset  # None: only the index knows
        self._window_bytes = window_bytes

    def run(self) -> None:
        """Blocks until the window is in memory, or what keeps it out stands in `damage`.

        Raises LimitExceeded.
        """
        try:
            with opened(self._disk, self._path, self._end) as reader:
                offset = self._offset
                if offset is None:
                    offset = find(reader, stored_index(reader), self.sequence).offset
                self.window = Window.read(self._base, reader, offset, self._window_bytes)
        except FileNotFoundError:
            self.damage = Corrupt(self._path, 0, "the file is gone", self.sequence)
        except Corrupt as error:
            self.damage = error


class Peek(NamedTuple):
    """Asking when a record was put; shares nothing with the log, as `Fetch`."""

    disk: Disk
    path: str
    offset: int
    sequence: int

    def run(self) -> int | None:
        """Milliseconds since the epoch; None when the record does not stand there any more, or
        cannot be read.  Reads a header and checks its sequence alone: whoever wants the record
        finds the damage.  Blocks."""
        try:
            extent = self.disk.open(self.path)
        except (FileNotFoundError, LogqueueError):
            return None
        try:
            header = extent.read(self.offset, FRAME_BYTES)
        except Corrupt:
            return None
        finally:
            extent.close()
        if len(header) < FRAME_BYTES:
            return None
        _, _, sequence, timestamp, *_ = FRAME.unpack(header)
        return int(timestamp) if sequence == self.sequence else None


class Cold(Exception):
    """The record is not in memory.  Run `fetch` in any thread, install it, and try again."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch
        super().__init__()


class Lookup:
    """Finding one record by its sequence; shares nothing with the log, as `Fetch`.

    `built` is the index of the file when it had to be read or built, for `Log.learn`.
    """

    def __init__(
        self, disk: Disk, path: str, base: int, end: int, sequence: int, index: Index | None
    ) -> None:
        self.base = base
        self.built: Index | None = None
        self._index = index
        self._disk = disk
        self._path = path
        self._end = end
        self._sequence = sequence

    def run(self) -> Frame | None:
        """The record, or None when its segment has been removed meanwhile.  Blocks.

        Raises Corrupt, LimitExceeded.
        """
        found = self.run_many(1, 0)
        return found[0] if found else None

    def run_many(self, maximum: int, bytes_max: int) -> list[Frame]:
        """The record and up to `maximum` - 1 that follow it in its segment, no more than
        `bytes_max` of payload after the first one; [] when the segment has been removed
        meanwhile.  Blocks.  Raises Corrupt, LimitExceeded.
        """
        try:
            with opened(self._disk, self._path, self._end) as reader:
                index = self._index
                if index is None:
                    index = self.built = stored_index(reader)
                found = [find(reader, index, self._sequence)]
                scan = Scan(reader.extent.read, found[0].end, reader.limit, reader.seed)
                while len(found) < maximum and (frame := next(scan, None)) is not None:
                    bytes_max -= len(frame.payload)
                    if bytes_max < 0:
                        break
                    found.append(frame)
                return found
        except FileNotFoundError:
            return []


def damage(path: str, bad: BadFrame, sequence: int) -> Corrupt:
    """A bad frame where the record `sequence` must stand."""
    return Corrupt(path, bad.offset, bad.reason, sequence)
