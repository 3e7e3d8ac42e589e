"""The token of a lease: what a client shows to acknowledge, extend or release.  Pure.

epoch, sequence, attempt and a MAC over them, base64url: 40 characters.  The key is the queue's id,
16 random bytes that never leave the data directory; the epoch is a digest of it, so that the token
of a queue that was deleted and created again can be told from one that was made up.
"""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Iterable
from enum import Enum
from hashlib import blake2b
from struct import Struct

from logqueue.storage.leases import Leases

_NAMED = Struct("<IQI")  # epoch, sequence, attempt
_MAC_BYTES = 14
TOKEN_CHARACTERS = 40
assert (_NAMED.size + _MAC_BYTES) * 4 == TOKEN_CHARACTERS * 3

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLAIN = bytes.maketrans(b"-_", b"+/")

_LEASE = Struct("<16sQI")  # queue id, sequence, attempt
REMEMBERED_MIN = 10_000  # acknowledgements that may be repeated without an error, of all queues
_NO_LEASE = (0, 0)


class Outcome(Enum):
    """What became of one lease token."""

    DONE = "done"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


class OtherEpoch(Exception):
    """The token is of a queue that had this name before."""


class Acknowledged:
    """The latest acknowledged leases of a store: at least REMEMBERED_MIN, at most twice as many.

    One memory for all queues, because it must not grow with their number: a lease costs some 100
    bytes.  The older generation is forgotten as a whole.
    """

    def __init__(self) -> None:
        self._newer: set[bytes] = set()
        self._older: set[bytes] = set()

    def add(self, leases: Iterable[bytes]) -> None:
        """These were acknowledged."""
        self._newer.update(leases)
        if len(self._newer) >= REMEMBERED_MIN:
            self._older, self._newer = self._newer, set()

    def __contains__(self, lease: bytes) -> bool:
        return lease in self._newer or lease in self._older


class Tokens:
    """Makes and reads the tokens of one queue, and knows the latest acknowledged ones."""

    def __init__(self, queue_id: bytes, acknowledged: Acknowledged | None = None) -> None:
        self._queue_id = queue_id
        self._keyed = blake2b(digest_size=_MAC_BYTES, key=queue_id)  # a copy costs less than a key
        self._acknowledged = Acknowledged() if acknowledged is None else acknowledged
        self._epoch = int.from_bytes(blake2b(queue_id, digest_size=4).digest(), "little")

    def make(self, sequence: int, attempt: int) -> str:
        """The token of the lease (sequence, attempt)."""
        named = _NAMED.pack(self._epoch, sequence, attempt)
        encoded = binascii.b2a_base64(named + self._mac(named), newline=False)
        return encoded.translate(_URL_SAFE).decode()

    def read(self, token: str) -> tuple[int, int] | None:
        """(sequence, attempt), or None when no queue made this token.  Raises OtherEpoch."""
        if len(token) != TOKEN_CHARACTERS:
            return None
        try:
            data = binascii.a2b_base64(token.encode().translate(_PLAIN), strict_mode=True)
        except ValueError:  # binascii.Error is one
            return None
        if len(data) != _NAMED.size + _MAC_BYTES:
            return None
        named, mac = data[: _NAMED.size], data[_NAMED.size :]
        epoch, sequence, attempt = _NAMED.unpack(named)
        if epoch != self._epoch:
            raise OtherEpoch
        return (sequence, attempt) if hmac.compare_digest(mac, self._mac(named)) else None

    def judge(self, token: str, leases: Leases) -> tuple[tuple[int, int], Outcome]:
        """The lease that a token names, and DONE when it holds."""
        try:
            lease = self.read(token)
        except OtherEpoch:
            return _NO_LEASE, Outcome.EXPIRED
        if lease is None:
            return _NO_LEASE, Outcome.UNKNOWN
        return lease, Outcome.DONE if leases.holds(*lease) else Outcome.EXPIRED

    def remember(self, leases: Iterable[tuple[int, int]]) -> None:
        """These were acknowledged."""
        self._acknowledged.add([_LEASE.pack(self._queue_id, *lease) for lease in leases])

    def remembers(self, lease: tuple[int, int]) -> bool:
        """Whether the lease was acknowledged, as far back as memory goes."""
        return _LEASE.pack(self._queue_id, *lease) in self._acknowledged

    def _mac(self, named: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(named)
        return mac.digest()
