"""One preallocated segment file: append to it, read from it, seal it.

`Segment` is the active one, mapped for stores.  What this process has appended to it is hot and is
read straight from the map; what stood there before is read as a sealed segment is (`reader`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from crc32c import crc32c

from logqueue.errors import DiskFull, LimitExceeded
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    FRAMES_OFFSET,
    INDEX_STRIDE,
    Ended,
    Footer,
    SegmentHeader,
    encode_footer,
    encode_segment_header,
    footer_offset,
)
from logqueue.storage.frame import (
    Frame,
    decode,
    encode_batch,
    encode_header,
    frame_bytes,
    salt_seed,
)
from logqueue.storage.layout import segment_name
from logqueue.storage.reader import Index, Reader, build_index

JOIN_BYTES_MAX = 8 * 1024  # up to here one joined store is cheaper than two stores
_CRC_BLOCK_BYTES = 1 << 20


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
        self.hot_from = end  # what stands before it was there before this start
        self._index: Index = []  # of the frames from `hot_from` on
        # Of the frames before; None until somebody needs it.
        self._older: Index | None = [] if end == FRAMES_OFFSET else None
        self._boundary = 0
        self._ended: Ended | None = None
        self._retired = False

    @classmethod
    def publish(cls, disk: Disk, directory: str, extent: Extent, header: SegmentHeader) -> Segment:
        """Turn an allocated temporary file into the segment `header` describes; durable on return.

        Closes `extent` when it fails.  Raises DiskFull, LimitExceeded, StorageFailed.
        """
        try:
            extent.write(0, encode_segment_header(header))
            extent.sync()
            path = os.path.join(directory, segment_name(header.base))
            disk.publish(extent.path, path)
            extent.path = path
        except (
            DiskFull,
            LimitExceeded,
        ):  # no room for the name: the allocated file must not eat the rest
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
        if offset >= self._boundary:
            self._index.append((sequence, offset))
            self._boundary = (offset // INDEX_STRIDE + 1) * INDEX_STRIDE
        self.end = offset + frame_bytes(len(payload))
        self.last = sequence
        return sequence

    def append_batch(
        self, payloads: Sequence[bytes], timestamp: int, lag: int, flags: Sequence[int] = ()
    ) -> int:
        """Store records that must fit together, in one store; the first one's sequence."""
        first = self.last + 1
        data, offsets = encode_batch(self.seed, self.end, first, timestamp, lag, payloads, flags)
        self.extent.write(self.end, data)
        for sequence, offset in enumerate(offsets, first):
            if offset >= self._boundary:
                self._index.append((sequence, offset))
                self._boundary = (offset // INDEX_STRIDE + 1) * INDEX_STRIDE
        self.end += len(data)
        self.last += len(offsets)
        return first

    def frame(self, offset: int) -> Frame:
        """The frame at `offset`, not before `hot_from`, from the map.  Raises BadFrame."""
        return decode(self.extent.buffer, offset, offset, self.seed, self.end)

    def index_for(self, sequence: int) -> Index | None:
        """An index that leads to the frame `sequence`; None when that takes `learn` first."""
        if self._older is None and self._index and sequence >= self._index[0][0]:
            return self._index
        return self.index

    @property
    def index(self) -> Index | None:
        """The sparse index of the whole segment; None until `learn` tells of its older part."""
        if not self._older:  # None, or nothing
            return None if self._older is None else self._index
        if not self._index:
            return self._older
        # The first new frame need not be the first one of its stride.
        same = self._older[-1][1] // INDEX_STRIDE == self._index[0][1] // INDEX_STRIDE
        return self._older + self._index[same:]

    def learn(self, older: Index) -> None:
        """Take over the index of the frames before `hot_from`; a footer from before a power cut
        may know frames that are gone."""
        self._older = [entry for entry in older if entry[1] < self.hot_from]

    def seal(self, now: int) -> Ended:
        """Write the footer and make the whole segment durable; nothing fits any more.

        `now` in milliseconds since the epoch.  Doing it again gives the same answer.
        """
        self.retire()
        if self._ended is None:
            if self._older is None:
                self.learn(build_index(Reader(self.extent, self.seed, self.hot_from)))
            index = self.index
            assert index is not None
            ended = Ended(self.base, self.last, self.end, crc_of(self.extent, self.end))
            footer = encode_footer(Footer(ended, now, index), self.seed)
            # All of the area, because a footer from before a power cut may be longer.
            area = self.extent.size - self.limit
            self.extent.write(self.limit, footer.ljust(area, b"\0"))
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
