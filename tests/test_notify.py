"""What systemd is told, received by a real socket."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from tests.daemon import START_S, Daemon


def test_systemd_hears_ready_then_watchdogs_then_stopping(tmp_path: Path) -> None:
    place = tmp_path / "notify"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        Daemon(tmp_path, environment={"NOTIFY_SOCKET": str(place)}) as daemon,
    ):
        systemd.bind(str(place))
        systemd.settimeout(START_S)
        daemon.start()
        heard = [systemd.recv(100) for _ in range(3)]
        assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        daemon.send(signal.SIGTERM)
        while (state := systemd.recv(100)) == b"WATCHDOG=1":
            pass
        assert state == b"STOPPING=1"
        assert daemon.wait() == 0


def test_a_supervisor_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path, environment={"NOTIFY_SOCKET": str(tmp_path / "gone")}) as daemon:
        daemon.start()
        assert daemon.ask("name=q&opt=put&data=x") == b"HTTPSQS_PUT_OK"
        assert daemon.stop() == 0
