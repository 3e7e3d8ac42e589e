"""The judge of what is leased must see every way to break a promise."""

from __future__ import annotations

import pytest

from tools.jobs import JobLedger
from tools.ledger import Broken

PUTS = ["i 1 3", "a 1 1", "a 2 2"]  # the third was never answered
MS = 1_000_000
TAKE = ["g 0 300", "d 10 1 1 0 1"]  # until 300 ms
SETTLED = [*TAKE, f"k {20 * MS} 1", f"s {30 * MS}"]
REST = [f"g {900 * MS} 300", f"d {901 * MS} 2 1 0 2", f"k {902 * MS} 2", f"s {903 * MS}"]

Life = tuple[list[str], list[list[str]]]  # what was put; the workers' journals


def judge(*lives: Life) -> JobLedger:
    ledger = JobLedger()
    for puts, workers in lives:
        ledger.absorb({0: puts}, workers)
    ledger.finish()
    return ledger


def test_what_was_promised_passes() -> None:
    ledger = judge((PUTS, [SETTLED]), ([], [REST]))
    assert (ledger.delivered, ledger.settled, ledger.awaited, ledger.refused) == (2, 2, 0, 0)


def test_what_the_daemon_may_have_done_before_it_died_is_left_open() -> None:
    died = [*TAKE, f"k {20 * MS} 1"]
    assert judge((PUTS, [died]), ([], [REST])).settled == 1
    again = [f"g {400 * MS} 300", f"d {401 * MS} 1 2 0 1", f"k {402 * MS} 1", f"s {403 * MS}"]
    assert judge((PUTS, [died]), ([], [again, REST])).settled == 2


def test_a_message_comes_again_after_its_lease_or_when_it_was_given_back() -> None:
    later = [f"g {200 * MS} 300", f"d {310 * MS} 1 2 0 1", f"k {320 * MS} 1", f"s {330 * MS}"]
    sooner = [f"g {21 * MS} 300", f"d {22 * MS} 1 2 0 1", f"k {23 * MS} 1", f"s {24 * MS}"]
    assert judge((PUTS, [TAKE, later, REST])).settled == 2
    assert judge((PUTS, [[*TAKE, f"l {20 * MS} 1"], sooner, REST])).settled == 2


def test_a_put_that_was_never_answered_must_come_out_once_it_was_seen() -> None:
    seen = ["g 0 300", "d 10 3 1 0 3"]
    with pytest.raises(Broken, match="lost"):
        judge((PUTS, [SETTLED, REST, seen]))


@pytest.mark.parametrize(
    ("lives", "complaint"),
    [
        pytest.param([(PUTS, [SETTLED])], "lost", id="never_delivered"),
        pytest.param([(PUTS, [TAKE, REST])], "lost", id="never_settled"),
        pytest.param(
            [(PUTS, [SETTLED, [f"g {400 * MS} 300", f"d {401 * MS} 1 2 0 1"]])],
            "came back after it was acknowledged: ",
            id="back",
        ),
        pytest.param(
            [(PUTS, [SETTLED]), ([], [[f"g {400 * MS} 300", f"d {401 * MS} 1 2 0 1"]])],
            "in an earlier life",
            id="back_in_another_life",
        ),
        pytest.param(
            [(PUTS, [TAKE]), ([], [[f"g {400 * MS} 300", f"d {401 * MS} 1 1 0 1"]])],
            "an attempt was forgotten",
            id="attempts",
        ),
        pytest.param(
            [(PUTS, [TAKE]), ([], [[f"g {99 * MS} 300", f"d {100 * MS} 1 2 0 1"]])],
            "leased twice at once",
            id="twice_at_once",
        ),
        pytest.param(
            [(PUTS, [[*TAKE, f"k {20 * MS} 1", f"s {30 * MS} 1"]])],
            "a lease ended early",
            id="ended_early",
        ),
        pytest.param([(PUTS, [["g 0 300", "x 1 bad"]])], "altered", id="altered"),
        pytest.param([(PUTS, [["g 0 300", "d 10 2 1 0 1"]])], "moved", id="moved"),
        pytest.param([(PUTS, [["g 0 300", "d 10 4 1 0 4"]])], "never sent", id="never_sent"),
        pytest.param(
            [(PUTS, [["g 0 300", "d 10 3 1 0 3", "d 10 4 1 0 3"]])], "moved", id="doubled"
        ),
    ],
)
def test_a_broken_promise_is_seen(lives: list[Life], complaint: str) -> None:
    with pytest.raises(Broken, match=complaint):
        judge(*lives)


def test_refusals_are_counted() -> None:
    ledger = judge(
        (["i 1 1", "f 1 HTTPSQS_PUT_ERROR"], [["g 0 300", "f 503 b'overloaded'"]]),
    )
    assert ledger.refused == 2
