"""What logqueue-fsck prints: --dump, --stat, --json, --salvage; and a disk that does not read."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from logqueue.fsck.command import main
from logqueue.fsck.finding import Kind, Severity
from tests.daemon import Daemon
from tests.fscktree import directory, drain, flip, fsck, kinds, make, payload, refused, segments

COUNT, CONSUMED = 60, 7  # in three segments
CLOCK = 1_700_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "data", {b"a b": (COUNT, CONSUMED), b"": (3, 0)})
    return tmp_path / "data"


def test_dump_prints_every_record_that_is_there(root: Path, capsys: Any) -> None:
    status, rows = fsck(capsys, "--dump", "--queue", "a b", root)
    assert status == 0
    assert [row["sequence"] for row in rows] == list(range(1, COUNT + 1))
    assert rows[4] == {
        "queue": "a%20b",
        "sequence": 5,
        "position": 5,
        "time": CLOCK,
        "length": len(payload(b"a b", 5)),
        "text": payload(b"a b", 5).decode(),
    }
    assert len(fsck(capsys, "--dump", root)[1]) == COUNT + 3


@pytest.mark.parametrize(
    ("first", "limit", "expected"),
    [
        (1, 2, [1, 2]),
        (24, 1, [24]),  # the first of the second segment
        (23, 3, [23, 24, 25]),
        (COUNT, 9, [COUNT]),
        (COUNT + 1, 9, []),
        (5, 0, []),
    ],
)
def test_dump_begins_and_ends_where_it_is_told(
    root: Path, capsys: Any, first: int, limit: int, expected: list[int]
) -> None:
    command = ("--dump", "--queue", "a b", "--from", first, "--limit", limit, root)
    assert [row["sequence"] for row in fsck(capsys, *command)[1]] == expected


def test_dump_prints_bytes_that_are_no_text_in_base64(tmp_path: Path, capsys: Any) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.ask("name=q&opt=put", b"\xff\x00binary")
        daemon.ask("name=q&opt=put", "gr\u00fc\u00df\u0000dich".encode())
        daemon.stop()
        raw, text = fsck(capsys, "--dump", daemon.data)[1]
    assert base64.b64decode(raw["base64"]) == b"\xff\x00binary"
    assert "text" not in raw
    assert text["text"] == "gr\u00fc\u00df\u0000dich"


def test_dump_of_a_damaged_queue_has_what_is_valid_and_says_that_it_is_not_all(
    root: Path, capsys: Any
) -> None:
    flip(segments(root, b"a b")[1], 4096 + 100)
    assert main(["--dump", "--queue", "a b", str(root)]) == 4
    printed = capsys.readouterr()
    found = [json.loads(line)["sequence"] for line in printed.out.splitlines()]
    assert found == [number for number in range(1, COUNT + 1) if number != 24]
    assert "1 findings of damage" in printed.err


def test_stat_counts(root: Path, capsys: Any) -> None:
    status, rows = fsck(capsys, "--stat", root)
    empty, queue = rows
    assert status == 0
    assert (empty["queue"], empty["live_records"], empty["consumed_records"]) == ("", 3, 0)
    assert queue["segments"] == 3
    assert (queue["live_records"], queue["consumed_records"]) == (COUNT - CONSUMED, CONSUMED)
    sizes = [(32 + len(payload(b"a b", n)) + 7) & -8 for n in range(1, COUNT + 1)]
    assert queue["record_bytes"] == sum(sizes)
    assert queue["live_bytes"] == sum(sizes[CONSUMED:])
    assert queue["file_bytes"] == sum(each.stat().st_size for each in segments(root, b"a b"))
    assert (queue["first"], queue["last"], queue["consumed"]) == (1, COUNT, CONSUMED)
    assert (queue["durable_mark"], queue["clean"], queue["maxqueue"]) == (COUNT, True, 1_000_000)
    assert queue["oldest"] == queue["newest"] == CLOCK
    assert main(["--stat", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "queue (empty name)\n" in shown
    assert re.search(r"queue a%20b\n(.*\n)* +live_records +53\n", shown)
    assert "newest            2023-11-14 22:13:20.000+00:00\n" in shown


def test_json_has_one_object_a_line_and_a_summary(root: Path, capsys: Any) -> None:
    path = segments(root, b"a b")[1]
    flip(path, 4096 + 100)
    status, (finding, summary) = fsck(capsys, root)
    assert finding == {
        "finding": "mid-damage",
        "severity": "loss",
        "queue": "a%20b",
        "path": str(path),
        "offset": 4096,
        "first": 24,
        "last": 24,
        "bytes": (32 + len(payload(b"a b", 24)) + 7) & -8,
        "text": finding["text"],
        "meaning": Kind.MID_DAMAGE.meaning,
        "daemon": Kind.MID_DAMAGE.daemon,
        "remedy": f"logqueue-fsck --repair {root}",
    }
    assert {**summary, "bytes": 0} == {
        "summary": True,
        "status": status,
        "bytes": 0,
        "queues": 2,
        "damage": 1,
    }
    assert status == 4


def test_people_are_told_the_same(root: Path, capsys: Any) -> None:
    flip(segments(root, b"a b")[1], 4096 + 100)
    assert main([str(root)]) == 4
    shown = capsys.readouterr().out
    assert "loss: mid-damage: queues/a%20b/00000000000000000024.log: offset 4096 (0x1000)" in shown
    assert "record 24, " in shown
    assert f"mend it with: logqueue-fsck --repair {root}\n" in shown
    assert shown.endswith(f"{shown.splitlines()[-1]}\n")
    assert f"{root}: damage left" in shown.splitlines()[-1]


@pytest.mark.parametrize("dry", [True, False])
def test_a_repair_says_what_is_kept_and_what_is_lost(root: Path, capsys: Any, dry: bool) -> None:
    """Consumed records are nobody's loss."""
    flip(segments(root, b"a b")[0], 4096 + 100)
    flip(segments(root, b"a b")[1], 4096 + 100)
    segments(root, b"a b")[2].unlink()
    assert main(["--repair", "-n" if dry else "-y", str(root)]) == (4 if dry else 1)
    shown = capsys.readouterr().out
    verb = "would keep" if dry else "keeps"
    assert (
        f"queue a%20b: {verb} 44 records, consumed up to 7; "
        "15 unconsumed ones are lost: 24 to 24, 47 to 60\n"
    ) in shown
    assert f"{'would_repair' if dry else 'repaired'} 3, damage 0" in shown
    assert "mend it with" not in shown, "it is being mended"


