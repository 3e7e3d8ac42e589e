"""A chunked body (RFC 9112, section 7.1) without its chunks.  PURE.

Stricter than h11, which takes chunk extensions: HTTPSQS refused them, nobody sends them, and
they have carried smuggled requests.  Every line ends in CR LF.  Trailers are read and dropped.
HTTPSQS answered broken chunks with 413, and so does this.
"""

from __future__ import annotations

import re

from logqueue.config import Config
from logqueue.web.message import Refused

SIZE_LINE_BYTES_MAX = 32
TRAILER_BYTES_MAX = 8192
# What any body may cost on the wire beside `chunk_factor_max` times its bytes.
OVERHEAD_BYTES = 4096

_size_line = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*\r\n")
_framing = re.compile(rb"\s*(content-length|transfer-encoding|host)\b", re.IGNORECASE)


class ChunkedBody:
    """One body in the making: `feed` until it says True, then `body` is complete."""

    def __init__(self, config: Config) -> None:
        self.body = bytearray()
        self._body_bytes_max = config.body_bytes_max
        self._factor_max = config.chunk_factor_max
        self._wire_bytes = 0
        self._missing = 0  # bytes of the current chunk and of the CR LF after it
        self._trailer_bytes = -1  # -1: not there yet

    def feed(self, buffer: bytearray) -> bool:
        """Consume what belongs to this body from the front of `buffer`; True at its end.

        Raises Refused for broken chunks and for a body over the limit.
        """
        at = 0
        done = False
        while not done:
            step = self._step(buffer, at)
            if step == 0:
                break
            at += step
            done = self._trailer_bytes >= 0 and buffer[at - step : at] == b"\r\n"
        del buffer[:at]
        self._wire_bytes += at
        if self._wire_bytes > self._factor_max * len(self.body) + OVERHEAD_BYTES:
            raise Refused(413, "chunks cost more than they carry")
        return done

    def _step(self, buffer: bytearray, at: int) -> int:
        """Consume one piece; how many bytes it had, 0 when it is not there yet."""
        if self._trailer_bytes >= 0:
            return self._trailer_line(buffer, at)
        if self._missing == 0:
            return self._size_line(buffer, at)
        if self._missing > 2:
            piece = buffer[at : at + self._missing - 2]
            self.body += piece
            self._missing -= len(piece)
            return len(piece)
        end = buffer[at : at + 2]
        if not b"\r\n".startswith(end):
            raise Refused(413, "chunk is longer than its size")
        if len(end) < 2:
            return 0
        self._missing = 0
        return 2

    def _size_line(self, buffer: bytearray, at: int) -> int:
        match = _size_line.match(buffer, at)
        if match is None:
            if len(buffer) - at > SIZE_LINE_BYTES_MAX or buffer.find(b"\n", at) >= 0:
                raise Refused(413, "chunk size")
            return 0
        size = int(match[1], 16)
        if len(self.body) + size > self._body_bytes_max:
            raise Refused(413, f"body exceeds {self._body_bytes_max} bytes", explained=True)
        if size == 0:
            self._trailer_bytes = 0
        else:
            self._missing = size + 2
        return match.end() - at

    def _trailer_line(self, buffer: bytearray, at: int) -> int:
        end = buffer.find(b"\n", at) + 1
        step = end - at if end else len(buffer) - at
        if self._trailer_bytes + step > TRAILER_BYTES_MAX:
            raise Refused(413, "trailer")
        if not end:
            return 0
        line = buffer[at:end]
        if not line.endswith(b"\r\n") or b"\0" in line or _framing.match(line):
            raise Refused(413, "trailer")
        self._trailer_bytes += step
        return step
