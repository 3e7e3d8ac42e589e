"""The soak itself, for a few seconds: it runs, it holds, and it would notice."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tools.pipeline import Pipeline, request
from tools.soak import Sample, Watch, judge, soak
from tools.soak_load import Broken, Worker


def test_some_seconds_of_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soak(tmp_path, seconds=4, seed=2)
    said = capsys.readouterr().out
    assert "1 backups" in said
    assert not said.startswith("0 messages")


def test_a_message_that_somebody_else_takes_is_noticed(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        stop = multiprocessing.Event()
        stop.set()
        with Pipeline(daemon.port) as connection:
            worker = Worker(connection, 0, seed=1)
            worker.put(0)
            connection.ask([request("soak-0", "get")])
            with pytest.raises(Broken, match="lease 1 of 0"):
                worker.run(stop)
            Watch(daemon, connection).sample()
        daemon.stop()


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (Sample(13 << 20, 50, 200, 0, 0.0), "anonymous memory grew"),
        (Sample(100 << 20, 50, 200, 0, 0.0), "anonymous memory grew"),
        (Sample(10 << 20, 70, 200, 0, 0.0), "descriptors or maps grew by 20"),
        (Sample(10 << 20, 50, 220, 0, 0.0), "descriptors or maps grew by 20"),
    ],
)
def test_growth_is_noticed(last: Sample, reason: str) -> None:
    steady = Sample(10 << 20, 50, 200, 0, 0.0)
    with pytest.raises(Broken, match=reason):
        judge([steady] * 1600 + [last] * 400)
    judge([steady] * 2000)


@pytest.mark.parametrize(
    ("always", "reason"),
    [
        (Sample(10 << 20, 5000, 200, 0, 0.0), "5000 descriptors"),
        (Sample(10 << 20, 50, 5000, 0, 0.0), "5000 maps"),
    ],
)
def test_too_much_from_the_start_is_noticed(always: Sample, reason: str) -> None:
    with pytest.raises(Broken, match=reason):
        judge([always] * 100)
