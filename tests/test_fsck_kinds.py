"""The findings about cursors and footers, and the traces of a crash that are not damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logqueue.fsck.report import Printer
from logqueue.storage.cursor import Cursor
from logqueue.storage.format import (
    FRAMES_OFFSET,
    Checkpoint,
    decode_footer,
    decode_meta,
    decode_segment_header,
    encode_footer,
    footer_offset,
)
from logqueue.storage.frame import Scan, salt_seed
from logqueue.storage.recovery import queue_seed
from tests.fscktree import (
    DISK,
    directory,
    drain,
    flip,
    fsck,
    kinds,
    make,
    patch,
    payload,
    refused,
    segments,
)

NAME = b"q"
COUNT, CONSUMED = 100, 60  # in five segments; the third one holds the next record
REST = {number: payload(NAME, number) for number in range(CONSUMED + 1, COUNT + 1)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As a kill -9 leaves it."""
    make(tmp_path / "data", {NAME: (COUNT, CONSUMED)}, clean=False)
    return tmp_path / "data"


def newest_entry(root: Path) -> int:
    """Where the newest cursor entry stands."""
    data = (directory(root, NAME) / "cursor").read_bytes()
    return max(
        range(0, 8192, 512), key=lambda at: int.from_bytes(data[at + 16 : at + 24], "little")
    )


def write_cursor(root: Path, *state: int) -> None:
    """A cursor with the state (flags, consumed, base, offset, durable, its base, its offset)."""
    queue = directory(root, NAME)
    meta = decode_meta("meta", (queue / "meta").read_bytes())
    (queue / "cursor").unlink()
    seed = queue_seed(meta.queue_id)
    Cursor.create(DISK, str(queue), seed, Checkpoint(9, *state)).close(clean=False)


def ends(path: Path) -> dict[int, int]:
    """Where the records of a segment end, by their sequence."""
    data = path.read_bytes()
    seed = salt_seed(decode_segment_header(str(path), data[:4096]).salt)
    scan = Scan(lambda at, length: data[at : at + length], FRAMES_OFFSET, len(data), seed)
    return {frame.sequence: frame.end for frame in scan}


def assert_clean_with(root: Path, capsys: Any, note: str) -> None:
    """The finding is a note, nothing needs to be done, and the daemon serves the queue."""
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (0, {note})
    assert rows[0]["remedy"] is None
    assert fsck(capsys, "--repair", "-y", root)[0] == 0


def test_a_damaged_newest_entry_may_be_the_newest_state(root: Path, capsys: Any) -> None:
    flip(directory(root, NAME) / "cursor", newest_entry(root) + 30)
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (4, {"cursor-stale"})
    assert refused(root, NAME)
    assert fsck(capsys, "--repair", "-p", root)[0] == 4, "messages may come twice: it asks"
    assert fsck(capsys, "--repair", "-y", root)[0] == 1
    assert fsck(capsys, root)[0] == 0
    again = {CONSUMED: payload(NAME, CONSUMED)}
    assert drain(root, NAME) == again | REST


def test_an_entry_that_was_being_stored_is_passed_over(root: Path, capsys: Any) -> None:
    patch(directory(root, NAME) / "cursor", newest_entry(root), bytes(8))
    assert_clean_with(root, capsys, "cursor-older")
    assert set(drain(root, NAME)) == {CONSUMED, *REST}


def test_records_that_were_consumed_and_never_written_back(root: Path, capsys: Any) -> None:
    """As a power cut leaves it under --durability os."""
    path = segments(root, NAME)[-1]
    found = ends(path)
    first = min(found)
    write_cursor(root, 0, COUNT, first, found[COUNT], first + 1, first, found[first + 1])
    patch(path, found[first + 1], bytes(found[COUNT] - found[first + 1]))
    assert_clean_with(root, capsys, "cursor-past-end")
    assert drain(root, NAME) == {}


def test_a_segment_whose_removal_a_power_cut_undid(root: Path, capsys: Any) -> None:
    segments(root, NAME)[1].unlink()
    assert_clean_with(root, capsys, "stale-segment")
    assert drain(root, NAME) == REST


def test_a_cursor_that_points_beside_its_record(root: Path, capsys: Any) -> None:
    tail, third = segments(root, NAME)[-1], segments(root, NAME)[2]
    last, base = ends(tail), int(third.stem)
    wrong = ends(third)[CONSUMED] + 8
    write_cursor(root, 0, CONSUMED, base, wrong, COUNT, int(tail.stem), last[COUNT])
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (4, {"cursor-position"})
    assert fsck(capsys, "--repair", "-p", root)[0] == 1
    assert fsck(capsys, root)[0] == 0
    assert drain(root, NAME) == REST


@pytest.mark.parametrize("thorough", [False, True])
def test_a_footer_that_describes_something_else(root: Path, capsys: Any, thorough: bool) -> None:
    """Its CRC holds; what it says of the segment does not, or only its index."""
    path = segments(root, NAME)[3]
    data, at = path.read_bytes(), footer_offset(path.stat().st_size)
    seed = salt_seed(decode_segment_header(str(path), data[:4096]).salt)
    footer = decode_footer(str(path), at, data[at:], seed)
    assert footer is not None
    if thorough:
        footer = footer._replace(entries=[(footer.ended.base, 4096 + 8)])
    else:
        footer = footer._replace(ended=footer.ended._replace(last=footer.ended.last - 1))
    patch(path, at, encode_footer(footer, seed))
    options = ["--thorough"] if thorough else []
    status, rows = fsck(capsys, *options, root)
    assert (status, kinds(rows)) == (4, {"footer-stale"})
    assert fsck(capsys, *options, "--repair", "-p", root)[0] == 1
    assert fsck(capsys, "--thorough", root)[0] == 0
    assert drain(root, NAME) == REST


def test_progress_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("logqueue.fsck.report._PROGRESS_S", 0)
    for terminal in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        printer = Printer("data", as_json=False)
        with printer.progress(200):
            printer.checked(50)
            printer.checked(50)
        shown = capsys.readouterr().err
        assert ("\r 50 %" in shown) == terminal
        assert shown.endswith("\r\033[K") == terminal
