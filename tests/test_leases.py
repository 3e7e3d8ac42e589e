"""The lease state machine against a model that is too simple to be wrong."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logqueue.storage.leases import Leases, Snapshot, State, ranges

UPPER = 40  # the records of the modelled queue
ATTEMPTS_MAX = 3
TIMES = st.integers(1, 50)


class LeasesAgainstModel(RuleBasedStateMachine):
    """The model keeps, for every record, [state, attempts, due]; no heaps, no low-water mark."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.leases = Leases(0, ATTEMPTS_MAX)
        self.model: dict[int, tuple[str, int, int]] = dict.fromkeys(
            range(1, UPPER + 1), ("ready", 0, 0)
        )
        self.settled: set[int] = set()

    def in_state(self, state: str) -> list[int]:
        return [s for s, each in self.model.items() if each[0] == state]

    def come_back(self, sequence: int, due: int) -> None:
        attempts = self.model[sequence][1]
        state = "dead" if attempts >= ATTEMPTS_MAX else "delayed" if due else "ready"
        self.model[sequence] = (state, attempts, 0 if state == "dead" else due)

    @rule(duration=TIMES)
    def take_a_lease(self, duration: int) -> None:
        sequence = self.leases.next_ready(UPPER)
        assert sequence == min(self.in_state("ready"), default=None)
        if sequence is not None:
            attempts = self.leases.lease(sequence, self.now + duration)
            assert attempts == self.model[sequence][1] + 1
            self.model[sequence] = ("leased", attempts, self.now + duration)

    @rule()
    def consume_at_once(self) -> None:
        sequence = self.leases.next_ready(UPPER)
        assert sequence == min(self.in_state("ready"), default=None)
        if sequence is not None:
            self.leases.settle(sequence)
            self.settled.add(sequence)
            del self.model[sequence]

    @precondition(lambda self: self.in_state("leased"))
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.in_state("leased")))
        self.leases.settle(sequence)
        self.settled.add(sequence)
        del self.model[sequence]

    @precondition(lambda self: self.in_state("dead"))
    @rule()
    def bury(self) -> None:
        assert self.leases.dead() == self.in_state("dead")
        sequence = self.leases.dead()[0]
        self.leases.settle(sequence)
        self.settled.add(sequence)
        del self.model[sequence]

    @precondition(lambda self: self.in_state("leased"))
    @rule(data=st.data(), delay=st.integers(0, 20))
    def release(self, data: st.DataObject, delay: int) -> None:
        sequence = data.draw(st.sampled_from(self.in_state("leased")))
        due = self.now + delay if delay else 0
        self.leases.give_back(sequence, due)
        self.come_back(sequence, due)

    @precondition(lambda self: self.in_state("leased"))
    @rule(data=st.data(), duration=TIMES)
    def extend(self, data: st.DataObject, duration: int) -> None:
        sequence = data.draw(st.sampled_from(self.in_state("leased")))
        self.leases.extend(sequence, self.now + duration)
        self.model[sequence] = ("leased", self.model[sequence][1], self.now + duration)

    @rule(elapsed=st.integers(1, 30))
    def time_passes(self, elapsed: int) -> None:
        self.now += elapsed
        self.leases.expire(self.now)
        for sequence, (state, _, due) in list(self.model.items()):
            if state in ("leased", "delayed") and due <= self.now:
                attempts = self.model[sequence][1]
                if state == "leased":
                    self.come_back(sequence, 0)
                else:
                    self.model[sequence] = ("ready", attempts, 0)

    @rule()
    def restart(self) -> None:
        self.leases = Leases.restore(self.leases.snapshot())
        self.leases.limit_attempts(ATTEMPTS_MAX)

    @rule(by=st.integers(1, 5))
    def purge_up_to(self, by: int) -> None:
        low = min(self.leases.low + by, UPPER)
        self.leases.advance(low)
        for sequence in [s for s in self.model if s <= low]:
            del self.model[sequence]
            self.settled.add(sequence)

    @invariant()
    def agrees_with_the_model(self) -> None:
        leases = self.leases
        assert leases.low <= leases.frontier  # L1
        assert leases.low == min(self.model, default=UPPER + 1) - 1 or leases.low == leases.frontier
        for sequence in range(1, UPPER + 1):
            state = leases.state(sequence)
            if sequence in self.settled:
                assert state is None or sequence <= leases.low
            else:
                expected, attempts, due = self.model[sequence]
                assert state is not None
                assert state.name.lower() == expected
                assert leases.attempts(sequence) == attempts
                assert leases.holds(sequence, attempts) == (expected == "leased")
                assert not leases.holds(sequence, attempts - 1)
                assert not due or due > self.now
        dues = [due for _, _, due in self.model.values() if due]
        assert leases.next_due() == min(dues, default=None)
        assert leases.settled_above == len([s for s in self.settled if s > leases.low])
        for counted in (State.LEASED, State.DELAYED, State.DEAD):
            assert leases.counts[counted] == len(self.in_state(counted.name.lower()))


LeasesAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_leases_agree_with_the_model = LeasesAgainstModel.TestCase


def test_expired_leases_come_back_in_order_before_newer_records() -> None:
    leases = Leases(0)
    for sequence in (1, 2, 3):
        assert leases.next_ready(9) == sequence
        leases.lease(sequence, 100 - sequence)  # the last one expires first
    assert leases.expire(98)
    assert leases.next_ready(9) == 2
    assert leases.expire(99)
    assert leases.next_ready(9) == 1
    assert leases.next_ready(0) is None


def test_a_lease_of_an_earlier_attempt_is_over() -> None:
    leases = Leases(0)
    assert leases.lease(1, 10) == 1
    leases.expire(10)
    assert leases.lease(1, 20) == 2
    assert not leases.holds(1, 1)
    assert leases.holds(1, 2)


def test_out_of_attempts_until_the_limit_is_raised() -> None:
    leases = Leases(0, 2)
    for due in (10, 20):
        leases.lease(1, due)
        leases.expire(due)
    assert leases.dead() == [1]
    assert leases.next_ready(1) is None
    leases.limit_attempts(3)
    assert leases.dead() == []
    assert leases.next_ready(1) == 1
    leases.limit_attempts(1)
    assert leases.dead() == [1]


def test_memory_follows_what_is_open_not_what_was_acknowledged() -> None:
    leases = Leases(0)
    leases.lease(1, 10**9)
    for sequence in range(2, 2002):
        leases.lease(sequence, 10**9)
        leases.settle(sequence)
    assert leases.settled_above == 2000
    assert len(leases.snapshot().entries) == 1
    assert len(leases._timers) < 100
    leases.settle(1)
    assert leases.low == leases.frontier == 2001


def test_a_clock_set_back_holds_no_lease_for_ever() -> None:
    leases = Leases(0)
    leases.lease(1, 10**12)
    leases.lease(2, 50)
    leases.give_back(2, 10**12)
    leases.clamp(500)
    assert leases.next_due() == 500
    leases.expire(500)
    assert leases.counts[State.READY] == 2


def test_records_that_a_power_cut_took_are_forgotten() -> None:
    leases = Leases(0)
    for sequence in (1, 2, 3):
        leases.lease(sequence, 10)
    leases.forget_above(1)
    assert leases.frontier == 3
    assert leases.settled_above == 2
    leases.settle(1)
    assert leases.low == 3


def test_a_snapshot_that_breaks_the_order_is_refused() -> None:
    for sequence in (5, 11):
        with pytest.raises(ValueError, match=str(sequence)):
            Leases.restore(Snapshot(5, 10, [(sequence, 0, 1, 0)]))


@given(st.sets(st.integers(0, 60)))
def test_ranges_are_the_dense_runs(sequences: set[int]) -> None:
    runs = list(ranges(sorted(sequences)))
    assert [s for first, last in runs for s in range(first, last + 1)] == sorted(sequences)
    assert all(later[0] > earlier[1] + 1 for earlier, later in itertools.pairwise(runs))
