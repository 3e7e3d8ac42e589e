"""Lease tokens: they come back as they went out, and nobody else can make one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.storage.token import TOKEN_CHARACTERS, OtherEpoch, Tokens

TOKENS = Tokens(b"0123456789abcdef")


@given(sequence=st.integers(0, 2**64 - 1), attempt=st.integers(0, 2**32 - 1))
def test_round_trip(sequence: int, attempt: int) -> None:
    token = TOKENS.make(sequence, attempt)
    assert len(token) == TOKEN_CHARACTERS
    assert token.replace("-", "").replace("_", "").isalnum()  # safe in a path
    assert TOKENS.read(token) == (sequence, attempt)


@given(at=st.integers(0, TOKEN_CHARACTERS - 1), other=st.sampled_from("ABCDxyz019-_"))
def test_a_changed_token_is_nobody_s(at: int, other: str) -> None:
    token = TOKENS.make(7, 1)
    changed = token[:at] + other + token[at + 1 :]
    if changed == token:
        return
    try:
        assert TOKENS.read(changed) is None
    except OtherEpoch:
        assert at < 6  # the epoch's own bytes


@given(text=st.text(max_size=60))
def test_any_text_is_answered(text: str) -> None:
    with contextlib.suppress(OtherEpoch):
        assert TOKENS.read(text) is None


def test_a_queue_that_was_created_again_knows_the_old_tokens() -> None:
    with pytest.raises(OtherEpoch):
        Tokens(b"fedcba9876543210").read(TOKENS.make(7, 1))
