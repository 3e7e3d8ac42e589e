"""The benchmark's arithmetic, its picture, and that the floor answers what the daemon answers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from logqueue.web import answer
from logqueue.web.message import CLOSED, KEPT, Response
from tools import floor
from tools.benchmark import cases, picture, processes, report, targets
from tools.benchmark.cases import FDATASYNC, FLOOR, Case, Sample
from tools.benchmark.results import Results
from tools.benchmark.targets import Target

DATE = b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
CASE = Case("put", 100, 16)


def results(**rates: list[float]) -> Results:
    found = Results()
    for name, each in rates.items():
        for rate in each:
            found.add(CASE, name, Sample(rate, 1e6 / rate, 2e6 / rate))
    return found


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("size", [14, 65536])
def test_the_floor_answers_as_many_bytes_as_the_daemon(size: int, closes: bool) -> None:
    layout = CLOSED if closes else KEPT
    response = Response(b"m" * size, 100000)
    daemon = answer.encode(response, layout, DATE, head_only=False)
    assert len(floor.reply(size, closes=closes)) == len(daemon)


def test_the_floor_reads_whole_requests_however_they_are_cut() -> None:
    post = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    answered = floor.reply(14, closes=False)
    with processes.floor(["14", "100:close"]) as services:
        kept, closing = (urlsplit(each.url).port for each in services.values())
        assert kept
        assert closing
        with connected(kept) as client, client.makefile("rb") as answers:
            for at in range(1, len(post)):
                client.sendall(post[:at])
                client.sendall(post[at:])
                assert answers.read(len(answered)) == answered
        with connected(closing) as client, client.makefile("rb") as answers:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert answers.read() == floor.reply(100, closes=True)


def connected(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    found = results(ours=[50, 10, 90], floor=[100, 10, 100])
    assert found.ratio(CASE, "ours", FLOOR) == 0.9
    assert found.median(CASE, "ours") == Sample(50, 20000, 40000, 0)
    assert found.ratio(CASE, "ours", "absent") is None


def test_every_target_is_measured_by_its_plan() -> None:
    found = Results()
    for cells in cases.in_rounds(targets.plan(), 3):
        for case, name in cells:
            found.add(case, name, Sample(1.0, 1, 1))
    assert [target.verdict for target in targets.ratios(found)] == ["met"] * 9
    assert {target.verdict for target in targets.ratios(Results())} == {"not measured"}


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target("", 0.60, least=0.60), "met"),
        (Target("", 0.59, least=0.60), "MISSED"),
        (Target("", 2.5, most=2.5), "met"),
        (Target("", 2.6, most=2.5), "MISSED"),
        (Target("", None, most=2.5), "not measured"),
    ],
)
def test_a_target_is_met_at_its_edge(target: Target, verdict: str) -> None:
    assert target.verdict == verdict
    assert verdict in report.verdicts([target])


def test_rounds_turn_around_and_measure_every_cell_as_often() -> None:
    plan = cases.matrix(["put"], [100], [1, 16], ["floor", "always"])
    assert plan[Case("put", 100, 1)] == ["floor", "always", FDATASYNC]
    there, back = cases.in_rounds(plan, 2)
    assert there[:2] == [(Case("put", 100, 1), "floor"), (Case("put", 100, 1), "always")]
    assert sorted(there) == sorted(back)
    assert back[0][1] == FDATASYNC


def test_the_picture_has_a_bar_for_each_rate() -> None:
    found = results(floor=[100.0], always=[50.0])
    svg = picture.draw(["<floor>", "always"], picture.panels(found, 100, "rate"))
    titles = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")
    assert [title.text for title in titles] == ["100", "50"]


def test_a_benchmark_of_one_row_runs(tmp_path: Path) -> None:
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    command = [sys.executable, "-m", "tools.bench", "--rounds", "1", "--operations", "get"]
    done = subprocess.run(
        [*command, "--connections", "1", "--contenders", "floor,os", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "| get 100 B, 1 conn " in done.stdout
    assert {each.name for each in tmp_path.iterdir()} == {
        "results.json",
        "results.md",
        "rates.svg",
        "processor.svg",
    }
