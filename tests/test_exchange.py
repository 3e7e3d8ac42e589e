"""When a request is repeated: conversations without sockets, driven by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.client import BadAnswer, InDoubt, Refused, Unreachable
from logqueue.client.endpoint import Endpoint, endpoint
from logqueue.client.exchange import (
    PAUSE_MAX_S,
    Answer,
    Conversation,
    Failure,
    Patience,
    Pause,
    Request,
    ask,
    expect,
)
from logqueue.client.messages import Message, escaped, framed, many, unescaped
from logqueue.client.operations import POLL_S, Operations
from logqueue.errors import UsageError

T = TypeVar("T")

OK = Answer(200, (), b"")
BUSY = Answer(503, (), b"")
REFUSED = Failure("connection refused", sent=False)
BROKEN = Failure("connection reset", sent=True)
UNTRUSTED = Failure("certificate verify failed", sent=False, hopeless=True)
ONCE = Request("POST", "/")
TWICE = Request("POST", "/", repeatable=True)


@dataclass
class Clock:
    """Time passes only by pauses, and by what the server takes on purpose."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def drive(
    conversation: Conversation[T], replies: Sequence[Answer | Failure], clock: Clock
) -> tuple[object, list[Request]]:
    """The outcome, and the requests that were sent; the last reply is given for ever."""
    sent: list[Request] = []
    reply: Answer | Failure | None = None
    try:
        while True:
            step = conversation.send(reply)
            if isinstance(step, Pause):
                assert step.seconds > 0
                clock.now += step.seconds
                reply = None
            else:
                reply = replies[min(len(sent), len(replies) - 1)]
                sent.append(step)
                if isinstance(reply, Answer) and reply.status == 204:
                    clock.now += step.wait_s
    except StopIteration as end:
        return end.value, sent
    except Exception as error:
        return error, sent


def asked(
    request: Request, replies: Sequence[Answer | Failure], retry_s: float = 30.0
) -> tuple[object, int]:
    """What `ask` comes to, and after how many requests."""
    clock = Clock()
    outcome, sent = drive(ask(request, Patience(retry_s, clock)), replies, clock)
    return outcome, len(sent)


@pytest.mark.parametrize(
    ("request_", "replies", "outcome", "times"),
    [
        (ONCE, [OK], OK, 1),
        (ONCE, [REFUSED, REFUSED, OK], OK, 3),
        (ONCE, [BUSY, OK], OK, 2),
        (ONCE, [BROKEN, OK], InDoubt, 1),
        (ONCE, [REFUSED, BROKEN, OK], InDoubt, 2),
        (TWICE, [BROKEN, OK], OK, 2),
        (TWICE, [BROKEN, REFUSED, BUSY, OK], OK, 4),
        (ONCE, [UNTRUSTED, OK], Unreachable, 1),
        (TWICE, [UNTRUSTED, OK], Unreachable, 1),
    ],
)
def test_repeated_where_it_is_safe(
    request_: Request, replies: list[Answer | Failure], outcome: object, times: int
) -> None:
    found, sent = asked(request_, replies)
    assert sent == times
    assert found == outcome if outcome is OK else type(found) is outcome


def test_after_the_last_attempt_the_caller_is_told_what_is_known() -> None:
    assert type(asked(ONCE, [REFUSED])[0]) is Unreachable
    assert asked(ONCE, [BUSY])[0] == BUSY
    assert type(asked(TWICE, [BROKEN, REFUSED])[0]) is InDoubt
    assert asked(ONCE, [REFUSED, OK], retry_s=0.0)[1] == 1


replies = st.lists(
    st.sampled_from([OK, BUSY, REFUSED, BROKEN, UNTRUSTED, Answer(429, (), b"")]), min_size=1
)


@given(request=st.sampled_from([ONCE, TWICE]), replies=replies, retry_s=st.floats(0, 100))
def test_nothing_that_counts_is_carried_out_twice(
    request: Request, replies: list[Answer | Failure], retry_s: float
) -> None:
    clock = Clock()
    outcome, sent = drive(ask(request, Patience(retry_s, clock)), replies, clock)
    given = [replies[min(number, len(replies) - 1)] for number in range(len(sent))]
    may = [each for each in given if each == BROKEN or (each != BUSY and isinstance(each, Answer))]
    assert request.repeatable or len(may) <= 1
    assert clock.now <= retry_s
    if isinstance(outcome, Answer):
        assert outcome == given[-1]
    else:
        assert type(outcome) is (InDoubt if BROKEN in given else Unreachable)


def test_the_server_may_say_when_to_come_back() -> None:
    clock = Clock()
    later = Answer(503, (("retry-after", "7"),), b"")
    assert drive(ask(ONCE, Patience(30.0, clock)), [later, OK], clock)[0] == OK
    assert clock.now == 7
    assert asked(ONCE, [later, OK], retry_s=6.0) == (later, 1)


@given(attempt=st.integers(0, 1 << 40), chance=st.floats(0, 1, exclude_max=True))
def test_pauses_are_bounded_and_spread(attempt: int, chance: float) -> None:
    pause = Patience(1.0, Clock(), lambda: chance).pause(attempt)
    assert 0.02 < pause <= PAUSE_MAX_S


# ------------------------------------------------------------------ operations


HERE = Endpoint("http", "127.0.0.1", 1218, None, None)


