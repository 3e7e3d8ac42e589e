"""What a message carries into the dead-letter queue: its own headers, and one more for the move.

    logqueue-dead: queue=jobs; sequence=17; attempts=5; put=1700000000000; moved=1700000300000

The queue's name is percent-encoded, times are milliseconds since the epoch.  A message that dies
again gets another such header behind the first; when there is no room the oldest ones go.  Pure.
"""

from __future__ import annotations

from urllib.parse import quote_from_bytes

from logqueue.errors import LimitExceeded
from logqueue.storage.frame import Frame
from logqueue.storage.headers import Headers, encode_headers, message_of
from logqueue.web.queues import DEAD_HEADER


def headstone(name: bytes, frame: Frame, attempts: int, now_ms: int) -> bytes:
    """The payload, header block included, that a record of the queue `name` is moved as."""
    headers, body = message_of(frame)
    moved = "queue={}; sequence={}; attempts={}; put={}; moved={}".format(
        quote_from_bytes(name, safe=""), frame.sequence, attempts, frame.timestamp, now_ms
    )
    return _fitting((*headers, (DEAD_HEADER, moved.encode()))) + body


def _fitting(headers: Headers) -> bytes:
    while True:
        try:
            return encode_headers(headers)
        except LimitExceeded:
            oldest = next(each for each in headers if each[0] == DEAD_HEADER)
            if oldest is headers[-1]:  # the client's own headers fill the block: they stay
                return encode_headers(headers[:-1])
            headers = tuple(each for each in headers if each is not oldest)
