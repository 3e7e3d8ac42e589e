"""One call of the v1 API, and reading what it gives: names, parameters, durations, JSON.  PURE.

What is unknown, repeated, malformed or out of range is `Failed`: a typing error in `lease=` must
not turn a lease into a loss.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes

from logqueue.duration import seconds
from logqueue.web.message import Request
from logqueue.web.problem import Failed

NAME_BYTES_MAX = 256
JSON_BYTES_MAX = 1 << 20
JSON_DIGITS_MAX = 20  # of a number: what is longer is nothing that we know
SEQUENCE_MAX = (1 << 63) - 1

JSON = b"application/json"

_broken_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_digits = re.compile(rb"[0-9]{1,19}")


class Call(NamedTuple):
    """A request to a resource: the queue and the item that its path names, b"" when it has none;
    `given` are its parameters, decoded."""

    request: Request
    queue: bytes
    item: bytes
    given: Mapping[str, bytes]

    def allow(self, *names: str) -> None:
        """Raises Failed for a parameter that is none of these."""
        for each in self.given:
            if each not in names:
                known = ", ".join(names) or "none"
                bad_parameter(each, f"there is no such parameter here; known: {known}")

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number."""
        if name not in self.given:
            return default
        return whole_number(name, self.given[name], least, most)

    def duration(self, name: str, most_s: float) -> float | None:
        """Seconds; None when it is not given."""
        if name not in self.given:
            return None
        return _within(name, seconds(self.given[name].decode("latin-1")), most_s)

    def json(self, *types: bytes) -> dict[str, object]:
        """The body, a JSON object, whose Content-Type is JSON or one of `types`; no body is {}."""
        request = self.request
        kind = media_type(request.content_type)
        if kind and kind not in (JSON, *types):
            raise Failed(415, "unsupported-media-type", "the body must be application/json")
        if len(request.body) > JSON_BYTES_MAX:
            raise Failed(413, "too-large", f"a JSON body has at most {JSON_BYTES_MAX} bytes")
        if not request.body:
            return {}
        try:
            value = decoder.decode(request.body.decode())
        except (ValueError, RecursionError) as error:
            raise Failed(400, "bad-body", f"the body is not JSON: {error}") from None
        if not isinstance(value, dict):
            bad_body("the body must be a JSON object")
        return value


def whole_number(name: str, text: bytes, least: int, most: int) -> int:
    """Raises Failed when `text` is none in that range."""
    if not _digits.fullmatch(text) or not least <= int(text) <= most:
        bad_parameter(name, f"must be a whole number from {least} to {most}")
    return int(text)


def bad_parameter(name: str, reason: str) -> NoReturn:
    """Raises Failed."""
    raise Failed(400, "bad-parameter", f"{name}: {reason}")


def bad_body(reason: str) -> NoReturn:
    """Raises Failed."""
    raise Failed(400, "bad-body", reason)


def read_path(path: bytes) -> list[bytes]:
    """The parts of a path, decoded.  Raises Failed."""
    if _broken_escape.search(path):
        raise Failed(400, "bad-name", "a percent sign in the path must begin an escape like %2F")
    return [unquote_to_bytes(part) for part in path.split(b"/")]


def read_query(query: bytes) -> dict[str, bytes]:
    """The parameters of a query, decoded.  Raises Failed."""
    given: dict[str, bytes] = {}
    for piece in query.split(b"&") if query else ():
        key, _, value = piece.partition(b"=")
        name = unquote_to_bytes(key).decode("ascii", "backslashreplace")
        if name in given:
            bad_parameter(name, "is given twice")
        given[name] = unquote_to_bytes(value.replace(b"+", b" "))
    return given


def check_name(name: bytes) -> None:
    """Raises Failed when no queue can have this name."""
    if len(name) > NAME_BYTES_MAX:
        raise Failed(400, "bad-name", f"a queue's name has at most {NAME_BYTES_MAX} bytes")
    if b"\0" in name:
        raise Failed(400, "bad-name", "a queue's name holds no NUL")


def media_type(value: bytes) -> bytes:
    """A Content-Type without its parameters, in lower case."""
    return value.partition(b";")[0].strip(b" \t").lower()


def json_duration(name: str, value: object, most_s: float) -> float:
    """A duration in JSON: a string like "20s", or seconds.  Raises Failed."""
    given = None
    if isinstance(value, str):
        given = seconds(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        given = float(value)
    return _within(name, given, most_s)


def _within(name: str, value: float | None, most_s: float) -> float:
    if value is None or not 0 <= value <= most_s:
        bad_parameter(name, f"must be a duration like 20s or 500ms, at most {most_s:g}s")
    return value


def _integer(text: str) -> int:
    if len(text) > JSON_DIGITS_MAX:
        raise ValueError(f"a number has more than {JSON_DIGITS_MAX} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


decoder = json.JSONDecoder(parse_int=_integer, parse_float=_finite, parse_constant=_no_number)
