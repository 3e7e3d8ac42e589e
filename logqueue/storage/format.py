"""The structures of every file but their frames: segment header and footer, cursor, meta.

Pure: no I/O.  Integers are little-endian.  Every structure starts with a magic of 8 bytes, its
version and a CRC-32C over all of it, mixed with what it belongs to (queue id, segment salt), so
that a structure that was moved, swapped or left over never verifies, and neither do zeros.
`docs/format.md` is the same page for people; a test holds the two equal.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

from logqueue.errors import Corrupt, NewerFormat
from logqueue.storage.frame import frame_bytes

VERSION = 1
PAGE = 4096
CRC = Struct("<I")

# ---------------------------------------------------------------- segments

SEGMENT = Struct("<8sII16sQQQQQQQI")
SEGMENT_BYTES = 92
assert SEGMENT.size == SEGMENT_BYTES
SEGMENT_MAGIC = b"LQ-SEGM\n"
_CRC_OFFSET = 12  # of every structure below: magic, version, then the CRC
FRAMES_OFFSET = PAGE  # the first frame follows the header page

FOOTER = Struct("<8sIIQQQIIQ")
FOOTER_BYTES = 56
assert FOOTER.size == FOOTER_BYTES
FOOTER_MAGIC = b"LQ-FOOT\n"
INDEX_ENTRY = Struct("<QQ")  # sequence, offset
INDEX_ENTRY_BYTES = 16
assert INDEX_ENTRY.size == INDEX_ENTRY_BYTES
INDEX_STRIDE = 64 * 1024  # one index entry for this many bytes of frames

SEGMENT_BYTES_MIN = 32 * 1024  # a queue of a few messages takes 48 KiB in all, and rolls double it


class Ended(NamedTuple):
    """What a segment ended with: its base, last sequence, end offset, CRC of bytes 0..end."""

    base: int
    last: int
    end: int
    crc: int


NOTHING_BEFORE = Ended(0, 0, 0, 0)


class SegmentHeader(NamedTuple):
    """The first page of a segment.  `previous` is what the segment before it ended with."""

    queue_id: bytes
    base: int
    salt: int
    size: int
    created: int  # milliseconds since the epoch
    previous: Ended


class Footer(NamedTuple):
    """What a sealed segment says of itself; a cache, never believed without its CRC."""

    ended: Ended
    sealed: int  # milliseconds since the epoch
    entries: list[tuple[int, int]]  # the sparse index: (sequence, offset), one an INDEX_STRIDE


def footer_offset(size: int) -> int:
    """Where the footer of a segment file of `size` bytes starts, and frames must have ended."""
    entries = -(-size // INDEX_STRIDE)
    return size - (-(-(FOOTER_BYTES + entries * INDEX_ENTRY_BYTES) // PAGE) * PAGE)


def segment_size_for(length: int, wanted: int) -> int:
    """The file size of a segment that holds at least one payload of `length`: `wanted` if it
    does, else the least whole number of pages that does."""
    size = wanted
    while footer_offset(size) - FRAMES_OFFSET < frame_bytes(length):
        size = -(-max(size, frame_bytes(length)) // PAGE) * PAGE + PAGE
    return size


def _sign(data: bytes, seed: int) -> bytes:
    """`data` with its CRC field, which is zero so far, filled in."""
    crc = CRC.pack(crc32c(data, seed))
    return data[:_CRC_OFFSET] + crc + data[_CRC_OFFSET + 4 :]


def _verify(path: str, offset: int, data: bytes, magic: bytes, seed: int, what: str) -> None:
    """Raises NewerFormat or Corrupt unless `data` is a structure signed by `_sign`."""
    if data[:8] != magic:
        raise Corrupt(path, offset, f"this is no {what}: its magic is {data[:8]!r}")
    version, crc = CRC.unpack_from(data, 8)[0], CRC.unpack_from(data, _CRC_OFFSET)[0]
    unsigned = data[:_CRC_OFFSET] + bytes(4) + data[_CRC_OFFSET + 4 :]
    if crc != crc32c(unsigned, seed):
        raise Corrupt(path, offset, f"the CRC of the {what} does not hold")
    if version > VERSION:  # after the CRC: a flipped bit is damage, not a version from the future
        raise NewerFormat(path, version, VERSION)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The header page, PAGE bytes."""
    packed = SEGMENT.pack(
        SEGMENT_MAGIC,
        VERSION,
        0,
        header.queue_id,
        header.base,
        header.salt,
        header.size,
        header.created,
        *header.previous,
    )
    return _sign(packed.ljust(PAGE, b"\0"), 0)


