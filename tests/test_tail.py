"""Where a segment ends after a crash: batches count as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from logqueue.errors import Corrupt
from logqueue.storage.disk import MmapDisk
from logqueue.storage.format import (
    FRAMES_OFFSET,
    NOTHING_BEFORE,
    SEGMENT_BYTES_MIN,
    SegmentHeader,
)
from logqueue.storage.frame import MORE, encode_header, frame_bytes, salt_seed
from logqueue.storage.tail import Tail, scan_tail

HEADER = SegmentHeader(bytes(16), 1, 77, SEGMENT_BYTES_MIN, 0, NOTHING_BEFORE)
PAYLOAD = b"payload"
STEP = frame_bytes(len(PAYLOAD))


def scan(tmp_path: Path, flags: str, *, damaged: int = 0, lag: int = 100) -> tuple[Tail, list[str]]:
    """The tail of a segment with one record for each of `flags`, `m` for MORE; the record
    `damaged` has a flipped bit.  `lag` 100 proves nothing durable."""
    extent = MmapDisk().create(os.path.join(tmp_path, "segment"), SEGMENT_BYTES_MIN)
    offset = FRAMES_OFFSET
    for sequence, flag in enumerate(flags, 1):
        more = MORE if flag == "m" else 0
        header = encode_header(salt_seed(77), offset, sequence, 0, lag, more, PAYLOAD)
        frame = bytearray(header + PAYLOAD)
        frame[-1] ^= sequence == damaged
        extent.write(offset, bytes(frame))
        offset += STEP
    notes: list[str] = []
    try:
        return scan_tail(extent, HEADER, 0, FRAMES_OFFSET, 0, notes), notes
    finally:
        extent.close()


@pytest.mark.parametrize(
    ("flags", "damaged", "last"),
    [
        (".mm.", 0, 4),
        (".mm", 0, 1),
        ("mm", 0, 0),
        (".mm.", 4, 1),
        (".mm.", 3, 1),
        (".mm.", 2, 1),
        (".mm..", 5, 4),
        ("m.m.", 4, 2),
        ("m.m.", 1, 0),
    ],
)
def test_a_batch_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, flags: str, damaged: int, last: int
) -> None:
    tail, notes = scan(tmp_path, flags, damaged=damaged)
    assert (tail.last, tail.end) == (last, FRAMES_OFFSET + last * STEP)
    cut = last < len(flags)
    assert tail.appendable is not cut
    assert len(notes) == cut
    if cut:
        # The last byte of the payload is followed by padding that is zero anyway.
        assert tail.dropped_bytes == (len(flags) - last) * STEP - (STEP - 32 - len(PAYLOAD))


def test_a_cut_batch_below_what_was_acknowledged_is_damage(tmp_path: Path) -> None:
    with pytest.raises(Corrupt) as damage:  # a lag of 1: all before each record was durable
        scan(tmp_path, ".m.m.", damaged=3, lag=1)
    assert damage.value.sequence == 2
    assert damage.value.offset == FRAMES_OFFSET + STEP
