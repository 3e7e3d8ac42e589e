"""SIGHUP on a real daemon: what changes, what waits for a restart, what is not usable."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from logqueue.arguments import option_names
from logqueue.config import Config
from logqueue.reload import LIVE
from tests.daemon import START_S, Daemon, running
from tests.test_tls import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "tls").mkdir()
    return Files(tmp_path / "tls")


def reload(daemon: Daemon, line: str) -> None:
    """Send SIGHUP and wait for a new line in the log."""
    before = daemon.log.count(line)
    daemon.send(signal.SIGHUP)
    assert daemon.says(line, before + 1), daemon.log


def serial(daemon: Daemon, files: Files) -> int:
    """The serial number of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", daemon.port), START_S) as plain,
        files.client().wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        shown = client.getpeercert()
        assert shown
        return int(str(shown["serialNumber"]), 16)


def test_every_setting_that_is_live_is_one() -> None:
    assert {field.name for field in fields(Config)} >= LIVE
    assert set(option_names()) >= {field.name for field in fields(Config)}


def test_a_new_password(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("old\n")
    with running(tmp_path, ["--auth-file", str(secret)]) as daemon:
        with daemon.connect() as kept:
            repeated = b"GET /?name=r&opt=put&auth=old&data=m HTTP/1.1\r\n\r\n"
            kept.sendall(repeated)
            assert kept.recv(1000).endswith(b"HTTPSQS_PUT_OK")
            secret.write_text("n\xe9w\n", encoding="latin-1")
            reload(daemon, "SIGHUP: changed the password\n")
            for _ in range(3):
                kept.sendall(repeated)
                assert kept.recv(1000).endswith(b"HTTPSQS_AUTH_FAILED")
            for password, answer in (("old", b"HTTPSQS_AUTH_FAILED"), ("n%E9w", b"_GET_END")):
                assert daemon.ask(f"name=q&opt=get&auth={password}").endswith(answer)
                kept.sendall(b"GET /?name=q&opt=get&auth=%b HTTP/1.1\r\n\r\n" % password.encode())
                assert kept.recv(1000).endswith(answer)
        assert b" 401 " in daemon.talk(b"GET /v1/queues HTTP/1.0\r\n\r\n")
        assert "old\n" not in daemon.log
        secret.write_text("")  # it is just being written
        reload(daemon, f"the old settings stay in force: --auth-file {secret}: its first line")
        assert daemon.ask("name=q&opt=get&auth=") == b"HTTPSQS_AUTH_FAILED"
        secret.unlink()
        reload(daemon, f"the old settings stay in force: --auth-file {secret}: No")
        assert daemon.ask("name=q&opt=get&auth=n%E9w") == b"HTTPSQS_GET_END"


def test_a_new_certificate(tmp_path: Path, files: Files) -> None:
    with running(tmp_path, files.arguments) as daemon:
        before = serial(daemon, files)
        with (
            socket.create_connection(("127.0.0.1", daemon.port), START_S) as plain,
            files.client().wrap_socket(plain, server_hostname="127.0.0.1") as kept,
        ):
            files.issue()
            assert serial(daemon, files) == before, "not before SIGHUP"
            reload(daemon, "SIGHUP: no setting has changed; the certificate was read again\n")
            after = serial(daemon, files)
            assert after != before
            kept.sendall(b"GET /?name=q&opt=get HTTP/1.1\r\n\r\n")
            assert kept.recv(1000).endswith(b"HTTPSQS_GET_END"), "it keeps its session"
        files.certificate.write_text("rubbish")
        reload(daemon, "nothing was reloaded, the old settings stay in force: --tls-cert")
        assert serial(daemon, files) == after


def test_the_file_of_settings(tmp_path: Path) -> None:
    settings = tmp_path / "logqueue.toml"
    settings.write_text("timeout = 60\nauth = 'one'\n")
    with running(tmp_path, ["--config", str(settings)]) as daemon:
        settings.write_text("timeout = 0.2\nauth = 'two'\nsegment-bytes = 65536\ndaemon = true\n")
        reload(
            daemon,
            "SIGHUP: changed --body-timeout, --head-timeout, --timeout, --write-timeout, "
            "the password; "
            "--daemon, --segment-bytes will change at the next start\n",
        )
        with daemon.connect() as client:
            assert client.recv(1) == b""
        for broken in ("timeout = 'x'\nauth = 'three'\n", "auth = 'three", "prot = 1"):
            settings.write_text(broken)
            complaint = f"--config {settings}"
            if "timeout" in broken:
                complaint = "argument -t/--timeout: 'x' is not a number"
            reload(daemon, f"reloaded, the old settings stay in force: {complaint}")
            assert daemon.ask("name=q&opt=get&auth=two") == b"HTTPSQS_GET_END"
        settings.write_text("timeout = 60\nauth = 'two'\nsegment-bytes = 65536\ndaemon = true\n")
        reload(daemon, "--timeout, --write-timeout; --daemon, --segment-bytes will change")


def test_the_access_log_is_switched_on_and_off(tmp_path: Path) -> None:
    settings = tmp_path / "logqueue.toml"
    settings.write_text("")
    with running(tmp_path, ["--config", str(settings)]) as daemon, daemon.connect() as kept:
        for number, switch in enumerate(("false", "true", "false")):
            settings.write_text(f"access-log = {switch}\nauth = 'password {number}'\n")
            reload(daemon, "changed the password\n" if number == 0 else "changed --access-log")
            kept.sendall(b"GET /?name=during-%b&opt=get HTTP/1.1\r\n\r\n" % switch.encode())
            assert kept.recv(1000).endswith(b"HTTPSQS_AUTH_FAILED")
        assert daemon.says("name=during-true")
        assert daemon.stop() == 0
        assert "name=during-false" not in daemon.log


def test_tls_is_not_switched_on_by_a_reload(tmp_path: Path, files: Files) -> None:
    settings = tmp_path / "logqueue.toml"
    settings.write_text("")
    with running(tmp_path, ["--config", str(settings)]) as daemon:
        settings.write_text(f"tls-cert = '{files.certificate}'\ntls-key = '{files.key}'\n")
        reload(daemon, "no setting has changed; --tls-cert, --tls-key will change at the next")
        assert daemon.ask("name=q&opt=get") == b"HTTPSQS_GET_END"


def test_the_directory_of_the_start_has_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with Daemon(tmp_path, prefix=["env", "-C", str(gone)]) as daemon:
        daemon.start()
        gone.rmdir()
        reload(daemon, f"the old settings stay in force: {gone}, where relative paths begin: No")
        assert daemon.ask("name=q&opt=get") == b"HTTPSQS_GET_END"


def test_hang_ups_do_not_count_as_a_second_signal(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.connect() as half, daemon.connect() as idle:
        half.sendall(b"POST /?name=q&opt=put HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
        assert daemon.ask("name=q&opt=get") == b"HTTPSQS_GET_END"
        daemon.send(signal.SIGTERM)
        assert idle.recv(1) == b""
        daemon.send(signal.SIGHUP)
        assert daemon.says("SIGHUP: no setting has changed")
        half.sendall(b"x")
        assert half.recv(1000).endswith(b"HTTPSQS_PUT_OK")
        assert daemon.wait() == 0


def test_a_detached_daemon_finds_its_files(tmp_path: Path) -> None:
    """It has left the directory at which their paths begin."""
    (tmp_path / "secret").write_text("one")
    (tmp_path / "settings").write_text("auth-file = 'secret'\ndata = 'data'\n")
    arguments = ["-d", "--config", "settings", "-i", "pid", "-l", "unix:s"]
    launch = [sys.executable, "-m", "logqueue", *arguments]
    subprocess.run(launch, cwd=tmp_path, timeout=START_S, check=True, capture_output=True)
    pid = int((tmp_path / "pid").read_text())
    try:
        (tmp_path / "secret").write_text("two")
        os.kill(pid, signal.SIGHUP)
        place = os.path.relpath(tmp_path / "s")  # short enough
        answer = b""
        while b"HTTPSQS_GET_END" not in answer:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(START_S)
                client.connect(place)
                client.sendall(b"GET /?name=q&opt=get&auth=two HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(1000), b""))
    finally:
        with open(os.pidfd_open(pid)) as ended:
            os.kill(pid, signal.SIGTERM)
            assert select.select([ended], [], [], START_S)[0]
