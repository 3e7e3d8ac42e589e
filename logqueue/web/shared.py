"""What all connections of one server share: who is there, what they hold, what time it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sized
from email.utils import formatdate
from typing import Protocol

import trio

from logqueue.config import Config
from logqueue.web.message import Handler
from logqueue.web.poller import Poller
from logqueue.web.template import Templates


class Traffic:
    """What a server counts about itself."""

    def __init__(self) -> None:
        self.connections: Sized = ()  # that are open
        self.refused: Counter[int] = Counter()  # refusals by HTTP status


class Open(Protocol):
    """A connection, as the server sees it."""

    @property
    def deadline(self) -> float:
        """When its client has kept the server waiting for too long, if `is_awaited`."""

    @property
    def is_awaited(self) -> bool:
        """Whether it is the client's turn."""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request of which nothing has come."""

    def hurry(self) -> None:
        """Let a client that does not take its answers have less time: they fill the memory."""

    def end_wait(self) -> None:
        """Have a request that is parked answered now."""

    def forget_template(self) -> None:
        """The next request goes the long way: its meaning may have changed."""

    def close(self) -> None:
        """Close at once, without a word.  May be repeated."""


class Shared:
    """What all connections of one server share.  `nursery` runs the requests that wait."""

    def __init__(
        self,
        handler: Handler,
        config: Config,
        poller: Poller,
        nursery: trio.Nursery,
        traffic: Traffic,
    ) -> None:
        self.handler = handler
        self.config = config
        self.poller = poller
        self.nursery = nursery
        self.templates = Templates(handler, config)
        self.connections: set[Open] = set()
        self.traffic = traffic
        traffic.connections = self.connections
        self.draining = False
        self.last_closed = trio.Event()  # set when the last connection closes while draining
        self.bytes_held = 0  # of requests that are not complete yet, over all connections
        self.bytes_unsent = 0  # of answers that have not been taken yet, large ones and leftovers
        self.is_full = False  # of these: nobody is answered
        self.tick(0)

    def change(self, handler: Handler, config: Config) -> None:
        """From now on requests are handled so."""
        self.handler, self.config = handler, config
        self.templates = Templates(handler, config)
        for connection in self.connections:
            connection.forget_template()

    def count_unsent(self, more: int) -> None:
        """Note that so many bytes more, or less, wait to be taken."""
        self.bytes_unsent += more
        self.is_full = self.bytes_unsent > self.config.bytes_in_flight_max

    def turn(self, call: Callable[[], object]) -> None:
        """A promise that is kept once all others who can go on have done so."""

        async def go_on() -> None:
            call()

        self.nursery.start_soon(go_on)

    def tick(self, until_next_s: float) -> None:
        """Set the clocks that connections read, for as long as that."""
        self.now = trio.current_time() + until_next_s  # never behind the time
        self.date_line = b"Date: %b\r\n" % formatdate(usegmt=True).encode()
