"""The sockets that clients come in by: TCP addresses, Unix sockets, and what systemd hands over.

A Unix socket's file belongs to the daemon that has bound it: the mode is SOCKET_MODE from the
first moment on, whatever the umask; one that nobody listens on any more (its daemon was killed) is
replaced; and it is removed at the end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, MutableMapping
from typing import NamedTuple

from logqueue.address import Address
from logqueue.config import Config
from logqueue.errors import UsageError

BACKLOG = 1024
HANDED_OVER_FROM = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
SOCKET_MODE = 0o660  # the daemon's user and group: whoever may connect owns the queues
STALE_S = 1.0  # to find out whether anybody listens on a socket file that is there already


class Entrance(NamedTuple):
    """A listening socket, non-blocking.  A `plain` one speaks no TLS, whatever the others do."""

    socket: socket.socket
    plain: bool


@contextlib.contextmanager
def listening(config: Config, environment: MutableMapping[str, str]) -> Iterator[list[Entrance]]:
    """Open all sockets for the length of a block, and remove those that are files after it.

    What systemd hands over takes the place of the default address, not of one that is given.
    Raises UsageError when one cannot be opened; then none is left open.
    """
    with contextlib.ExitStack() as stack:
        sockets = handed_over(environment)
        entrances = [Entrance(each, each.family == socket.AF_UNIX) for each in sockets]
        addresses = config.addresses or (() if sockets else (Address("127.0.0.1"),))
        for each in sockets:
            stack.callback(each.close)
        for address in addresses:
            if address.path:
                entrances.append(Entrance(stack.enter_context(_unix(address.path)), plain=True))
                continue
            port = config.port if address.port is None else address.port
            for each in tcp(address.host, port):
                stack.callback(each.close)
                entrances.append(Entrance(each, address.plain))
        yield entrances


def tcp(host: str, port: int) -> list[socket.socket]:
    """Open listening sockets, one for each address that `host` stands for.

    Port 0 takes a free one, the same for all.  Raises UsageError when that is not possible.
    """
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
        for family, kind, protocol, _, place in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((place[0], port, *place[2:]))
            _listen(listener)
            port = listener.getsockname()[1]
    except (OSError, UnicodeError) as error:  # the latter: no host can be called so
        for listener in listeners:
            listener.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot listen on {host} port {port}: {reason}; "
            "choose another with -l and -p, or stop what uses it"
        ) from error
    return listeners


def _listen(listener: socket.socket) -> None:
    listener.setblocking(False)
    if listener.family != socket.AF_UNIX:
        # Accepted sockets inherit this: an answer never waits for the acknowledgement of one.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.listen(BACKLOG)


@contextlib.contextmanager
def _unix(path: str) -> Iterator[socket.socket]:
    """A Unix socket, whose file is removed at the end.  Raises UsageError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            os.fchmod(listener.fileno(), SOCKET_MODE)  # of the file to come: Linux, unix(7)
            _bind(listener, path)
            os.chmod(path, SOCKET_MODE)  # the umask may have narrowed it
            ours = os.lstat(path)
            _listen(listener)
        except OSError as error:
            raise UsageError(
                f"cannot listen on unix:{path}: {error.strerror or error}; "
                "choose another path with --listen, or stop what uses it"
            ) from error
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(path), ours):  # nobody has put another in its place
                    os.unlink(path)


def _bind(listener: socket.socket, path: str) -> None:
    try:
        listener.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_stale(path):
            raise
        os.unlink(path)
        listener.bind(path)


def _is_stale(path: str) -> bool:
    """Whether it is a socket that nobody listens on."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(STALE_S)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:  # its backlog is full, or we may not ask
            return False
    return False


def handed_over(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd has opened for this process: sd_listen_fds(3).

    Takes the variables out of the environment.  Raises UsageError when one is something else.
    """
    process = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdecimal():
        return []
    sockets: list[socket.socket] = []
    for descriptor in range(HANDED_OVER_FROM, HANDED_OVER_FROM + int(count)):
        try:
            listener = socket.socket(fileno=descriptor)
            listener.set_inheritable(False)
            listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listener.type != socket.SOCK_STREAM or not listens:
                raise OSError(errno.EINVAL, "it takes no connections")
            _listen(listener)
        except OSError as error:
            raise UsageError(
                f"descriptor {descriptor} of systemd: {error.strerror}; "
                "the socket unit needs ListenStream= and Accept=no"
            ) from error
        sockets.append(listener)
    return sockets
