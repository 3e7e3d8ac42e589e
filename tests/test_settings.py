"""The configuration file and the environment: every key, who wins, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from logqueue.address import Address
from logqueue.arguments import parse
from logqueue.daemon import main
from logqueue.errors import UsageError


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('data = "from file"\nport = 1\ntimeout = 1.5\nlisten = "::1"\ndaemon = true\n')
    environment = {"LOGQUEUE_PORT": "2", "LOGQUEUE_TIMEOUT": "2", "PATH": "/bin"}
    config = parse(["--config", str(file), "-p", "3"], environment)
    assert (config.data_directory, config.addresses) == ("from file", (Address("::1"),))
    assert config.detach
    assert (config.timeout_idle_s, config.port) == (2, 3)


def test_the_environment_alone_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("sync-interval = 2\nmax-queues = 7\n")
    config = parse([], {"LOGQUEUE_DATA": "-d", "LOGQUEUE_CONFIG": str(file)})
    assert (config.data_directory, config.durability, config.queues_max) == ("-d", "interval", 7)


def test_a_list_of_addresses_comes_from_one_source(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('data = "d"\nlisten = ["a:1", "unix:/s"]\n')
    given = ["--config", str(file)]
    assert parse(given).addresses == (Address("a", 1), Address(path="/s"))
    environment = {"LOGQUEUE_LISTEN": "b,http://c:2"}
    assert parse(given, environment).addresses == (Address("b"), Address("c", 2, plain=True))
    assert parse([*given, "-l", "d", "-l", "e"], environment).addresses == (
        Address("d"),
        Address("e"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "f.toml: there is no setting 'prot'"),
        ("config = 'x'", "there is no setting 'config'"),
        ("check-config = true", "there is no setting 'check-config'"),
        ("port = true", "f.toml: port must be a text or a number"),
        ("port = [1]", "f.toml: port must be a text or a number"),
        ("listen = [1]", "f.toml: listen must be a text or a number"),
        ("daemon = 1", "f.toml: daemon must be true or false"),
        ("port = 65536", "-p/--port: '65536' is not a number from 0 to 65535"),
        ("port 1", "f.toml: Expected '='"),
        (r'auth-file = "a\u0000b"', "f.toml: auth-file holds a NUL"),
    ],
)
def test_bad_files_name_the_key(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(["-x", "d", "--config", str(file)])


def test_bad_sources_are_named() -> None:
    with pytest.raises(UsageError, match="LOGQUEUE_PROT: there is no such setting"):
        parse(["-x", "d"], {"LOGQUEUE_PROT": "1"})
    with pytest.raises(UsageError, match="LOGQUEUE_DAEMON must be true or false"):
        parse(["-x", "d"], {"LOGQUEUE_DAEMON": "1"})
    with pytest.raises(UsageError, match="/nowhere/f: No such file"):
        parse(["-x", "d", "--config", "/nowhere/f"])


def test_check_config_starts_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    assert main(["-x", str(data), "--check-config"]) == 0
    assert main(["-x", str(data), "--check-config", "-p", "x"]) == 1
    assert "-p/--port" in capfd.readouterr().err
    assert not data.exists()
