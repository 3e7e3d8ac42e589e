"""The blocking client: sockets and sleep for the conversations of `operations.py`."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Self, TypeVar

import httpcore

from logqueue.client import transport
from logqueue.client.endpoint import endpoint
from logqueue.client.errors import ClientError
from logqueue.client.exchange import Answer, Conversation, Failure, Patience, Pause, Request
from logqueue.client.messages import Details, Message, Overview, Stored, StoredBatch
from logqueue.client.operations import POLL_S, Operations

T = TypeVar("T")


class Client:
    """A connection to a logqueue, for any number of threads; not to be shared with a fork.

    `url` is `http://[user:password@]host:port`, `https://...` or `unix:PATH`, by default
    LOGQUEUE_URL of the environment, or http://127.0.0.1:1218.  `password` is by default the URL's,
    or LOGQUEUE_AUTH.  `ssl_context` says whom to trust, by default whom the system trusts.

    `timeout_s` bounds each step of one request: connecting, sending, the answer (after what a
    receive waits on purpose).  For `retry_s` seconds a request is repeated where that is safe: when
    it was certainly not carried out, or when twice is the same as once.  A put is never repeated in
    doubt.

    Every method may raise Unreachable, InDoubt, Refused or BadAnswer, all of them ClientError.
    Connections are opened when needed and reused; `close` or the end of a `with` block closes them.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        password: str | None = None,
        timeout_s: float = 30.0,
        retry_s: float = 30.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Nothing is connected yet.  Raises UsageError when the URL is not usable."""
        self.endpoint = endpoint(url, password, os.environ)
        self._operations = Operations(self.endpoint, Patience(retry_s, time.monotonic))
        self._timeout_s = timeout_s
        if self.endpoint.scheme == "https" and ssl_context is None:
            ssl_context = ssl.create_default_context()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=None,
            keepalive_expiry=transport.IDLE_S,
            uds=self.endpoint.socket,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def put(self, queue: str, body: bytes, *, content_type: str | None = None) -> Stored:
        """Store a message.  InDoubt means that it may be stored: putting it again may double it."""
        return self._run(self._operations.put(queue, body, content_type))

    def put_many(self, queue: str, bodies: Iterable[bytes]) -> StoredBatch:
        """Store messages by one request: all or none, in order; at most 10,000 and 64 MiB."""
        return self._run(self._operations.put_many(queue, bodies))

    def get(self, queue: str, *, wait_s: float = 0.0) -> Message | None:
        """Take the oldest message: it is consumed.  None when none came within `wait_s`.

        At most once: what breaks between here and there loses it.  `receive` does not.
        """
        found = self._run(self._operations.receive(queue, 1, wait_s, 0.0))
        return found[0] if found else None

    @contextmanager
    def receive(
        self, queue: str, *, wait_s: float = 0.0, lease_s: float | None = None
    ) -> Iterator[Message | None]:
        """A `with` block for the oldest message: its end acknowledges, an exception gives it back.

        The message is None when none came within `wait_s`.  The lease, by default the queue's, must
        outlast the block (`extend` lengthens it): else others are given the message too, and the
        end of the block raises LeaseLost.
        """
        with self.receive_many(queue, 1, wait_s=wait_s, lease_s=lease_s) as messages:
            yield messages[0] if messages else None

    @contextmanager
    def receive_many(
        self, queue: str, most: int, *, wait_s: float = 0.0, lease_s: float | None = None
    ) -> Iterator[list[Message]]:
        """As `receive`, with up to `most` messages, acknowledged or given back together."""
        messages = self.lease(queue, most, wait_s=wait_s, lease_s=lease_s)
        with self._settling(queue, messages):
            yield messages

    def consume(
        self, queue: str, *, lease_s: float | None = None, idle_s: float | None = None
    ) -> Iterator[AbstractContextManager[Message]]:
        """Endless `with` blocks, one for each message as it comes; see `receive`.

        Ends when there was none for `idle_s`, by default never.
        """
        wait_s = POLL_S if idle_s is None else idle_s
        while True:
            messages = self.lease(queue, 1, wait_s=wait_s, lease_s=lease_s)
            if messages:
                yield self._each(queue, messages[0])
            elif idle_s is not None:
                return

    @contextmanager
    def _each(self, queue: str, message: Message) -> Iterator[Message]:
        with self._settling(queue, [message]):
            yield message

    @contextmanager
    def _settling(self, queue: str, messages: list[Message]) -> Iterator[None]:
        leases = [each.lease for each in messages if each.lease is not None]
        try:
            yield
        except BaseException as error:
            try:
                self._run(self._operations.release(queue, leases, 0.0, persistent=False))
            except ClientError as failed:
                error.add_note(f"not given back; the lease ends by itself: {failed}")
            raise
        self.ack(queue, leases)

    def lease(
        self, queue: str, most: int = 1, *, wait_s: float = 0.0, lease_s: float | None = None
    ) -> list[Message]:
        """Up to `most` messages, to be acknowledged by `ack`; none if none came in `wait_s`."""
        return self._run(self._operations.receive(queue, most, wait_s, lease_s))

    def ack(self, queue: str, leases: Iterable[str]) -> None:
        """Acknowledge: these messages never come back.  Raises LeaseLost when some are not leased
        any more; the others are acknowledged."""
        self._run(self._operations.ack(queue, leases))

    def release(self, queue: str, leases: Iterable[str], *, delay_s: float = 0.0) -> int:
        """Give back, to be handed out again after `delay_s`; how many were still leased."""
        return self._run(self._operations.release(queue, leases, delay_s))

    def extend(self, queue: str, lease: str, lease_s: float) -> None:
        """Let a lease end so long from now.  Raises LeaseLost."""
        self._run(self._operations.extend(queue, lease, lease_s))

    def peek(self, queue: str, sequence: int = 1, limit: int = 100) -> list[Message]:
        """Look at messages from a sequence on, consumed ones too while they are on the disk."""
        return self._run(self._operations.peek(queue, sequence, limit))

    def queues(self) -> Iterator[Overview]:
        """All queues, in byte order of their names."""
        after = None
        while True:
            page, after = self._run(self._operations.queues(after))
            yield from page
            if after is None:
                return

    def describe(self, queue: str) -> Details:
        """One queue: its options and how much it holds."""
        return self._run(self._operations.describe(queue))

    def create(self, queue: str, **options: object) -> Details:
        """Create a queue with options (docs/api.md), or find it with the same ones."""
        return self._run(self._operations.create(queue, options))

    def change(self, queue: str, **options: object) -> Details:
        """Change some options of a queue."""
        return self._run(self._operations.change(queue, options))

    def delete(self, queue: str) -> None:
        """Delete a queue with all its messages."""
        self._run(self._operations.delete(queue))

    def purge(self, queue: str) -> int:
        """Consume all messages that are there; how many."""
        return self._run(self._operations.purge(queue))

    def ready(self) -> tuple[bool, str]:
        """Whether the server takes work, and what it says: `ok`, or the reasons, a line each."""
        return self._run(self._operations.ready())

    def _run(self, conversation: Conversation[T]) -> T:
        reply: Answer | Failure | None = None
        while True:
            try:
                step = conversation.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                reply = None
            else:
                reply = self._send(step)

    def _send(self, request: Request) -> Answer | Failure:
        try:
            response = self._pool.request(
                request.method,
                transport.url(self.endpoint, request),
                headers=transport.headers(request),
                content=request.body,
                extensions=transport.extensions(request, self._timeout_s),
            )
        except transport.FAILURES as error:
            return transport.failure(self.endpoint, error)
        return transport.answer(response)
