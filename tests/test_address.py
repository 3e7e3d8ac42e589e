"""Addresses as they are written on the command line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.address import Address, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", Address("127.0.0.1")),
        ("localhost:1218", Address("localhost", 1218)),
        ("h:0", Address("h", 0)),
        ("::1", Address("::1")),
        ("fe80::1%eth0", Address("fe80::1%eth0")),
        ("[::1]", Address("::1")),
        ("[::1]:65535", Address("::1", 65535)),
        ("http://h", Address("h", plain=True)),
        ("http://[::1]:80/", Address("::1", 80, plain=True)),
        ("unix:/run/q", Address(path="/run/q")),
        ("unix:q:1", Address(path="q:1")),
    ],
)
def test_forms(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":1", "h:", "h:x", "h:-1", "h:65536", "h:\u0663", "[::1", "[::1]1", "[]:1"),
        *("unix:", "http://", "http://h/path", "https://h"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse(text)


@given(st.text(max_size=12))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert (address.host == "") != (address.path == "")
