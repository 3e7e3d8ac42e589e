"""docs/client.md and docs/cli.md against a real daemon: their examples run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from logqueue import Client
from logqueue.cli.status import TEXTS
from tests.daemon import START_S, Daemon, running

DOCS = Path(__file__).parent.parent / "docs"
CLIENT = (DOCS / "client.md").read_text(encoding="utf-8")
CLI = (DOCS / "cli.md").read_text(encoding="utf-8")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as started:
        yield started


def environment(daemon: Daemon) -> dict[str, str]:
    """Where the examples find the commands and the server."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "LOGQUEUE_URL": f"http://127.0.0.1:{daemon.port}"}


# ------------------------------------------------------------------ the command line


def examples() -> Iterator[tuple[str, str]]:
    """(what is typed after the prompt, what is shown under it), from top to bottom."""
    for block in re.findall(r"^```\n(\$ .*?)^```", CLI, re.MULTILINE | re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            typed, _, shown = example.partition("\n")
            yield typed, shown


@pytest.mark.skipif(not shutil.which("jq"), reason="needs jq")
def test_the_examples_of_the_command_line(daemon: Daemon, tmp_path: Path) -> None:
    """One shell for all: files live on."""
    found = list(examples())
    assert len(found) > 15
    script = "exec 2>&1\n" + "".join(f"{typed}\nprintf '\\036'\n" for typed, _ in found)
    shell = subprocess.run(
        ["bash", "-eu"],
        input=script,
        cwd=tmp_path,
        env=environment(daemon),
        capture_output=True,
        text=True,
        timeout=2 * START_S,
        check=False,
    )
    shown = shell.stdout.split("\036")
    for (typed, expected), output in zip(found, shown, strict=False):
        # On a terminal a message is shown as a line.
        assert output.removesuffix("\n") == expected.removesuffix("\n"), typed
    assert (len(shown), shown[-1], shell.returncode) == (len(found) + 1, "", 0)


def test_the_table_of_exit_statuses_is_the_code_s() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", CLI, re.MULTILINE))
    assert {number: text.replace("`", "") for number, text in rows.items()} == {
        str(int(status)): text for status, text in TEXTS.items()
    }


# ------------------------------------------------------------------ programs


def programs() -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```", CLIENT, re.MULTILINE | re.DOTALL)
    assert len(found) == 4
    return found


def done(process: subprocess.Popen[str]) -> int:
    """Its exit status."""
    process.communicate(timeout=START_S)
    return process.returncode


def run(program: str, daemon: Daemon) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(daemon),
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_producer_and_its_workers(daemon: Daemon) -> None:
    producer, worker, options, _ = programs()
    assert done(run(options, daemon)) == 0
    sign_up = producer + "\nfor number in range(20):\n    sign_up(f'{number}@example.org')\n"
    work = "def send_mail(address): print(address, flush=True)\n\n" + worker
    workers = [run(work, daemon) for _ in range(2)]
    assert done(run(sign_up, daemon)) == 0
    with Client(f"http://127.0.0.1:{daemon.port}") as client:
        while client.describe("welcome-mail").consumed < 20:
            pass
        assert client.describe("welcome-mail").options["dead_letter"] == "welcome-mail-dead"
    mails = []
    for each in workers:
        each.terminate()
        mails += each.communicate(timeout=START_S)[0].split()
    assert sorted(mails) == sorted(f"{number}@example.org" for number in range(20))


def test_workers_in_trio(daemon: Daemon) -> None:
    *_, program = programs()
    with Client(f"http://127.0.0.1:{daemon.port}") as client:
        client.put_many("thumbnails", [b"%d" % number for number in range(30)])
        program = (
            "async def make_thumbnail(image): print(image.decode(), flush=True)\n\n" + program
        ).replace("idle_s=5", "idle_s=0")
        worker = run(program, daemon)
        made = worker.communicate(timeout=START_S)[0].split()
        assert worker.returncode == 0
        assert sorted(map(int, made)) == list(range(30))
        assert client.describe("thumbnails").consumed == 30
