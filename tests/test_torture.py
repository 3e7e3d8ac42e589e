"""kill -9 of a real daemon under load from other processes; see `tools.torture`.

The same seed each time, and the machine's own timing.  `make torture ROUNDS=N` is the long run.
"""

from __future__ import annotations

from pathlib import Path

from tools.torture import Torture, plan, run

ROUNDS = 20


def test_twenty_lives_end_badly_and_nothing_is_lost(tmp_path: Path) -> None:
    said: list[str] = []
    torture = Torture(tmp_path, producers=8, consumers=4)
    with torture.daemon:
        run(torture, seed=1, rounds=ROUNDS, report=said.append, round_s=0.8)
    assert sum(torture.ends.values()) == ROUNDS
    assert {"kill -9", "failpoint", "SIGTERM"} <= torture.ends.keys()
    for ledger in torture.crew.ledgers.values():
        assert ledger.acknowledged > 1000
        assert ledger.delivered >= ledger.acknowledged - ledger.taken_unseen


def test_a_seed_fixes_the_rounds() -> None:
    assert [plan(3, n) for n in range(50)] == [plan(3, n) for n in range(50)]
    assert plan(3, 1) != plan(4, 1)
