"""Everything that can be wrong with a start: one clear line each, and the remedy."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import assert_refused, running, start

NOBODY = 65534


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(
            [], r"-x/--data is missing or empty; give a directory", id="no_data_directory"
        ),
        pytest.param(["-x"], r"-x/--data: expected one argument", id="data_directory_missing"),
        pytest.param(
            ["-x", ""], "-x/--data is missing or empty; give a directory", id="data_directory_empty"
        ),
        pytest.param(["-x", "d", "--zzz"], "unrecognized arguments: --zzz; see", id="unknown_flag"),
        pytest.param(["-x", "d", "stray"], "unrecognized arguments: stray", id="stray_word"),
        pytest.param(["-x", "d", "-p", "65536"], "'65536' is not a number from 0 to", id="port"),
        pytest.param(["-x", "d", "-p", "http"], "'http' is not a number", id="port_no_number"),
        pytest.param(["-x", "d", "-s", "0"], "'0' is not a number from", id="sync_interval"),
        pytest.param(["-x", "d", "-t", "nan"], "'nan' is not a number from", id="timeout"),
        pytest.param(["-x", "d", "--durability", "x"], "choose from 'always'", id="durability"),
        pytest.param(["-x", "d", "--segment-bytes", "9"], "not a number from 65536", id="segments"),
        pytest.param(["-x", "d", "--auth-file", "absent"], "absent: No such file", id="auth_file"),
        pytest.param(
            ["-x", "d", "-l", "192.0.2.1"],
            r"cannot listen on 192\.0\.2\.1 port 1218: .*; choose another with -l and -p",
            id="foreign_address",
        ),
        pytest.param(
            ["-x", "d", "-p", "0", "-i", "absent/pid"],
            "-i absent/pid: No such file or directory; choose a path you may write",
            id="pid_file",
        ),
    ],
)
def test_a_command_line_that_cannot_be(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    assert_refused(start(*arguments, cwd=tmp_path), complaint)


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = start("-x", "d", "-p", str(port), cwd=tmp_path)
    assert_refused(outcome, rf"port {port}: Address already in use; choose another .*stop what")


def test_an_unknown_failpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGQUEUE_FAILPOINT", "somewhere")
    assert_refused(start("-x", "d", cwd=tmp_path), "LOGQUEUE_FAILPOINT=somewhere: .*unset it")


# ---------------------------------------------------------------- the data directory


def a_file(data: Path) -> None:
    data.write_text("not a directory")


def below_a_file(data: Path) -> None:
    data.parent.joinpath("file").write_text("")
    data.symlink_to("file/data")


def newer(data: Path) -> None:
    data.mkdir()
    (data / "FORMAT").write_text("logqueue data directory, format 7\n")


def foreign(data: Path) -> None:
    data.mkdir()
    (data / "FORMAT").write_text("something else\n")


def beheaded(data: Path) -> None:
    (data / "queues").mkdir(parents=True)


def queues_no_directory(data: Path) -> None:
    newer(data)
    (data / "FORMAT").write_text("logqueue data directory, format 1\n")
    (data / "queues").write_text("")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (a_file, "data': Not a directory; choose another with -x"),
        (below_a_file, "data': .*; choose another with -x"),
        (newer, "FORMAT: format version 7 is newer than the 1 .*start the newer logqueue"),
        (foreign, "FORMAT: offset 0: this is no FORMAT file .*logqueue-fsck"),
        (beheaded, "FORMAT: .*missing although there are queues .*logqueue-fsck"),
        (queues_no_directory, "queues: Not a directory; look at its owner and mode"),
    ],
)
def test_a_directory_that_cannot_be_served(
    tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    damage(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    assert_refused(start("-x", str(tmp_path / "data"), "-p", "0"), complaint)
    created = {each.name for each in set(tmp_path.rglob("*")) - set(before)}
    assert created <= {"LOCK"}


def test_a_directory_that_nobody_can_make() -> None:
    assert_refused(start("-x", "/proc/nope", "-p", "0"), "'/proc/nope': No such file or directory;")


def as_another_user() -> tuple[str, ...]:
    """A command that gives root's privileges up; nothing for who has none."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, to stop being root")
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


@pytest.fixture
def shared_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that another user reaches: pytest's own are private."""
    path = tmp_path_factory.mktemp("shared")
    opened = [each for each in (path, *path.parents) if each.stat().st_mode & 0o5 != 0o5]
    modes = [each.stat().st_mode for each in opened]
    for each in opened:
        each.chmod(0o755)
    yield path
    for each, mode in zip(opened, modes, strict=True):
        each.chmod(mode)


@pytest.mark.parametrize("existing", [False, True], ids=["to_be_made", "existing"])
def test_a_directory_that_is_not_ours(shared_path: Path, existing: bool) -> None:
    data = shared_path / "data"
    if existing:
        with running(shared_path):
            pass
        (data / "LOCK").chmod(0o400)
    if os.geteuid() != 0:
        shared_path.chmod(0o500)
    outcome = start("-x", str(data), "-p", "0", prefix=as_another_user(), cwd=Path("/"))
    assert_refused(outcome, r"data.*(not writable )?\(?Permission denied\)?; (give|choose)")


def test_a_directory_in_use(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        assert first.ask("name=q&opt=put", b"mine") == b"HTTPSQS_PUT_OK"
        outcome = start("-x", str(first.data), "-p", "0")
        assert_refused(outcome, rf"LOCK: in use by process {first.pid}; stop it first, or choose")
        assert first.ask("name=q&opt=get") == b"mine"
