"""TLS on a connection's socket: the same non-blocking calls, so the same script runs on it.

`ssl.SSLSocket` on a non-blocking socket is what a connection needs as it is: OpenSSL reads no
further than the record at hand (read_ahead is off), so whatever it has not decrypted makes the
socket readable still, and the poller sees it.  Why not trio's SSLStream: docs/decisions/tls.md.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, cast

from logqueue.errors import UsageError
from logqueue.web.poller import READABLE, WRITABLE

_BLOCKED = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TlsSocket(ssl.SSLSocket):
    """A client's socket.  `recv` and `send` raise BlockingIOError where a plain one would.

    Neither needs to say which way it is blocked: once hands are shaken OpenSSL reads in order to
    send only when the client renegotiates, which is forbidden; and it sends in order to receive
    only when the client asks for new keys, whose answer leaves with the next bytes that do.
    """

    _is_whole = True  # nothing is sent, or all of it: an end here cuts no answer

    def handshake(self) -> int:
        """Go on shaking hands: READABLE or WRITABLE when that must come first, else 0.

        Raises OSError when it has failed.
        """
        try:
            self.do_handshake()
        except ssl.SSLWantReadError:
            return READABLE
        except ssl.SSLWantWriteError:
            return WRITABLE
        return 0

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Decrypted bytes; none at the end of the stream."""
        try:
            return super().recv(buflen, flags)
        except _BLOCKED:
            raise BlockingIOError from None

    def send(self, data: Any, flags: int = 0) -> int:
        """How many bytes were taken.  After BlockingIOError the same ones must be sent again."""
        self._is_whole = False
        try:
            sent = super().send(data, flags)
        except _BLOCKED:
            raise BlockingIOError from None
        self._is_whole = sent == len(data)
        return sent

    def shutdown(self, how: int) -> None:
        """Say that nothing more comes, and mean it: what arrives afterwards is not decrypted."""
        self._say_goodbye()
        super().shutdown(how)

    def close(self) -> None:
        """Close.  A client can tell this end from one that somebody forged, or cut."""
        self._say_goodbye()
        super().close()

    def _say_goodbye(self) -> None:
        if self._is_whole:
            with contextlib.suppress(OSError, ValueError):  # it does not wait for theirs
                self.unwrap()


class Certificate:
    """A certificate and its key, from files, with which clients are received.

    Making one raises UsageError when the files are not usable.
    """

    def __init__(self, certificate_path: str, key_path: str) -> None:
        self.load(certificate_path, key_path)

    def load(self, certificate_path: str, key_path: str) -> None:
        """Read the files, again or others, for the connections to come.

        Raises UsageError; then nothing has changed.
        """
        self._context = _context(certificate_path, key_path)

    def wrap(self, client: socket.socket) -> TlsSocket:
        """The socket of a client that has to shake hands yet.  Takes `client` over.

        Raises OSError.
        """
        wrapped = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return cast(TlsSocket, wrapped)


def _context(certificate_path: str, key_path: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = TlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9325, section 3.1.1
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])

    def refuse() -> str:  # OpenSSL would ask the terminal
        raise UsageError(f"--tls-key {key_path} needs a pass phrase; store the key without one")

    try:
        context.load_cert_chain(certificate_path, key_path, refuse)
    except OSError as error:
        raise UsageError(
            f"--tls-cert {certificate_path}, --tls-key {key_path}: "
            f"{error.strerror or error}; both are PEM files, the key that of the certificate"
        ) from error
    return context
