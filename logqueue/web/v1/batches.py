"""Many messages in one body: NDJSON, and frames (u32 big-endian length + bytes).

Both directions give way to other tasks when there is much to do; nothing else waits here.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from json import encoder
from struct import Struct
from typing import NamedTuple

import trio

from logqueue.web.problem import Failed
from logqueue.web.queues import DEAD_HEADER, Message
from logqueue.web.v1.call import bad_body, decoder, media_type

MESSAGES_MAX = 10_000  # in a batch: encoding and storing one holds the loop up for some 20 ms
LINE_BYTES_MAX = 1 << 20  # of NDJSON: a line is decoded in one go, 5 ms
CONTENT_TYPE_BYTES_MAX = 1024
AT_ONCE = 1000  # messages between two looks at the other tasks
BYTES_AT_ONCE = 1 << 20

LINES = b"application/x-ndjson"
FRAMES = b"application/vnd.logqueue.frames"

_LENGTH = Struct(">I")
_content_type = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)
_quality = re.compile(rb"[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*")
_quote = encoder.encode_basestring


class Batch(NamedTuple):
    """Messages to be put; `types` is empty, or one for each (b"": none)."""

    payloads: list[bytes]
    types: list[bytes]


def check_content_type(value: str) -> None:
    """Raises Failed when it cannot be given back in a header."""
    if len(value) > CONTENT_TYPE_BYTES_MAX:
        detail = f"a Content-Type has at most {CONTENT_TYPE_BYTES_MAX} bytes"
        raise Failed(413, "too-large", detail)
    if not _content_type.fullmatch(value):
        raise Failed(415, "unsupported-media-type", "a Content-Type holds printable ASCII only")


# ---------------------------------------------------------------- in


async def read(content_type: bytes, body: bytes) -> Batch:
    """The messages of a batch put.  Raises Failed; when cancelled, nothing has happened."""
    kind = media_type(content_type)
    if kind == FRAMES:
        batch = Batch(_read_frames(body), [])
    elif kind == LINES:
        batch = await _read_lines(body)
    else:
        detail = f"a batch is {LINES.decode()} or {FRAMES.decode()}"
        raise Failed(415, "unsupported-media-type", detail)
    if not batch.payloads:
        bad_body("there is no message in the batch")
    return batch


def _too_many() -> Failed:
    return Failed(413, "too-large", f"a batch has at most {MESSAGES_MAX} messages, or lines")


def _read_frames(body: bytes) -> list[bytes]:
    payloads: list[bytes] = []
    length_at = _LENGTH.unpack_from
    at, end, last = 0, len(body), len(body) - _LENGTH.size
    while at <= last:
        start = at + 4
        at = start + length_at(body, at)[0]
        if at > end:
            left = end - start
            bad_body(f"frame {len(payloads) + 1} says {at - start} bytes, and {left} follow")
        payloads.append(body[start:at])
        if len(payloads) > MESSAGES_MAX:
            raise _too_many()
    if at != end:
        bad_body(f"{end - at} bytes follow the last frame")
    return payloads


async def _read_lines(body: bytes) -> Batch:
    if body.count(b"\n") - body.endswith(b"\n") >= MESSAGES_MAX:
        raise _too_many()
    payloads: list[bytes] = []
    types: list[bytes] = []
    typed = False
    seen = 0
    for number, line in enumerate(body.split(b"\n"), 1):
        seen += len(line)
        if number % AT_ONCE == 0 or seen > BYTES_AT_ONCE:
            seen = 0
            await trio.lowlevel.checkpoint()
        if not line or line.isspace():
            continue
        payload, content_type = _read_line(number, line)
        payloads.append(payload)
        types.append(content_type)
        typed = typed or content_type != b""
    return Batch(payloads, types if typed else [])


def _read_line(number: int, line: bytes) -> tuple[bytes, bytes]:
    """The message in one line, and its Content-Type."""
    if len(line) > LINE_BYTES_MAX:
        detail = f"line {number} exceeds {LINE_BYTES_MAX} bytes; frames have no such limit"
        raise Failed(413, "too-large", detail)
    try:
        given = decoder.decode(line.decode())
        if type(given) is not dict:
            bad_body(f"line {number} is not a JSON object")
        data = given.pop("data", None)
        if not given and type(data) is str:
            return data.encode(), b""
        return _read_object(number, data, given)
    except (ValueError, RecursionError) as error:
        bad_body(f"line {number}: {error}")


def _read_object(number: int, data: object, rest: dict[str, object]) -> tuple[bytes, bytes]:
    encoded, kind = rest.pop("data_b64", None), rest.pop("type", None)
    if rest:
        bad_body(f"line {number}: {next(iter(rest))!r} is unknown; known: data, data_b64, type")
    if (data is None) == (encoded is None):
        bad_body(f"line {number}: needs either data or data_b64")
    text, content_type = encoded if data is None else data, "" if kind is None else kind
    if not isinstance(text, str) or not isinstance(content_type, str):
        bad_body(f"line {number}: data, data_b64 and type are strings")
    if content_type:
        check_content_type(content_type)
    if data is not None:
        return text.encode(), content_type.encode()
    try:
        return b64decode(text, validate=True), content_type.encode()
    except binascii.Error as error:
        bad_body(f"line {number}: data_b64: {error}")


# ---------------------------------------------------------------- out


def wanted(accept: bytes) -> bytes | None:
    """The batch type that an Accept header prefers; None when it names neither."""
    best, best_quality = None, 0.0
    for each in accept.split(b","):
        kind = media_type(each)
        if kind in (LINES, FRAMES):
            quality = 1.0
            for parameter in each.split(b";")[1:]:
                if (found := _quality.fullmatch(parameter)) is not None:
                    quality = float(found[1])
            if quality > best_quality:
                best, best_quality = kind, quality
    return best


def frames(messages: Sequence[Message]) -> bytes:
    """Answer frames: of leased messages the lease comes first, in a frame of its own."""
    bodies: list[bytes] = []
    if messages and messages[0].lease:
        for each in messages:
            bodies += each.lease.encode(), each.payload
    else:
        bodies = [each.payload for each in messages]
    parts = [b""] * (2 * len(bodies))
    parts[0::2] = map(_LENGTH.pack, map(len, bodies))
    parts[1::2] = bodies
    return b"".join(parts)


async def lines(messages: Sequence[Message], *, stated: bool = False) -> bytes:
    """Answer lines; `stated` ones tell the state of each message.

    Not cancelled meanwhile: the messages may have been taken.
    """
    found = []
    left = BYTES_AT_ONCE
    for count, each in enumerate(messages, 1):
        found.append(_line(each, stated))
        left -= len(each.payload)
        if count % AT_ONCE == 0 or left < 0:
            left = BYTES_AT_ONCE
            await trio.lowlevel.cancel_shielded_checkpoint()
    return "".join(found).encode()


def _data(payload: bytes) -> str:
    """The message as it stands in a line.  Escapes make six bytes of one: what they would blow up,
    and what takes long to look through, goes as base64, so that an answer stays near its size."""
    if len(payload) <= LINE_BYTES_MAX:
        try:
            text = _quote(payload.decode())
        except UnicodeDecodeError:
            pass
        else:
            if len(text) <= 2 * len(payload) + 2:
                return f'"data":{text}'
    return f'"data_b64":"{b64encode(payload).decode()}"'


def _line(message: Message, stated: bool) -> str:
    sequence, position, timestamp, payload, headers, attempts, lease, state = message
    data = _data(payload)
    kind = "null"
    if headers:
        dead = []
        for name, value in headers:
            if name == b"content-type":
                kind = _quote(value.decode("latin-1"))
            elif name == DEAD_HEADER:
                dead.append(_quote(value.decode("latin-1")))
        if dead:
            data += f',"dead":[{",".join(dead)}]'
    if stated:
        data = f'"state":"{state.value}",' + data
    return (
        f'{{"sequence":{sequence},"pos":{position},"time":{timestamp},"attempts":{attempts},'
        f'"lease":"{lease}","type":{kind},{data}}}\n'
    )
