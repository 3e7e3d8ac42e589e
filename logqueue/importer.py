"""Draining a running HTTPSQS into a logqueue: in order, resumable, nothing lost, nothing doubled.

Plan.  A batch of unread messages is copied with `view`, which changes nothing at the source; then
each copy is looked at in the target; only then are they consumed at the source, and each consumed
message is compared with its copy.  Before a batch starts, where both queues stand is noted in a
journal file, so that a run that was cut short is finished by the next one: what stands in the
target already is recognised, not copied again.

What `view` cannot tell apart is an empty message and one that HTTPSQS has lost; both look empty.
Such a position makes a batch of its own, is consumed first, and copied if it was a message.

While a queue is imported nobody else may get from the source or put into the target: either is
noticed and stops the import.  The target may be read all the while.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Self
from urllib.parse import urlencode, urlsplit

from logqueue.errors import LogqueueError, UsageError

BATCH_MESSAGES = 100  # copied and consumed together; what an interrupted run may have to look at
TIMEOUT_S = 30.0

Progress = Callable[[str, int, int], None]  # (queue, imported, all)


class ImportFailed(LogqueueError):
    """The import stopped; the journal knows how far, and the same command goes on from there."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What the journal holds: a batch of `count` messages behind source position `source`, to be
    stored behind target position `target`.  `empty`: one that looks empty."""

    source: int
    target: int
    count: int
    empty: bool


class Remote:
    """One queue of a server that speaks HTTPSQS, over one connection kept open."""

    def __init__(self, url: str, queue: str, password: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise UsageError(f"{url!r} is no http:// address; give it as http://host:port")
        self.address = f"{parts.hostname}:{parts.port or 1218}"
        self.queue = queue
        self._password = password
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port or 1218, timeout=TIMEOUT_S
        )

    def ask(self, opt: str, body: bytes | None = None, **given: object) -> tuple[bytes, int | None]:
        """One operation: the answer and its Pos.  Raises ImportFailed."""
        query = {"name": self.queue, "opt": opt, **given}
        if self._password is not None:
            query["auth"] = self._password
        headers = {"Content-Type": "application/octet-stream"} if body else {}
        try:
            self._connection.request(
                "POST" if body else "GET", f"/?{urlencode(query)}", body or None, headers
            )
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ImportFailed(f"{self.address}: {error or type(error).__name__}") from error
        position = response.getheader("Pos")
        if answer == b"HTTPSQS_AUTH_FAILED" and position is None and opt != "view":
            raise ImportFailed(f"{self.address}: the password is not accepted")
        if response.status != 200:
            raise ImportFailed(f"{self.address}: {opt} was answered with status {response.status}")
        return answer, None if position is None else int(position)

    def status(self) -> tuple[int, int, int, int]:
        """(maxqueue, putpos, getpos, unread)."""
        answer, _ = self.ask("status_json")
        # The name comes first and HTTPSQS does not escape it: only what follows is JSON for sure.
        _, found, rest = answer.rpartition(b'"maxqueue":')
        if not found:
            raise ImportFailed(f"{self.address}: status_json was answered with {answer[:60]!r}")
        numbers = json.loads(b'{"maxqueue":' + rest)
        return (numbers["maxqueue"], numbers["putpos"], numbers["getpos"], numbers["unread"])

    def view(self, position: int) -> bytes:
        """The message at a position; empty when there is none."""
        return self.ask("view", pos=position)[0]

    def put(self, message: bytes) -> int:
        """Store a message; its position.  Raises ImportFailed when it was refused."""
        if message:
            answer, position = self.ask("put", message)
        else:
            answer, position = self.ask("put", data="")
        if position is None:
            hint = "; it is full" if answer == b"HTTPSQS_PUT_END" else ""
            raise ImportFailed(f"{self.address}: queue {self.queue!r} answered {answer!r}{hint}")
        return position

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._connection.close()


class Journal:
    """The intent on disk: replaced atomically, synced before anything is done."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> Intent | None:
        """The batch that was not finished, if any."""
        try:
            with open(self.path, encoding="ascii") as file:
                return Intent(**json.load(file))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ImportFailed(f"{self.path}: not a journal of an import: {error}") from error

    def write(self, intent: Intent) -> None:
        """Note what is about to be done."""
        temporary = self.path + ".tmp"
        with open(temporary, "w", encoding="ascii") as file:
            json.dump(asdict(intent), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        directory = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def clear(self) -> None:
        """There is nothing unfinished."""
        if os.path.exists(self.path):
            os.unlink(self.path)


def import_queue(source: Remote, target: Remote, journal: Journal, progress: Progress) -> int:
    """Move every unread message of `source` behind those of `target`; how many were moved.

    May be interrupted at any moment, and repeated.  Raises ImportFailed.
    """
    moved = 0
    intent = journal.read()
    if intent is not None:
        moved += _finish(source, target, intent)
        journal.clear()
    size, _, got, unread = source.status()
    total = moved + unread
    target_size, _, _, target_unread = target.status()
    if target_unread + unread > target_size - 1:
        _make_room(target, max(size, target_unread + unread + 1))
    while unread:
        progress(source.queue, moved, total)
        intent = _next_batch(source, size, got, unread, target.status()[1])
        journal.write(intent)
        moved += _finish(source, target, intent)
        journal.clear()
        got = (got + intent.count - 1) % size + 1
        unread -= intent.count
    progress(source.queue, moved, total)
    return moved


def _make_room(target: Remote, size: int) -> None:
    answer, _ = target.ask("maxqueue", num=size)
    if answer != b"HTTPSQS_MAXQUEUE_OK":
        raise ImportFailed(
            f"{target.address}: queue {target.queue!r} has no room, and answered {answer!r} when "
            f"asked for {size} positions; consume its messages first"
        )


def _next_batch(source: Remote, size: int, got: int, unread: int, target: int) -> Intent:
    """Up to BATCH_MESSAGES messages, none of which looks empty; or one that does."""
    count = 0
    for position in _positions(got, min(unread, BATCH_MESSAGES), size):
        if not source.view(position):
            break
        count += 1
    return Intent(got, target, count or 1, empty=count == 0)


def _positions(behind: int, count: int, size: int) -> Iterator[int]:
    """The `count` ring positions behind the position `behind` (0: nothing was ever there)."""
    for step in range(count):
        yield (behind + step) % size + 1


def _finish(source: Remote, target: Remote, intent: Intent) -> int:
    """Do what is left to do of a batch; how many messages were consumed just now."""
    size, _, got, _ = source.status()
    consumed = (got - intent.source) % size
    if consumed > intent.count:
        raise ImportFailed(
            f"{source.address}: queue {source.queue!r} was read by somebody else meanwhile "
            f"(position {got}, expected at most {intent.count} after {intent.source})"
        )
    if intent.empty:
        return _finish_empty(source, target, intent, consumed)
    positions = list(_positions(intent.source, intent.count, size))
    # Consuming starts only when the whole batch stands in the target.  The source may have
    # overwritten what was consumed since.
    messages = [source.view(each) for each in positions[consumed:]]
    if not consumed:
        _copy(target, intent, messages)
    for message in messages:
        answer, position = source.ask("get")
        if position is None or answer != message:
            raise ImportFailed(
                f"{source.address}: queue {source.queue!r} gave another message than it showed; "
                "somebody else reads it"
            )
    return intent.count - consumed


def _copy(target: Remote, intent: Intent, messages: list[bytes]) -> None:
    """Have the whole batch in the target, and look at it there."""
    size, put, _, _ = target.status()
    copied = (put - intent.target) % size
    if copied > intent.count:
        raise ImportFailed(
            f"{target.address}: somebody else put into queue {target.queue!r} while it was imported"
        )
    for message in messages[copied:]:
        target.put(message)
    places = _positions(intent.target, intent.count, size)
    for place, message in zip(places, messages, strict=True):
        if target.view(place) != message:
            raise ImportFailed(
                f"{target.address}: position {place} of queue {target.queue!r} is not what was "
                "copied there; somebody else uses it"
            )


def _finish_empty(source: Remote, target: Remote, intent: Intent, consumed: int) -> int:
    """One position that looks empty: an empty message, or one that HTTPSQS has lost.

    When a run was cut short behind the get nobody knows which; an empty message is put then.
    """
    target_size, put, _, _ = target.status()
    copied = (put - intent.target) % target_size
    message = True
    if not consumed:
        answer, position = source.ask("get")
        if answer and position is not None:
            raise ImportFailed(f"{source.address}: queue {source.queue!r} is read by somebody else")
        message = position is not None
    if message and not copied:
        target.put(b"")
    return 1 - consumed
