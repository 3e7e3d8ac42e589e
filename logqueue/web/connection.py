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

_log = logging.getLogger("logqueue.web")


class Shared:
    """What all connections of one server share."""

    def __init__(self, handler: Handler, config: Config) -> None:
        self.handler = handler
        self.config = config
        self.draining = False
        self.connections: set[Connection] = set()
        self.bytes_held = 0  # of requests that are not complete yet, over all connections
        self.tick(0)

    def tick(self, until_next_s: float) -> None:
        """Set the clocks that connections read, for as long as that."""
        self.now = trio.current_time() + until_next_s  # never behind the time
        self.date_line = b"Date: %b\r\n" % formatdate(usegmt=True).encode()


class Connection:
    """One client.  While `waiting`, it must send or take something before `deadline`."""

    def __init__(self, client: socket.socket, shared: Shared) -> None:
        self.scope = trio.CancelScope()
        self.waiting = False
        self.deadline = shared.now + shared.config.timeout_idle_s
        self._socket = client
        self._shared = shared
        self._reader = Reader(shared.config)
        self._answers: list[bytes] = []
        self._bytes_held = 0  # this connection's part of the shared number
        shared.connections.add(self)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request of which nothing has come."""
        return self.waiting and self._reader.is_idle and not self._answers

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
        """Read, answer, repeat: one turn of this loop is what a request costs."""
        shared, client, reader = self._shared, self._socket, self._reader
        descriptor = client.fileno()
        while not (shared.draining and reader.is_idle):
            self.waiting = True
            await trio.lowlevel.wait_readable(descriptor)
            self.waiting = False
            try:
                data = client.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return
            self.deadline += len(data) / shared.config.receive_rate_min
            reader.receive(data)
            try:
                closes = await self._answer_all()
            except Refused as refused:
                _log.info("refused: %.200s", refused)
                await self._refuse(refused)
                return
            if self._answers and not self._send():
                await self._send_rest()
            if closes:
                await self._close()
                return

    async def _answer_all(self) -> bool:
        """Run what is complete; True when the connection is to close after its answers."""
        shared, reader, answers = self._shared, self._reader, self._answers
        handled = 0
        while (request := reader.next_request()) is not None:
            try:
                response = await shared.handler(request)
            except StorageFailed:
                raise
            except Exception as error:
                _log.exception("a request failed: this is a bug in logqueue, please report it")
                raise Refused(500, "see the log of logqueued", explained=True) from error
            layout = request.layout
            if shared.draining and layout == KEPT:
                layout = CLOSED
            head_only = request.method == b"HEAD"
            answers.append(answer.encode(response, layout, shared.date_line, head_only=head_only))
            self.deadline = shared.now + shared.config.timeout_idle_s
            if layout.closes:
                return True
            handled += 1
            if handled % BATCH_REQUESTS_MAX == 0:
                if not self._send():
                    await self._send_rest()
                await trio.lowlevel.checkpoint()
            if reader.is_idle:
                break
        if self._bytes_held or not reader.is_idle:
            self._account()
            if reader.expects_continue:
                reader.expects_continue = False
                answers.append(answer.CONTINUE)
        return False

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
        self._answers.append(answer.refusal(refused, self._shared.date_line))
        if not self._send():
            await self._send_rest()
        await self._linger()

    def _send(self) -> bool:
        """Hand the answers to the kernel at once; False when it did not take all of them."""
        answers = self._answers
        data = answers[0] if len(answers) == 1 else b"".join(answers)
        answers.clear()
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        answers.append(data[sent:])
        return False

    async def _send_rest(self) -> None:
        """Wait for a client that is slow to take its answers."""
        shared = self._shared
        while True:
            self.deadline = shared.now + shared.config.timeout_idle_s
            self.waiting = True
            await trio.lowlevel.wait_writable(self._socket)
            self.waiting = False
            if self._send():
                return

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
