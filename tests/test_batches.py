"""The codecs of batches, durations and Accept: what goes in comes out, whatever it is."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Awaitable
from typing import TypeVar

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from logqueue.duration import seconds
from logqueue.web.problem import Failed
from logqueue.web.queues import DEAD_HEADER, Message, State
from logqueue.web.v1 import batches
from logqueue.web.v1.batches import FRAMES, LINE_BYTES_MAX, LINES, wanted
from tests.v1 import framed, unframed

T = TypeVar("T")

any_bytes = st.lists(st.binary(max_size=50), max_size=20)
content_types = st.from_regex(rb"\A[!-~]([ -~]{0,20}[!-~])?\Z")


def run(awaited: Awaitable[T]) -> T:
    async def wait() -> T:
        return await awaited

    return trio.run(wait)


def messages(payloads: list[bytes], lease: str = "") -> list[Message]:
    return [Message(at, at, 5, each, (), 1, lease) for at, each in enumerate(payloads, 1)]


@given(any_bytes.filter(bool))
def test_frames_come_back(payloads: list[bytes]) -> None:
    assert run(batches.read(FRAMES, framed(payloads))) == (payloads, [])
    assert batches.frames(messages(payloads)) == framed(payloads)


@given(any_bytes)
def test_leased_frames_come_in_pairs(payloads: list[bytes]) -> None:
    frames = unframed(batches.frames(messages(payloads, "token")))
    assert frames[0::2] == [b"token"] * len(payloads)
    assert frames[1::2] == payloads


@given(st.binary(max_size=40))
def test_frames_are_read_or_refused(body: bytes) -> None:
    code = ""
    try:
        payloads, _ = run(batches.read(FRAMES, body))
    except Failed as failed:
        code = failed.problem.code
    assert code == "bad-body" if code else framed(payloads) == body


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), content_types), min_size=1))
def test_lines_are_what_json_says(given_: list[tuple[str, bytes]]) -> None:
    body = "\n".join(json.dumps({"data": text, "type": kind.decode()}) for text, kind in given_)
    payloads, types = run(batches.read(LINES, body.encode()))
    assert payloads == [text.encode() for text, _ in given_]
    assert types == [kind for _, kind in given_]


@given(any_bytes, st.booleans())
def test_answer_lines_are_json(payloads: list[bytes], stated: bool) -> None:
    body = run(batches.lines(messages(payloads), stated=stated))
    found = [json.loads(line) for line in body.split(b"\n")[:-1]]
    for payload, line in zip(payloads, found, strict=True):
        if "data" in line:
            assert line["data"].encode() == payload
        else:
            assert b64decode(line["data_b64"]) == payload
        assert ("state" in line) is stated


@given(any_bytes.filter(bool))
def test_what_was_answered_can_be_put(payloads: list[bytes]) -> None:
    """With the keys that a put knows."""
    found = map(json.loads, run(batches.lines(messages(payloads))).splitlines())
    kept = [{k: v for k, v in line.items() if k.startswith("data")} for line in found]
    body = "\n".join(map(json.dumps, kept)).encode()
    assert run(batches.read(LINES, body)) == (payloads, [])


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        (b"", "data"),
        (b'"\\\n' * 1000, "data"),
        ("\u20ac".encode() * 1000, "data"),
        (b"a" * LINE_BYTES_MAX, "data"),
        (b"a" * (LINE_BYTES_MAX + 1), "data_b64"),
        (b"\xff", "data_b64"),
        (b"\x01" * 1000, "data_b64"),
        (b"\x01" + b"a" * 4, "data"),
    ],
)
def test_what_is_text(payload: bytes, key: str) -> None:
    (line,) = run(batches.lines(messages([payload]))).splitlines()
    assert key in json.loads(line)
    assert len(line) < 2 * len(payload) + 150


def test_a_line_has_the_headers() -> None:
    headers = ((b"content-type", b'a/b; c="\\d"'), (DEAD_HEADER, b"one"), (DEAD_HEADER, b'"two"'))
    message = Message(7, 8, 9, b"\n", headers, 2, "tok", State.DEAD)
    (line,) = run(batches.lines([message], stated=True)).splitlines()
    assert json.loads(line) == {
        "sequence": 7,
        "pos": 8,
        "time": 9,
        "attempts": 2,
        "lease": "tok",
        "type": 'a/b; c="\\d"',
        "state": "dead",
        "data": "\n",
        "dead": ["one", '"two"'],
    }


async def test_large_bodies_give_way() -> None:
    """Another task gets its turn while many lines are read, and while many are written."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        payloads, _ = await batches.read(LINES, b'{"data":"x"}\n' * 5000)
        assert turns >= 4
        before = turns
        await batches.lines(messages(payloads))
        assert turns >= before + 4
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (b"", None),
        (b"*/*", None),
        (b"application/json", None),
        (LINES, LINES),
        (FRAMES.upper(), FRAMES),
        (b"text/html, %b" % FRAMES, FRAMES),
        (b"%b,%b" % (LINES, FRAMES), LINES),
        (b"%b;q=0.5,%b" % (LINES, FRAMES), FRAMES),
        (b"%b; q=0.5 , %b;q=0.4" % (LINES, FRAMES), LINES),
        (b"%b;q=0" % FRAMES, None),
        (b"%b;x=y;Q=0.000, %b;q=0.001" % (LINES, FRAMES), FRAMES),
        (b"%b;q=2" % LINES, LINES),
        (b",;,", None),
    ],
)
def test_accept(accept: bytes, kind: bytes | None) -> None:
    assert wanted(accept) == kind


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("20", 20),
        ("20s", 20),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("1.5m", 90),
        ("12h", 43200),
        ("999999999.999999999s", 999999999.999999999),
        ("1000000000", None),
        ("", None),
        ("s", None),
        ("-1", None),
        ("+1", None),
        ("1 s", None),
        (" 1", None),
        ("1\n", None),
        (".5", None),
        ("1.", None),
        ("1e3", None),
        ("1S", None),
        ("1d", None),
        ("\u0661", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_durations(text: str, value: float | None) -> None:
    assert seconds(text) == value
