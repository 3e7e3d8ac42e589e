"""Health, metrics and the list of queues, asked of a real daemon."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from logqueue.census import METRIC_QUEUES_MAX, shown
from logqueue.latency import BOUNDS_S, Latencies
from logqueue.storage.format import SEGMENT_BYTES_MIN
from logqueue.web.credentials import (
    CLIENTS_MAX,
    DELAY_MAX_S,
    FAILURES_FREE,
    FORGIVEN_S,
    Patience,
    password_in,
)
from tests.daemon import Daemon, running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("guarded"), ["-a", "s:cret"]) as daemon:
        yield daemon


def fetch(daemon: Daemon, target: str, *headers: str) -> tuple[bytes, bytes, str]:
    """Status line, head and body."""
    lines = "".join(f"{each}\r\n" for each in ("Host: x", "Connection: close", *headers))
    answer = daemon.talk(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], head, body.decode()


def metrics(daemon: Daemon) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, label values) -> value."""
    text = fetch(daemon, "/metrics")[2]
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_health_is_open_and_says_nosniff(guarded: Daemon) -> None:
    for target in ("/healthz", "/readyz", "/readyz?verbose"):
        status, head, body = fetch(guarded, target)
        assert (status, body) == (b"HTTP/1.1 200 OK", "ok\n")
        assert b"X-Content-Type-Options: nosniff" in head


