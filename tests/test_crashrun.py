"""The long run of the simulated crashes, cut short."""

from __future__ import annotations

import math

import pytest

from tests import crashrun
from tests.crashledger import check


def test_all_kinds_of_worlds_take_turns() -> None:
    said: list[str] = []
    assert crashrun.run(list(crashrun.KINDS), 1, 100, math.inf, said.append) == 100
    assert said == ["100 cuts"]
    assert crashrun.run(["batches"], 1, 100, 0.0, said.append) == 0


def test_a_broken_promise_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int) -> None:
        check(seed != 3, "lost")

    monkeypatch.setitem(crashrun.KINDS, "batches", broken)
    with pytest.raises(AssertionError, match=r"lost.*make crash KIND=batches SEED=3 CUTS=20"):
        crashrun.run(["batches"], 1, 100, math.inf, lambda line: None)
