"""kill -9 of a real daemon under load from other processes; see `tools.torture`.

The same seed each time, and the machine's own timing.  `make torture ROUNDS=N` is the long run.
"""

from __future__ import annotations

from pathlib import Path

from tools.torture import Torture, plan, run

ROUNDS = 20


def test_twenty_lives_end_badly_and_nothing_is_lost(tmp_path: Path) -> None:
    said: list[str] = []
    torture = Torture(tmp_path, producers=4, consumers=2, workers=2)
    with torture.daemon:
        run(torture, seed=1, rounds=ROUNDS, report=said.append)
    assert sum(torture.ends.values()) == ROUNDS
    assert {"kill -9", "failpoint", "SIGTERM"} <= torture.ends.keys()
    for ledger in torture.crew.ledgers.values():
        assert ledger.outbox.acknowledged > 1000
        assert ledger.delivered >= ledger.outbox.acknowledged - ledger.taken_unseen
    jobs = torture.crew.jobs
    assert jobs.settled > 500
    assert jobs.delivered > jobs.settled  # some were given back, or forgotten


def test_a_seed_fixes_the_rounds() -> None:
    assert [plan(3, n) for n in range(50)] == [plan(3, n) for n in range(50)]
    assert plan(3, 1) != plan(4, 1)
