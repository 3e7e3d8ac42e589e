"""Which consumed segments go, and when: the pure rules at their edges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.storage.compactor import KEEP_NOTHING, Retention, next_due_ms, plan, usage
from logqueue.storage.format import Ended
from logqueue.storage.log import Sealed

NOW = 1_000_000


def sealed(base: int, last: int, size: int = 100, at: int = 0) -> Sealed:
    return Sealed(Ended(base, last, 4096, 0), size, at)


THREE = [sealed(1, 10, at=100), sealed(11, 20, at=200), sealed(21, 30, at=300)]


@pytest.mark.parametrize(
    ("consumed", "before"), [(0, 0), (9, 0), (10, 11), (11, 11), (20, 21), (29, 21), (30, 31)]
)
def test_only_what_is_consumed_to_its_end_goes(consumed: int, before: int) -> None:
    assert plan(THREE, consumed, KEEP_NOTHING, NOW) == before


def test_nothing_sealed_nothing_goes() -> None:
    assert plan([], 100, KEEP_NOTHING, NOW) == 0


@pytest.mark.parametrize(("limit", "before"), [(0, 31), (99, 31), (100, 21), (199, 21), (300, 0)])
def test_bytes_keep_the_newest_that_fit(limit: int, before: int) -> None:
    assert plan(THREE, 30, Retention(bytes_max=limit), NOW) == before


def test_bytes_count_consumed_segments_only() -> None:
    assert plan(THREE, 20, Retention(bytes_max=200), NOW) == 0
    assert plan(THREE, 20, Retention(bytes_max=199), NOW) == 11


@pytest.mark.parametrize(
    ("now", "before"), [(1100, 0), (1101, 11), (1200, 11), (1201, 21), (1301, 31)]
)
def test_seconds_count_from_the_newest_record_of_a_segment(now: int, before: int) -> None:
    assert plan(THREE, 30, Retention(seconds_max=1), now) == before


def test_of_two_limits_the_one_that_is_exceeded_first_counts() -> None:
    both = Retention(bytes_max=200, seconds_max=1)
    assert plan(THREE, 30, both, 1100) == 11
    assert plan(THREE, 30, both, 1201) == 21


def test_what_nobody_can_view_goes_whatever_the_limits() -> None:
    assert plan(THREE, 30, Retention(bytes_max=1 << 40), NOW, hidden=20) == 21
    assert plan(THREE, 30, Retention(bytes_max=1 << 40), NOW, hidden=19) == 11


def test_a_queue_that_nothing_happens_to_is_due_when_its_oldest_segment_is() -> None:
    retention = Retention(seconds_max=1)
    assert next_due_ms(THREE, 30, retention) == 1100
    assert next_due_ms(THREE, 9, retention) == math.inf
    assert next_due_ms([], 30, retention) == math.inf
    assert next_due_ms(THREE, 30, Retention(bytes_max=100)) == math.inf


def test_usage_tells_live_consumed_and_retained_apart() -> None:
    assert usage(THREE, 50, 25, before=11) == (150, 100, 100)
    assert usage(THREE, 50, 0, before=0) == (350, 0, 0)
    assert usage([], 50, 0, before=0) == (50, 0, 0)


def test_a_queues_own_limits_replace_the_default() -> None:
    default = Retention(bytes_max=7)
    assert Retention.of({}, default) is default
    assert Retention.of({"retain_bytes": 0, "retain_s": 0.0}, default) is default
    assert Retention.of({"retain_bytes": 5}, default) == Retention(bytes_max=5)
    assert Retention.of({"retain_s": 1.5}, default) == Retention(seconds_max=1.5)


@given(
    sizes=st.lists(st.integers(1, 1000), max_size=12),
    consumed=st.integers(0, 140),
    limit=st.none() | st.integers(0, 5000),
    seconds=st.none() | st.floats(0, 20),
    hidden=st.integers(0, 140),
)
def test_a_plan_is_a_prefix_of_what_is_consumed_and_all_of_what_must_go(
    sizes: list[int], consumed: int, limit: int | None, seconds: float | None, hidden: int
) -> None:
    chain = [
        sealed(number * 10 + 1, number * 10 + 10, size, at=number * 1000)
        for number, size in enumerate(sizes)
    ]
    retention, now = Retention(limit, seconds), len(sizes) * 1000
    before = plan(chain, consumed, retention, now, hidden)
    gone = [each for each in chain if each.ended.last < before]
    kept = [each for each in chain if before <= each.ended.last <= consumed]
    assert all(each.ended.last <= consumed for each in gone)
    if limit is None and seconds is None:
        assert not kept
    if limit is not None:
        assert sum(each.size for each in kept) <= limit
    if seconds is not None:
        assert all(now - each.sealed_at <= seconds * 1000 for each in kept)
    assert all(each.ended.last > hidden for each in kept)
    live, going, retained = usage(chain, 1, consumed, before)
    assert live + going + retained == sum(sizes) + 1
    assert going == sum(each.size for each in gone)
