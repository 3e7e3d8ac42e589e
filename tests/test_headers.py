"""Header blocks: what is stored with a message comes back with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.errors import LimitExceeded
from logqueue.storage.frame import HEADERS as FLAG
from logqueue.storage.frame import MESSAGE, Frame
from logqueue.storage.headers import (
    BLOCK_BYTES_MAX,
    NAME_BYTES_MAX,
    Headers,
    body_of,
    decode_headers,
    encode_headers,
    message_of,
)

HEADERS = st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=300)), max_size=5)


def frame_of(payload: bytes, flags: int) -> Frame:
    return Frame(0, 0, 1, 0, 1, MESSAGE, flags, payload)


@given(headers=HEADERS.map(tuple), body=st.binary())
def test_round_trip(headers: Headers, body: bytes) -> None:
    payload = encode_headers(headers) + body
    assert decode_headers(payload) == (headers, body)
    assert body_of(frame_of(payload, FLAG)) == body
    assert message_of(frame_of(payload, FLAG)) == (headers, body)
    assert message_of(frame_of(payload, 0)) == ((), payload)


@given(payload=st.binary(max_size=100))
def test_any_payload_decodes_or_is_refused(payload: bytes) -> None:
    try:
        headers, body = decode_headers(payload)
    except ValueError:
        return
    assert encode_headers(headers) + body == payload


def test_limits() -> None:
    fits = ((b"n" * NAME_BYTES_MAX, b"v" * (BLOCK_BYTES_MAX - NAME_BYTES_MAX - 3)),)
    assert decode_headers(encode_headers(fits)) == (fits, b"")
    for too_much in (
        ((b"n" * (NAME_BYTES_MAX + 1), b""),),
        ((b"n", b"v" * (BLOCK_BYTES_MAX + 1)),),
        ((b"n" * NAME_BYTES_MAX, b"v" * (BLOCK_BYTES_MAX - NAME_BYTES_MAX - 2)),),
    ):
        with pytest.raises(LimitExceeded):
            encode_headers(too_much)
