"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon import Daemon, running


@pytest.fixture(scope="module", params=["fast path", "h11 alone"])
def fast_path(request: pytest.FixtureRequest) -> bool:
    """Runs what uses it twice: as it is, and with h11 judging every head."""
    return bool(request.param == "fast path")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, fast_path: bool) -> Iterator[Daemon]:
    """One daemon for a test module; tests keep to queues of their own names."""
    with running(tmp_path_factory.mktemp("daemon"), fast_path=fast_path) as started:
        yield started
