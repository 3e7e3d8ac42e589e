"""Leases and damage: what is settled, leased and lost after a repair, by real delivery."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.fscktree import directory, flip, fsck, kinds, segments
from tests.v1 import FRAMES, Client, unframed

COUNT, LEASED = 60, 12  # the first twelve were leased,
ACKNOWLEDGED = range(5, 9)  # and these settled out of order
SMALL = ["--segment-bytes", str(64 * 1024)]


def message(number: int) -> bytes:
    return b"%d-" % number + bytes(2000)


@pytest.fixture
def killed(tmp_path: Path) -> Daemon:
    """A daemon that was killed; its queue `q` has leases."""
    daemon = Daemon(tmp_path, SMALL)
    with daemon:
        daemon.start()
        with Client(daemon.port) as v1:
            for number in range(1, COUNT + 1):
                assert v1.put("q", message(number)).status == 201
            leases = [v1.receive("q", "lease=1h").headers["Queue-Lease"] for _ in range(LEASED)]
            for number in ACKNOWLEDGED:
                assert v1.call("DELETE", f"/queues/q/leases/{leases[number - 1]}").status == 204
        daemon.stop(signal.SIGKILL)
    return daemon


def delivered(daemon: Daemon) -> list[int]:
    """Start the daemon and take everything with leases that are acknowledged; which messages."""
    taken = []
    with daemon:
        daemon.start()
        with Client(daemon.port) as v1:
            while (answer := v1.receive("q", "lease=1h")).status == 200:
                number = int(answer.body.partition(b"-")[0])
                assert answer.body == message(number)
                taken.append(number)
                lease = answer.headers["Queue-Lease"]
                assert v1.call("DELETE", f"/queues/q/leases/{lease}").status == 204
            assert answer.status == 204
            v1.put("q", message(1000))
            assert v1.receive("q", "lease=0").body == message(1000)
        assert daemon.stop() == 0, daemon.log
    return taken


def test_delivery_goes_on_over_the_hole_that_a_repair_leaves(killed: Daemon, capsys: Any) -> None:
    """The hole takes leased records, settled ones and such as nobody has seen."""
    root, files = killed.data, segments(killed.data, b"q")
    assert len(files) > 2
    flip(files[0], 4096 + 3 * 2040 + 100)  # 4, leased
    lost_from, lost_to = int(files[1].stem), int(files[2].stem)
    files[1].unlink()
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (4, {"mid-damage", "gap"})
    assert fsck(capsys, "--repair", "-y", root)[0] == 1
    assert fsck(capsys, "--thorough", root)[0] == 0
    alive = [n for n in range(LEASED + 1, COUNT + 1) if not lost_from <= n < lost_to]
    assert delivered(killed) == alive, "what was leased still is"
    assert fsck(capsys, root)[0] == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "zeros"])
def test_without_its_acknowledgement_log_a_queue_delivers_what_was_leased_again(
    killed: Daemon, capsys: Any, damage: str
) -> None:
    (acks,) = directory(killed.data, b"q").glob("0*.ack")
    match damage:
        case "flip":
            flip(acks, 4096 + 40)
        case "cut":
            os.truncate(acks, 5000)
        case "gone":
            acks.unlink()
        case "zeros":
            acks.write_bytes(bytes(acks.stat().st_size))
    status, rows = fsck(capsys, killed.data)
    assert (status, kinds(rows)) == (4, {"acks-bad"})
    assert fsck(capsys, "--repair", "-p", killed.data)[0] == 4, "messages may come twice: it asks"
    assert fsck(capsys, "--repair", "-y", killed.data)[0] == 1
    assert fsck(capsys, killed.data)[0] == 0
    assert delivered(killed) == list(range(1, COUNT + 1))


def test_salvage_keeps_the_leases(killed: Daemon, capsys: Any, tmp_path: Path) -> None:
    flip(segments(killed.data, b"q")[1], 4096 + 100)
    lost = int(segments(killed.data, b"q")[1].stem)
    moved = Daemon(tmp_path / "moved", SMALL)
    moved.directory.mkdir()
    assert fsck(capsys, "--salvage", moved.data, killed.data)[0] == 4
    assert delivered(moved) == [n for n in range(LEASED + 1, COUNT + 1) if n != lost]


def options(v1: Client) -> dict[str, object]:
    found = v1.details("q")["options"]
    assert isinstance(found, dict)
    return found


def test_options_survive_a_repair(tmp_path: Path, capsys: Any) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        with Client(daemon.port) as v1:
            v1.ask("PUT", "/queues/q", {"max_age_s": 700})
            v1.put("q", b"one")
            v1.put("q", b"two")
        daemon.stop()
        flip(segments(daemon.data, b"q")[0], 4096 + 34)
        assert fsck(capsys, "--repair", "-y", daemon.data)[0] == 1
        daemon.start()
        with Client(daemon.port) as v1:
            assert options(v1)["max_age_s"] == 700
        daemon.stop()


def test_damaged_options_are_the_default_ones_after_a_repair(tmp_path: Path, capsys: Any) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        with Client(daemon.port) as v1:
            v1.ask("PUT", "/queues/q", {"max_age_s": 700})
            v1.put("q", b"one")
        daemon.stop()
        meta = directory(daemon.data, b"q") / "meta"
        flip(meta, meta.read_bytes().index(b"max_age_s"))
        status, rows = fsck(capsys, "--repair", "-y", daemon.data)
        assert (status, kinds(rows)) == (1, {"meta-bad"})
        daemon.start()
        with Client(daemon.port) as v1:
            assert options(v1)["max_age_s"] == 0
            assert unframed(v1.receive("q", "lease=0&max=5", FRAMES).body) == [b"one"]
        daemon.stop()
