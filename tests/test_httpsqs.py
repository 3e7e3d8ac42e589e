"""The HTTPSQS dialect's own rules: decoding, parameters, numbers, passwords, errors of the storage.

Whole conversations stand in test_replay; here are the corners that no recording reaches.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from logqueue.errors import Corrupt, DiskFull, LimitExceeded, LogqueueError, StorageFailed
from logqueue.web.httpsqs import (
    DECODE_BYTES_MAX,
    PARAMETERS_MAX,
    Dialect,
    decode,
    decode_slowly,
    number,
    parameters,
    split_message,
)
from logqueue.web.message import KEPT, Request, Response
from logqueue.web.queues import Status

FULL = DiskFull("/disk", 1, 0, 0)


class OneQueue:
    """A `Queues` that holds one message, and fails as told: storage cannot be made to fail so."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.name = b""
        self.message: bytes | None = None

    def _visit(self, name: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.name = name

    async def put(self, name: bytes, payload: bytes) -> int | None:
        self._visit(name)
        self.message = payload
        return 1

    async def get(self, name: bytes) -> tuple[int, bytes] | None:
        self._visit(name)
        return None if self.message is None else (1, self.message)

    def put_nowait(self, name: bytes, payload: bytes) -> int | None:
        self._visit(name)
        self.message = payload
        return 1

    def get_nowait(self, name: bytes) -> tuple[int, bytes] | None:
        self._visit(name)
        return None if self.message is None else (1, self.message)

    async def view(self, name: bytes, position: int) -> bytes | None:
        self._visit(name)
        return self.message

    async def status(self, name: bytes) -> Status:
        self._visit(name)
        return Status(1000000, 0, 1, 0, 1, 0)

    async def reset(self, name: bytes) -> None:
        self._visit(name)

    async def set_maxqueue(self, name: bytes, maxqueue: int) -> bool:
        self._visit(name)
        return True

    def set_sync_interval(self, seconds: int) -> None:
        self._visit(b"")


async def ask(
    query: bytes, queues: OneQueue, *, body: bytes = b"", password: bytes | None = None
) -> Response:
    """The answer; the same without waiting when that is possible."""
    request = Request(b"POST", b"/?" + query, b"", body, KEPT)
    dialect = Dialect(queues, password)
    at_once = dialect.handle_nowait(request)
    response = await dialect.handle(request)
    assert at_once in (None, response)
    return response


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


async def test_names() -> None:
    queues = OneQueue()
    for name, body in (
        (b"", b"HTTPSQS_GET_END"),
        (b"n" * 256, b"HTTPSQS_GET_END"),
        (b"n" * 257, b"HTTPSQS_ERROR"),
        (b"%6E" * 256, b"HTTPSQS_GET_END"),
        (b"%6E" * 257, b"HTTPSQS_ERROR"),
        (b"n%00", b"HTTPSQS_ERROR"),
        (b"%FF%2F..%0A", b"HTTPSQS_GET_END"),
    ):
        assert (await ask(b"opt=get&name=" + name, queues)).body == body
    assert queues.name == b"\xff/..\n"


@pytest.mark.parametrize(
    ("auth", "passes"),
    [
        (b"auth=s%2Bcret+%C3%A9&", True),
        (b"AUTH=s%2Bcret%20%c3%a9&auth=no&", True),
        (b"", False),
        (b"auth=&", False),
        (b"auth=s+cret+%C3%A9&", False),
        (b"auth=s%2Bcret+%C3%A9%00&", False),
        (b"auth=s%2Bcret+%C3%A9x&", False),
        (b"auth=s%2Bcret+%C3%A9&void&", False),
    ],
)
async def test_password(auth: bytes, passes: bool) -> None:
    queues = OneQueue()
    body = (await ask(auth + b"name=q&opt=get", queues, password="s+cret é".encode())).body
    assert body == (b"HTTPSQS_GET_END" if passes else b"HTTPSQS_AUTH_FAILED")
    assert queues.name == (b"q" if passes else b"")


@pytest.mark.parametrize(
    ("charset", "content_type"),
    [
        (b"", b"text/plain; charset="),
        (b"c" * 40, b"text/plain; charset=" + b"c" * 40),
        (b"c" * 41, b"text/plain"),
        (b"%22%09%01%FF", b'text/plain; charset="\t\x01\xff'),
        (b"a%0Db", b"text/plain"),
        (b"a%0Ab", b"text/plain"),
        (b"a%00b", b"text/plain"),
    ],
)
async def test_charset(charset: bytes, content_type: bytes) -> None:
    response = await ask(b"name=q&opt=get&charset=" + charset, OneQueue())
    assert response.content_type == content_type


async def test_status_cannot_be_forged_by_a_name() -> None:
    name = b"name=q%0ANumber+of+unread+queue%3A+0%7F"
    lines = (await ask(name + b"&opt=status", OneQueue())).body.splitlines()
    assert lines[2] == b"Queue Name: q%0ANumber of unread queue: 0%7F"
    assert len(lines) == 7


OPERATIONS = [
    b"put",
    b"get",
    b"view&pos=1",
    b"status",
    b"status_json",
    b"reset",
    b"maxqueue&num=10",
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("error", [FULL, LimitExceeded("x", 2, 1), Corrupt("/f", 0, "crc")])
async def test_errors_of_the_storage_are_answers(operation: bytes, error: LogqueueError) -> None:
    response = await ask(b"name=q&opt=" + operation, OneQueue(error), body=b"m")
    assert response == Response(b"HTTPSQS_PUT_ERROR" if operation == b"put" else b"HTTPSQS_ERROR")


@pytest.mark.parametrize("operation", [*OPERATIONS, b"synctime&num=1"])
async def test_a_failed_disk_is_no_answer(operation: bytes) -> None:
    failure = StorageFailed("/disk", OSError(5, "Input/output error"))
    with pytest.raises(StorageFailed):
        await ask(b"name=q&opt=" + operation, OneQueue(failure), body=b"m")
