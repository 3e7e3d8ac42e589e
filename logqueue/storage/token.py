"""The token of a lease: what a client shows to acknowledge, extend or release.  Pure.

epoch, sequence, attempt and a MAC over them, base64url: 40 characters.  The key is the queue's id,
16 random bytes that never leave the data directory; the epoch is a digest of it, so that the token
of a queue that was deleted and created again can be told from one that was made up.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from struct import Struct

_NAMED = Struct("<IQI")  # epoch, sequence, attempt
_MAC_BYTES = 14
TOKEN_CHARACTERS = 40
assert (_NAMED.size + _MAC_BYTES) * 4 == TOKEN_CHARACTERS * 3


class OtherEpoch(Exception):
    """The token is of a queue that had this name before."""


class Tokens:
    """Makes and reads the tokens of one queue."""

    def __init__(self, queue_id: bytes) -> None:
        self._key = queue_id
        self._epoch = int.from_bytes(blake2b(queue_id, digest_size=4).digest(), "little")

    def make(self, sequence: int, attempt: int) -> str:
        """The token of the lease (sequence, attempt)."""
        named = _NAMED.pack(self._epoch, sequence, attempt)
        return urlsafe_b64encode(named + self._mac(named)).decode()

    def read(self, token: str) -> tuple[int, int] | None:
        """(sequence, attempt), or None when no queue made this token.  Raises OtherEpoch."""
        if len(token) != TOKEN_CHARACTERS:
            return None
        try:
            data = urlsafe_b64decode(token)
        except (binascii.Error, ValueError):
            return None
        if len(data) != _NAMED.size + _MAC_BYTES:
            return None
        named, mac = data[: _NAMED.size], data[_NAMED.size :]
        epoch, sequence, attempt = _NAMED.unpack(named)
        if epoch != self._epoch:
            raise OtherEpoch
        return (sequence, attempt) if hmac.compare_digest(mac, self._mac(named)) else None

    def _mac(self, named: bytes) -> bytes:
        return blake2b(named, digest_size=_MAC_BYTES, key=self._key).digest()
