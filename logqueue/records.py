"""Records of the store as messages of the port, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from logqueue.storage.frame import HEADERS, Frame
from logqueue.storage.headers import encode_headers
from logqueue.storage.headers import message_of as headers_and_body
from logqueue.storage.queue import Queue
from logqueue.web.queues import BATCH_BYTES_MAX, Headers, Message, State


@lru_cache(maxsize=256)
def _typed(content_type: bytes) -> bytes:
    """The header block of a message that has a Content-Type and nothing else."""
    return encode_headers(((b"content-type", content_type),))


def with_headers(
    payloads: Sequence[bytes], content_types: Sequence[bytes]
) -> tuple[Sequence[bytes], Sequence[int]]:
    """The payloads of records, and their flags; `content_types` is empty or one for each."""
    if not content_types:
        return payloads, ()
    flags = [HEADERS if each else 0 for each in content_types]
    typed = zip(payloads, content_types, strict=True)
    return [_typed(kind) + body if kind else body for body, kind in typed], flags


def whole_ms(seconds: float) -> int:
    """Whole milliseconds, up: what is not 0 does not become it."""
    return math.ceil(seconds * 1000)


def hand_out(queue: Queue, maximum: int, lease_s: float | None) -> list[Message]:
    """Take what is ready: lease it, or consume it with `lease_s` 0; None is the queue's own.

    Raises Cold, NoRoom, Corrupt, LimitExceeded, and then nothing was taken.
    """
    if lease_s is None:
        lease_s = queue.settings.lease_s
    if lease_s <= 0:
        position_of, state = queue.position_of, State.CONSUMED
        return [
            message_of(frame, position_of(frame.sequence), state)
            for frame in queue.get_batch(maximum, BATCH_BYTES_MAX)
        ]
    delivery = queue.deliver()
    position_of, make, state = queue.position_of, delivery.tokens.make, State.LEASED
    messages = []
    for frame, attempts in delivery.receive(maximum, whole_ms(lease_s), BATCH_BYTES_MAX):
        lease = make(frame.sequence, attempts)
        messages.append(message_of(frame, position_of(frame.sequence), state, attempts, lease))
    return messages


def state_of(queue: Queue, sequence: int) -> State:
    """What is the matter with a sequence that is on the disk."""
    if queue.delivery is None:
        return State.CONSUMED if sequence <= queue.consumed else State.READY
    found = queue.delivery.leases.state(sequence)
    if found is None or sequence <= queue.consumed:
        return State.CONSUMED
    return State[found.name]


# Half the cost of calling the class, in the one place that is called for every message.
_new_message: Callable[[tuple[int, int, int, bytes, Headers, int, str, State]], Message] = partial(
    tuple.__new__, Message
)


def message_of(
    frame: Frame, position: int, state: State, attempts: int = 0, lease: str = ""
) -> Message:
    """A record at a ring position, as it is handed out or shown."""
    _, _, sequence, timestamp, _, _, flags, body = frame
    headers: Headers = ()
    if flags & HEADERS:
        headers, body = headers_and_body(frame)
    return _new_message((sequence, position, timestamp, body, headers, attempts, lease, state))
