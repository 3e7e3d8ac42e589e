"""docs/format.md against the code: each table against its struct, the dump opened as a queue."""

from __future__ import annotations

import re
from pathlib import Path
from struct import Struct, calcsize

import pytest

from logqueue.storage.format import (
    CURSOR_ENTRY,
    CURSOR_FILE_BYTES,
    FOOTER,
    FRAMES_OFFSET,
    INDEX_ENTRY,
    INDEX_STRIDE,
    META,
    PAGE,
    RING,
    SECTOR,
    SEGMENT,
    SEGMENT_BYTES_MIN,
    VERSION,
    decode_footer,
    decode_meta,
    decode_segment_header,
    encode_footer,
    encode_meta,
    encode_segment_header,
    footer_offset,
)
from logqueue.storage.frame import FRAME, HEADERS, MESSAGE, MORE, SETTLEMENT, salt_seed
from logqueue.storage.headers import decode_headers
from logqueue.storage.layout import FORMAT_PREFIX
from logqueue.storage.leases import State
from logqueue.storage.ring import RINGS_MAX
from logqueue.storage.steps import ENTRY, RANGE, STEP
from tests.queues import drain, look, reopened

PAGE_TEXT = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")

STRUCTS = {
    "`meta`": META,
    "Ring": RING,
    "Segment header": SEGMENT,
    "Frame": FRAME,
    "Segment footer": FOOTER,
    "Index entry": INDEX_ENTRY,
    "Cursor entry": CURSOR_ENTRY,
    "Step": STEP,
    "Range": RANGE,
    "Snapshot entry": ENTRY,
}


def tables() -> dict[str, list[tuple[int, int, str]]]:
    """Heading -> rows of (offset, size, field), for every such table on the page."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    heading = ""
    for line in PAGE_TEXT.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif row := re.fullmatch(r"\| (\d+) \| (\d+) \| (.*) \|", line):
            found.setdefault(heading, []).append((int(row[1]), int(row[2]), row[3]))
    return found


def fields(struct: Struct) -> list[tuple[int, int]]:
    """(offset, size) of every field of a struct, padding included."""
    result, offset = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", struct.format):
        for _ in range(1 if code in "sx" else int(count or 1)):
            size = calcsize("<" + (count + code if code in "sx" else code))
            result.append((offset, size))
            offset += size
    assert offset == struct.size
    return result


def dumps() -> dict[str, bytes]:
    """File name -> content, for every hex dump on the page."""
    files = {}
    for name, dump in re.findall(r"^`([^`]+)`:\n\n```\n(.*?)```", PAGE_TEXT, re.M | re.S):
        *rows, size = dump.replace("*\n", "").splitlines()
        content = bytearray(int(size, 16))
        for row in rows:
            at = int(row[:8], 16)
            data = bytes.fromhex(row[10:60])
            content[at : at + len(data)] = data
        files[name] = bytes(content)
    return files


def test_the_page_has_a_table_for_each_struct_and_no_other() -> None:
    assert set(tables()) == set(STRUCTS)


@pytest.mark.parametrize("heading", STRUCTS)
def test_the_tables_are_the_structs(heading: str) -> None:
    assert [(offset, size) for offset, size, _ in tables()[heading]] == fields(STRUCTS[heading])


@pytest.mark.parametrize(
    "sentence",
    [
        f"version, {VERSION}",
        f'"{FORMAT_PREFIX}{VERSION}"',
        f"one header page of {PAGE} bytes",
        f"from offset {FRAMES_OFFSET} on",
        f"The first one of a queue has {SEGMENT_BYTES_MIN // 1024} KiB",
        f"one index entry for every {INDEX_STRIDE // 1024} KiB",
        f"{CURSOR_FILE_BYTES} bytes: two slots of {PAGE} bytes",
        f"eight entries of {SECTOR} bytes",
        f"number of rings, 1 to {RINGS_MAX}",
        f"state: {State.READY:d} ready again, {State.LEASED:d} leased, {State.DELAYED:d} delayed, "
        f"{State.DEAD:d} dead",
        f"type: {MESSAGE} a message, {SETTLEMENT} a step",
        f"flags: {MORE} the next record belongs to the same batch, {HEADERS} the payload begins",
        f"a frame with flag {HEADERS} begins",
    ],
)
def test_the_numbers_in_the_text_are_those_of_the_code(sentence: str) -> None:
    assert sentence in " ".join(PAGE_TEXT.split())


def test_the_example_of_a_header_block_is_one() -> None:
    (example,) = re.findall(r"^    ((?:[0-9a-f]{2} ?)+)$", PAGE_TEXT, re.M)
    assert decode_headers(bytes.fromhex(example)) == (((b"content-type", b"a/b"),), b"hi")


def test_the_dump_is_a_queue(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    for name, content in dumps().items():
        (tmp_path / "q" / name).write_bytes(content)
    report = look(tmp_path)
    assert (report.damage, report.notes) == ([], [])
    assert report.checkpoint is not None
    assert report.checkpoint[:5] == (3, 0, 1, 1, 0x1028)
    assert report.checkpoint.durable == 2
    with reopened(tmp_path) as queue:
        assert queue.name == b"q"
        assert queue.positions == (10, 3, 1, 1, 1, 2)
        assert [queue.view(position) for position in (1, 2, 3, 4)] == [
            b"hello",
            b"world!",
            b"",
            None,
        ]
        assert drain(queue) == [b"world!", b""]


def test_the_structures_of_the_dump_are_encoded_as_they_stand_there() -> None:
    files = dumps()
    meta = decode_meta("meta", files["meta"])
    assert encode_meta(meta) == files["meta"]
    assert [ring.maxqueue for ring in meta.rings] == [1_000_000, 10]
    first, second = files["00000000000000000001.log"], files["00000000000000000003.log"]
    for segment in (first, second):
        header = decode_segment_header("", segment[:PAGE])
        assert encode_segment_header(header) == segment[:PAGE]
        assert header.size == len(segment)
    seed = salt_seed(decode_segment_header("", first[:PAGE]).salt)
    at = footer_offset(len(first))
    footer = decode_footer("", at, first[at:], seed)
    assert footer is not None
    assert first[at:].rstrip(b"\0") == encode_footer(footer, seed).rstrip(b"\0")
    assert footer.entries == [(1, FRAMES_OFFSET)]
    assert decode_segment_header("", second[:PAGE]).previous == footer.ended
    assert footer_offset(len(second)) > FRAMES_OFFSET
