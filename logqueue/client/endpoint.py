"""Where a server is and what it is told, from a URL and the environment.  PURE.

`http://[user:password@]host[:port]`, `https://...`, or `unix:PATH`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from logqueue.errors import UsageError

URL_DEFAULT = "http://127.0.0.1:1218"
URL_VARIABLE = "LOGQUEUE_URL"
PASSWORD_VARIABLE = "LOGQUEUE_AUTH"  # as the daemon's own

_PORT_DEFAULT = 1218
_UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server.  `socket` is the path of a Unix socket, `authorization` a header's value."""

    scheme: str
    host: str
    port: int
    socket: str | None
    authorization: str | None

    @property
    def name(self) -> str:
        """How people know it; never has the password."""
        return f"{_UNIX}{self.socket}" if self.socket else f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def endpoint(url: str | None, password: str | None, environment: Mapping[str, str]) -> Endpoint:
    """The server at `url`; what is None comes from the environment.  Raises UsageError.

    A password in the URL is for that server alone, so it wins over the environment.
    """
    url = url or environment.get(URL_VARIABLE) or URL_DEFAULT
    default = environment.get(PASSWORD_VARIABLE)
    if url.startswith(_UNIX):
        path = url.removeprefix(_UNIX)
        if not path:
            raise UsageError(f"{url!r} names no path; give it as unix:/run/logqueue.sock")
        authorization = _basic("", password if password is not None else default)
        return Endpoint("http", "localhost", _PORT_DEFAULT, path, authorization)
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT_DEFAULT
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError as error:
        raise UsageError(f"the server's URL is not usable: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(
            "the server's URL must be http://HOST:PORT, https://HOST:PORT or unix:PATH"
        )
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError("the server's URL ends with the port: http://HOST:PORT")
    given = None if parts.password is None else unquote(parts.password)
    word = next((each for each in (password, given, default) if each is not None), None)
    authorization = _basic(unquote(parts.username or ""), word)
    return Endpoint(parts.scheme, host, port, None, authorization)


def _basic(user: str, password: str | None) -> str | None:
    """HTTP Basic, because base64 carries any password."""
    if password is None:
        return None
    return "Basic " + b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()
