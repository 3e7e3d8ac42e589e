"""A disk without room: puts are refused, everything else goes on, and it recovers by itself."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon, eventually, running
from tools.loopdisk import LoopDisk, missing

needs_mounts = pytest.mark.skipif(missing() != "", reason=missing())


@contextlib.contextmanager
def tmpfs(point: Path, size: int) -> Iterator[None]:
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


@pytest.fixture(params=["ext4", "tmpfs"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A data directory with room for a few megabytes."""
    point = tmp_path / "data"
    if request.param == "tmpfs":
        with tmpfs(point, 8 << 20):
            yield point
    else:
        with LoopDisk(tmp_path / "disk", point, 16 << 20):
            yield point


def payload(n: int) -> bytes:
    return b"%06d" % n + random.Random(n).randbytes(50_000)


def fill_up(daemon: Daemon, first: int) -> int:
    """Put until it is refused; the number of the first message that was."""
    n = first
    while (answer := daemon.ask("name=q&opt=put", payload(n))) == b"HTTPSQS_PUT_OK":
        n += 1
    assert answer == b"HTTPSQS_PUT_ERROR"
    return n


def take_the_rest(directory: Path) -> None:
    """Leave not a single free block."""
    with contextlib.suppress(OSError), (directory / "ballast").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@needs_mounts
def test_a_full_disk_refuses_puts_and_recovers_by_itself(tmp_path: Path, small_disk: Path) -> None:
    with Daemon(tmp_path, ["--reserve-bytes", "0", "--segment-bytes", "262144"]) as daemon:
        daemon.start()
        assert daemon.ask("name=other&opt=put", b"small") == b"HTTPSQS_PUT_OK"
        end = fill_up(daemon, 0)
        assert end > 50
        take_the_rest(small_disk)
        assert os.statvfs(small_disk).f_bavail == 0
        assert daemon.says("consume messages or free disk space")
        # With nothing free at all: gets, a crash, a start, a clean stop, another start.
        for n in range(10):
            assert daemon.ask("name=q&opt=get") == payload(n)
        daemon.stop(signal.SIGKILL)
        daemon.start()
        for n in range(10, 20):
            assert daemon.ask("name=q&opt=get") == payload(n)
        assert daemon.stop() == 0
        daemon.start()
        for n in range(20, 40):
            assert daemon.ask("name=q&opt=get") == payload(n)
        assert daemon.ask("name=other&opt=get") == b"small"
        eventually(
            daemon, "name=q&opt=put", b"HTTPSQS_PUT_OK", payload(end)
        )  # the compactor has freed what was consumed
        for n in range(40, end + 1):
            assert daemon.ask("name=q&opt=get") == payload(n)
        assert daemon.ask("name=q&opt=get") == b"HTTPSQS_GET_END"
        assert "Traceback" not in daemon.log
        assert daemon.stop() == 0


@needs_mounts
def test_reset_gives_a_full_disk_back(tmp_path: Path, small_disk: Path) -> None:
    with Daemon(tmp_path, ["--reserve-bytes", "0", "--segment-bytes", "262144"]) as daemon:
        daemon.start()
        end = fill_up(daemon, 0)
        take_the_rest(small_disk)
        assert daemon.ask("name=q&opt=reset") == b"HTTPSQS_RESET_OK"
        eventually(daemon, "name=q&opt=put", b"HTTPSQS_PUT_OK", payload(end))
        assert daemon.ask("name=q&opt=get") == payload(end)
        assert daemon.stop() == 0


@needs_mounts
def test_the_reserve_is_kept(tmp_path: Path) -> None:
    with (
        LoopDisk(tmp_path / "disk", tmp_path / "data", 32 << 20) as disk,
        running(tmp_path, ["--segment-bytes", "262144"]) as daemon,
    ):
        fill_up(daemon, 0)  # but for the default reserve of 16 MiB
        found = os.statvfs(disk.point)
        assert 16 << 20 <= found.f_bavail * found.f_frsize < 17 << 20
