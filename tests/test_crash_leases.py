"""What is leased through chains of crashes, and the proof that the proof can fail."""

from __future__ import annotations

import pytest

from logqueue.storage.acks import AckLog
from logqueue.storage.disk import Extent
from tests import crashleases

CUTS = 300
CUTS_TO_CATCH = 1500


@pytest.mark.parametrize("seed", [1, 3, 4, 12])
def test_leases_keep_every_promise_through_crashes(seed: int) -> None:
    crashleases.chain(seed, CUTS)


class _NoSync(AckLog):
    def begin_sync(self) -> Extent | None:
        self._durable = self._last  # a lie
        return None


def test_the_proof_fails_without_the_sync_of_the_acknowledgements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AckLog, "begin_sync", _NoSync.begin_sync)
    with pytest.raises(AssertionError):
        crashleases.chain(1, CUTS_TO_CATCH)
