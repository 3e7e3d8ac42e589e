"""What a client can do, as conversations: each is written here once, for both kinds of client.

PURE: a conversation yields what is to be sent, and returns the result (`exchange.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from logqueue.client.endpoint import Endpoint
from logqueue.client.errors import LeaseLost
from logqueue.client.exchange import (
    Answer,
    Conversation,
    Patience,
    Request,
    ask,
    expect,
)
from logqueue.client.messages import (
    FRAMES,
    LINES,
    Details,
    Message,
    Overview,
    Purged,
    Settled,
    Stored,
    StoredBatch,
    escaped,
    framed,
    many,
    one,
    overviews,
    record,
)

# One long poll; longer waits are made of several.  Proxies cut what is silent for a minute.
POLL_S = 20.0
LEASE_MIN_S = 0.001  # the server's
LEASES_AT_ONCE = 10_000  # the server's limit for one request
LIST_LIMIT = 1000
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Operations:
    """Conversations with one server.  Durations are seconds."""

    endpoint: Endpoint
    patience: Patience

    def put(self, queue: str, body: bytes, content_type: str | None) -> Conversation[Stored]:
        """Store one message; never repeated in doubt."""
        headers = () if content_type is None else (("Content-Type", _header(content_type)),)
        request = self._request("POST", f"{_path(queue)}/messages", headers, body)
        answer = yield from ask(request, self.patience)
        return record(Stored, expect(answer, 201))

    def put_many(self, queue: str, bodies: Iterable[bytes]) -> Conversation[StoredBatch]:
        """Store messages, all or none; never repeated in doubt."""
        path = f"{_path(queue)}/messages/batch"
        request = self._request("POST", path, (("Content-Type", FRAMES),), framed(bodies))
        answer = yield from ask(request, self.patience)
        return record(StoredBatch, expect(answer, 201))

    def receive(
        self, queue: str, most: int, wait_s: float, lease_s: float | None
    ) -> Conversation[list[Message]]:
        """Messages, or none when none came in time.  A queue that is not there yet is empty.

        Repeated in doubt only with a lease: then what an answer that was lost held comes back when
        the lease ends.
        """
        repeatable = lease_s is None or lease_s > 0
        end = self.patience.clock() + wait_s
        while True:
            poll_s = min(max(end - self.patience.clock(), 0.0), POLL_S)
            query = f"max={most}&wait={_duration(poll_s)}"
            if lease_s is not None:
                # What is nearly nothing must not become 0, which consumes.
                query += f"&lease={_duration(max(lease_s, LEASE_MIN_S) if lease_s else 0.0)}"
            headers = (("Accept", LINES),) if most > 1 else ()
            path = f"{_path(queue)}/messages/receive?{query}"
            request = self._request("POST", path, headers, wait_s=poll_s, repeatable=repeatable)
            answer = yield from ask(request, self.patience)
            if answer.status == 200:
                return many(answer) if most > 1 else [one(answer)]
            expect(answer, 204)
            if end <= self.patience.clock():
                return []

    def ack(self, queue: str, leases: Iterable[str]) -> Conversation[None]:
        """Acknowledge; repeated in doubt, as acknowledging twice is the same as once.

        Raises LeaseLost when some are not leased any more; the others are acknowledged.
        """
        leases = list(leases)
        expired: list[str] = []
        unknown: list[str] = []
        for start in range(0, len(leases), LEASES_AT_ONCE):
            wanted = {"ack": leases[start : start + LEASES_AT_ONCE]}
            settled = yield from self._settle(queue, wanted)
            expired += settled.expired
            unknown += settled.unknown
        if expired or unknown:
            raise LeaseLost(expired, unknown)

    def release(
        self, queue: str, leases: Iterable[str], delay_s: float, *, persistent: bool = True
    ) -> Conversation[int]:
        """Give back; how many were still leased.  Repeated in doubt: what was given back already is
        merely not counted.  Without `persistent` nothing is tried twice."""
        leases = list(leases)
        released = 0
        patience = self.patience if persistent else replace(self.patience, retry_s=0.0)
        for start in range(0, len(leases), LEASES_AT_ONCE):
            some = leases[start : start + LEASES_AT_ONCE]
            wanted = {"release": [{"lease": each, "delay": delay_s} for each in some]}
            settled = yield from self._settle(queue, wanted, patience)
            released += settled.released
        return released

    def _settle(
        self, queue: str, wanted: Mapping[str, object], patience: Patience | None = None
    ) -> Conversation[Settled]:
        request = self._json("POST", f"{_path(queue)}/leases", wanted, repeatable=True)
        answer = yield from ask(request, patience or self.patience)
        return record(Settled, expect(answer, 200))

    def extend(self, queue: str, lease: str, lease_s: float) -> Conversation[None]:
        """The lease ends so long from now.  Raises LeaseLost."""
        path = f"{_path(queue)}/leases/{escaped(lease)}"
        request = self._json("PATCH", path, {"extend": lease_s}, repeatable=True)
        answer = yield from ask(request, self.patience)
        if answer.status == 410:
            raise LeaseLost([lease], [])
        expect(answer, 204)

    def peek(self, queue: str, sequence: int, limit: int) -> Conversation[list[Message]]:
        """Messages from a sequence on, consumed ones too while they are on the disk."""
        path = f"{_path(queue)}/messages?from={sequence}&limit={limit}"
        return many((yield from self._look(path)))

    def queues(self, after: str | None) -> Conversation[tuple[list[Overview], str | None]]:
        """A page of the list, and where the next one starts."""
        path = f"/v1/queues?limit={LIST_LIMIT}"
        return overviews(
            (yield from self._look(path if after is None else f"{path}&after={after}"))
        )

    def describe(self, queue: str) -> Conversation[Details]:
        """One queue."""
        return record(Details, (yield from self._look(_path(queue))))

    def _look(self, path: str) -> Conversation[Answer]:
        answer = yield from ask(self._request("GET", path, repeatable=True), self.patience)
        return expect(answer, 200)

    def create(self, queue: str, options: Mapping[str, object]) -> Conversation[Details]:
        """Create a queue, or find it with the same options."""
        request = self._json("PUT", _path(queue), options, repeatable=True)
        answer = yield from ask(request, self.patience)
        return record(Details, expect(answer, 200, 201))

    def change(self, queue: str, options: Mapping[str, object]) -> Conversation[Details]:
        """Change some options."""
        request = self._json("PATCH", _path(queue), options, repeatable=True)
        answer = yield from ask(request, self.patience)
        return record(Details, expect(answer, 200))

    def delete(self, queue: str) -> Conversation[None]:
        """Delete a queue with all its messages; not repeated in doubt: it may be a new one."""
        answer = yield from ask(self._request("DELETE", _path(queue)), self.patience)
        expect(answer, 204)

    def purge(self, queue: str) -> Conversation[int]:
        """Consume all; how many.  Not repeated in doubt: new messages may have come."""
        answer = yield from ask(self._request("POST", f"{_path(queue)}/purge"), self.patience)
        return record(Purged, expect(answer, 200)).purged

    def ready(self) -> Conversation[tuple[bool, str]]:
        """Whether work should come here, and what the server says about it."""
        request = self._request("GET", "/readyz", repeatable=True)
        answer = yield from ask(request, replace(self.patience, retry_s=0.0))
        reasons = answer.body.decode("utf-8", "replace").strip()
        return expect(answer, 200, 503).status == 200, reasons

    def _json(self, method: str, target: str, value: object, *, repeatable: bool) -> Request:
        body = json.dumps(value).encode()
        headers = (("Content-Type", _JSON),)
        return self._request(method, target, headers, body, repeatable=repeatable)

    def _request(
        self,
        method: str,
        target: str,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
        *,
        wait_s: float = 0.0,
        repeatable: bool = False,
    ) -> Request:
        always = [("Host", self.endpoint.authority), ("Content-Length", str(len(body)))]
        if self.endpoint.authorization is not None:
            always.append(("Authorization", self.endpoint.authorization))
        return Request(method, target, (*always, *headers), body, wait_s, repeatable)


def _path(queue: str) -> str:
    return f"/v1/queues/{escaped(queue)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.3f}"


def _header(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"a Content-Type holds printable ASCII only, not {value!r}")
    return value
