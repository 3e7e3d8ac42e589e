"""One preallocated segment file: append to it, read from it, seal it.

`Segment` is the active one, mapped for stores.  `Reader` reads any segment with pread in windows,
so that a cold page is never faulted in under the GIL.  What this process has appended itself is
hot and is read straight from the map.
"""

from __future__ import annotations

import os
import secrets

from crc32c import crc32c

from logqueue.errors import Corrupt, DiskFull
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    FRAMES_OFFSET,
    INDEX_STRIDE,
    Ended,
    Footer,
    SegmentHeader,
    decode_footer,
    encode_footer,
    encode_segment_header,
    footer_offset,
    index_lookup,
)
from logqueue.storage.frame import (
    BadFrame,
    Frame,
    Scan,
    Short,
    decode,
    encode_header,
    frame_bytes,
    salt_seed,
)
from logqueue.storage.layout import segment_name

READ_WINDOW_BYTES = 128 * 1024  # read-ahead of a consumer: a few hundred small records
JOIN_BYTES_MAX = 8 * 1024  # up to here one joined store is cheaper than two stores
_CRC_BLOCK_BYTES = 1 << 20


class Reader:
    """Frames of one segment by offset, read in windows.  `limit` is where its frames end."""

    def __init__(self, extent: Extent, seed: int, limit: int) -> None:
        self.extent = extent
        self.seed = seed
        self.limit = limit
        self._window = b""
        self._window_offset = 0

    def frame(self, offset: int) -> Frame:
        """The frame at `offset`.  Raises BadFrame."""
        at = offset - self._window_offset
        if 0 <= at < len(self._window):
            try:
                return decode(self._window, at, offset, self.seed, self.limit)
            except Short:
                pass
        self._fill(offset, READ_WINDOW_BYTES)
        try:
            return decode(self._window, 0, offset, self.seed, self.limit)
        except Short as short:
            self._fill(offset, short.end - offset)
        return decode(self._window, 0, offset, self.seed, self.limit)

    def _fill(self, offset: int, length: int) -> None:
        self._window = self.extent.read(offset, min(length, self.limit - offset))
        self._window_offset = offset


def find(reader: Reader, index: list[tuple[int, int]], sequence: int) -> int:
    """The offset of the frame `sequence` by way of the sparse index.  Raises Corrupt."""
    start = index_lookup(index, sequence)
    scan = Scan(reader.extent.read, start, reader.limit, reader.seed, INDEX_STRIDE)
    for frame in scan:
        if frame.sequence == sequence:
            return frame.offset
    reason = scan.stop.reason if scan.stop else "the segment ends before it"
    raise Corrupt(reader.extent.path, scan.offset, f"record not found: {reason}", sequence)