def test_a_long_wait_is_made_of_polls() -> None:
    clock = Clock()
    operations = Operations(HERE, Patience(0.0, clock))
    outcome, sent = drive(operations.receive("q", 1, 50.0, 0.0), [Answer(204, (), b"")], clock)
    assert outcome == []
    assert [each.wait_s for each in sent] == [POLL_S, POLL_S, 10.0]
    assert clock.now == 50.0


def test_only_a_leased_receive_is_repeated_in_doubt() -> None:
    clock = Clock()
    operations = Operations(HERE, Patience(30.0, clock))
    nothing = Answer(204, (), b"")
    assert drive(operations.receive("q", 1, 0.0, None), [BROKEN, nothing], clock)[0] == []
    assert drive(operations.receive("q", 1, 0.0, 5.0), [BROKEN, nothing], clock)[0] == []
    lost, _ = drive(operations.receive("q", 1, 0.0, 0.0), [BROKEN, nothing], clock)
    assert type(lost) is InDoubt


@given(lease_s=st.floats(0, 43_200))
def test_only_a_lease_of_nothing_consumes(lease_s: float) -> None:
    clock = Clock()
    operations = Operations(HERE, Patience(0.0, clock))
    _, sent = drive(operations.receive("q", 1, 0.0, lease_s), [Answer(204, (), b"")], clock)
    lease = float(sent[0].target.rpartition("lease=")[2])
    assert (lease == 0) == (lease_s == 0)
    assert abs(lease - lease_s) <= 0.001


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, (), b"HTTPSQS_ERROR"),
        Answer(200, (), b"[]"),
        Answer(200, (), b"{}"),
        Answer(200, (), b'{"queues":1,"next":null}'),
        Answer(502, (("content-type", "text/html"),), b"<h1>Bad Gateway"),
    ],
)
def test_what_is_no_logqueue_is_said_so(answer: Answer) -> None:
    clock = Clock()
    operations = Operations(HERE, Patience(0.0, clock))
    for conversation in (
        operations.put("q", b"", None),
        operations.receive("q", 1, 0.0, None),
        operations.receive("q", 2, 0.0, None),
        operations.ack("q", ["x"]),
        operations.queues(None),
        operations.describe("q"),
        operations.purge("q"),
    ):
        assert type(drive(conversation, [answer], clock)[0]) is BadAnswer


def test_a_problem_is_told_with_its_code() -> None:
    body = json.dumps({"status": 429, "code": "queue-full", "detail": "no room"}).encode()
    problem = (("content-type", "application/problem+json"), ("retry-after", "1"))
    with pytest.raises(Refused, match="queue-full: no room") as caught:
        expect(Answer(429, problem, body), 201)
    assert (caught.value.status, caught.value.code) == (429, "queue-full")
    assert caught.value.retry_after_s == 1


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_frames_are_lengths_and_bytes(bodies: list[bytes]) -> None:
    batch, found = framed(bodies), []
    while batch:
        length = int.from_bytes(batch[:4], "big")
        found.append(batch[4 : 4 + length])
        batch = batch[4 + length :]
    assert found == bodies


@given(st.binary(max_size=256))
def test_every_name_has_its_text(name: bytes) -> None:
    text = name.decode("utf-8", "surrogateescape")
    assert escaped(text).isascii()
    assert unescaped(escaped(text)) == text


def test_lines_of_messages() -> None:
    line = {"sequence": 3, "pos": 2, "time": 5, "attempts": 1, "lease": "", "type": None}
    body = json.dumps(line | {"data_b64": "/w=="}) + "\n"
    body += json.dumps(line | {"data": "\u2028", "lease": "t", "type": "a/b", "dead": ["x"]}) + "\n"
    assert many(Answer(200, (), body.encode())) == [
        Message(b"\xff", 3, 2, 5, 1),
        Message("\u2028".encode(), 3, 2, 5, 1, "t", "a/b", ("x",)),
    ]
    with pytest.raises(BadAnswer, match="is not a message"):
        many(Answer(200, (), json.dumps(line).encode()))


# ------------------------------------------------------------------ where the server is


@pytest.mark.parametrize(
    ("url", "name", "authorization"),
    [
        (None, "http://127.0.0.1:1218", None),
        ("http://h", "http://h:1218", None),
        ("http://h:80/", "http://h:80", None),
        ("https://[::1]:9", "https://[::1]:9", None),
        ("unix:/run/q", "unix:/run/q", None),
        ("http://:se%40cret@h", "http://h:1218", "Basic OnNlQGNyZXQ="),
        ("http://me:x@h", "http://h:1218", "Basic bWU6eA=="),
    ],
)
def test_urls(url: str | None, name: str, authorization: str | None) -> None:
    found = endpoint(url, None, {})
    assert (found.name, found.authorization) == (name, authorization)


@pytest.mark.parametrize(
    "url",
    [
        "h:1218",
        "ftp://h",
        "http://",
        "http://h:x",
        "http://h/v1",
        "http://h/?x",
        "unix:",
        "http://a..b",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match=r"URL|path"):
        endpoint(url, None, {})


def test_what_comes_from_where() -> None:
    environment = {"LOGQUEUE_URL": "http://e:1", "LOGQUEUE_AUTH": "x"}
    assert endpoint(None, None, environment).name == "http://e:1"
    assert endpoint(None, None, environment).authorization == "Basic Ong="
    assert endpoint("http://h", None, environment).authorization == "Basic Ong="
    assert endpoint("http://:y@h", None, environment).authorization == "Basic Onk="
    assert endpoint("http://:y@h", "z", environment).authorization == "Basic Ono="
    assert endpoint("unix:/s", None, environment).authorization == "Basic Ong="
