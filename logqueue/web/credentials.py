"""The password of a request, and patience with those who guess it.

The password comes as `auth=` in the query, or in the Authorization header (RFC 7617 Basic with any
user name, RFC 6750 Bearer), which stays out of the access logs of proxies.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from collections import OrderedDict

CLIENTS_MAX = 1024  # addresses whose failures are remembered; the one that failed longest ago goes
FAILURES_FREE = 10  # answered at once: a deployment with the old password is no attack
DELAY_FIRST_S = 0.1  # then each failure is answered later, twice as late as the one before,
DELAY_MAX_S = 5.0  # up to this
FORGIVEN_S = 60.0  # without a failure

_log = logging.getLogger("logqueue.web")


def password_in(authorization: bytes) -> bytes | None:
    """The password in the value of an Authorization header; None when there is none."""
    scheme, _, rest = authorization.partition(b" ")
    rest = rest.strip(b" \t")
    if scheme.lower() == b"bearer":
        return rest
    if scheme.lower() == b"basic":
        try:
            _, colon, password = base64.b64decode(rest, validate=True).partition(b":")
        except binascii.Error:
            return None
        return password if colon else None
    return None


def same(given: bytes | None, password: bytes) -> bool:
    """Whether it is the password, in a time that tells nothing but its length."""
    return given is not None and hmac.compare_digest(given, password)


class Patience:
    """Failed attempts by address.  Only failures wait: who has the password is never kept waiting,
    not even behind the same proxy as somebody who guesses."""

    def __init__(self) -> None:
        self.failures = 0  # of all addresses, ever
        self._clients: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, client: str, now: float) -> float:
        """Note one failure; the seconds that its answer must wait.  `now` is in seconds."""
        self.failures += 1
        count, last = self._clients.pop(client, (0, now))
        count = 1 if now - last >= FORGIVEN_S else count + 1
        self._clients[client] = (count, now)
        if len(self._clients) > CLIENTS_MAX:
            self._clients.popitem(last=False)
        if count & (count - 1) == 0:  # at 1, 2, 4, 8 ...: a flood is a few lines
            _log.warning("wrong or no password from %.64r, %d in a row", client, count)
        if count <= FAILURES_FREE:
            return 0.0
        return min(DELAY_MAX_S, DELAY_FIRST_S * 2.0 ** min(count - FAILURES_FREE - 1, 16))
