"""Per-queue options: what they refuse, and that nothing is lost on the way to the disk and back."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue import options as limits
from logqueue.errors import BadOption
from logqueue.options import DEFAULTS, QueueOptions

OPTIONS = st.builds(
    lambda dead, attempts, **rest: QueueOptions(
        dead_letter=dead, max_attempts=0 if dead is None else attempts, **rest
    ),
    dead=st.none() | st.binary(max_size=limits.NAME_BYTES_MAX),
    attempts=st.integers(1, limits.ATTEMPTS_MAX),
    max_length=st.integers(limits.MAX_LENGTH_MIN, limits.MAX_LENGTH_MAX),
    max_age_s=st.floats(0, limits.AGE_S_MAX),
    lease_s=st.floats(limits.LEASE_S_MIN, limits.LEASE_S_MAX),
    retain_bytes=st.integers(0, limits.BYTES_MAX),
    retain_s=st.floats(0, limits.AGE_S_MAX),
    paused=st.booleans(),
)


@given(options=OPTIONS)
def test_options_survive_json_and_unknown_keys_are_kept(options: QueueOptions) -> None:
    stored = json.loads(json.dumps(options.stored({"from_the_future": [1], "paused": "stale"})))
    assert QueueOptions.loaded(stored, options.max_length) == options
    assert stored["from_the_future"] == [1]
    assert QueueOptions().changed(json.loads(json.dumps(options.as_json()))) == options


def test_defaults_take_no_room() -> None:
    assert QueueOptions().stored({}) == {}
    assert QueueOptions().changed(DEFAULTS) == QueueOptions()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_length", limits.MAX_LENGTH_MIN - 1),
        ("max_length", limits.MAX_LENGTH_MAX + 1),
        ("max_length", 1000.5),
        ("max_length", True),
        ("max_age_s", -1),
        ("max_age_s", limits.AGE_S_MAX * 1.01),
        ("lease_s", 0),
        ("lease_s", limits.LEASE_S_MAX + 1),
        ("lease_s", math.nan),
        ("lease_s", "30"),
        ("max_attempts", 3),  # and no dead_letter
        ("max_attempts", limits.ATTEMPTS_MAX + 1),
        ("dead_letter", "dlq"),  # and no max_attempts
        ("dead_letter", 7),
        ("dead_letter", "x" * (limits.NAME_BYTES_MAX + 1)),
        ("retain_bytes", -1),
        ("retain_s", -1),
        ("paused", 1),
        ("colour", "blue"),
    ],
)
def test_bad_values_are_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(BadOption) as refused:
        QueueOptions().changed({option: value})
    assert option in str(refused.value) or refused.value.option in ("max_attempts", "dead_letter")


def test_limits_are_inclusive() -> None:
    edges = {
        "max_length": limits.MAX_LENGTH_MAX,
        "lease_s": limits.LEASE_S_MIN,
        "max_age_s": limits.AGE_S_MAX,
        "max_attempts": limits.ATTEMPTS_MAX,
        "dead_letter": "x" * limits.NAME_BYTES_MAX,
        "retain_bytes": limits.BYTES_MAX,
    }
    changed = QueueOptions().changed(edges)
    assert {key: changed.as_json()[key] for key in edges} == edges