def build_index(reader: Reader) -> list[tuple[int, int]]:
    """The sparse index of a segment that has none: the first frame in every INDEX_STRIDE."""
    index: list[tuple[int, int]] = []
    boundary = 0
    for frame in Scan(reader.extent.read, FRAMES_OFFSET, reader.limit, reader.seed):
        if frame.offset >= boundary:
            index.append((frame.sequence, frame.offset))
            boundary = (frame.offset // INDEX_STRIDE + 1) * INDEX_STRIDE
    return index


def stored_index(reader: Reader) -> list[tuple[int, int]]:
    """A sealed segment's index: its footer's, rebuilt when the footer cannot be believed."""
    extent = reader.extent
    at = footer_offset(extent.size)
    try:
        footer = decode_footer(extent.path, at, extent.read(at, extent.size - at), reader.seed)
    except Corrupt:
        footer = None
    return footer.entries if footer else build_index(reader)


class Segment:
    """The active segment.  `last` is its newest sequence (base - 1 when empty), `end` the offset
    where the next frame goes."""

    def __init__(self, extent: Extent, header: SegmentHeader, last: int, end: int) -> None:
        self.extent = extent
        self.header = header
        self.base = header.base
        self.seed = salt_seed(header.salt)
        self.last = last
        self.end = end
        self.limit = footer_offset(extent.size)
        self._hot_from = end
        self._cold = Reader(extent, self.seed, end)
        # None: there are records from before this start, and nobody has asked for them yet.
        self._index: list[tuple[int, int]] | None = [] if end == FRAMES_OFFSET else None
        self._boundary = 0
        self._ended: Ended | None = None
        self._retired = False

    @classmethod
    def publish(cls, disk: Disk, directory: str, extent: Extent, header: SegmentHeader) -> Segment:
        """Turn an allocated temporary file into the segment `header` describes; durable on return.

        Closes `extent` when it fails.  Raises DiskFull, StorageFailed.
        """
        try:
            extent.write(0, encode_segment_header(header))
            extent.sync()
            path = os.path.join(directory, segment_name(header.base))
            disk.rename(extent.path, path)
            extent.path = path
            disk.sync_directory(directory)
        except DiskFull:  # no room for the name: the allocated file must not eat the rest
            extent.close()
            disk.unlink(extent.path)
            raise
        except BaseException:
            extent.close()
            raise
        return cls(extent, header, header.base - 1, FRAMES_OFFSET)

    def retire(self) -> None:
        """Nothing fits any more: something that was never acknowledged stands behind `end`."""
        self._retired = True

    def fits(self, length: int) -> bool:
        """Whether a payload of `length` bytes has room here."""
        return not self._retired and self.end + frame_bytes(length) <= self.limit

    def append(self, payload: bytes, timestamp: int, lag: int, flags: int = 0) -> int:
        """Store one record, which must fit; its sequence.  Not durable before `extent.sync`."""
        offset, sequence = self.end, self.last + 1
        header = encode_header(self.seed, offset, sequence, timestamp, lag, flags, payload)
        if len(payload) <= JOIN_BYTES_MAX:
            self.extent.write(offset, header + payload)
        else:
            self.extent.write(offset + len(header), payload)
            self.extent.write(offset, header)
        if offset >= self._boundary and self._index is not None:
            self._index.append((sequence, offset))
            self._boundary = (offset // INDEX_STRIDE + 1) * INDEX_STRIDE
        self.end = offset + frame_bytes(len(payload))
        self.last = sequence
        return sequence

    def frame(self, offset: int) -> Frame:
        """The frame at `offset`.  Raises BadFrame."""
        if offset >= self._hot_from:
            return decode(self.extent.buffer, offset, offset, self.seed, self.end)
        return self._cold.frame(offset)

    def find(self, sequence: int) -> int:
        """The offset of the frame `sequence`, which must be one of this segment's."""
        reader = Reader(self.extent, self.seed, self.end)
        if self._index is None:
            self._index = build_index(reader)
        return find(reader, self._index, sequence)

    def seal(self, now: int) -> Ended:
        """Write the footer and make the whole segment durable; nothing fits any more.

        `now` in milliseconds since the epoch.  Doing it again gives the same answer.
        """
        self.retire()
        if self._ended is None:
            if self._index is None:
                self._index = build_index(Reader(self.extent, self.seed, self.end))
            ended = Ended(self.base, self.last, self.end, crc_of(self.extent, self.end))
            self.extent.write(self.limit, encode_footer(Footer(ended, now, self._index), self.seed))
            self._ended = ended
        self.extent.sync()
        return self._ended


def new_salt() -> int:
    """A salt that no other segment has."""
    return secrets.randbits(64)


def crc_of(extent: Extent, end: int) -> int:
    """CRC-32C of the first `end` bytes of a file."""
    crc = 0
    for offset in range(0, end, _CRC_BLOCK_BYTES):
        crc = crc32c(extent.read(offset, min(_CRC_BLOCK_BYTES, end - offset)), crc)
    return crc


def damage(path: str, bad: BadFrame, sequence: int) -> Corrupt:
    """A bad frame where the record `sequence` must stand."""
    return Corrupt(path, bad.offset, bad.reason, sequence)
