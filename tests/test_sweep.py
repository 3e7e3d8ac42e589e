"""`sweep` finds every valid frame, whatever stands between them, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logqueue.storage.frame import Read, encode_header, frame_bytes, salt_seed
from logqueue.storage.sweep import sweep

SEED = salt_seed(7)
START = 4096


def stored(pieces: list[tuple[bool, bytes]]) -> tuple[bytes, list[tuple[int, bytes]]]:
    """A stretch of file from START on: frames, and between them garbage of multiples of 8 bytes.
    The bytes, and the (offset, payload) of every frame."""
    data, frames = b"", []
    for sequence, (is_frame, content) in enumerate(pieces, 1):
        offset = START + len(data)
        if is_frame:
            data += encode_header(SEED, offset, sequence, 0, 0, 0, content) + content
            data += bytes(frame_bytes(len(content)) - 32 - len(content))
            frames.append((offset, content))
        else:
            data += content.ljust(-(-len(content) // 8) * 8, b"\1")
    return data, frames


def reader(data: bytes) -> Read:
    return lambda offset, length: data[offset - START : max(0, offset - START + length)]


@given(
    st.lists(st.tuples(st.booleans(), st.binary(max_size=200)), max_size=30), st.integers(32, 99)
)
def test_finds_every_frame_and_nothing_else(pieces: list[tuple[bool, bytes]], window: int) -> None:
    data, frames = stored(pieces)
    found = list(sweep(reader(data), START, START + len(data), SEED, window_bytes=window))
    assert [(frame.offset, frame.payload) for frame in found] == frames


def test_a_frame_inside_the_payload_of_a_damaged_one_is_found_only_where_it_belongs() -> None:
    inner = encode_header(SEED, START + 32, 9, 0, 0, 0, b"inside") + b"inside\0\0"
    data = bytearray(stored([(True, inner), (True, b"next")])[0])
    data[0] ^= 1
    found = list(sweep(reader(bytes(data)), START, START + len(data), SEED))
    assert [frame.payload for frame in found] == [b"inside", b"next"]
    moved = bytes(8) + bytes(data)
    assert not list(sweep(reader(moved), START, START + len(moved), SEED))


def test_ends_where_it_is_told() -> None:
    data, frames = stored([(True, b"a"), (False, b"x"), (True, b"b")])
    limit = START + len(data)
    assert len(list(sweep(reader(data), START, limit, SEED, frames[1][0]))) == 1
    assert len(list(sweep(reader(data), START, limit, SEED, frames[1][0] + 1))) == 2
