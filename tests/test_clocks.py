"""The real daemon under a clock that jumps by years, either way: order, sequences and leases do not
follow it.  Needs libfaketime (Debian: libfaketime)."""

from __future__ import annotations

import glob
import http.client
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.daemon import Daemon

LIBRARY = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), "")
JUMPS = {  # and how the daemon ends after it; 12 years ahead is past 2038
    "+10y": signal.SIGTERM,
    "-25y": signal.SIGKILL,
    "+12y": signal.SIGKILL,
    "-2d": signal.SIGTERM,
}
LEASE_S = 1.0

pytestmark = pytest.mark.skipif(not LIBRARY, reason="needs libfaketime")


class Clock:
    """The wall clock of one daemon; its monotonic clock is the machine's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.jump("+0")

    def jump(self, to: str) -> None:
        """Set it off from the machine's by so much."""
        passing = self._path.with_suffix(".tmp")
        passing.write_text(f"{to}\n")
        os.rename(passing, self._path)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


def ask(daemon: Daemon, target: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """POST to the v1 API: status, headers, body."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    try:
        connection.request("POST", f"/v1/queues/q/messages{target}", body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def put(daemon: Daemon, number: int) -> dict[str, int]:
    status, _, body = ask(daemon, "", b"%d" % number)
    assert status == 201, body
    found: dict[str, int] = json.loads(body)
    return found


def test_jumps_change_neither_order_nor_sequence(tmp_path: Path) -> None:
    clock, numbers = Clock(tmp_path / "clock"), iter(range(1, 1000))
    with Daemon(tmp_path, environment=clock.environment()) as daemon:
        daemon.start()
        years, sequences = set(), []
        for jump, how in JUMPS.items():
            clock.jump(jump)
            for _ in range(3):
                sequences.append(put(daemon, next(numbers))["sequence"])
            daemon.stop(how)  # the next jump meets a running daemon, this one a start
            daemon.start()
            for _ in range(2):
                sequences.append(put(daemon, next(numbers))["sequence"])
        assert sequences == list(range(1, len(sequences) + 1))
        for number in sequences:
            status, headers, body = ask(daemon, "/receive?lease=0")
            assert (status, body) == (200, b"%d" % number)
            years.add(time.gmtime(int(headers["Queue-Time"]) / 1000).tm_year)
        assert len(years) >= 4  # the clock did jump
        assert daemon.stop() == 0
        assert "ERROR" not in daemon.log


def test_a_lease_lasts_as_long_as_it_was_asked_for(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    with Daemon(tmp_path, environment=clock.environment()) as daemon:
        daemon.start()
        put(daemon, 1)
        assert ask(daemon, f"/receive?lease={LEASE_S}s")[0] == 200
        asked = time.monotonic()
        clock.jump("+10y")
        early = ask(daemon, "/receive?lease=0")[0]
        if time.monotonic() - asked < LEASE_S:  # else the machine is too busy to tell
            assert early == 204
        clock.jump("-25y")
        status, headers, body = ask(daemon, "/receive?lease=30s&wait=10s")
        assert (status, body, headers["Queue-Attempts"]) == (200, b"1", "2")
        assert time.monotonic() - asked < 10
        assert daemon.stop() == 0
