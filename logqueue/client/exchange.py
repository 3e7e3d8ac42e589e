"""A conversation with a server as data, and when a request may be repeated.  PURE, sans-IO.

Plan.  An operation is a generator.  It yields a `Request` to be sent, and is given an `Answer` or
a `Failure`; or it yields a `Pause` to be slept.  Its return value is the operation's.  So
everything but sockets and sleep is written once; each kind of client adds one short loop.

A request is repeated

- when it was certainly not carried out: there was no connection, or the server answered 503, which
  it does before it touches a queue;
- when nobody knows, and carrying it out twice is the same as once (`Request.repeatable`).

A put is never repeated in doubt: it could be stored twice.  429 and 507 are not repeated either:
they end when somebody consumes messages or frees the disk, and the caller knows better what to do
until then.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from logqueue.client.errors import BadAnswer, InDoubt, Refused, Unreachable

PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0  # a daemon that restarts is found again soon, and is not trampled on

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.  `wait_s` is how long the server may take on purpose."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    wait_s: float = 0.0
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; names of headers in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str, default: str = "") -> str:
        """The first header of that name."""
        return next((value for key, value in self.headers if key == name), default)

    def all(self, name: str) -> tuple[str, ...]:
        """All headers of that name."""
        return tuple(value for key, value in self.headers if key == name)


@dataclass(frozen=True, slots=True)
class Failure:
    """There was no answer.  `sent`: the request may have reached the server.  `hopeless`: trying
    again cannot help, as with a certificate that is not trusted."""

    reason: str
    sent: bool
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing to do for so long."""

    seconds: float


Conversation = Generator[Request | Pause, Answer | Failure | None, T]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one operation is tried again; `clock` counts seconds."""

    retry_s: float
    clock: Callable[[], float]
    chance: Callable[[], float] = field(default=random.random)

    def pause(self, attempt: int) -> float:
        """Seconds before the next attempt, doubling; spread, so that many clients do not come back
        at once."""
        whole = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(attempt, 10))
        return whole * (0.5 + self.chance() / 2)


def ask(request: Request, patience: Patience) -> Conversation[Answer]:
    """The answer to one request, which is repeated while that is safe and there is time.

    Raises Unreachable, InDoubt.  An answer of any status is returned.
    """
    deadline = patience.clock() + patience.retry_s
    doubt = False
    for attempt in count():
        reply = yield request
        pause = patience.pause(attempt)
        if isinstance(reply, Answer):
            if reply.status != 503:
                return reply
            pause = _retry_after(reply) or pause
        else:
            assert isinstance(reply, Failure)
            doubt = doubt or reply.sent
        may = not doubt or request.repeatable
        hopeless = isinstance(reply, Failure) and reply.hopeless
        if not may or hopeless or patience.clock() + pause >= deadline:
            if isinstance(reply, Answer):
                return reply
            raise InDoubt(reply.reason) if doubt else Unreachable(reply.reason)
        yield Pause(pause)
    raise AssertionError("unreachable")


def expect(answer: Answer, *statuses: int) -> Answer:
    """The answer, which must have one of these statuses.  Raises Refused, BadAnswer."""
    if answer.status in statuses:
        return answer
    if answer.header("content-type") == "application/problem+json":
        problem = as_object(answer)
        code, detail = str(problem.get("code", "")), str(problem.get("detail", ""))
        raise Refused(answer.status, code, detail, _retry_after(answer))
    raise BadAnswer(
        f"status {answer.status} with {answer.body[:60]!r} is no answer of logqueue's v1 API; "
        "see that the URL is that of a logqueued"
    )


def as_object(answer: Answer) -> dict[str, object]:
    """The JSON object that the body is.  Raises BadAnswer."""
    try:
        value = json.loads(answer.body)
    except ValueError as error:
        raise BadAnswer(f"the answer {answer.body[:60]!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadAnswer(f"the answer {answer.body[:60]!r} is not a JSON object")
    return value


def _retry_after(answer: Answer) -> float | None:
    text = answer.header("retry-after")
    return float(text) if text.isascii() and text.isdigit() else None
