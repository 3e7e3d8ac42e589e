"""One client's connection: advances its conversation when what that waits for has come.

So a request costs no task and no task switch, not even one that waits for the next sync; one that
waits for a cold disk, or for a message, is handled in a task of its own.

One boundary stands around each connection: whatever a client does ends that connection alone.
Only StorageFailed and cancellation from outside pass it.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable
from functools import partial

from logqueue.errors import StorageFailed
from logqueue.web.conversation import Conversation, Wait, bug
from logqueue.web.message import Request
from logqueue.web.poller import HUNG_UP, READABLE, WRITABLE
from logqueue.web.shared import Shared

HURRY_S = 1.0  # how long a client may take nothing when unsent answers fill the memory

_log = logging.getLogger("logqueue.web")


class Connection:
    """One client.  Making one raises OSError when the kernel cannot watch one more socket."""

    def __init__(self, client: socket.socket, shared: Shared) -> None:
        self._socket = client
        self._shared = shared
        self._conversation = Conversation(client, shared)
        self._script = self._conversation.script()
        self._go_on = self._script.__next__
        self._resume = partial(self._run, self._go_on)
        self._waits: Wait = READABLE
        self._watched = READABLE  # what the poller knows, 0 when it does not look
        self.on_over: Callable[[], object] | None = None
        shared.poller.watch(client, self, READABLE)
        shared.connections.add(self)
        next(self._script)

    @property
    def is_awaited(self) -> bool:
        """Whether it is the client's turn."""
        return isinstance(self._waits, int)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request of which nothing has come."""
        return self._waits == READABLE and self._conversation.is_idle

    @property
    def deadline(self) -> float:
        """When the client has kept the server waiting for too long, if `is_awaited`."""
        return self._conversation.deadline

    # ------------------------------------------------------------ advancing the script

    def on_ready(self, events: int) -> None:
        """The socket is ready.  Raises StorageFailed alone."""
        if isinstance(self._waits, int):
            self._run(self._go_on)
        elif isinstance(self._waits, Request) and events == READABLE & ~HUNG_UP:
            self._shared.poller.watch(self._socket, self, HUNG_UP)  # its next request can wait
            self._watched = HUNG_UP
        elif self._watched:
            self._shared.poller.forget(self._socket)  # it would be called all the time
            self._watched = 0
            self.end_wait()

    def hurry(self) -> None:
        """Let a client that does not take its answers have less time."""
        if self._waits == WRITABLE:
            hurried = self._shared.now + HURRY_S
            self._conversation.deadline = min(self._conversation.deadline, hurried)

    def is_over(self) -> bool:
        """Whether there is no use in waiting for an answer; asks the kernel."""
        look = select.poll()
        look.register(self._socket, HUNG_UP)
        return self._shared.draining or bool(look.poll(0))

    def end_wait(self) -> None:
        """Have a request that is parked answered now."""
        if self.on_over is not None:
            self.on_over()

    def forget_template(self) -> None:
        """The next request goes the long way: its meaning may have changed."""
        self._conversation.template = None

    def close(self) -> None:
        """Close at once, without a word.  May be repeated."""
        self._script.close()
        if self not in self._shared.connections:
            return
        if self._watched:
            self._shared.poller.forget(self._socket)
        self._socket.close()
        self._conversation.release()
        self._shared.connections.discard(self)
        if self._shared.draining and not self._shared.connections:
            self._shared.last_closed.set()

    def _run(self, go_on: Callable[[], Wait]) -> None:
        """Run the script up to its next wait."""
        try:
            waits = go_on()
        except StorageFailed:
            raise
        except (StopIteration, OSError):
            self.close()  # the script has ended, or the client has gone
        except Exception:
            _log.exception("a connection failed: this is a bug in logqueue, please report it")
            self.close()
        else:
            self._waits = waits
            if waits != self._watched:
                self._arrange(waits)

    def _arrange(self, waits: Wait) -> None:
        """Have the script advanced when what it waits for has come."""
        shared = self._shared
        if isinstance(waits, Request):
            shared.nursery.start_soon(self._handle, waits)
        elif not isinstance(waits, int):
            waits(self._resume)
        else:
            shared.poller.watch(self._socket, self, waits)
            self._watched = waits

    async def _handle(self, request: Request) -> None:
        """Run a request that has to wait, in a task of its own."""
        try:
            response = await self._shared.handler.handle(
                request._replace(client=self._conversation.client, presence=self)
            )
        except StorageFailed:
            raise
        except Exception:
            self._run(partial(self._script.throw, bug(request)))
        except BaseException:
            self.close()
            raise
        else:
            self._run(partial(self._script.send, response))
