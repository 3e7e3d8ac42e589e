"""Power cuts of a real ext4 under a real daemon; see `tools.powercut`.

`make powercut ROUNDS=N` is the long run.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tools import powercut
from tools.clients import Load
from tools.ledger import Receipt, read_consumer
from tools.loopdisk import EXTENTS, PREWRITTEN, LoopDisk, missing

pytestmark = pytest.mark.skipif(missing() != "", reason=f"power cuts: {missing()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with LoopDisk(tmp_path / "disk", tmp_path / "data", powercut.DISK_BYTES) as disk:
        yield disk


@pytest.mark.parametrize("features", [EXTENTS, PREWRITTEN], ids=["extents", "prewritten"])
def test_what_was_acknowledged_survives(tmp_path: Path, features: tuple[str, ...]) -> None:
    said: list[str] = []
    powercut.run(tmp_path, seed=1, rounds=5, report=said.append, features=features)
    assert said[-1].startswith("5 cuts and a drain")


def test_without_syncs_the_loss_is_noticed(tmp_path: Path) -> None:
    caught = powercut.control(tmp_path, seed=1, rounds=5)
    assert "lost" in caught or "reordered" in caught or "acknowledged" in caught


def test_interval_loses_at_most_its_seconds(tmp_path: Path, disk: LoopDisk) -> None:
    with Daemon(tmp_path, ["-s", "1"]) as daemon:
        daemon.start()
        for n in range(100):
            assert daemon.ask("name=q&opt=put", b"%d" % n) == b"HTTPSQS_PUT_OK"
        for n in range(30):
            assert daemon.ask("name=q&opt=get") == b"%d" % n
        time.sleep(
            2.5
        )  # the promise: after one second, and the sync that it starts, all of it counts
        daemon.ask("name=q&opt=put", b"late")
        disk.cut()
        daemon.stop(signal.SIGKILL)
        disk.unmount()
        disk.mount()
        daemon.start()
        for n in range(30, 100):
            assert daemon.ask("name=q&opt=get") == b"%d" % n
        assert daemon.ask("name=q&opt=get") in (b"HTTPSQS_GET_END", b"late")
        assert daemon.stop() == 0


@pytest.mark.parametrize("durability", ["interval", "os"])
def test_a_weak_mode_may_lose_and_repeat_but_raises_no_false_alarm(
    tmp_path: Path, disk: LoopDisk, durability: str
) -> None:
    cuts = powercut.PowerCuts(tmp_path, disk, seed=2)
    crew = cuts.torture.crew
    with cuts.torture.daemon as daemon:
        for _ in range(4):
            cuts.live_and_die(durability)  # fails if its start had anything to complain of
            crew.join()
        daemon.start()
        assert "ERROR" not in daemon.log
        crew.start(daemon.port, Load(), consume_only=True)
        crew.join()
        assert daemon.stop() == 0
    for journals in (tmp_path.glob("consumer-[02]"), tmp_path.glob("consumer-[13]")):
        receipts: list[Receipt] = []
        for journal in journals:
            read_consumer(journal.read_text("ascii").splitlines(), receipts)  # none was altered
        receipts.sort()
        assert [each.position for each in receipts] == sorted({each.position for each in receipts})
