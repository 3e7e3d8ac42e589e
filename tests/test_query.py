"""Query strings as HTTPSQS reads them: decoding, parameters, numbers."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from logqueue.web.query import (
    DECODE_BYTES_MAX,
    PARAMETERS_MAX,
    decode,
    decode_slowly,
    number,
    parameters,
    split_message,
)


def slow_decode(value: bytes) -> bytes:
    """The rule, byte by byte."""
    out = bytearray()
    at = 0
    while at < len(value):
        digits = value[at + 1 : at + 3]
        if (
            value[at] == ord("%")
            and len(digits) == 2
            and all(d in b"0123456789abcdefABCDEF" for d in digits)
        ):
            out.append(int(digits, 16))
            at += 3
        else:
            out.append(ord(" ") if value[at] == ord("+") else value[at])
            at += 1
    return bytes(out)


encoded = st.lists(
    st.one_of(st.binary(max_size=4), st.sampled_from([b"%", b"%4", b"%41", b"%zz", b"+", b"%25"]))
).map(b"".join)


@given(encoded)
def test_decode(value: bytes) -> None:
    assert decode(value) == slow_decode(value)


@pytest.mark.parametrize("shift", range(5))
async def test_long_messages_are_decoded_as_short_ones(shift: int) -> None:
    value = b"x" * shift + b"%41%4%zz+" * (DECODE_BYTES_MAX // 4)
    assert len(value) > 2 * DECODE_BYTES_MAX
    assert await decode_slowly(value) == decode(value)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"", {}),
        (b"a=1&b=2", {b"a": b"1", b"b": b"2"}),
        (b"a=1&", {b"a": b"1"}),
        (b"a=1&&b=2", {}),
        (b"a=1&&", {}),
        (b"&a=1", {}),
        (b"a", {}),
        (b"a=1&b", {}),
        (b"=1&a=2", {}),
        (b"a=", {b"a": b""}),
        (b"a==&A=2", {b"a": b"="}),
        (b"?a=1", {b"?a": b"1"}),
        (b"a=b?c", {b"a": b"b?c"}),
        (b"%61=1", {b"%61": b"1"}),
        (b"a=1&" * PARAMETERS_MAX, {b"a": b"1"}),
        (b"a=1&" * (PARAMETERS_MAX + 1), {}),
    ],
)
def test_parameters(query: bytes, found: dict[bytes, bytes]) -> None:
    assert parameters(query) == found


@pytest.mark.parametrize(
    ("target", "query", "message"),
    [
        (b"/", b"", None),
        (b"/?", b"", None),
        (b"/?a=1#&data=x", b"a=1", None),
        (b"/#?a=1", b"", None),
        (b"?a=1", b"a=1", None),
        (b"http://h?a=b?c", b"a=b?c", None),
        (b"/?name=q&opt=put&data=x", b"name=q&opt=put", b"x"),
        (b"/?opt=put&data=x&name=q", b"opt=put&name=q", b"x"),
        (b"/?a=1&&data=x", b"a=1&&data=x", None),
    ],
)
def test_split_message(target: bytes, query: bytes, message: bytes | None) -> None:
    assert split_message(target) == (query, message)


pieces = st.sampled_from(
    [b"", b"a", b"a=1", b"data=x", b"DATA=y", b"data=", b"xdata=z", b"data", b"=", b"b=data=q"]
)


@given(st.lists(pieces, max_size=6).map(b"&".join))
def test_taking_the_message_out_changes_no_parameter(query: bytes) -> None:
    left, message = split_message(b"/?" + query)
    found = parameters(left)
    if message is not None and found:
        found[b"data"] = message
    assert found == parameters(query)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"", 0),
        (b"10", 10),
        (b"010", 10),
        (b"%20+%0910", 10),
        (b"%2B7", 7),
        (b"-7", -7),
        (b"%2B-7", 0),
        (b"10abc", 10),
        (b"13.7", 13),
        (b"0x20", 0),
        (b"abc", 0),
        (b"5%006", 5),
        (b"4294967306", 4294967306),
        (b"0" * 200 + b"12", 12),
        (b"9" * 200, 99999999999999999999),
        (b"9" * 2000, 0),
    ],
)
def test_number(text: bytes, value: int) -> None:
    assert number({b"n": text}, b"n") == value


@given(st.integers(-(10**12), 10**12))
@example(10**9)
def test_number_of_any_int(value: int) -> None:
    assert number({b"n": b"%d" % value}, b"n") == value
