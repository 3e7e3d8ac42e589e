"""Errors of the v1 API: RFC 9457 problem details with a stable `code`.  PURE.

The codes are part of the contract (docs/api.md); programs branch on them, people read `detail`.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from logqueue.errors import (
    BadOption,
    Corrupt,
    DiskFull,
    LimitExceeded,
    LogqueueError,
    NoSuchQueue,
    NotWritable,
    OptionConflict,
)

CONTENT_TYPE = b"application/problem+json"
RETRY_AFTER_S = 1  # no queue empties by a promise; a second keeps a crowd from hammering


class Problem(NamedTuple):
    """What went wrong with a request.  `lines` are more header lines, each with its CR LF."""

    status: int
    code: str
    detail: str
    lines: bytes = b""

    def body(self, title: str) -> bytes:
        """The JSON document.  `title` is the status in words."""
        document = {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        return json.dumps(document).encode() + b"\n"


class Failed(Exception):
    """The request is answered with a `Problem`, and has changed nothing."""

    def __init__(self, status: int, code: str, detail: str, lines: bytes = b"") -> None:
        self.problem = Problem(status, code, detail, lines)
        super().__init__(detail)


# Refusals of what is no request yet, by status.
_REFUSED = {
    400: "bad-request",
    403: "cross-site",
    413: "too-large",
    414: "head-too-large",
    417: "bad-expectation",
    431: "head-too-large",
    500: "internal",
    503: "overloaded",
}

# LimitExceeded, by the beginning of the limit's name; every other one is about a size.
_LIMITS = {
    "leased messages": (429, "too-many-leases"),
    "number of queues": (507, "too-many-queues"),
    "open files": (503, "overloaded"),
    "parked long polls": (503, "too-many-waits"),
}


def retry_after(seconds: int = RETRY_AFTER_S) -> bytes:
    """The header line."""
    return b"Retry-After: %d\r\n" % seconds


def refused(status: int, reason: str) -> Problem:
    """The problem for a `Refused`."""
    return Problem(status, _REFUSED[status], reason, retry_after() if status == 503 else b"")


def of(error: LogqueueError) -> Problem:
    """The problem for what the queues raised.  Paths stay in the daemon's log."""
    match error:
        case NoSuchQueue():
            return Problem(404, "no-such-queue", str(error))
        case OptionConflict():
            return Problem(409, error.code, str(error))
        case BadOption():
            return Problem(400, "bad-option", str(error))
        case LimitExceeded():
            return _limit(error)
        case DiskFull():
            detail = "the disk has no room above its reserve; consume messages or free disk space"
            return Problem(507, "disk-full", detail, retry_after())
        case NotWritable():
            detail = "the daemon may not write to its data directory; its log says where"
            return Problem(507, "not-writable", detail)
        case Corrupt():
            detail = (
                "the queue is damaged and has stopped; the daemon's log names the place, "
                "logqueue-fsck examines it"
            )
            return Problem(500, "queue-damaged", detail)
    return Problem(500, "internal", "the daemon's log has the details")


def _limit(error: LimitExceeded) -> Problem:
    for beginning, (status, code) in _LIMITS.items():
        if error.limit.startswith(beginning):
            lines = b"" if status == 507 else retry_after()
            return Problem(status, code, str(error), lines)
    return Problem(413, "too-large", str(error))
