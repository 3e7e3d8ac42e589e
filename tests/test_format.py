"""Segment headers, footers, cursor entries and meta files: round trips, damage, newer versions."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from struct import pack_into

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from logqueue.errors import Corrupt, NewerFormat
from logqueue.storage.format import (
    CURSOR_CLEAN,
    CURSOR_ENTRY_BYTES,
    FOOTER_BYTES,
    FRAMES_OFFSET,
    INDEX_ENTRY_BYTES,
    INDEX_STRIDE,
    NAME_BYTES_MAX,
    PAGE,
    SECTOR,
    SEGMENT_BYTES_MIN,
    VERSION,
    Checkpoint,
    Ended,
    Footer,
    Meta,
    Ring,
    SegmentHeader,
    decode_checkpoint,
    decode_footer,
    decode_meta,
    decode_segment_header,
    encode_checkpoint,
    encode_footer,
    encode_meta,
    encode_segment_header,
    footer_offset,
    index_lookup,
    segment_size_for,
)
from logqueue.storage.frame import frame_bytes, salt_seed
from logqueue.storage.layout import (
    decode_format,
    directory_name,
    encode_format,
    segment_base,
    segment_name,
)

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
IDS = st.binary(min_size=16, max_size=16)
ENDED = st.builds(Ended, U64, U64, U64, U32)
HEADERS = st.builds(SegmentHeader, IDS, U64, U64, U64, U64, ENDED)
FOOTERS = st.builds(Footer, ENDED, U64, st.lists(st.tuples(U64, U64), max_size=40))
CHECKPOINTS = st.builds(Checkpoint, U64, st.integers(0, 2**16 - 1), *[U64] * 6)
METAS = st.builds(
    Meta,
    IDS,
    U64,
    st.binary(max_size=NAME_BYTES_MAX),
    st.lists(st.builds(Ring, U64, U64, U64), min_size=1, max_size=16).map(tuple),
    st.dictionaries(st.text(max_size=10), st.integers() | st.text(max_size=10), max_size=4),
)
SEED = salt_seed(99)
QUEUE_SEED = crc32c(b"q" * 16)
AREA = PAGE


def padded_footer(footer: Footer) -> bytes:
    return encode_footer(footer, SEED).ljust(AREA, b"\0")


HEADER = SegmentHeader(b"i" * 16, 8, 99, 65536, 1_700_000_000_000, Ended(1, 7, 5000, 0xABCD))
FOOTER = Footer(Ended(8, 20, 9000, 0xCAFE), 1_700_000_000_001, [(8, 4096), (12, 70000)])
CHECKPOINT = Checkpoint(5, CURSOR_CLEAN, 4, 1, 4200, 7, 1, 4400)
META = Meta(b"i" * 16, 1_700_000_000_000, b"name", (Ring(0, 0, 10), Ring(7, 0, 20)), {"a": 1})

# name -> (bytes, decode, bytes that count: padding up to the page or sector included)
STRUCTURES: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "segment header": (
        encode_segment_header(HEADER),
        lambda data: decode_segment_header("segment", data),
    ),
    "segment footer": (
        padded_footer(FOOTER),
        lambda data: decode_footer("segment", 61440, data, SEED),
    ),
    "cursor entry": (
        encode_checkpoint(CHECKPOINT, QUEUE_SEED).ljust(SECTOR, b"\0"),
        lambda data: decode_checkpoint("cursor", 512, data, QUEUE_SEED),
    ),
    "meta file": (encode_meta(META), lambda data: decode_meta("meta", data)),
}
each_structure = pytest.mark.parametrize("name", STRUCTURES)


@given(HEADERS)
def test_segment_header_round_trip(header: SegmentHeader) -> None:
    page = encode_segment_header(header)
    assert len(page) == PAGE
    assert decode_segment_header("", page) == header


@given(FOOTERS)
def test_footer_round_trip(footer: Footer) -> None:
    assert decode_footer("", 0, padded_footer(footer), SEED) == footer


@given(CHECKPOINTS)
def test_checkpoint_round_trip(checkpoint: Checkpoint) -> None:
    entry = encode_checkpoint(checkpoint, QUEUE_SEED)
    assert len(entry) == CURSOR_ENTRY_BYTES
    decoded = decode_checkpoint("", 0, entry.ljust(SECTOR, b"\0"), QUEUE_SEED)
    assert decoded == checkpoint
    assert decoded.clean is bool(checkpoint.flags & CURSOR_CLEAN)


@given(METAS)
def test_meta_round_trip(meta: Meta) -> None:
    assert decode_meta("", encode_meta(meta)) == meta


@each_structure
def test_every_single_flipped_bit_is_refused(name: str) -> None:
    whole, decode = STRUCTURES[name]
    decode(whole)
    buffer = bytearray(whole)
    for bit in range(len(buffer) * 8):
        buffer[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            decode(bytes(buffer))
        buffer[bit // 8] ^= 1 << bit % 8


@each_structure
def test_zeros_and_blanks_are_refused(name: str) -> None:
    whole, decode = STRUCTURES[name]
    if name == "segment footer":
        assert decode(bytes(len(whole))) is None  # a segment that was never sealed
    else:
        with pytest.raises(Corrupt, match="magic"):
            decode(bytes(len(whole)))
    with pytest.raises(Corrupt):
        decode(b"\xff" * len(whole))


@each_structure
def test_every_truncation_is_refused(name: str) -> None:
    whole, decode = STRUCTURES[name]
    content = len(whole.rstrip(b"\0"))
    for length in range(1, content):
        with pytest.raises(Corrupt):
            decode(whole[:length])


@each_structure
def test_a_newer_version_is_named_and_left_alone(name: str) -> None:
    whole, decode = STRUCTURES[name]
    seed, end = {
        "segment header": (0, PAGE),
        "segment footer": (SEED, FOOTER_BYTES + 2 * INDEX_ENTRY_BYTES),
        "cursor entry": (QUEUE_SEED, CURSOR_ENTRY_BYTES),
        "meta file": (0, len(whole)),
    }[name]
    newer = bytearray(whole)
    pack_into("<H", newer, 8, VERSION + 1)
    pack_into("<I", newer, 12, 0)
    pack_into("<I", newer, 12, crc32c(bytes(newer[:end]), seed))
    with pytest.raises(NewerFormat) as error:
        decode(bytes(newer))
    assert (error.value.found, error.value.known) == (VERSION + 1, VERSION)
    assert "newer" in str(error.value)


def test_what_belongs_to_another_queue_or_segment_is_refused() -> None:
    with pytest.raises(Corrupt, match="CRC"):
        decode_footer("", 0, padded_footer(FOOTER), salt_seed(100))
    entry = encode_checkpoint(CHECKPOINT, QUEUE_SEED).ljust(SECTOR, b"\0")
    with pytest.raises(Corrupt, match="CRC"):
        decode_checkpoint("", 0, entry, crc32c(b"r" * 16))


def test_damage_names_path_and_offset() -> None:
    with pytest.raises(Corrupt) as error:
        decode_checkpoint("/some/cursor", 1536, bytes(SECTOR), QUEUE_SEED)
    assert (error.value.path, error.value.offset) == ("/some/cursor", 1536)
    assert str(error.value).startswith("/some/cursor: offset 1536: this is no cursor entry")


@pytest.mark.parametrize("count", [0, 3, 200, 2**32 - 1])
def test_a_footer_whose_count_does_not_fit_is_refused(count: int) -> None:
    """Before any memory is spent on it."""
    data = bytearray(padded_footer(FOOTER))
    pack_into("<I", data, 44, count)
    with pytest.raises(Corrupt):
        decode_footer("", 0, bytes(data), SEED)


@given(size=st.integers(SEGMENT_BYTES_MIN // PAGE, 1 << 18).map(lambda pages: pages * PAGE))
def test_the_footer_area_has_room_for_one_entry_a_stride(size: int) -> None:
    at = footer_offset(size)
    strides = -(-at // INDEX_STRIDE)
    assert at % PAGE == 0
    assert at > FRAMES_OFFSET
    assert FOOTER_BYTES + strides * INDEX_ENTRY_BYTES <= size - at


@given(length=st.integers(0, 300_000), wanted=st.integers(1, 64).map(lambda pages: pages * PAGE))
def test_a_segment_is_as_large_as_wanted_or_just_large_enough(length: int, wanted: int) -> None:
    size = segment_size_for(length, wanted)
    room = footer_offset(size) - FRAMES_OFFSET
    assert size % PAGE == 0
    assert room >= frame_bytes(length)
    if size != wanted:
        assert size > wanted
        less = footer_offset(size - PAGE) - FRAMES_OFFSET
        assert less < frame_bytes(length)


@given(st.lists(st.integers(1, 1000), unique=True).map(sorted), st.integers(0, 1001))
def test_index_lookup_is_the_last_entry_at_or_before(sequences: list[int], sequence: int) -> None:
    index = [(each, FRAMES_OFFSET + each * 8) for each in sequences]
    before = [offset for each, offset in index if each <= sequence]
    assert index_lookup(index, sequence) == (before[-1] if before else FRAMES_OFFSET)


# ---------------------------------------------------------------- names


@given(st.binary(max_size=NAME_BYTES_MAX), st.binary(max_size=NAME_BYTES_MAX))
def test_directory_names_are_safe_and_tell_queues_apart(one: bytes, other: bytes) -> None:
    name = directory_name(one)
    assert 0 < len(name) <= 200
    assert not set(name) & set("./\0\\")
    assert name.isascii()
    assert (name == directory_name(other)) is (one == other)


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        (b"", "%"),
        (b"%", "%25"),
        (b"..", "%2E%2E"),
        (b"a/b", "a%2Fb"),
        (b"Q_-9", "Q_-9"),
        (b"~" + b"0" * 64, "%7E" + "0" * 64),
        (b"a" * 200, "a" * 200),
        (b"\xff" * 66, "%FF" * 66),
        (b"a" * 201, "~" + sha256(b"a" * 201).hexdigest()),
    ],
)
def test_directory_names_are_those_of_the_format(name: bytes, directory: str) -> None:
    assert directory_name(name) == directory


@given(st.integers(0, 10**20 - 1))
def test_segment_names_round_trip_and_sort_by_base(base: int) -> None:
    assert segment_base(segment_name(base)) == base
    assert (segment_name(base) < segment_name(10**19)) is (base < 10**19)


@pytest.mark.parametrize(
    "name", ["meta", "1.log", "0000000000000000001.log", "00000000000000000001.log.tmp", ""]
)
def test_other_files_are_no_segments(name: str) -> None:
    assert segment_base(name) is None


def test_format_file() -> None:
    assert decode_format("FORMAT", encode_format()) == VERSION
    with pytest.raises(NewerFormat, match="FORMAT: format version 2 is newer than the 1"):
        decode_format("FORMAT", b"logqueue data directory, format 2\n")
    for damaged in (b"", b"1\n", encode_format()[:-1], encode_format() + b"x", bytes(40)):
        with pytest.raises(Corrupt):
            decode_format("FORMAT", damaged)
