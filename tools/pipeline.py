"""A pipelined HTTP connection to a daemon on this machine, for tools that load it."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

_LENGTH = re.compile(rb"Content-Length: ([0-9]+)\r\n")
TIMEOUT_S = 120.0


class Pipeline:
    """Many requests in one go, then their answers in order."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def ask(self, requests: Sequence[bytes]) -> list[bytes]:
        """The bodies of the answers.  Raises OSError when the daemon goes away."""
        self._socket.sendall(b"".join(requests))
        return [self._answer() for _ in requests]

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self._socket.close()

    def _answer(self) -> bytes:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._receive()
        length = _LENGTH.search(self._buffer, 0, end + 2)
        if length is None:
            raise ConnectionError(f"an answer without a length: {self._buffer[:end]!r}")
        begin, end = end + 4, end + 4 + int(length[1])
        while len(self._buffer) < end:
            self._receive()
        body, self._buffer = self._buffer[begin:end], self._buffer[end:]
        return body

    def _receive(self) -> None:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionResetError("the daemon closed the connection")
        self._buffer += data


def put_request(queue: str, payload: bytes) -> bytes:
    """The request that puts one message; `queue` needs no escaping."""
    head = (
        f"POST /?name={queue}&opt=put HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def request(queue: str, operation: str) -> bytes:
    """Any request without a body: `get`, `status`, `view&pos=7`, ..."""
    return f"GET /?name={queue}&opt={operation} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
