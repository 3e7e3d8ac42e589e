"""The examples on docs/api.md run as they stand there, and its numbers are those of the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from logqueue.config import Config
from logqueue.options import DEFAULTS, LEASE_S_MAX, MAX_LENGTH_MAX
from logqueue.storage.delivery import LEASED_MAX
from logqueue.storage.token import REMEMBERED_MIN, TOKEN_CHARACTERS
from logqueue.web.httpsqs import WAIT_S_MAX
from logqueue.web.queues import BATCH_BYTES_MAX
from logqueue.web.v1.batches import CONTENT_TYPE_BYTES_MAX, LINE_BYTES_MAX, MESSAGES_MAX
from logqueue.web.v1.call import JSON_BYTES_MAX
from logqueue.web.v1.messages import LOOK, LOOK_MAX
from logqueue.web.v1.openapi import document
from logqueue.web.v1.queues import LISTED, LISTED_MAX
from tests.daemon import START_S, running

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
LIMITS = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.partition("## Limits")[2], re.M))
MIB = 1 << 20
MORE = re.compile(r", `(/[a-z]+)`")  # `POST /one/path`, `/another`


def examples() -> Iterator[tuple[str, str]]:
    """(what is typed after the prompt, what is shown under it), from top to bottom."""
    for block in re.findall(r"^```\n(\$ .*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = example.splitlines(keepends=True)
            typed = 1
            while lines[typed - 1].endswith(("|\n", "\\\n")):
                typed += 1
            yield "".join(lines[:typed]), "".join(lines[typed:])


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_the_examples(tmp_path: Path) -> None:
    """One shell for all: variables and files live on."""
    with running(tmp_path) as daemon:
        found = list(examples())
        script = "".join(f"{typed}printf '\\036'\n" for typed, _ in found)
        script = script.replace("127.0.0.1:1218", f"127.0.0.1:{daemon.port}")
        script = script.replace("curl ", "curl -sS ")
        done = subprocess.run(
            ["bash", "-eu"],
            input=script,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        assert done.stderr == ""
        shown = done.stdout.split("\036")
        assert shown.pop() == ""
        for (typed, expected), output in zip(found, shown, strict=True):
            assert output.strip("\n") == expected.strip("\n"), typed
        assert len(found) >= 10


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("body", f"{Config('').body_bytes_max // MIB} MiB"),
        (
            "messages in a batch put; `max` of a receive; leases in one request",
            f"{MESSAGES_MAX:,}",
        ),
        ("line of NDJSON in a batch put", f"{LINE_BYTES_MAX // MIB} MiB"),
        ("bytes of messages in one answer", f"{BATCH_BYTES_MAX // MIB} MiB"),
        ("body of JSON (options, leases)", f"{JSON_BYTES_MAX // MIB} MiB"),
        ("`wait`", f"{WAIT_S_MAX:g} s"),
        (
            "long polls parked at once, all queues",
            f"{Config('').long_polls_max:,} (`--max-waits`)",
        ),
        ("`lease`, `extend`", f"0.001 s to {LEASE_S_MAX / 3600:g} h"),
        ("`delay`", f"0 to {LEASE_S_MAX / 3600:g} h"),
        ("`limit` of a list, of a look", f"{LISTED_MAX:,}, default {LISTED}"),
        ("Content-Type of a message", f"{CONTENT_TYPE_BYTES_MAX:,} bytes"),
    ],
)
def test_the_limits(limit: str, value: str) -> None:
    assert LIMITS[limit] == value


def test_other_numbers_in_the_text() -> None:
    assert (LISTED_MAX, LISTED) == (LOOK_MAX, LOOK)
    text = " ".join(PAGE.split())
    assert f"{LEASED_MAX:,} leased in this queue" in text
    assert f"for the latest {REMEMBERED_MIN:,} of all queues" in text
    assert f"an opaque string, {TOKEN_CHARACTERS} characters" in text
    assert f"10 to {MAX_LENGTH_MAX}" in text


def test_the_options() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|.*\| ([a-z0-9]+) \|$", PAGE, re.MULTILINE)
    shown = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    defaults = {name: str(value).removesuffix(".0").lower() for name, value in DEFAULTS.items()}
    assert {key: shown[key] for key in DEFAULTS} == defaults | {"dead_letter": "null"}


def test_every_path_is_in_the_document_and_on_the_page() -> None:
    rows = re.findall(r"^\| (`[A-Z|]+ /v1.*?) \|", PAGE, re.MULTILINE)
    shown = set()
    for row in rows:
        method, path = re.findall(r"`([A-Z]+) (/v1[^`]*)`", row)[0]
        shown.add((method.lower(), path))
        shown |= {(method.lower(), path.rpartition("/")[0] + more) for more in MORE.findall(row)}
    described = json.loads(document())["paths"]
    assert shown == {
        (method, path)
        for path, item in described.items()
        for method in item
        if method != "parameters"
    }
