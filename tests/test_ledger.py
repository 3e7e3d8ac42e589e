"""The judge of the crash tests is itself on trial: it must see every way to break a promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.ledger import Broken, Ledger, message, sender

# Two lives of a daemon: three messages acknowledged, one in flight, one get that died with it.
PUTS = ["i 1 4", "a 1 1", "a 2 2", "a 3 3"]


def judge(*lives: tuple[list[str], list[str], bool]) -> Ledger:
    """A ledger of one producer (0) and one consumer; each life is (puts, gets, crashed)."""
    ledger = Ledger()
    for puts, gets, crashed in lives:
        ledger.absorb({0: puts}, [gets], crashed=crashed)
    ledger.finish()
    return ledger


def test_what_was_promised_passes() -> None:
    ledger = judge(
        (PUTS, ["g 3", "r 1 0 1", "e"], True), ([], ["g 2", "r 3 0 3", "r 4 0 4"], False)
    )
    assert (ledger.outbox.acknowledged, ledger.delivered, ledger.taken_unseen) == (3, 3, 1)


def test_a_refused_get_takes_nothing() -> None:
    with pytest.raises(Broken, match="the queue ended"):
        judge((PUTS, ["g 3", "r 1 0 1", "r 2 0 2", "f b'HTTPSQS_ERROR'"], True))


def test_a_message_in_flight_may_be_gone() -> None:
    ledger = judge((PUTS, ["g 3", "r 1 0 1", "r 2 0 2", "r 3 0 3"], True))
    assert ledger.delivered == 3


def test_a_dying_get_may_take_the_last_message() -> None:
    died = ["g 3", "r 1 0 1", "r 2 0 2"]
    assert judge((PUTS, died, True)).taken_unseen == 1
    with pytest.raises(Broken, match="the queue ended"):
        judge((PUTS, [*died, "e"], True))
    later = judge((PUTS, died, True), (["i 5 5", "a 5 4"], ["g 1", "r 4 0 5"], False))
    assert (later.delivered, later.taken_unseen) == (3, 1)
    with pytest.raises(Broken, match="nobody got"):  # one get cannot have taken two
        judge((PUTS, died, True), (["i 5 5", "a 5 5"], ["g 1", "r 5 0 5"], False))


@pytest.mark.parametrize(
    ("lives", "complaint"),
    [
        pytest.param(
            [(PUTS, ["g 3", "r 1 0 1", "e"], False), ([], ["g 1", "e"], False)],
            "lost: the queue ended",
            id="acknowledged_never_delivered",
        ),
        pytest.param(
            [(PUTS, ["g 3", "r 1 0 1", "r 2 0 2", "e"], True), ([], ["g 1", "e"], False)],
            "lost: the queue ended",
            id="last_one_lost_without_a_get",
        ),
        pytest.param(
            [(PUTS, ["g 2", "r 1 0 1", "r 3 0 3"], True)], "lost: nobody got", id="skipped"
        ),
        pytest.param(
            [(PUTS, ["g 3", "r 1 0 1", "r 3 0 3"], False)],
            "lost: nobody got",
            id="skipped_in_order_stop",
        ),
        pytest.param(
            [(PUTS, ["g 1", "r 1 0 1"], True), ([], ["g 1", "r 1 0 1"], False)],
            "delivered twice",
            id="again_after_the_crash",
        ),
        pytest.param(
            [(PUTS, ["g 3", "r 1 0 1", "r 2 0 2", "r 3 0 1"], True)],
            "delivered twice",
            id="again_at_a_new_position",
        ),
        pytest.param([(PUTS, ["g 1", "r 1 0 2"], True)], "moved", id="other_position"),
        pytest.param([(PUTS, ["g 1", "r 1 0 9"], True)], "never sent", id="resurrected"),
        pytest.param(
            [(["i 1 2", "f 1 b'HTTPSQS_PUT_ERROR'", "a 2 1"], ["g 1", "r 1 0 1"], True)],
            "never sent, refused",
            id="refused_and_delivered",
        ),
        pytest.param(
            [(["i 1 3"], ["g 2", "r 1 0 2", "r 2 0 1"], True)], "reordered", id="producers_order"
        ),
        pytest.param([(["i 1 2", "a 1 2", "a 2 1"], [], True)], "reordered", id="positions_fall"),
        pytest.param(
            [(["i 1 3", "a 1 1", "a 2 2"], ["g 2", "r 1 0 1", "r 2 0 3"], False)],
            "lost: message 2",
            id="another_in_its_place",
        ),
        pytest.param([(PUTS, ["g 1", "x 1 the CRC does not fit"], True)], "altered", id="altered"),
    ],
)
def test_every_broken_promise_is_seen(
    lives: list[tuple[list[str], list[str], bool]], complaint: str
) -> None:
    with pytest.raises(Broken, match=complaint):
        judge(*lives)


@given(st.integers(0, 99), st.integers(1, 10**7), st.integers(0, 5000), st.data())
def test_a_payload_proves_itself(producer: int, n: int, length: int, data: st.DataObject) -> None:
    payload = message(producer, n, length)
    assert len(payload) >= length
    assert sender(payload) == (producer, n)
    at = data.draw(st.integers(9, len(payload) - 1))
    flipped = payload[:at] + bytes([payload[at] ^ (1 << data.draw(st.integers(0, 7)))])
    with pytest.raises(ValueError, match="CRC"):
        sender(flipped + payload[at + 1 :])


BATCH = ["b 1 3"]  # never answered


def test_a_batch_that_was_never_answered_is_there_or_not() -> None:
    assert judge((BATCH, ["g 1", "e"], True)).delivered == 0
    whole = ["g 4", "r 1 0 1", "r 2 0 2", "r 3 0 3", "e 1"]
    assert judge((BATCH, whole, True)).delivered == 3
    assert judge((BATCH, ["g 9", "r 1 0 1"], True)).taken_unseen == 2  # a get died with the rest
    assert judge((BATCH, ["g 9", "r 2 0 2"], True)).taken_unseen == 2


@pytest.mark.parametrize(
    ("lives", "complaint"),
    [
        pytest.param(
            [(BATCH, ["g 2", "r 1 0 1", "e"], True)], "the queue ended before", id="end_missing"
        ),
        pytest.param(
            [
                (BATCH, [], True),
                (["i 4 4", "a 4 3"], ["g 3", "r 1 0 1", "r 2 0 2", "r 3 0 4"], True),
            ],
            "split",
            id="another_inside",
        ),
        pytest.param(
            [(["i 1 1", "a 1 1", "b 2 4"], ["g 2", "r 1 0 1", "r 2 0 3"], True)],
            "split",
            id="beginning_missing",
        ),
    ],
)
def test_a_batch_in_parts_is_seen(
    lives: list[tuple[list[str], list[str], bool]], complaint: str
) -> None:
    with pytest.raises(Broken, match=complaint):
        judge(*lives)
