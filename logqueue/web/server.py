"""HTTP over trio sockets: accept, read, hand to a handler, answer; time limits and drain.

Shaped for speed.  A connection waits until its socket is readable, reads without blocking, and
sends all answers of what it read with one direct send; it waits for the kernel only when the
kernel's buffer is full.  There is no cancel scope per request: `_Reaper` looks over all
connections and cancels those past their deadline.

One boundary stands around each connection: whatever a client does ends that connection alone.
Only StorageFailed, cancellation and the like pass it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate

import trio

from logqueue.config import Config
from logqueue.errors import StorageFailed, UsageError
from logqueue.web import answer
from logqueue.web.message import CLOSED, KEPT, Refused, Request, Response
from logqueue.web.wire import Reader

Handler = Callable[[Request], Awaitable[Response]]

RECEIVE_BYTES = 65536
BATCH_REQUESTS_MAX = 64  # pipelined requests that one connection may run before others get a turn
BACKLOG = 1024
ACCEPT_RETRY_S = 0.1  # after accept failed for want of descriptors or memory
LINGER_S = 1.0  # how long a refused client may go on sending, so that it can read the answer
SWEEPS_PER_TIMEOUT = 8  # a timeout is kept to within an eighth, and to within a second

_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_NEVER = float("inf")

_log = logging.getLogger("logqueue.web")


def listen(address: str, port: int) -> list[socket.socket]:
    """Open listening sockets, one for each address that `address` stands for.

    Port 0 takes a free one, the same for all.  Raises UsageError when that is not possible.
    """
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
        for family, kind, protocol, _, place in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted sockets inherit this: an answer never waits for the acknowledgement of one.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((place[0], port, *place[2:]))
            listener.listen(BACKLOG)
            port = listener.getsockname()[1]
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise UsageError(
            f"cannot listen on {address} port {port}: {error.strerror or error}; "
            "choose another with -l and -p, or stop what uses it"
        ) from error
    return listeners


async def serve(
    listeners: Sequence[socket.socket],
    handler: Handler,
    config: Config,
    *,
    drain: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `drain` is set, then stop gracefully; returns when no connection is left.

    Draining closes the listeners and all idle connections, lets requests in flight finish, and
    cuts off what is left after `config.drain_s` seconds.  Cancelling instead cuts off at once.
    Both close the listeners.  Raises what `handler` raises that is no fault of one request:
    StorageFailed (in an exception group).
    """
    server = _Server(handler, config)
    try:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(server.accept, listener, connections)
                accepting.start_soon(server.reap)
                task_status.started()
                await drain.wait()
                accepting.cancel_scope.cancel()
            for listener in listeners:
                listener.close()
            server.drain()
            connections.cancel_scope.deadline = trio.current_time() + config.drain_s
    finally:
        for listener in listeners:
            listener.close()


class _Server:
    """What all connections share."""

    def __init__(self, handler: Handler, config: Config) -> None:
        self.handler = handler
        self.config = config
        self.draining = False
        self.connections: set[_Connection] = set()
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

    async def accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        """Start a task for each client, for ever."""
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                while True:
                    client, _ = listener.accept()
                    self._admit(client, nursery)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    _log.error("cannot accept connections: %s; raise ulimit -n", error.strerror)
                    await trio.sleep(ACCEPT_RETRY_S)

    def _admit(self, client: socket.socket, nursery: trio.Nursery) -> None:
        client.setblocking(False)
        if len(self.connections) < self.config.connections_max:
            nursery.start_soon(_Connection(client, self).run)
            return
        refused = Refused(503, "too many connections", explained=True)
        with contextlib.suppress(OSError):  # it may have hung up already
            client.send(answer.refusal(refused, self.date_line()))
        client.close()

    async def reap(self) -> None:
        """Close connections whose client has let its deadline pass."""
        pause = min(1.0, self.config.timeout_idle_s / SWEEPS_PER_TIMEOUT)
        while True:
            await trio.sleep(pause)
            now = trio.current_time()
            for connection in self.connections:
                if connection.deadline <= now:
                    connection.scope.cancel()

    def drain(self) -> None:
        """From now on every connection closes after its answer; idle ones close now."""
        self.draining = True
        for connection in self.connections:
            if connection.is_idle:
                connection.scope.cancel()


class _Connection:
    """One client.  `deadline` is when it must have sent or taken something."""

    def __init__(self, client: socket.socket, server: _Server) -> None:
        self.scope = trio.CancelScope()
        self.deadline = _NEVER
        self._socket = client
        self._server = server
        self._reader = Reader(server.config)
        self._answers: list[bytes] = []
        self._received_bytes = 0  # of the request that is arriving
        self._began = 0.0  # when it began, or when the wait for it did
        self._bytes_held = 0  # this connection's part of the server's
        server.connections.add(self)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request of which nothing has come."""
        return self.deadline != _NEVER and self._reader.is_idle and not self._answers

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
            _log.exception("a request failed: this is a bug in logqueue, please report it")
            self._send_now(answer.refusal(Refused(500, "bug"), self._server.date_line()))
        finally:
            self._socket.close()
            self._server.connections.discard(self)
            self._server.bytes_held -= self._bytes_held

    async def _serve(self) -> None:
        self._began = trio.current_time()
        while await self._receive():
            try:
                closes = await self._answer_all()
            except Refused as refused:
                _log.info("refused: %.200r", refused)
                self._answers.append(answer.refusal(refused, self._server.date_line()))
                await self._flush()
                await self._linger()
                return
            await self._flush()
            if closes:
                await self._close()
                return

    async def _receive(self) -> bool:
        """Wait for bytes and pass them on; False when no more come: the client has closed its
        side, or the server drains."""
        if self._server.draining and self._reader.is_idle:
            return False
        config = self._server.config
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
        self.deadline = _NEVER
        self._received_bytes += len(data)
        self._reader.receive(data)
        return data != b""

    async def _answer_all(self) -> bool:
        """Run what is complete; True when the connection is to close after its answers."""
        server, reader, answers = self._server, self._reader, self._answers
        handled = 0
        while (request := reader.next_request()) is not None:
            response = await server.handler(request)
            layout = request.layout
            if server.draining and layout == KEPT:
                layout = CLOSED
            head_only = request.method == b"HEAD"
            answers.append(answer.encode(response, layout, server.date_line(), head_only=head_only))
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

    def _account(self) -> None:
        """Bound what half-sent requests hold in memory, over all connections."""
        server = self._server
        held = self._reader.bytes_held
        server.bytes_held += held - self._bytes_held
        self._bytes_held = held
        if server.bytes_held > server.config.requests_bytes_max and held > RECEIVE_BYTES:
            raise Refused(503, "too many large requests at once", explained=True)

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
        timeout = self._server.config.timeout_idle_s
        while rest:
            self.deadline = trio.current_time() + timeout
            await trio.lowlevel.wait_writable(self._socket)
            rest = rest[self._send_now(rest) :]
        self.deadline = _NEVER
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
