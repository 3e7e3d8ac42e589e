"""HTTP over trio sockets: listen, accept, time limits and drain."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Sequence

import trio

from logqueue.config import Config
from logqueue.errors import UsageError
from logqueue.web import answer
from logqueue.web.connection import Connection, Shared, Traffic
from logqueue.web.message import Handler, Refused
from logqueue.web.poller import Poller

BACKLOG = 1024
ACCEPTS_MAX = 64  # clients taken in before those that are there get their turn
ACCEPT_RETRY_S = 0.1  # after accept failed for want of descriptors or memory
SWEEPS_PER_TIMEOUT = 8  # a timeout is kept to within a quarter of it,
SWEEP_S_MAX = 0.5  # and to within a second; Date lags by half a second at most

_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

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
    traffic: Traffic | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `drain` is set, then stop gracefully; returns when no connection is left.

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
    listeners: Sequence[socket.socket],
    shared: Shared,
    drain: trio.Event,
    task_status: trio.TaskStatus[None],
) -> None:
    try:
        shared.nursery.start_soon(shared.poller.run)
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(_accept, listener, shared)
            accepting.start_soon(_reap, shared)
            task_status.started()
            await drain.wait()
            accepting.cancel_scope.cancel()
        with trio.move_on_after(shared.config.drain_s):
            await _drain(listeners, shared)
    finally:
        for connection in list(shared.connections):
            connection.close()
        for listener in listeners:
            listener.close()
        shared.nursery.cancel_scope.cancel()


async def _drain(listeners: Sequence[socket.socket], shared: Shared) -> None:
    """From now on every connection closes after its answer; wait until the last one has."""
    for listener in listeners:
        listener.close()
    shared.draining = True
    for connection in list(shared.connections):
        if connection.is_idle:
            connection.close()
        else:
            connection.end_wait()
    if shared.connections:
        await shared.last_closed.wait()


async def _accept(listener: socket.socket, shared: Shared) -> None:
    """Take in clients, for ever."""
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            for _ in range(ACCEPTS_MAX):
                client, _ = listener.accept()
                _admit(client, shared)
        except BlockingIOError:
            pass
        except OSError as error:  # of a client that has hung up already, or of ours
            if error.errno in _OUT_OF_RESOURCES:
                _log.error("cannot accept connections: %s; raise ulimit -n", error.strerror)
                await trio.sleep(ACCEPT_RETRY_S)


def _admit(client: socket.socket, shared: Shared) -> None:
    client.setblocking(False)
    if len(shared.connections) < shared.config.connections_max:
        try:
            Connection(client, shared)
        except OSError:
            client.close()
            raise
        return
    shared.traffic.refused[503] += 1
    refused = Refused(503, "too many connections", explained=True)
    with client, contextlib.suppress(OSError):  # it may have hung up already
        client.send(answer.refusal(refused, shared.date_line))


async def _reap(shared: Shared) -> None:
    """Close connections whose client has let its deadline pass, for ever."""
    pause = min(SWEEP_S_MAX, shared.config.timeout_idle_s / SWEEPS_PER_TIMEOUT)
    while True:
        shared.tick(pause)
        for connection in [each for each in shared.connections if each.is_late]:
            connection.close()
        await trio.sleep(pause)