def decode_segment_header(path: str, page: bytes) -> SegmentHeader:
    """The header in `page`.  Raises Corrupt or NewerFormat."""
    if len(page) < PAGE:
        raise Corrupt(path, len(page), "the file ends inside its header page")
    _verify(path, 0, page, SEGMENT_MAGIC, 0, "segment header")
    _, _, _, queue_id, base, salt, size, created, *previous = SEGMENT.unpack_from(page)
    return SegmentHeader(queue_id, base, salt, size, created, Ended(*previous))


def encode_footer(footer: Footer, seed: int) -> bytes:
    """The footer and its index; `seed` is that of the segment's salt."""
    base, last, end, crc = footer.ended
    packed = FOOTER.pack(
        FOOTER_MAGIC, VERSION, 0, base, last, end, crc, len(footer.entries), footer.sealed
    )
    return _sign(packed + b"".join(INDEX_ENTRY.pack(*entry) for entry in footer.entries), seed)


def decode_footer(path: str, offset: int, data: bytes, seed: int) -> Footer | None:
    """The footer in `data` (from `footer_offset` to the end of the file).

    None when the area is all zero: the segment was never sealed.  Raises Corrupt or NewerFormat.
    """
    if data.count(0) == len(data):
        return None
    if len(data) < FOOTER_BYTES:
        raise Corrupt(path, offset, "the file ends inside its footer")
    *_, base, last, end, crc, count, sealed = FOOTER.unpack_from(data)
    size = FOOTER_BYTES + count * INDEX_ENTRY_BYTES
    if size > len(data) or data[size:].count(0) != len(data) - size:
        raise Corrupt(path, offset, "the footer's index does not fit its area")
    _verify(path, offset, data[:size], FOOTER_MAGIC, seed, "segment footer")
    index = list(INDEX_ENTRY.iter_unpack(data[FOOTER_BYTES:size]))
    return Footer(Ended(base, last, end, crc), sealed, index)


def index_lookup(index: list[tuple[int, int]], sequence: int) -> int:
    """The offset of the last indexed frame at or before `sequence`; the first frame's if none."""
    at = bisect_right(index, sequence, key=lambda entry: entry[0])
    return index[at - 1][1] if at else FRAMES_OFFSET


# ---------------------------------------------------------------- the cursor

CURSOR_ENTRY = Struct("<8sHHIQQQQQQQ")
CURSOR_ENTRY_BYTES = 72
assert CURSOR_ENTRY.size == CURSOR_ENTRY_BYTES
CURSOR_HEAD = Struct("<8sHH")  # before the CRC
CURSOR_STATE = Struct("<7Q")  # after it
assert CURSOR_HEAD.size + 4 + CURSOR_STATE.size == CURSOR_ENTRY_BYTES
CURSOR_MAGIC = b"LQ-CURS\n"
CURSOR_CLEAN = 1
CURSOR_LEASED = 2
SECTOR = 512  # what a disk writes as a whole
CURSOR_SLOTS = 2
CURSOR_ENTRIES = PAGE // SECTOR  # per slot
CURSOR_FILE_BYTES = CURSOR_SLOTS * PAGE


class Checkpoint(NamedTuple):
    """The state of a queue's consumption.

    `consumed` is the last consumed sequence; the next record stands in segment `base` at
    `offset`.  Everything up to `durable`, which ends in segment `durable_base` at
    `durable_offset`, had been synced when this was written.
    """

    generation: int
    flags: int
    consumed: int
    base: int
    offset: int
    durable: int
    durable_base: int
    durable_offset: int

    @property
    def clean(self) -> bool:
        """Whether the queue was closed in good order with nothing left to sync."""
        return bool(self.flags & CURSOR_CLEAN)

    @property
    def leased(self) -> bool:
        """Whether there is an acknowledgement log beside the cursor."""
        return bool(self.flags & CURSOR_LEASED)


def checkpoint_head(flags: int, queue_seed: int) -> tuple[bytes, int]:
    """What stands before the CRC of a cursor entry, and the CRC state after it.

    `queue_seed` is `crc32c(queue id)`: a foreign cursor does not verify.
    """
    head = CURSOR_HEAD.pack(CURSOR_MAGIC, VERSION, flags)
    return head, crc32c(head + bytes(4), queue_seed)


def encode_checkpoint(checkpoint: Checkpoint, queue_seed: int) -> bytes:
    """One cursor entry."""
    head, seed = checkpoint_head(checkpoint.flags, queue_seed)
    state = CURSOR_STATE.pack(checkpoint.generation, *checkpoint[2:])
    return head + CRC.pack(crc32c(state, seed)) + state


