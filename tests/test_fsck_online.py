"""`logqueue-fsck --online` beside a daemon at work: no false findings, and the true ones."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.daemon import Daemon, running
from tests.fscktree import flip, fsck, kinds, segments
from tests.v1 import Client

SMALL = ["--segment-bytes", str(64 * 1024), "--durability", "os"]  # rolls all the time
CHECKS = 25


def test_a_daemon_at_work_has_no_findings(tmp_path: Path, capsys: Any) -> None:
    done = threading.Event()

    def work(daemon: Daemon, number: int) -> None:
        """Puts, gets, leases, resets; queues that come and go."""
        body, turn = b"x" * 3000, 0
        with Client(daemon.port) as v1:
            while not done.is_set():
                turn += 1
                daemon.ask(f"name=q{number}&opt=put", body)
                daemon.ask("name=all&opt=put", body)
                if turn % 3:
                    daemon.ask("name=all&opt=get")
                    daemon.ask(f"name=q{number}&opt=get")
                if turn % 20 == 0:
                    daemon.ask(f"name=q{number}&opt=reset")
                    v1.call("PUT", f"/queues/gone{number}")
                    v1.put(f"gone{number}", body)
                    v1.call("DELETE", f"/queues/gone{number}")
                v1.put("leased", body)
                v1.receive("leased", "max=2&lease=1s")

    with running(tmp_path, SMALL) as daemon:
        workers = [threading.Thread(target=work, args=(daemon, each)) for each in range(3)]
        for worker in workers:
            worker.start()
        try:
            for _ in range(CHECKS):
                status, rows = fsck(capsys, "--online", daemon.data)
                assert (status, kinds(rows)) == (0, set()), rows
                assert fsck(capsys, daemon.data)[0] == 8, "without --online the lock is respected"
                assert fsck(capsys, "--repair", "-y", daemon.data)[0] == 8
        finally:
            done.set()
            for worker in workers:
                worker.join()
        assert fsck(capsys, "--online", "--stat", daemon.data)[0] == 0


def test_damage_is_found_and_what_lies_behind_the_durable_mark_is_not_judged(
    tmp_path: Path, capsys: Any
) -> None:
    with running(tmp_path) as daemon:
        for number in range(50):
            daemon.ask("name=q&opt=put", b"%d" % number * 1000)
        first, *_, tail = segments(daemon.data, b"q")
        used = len(tail.read_bytes().rstrip(bytes(1)))
        with open(tail, "r+b") as file:  # as a store that is under way
            file.seek((used & -8) + 64)
            file.write(b"half a frame")
        status, rows = fsck(capsys, "--online", daemon.data)
        assert (status, kinds(rows)) == (0, set())
        flip(first, 4096 + 40)
        status, rows = fsck(capsys, "--online", daemon.data)
        assert (status, kinds(rows)) == (4, {"mid-damage"})
        assert rows[0]["first"] == rows[0]["last"] == 1
