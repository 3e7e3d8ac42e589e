"""Every part of `make siege`, small: what must hold on a busy machine too.  Nothing is timed but
what a client cannot shorten: that it is closed, and not before its deadline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.siege import FEW, IDLE_BYTES_MAX, Figures, few, idle, slow

PUTS = 20


@pytest.fixture
def figures() -> Figures:
    return Figures()


def found(figures: Figures) -> dict[str, float]:
    return {figure: value for _, figure, value, _ in figures.rows}


def test_idle_connections(tmp_path: Path, figures: Figures) -> None:
    idle(tmp_path, figures, 2000, PUTS)
    values = found(figures)
    assert values["of them not answered at the end"] == 0
    assert values["bytes for each"] <= IDLE_BYTES_MAX


def test_slow_heads_and_bodies(tmp_path: Path, figures: Figures) -> None:
    slow(tmp_path, figures, 100, PUTS, "--head-timeout", "0.5", "--body-timeout", "1")
    values = found(figures)
    assert values["of them not closed"] == 0
    assert values["heads: earliest end, s"] >= 0.5
    assert values["bodies: earliest end, s"] >= 1


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_few_descriptors(tmp_path: Path, figures: Figures) -> None:
    few(tmp_path, figures, 100)
    values = found(figures)
    assert 0 < values["connections that were served"] < FEW
    assert values["connections that were refused"] > 0


def test_verdicts() -> None:
    figures = Figures()
    figures.add("part", "for information", 5.0)
    figures.add("part", "at its edge", 2.0, 2.0)
    assert not figures.missed
    figures.add("part", "above", 2.1, 2.0)
    assert figures.missed
    assert [line.split(" | ")[-1] for line in figures.table().splitlines()[2:]] == [
        " |",
        "held |",
        "MISSED |",
    ]
