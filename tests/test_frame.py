"""Frames: what is written is read, and nothing else is ever taken for a frame."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.storage.frame import (
    ALIGNMENT,
    FRAME_BYTES,
    LAG_UNKNOWN,
    MESSAGE,
    BadFrame,
    BadHeader,
    BadPayload,
    Frame,
    Scan,
    Short,
    Unwritten,
    decode,
    decode_run,
    encode_batch,
    encode_header,
    frame_bytes,
    salt_seed,
)

SEED = salt_seed(0x1122334455667788)
U64 = st.integers(0, 2**64 - 1)
PAYLOADS = st.binary(max_size=100)


def encoded(payload: bytes, offset: int = 4096, sequence: int = 7, lag: int = 1) -> bytes:
    header = encode_header(SEED, offset, sequence, 1_700_000_000_000, lag, 0, payload)
    return (header + payload).ljust(frame_bytes(len(payload)), b"\0")


@given(
    payload=PAYLOADS,
    offset=st.integers(0, 2**40).map(lambda n: n * ALIGNMENT),
    sequence=U64,
    timestamp=U64,
    lag=st.integers(0, LAG_UNKNOWN),
    flags=st.integers(0, 255),
    salt=U64,
    before=st.integers(0, 5),
)
def test_round_trip(
    payload: bytes,
    offset: int,
    sequence: int,
    timestamp: int,
    lag: int,
    flags: int,
    salt: int,
    before: int,
) -> None:
    seed = salt_seed(salt)
    header = encode_header(seed, offset, sequence, timestamp, lag, flags, payload)
    assert len(header) == FRAME_BYTES
    buffer = bytes(before) + (header + payload).ljust(frame_bytes(len(payload)), b"\0")
    frame = decode(buffer, before, offset, seed, 1 << 62)
    end = offset + frame_bytes(len(payload))
    assert frame == (offset, end, sequence, timestamp, lag, MESSAGE, flags, payload)
    assert end % ALIGNMENT == 0


@given(payload=PAYLOADS, data=st.data())
def test_any_flipped_bit_is_refused(payload: bytes, data: st.DataObject) -> None:
    """Of everything but the padding, which nobody is ever given."""
    buffer = bytearray(encoded(payload))
    bit = data.draw(st.integers(0, (FRAME_BYTES + len(payload)) * 8 - 1))
    buffer[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadFrame):
        decode(bytes(buffer), 0, 4096, SEED, 1 << 62)


def test_every_single_bit_of_one_frame_is_refused_for_the_right_reason() -> None:
    """A header that does not verify must not be believed; one that does tells where to go on."""
    payload = b"0123456789"
    whole = encoded(payload)
    for bit in range((FRAME_BYTES + len(payload)) * 8):
        buffer = bytearray(whole)
        buffer[bit // 8] ^= 1 << bit % 8
        in_header = 4 <= bit // 8 < FRAME_BYTES
        with pytest.raises(BadHeader if in_header else BadPayload) as bad:
            decode(bytes(buffer), 0, 4096, SEED, 1 << 62)
        if isinstance(bad.value, BadPayload):
            assert (bad.value.sequence, bad.value.end) == (7, 4096 + len(whole))


@pytest.mark.parametrize("length", [0, 1, FRAME_BYTES - 1])
def test_less_than_a_header_is_short(length: int) -> None:
    with pytest.raises(Short) as short:
        decode(encoded(b"x")[:length], 0, 4096, SEED, 1 << 62)
    assert short.value.end == 4096 + FRAME_BYTES


@pytest.mark.parametrize("missing", [8, 15])  # 7 bytes are padding, which nobody reads
def test_less_than_the_payload_is_short_and_says_how_much_it_takes(missing: int) -> None:
    whole = encoded(b"123456789")
    with pytest.raises(Short) as short:
        decode(whole[:-missing], 0, 4096, SEED, 1 << 62)
    assert short.value.end == 4096 + len(whole)


@given(zeros=st.integers(FRAME_BYTES, 200), offset=U64.map(lambda n: n >> 3 << 3), salt=U64)
def test_zeros_are_never_a_frame(zeros: int, offset: int, salt: int) -> None:
    with pytest.raises(Unwritten):
        decode(bytes(zeros), 0, offset, salt_seed(salt), 1 << 62)


@pytest.mark.parametrize("salt", [0, 1, 2**64 - 1])
def test_an_all_zero_header_with_a_payload_is_unwritten(salt: int) -> None:
    """The payload is stored before its header, see `Segment.append`."""
    with pytest.raises(Unwritten):
        decode(bytes(FRAME_BYTES) + b"payload", 0, 4096, salt_seed(salt), 1 << 62)


def test_type_zero_is_refused_even_when_everything_else_holds() -> None:
    buffer = bytearray(encoded(b""))
    buffer[28] = 0
    with pytest.raises(BadHeader, match="frame type 0"):
        decode(bytes(buffer), 0, 4096, SEED, 1 << 62)


@given(payload=PAYLOADS, moved=st.integers(1, 2**40), salt=U64)
def test_moved_and_foreign_frames_are_refused(payload: bytes, moved: int, salt: int) -> None:
    whole = encoded(payload)
    with pytest.raises(BadHeader):
        decode(whole, 0, 4096 + moved * ALIGNMENT, SEED, 1 << 62)
    if salt_seed(salt) != SEED:
        with pytest.raises(BadHeader):
            decode(whole, 0, 4096, salt_seed(salt), 1 << 62)


def test_a_frame_may_touch_the_limit_but_not_cross_it() -> None:
    whole = encoded(b"payload")
    end = 4096 + len(whole)
    assert decode(whole, 0, 4096, SEED, end).end == end
    with pytest.raises(BadHeader, match=f"would end at {end}, past the segment's {end - 8}"):
        decode(whole, 0, 4096, SEED, end - 8)


@given(
    payloads=st.lists(st.binary(max_size=300), max_size=30),
    window=st.integers(1, 400),
    stop=st.sampled_from(["zeros", "limit", "end of file", "garbage"]),
)
def test_a_scan_finds_all_frames_through_any_window(
    payloads: list[bytes], window: int, stop: str
) -> None:
    """Frames straddle windows, are larger than one, end with the file or before zeros."""
    image = b""
    for number, payload in enumerate(payloads, 1):
        image += encoded(payload, len(image), number)
    end = limit = len(image)
    if stop == "zeros":
        image, limit = image + bytes(500), end + 500
    elif stop == "end of file":
        limit = end + 500
    elif stop == "garbage":
        image, limit = image + b"\x01" * 500, end + 500
    scan = Scan(lambda offset, length: image[offset : offset + length], 0, limit, SEED, window)
    assert [(frame.sequence, frame.payload) for frame in scan] == [*enumerate(payloads, 1)]
    assert scan.offset == end
    expected = {"zeros": Unwritten, "limit": None, "end of file": BadHeader, "garbage": BadHeader}
    assert (type(scan.stop) if scan.stop else None) is expected[stop]
    assert next(scan, None) is None  # a scan that has stopped stays stopped


def test_a_scan_stops_at_a_bad_payload_and_says_where_the_next_frame_is() -> None:
    first = encoded(b"first", 0, 1)
    second = bytearray(encoded(b"second", len(first), 2))
    second[FRAME_BYTES] ^= 1
    image = first + bytes(second)
    scan = Scan(lambda offset, length: image[offset : offset + length], 0, len(image), SEED)
    assert [frame.sequence for frame in scan] == [1]
    assert isinstance(scan.stop, BadPayload)
    assert (scan.offset, scan.stop.sequence, scan.stop.end) == (len(first), 2, len(image))


@given(
    payloads=st.lists(PAYLOADS, min_size=1, max_size=8),
    count=st.integers(1, 10),
    room=st.integers(0, 200),
    data=st.data(),
)
def test_a_run_is_what_decode_gives_one_by_one(
    payloads: list[bytes], count: int, room: int, data: st.DataObject
) -> None:
    """Up to the first one that is damaged, missing, out of order, or too much."""
    whole, _ = encode_batch(SEED, 4096, 7, 1, 0, payloads)
    buffer = bytearray(whole)
    if (bit := data.draw(st.none() | st.integers(0, len(buffer) * 8 - 1))) is not None:
        buffer[bit // 8] ^= 1 << bit % 8
    limit = 4096 + data.draw(st.integers(0, len(buffer)))
    cut = bytes(buffer[: data.draw(st.integers(0, len(buffer)))])
    expected: list[Frame] = []
    at, left = 0, room
    while len(expected) < count:
        try:
            frame = decode(cut, at, 4096 + at, SEED, limit)
        except BadFrame:
            break
        left -= len(frame.payload)
        if left < 0:
            break
        expected.append(frame)
        at = frame.end - 4096
    assert decode_run(cut, 0, 4096, SEED, limit, 7, count, room) == expected
    assert decode_run(cut, 0, 4096, SEED, limit, 8, count, room) == []


def test_a_walk_that_has_ended_holds_its_window_no_longer_than_itself() -> None:
    gc.collect()
    gc.disable()
    try:
        scan = Scan(lambda offset, length: bytes(length), 4096, 1 << 20, 0)
        assert list(scan) == []
        assert isinstance(scan.stop, Unwritten)
        ended = weakref.ref(scan)
        del scan
        assert ended() is None
    finally:
        gc.enable()