def test_a_path_with_a_queue_name_is_a_queue_operation(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        for path in ("/healthz", "/readyz", "/metrics", "/"):
            assert fetch(daemon, f"{path}?name=queues&opt=put&data=x")[2] == "HTTPSQS_PUT_OK"
        assert fetch(daemon, "/?name=q&opt=queues")[2] == "HTTPSQS_ERROR"
        assert fetch(daemon, "/nowhere")[2] == "HTTPSQS_ERROR"
        assert b"nosniff" not in fetch(daemon, "/nowhere")[1]


@pytest.mark.parametrize("target", ["/metrics", "/?opt=queues"])
def test_what_names_queues_needs_the_password(guarded: Daemon, target: str) -> None:
    assert fetch(guarded, target)[2] == "HTTPSQS_AUTH_FAILED"
    joint = "&" if "?" in target else "?"
    basic = base64.b64encode(b"anyone:s:cret").decode()
    for answer in (
        fetch(guarded, f"{target}{joint}auth=s:cret"),
        fetch(guarded, target, "Authorization: Bearer s:cret"),
        fetch(guarded, target, f"authorization: bAsIc {basic}"),
    ):
        assert "HTTPSQS" not in answer[2]
        assert b"nosniff" in answer[1]


def test_the_header_serves_every_operation(guarded: Daemon) -> None:
    bearer = "Authorization: Bearer s:cret"
    assert fetch(guarded, "/?name=h&opt=put&data=m", bearer)[2] == "HTTPSQS_PUT_OK"
    assert fetch(guarded, "/?name=h&opt=get", "Authorization: Bearer wrong")[2] == (
        "HTTPSQS_AUTH_FAILED"
    )
    assert fetch(guarded, "/?name=h&opt=get", bearer)[2] == "m"
    # A right one helps against a wrong one in the query: either is enough.
    assert fetch(guarded, "/?name=h&opt=get&auth=x", bearer)[2] == "HTTPSQS_GET_END"


def test_failures_are_logged_without_what_was_tried(guarded: Daemon) -> None:
    assert fetch(guarded, "/?name=h&opt=get&auth=tried")[2] == "HTTPSQS_AUTH_FAILED"
    assert guarded.says("wrong or no password from '127.0.0.1'")
    assert "tried" not in guarded.log
    assert "s:cret" not in guarded.log


def test_metrics_count_what_happened(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        for _ in range(3):
            daemon.ask("name=a%22b&opt=put&data=x")
        daemon.ask("name=a%22b&opt=get")
        daemon.talk(b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n")
        found = metrics(daemon)
    assert found["logqueue_queue_depth", ('a"b',)] == 2
    assert found["logqueue_queue_put_total", ('a"b',)] == 3
    assert found["logqueue_queue_consumed_total", ('a"b',)] == 1
    assert found["logqueue_queue_bytes", ('a"b', "live")] > 0
    assert found["logqueue_queues", ()] == 1
    assert found["logqueue_queues_damaged", ()] == 0
    assert found["logqueue_sync_seconds_count", ()] >= 4
    assert found["logqueue_connections", ()] == 1
    assert found["logqueue_http_refused_total", ("501",)] == 1
    assert found["logqueue_disk_free_bytes", ()] > found["logqueue_disk_reserve_bytes", ()]
    assert found["process_open_fds", ()] > 0


def test_counters_go_on_after_a_restart(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        for _ in range(2):
            daemon.ask("name=q&opt=put&data=x")
        daemon.ask("name=q&opt=get")
        daemon.stop()
        daemon.start()
        found = metrics(daemon)
        assert found["logqueue_queue_put_total", ("q",)] == 2
        assert found["logqueue_queue_consumed_total", ("q",)] == 1
        assert daemon.stop() == 0


def test_the_number_of_series_is_bounded(tmp_path: Path) -> None:
    with running(tmp_path, ["--durability", "os"]) as daemon:
        requests = "".join(
            f"GET /?name=q{number}&opt=put&data=x HTTP/1.1\r\nHost: x\r\n\r\n"
            for number in range(METRIC_QUEUES_MAX + 3)
        )
        assert daemon.talk(requests.encode()).count(b"HTTPSQS_PUT_OK") == METRIC_QUEUES_MAX + 3
        found = metrics(daemon)
    depths = {key[1][0]: value for key, value in found.items() if key[0] == "logqueue_queue_depth"}
    assert len(depths) == METRIC_QUEUES_MAX + 1
    assert depths[""] == 3


def test_queues_are_listed_in_pages(tmp_path: Path) -> None:
    names = [b"", b"a&b", b"b", b"\xff", "\u4e2d".encode()]
    with running(tmp_path) as daemon:
        for name in names:
            daemon.ask(f"name={quote(name)}&opt=put&data=x")
        listed: list[bytes] = []
        after = ""
        while True:
            answer = json.loads(fetch(daemon, f"/?opt=queues&limit=2{after}")[2])
            listed += [unquote_to_bytes(row["name"]) for row in answer["queues"]]
            assert all(row["unread"] == 1 for row in answer["queues"])
            for row in answer["queues"]:
                assert row["bytes"] == SEGMENT_BYTES_MIN
                assert (row["bytes_consumed"], row["bytes_retained"]) == (0, 0)
            if answer["next"] is None:
                break
            after = f"&after={answer['next']}"
        assert listed == sorted(names)
        for limit, status in ((0, 400), (1, 200), (1000, 200), (1001, 400)):
            assert b"%d" % status in fetch(daemon, f"/?opt=queues&limit={limit}")[0]


def test_a_damaged_queue_is_not_ready(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.ask("name=q&opt=put&data=x")
        daemon.stop()
        (meta,) = (tmp_path / "data").glob("queues/*/meta")
        meta.write_bytes(bytes(meta.stat().st_size))
        daemon.start()
        status, _, body = fetch(daemon, "/readyz")
        assert status == b"HTTP/1.1 503 Service Unavailable"
        assert body == "queues: 1 damaged, see the log\n"
        assert fetch(daemon, "/healthz")[2] == "ok\n"
        daemon.stop()


def test_no_space_above_the_reserve_is_not_ready(tmp_path: Path) -> None:
    with running(tmp_path, ["--reserve-bytes", str(1 << 60)]) as daemon:
        assert fetch(daemon, "/readyz")[2].startswith("disk: no space above the reserve")


@given(st.binary(max_size=8), st.binary(max_size=8))
@example(b"", b"\0")
@example(b"%", b"")
def test_no_two_names_are_shown_alike(one: bytes, other: bytes) -> None:
    assert (shown(one) == shown(other)) == (one == other)


@pytest.mark.parametrize(
    ("header", "password"),
    [
        (b"Bearer x y", b"x y"),
        (b"bearer  x", b"x"),
        (b"Basic " + base64.b64encode(b"u:p:q"), b"p:q"),
        (b"Basic " + base64.b64encode(b"no colon"), None),
        (b"Basic ***", None),
        (b"Digest x", None),
        (b"", None),
    ],
)
def test_authorization_headers(header: bytes, password: bytes | None) -> None:
    assert password_in(header) == password


def test_patience_ends_and_comes_back() -> None:
    patience = Patience()
    free = [patience.failed("a", 0) for _ in range(FAILURES_FREE)]
    assert free == [0.0] * FAILURES_FREE
    later = [patience.failed("a", 1) for _ in range(10)]
    assert later == sorted(later)
    assert later[0] > 0
    assert later[-1] == DELAY_MAX_S
    assert patience.failed("b", 1) == 0
    assert patience.failed("a", 1 + FORGIVEN_S) == 0


def test_patience_remembers_so_many_addresses() -> None:
    patience = Patience()
    for _ in range(FAILURES_FREE):
        patience.failed("first", 0)
    for number in range(CLIENTS_MAX - 1):
        patience.failed(str(number), 0)
    assert patience.failed("first", 0) > 0
    for number in range(CLIENTS_MAX):
        patience.failed(str(number), 0)
    assert patience.failed("first", 0) == 0


def test_latencies_are_counted_in_buckets() -> None:
    latencies = Latencies()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, 1e9):
        latencies.observe(seconds)
    buckets = latencies.buckets()
    assert buckets[:2] == [(BOUNDS_S[0], 2), (BOUNDS_S[1], 3)]
    assert buckets[-2:] == [(BOUNDS_S[-1], 3), (float("inf"), 4)]
    assert latencies.sum_s == pytest.approx(1e9)
