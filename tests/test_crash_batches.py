"""Batches through chains of crashes, and the proof that the proof can fail."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from logqueue.storage.acks import AckLog
from logqueue.storage.queue import Queue
from tests.crashbatches import chain


def test_batches_survive_chains_of_crashes() -> None:
    for seed in range(100):
        try:
            chain(seed)
        except Exception as error:
            error.add_note(f"reproduce with: tests.crashbatches.chain({seed})")
            raise


def test_the_chains_catch_an_acknowledgement_log_that_is_not_synced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AckLog, "begin_sync", lambda self: None)
    with pytest.raises(AssertionError, match="acknowledged, and back again"):
        test_batches_survive_chains_of_crashes()


def test_the_chains_catch_a_batch_without_its_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(self: Queue, payloads: Sequence[bytes]) -> int:
        first = self.log.last + 1
        for payload in payloads:
            self.put(payload)
        return first

    monkeypatch.setattr(Queue, "put_batch", one_by_one)
    with pytest.raises(AssertionError, match="in the middle of a batch"):
        test_batches_survive_chains_of_crashes()
