"""What an operator asks the daemon over HTTP, beside the queue operations.

HTTPSQS ignored the path, and any request with a `name` is a queue operation still.  So a page is
what names no queue and asks for exactly one of these paths, or for `opt=queues`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from logqueue.web.message import Response
from logqueue.web.query import Parameters, decode, number

LISTED_MAX = 1000  # queues in one answer
LISTED = 100  # when the request does not say

Page = Callable[[], Awaitable[Response]]


def page(status: int, content_type: bytes, body: bytes) -> Response:
    """An answer that HTTPSQS did not have."""
    return Response(body, None, content_type, None, status, is_legacy=False)


class Pages(NamedTuple):
    """Paths to pages.  The `open` ones need no password: load balancers have none."""

    open: Mapping[bytes, Page]
    protected: Mapping[bytes, Page]
    list_queues: Callable[[bytes | None, int], Awaitable[bytes]]  # (after, limit): JSON

    async def find(self, target: bytes, given: Parameters, authorised: bool) -> Response | None:
        """The page that a request asks for; None when it asks for none, or must not see it."""
        if b"name" in given:
            return None
        path = target.partition(b"#")[0].partition(b"?")[0]
        wanted = self.open.get(path) or (self.protected.get(path) if authorised else None)
        if wanted is not None:
            return await wanted()
        if not authorised or decode(given.get(b"opt", b"")) != b"queues":
            return None
        after = decode(given[b"after"]) if b"after" in given else None
        limit = number(given, b"limit") if b"limit" in given else LISTED
        if not 1 <= limit <= LISTED_MAX:
            body = b'{"error":"limit is not a number from 1 to %d"}\n' % LISTED_MAX
            return page(400, b"application/json", body)
        return page(200, b"application/json", await self.list_queues(after, limit))
