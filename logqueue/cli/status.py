"""What the exit status of `logqueue` says, so that a script can tell what to do next.  PURE."""

from __future__ import annotations

from enum import IntEnum

from logqueue.client.errors import InDoubt, LeaseLost, Refused, Unreachable
from logqueue.errors import UsageError

LATER = frozenset((429, 503, 507))  # HTTP's: the server would have, but cannot now


class Status(IntEnum):
    """The exit status; docs/cli.md has the table."""

    DONE = 0
    FAILED = 1
    USAGE = 2  # argparse's too
    NOTHING = 3
    LATER = 4
    DOUBT = 5
    PARTLY = 6
    INTERRUPTED = 130  # as a shell says it of SIGINT
    PIPE = 141  # and of SIGPIPE
    TERMINATED = 143  # and of SIGTERM


TEXTS = {
    Status.DONE: "done",
    Status.FAILED: "failed; nothing was done, or what the message says",
    Status.USAGE: "the command line, the URL or the environment is not usable; nothing was done",
    Status.NOTHING: "get: there was no message, and none came in time",
    Status.LATER: "not now: the server cannot be reached, is overloaded, or the queue or the disk "
    "is full; nothing was done, the same command may work later",
    Status.DOUBT: "the connection broke before the answer: nobody knows whether it was done",
    Status.PARTLY: "done, but not all is well: a lease was lost, a program failed and its message "
    "was given back, a damaged queue was copied as it is",
}


def status_of(error: Exception) -> Status:
    """The exit status that an error ends with."""
    if isinstance(error, UsageError):
        return Status.USAGE
    if isinstance(error, Unreachable) or (isinstance(error, Refused) and error.status in LATER):
        return Status.LATER
    if isinstance(error, InDoubt):
        return Status.DOUBT
    return Status.PARTLY if isinstance(error, LeaseLost) else Status.FAILED
