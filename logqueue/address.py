"""Where to listen, as it is written on the command line.  PURE.

`HOST`, `HOST:PORT`, `[IPv6]:PORT`, any of these behind `http://`, or `unix:PATH`.
"""

from __future__ import annotations

from typing import NamedTuple

PORT_MAX = 65535

_UNIX = "unix:"
_PLAIN = "http://"


class Address(NamedTuple):
    """A TCP address, or the `path` of a Unix socket.  A `port` of None is the default one."""

    host: str = ""
    port: int | None = None
    path: str = ""
    plain: bool = False  # speaks HTTP even when there is a certificate


def parse(text: str) -> Address:
    """Read one address.  Raises ValueError, whose text says what is wrong with it."""
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path:
            raise ValueError(f"{text!r} names no path: unix:/run/logqueue.sock")
        return Address(path=path)
    place = text.removeprefix(_PLAIN).removesuffix("/")
    host, port = _split(place)
    if not host or "/" in host:
        raise ValueError(f"{text!r} is no address: HOST, HOST:PORT, [IPv6]:PORT or unix:PATH")
    if port is not None and not (port.isascii() and port.isdigit() and int(port) <= PORT_MAX):
        raise ValueError(f"{port!r} in {text!r} is not a number from 0 to {PORT_MAX}")
    return Address(host, None if port is None else int(port), plain=text.startswith(_PLAIN))


def _split(place: str) -> tuple[str, str | None]:
    """Host and port; an IPv6 address needs brackets only when there is a port."""
    if place.startswith("["):
        host, closed, rest = place[1:].partition("]")
        if not closed or rest[:1] not in ("", ":"):
            return "", None
        return host, rest[1:] if rest else None
    if place.count(":") != 1:
        return place, None
    host, _, port = place.partition(":")
    return host, port
