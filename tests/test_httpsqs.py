"""The HTTPSQS dialect's own rules: names, passwords, charset, status, errors of the storage.

Whole conversations stand in test_replay; here are the corners that no recording reaches.
"""

from __future__ import annotations

import pytest

from logqueue.errors import Corrupt, DiskFull, LimitExceeded, LogqueueError, StorageFailed
from logqueue.web.httpsqs import Dialect
from logqueue.web.message import KEPT, Presence, Promise, Request, Response
from logqueue.web.queues import Status

FULL = DiskFull("/disk", 1, 0, 0)


class OneQueue:
    """A `Queues` that holds one message, and fails as told: storage cannot be made to fail so."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.promise: Promise | None = None
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

    async def get(
        self, name: bytes, wait_s: float = 0.0, presence: Presence | None = None
    ) -> tuple[int, bytes] | None:
        self._visit(name)
        return None if self.message is None else (1, self.message)

    def put_nowait(self, name: bytes, payload: bytes) -> tuple[int | None, Promise | None]:
        self._visit(name)
        self.message = payload
        return 1, self.promise

    def get_nowait(self, name: bytes) -> tuple[tuple[int, bytes] | None, Promise | None]:
        self._visit(name)
        return None if self.message is None else (1, self.message), self.promise

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


def test_the_answers_to_what_was_stored_carry_its_promise() -> None:
    queues = OneQueue()
    queues.promise = lambda call: None
    dialect = Dialect(queues, None)
    for query, promise in (
        (b"name=q&opt=get", None),  # there is nothing yet
        (b"name=q&opt=put&data=m", queues.promise),
        (b"name=q&opt=get", queues.promise),
    ):
        response = dialect.handle_nowait(Request(b"GET", b"/?" + query, b"", b"", KEPT))
        assert response is not None
        assert response.promise is promise


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


async def test_a_full_disk_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    await Dialect(OneQueue(FULL)).handle(
        Request(b"GET", b"/?name=q&opt=put&data=x", b"", b"", KEPT)
    )
    (line,) = caplog.messages
    assert line.startswith("put of queue b'q': /disk: 1 bytes needed, 0 free")


@pytest.mark.parametrize("operation", [*OPERATIONS, b"synctime&num=1"])
async def test_a_failed_disk_is_no_answer(operation: bytes) -> None:
    failure = StorageFailed("/disk", OSError(5, "Input/output error"))
    with pytest.raises(StorageFailed):
        await ask(b"name=q&opt=" + operation, OneQueue(failure), body=b"m")
