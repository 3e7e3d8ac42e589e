"""The trio client: as `blocking.py`, method by method, with `await`."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self, TypeVar

import httpcore
import trio

from logqueue.client import transport
from logqueue.client.endpoint import endpoint
from logqueue.client.errors import ClientError
from logqueue.client.exchange import Answer, Conversation, Failure, Patience, Pause, Request
from logqueue.client.messages import Details, Message, Overview, Stored, StoredBatch
from logqueue.client.operations import POLL_S, Operations

RELEASE_S = 5.0  # a cancelled task waits so long at most until its message is given back

T = TypeVar("T")


class AsyncClient:
    """`Client` for trio: the same arguments, methods, results and errors.

    Any number of tasks may share it.  A method that is cancelled leaves its request in doubt, as
    InDoubt does, and its connection closed; a receive that is cancelled while it waits takes no
    message.
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
        """As of `Client`."""
        self.endpoint = endpoint(url, password, os.environ)
        self._operations = Operations(self.endpoint, Patience(retry_s, trio.current_time))
        self._timeout_s = timeout_s
        if self.endpoint.scheme == "https" and ssl_context is None:
            ssl_context = ssl.create_default_context()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=None,
            keepalive_expiry=transport.IDLE_S,
            uds=self.endpoint.socket,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def put(self, queue: str, body: bytes, *, content_type: str | None = None) -> Stored:
        """Store a message.  InDoubt means that it may be stored: putting it again may double it."""
        return await self._run(self._operations.put(queue, body, content_type))

    async def put_many(self, queue: str, bodies: Iterable[bytes]) -> StoredBatch:
        """Store messages by one request: all or none, in order; at most 10,000 and 64 MiB."""
        return await self._run(self._operations.put_many(queue, bodies))

    async def get(self, queue: str, *, wait_s: float = 0.0) -> Message | None:
        """Take the oldest message: it is consumed.  None when none came within `wait_s`.

        At most once: what breaks between here and there loses it.  `receive` does not.
        """
        found = await self._run(self._operations.receive(queue, 1, wait_s, 0.0))
        return found[0] if found else None

    @asynccontextmanager
    async def receive(
        self, queue: str, *, wait_s: float = 0.0, lease_s: float | None = None
    ) -> AsyncIterator[Message | None]:
        """A `with` block for the oldest message: its end acknowledges, an exception gives it back.

        The message is None when none came within `wait_s`.  The lease, by default the queue's, must
        outlast the block (`extend` lengthens it): else others are given the message too, and the
        end of the block raises LeaseLost.
        """
        async with self.receive_many(queue, 1, wait_s=wait_s, lease_s=lease_s) as messages:
            yield messages[0] if messages else None

    @asynccontextmanager
    async def receive_many(
        self, queue: str, most: int, *, wait_s: float = 0.0, lease_s: float | None = None
    ) -> AsyncIterator[list[Message]]:
        """As `receive`, with up to `most` messages, acknowledged or given back together."""
        messages = await self.lease(queue, most, wait_s=wait_s, lease_s=lease_s)
        async with self._settling(queue, messages):
            yield messages

    async def consume(
        self, queue: str, *, lease_s: float | None = None, idle_s: float | None = None
    ) -> AsyncIterator[AbstractAsyncContextManager[Message]]:
        """Endless `with` blocks, one for each message as it comes; see `receive`.

        Ends when there was none for `idle_s`, by default never.
        """
        wait_s = POLL_S if idle_s is None else idle_s
        while True:
            messages = await self.lease(queue, 1, wait_s=wait_s, lease_s=lease_s)
            if messages:
                yield self._each(queue, messages[0])
            elif idle_s is not None:
                return

    @asynccontextmanager
    async def _each(self, queue: str, message: Message) -> AsyncIterator[Message]:
        async with self._settling(queue, [message]):
            yield message

    @asynccontextmanager
    async def _settling(self, queue: str, messages: list[Message]) -> AsyncIterator[None]:
        leases = [each.lease for each in messages if each.lease is not None]
        try:
            yield
        except BaseException as error:
            try:
                with trio.move_on_after(RELEASE_S, shield=True):
                    await self._run(self._operations.release(queue, leases, 0.0, persistent=False))
            except ClientError as failed:
                error.add_note(f"not given back; the lease ends by itself: {failed}")
            raise
        await self.ack(queue, leases)

    async def lease(
        self, queue: str, most: int = 1, *, wait_s: float = 0.0, lease_s: float | None = None
    ) -> list[Message]:
        """Up to `most` messages, to be acknowledged by `ack`; none if none came in `wait_s`."""
        return await self._run(self._operations.receive(queue, most, wait_s, lease_s))

    async def ack(self, queue: str, leases: Iterable[str]) -> None:
        """Acknowledge: these messages never come back.  Raises LeaseLost when some are not leased
        any more; the others are acknowledged."""
        await self._run(self._operations.ack(queue, leases))

    async def release(self, queue: str, leases: Iterable[str], *, delay_s: float = 0.0) -> int:
        """Give back, to be handed out again after `delay_s`; how many were still leased."""
        return await self._run(self._operations.release(queue, leases, delay_s))

    async def extend(self, queue: str, lease: str, lease_s: float) -> None:
        """Let a lease end so long from now.  Raises LeaseLost."""
        await self._run(self._operations.extend(queue, lease, lease_s))

    async def peek(self, queue: str, sequence: int = 1, limit: int = 100) -> list[Message]:
        """Look at messages from a sequence on, consumed ones too while they are on the disk."""
        return await self._run(self._operations.peek(queue, sequence, limit))

    async def queues(self) -> AsyncIterator[Overview]:
        """All queues, in byte order of their names."""
        after = None
        while True:
            page, after = await self._run(self._operations.queues(after))
            for each in page:
                yield each
            if after is None:
                return

    async def describe(self, queue: str) -> Details:
        """One queue: its options and how much it holds."""
        return await self._run(self._operations.describe(queue))

    async def create(self, queue: str, **options: object) -> Details:
        """Create a queue with options (docs/api.md), or find it with the same ones."""
        return await self._run(self._operations.create(queue, options))

    async def change(self, queue: str, **options: object) -> Details:
        """Change some options of a queue."""
        return await self._run(self._operations.change(queue, options))

    async def delete(self, queue: str) -> None:
        """Delete a queue with all its messages."""
        await self._run(self._operations.delete(queue))

    async def purge(self, queue: str) -> int:
        """Consume all messages that are there; how many."""
        return await self._run(self._operations.purge(queue))

    async def ready(self) -> tuple[bool, str]:
        """Whether the server takes work, and what it says: `ok`, or the reasons, a line each."""
        return await self._run(self._operations.ready())

    async def _run(self, conversation: Conversation[T]) -> T:
        reply: Answer | Failure | None = None
        while True:
            try:
                step = conversation.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                await trio.sleep(step.seconds)
                reply = None
            else:
                reply = await self._send(step)

    async def _send(self, request: Request) -> Answer | Failure:
        try:
            response = await self._pool.request(
                request.method,
                transport.url(self.endpoint, request),
                headers=transport.headers(request),
                content=request.body,
                extensions=transport.extensions(request, self._timeout_s),
            )
        except transport.FAILURES as error:
            return transport.failure(self.endpoint, error)
        return transport.answer(response)
