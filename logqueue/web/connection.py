"""One client's connection: bytes in, answers out, closed when it should be.

Shaped for speed.  A connection waits until its socket is readable, reads without blocking, and
sends all answers of what it read with one direct send; it waits for the kernel only when the
kernel's buffer is full.  There is no cancel scope per request: a connection states its `deadline`
and the server's reaper cancels it.

One boundary stands around each connection: whatever a client does ends that connection alone.
Only StorageFailed and cancellation from outside pass it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import trio

from logqueue.config import Config
from logqueue.errors import StorageFailed
from logqueue.web import answer
from logqueue.web.message import CLOSED, KEPT, Refused, Request, Response
from logqueue.web.wire import Reader

Handler = Callable[[Request], Awaitable[Response]]

RECEIVE_BYTES = 65536
BATCH_REQUESTS_MAX = 64  # pipelined requests that one connection may run before others get a turn
LINGER_S = 1.0  # how long a refused client may go on sending, so that it can read the answer
NEVER = float("inf")

_log = logging.getLogger("logqueue.web")


class Shared:
    """What all connections of one server share."""

    def __init__(self, handler: Handler, config: Config) -> None:
        self.handler = handler
        self.config = config
        self.draining = False
        self.connections: set[Connection] = set()
        self.bytes_held = 0  # of requests that are not complete yet, over all connections
        self._date_second = 0
        self._date_line = b""

    def date_line(self) -> bytes:
        """The Date header, made once a second."""
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self._date_line = b"Date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self._date_line


class Connection:
    """One client.  `deadline` is when it must have sent or taken something, in trio's time."""

    def __init__(self, client: socket.socket, shared: Shared) -> None:
        self.scope = trio.CancelScope()
        self.deadline = NEVER
        self._socket = client
        self._shared = shared
        self._reader = Reader(shared.config)
        self._answers: list[bytes] = []
        self._began = 0.0  # when the request that is arriving began, or the wait for it
        self._received_bytes = 0  # of that request
        self._bytes_held = 0  # this connection's part of the shared number
        shared.connections.add(self)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request of which nothing has come."""
        return self.deadline != NEVER and self._reader.is_idle and not self._answers

    async def run(self) -> None:
        """Serve this client until one of the two closes.  Raises StorageFailed alone."""
        try:
            with self.scope:
                await self._serve()
        except StorageFailed:
            raise
        except OSError:
            pass  # the client has gone
        except Exception:
            _log.exception("a connection failed: this is a bug in logqueue, please report it")
        finally:
            self._socket.close()
            self._shared.connections.discard(self)
            self._shared.bytes_held -= self._bytes_held

    async def _serve(self) -> None:
        self._began = trio.current_time()
        while await self._receive():
            try:
                closes = await self._answer_all()
            except Refused as refused:
                _log.info("refused: %.200s", refused)
                await self._refuse(refused)
                return
            await self._flush()
            if closes:
                await self._close()
                return

    async def _receive(self) -> bool:
        """Wait for bytes and pass them on; False when no more come: the client has closed its
        side, or the server drains."""
        if self._shared.draining and self._reader.is_idle:
            return False
        config = self._shared.config
        self.deadline = (
            self._began + config.timeout_idle_s + self._received_bytes / config.receive_rate_min
        )
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data = self._socket.recv(RECEIVE_BYTES)
                break
            except BlockingIOError:
                continue
        self.deadline = NEVER
        self._received_bytes += len(data)
        self._reader.receive(data)
        return data != b""

    async def _answer_all(self) -> bool:
        """Run what is complete; True when the connection is to close after its answers."""
        shared, reader, answers = self._shared, self._reader, self._answers
        handled = 0
        while (request := reader.next_request()) is not None:
            response = await self._handle(request)
            layout = request.layout
            if shared.draining and layout == KEPT:
                layout = CLOSED
            head_only = request.method == b"HEAD"
            answers.append(answer.encode(response, layout, shared.date_line(), head_only=head_only))
            if layout.closes:
                return True
            handled += 1
            if handled % BATCH_REQUESTS_MAX == 0:
                await self._flush()
                await trio.lowlevel.checkpoint()
        if handled:
            self._began = trio.current_time()
            self._received_bytes = 0
        self._account()
        if reader.expects_continue:
            reader.expects_continue = False
            answers.append(answer.CONTINUE)
        return False

    async def _handle(self, request: Request) -> Response:
        """Call the handler; what it should not raise ends this connection with a 500."""
        try:
            return await self._shared.handler(request)
        except StorageFailed:
            raise
        except Exception as error:
            _log.exception("a request failed: this is a bug in logqueue, please report it")
            raise Refused(500, "see the log of logqueued", explained=True) from error

    def _account(self) -> None:
        """Bound what half-sent requests hold in memory, over all connections."""
        shared = self._shared
        held = self._reader.bytes_held
        shared.bytes_held += held - self._bytes_held
        self._bytes_held = held
        if shared.bytes_held > shared.config.requests_bytes_max and held > RECEIVE_BYTES:
            raise Refused(503, "too many large requests at once", explained=True)

    async def _refuse(self, refused: Refused) -> None:
        """Say so after the answers to what came before, and close."""
        self._reader = Reader(self._shared.config)  # lets go of what it holds
        self._account()
        self._answers.append(answer.refusal(refused, self._shared.date_line()))
        await self._flush()
        await self._linger()

    async def _flush(self) -> None:
        """Send the answers; waits only for a client that does not take them."""
        if not self._answers:
            return
        data = self._answers[0] if len(self._answers) == 1 else b"".join(self._answers)
        self._answers.clear()
        sent = self._send_now(data)
        if sent < len(data):
            await self._send_rest(memoryview(data)[sent:])

    def _send_now(self, data: bytes | memoryview) -> int:
        """How many bytes the kernel took."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def _send_rest(self, rest: memoryview) -> None:
        timeout = self._shared.config.timeout_idle_s
        while rest:
            self.deadline = trio.current_time() + timeout
            await trio.lowlevel.wait_writable(self._socket)
            rest = rest[self._send_now(rest) :]
        self.deadline = NEVER
        self._began = trio.current_time()

    async def _close(self) -> None:
        """Close so that the answer arrives: unread bytes would make the kernel send a reset."""
        try:
            surplus = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            surplus = b""
        if surplus or not self._reader.is_idle:
            await self._linger()

    async def _linger(self) -> None:
        """Say that nothing more comes, and swallow what the client still sends, for a while."""
        self._socket.shutdown(socket.SHUT_WR)
        with trio.move_on_after(LINGER_S):
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    if not self._socket.recv(RECEIVE_BYTES):
                        return
                except BlockingIOError:
                    continue
