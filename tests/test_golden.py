"""Data directories of every released format: this version must open them, and lose nothing."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from logqueue.storage.disk import MmapDisk
from logqueue.storage.format import VERSION
from logqueue.storage.layout import decode_format, directory_name
from logqueue.storage.opening import open_queue
from logqueue.storage.store import Store
from tools.golden import GOLDEN, OPTIONS, QUEUES, describe, drain

VERSIONS = sorted(int(path.name[5:].split(".")[0]) for path in GOLDEN.glob("data-*.tar.xz"))


def unpack(version: int, directory: Path) -> Path:
    with tarfile.open(GOLDEN / f"data-{version}.tar.xz") as packed:
        packed.extractall(directory, filter="data")
    return directory / "data"


def test_the_format_of_today_has_its_golden_directory() -> None:
    assert VERSION in VERSIONS
    assert len(json.loads((GOLDEN / f"data-{VERSION}.json").read_text())) == len(QUEUES)
    assert sum(path.stat().st_size for path in GOLDEN.glob("data-*")) < 1 << 20


@pytest.mark.parametrize("version", VERSIONS)
def test_every_queue_is_what_it_was(tmp_path: Path, version: int) -> None:
    root = unpack(version, tmp_path)
    path = root / "FORMAT"
    assert decode_format(str(path), path.read_bytes()) == version
    expected = json.loads((GOLDEN / f"data-{version}.json").read_text())
    store = Store.open(MmapDisk(), str(root), OPTIONS)
    names, unreadable = store.names()
    assert not unreadable
    assert sorted(names) == sorted(unquote_to_bytes(name) for name in expected)
    for name in names:
        assert store.inspect(name)
    store.close()
    for quoted, what in expected.items():
        directory = os.path.join(root, "queues", directory_name(unquote_to_bytes(quoted)))
        queue, report = open_queue(MmapDisk(), directory, OPTIONS)
        assert [note for note in report.notes if "torn tail" not in note] == []
        assert bool(report.notes) == (quoted == "torn")
        assert {**describe(queue), "unread": drain(queue)} == what
        assert queue.put(b"it goes on") is not None
        assert queue.settings.paused or queue.get() is not None
        queue.close()
