"""What goes into queues and comes out of them, and how it stands in requests and answers.  PURE."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from struct import Struct
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from logqueue.client.errors import BadAnswer
from logqueue.client.exchange import Answer, as_object

OCTETS = "application/octet-stream"
LINES = "application/x-ndjson"
FRAMES = "application/vnd.logqueue.frames"

_LENGTH = Struct(">I")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Message:
    """A message that came from a queue.

    `sequence` counts the queue's messages, `pos` is HTTPSQS's position, `time_ms` when it was put,
    since the epoch.  `attempts`: how often it was leased, this time included; 0 without leases.
    `lease` is None when the message is consumed already, or was only looked at; `state` is known of
    the latter.  `dead` has a line for each move to a dead-letter queue.
    """

    body: bytes
    sequence: int
    pos: int
    time_ms: int
    attempts: int = 0
    lease: str | None = None
    content_type: str = OCTETS
    dead: tuple[str, ...] = ()
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """One message has been stored; `durable` is `disk` or `page-cache`."""

    sequence: int
    pos: int
    durable: str


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Messages have been stored as sequences `first` to `last`; `pos` is that of the first."""

    first: int
    last: int
    count: int
    pos: int
    durable: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of leases."""

    acknowledged: int
    released: int
    expired: list[str]
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class Purged:
    """How many messages a purge has consumed."""

    purged: int


@dataclass(frozen=True, slots=True)
class Overview:
    """A queue in the list.  `damaged`: it is not served, see the daemon's log."""

    name: str
    unread: int
    last: int
    waiting: int
    bytes_on_disk: int
    damaged: bool


@dataclass(frozen=True, slots=True)
class Details:
    """A queue.  What the fields mean: docs/api.md, "Queues"."""

    name: str
    options: Mapping[str, object]
    first: int
    last: int
    consumed: int
    ready: int
    leased: int
    delayed: int
    dead: int
    expired: int
    waiting: int
    bytes_on_disk: int
    bytes_consumed: int
    bytes_retained: int


def escaped(name: str) -> str:
    """A queue's name in a path or in JSON.  What is not UTF-8 is in surrogates, as PEP 383 says."""
    return quote(name, safe="", errors="surrogateescape")


def unescaped(name: str) -> str:
    """The inverse of `escaped`."""
    return unquote(name, errors="surrogateescape")


def framed(bodies: Iterable[bytes]) -> bytes:
    """A batch to be put."""
    parts: list[bytes] = []
    for body in bodies:
        parts += (_LENGTH.pack(len(body)), body)
    return b"".join(parts)


def one(answer: Answer) -> Message:
    """The message that is the body of an answer.  Raises BadAnswer."""
    try:
        sequence, pos, time_ms, attempts = (
            int(answer.header(f"queue-{name}")) for name in ("sequence", "pos", "time", "attempts")
        )
    except ValueError as error:
        raise BadAnswer(f"the message's headers are incomplete: {error}") from error
    return Message(
        answer.body,
        sequence,
        pos,
        time_ms,
        attempts,
        answer.header("queue-lease") or None,
        answer.header("content-type", OCTETS),
        answer.all("queue-dead"),
        answer.header("queue-state") or None,
    )


def many(answer: Answer) -> list[Message]:
    """The messages in an answer of lines.  Raises BadAnswer."""
    try:
        return [_line(json.loads(line)) for line in answer.body.splitlines()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadAnswer(f"a line of the answer is not a message: {error!r}") from error


def _line(line: Any) -> Message:
    data = line.get("data")
    return Message(
        data.encode() if data is not None else b64decode(line["data_b64"], validate=True),
        int(line["sequence"]),
        int(line["pos"]),
        int(line["time"]),
        int(line["attempts"]),
        line["lease"] or None,
        line["type"] or OCTETS,
        tuple(line.get("dead", ())),
        line.get("state"),
    )


def record(kind: type[T], answer: Answer) -> T:
    """The dataclass `kind` from an answer's JSON object.  Raises BadAnswer."""
    return _record(kind, as_object(answer))


def overviews(answer: Answer) -> tuple[list[Overview], str | None]:
    """A page of the list of queues, and where the next one starts.  Raises BadAnswer."""
    page = as_object(answer)
    found, after = page.get("queues"), page.get("next")
    if not isinstance(found, list) or not isinstance(after, str | None):
        raise BadAnswer(f"the answer {answer.body[:60]!r} is not a list of queues")
    return [_record(Overview, each) for each in found], after


def _record(kind: type[T], value: Mapping[str, Any]) -> T:
    """Fields that this version does not know are left out, so that a newer server can be asked."""
    try:
        given = {each.name: value[each.name] for each in fields(kind)}  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise BadAnswer(f"the answer lacks {error}") from error
    if "name" in given:
        given["name"] = unescaped(given["name"])
    return kind(**given)
