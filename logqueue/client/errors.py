"""What can go wrong for a client.  Each says whether the request may have been carried out."""

from __future__ import annotations

from collections.abc import Sequence

from logqueue.errors import LogqueueError


class ClientError(LogqueueError):
    """Base of what a client raises for the world's faults; wrong arguments are ValueError."""


class Unreachable(ClientError):
    """No connection to the server.  Nothing was carried out."""


class InDoubt(ClientError):
    """The connection broke, or time was up, before the answer came: nobody knows whether the
    request was carried out.  A put may be stored; a message that was being received without a
    lease may be lost."""


class Refused(ClientError):
    """The server said no; nothing was carried out.

    `status` is HTTP's, `code` stable and listed in docs/api.md, `detail` for people;
    `retry_after_s` when the server names a time after which it may say yes.
    """

    def __init__(self, status: int, code: str, detail: str, retry_after_s: float | None) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        super().__init__(f"{code}: {detail}")


class LeaseLost(ClientError):
    """What was to be acknowledged is not leased any more: `expired` (others will see the messages
    again, or have seen them) or `unknown` (never leased).  All others were acknowledged."""

    def __init__(self, expired: Sequence[str], unknown: Sequence[str]) -> None:
        self.expired = tuple(expired)
        self.unknown = tuple(unknown)
        super().__init__(
            f"not acknowledged: {len(expired)} leases that have ended, {len(unknown)} that never "
            "were; use a longer lease, or extend it while the work lasts"
        )


class BadAnswer(ClientError):
    """Whatever answered does not speak logqueue's v1 API: an HTTPSQS, a proxy, something else."""