def test_an_undo_of_what_was_never_done_names_what_was(root: Path, capsys: Any) -> None:
    flip(segments(root, b"a b")[1], 4096 + 100)
    ident = fsck(capsys, "--repair", "-y", root)[1][-1]["quarantine"]
    assert main(["--undo", "20010101T000000Z", str(root)]) == 16
    assert f"no repair 20010101T000000Z is here; there are: {ident}\n" in capsys.readouterr().err


def test_every_kind_says_what_it_is_what_the_daemon_does_and_how_it_is_mended() -> None:
    labels = [kind.label for kind in Kind]
    assert len(set(labels)) == len(labels)
    for kind in Kind:
        assert kind.meaning
        assert kind.daemon
        assert isinstance(kind.severity, Severity)


def test_salvage_needs_a_new_directory_and_writes_a_clean_one(root: Path, capsys: Any) -> None:
    flip(segments(root, b"a b")[1], 4096 + 100)
    saved = root.parent / "saved"
    assert fsck(capsys, "--salvage", root, root)[0] == 16
    assert fsck(capsys, "--salvage", saved, root)[0] == 4
    assert fsck(capsys, "--salvage", saved, root)[0] == 16, "never into something that is there"
    status, rows = fsck(capsys, "--thorough", saved)
    assert (status, kinds(rows)) == (0, set())
    assert refused(root, b"a b"), "the old one is only read"
    survivors = [n for n in range(CONSUMED + 1, COUNT + 1) if n != 24]
    assert drain(saved, b"a b") == {n: payload(b"a b", n) for n in survivors}


def bad_sector(monkeypatch: pytest.MonkeyPatch, path: Path, offset: int) -> None:
    """From now on the disk does not give this page back, as a dying one does."""
    real, inode = os.pread, os.stat(path).st_ino

    def pread(descriptor: int, length: int, at: int) -> bytes:
        if at < offset + 4096 and offset < at + length and os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, length, at)

    monkeypatch.setattr(os, "pread", pread)


@pytest.mark.parametrize("index", [0, 1, 2], ids=["first", "middle", "tail"])
def test_an_unreadable_sector_is_told_left_alone_and_salvaged_around(
    root: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    path = segments(root, b"a b")[index]
    base, offset = int(path.stem), 8192
    inside = [
        n
        for n in range(base, COUNT + 1)
        if _begin(base, n) < offset + 4096 and _begin(base, n + 1) > offset
    ]
    with monkeypatch.context() as patch:
        bad_sector(patch, path, offset)
        status, rows = fsck(capsys, root)
        assert status == 4
        assert "unreadable" in kinds(rows)
        assert fsck(capsys, "--repair", "-y", root)[0] == 4
        assert not (root / "quarantine").exists(), "nothing was changed"
        saved = root.parent / "saved"
        assert fsck(capsys, "--salvage", saved, root)[0] == 4
        dumped = [row["sequence"] for row in fsck(capsys, "--dump", "--queue", "a b", root)[1]]
    assert dumped == [n for n in range(1, COUNT + 1) if n not in inside]
    survivors = [n for n in range(CONSUMED + 1, COUNT + 1) if n not in inside]
    assert drain(saved, b"a b") == {n: payload(b"a b", n) for n in survivors}
    assert len(drain(saved, b"")) == 3


def _begin(base: int, number: int) -> int:
    """Where the record `number` stands in the segment `base`."""
    lengths = (len(payload(b"a b", each)) for each in range(base, number))
    return 4096 + sum((32 + length + 7) & -8 for length in lengths)


@pytest.mark.parametrize("name", ["meta", "cursor", f"{1:020}.log"])
def test_a_file_that_cannot_be_read_at_its_start(
    root: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bad_sector(monkeypatch, directory(root, b"a b") / name, 0)
    status, rows = fsck(capsys, root)
    assert status == 4
    assert kinds(rows) & {"meta-bad", "cursor-bad", "unreadable", "header-bad"}
    assert fsck(capsys, "--salvage", root.parent / "saved", root)[0] == 4


def test_what_cannot_be_listed_is_an_operational_error(root: Path, capsys: Any) -> None:
    shutil.rmtree(root / "queues")
    (root / "queues").write_bytes(b"")
    assert fsck(capsys, root)[0] == 8


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--nonsense", "."],
        ["/nowhere/at/all"],
        ["--repair", "--dump", "."],
        ["-y", "."],
        ["--limit", "3", "."],
        ["--online", "--repair", "."],
        ["--undo", "20260101T000000Z", "."],
    ],
)
def test_a_wrong_command_line_is_one_line_and_16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 16
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"logqueue-fsck: [^\n]+\n", told.err)
