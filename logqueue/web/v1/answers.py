"""What the resources of the v1 API have in common: the answers, and what a route is.  PURE."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from logqueue.web.message import Response
from logqueue.web.v1.call import JSON, Call

Operation: TypeAlias = Callable[[Call], Awaitable[Response]]
# The parts of a path behind /v1/, None for a name: what each method does.
Routes: TypeAlias = Mapping[tuple[bytes | None, ...], Mapping[bytes, Operation]]


def answer(status: int, content_type: bytes, body: bytes, lines: bytes = b"") -> Response:
    """An answer with a body."""
    return Response(body, None, content_type, None, status, is_legacy=False, lines=lines)


def json_answer(status: int, value: object, lines: bytes = b"") -> Response:
    """An answer in JSON."""
    body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return answer(status, JSON, body, lines)


def nothing(lines: bytes = b"") -> Response:
    """204."""
    return answer(204, b"", b"", lines)