def decode_checkpoint(path: str, offset: int, data: bytes, queue_seed: int) -> Checkpoint:
    """The entry in `data`, one sector.  Raises Corrupt or NewerFormat."""
    if len(data) < SECTOR:
        raise Corrupt(path, offset, "the file ends inside a cursor entry")
    _, version, flags, crc, generation, *rest = CURSOR_ENTRY.unpack_from(data)
    if data[:8] != CURSOR_MAGIC:
        raise Corrupt(path, offset, f"this is no cursor entry: its magic is {data[:8]!r}")
    unsigned = data[:_CRC_OFFSET] + bytes(4) + data[_CRC_OFFSET + 4 : CURSOR_ENTRY_BYTES]
    if crc != crc32c(unsigned, queue_seed):
        raise Corrupt(path, offset, "the CRC of the cursor entry does not hold")
    if data.count(0, CURSOR_ENTRY_BYTES) != SECTOR - CURSOR_ENTRY_BYTES:
        raise Corrupt(path, offset, "the rest of the cursor entry's sector is not zero")
    if version > VERSION:
        raise NewerFormat(path, version, VERSION)
    return Checkpoint(generation, flags, *rest)


# ---------------------------------------------------------------- the meta file

META = Struct("<8sII16sQHHI")
META_BYTES = 48
assert META.size == META_BYTES
META_MAGIC = b"LQ-META\n"
RING = Struct("<QQQ")
RING_BYTES = 24
assert RING.size == RING_BYTES

NAME_BYTES_MAX = 256  # HTTPSQS's own limit
MAXQUEUE_DEFAULT = 1_000_000
MAXQUEUE_MIN = 10
MAXQUEUE_MAX = 1_000_000_000


class Ring(NamedTuple):
    """How sequences map to HTTPSQS positions, for the sequences above `after`.

    Position = (sequence - base - 1) mod maxqueue + 1.
    """

    after: int
    base: int
    maxqueue: int


class Meta(NamedTuple):
    """What a queue is, apart from its records.  `rings` is oldest first; the last is in force."""

    queue_id: bytes
    created: int  # milliseconds since the epoch
    name: bytes
    rings: tuple[Ring, ...]
    options: dict[str, object]


def encode_meta(meta: Meta) -> bytes:
    """The whole meta file."""
    options = json.dumps(meta.options, sort_keys=True).encode() if meta.options else b""
    packed = META.pack(
        META_MAGIC,
        VERSION,
        0,
        meta.queue_id,
        meta.created,
        len(meta.name),
        len(meta.rings),
        len(options),
    )
    return _sign(packed + meta.name + b"".join(RING.pack(*r) for r in meta.rings) + options, 0)


def decode_meta(path: str, data: bytes) -> Meta:
    """The meta file in `data`.  Raises Corrupt or NewerFormat."""
    if len(data) < META_BYTES:
        raise Corrupt(path, len(data), "the file ends inside the meta header")
    _verify(path, 0, data, META_MAGIC, 0, "meta file")
    _, _, _, queue_id, created, name_size, ring_count, options_size = META.unpack_from(data)
    rings_at = META_BYTES + name_size
    options_at = rings_at + ring_count * RING_BYTES
    if len(data) != options_at + options_size or not ring_count:
        raise Corrupt(path, 0, "the meta file's lengths do not add up to its size")
    rings = tuple(Ring(*ring) for ring in RING.iter_unpack(data[rings_at:options_at]))
    options = json.loads(data[options_at:]) if options_size else {}
    return Meta(queue_id, created, data[META_BYTES:rings_at], rings, options)


_REPAIRED_LINKS = "repaired_links"  # in the options: base -> what stands before that segment now


def repaired_links(meta: Meta) -> dict[int, Ended]:
    """What stands before a segment, by its base, where that is not what its header says.

    A repair takes damaged records out of a segment and thereby replaces it, and must not touch
    the successor, whose header still describes the damaged one.
    """
    links = meta.options.get(_REPAIRED_LINKS, {})
    assert isinstance(links, dict)
    return {int(base): Ended(*ended) for base, ended in links.items()}


def with_repaired_links(meta: Meta, links: dict[int, Ended]) -> Meta:
    """`meta` with exactly these `links` in place of its own."""
    options = {key: value for key, value in meta.options.items() if key != _REPAIRED_LINKS}
    if links:
        options[_REPAIRED_LINKS] = {str(base): list(ended) for base, ended in links.items()}
    return meta._replace(options=options)
