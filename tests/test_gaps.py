"""Sequences that step up between two segments, as a repair leaves them, and stale cursor places."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from logqueue.errors import Corrupt
from logqueue.options import QueueOptions
from logqueue.storage.delivery import Delivered
from logqueue.storage.disk import MmapDisk
from logqueue.storage.format import NOTHING_BEFORE, decode_meta, encode_meta, with_repaired_links
from logqueue.storage.layout import META, segment_name
from logqueue.storage.opening import create_queue, open_queue
from logqueue.storage.queue import Options, Queue
from logqueue.storage.reader import Cold
from logqueue.storage.token import Outcome

DISK = MmapDisk()
OPTIONS = Options()


def queue_with_a_step(directory: Path) -> str:
    """Records 1..3, then nothing up to 9, then 10 and 11, with none consumed; closed."""
    path = str(directory / "q")
    queue = create_queue(DISK, path, b"q", OPTIONS)
    for number in (1, 2, 3):
        queue.put(b"%d" % number)
    queue.log.roll(base=10)
    for number in (10, 11):
        queue.put(b"%d" % number)
    queue.close()
    return path


def taken(queue: Queue) -> list[tuple[int, bytes]]:
    return list(iter(queue.get, None))


def test_a_get_goes_on_behind_a_step(tmp_path: Path) -> None:
    queue, _ = open_queue(DISK, queue_with_a_step(tmp_path), OPTIONS)
    assert taken(queue) == [(1, b"1"), (2, b"2"), (3, b"3"), (10, b"10"), (11, b"11")]
    assert queue.positions.unread == 0
    queue.close()


def test_leases_go_on_behind_a_step_too(tmp_path: Path) -> None:
    path = queue_with_a_step(tmp_path)
    queue, _ = open_queue(DISK, path, OPTIONS)
    delivery = queue.deliver()
    delivery.make_room(0)
    leased: list[Delivered] = []
    while len(leased) < 5:
        try:
            leased += delivery.receive(9, 10**6, 1 << 20)
        except Cold as cold:
            cold.fetch.run()
            queue.install(cold.fetch)
    assert [each.frame.sequence for each in leased] == [1, 2, 3, 10, 11]
    assert queue.positions.unread == 5
    queue.sync()
    queue.close(clean=False)
    queue, _ = open_queue(DISK, path, OPTIONS)
    assert queue.positions.unread == 5
    tokens = [queue.deliver().tokens.make(each.frame.sequence, 1) for each in leased]
    assert set(queue.deliver().acknowledge(tokens)) == {Outcome.DONE}
    assert queue.positions.unread == 0
    queue.close()


def test_a_paused_queue_goes_on_behind_a_step(tmp_path: Path) -> None:
    queue, _ = open_queue(DISK, queue_with_a_step(tmp_path), OPTIONS)
    queue.configure(QueueOptions(paused=True))
    queue.configure(QueueOptions())
    assert taken(queue) == [(1, b"1"), (2, b"2"), (3, b"3"), (10, b"10"), (11, b"11")]
    queue.close()


def test_a_step_at_the_end_leaves_an_empty_queue_that_takes_new_messages(tmp_path: Path) -> None:
    path = str(tmp_path / "q")
    queue = create_queue(DISK, path, b"q", OPTIONS)
    queue.put(b"1")
    queue.log.roll(base=10)
    queue.sync()
    queue.durable = queue.log.last
    assert taken(queue) == [(1, b"1")]
    assert queue.positions.unread == 0
    queue.put(b"10")
    queue.sync()
    assert taken(queue) == [(10, b"10")]
    queue.close()


def test_a_missing_segment_is_damage_until_a_repair_has_declared_it(tmp_path: Path) -> None:
    path = queue_with_a_step(tmp_path)
    os.unlink(os.path.join(path, segment_name(1)))
    with pytest.raises(Corrupt, match="the segment is missing"):
        open_queue(DISK, path, OPTIONS)
    meta_path = os.path.join(path, META)
    meta = decode_meta(meta_path, Path(meta_path).read_bytes())
    Path(meta_path).write_bytes(encode_meta(with_repaired_links(meta, {10: NOTHING_BEFORE})))
    queue, _ = open_queue(DISK, path, OPTIONS)
    queue.close()


def test_a_reset_that_a_crash_cut_short_leaves_a_queue_that_works(tmp_path: Path) -> None:
    """The meta file says that all is consumed, the cursor stands at a record before."""
    path, copy = str(tmp_path / "q"), tmp_path / "copy" / "q"
    queue = create_queue(DISK, path, b"q", OPTIONS)
    for number in (1, 2, 3):
        queue.put(b"%d" % number)
    queue.sync()
    assert queue.get() == (1, b"1")
    queue.sync()
    copy.parent.mkdir()
    shutil.copytree(path, copy)
    queue.reset()
    shutil.copy(os.path.join(path, META), copy / META)
    queue.close()

    queue, _ = open_queue(DISK, str(copy), OPTIONS)
    assert queue.get() is None
    queue.put(b"new")
    queue.sync()
    assert queue.get() == (1, b"new")
    queue.put(b"newer")
    queue.sync()
    queue.log.close()  # as kill -9 does
    queue, _ = open_queue(DISK, str(copy), OPTIONS)
    assert queue.get() == (2, b"newer")
    queue.close()


def test_a_cursor_that_knows_no_place_is_looked_up(tmp_path: Path) -> None:
    """The meta file says that 2 records are consumed; only the index knows where the third is."""
    path = str(tmp_path / "q")
    queue = create_queue(DISK, path, b"q", OPTIONS)
    for number in (1, 2, 3, 4):
        queue.put(b"%d" % number)
    queue.sync()
    queue.close()
    meta_path = os.path.join(path, META)
    meta = decode_meta(meta_path, Path(meta_path).read_bytes())
    ring = meta.rings[0]._replace(after=2, base=2)
    Path(meta_path).write_bytes(encode_meta(meta._replace(rings=(ring,))))
    queue, _ = open_queue(DISK, path, OPTIONS)
    assert taken(queue) == [(1, b"3"), (2, b"4")]
    queue.close()


@pytest.mark.parametrize("leasing", [False, True], ids=["gets", "leases"])
def test_a_step_is_stepped_over_when_what_was_before_it_is_gone(
    tmp_path: Path, leasing: bool
) -> None:
    queue, _ = open_queue(DISK, queue_with_a_step(tmp_path), OPTIONS)
    if leasing:
        queue.deliver()
    assert [queue.get() for _ in range(3)] == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert queue.free(queue.consumed + 1) > 0
    queue.close()
    queue, _ = open_queue(DISK, str(tmp_path / "q"), OPTIONS)
    if leasing:
        assert not queue.deliver().receive(9, 0, 1 << 20)  # it steps over the gap first
    assert taken(queue) == [(10, b"10"), (11, b"11")]
    queue.close()
