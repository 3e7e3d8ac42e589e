"""HTTP over sockets: accept, time limits and drain."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Sequence
from typing import NamedTuple

import trio

from logqueue.config import Config
from logqueue.web import answer
from logqueue.web.connection import Connection
from logqueue.web.message import Handler, Refused
from logqueue.web.poller import Poller
from logqueue.web.shared import Open, Shared, Traffic
from logqueue.web.tls import Certificate

ACCEPTS_MAX = 64  # clients taken in before those that are there get their turn
ACCEPT_RETRY_S = 0.1  # after accept failed for want of descriptors or memory
SWEEPS_PER_TIMEOUT = 8  # a timeout is kept to within a quarter of it,
SWEEP_S_MAX = 0.25  # and to within half a second; Date lags by a quarter at most
SWEEP_BATCH = 256  # connections looked at before others get their turn: 18,000 take milliseconds

_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_log = logging.getLogger("logqueue.web")


class Listener(NamedTuple):
    """A listening socket, non-blocking; with a `certificate` it speaks TLS."""

    socket: socket.socket
    certificate: Certificate | None = None

    @property
    def url(self) -> str:
        """Its address, for people."""
        place = self.socket.getsockname()
        if not isinstance(place, tuple):
            return f"unix:{place}"
        host = f"[{place[0]}]" if ":" in place[0] else place[0]
        return f"{'http' if self.certificate is None else 'https'}://{host}:{place[1]}/"


async def serve(
    listeners: Sequence[Listener],
    handler: Handler,
    config: Config,
    *,
    drain: trio.Event,
    traffic: Traffic | None = None,
    task_status: trio.TaskStatus[Shared] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `drain` is set, then stop gracefully; returns when no connection is left.

    It tells, once started, what its connections share: `Shared.change` puts another handler and
    other settings into force, the latter for the connections to come and what is looked up per
    request.

    Draining closes the listeners and all idle connections, lets requests in flight finish, and
    cuts off what is left after `config.drain_s` seconds.  Cancelling instead cuts off at once.
    Both close the listeners.  Raises what `handler` raises that is no fault of one request:
    StorageFailed (in an exception group).
    """
    with Poller() as poller:
        async with trio.open_nursery() as nursery:
            shared = Shared(handler, config, poller, nursery, traffic or Traffic())
            await _serve(listeners, shared, drain, task_status)


async def _serve(
    listeners: Sequence[Listener],
    shared: Shared,
    drain: trio.Event,
    task_status: trio.TaskStatus[Shared],
) -> None:
    try:
        shared.nursery.start_soon(shared.poller.run)
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(_accept, listener, shared)
            accepting.start_soon(_reap, shared)
            task_status.started(shared)
            await drain.wait()
            accepting.cancel_scope.cancel()
        with trio.move_on_after(shared.config.drain_s):
            await _drain(listeners, shared)
    finally:
        for connection in list(shared.connections):
            connection.close()
        for listener in listeners:
            listener.socket.close()
        shared.nursery.cancel_scope.cancel()


async def _drain(listeners: Sequence[Listener], shared: Shared) -> None:
    """From now on every connection closes after its answer; wait until the last one has."""
    for listener in listeners:
        listener.socket.close()
    shared.draining = True
    for connection in list(shared.connections):
        if connection.is_idle:
            connection.close()
        else:
            connection.end_wait()
    if shared.connections:
        await shared.last_closed.wait()


async def _accept(listener: Listener, shared: Shared) -> None:
    """Take in clients, for ever."""
    while True:
        await trio.lowlevel.wait_readable(listener.socket)
        try:
            for _ in range(ACCEPTS_MAX):
                client, _ = listener.socket.accept()
                _admit(client, listener.certificate, shared)
        except BlockingIOError:
            pass
        except OSError as error:  # of a client that has hung up already, or of ours
            if error.errno in _OUT_OF_RESOURCES:
                _log.error("cannot accept connections: %s; raise ulimit -n", error.strerror)
                await trio.sleep(ACCEPT_RETRY_S)


def _admit(client: socket.socket, certificate: Certificate | None, shared: Shared) -> None:
    client.setblocking(False)
    if len(shared.connections) < shared.config.connections_max:
        try:
            if certificate is not None:
                client = certificate.wrap(client)
            Connection(client, shared)
        except OSError:
            client.close()
            raise
        return
    shared.traffic.refused[503] += 1
    _log.warning("all %d connections are taken; refused one", shared.config.connections_max)
    if certificate is not None:  # there is no saying so before hands are shaken
        client.close()
        return
    refused = Refused(503, "too many connections", explained=True)
    with client, contextlib.suppress(OSError):  # it may have hung up already
        client.send(answer.refusal(refused, shared.date_line))


async def _reap(shared: Shared) -> None:
    """Close connections whose client has let its deadline pass, for ever."""
    while True:
        config, now = shared.config, trio.current_time()
        shortest = min(
            config.timeout_idle_s,
            config.timeout_head_s,
            config.timeout_body_s,
            config.timeout_write_s,
        )
        pause = min(SWEEP_S_MAX, shortest / SWEEPS_PER_TIMEOUT)
        shared.tick(pause)
        if shared.is_full:
            for connection in shared.connections:
                connection.hurry()
        await _close_late(list(shared.connections), now)
        await trio.sleep(pause)


async def _close_late(connections: Sequence[Open], now: float) -> None:
    for start in range(0, len(connections), SWEEP_BATCH):
        for connection in connections[start : start + SWEEP_BATCH]:
            if connection.deadline <= now and connection.is_awaited:
                connection.close()
        await trio.lowlevel.checkpoint()
