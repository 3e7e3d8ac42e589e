"""A data directory: made, locked, listed, and what is refused there."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logqueue.errors import Corrupt, Locked, NewerFormat
from logqueue.options import QueueOptions
from logqueue.storage.disk import MmapDisk
from logqueue.storage.layout import FORMAT, META, QUEUES, directory_name
from logqueue.storage.queue import Options
from logqueue.storage.store import Store
from tests.crashdisk import CrashDisk
from tests.crashextent import Died

LONG = b"a long name " * 20


def open_store(root: Path) -> Store:
    return Store.open(MmapDisk(), str(root), Options())


def fill(root: Path, *names: bytes) -> None:
    store = open_store(root)
    for name in names:
        queue = store.create_queue(name)
        queue.put(b"of " + name)
        queue.close()
    store.close()


def test_a_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    open_store(root).close()
    assert sorted(os.listdir(root)) == [FORMAT, "LOCK", QUEUES]
    assert (root / FORMAT).read_bytes() == b"logqueue data directory, format 1\n"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.binary(max_size=256), unique=True, max_size=4))
def test_any_name_is_a_queue_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, names: list[bytes]
) -> None:
    root = tmp_path_factory.mktemp("store")
    fill(root, *names)
    store = open_store(root)
    assert store.names() == (sorted(names, key=directory_name), [])
    for name in names:
        assert store.exists(name)
        queue, _ = store.open_queue(name)
        assert (queue.name, queue.get()) == (name, (1, b"of " + name))
        queue.close()
    assert len(store) == len(names)
    assert not store.exists(b"no such queue" * 19)
    store.close()


def test_a_second_store_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(Locked, match=f"in use by process {os.getpid()};"):
        open_store(tmp_path)
    store.close()
    open_store(tmp_path).close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, b"q")
    (tmp_path / FORMAT).write_bytes(b"logqueue data directory, format 2\n")
    with pytest.raises(NewerFormat):
        open_store(tmp_path)
    (tmp_path / FORMAT).write_bytes(b"logqueue data directory, format 1\n")
    open_store(tmp_path).close()  # the lock was given back


@pytest.mark.parametrize("content", [b"", b"\0" * 34, b"logqueue data directory, format x\n"])
def test_a_damaged_format_file_is_refused(tmp_path: Path, content: bytes) -> None:
    fill(tmp_path, b"q")
    (tmp_path / FORMAT).write_bytes(content)
    with pytest.raises(Corrupt, match="no FORMAT file of logqueue"):
        open_store(tmp_path)


def test_a_missing_format_file_beside_queues_is_damage(tmp_path: Path) -> None:
    fill(tmp_path, b"q")
    (tmp_path / FORMAT).unlink()
    with pytest.raises(Corrupt, match="missing although there are queues"):
        open_store(tmp_path)


def test_queues_whose_creation_was_cut_short_are_cleared(tmp_path: Path) -> None:
    fill(tmp_path, b"q")
    unfinished = tmp_path / QUEUES / "r.tmp"
    unfinished.mkdir()
    (unfinished / META).write_bytes(b"half")
    store = open_store(tmp_path)
    assert not unfinished.exists()
    assert store.names() == ([b"q"], [])
    store.create_queue(b"r").close()
    store.close()


@pytest.mark.parametrize("stray", ["lost+found", "a.b", "%2e", "%41", "~backup", "%"])
def test_what_is_no_queue_is_told_and_never_becomes_one(tmp_path: Path, stray: str) -> None:
    fill(tmp_path, b"q")
    path = tmp_path / QUEUES / stray
    path.mkdir()
    store = open_store(tmp_path)
    names, unreadable = store.names()
    if stray == "%":  # the empty name's directory, without anything in it
        assert names == [b"", b"q"]
        with pytest.raises(Corrupt, match="the file is missing"):
            store.open_queue(b"")
    else:
        assert names == [b"q"]
        (error,) = unreadable
        assert str(path) in str(error)
    assert path.exists()
    store.close()


def test_a_long_name_under_another_hash_is_told(tmp_path: Path) -> None:
    fill(tmp_path, LONG)
    directory = tmp_path / QUEUES / directory_name(LONG)
    directory.rename(tmp_path / QUEUES / ("~" + "0" * 64))
    store = open_store(tmp_path)
    names, (error,) = store.names()
    assert names == []
    assert "not the directory of a queue" in str(error)
    store.close()


@pytest.mark.parametrize("how", ["kill", "power cut"])
def test_a_queue_has_its_settings_from_the_moment_it_exists(how: str) -> None:
    settings, outcomes, die_at, survived = QueueOptions(max_length=50, paused=True), set(), 0, False
    while not survived:
        die_at += 1
        disk = CrashDisk(Random(die_at))
        disk.make_directory("/data")
        disk.sync_directory("/")
        store = Store.open(disk, "/data", Options())
        disk.operations, disk.die_at = 0, die_at
        try:
            store.create_queue(b"q", settings)
            survived = True
        except Died:
            pass
        disk.die_at = 0
        disk.kill() if how == "kill" else disk.cut_power("mixed")
        store = Store.open(disk, "/data", Options())
        outcomes.add(store.exists(b"q"))
        if store.exists(b"q"):
            assert store.open_queue(b"q")[0].settings == settings
    assert outcomes == {True, False}
