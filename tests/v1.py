"""A client of the v1 API for tests: real requests over one connection, nothing hidden."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

from tests.daemon import START_S

NDJSON = "application/x-ndjson"
FRAMES = "application/vnd.logqueue.frames"


class Answer(NamedTuple):
    """One answer; `headers` by name as they were sent, the last of repeated ones."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def code(self) -> str:
        """The `code` of a problem, which this must be."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"] == "about:blank"
        assert problem["title"] == http.client.responses[self.status] or self.status in (413, 414)
        assert problem["detail"]
        return str(problem["code"])


class Client:
    """Talks to 127.0.0.1; a connection that was closed is opened again."""

    def __init__(self, port: int, authorization: str | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
        self._headers = {} if authorization is None else {"Authorization": authorization}

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str | None = None,
        **headers: str,
    ) -> Answer:
        """One request to /v1`path`; underscores in the names of `headers` are dashes."""
        sent = self._headers | {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type is not None:
            sent["Content-Type"] = content_type
        self._connection.request(method, f"/v1{path}", body, sent)
        answer = self._connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())

    def ask(self, method: str, path: str, value: object = None) -> Answer:
        """One request with a JSON body."""
        body = None if value is None else json.dumps(value).encode()
        return self.call(method, path, body, None if body is None else "application/json")

    def put(self, queue: str, *messages: bytes) -> Answer:
        """Put one message, or many as frames."""
        if len(messages) == 1:
            return self.call("POST", f"/queues/{queue}/messages", messages[0])
        return self.call("POST", f"/queues/{queue}/messages/batch", framed(messages), FRAMES)

    def receive(self, queue: str, query: str = "", accept: str = "") -> Answer:
        """Receive by a query like `max=2&lease=0`."""
        path = f"/queues/{queue}/messages/receive?{query}"
        return self.call("POST", path, Accept=accept) if accept else self.call("POST", path)

    def details(self, queue: str) -> dict[str, object]:
        """What `GET` says about a queue."""
        return self.call("GET", f"/queues/{queue}").json


def framed(messages: Sequence[bytes]) -> bytes:
    return b"".join(len(each).to_bytes(4, "big") + each for each in messages)


def unframed(body: bytes) -> list[bytes]:
    messages = []
    while body:
        length = int.from_bytes(body[:4], "big")
        messages.append(body[4 : 4 + length])
        assert len(messages[-1]) == length
        body = body[4 + length :]
    return messages
