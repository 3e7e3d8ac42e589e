"""docs/operating.md, the rules, the image and the unit are true of the program as it is."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from logqueue import arguments
from tests.daemon import running
from tests.test_disk_full import tmpfs
from tests.test_monitor import fetch
from tests.test_tidy import MODULES, ROOT

PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
RULES = (ROOT / "docs" / "alerts.yml").read_text(encoding="utf-8")
LEVELS = ("info", "warning", "error", "exception", "critical")


# ---------------------------------------------------------------- the log


def said() -> Iterator[tuple[str, str]]:
    """(level, template) of every event in the code."""
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_log"
            ):
                (template, *_) = node.args
                assert isinstance(template, ast.Constant), (module, node.lineno)
                yield node.func.attr.replace("exception", "error"), str(template.value)
    for node in ast.walk(MODULES["logqueue.logs"]):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Tuple):
            for each in ast.walk(node):
                if isinstance(each, ast.Constant) and re.search(r"%[ds] ", str(each.value)):
                    yield "", str(each.value)


def test_every_line_is_explained_and_nothing_else() -> None:
    rows = dict(
        re.findall(r"^\| `([^`]*)` \| ([a-z ,]+) \|", PAGE.partition("each line means")[2], re.M)
    )
    events = set(said())
    assert {template for _, template in events} == rows.keys()
    for level, template in events:
        assert level in rows[template], template


def test_events_are_said_in_one_way() -> None:
    """Through `_log`, so that the list above is all there is."""
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("logging", each) for each in LEVELS}
            if isinstance(node, ast.Assign) and "getLogger" in ast.dump(node.value):
                (target,) = node.targets
                named = isinstance(target, ast.Name) and target.id == "_log"
                assert named or module == "logqueue.logs", module


# ---------------------------------------------------------------- metrics


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of a daemon's samples -> their labels, when a bit of everything has happened."""
    with running(tmp_path_factory.mktemp("exposed"), ["--max-queues", "1"]) as daemon:
        daemon.ask("name=q&opt=put&data=x")
        daemon.ask("name=other&opt=put&data=x")
        daemon.talk(b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n")
        text = fetch(daemon, "/metrics")[2]
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_alert_asks_for_what_there_is(exposed: dict[str, set[str]]) -> None:
    alerts = RULES.split("- alert: ")[1:]
    assert len(alerts) > 10
    for alert in alerts:
        expression = alert.partition("expr:")[2].partition("labels:")[0]
        names = re.findall(r"\b(?:logqueue|process)_[a-z_]+", expression)
        assert names or "up{" in expression, alert
        assert set(names) <= exposed.keys(), alert
        for label in re.findall(r"\{\{ \$labels\.([a-z]+) \}\}", alert):
            assert label == "instance" or any(label in exposed[name] for name in names), alert
        for label in re.findall(r"\{([a-z]+)=", expression):
            assert label == "job" or any(label in exposed[name] for name in names), alert


def test_every_metric_is_explained(exposed: dict[str, set[str]]) -> None:
    explained = set(re.findall(r"`(logqueue_[a-z_]+)`", PAGE))
    plain = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed}
    assert explained == {name for name in plain if name.startswith("logqueue_")}


# ---------------------------------------------------------------- readiness


def test_a_full_disk_is_not_ready_and_ready_again(tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("mounts need root")
    point = tmp_path / "small"
    with tmpfs(point, 24 << 20), running(point) as daemon:
        assert daemon.ask("name=q&opt=put&data=kept") == b"HTTPSQS_PUT_OK"
        assert fetch(daemon, "/readyz")[2] == "ok\n"
        (point / "filler").write_bytes(bytes(9 << 20))  # into the reserve of 16 MiB
        status, _, body = fetch(daemon, "/readyz")
        assert (status[-23:], body) == (
            b"503 Service Unavailable",
            "disk: no space above the reserve (--reserve-bytes)\n",
        )
        assert fetch(daemon, "/healthz")[2] == "ok\n"
        assert daemon.ask("name=new&opt=put&data=x") == b"HTTPSQS_PUT_ERROR"
        assert daemon.ask("name=q&opt=get") == b"kept"
        (point / "filler").unlink()
        assert fetch(daemon, "/readyz")[2] == "ok\n"
        assert daemon.ask("name=new&opt=put&data=x") == b"HTTPSQS_PUT_OK"


def test_damage_that_is_met_while_serving_is_not_ready(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        for name in ("bad", "good"):
            daemon.ask(f"name={name}&opt=put&data=x")
        assert daemon.stop() == 0
        (segment,) = (daemon.data / "queues" / "bad").glob("*.log")
        content = bytearray(segment.read_bytes())
        content[4096 + 32] ^= 1
        segment.write_bytes(content)
        daemon.start()
        assert fetch(daemon, "/readyz")[2] == "ok\n"  # nobody has read it yet
        assert daemon.ask("name=bad&opt=get") == b"HTTPSQS_ERROR"
        assert fetch(daemon, "/readyz")[2] == "queues: 1 damaged, see the log\n"
        assert daemon.ask("name=good&opt=get") == b"x"


# ---------------------------------------------------------------- the image


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.M))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]  # type: ignore[misc]


def last_stage() -> dict[str, str]:
    found: dict[str, str] = {}
    for word, rest in instructions():
        if word == "FROM":
            found.clear()
        found[word] = rest
    return found


def test_the_image_runs_what_there_is() -> None:
    stage = last_stage()
    assert sum(word == "FROM" for word, _ in instructions()) == 2
    assert stage["USER"] not in ("0", "root")
    assert f"--uid {stage['USER']} " in " ".join(rest for _, rest in instructions())
    assert stage["STOPSIGNAL"] == "SIGTERM"
    (command,) = json.loads(stage["ENTRYPOINT"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert command in project["scripts"]
    environment = dict(each.split("=", 1) for each in shlex.split(stage["ENV"]))
    ours = {key: value for key, value in environment.items() if key.startswith("LOGQUEUE_")}
    config = arguments.parse([], ours)
    assert config.data_directory == stage["VOLUME"]
    assert str(config.port) == stage["EXPOSE"]
    assert config.log_format == "json"
    version = re.search(r"python:(\d\.\d+)-", stage["FROM"])
    assert version
    assert tuple(map(int, version[1].split("."))) >= (3, 11)


def test_the_image_is_built_from_what_there_is() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    copied = [
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source.removeprefix("./"), pattern) for pattern in kept), source


def test_the_health_check_tells_life_from_death(tmp_path: Path) -> None:
    _, command = last_stage()["HEALTHCHECK"].split("CMD ")
    _, *words = json.loads(command)
    with running(tmp_path) as daemon:
        check = [
            sys.executable,
            *(w.replace("127.0.0.1:1218", f"127.0.0.1:{daemon.port}") for w in words),
        ]
        assert check[-1] != words[-1]
        assert subprocess.run(check, check=False, capture_output=True).returncode == 0
        assert daemon.stop() == 0
        assert subprocess.run(check, check=False, capture_output=True).returncode != 0


# ---------------------------------------------------------------- the unit


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_the_unit_is_valid(tmp_path: Path) -> None:
    for name in ("logqueue.service", "logqueue.socket"):
        text = (ROOT / "tools" / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("/usr/local/bin/logqueued", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "./logqueue.service", "./logqueue.socket"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
