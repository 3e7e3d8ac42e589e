"""What is said on one client's connection: bytes in, answers out, when to wait and how long.

A conversation is a generator, the script, that yields what it has to wait for: READABLE and
WRITABLE for its socket, a promise that must be kept first, or a request whose answer must be
waited for.  Everything between two yields happens at once, without blocking; whoever advances it
(`connection`) does so when that has come.

All answers to what was read at once leave in one direct send.  There is no timer per request: a
conversation states its `deadline`, and the server's reaper closes it when that has passed.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Generator

from logqueue.errors import StorageFailed
from logqueue.web import access, answer
from logqueue.web.message import CLOSED, KEPT, Promise, Refused, Request, Response
from logqueue.web.poller import READABLE, WRITABLE
from logqueue.web.shared import Shared
from logqueue.web.template import Template
from logqueue.web.tls import TlsSocket
from logqueue.web.wire import Reader

RECEIVE_BYTES = 65536
LINGER_S = 1.0  # how long a refused client may go on sending, so that it can read the answer
LARGE_BYTES = RECEIVE_BYTES  # answers that are counted from the moment that they exist

_NEXT, _HEAD, _BODY = range(3)  # what is read

_log = logging.getLogger("logqueue.web")

Wait = int | Request | Promise
Script = Generator[Wait, Response | None, None]


def bug(request: Request) -> Refused:
    """The answer when a handler raised what it should not; to be called where that is caught."""
    _log.exception("a request failed: this is a bug in logqueue, please report it")
    return Refused(500, "see the log of logqueued", explained=True, target=request.target)


class Conversation:
    """The script of one client, and what it holds meanwhile.

    The client must send or take something before `deadline`, while it is waited for.
    """

    def __init__(self, client: socket.socket, shared: Shared) -> None:
        self.deadline = shared.now + shared.config.timeout_idle_s
        self.template: Template | None = None  # of its last request
        self._socket = client
        self._shared = shared
        self._reader = Reader(shared.config)
        self._answers: list[bytes] = []  # not sent yet
        self._bytes_held = 0  # this connection's part of the shared numbers
        self._bytes_unsent = 0
        self._reads = _NEXT

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a next request has come."""
        return self._reader.is_idle

    @property
    def client(self) -> str:
        """The address of the client, without its port; empty when that is not known."""
        try:
            place = self._socket.getpeername()
        except OSError:  # it has gone
            return ""
        return place[0] if isinstance(place, tuple) else "a local process"

    def release(self) -> None:
        """Give back what it holds, at the end."""
        self._shared.bytes_held -= self._bytes_held
        self._bytes_held = 0
        self._count_unsent(0)

    def script(self) -> Script:
        """Read, answer, repeat; one round of the loop is what a request costs."""
        shared, client, reader = self._shared, self._socket, self._reader
        answers = self._answers
        if isinstance(client, TlsSocket):
            yield from self._shake_hands(client)
        while not (shared.draining and reader.is_idle):
            yield READABLE
            try:
                data = client.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return
            template = self.template
            if template is not None and reader.is_idle and not shared.is_full:
                message = template.find(data)
                done = None if message is None else template.run(message)
                if done is not None:
                    body, position, promise = done
                    if promise is not None:
                        if len(body) > LARGE_BYTES:
                            self._count_unsent(len(body))
                        yield promise
                    self.deadline = shared.now + shared.config.timeout_idle_s
                    answers.append(template.encode(body, position, shared.date_line))
                    if rest := self._send_now():
                        yield from self._send_rest(rest)
                    continue
            was_idle = reader.is_idle
            reader.receive(data)
            try:
                closes = yield from self._answer_all(len(data))
            except Refused as refused:
                yield from self._refuse(refused)
                return
            if was_idle and reader.is_idle and len(answers) == 1:
                self.template = shared.templates.of(data)
            if answers and (rest := self._send_now()):
                yield from self._send_rest(rest)
            if closes:
                yield from self._finish()
                return

    def _shake_hands(self, client: TlsSocket) -> Script:
        shared = self._shared
        self.deadline = shared.now + shared.config.timeout_handshake_s
        waits = READABLE
        while waits:
            yield waits
            waits = client.handshake()
        self.deadline = shared.now + shared.config.timeout_idle_s

    def _answer_all(self, received: int) -> Generator[Wait, Response | None, bool]:
        """Answer what is complete; True when the connection is to close.  Raises Refused."""
        shared, reader, answers = self._shared, self._reader, self._answers
        while (request := reader.next_request()) is not None:
            if shared.is_full:
                raise Refused(503, "too many answers are not taken", explained=True)
            try:
                response = shared.handler.handle_nowait(request)
            except StorageFailed:
                raise
            except Exception as error:
                raise bug(request) from error
            if response is None:
                if answers and (rest := self._send_now()):
                    yield from self._send_rest(rest)
                response = yield request
                assert response is not None
                if len(response.body) > LARGE_BYTES:
                    self._count_unsent(len(response.body))
            elif response.promise is not None:
                if answers and (rest := self._send_now()):
                    yield from self._send_rest(rest)
                if len(response.body) > LARGE_BYTES:
                    self._count_unsent(len(response.body))
                yield response.promise
            layout = request.layout
            if shared.draining and layout == KEPT:
                layout = CLOSED
            head_only = request.method == b"HEAD"
            answers.append(answer.encode(response, layout, shared.date_line, head_only=head_only))
            self.deadline = shared.now + shared.config.timeout_idle_s
            self._reads = _NEXT
            if layout.closes:
                return True
            if reader.is_idle:
                break
            large = len(response.body) > LARGE_BYTES
            if large or len(answers) >= shared.config.pipelined_max:
                if rest := self._send_now():
                    yield from self._send_rest(rest)
                yield shared.turn
        if self._bytes_held or not reader.is_idle:
            self._account()
            self._give_time(received)
            if reader.expects_continue:
                reader.expects_continue = False
                answers.append(answer.CONTINUE)
        return False

    def _give_time(self, received: int) -> None:
        """For the rest of a request; what has come of it earns some, but no stock of it."""
        config, reader = self._shared.config, self._reader
        before, self._reads = self._reads, _NEXT
        if not reader.is_idle:
            self._reads = _BODY if reader.has_head else _HEAD
        timeout_s = (config.timeout_idle_s, config.timeout_head_s, config.timeout_body_s)
        latest = self._shared.now + timeout_s[self._reads]
        if self._reads == before:
            latest = min(latest, self.deadline + received / config.rate_min)
        self.deadline = latest

    def _account(self) -> None:
        """Bound what half-sent requests hold in memory, over all connections."""
        shared = self._shared
        held = self._reader.bytes_held
        shared.bytes_held += held - self._bytes_held
        self._bytes_held = held
        if shared.bytes_held > shared.config.bytes_in_flight_max and held > RECEIVE_BYTES:
            raise Refused(503, "too many large requests at once", explained=True)

    def _send_now(self) -> bytes | memoryview:
        """Hand the answers to the kernel; what it did not take."""
        answers = self._answers
        data = answers[0] if len(answers) == 1 else b"".join(answers)
        answers.clear()
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            return memoryview(data)[sent:]
        if self._bytes_unsent:
            self._count_unsent(0)
        return b""

    def _count_unsent(self, count: int) -> None:
        self._shared.count_unsent(count - self._bytes_unsent)
        self._bytes_unsent = count

    def _send_rest(self, rest: bytes | memoryview) -> Script:
        """Wait for a client that does not take its answers."""
        shared, read_until = self._shared, self.deadline
        began, config = shared.now, shared.config
        self._count_unsent(len(rest))
        self.deadline = began + config.timeout_write_s
        while rest:
            yield WRITABLE
            with contextlib.suppress(BlockingIOError):
                sent = self._socket.send(rest)
                rest = rest[sent:]
                earned = self.deadline + sent / config.rate_min
                self.deadline = min(earned, shared.now + config.timeout_write_s)
        self._count_unsent(0)
        self.deadline = read_until + shared.now - began  # the client could not be expected to send

    def _refuse(self, refused: Refused) -> Script:
        """Say so, after the answers to what came before, and close."""
        self._shared.traffic.refused[refused.status] += 1
        if self._shared.config.access_log:
            access.refused(self.client, refused)
        self._reader = Reader(self._shared.config)  # lets go of what it holds
        self._account()
        self._answers.append(answer.refusal(refused, self._shared.date_line))
        yield from self._send_rest(self._send_now())
        yield from self._linger()

    def _finish(self) -> Script:
        """End so that the answer arrives: unread bytes would make the kernel send a reset."""
        try:
            surplus = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            surplus = b""
        if surplus or not self._reader.is_idle:
            yield from self._linger()

    def _linger(self) -> Script:
        """Say that nothing more comes, and swallow what the client still sends, for a while."""
        self._socket.shutdown(socket.SHUT_WR)
        self.deadline = self._shared.now + LINGER_S
        while True:
            yield READABLE
            try:
                if not self._socket.recv(RECEIVE_BYTES):
                    return
            except BlockingIOError:
                continue
