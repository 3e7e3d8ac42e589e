"""The v1 API of a real daemon: every error has its status and code, every limit its edge."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from logqueue.storage.delivery import LEASED_MAX
from logqueue.web.v1.batches import (
    CONTENT_TYPE_BYTES_MAX,
    LINE_BYTES_MAX,
    MESSAGES_MAX,
)
from logqueue.web.v1.call import JSON_BYTES_MAX
from tests.daemon import Daemon, running
from tests.queues import directory, flip
from tests.test_disk_full import needs_mounts, tmpfs
from tests.test_faults import STORAGE_FAILED, failing, needs_strace
from tests.v1 import FRAMES, NDJSON, Answer, Client, framed

_names = (f"q{number}" for number in count())
DOCUMENT = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("v1"), ["--durability", "os"]) as started:
        yield started


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.port) as connected:
        yield connected


@pytest.fixture
def queue(client: Client) -> str:
    """A queue that no other test uses, with one message."""
    name = next(_names)
    assert client.put(name, b"0").status == 201
    return name


# ------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    "query",
    [
        "max=0",
        f"max={MESSAGES_MAX + 1}",
        "max=1&max=1",
        "max=",
        "max=x",
        "max=1.0",
        "max=-1",
        "max=%2B1",
        "max=99999999999999999999",
        "wait=61s",
        "wait=60001ms",
        "wait=2m",
        "wait=",
        "wait=-1",
        "wait=1e1",
        "wait=1d",
        "wait=20S",
        "wait=%D9%A1",  # a digit, but not one of ours
        "lease=0.0005",
        "lease=12h&leas=1",
        "lease=43201",
        "lease=13h",
        "lease=nan",
        "Max=1",
        "&",
        "=",
    ],
)
def test_a_bad_parameter_takes_nothing(client: Client, queue: str, query: str) -> None:
    refused = client.receive(queue, query)
    assert (refused.status, refused.code) == (400, "bad-parameter")
    assert client.details(queue)["ready"] == 1


@pytest.mark.parametrize(
    "query",
    [
        "",
        "max=1",
        f"max={MESSAGES_MAX}",
        "wait=60s",
        "wait=1m",
        "wait=60000ms",
        "lease=0.001",
        "lease=12h",
        "lease=43200",
        "lease=0",
        "lease=0.0s",
        "max=2&wait=0&lease=500ms",
    ],
)
def test_the_edges_of_parameters(client: Client, queue: str, query: str) -> None:
    assert client.receive(queue, query).status == 200


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/queues?limit=0", "bad-parameter"),
        ("/queues?limit=1001", "bad-parameter"),
        ("/queues?limit=1000", ""),
        ("/queues?limi=1", "bad-parameter"),
        ("/queues/{q}?x=1", "bad-parameter"),
        ("/queues/{q}/messages?from=0", "bad-parameter"),
        ("/queues/{q}/messages?limit=1001", "bad-parameter"),
        ("/queues/{q}/messages?limit=1000&from=9223372036854775807", ""),
        ("/queues/{q}/messages?from=9223372036854775808", "bad-parameter"),
        ("/queues/{q}/messages/0", "bad-parameter"),
        ("/queues/{q}/messages/x", "bad-parameter"),
        ("/queues/{q}/messages/9223372036854775808", "bad-parameter"),
        ("/queues/{q}/messages/9223372036854775807", "not-yet-written"),
        ("/queues/{q}/messages/2", "not-yet-written"),
        ("/queues/{q}/messages/", "bad-parameter"),
        ("/openapi.json?x", "bad-parameter"),
    ],
)
def test_looking_at_the_edges(client: Client, queue: str, path: str, code: str) -> None:
    found = client.call("GET", path.replace("{q}", queue))
    assert (found.status == 200) if not code else (found.code == code)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/", "no-such-path"),
        ("/queue", "no-such-path"),
        ("/queues/{q}/message", "no-such-path"),
        ("/queues/{q}/messages/1/2", "no-such-path"),
        ("/queues/{q}/", "no-such-path"),
        ("/queues/{q}/leases/x/releas", "no-such-path"),
        ("/queues/nobody's", "no-such-queue"),
        ("/queues/nobody's/messages/1", "no-such-queue"),
        ("/queues/nobody's/messages", "no-such-queue"),
        ("/queues/" + "x" * 257, "bad-name"),
        ("/queues/%00", "bad-name"),
        ("/queues/a%2", "bad-name"),
        ("/queues/a%zz/messages", "bad-name"),
    ],
)
def test_paths_that_lead_nowhere(client: Client, queue: str, path: str, code: str) -> None:
    found = client.call("GET", path.replace("{q}", queue))
    assert found.code == code
    assert found.status == (400 if code == "bad-name" else 404)


def test_operations_on_no_queue(client: Client) -> None:
    none = "/queues/nobody's"
    lease = f"{none}/leases/{'A' * 40}"
    for found in (
        client.call("POST", f"{none}/purge"),
        client.call("POST", f"{none}/pause"),
        client.ask("PATCH", none, {"lease_s": 1}),
        client.call("DELETE", none),
        client.call("DELETE", lease),
        client.ask("PATCH", lease, {"extend": 1}),
        client.call("POST", f"{lease}/release"),
        client.ask("POST", f"{none}/leases", {"ack": []}),
    ):
        assert (found.status, found.code) == (404, "no-such-queue")


# ------------------------------------------------------------ batches


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        (FRAMES, b"", "bad-body"),
        (FRAMES, b"\0\0\0", "bad-body"),
        (FRAMES, b"\0\0\0\1", "bad-body"),
        (FRAMES, b"\0\0\0\1xy", "bad-body"),
        (FRAMES, b"\xff\xff\xff\xffx", "bad-body"),
        (FRAMES, framed([b""] * (MESSAGES_MAX + 1)), "too-large"),
        (NDJSON, b"", "bad-body"),
        (NDJSON, b"\n \n", "bad-body"),
        (NDJSON, b'{"data":"1"}\n{', "bad-body"),
        (NDJSON, b'{"data":"1"}\n[]', "bad-body"),
        (NDJSON, b'{"data":1}', "bad-body"),
        (NDJSON, b'{"data":null}', "bad-body"),
        (NDJSON, b"{}", "bad-body"),
        (NDJSON, b'{"data":"1","data_b64":"MQ=="}', "bad-body"),
        (NDJSON, b'{"data":"1","more":1}', "bad-body"),
        (NDJSON, b'{"data":"1","type":1}', "bad-body"),
        (NDJSON, b'{"data_b64":"MQ="}', "bad-body"),
        (NDJSON, b'{"data_b64":"M Q=="}', "bad-body"),
        (NDJSON, b'{"data_b64":"\xc3\xa9"}', "bad-body"),
        (NDJSON, b'{"data":"\\ud800"}', "bad-body"),
        (NDJSON, b'{"data":"\xff"}', "bad-body"),
        (NDJSON, b"[" * 100_000, "bad-body"),
        (NDJSON, b'{"data":NaN}', "bad-body"),
        (NDJSON, b'{"data":"1","type":"a\\r\\nb: c"}', "unsupported-media-type"),
        (NDJSON, b'{"data":"1","type":"\xc3\xa9"}', "unsupported-media-type"),
        (NDJSON, b'{"data":"1","type":"%b"}' % (b"x" * 1025), "too-large"),
        (NDJSON, b'{"data":"1"}\n' * (MESSAGES_MAX + 1), "too-large"),
        (NDJSON, b"\n" * (MESSAGES_MAX + 1), "too-large"),
        (NDJSON, b'{"data":"%b"}' % (b"x" * LINE_BYTES_MAX), "too-large"),
        ("application/json", b"[]", "unsupported-media-type"),
        ("", b"[]", "unsupported-media-type"),
    ],
)
def test_a_bad_batch_stores_nothing(
    client: Client, queue: str, kind: str, body: bytes, code: str
) -> None:
    refused = client.call("POST", f"/queues/{queue}/messages/batch", body, kind)
    assert refused.code == code
    statuses = {"bad-body": 400, "too-large": 413, "unsupported-media-type": 415}
    assert refused.status == statuses[code]
    assert client.details(queue)["last"] == 1


@pytest.mark.parametrize(
    ("kind", "body", "messages"),
    [
        (FRAMES, framed([b""] * MESSAGES_MAX), MESSAGES_MAX),
        (NDJSON, b'{"data":"1"}\n' * MESSAGES_MAX, MESSAGES_MAX),
        (NDJSON, b'{"data":"1"}\n' * (MESSAGES_MAX - 1) + b'{"data":"1"}', MESSAGES_MAX),
        (NDJSON, b'{"data":"%b"}' % (b"x" * (LINE_BYTES_MAX - 11)), 1),
        (NDJSON, b'{"data":"1","type":"%b"}' % (b"x" * CONTENT_TYPE_BYTES_MAX), 1),
    ],
)
def test_the_edges_of_a_batch(
    client: Client, queue: str, kind: str, body: bytes, messages: int
) -> None:
    stored = client.call("POST", f"/queues/{queue}/messages/batch", body, kind)
    assert stored.json["count"] == messages
    got = client.receive(queue, f"max={MESSAGES_MAX}&lease=0", NDJSON)
    assert len(got.lines) == min(messages + 1, MESSAGES_MAX)


def test_content_types_of_a_put(client: Client, queue: str) -> None:
    path = f"/queues/{queue}/messages"
    assert client.call("POST", path, b"", "x" * CONTENT_TYPE_BYTES_MAX).status == 201
    too_long = client.call("POST", path, b"", "x" * (CONTENT_TYPE_BYTES_MAX + 1))
    assert (too_long.status, too_long.code) == (413, "too-large")
    odd = client.call("POST", path, b"", "text/\xe9")
    assert (odd.status, odd.code) == (415, "unsupported-media-type")


# ------------------------------------------------------------ leases, options


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"{}",
        b'{"extend":"1s","x":1}',
        b'{"extend":NaN}',
        b'{"extend":1e999}',
        b'{"extend":' + b"9" * 21 + b"}",
        b"[" * 100_000,
    ],
)
def test_a_bad_body_of_an_extension(client: Client, queue: str, body: bytes) -> None:
    path = f"/queues/{queue}/leases/{client.receive(queue).headers['Queue-Lease']}"
    refused = client.call("PATCH", path, body, "application/json")
    assert (refused.status, refused.code) == (400, "bad-body")


@pytest.mark.parametrize("extend", ["0", 0, "13h", 43201, -1, True, None, "x", [], "0.0001s"])
def test_an_extension_out_of_range(client: Client, queue: str, extend: object) -> None:
    path = f"/queues/{queue}/leases/{client.receive(queue).headers['Queue-Lease']}"
    assert client.ask("PATCH", path, {"extend": extend}).code == "bad-parameter"
    assert client.ask("POST", f"{path}/release", {"delay": "13h"}).code == "bad-parameter"
    assert client.ask("POST", f"{path}/release", {"delay": "12h"}).status == 204


@pytest.mark.parametrize(
    "given",
    [
        {"ack": "x"},
        {"ack": [1]},
        {"release": {}},
        {"release": ["x"]},
        {"release": [{}]},
        {"release": [{"lease": "x", "dela": 1}]},
        {"acknowledge": []},
    ],
)
def test_a_bad_body_of_many_leases(client: Client, queue: str, given: object) -> None:
    lease = client.receive(queue).headers["Queue-Lease"]
    refused = client.ask("POST", f"/queues/{queue}/leases", {"ack": [lease], **dict(given)})  # type: ignore[call-overload]
    assert refused.code == "bad-body"
    assert client.details(queue)["leased"] == 1


def test_the_edges_of_many_leases(client: Client, queue: str) -> None:
    path = f"/queues/{queue}/leases"
    most = client.ask("POST", path, {"ack": ["x"] * MESSAGES_MAX})
    assert most.json["unknown"] == ["x"] * MESSAGES_MAX
    more = client.ask("POST", path, {"ack": ["x"] * MESSAGES_MAX, "release": [{"lease": "x"}]})
    assert (more.status, more.code) == (413, "too-large")
    assert client.ask("POST", path, {}).json["acknowledged"] == 0
    large = b'{"ack":["%b"]}'
    fits = large % (b"x" * (JSON_BYTES_MAX - len(large) + 2))
    assert client.call("POST", path, fits, "application/json").status == 200
    assert client.call("POST", path, fits + b" ", "application/json").code == "too-large"
    wrong = client.call("POST", path, b"{}", "text/plain")
    assert (wrong.status, wrong.code) == (415, "unsupported-media-type")


@pytest.mark.parametrize("token", ["x", "A" * 40, "%00", "%ff" * 40, "."])
def test_a_lease_that_never_was(client: Client, queue: str, token: str) -> None:
    refused = client.call("DELETE", f"/queues/{queue}/leases/{token}")
    assert (refused.status, refused.code) in ((404, "no-such-lease"), (410, "lease-expired"))
    assert refused.status == (410 if token == "A" * 40 else 404)  # of another epoch


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 9},
        {"max_length": 1_000_000_001},
        {"max_length": "10"},
        {"max_length": 10.5},
        {"max_length": True},
        {"max_length": 1e300},
        {"lease_s": 0},
        {"lease_s": 43201},
        {"max_age_s": -1},
        {"max_attempts": 1},
        {"dead_letter": "x"},
        {"dead_letter": 1, "max_attempts": 1},
        {"dead_letter": "é", "max_attempts": 1},
        {"dead_letter": "\ud800", "max_attempts": 1},
        {"paused": 1},
        {"paused": None},
        {"nonsense": 1},
    ],
)
def test_a_bad_option_changes_nothing(
    client: Client, queue: str, options: dict[str, object]
) -> None:
    before = client.details(queue)
    for method, name in (("PATCH", queue), ("PUT", queue), ("PUT", f"{queue}-new")):
        refused = client.ask(method, f"/queues/{name}", options)
        assert (refused.status, refused.code) == (400, "bad-option")
    assert client.details(queue) == before
    assert client.call("GET", f"/queues/{queue}-new").status == 404


@pytest.mark.parametrize("name", ["%00", "x" * 257])
def test_no_queue_can_have_this_dead_letter(client: Client, queue: str, name: str) -> None:
    options = {"max_attempts": 1, "dead_letter": name}
    assert client.ask("PATCH", f"/queues/{queue}", options).code == "bad-name"
    assert client.ask("PATCH", f"/queues/{queue}", {**options, "dead_letter": queue}).code == (
        "bad-option"
    )


def test_a_ring_does_not_shrink_below_its_messages(client: Client, queue: str) -> None:
    client.put(queue, *[b"x"] * 20)
    refused = client.ask("PATCH", f"/queues/{queue}", {"max_length": 10})
    assert (refused.status, refused.code) == (409, "max-length-below-backlog")


# ------------------------------------------------------------ what the server refuses


def test_a_full_queue(client: Client) -> None:
    name = next(_names)
    client.ask("PUT", f"/queues/{name}", {"max_length": 10})
    assert client.put(name, *[b"x"] * 9).status == 201
    refused = client.put(name, b"1", b"2")
    assert (refused.status, refused.code) == (429, "queue-full")
    assert refused.headers["Retry-After"] == "1"
    assert client.put(name, b"1").status == 201
    assert client.put(name, b"2").code == "queue-full"


def test_too_many_leases(client: Client) -> None:
    name = next(_names)
    for _ in range(11):
        client.put(name, *[b""] * MESSAGES_MAX)
    while int(str(client.details(name)["leased"])) < LEASED_MAX:
        assert client.receive(name, f"max={MESSAGES_MAX}&lease=1h", FRAMES).status == 200
    refused = client.receive(name, "lease=1h")
    assert (refused.status, refused.code) == (429, "too-many-leases")
    assert refused.headers["Retry-After"] == "1"
    assert client.receive(name, "lease=0").status == 200


def test_passwords(tmp_path: Path) -> None:
    with running(tmp_path, ["-a", "s3cret"]) as daemon:
        with Client(daemon.port) as client:
            refused = client.put("q", b"1")
            assert (refused.status, refused.code) == (401, "unauthorized")
            assert refused.headers["WWW-Authenticate"] == 'Basic realm="logqueue"'  # the last one
            for path in ("/openapi.json", "/queues?auth=s3cret", "/nowhere"):
                assert client.call("GET", path).code == "unauthorized"
        for wrong in ("Bearer s3cre", "Basic czNjcmV0", "Digest s3cret", "s3cret"):
            with Client(daemon.port, wrong) as client:
                assert client.call("GET", "/queues").code == "unauthorized"
        for right in ("Bearer s3cret", "Basic YW55Ym9keTpzM2NyZXQ="):
            with Client(daemon.port, right) as client:
                assert client.put("q", b"1").status == 201
        assert b"logqueue_auth_failures_total 8.0" in daemon.talk(
            b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer s3cret\r\nConnection: close\r\n\r\n"
        )


def test_another_web_site(client: Client, queue: str) -> None:
    refused = client.call("DELETE", f"/queues/{queue}", Sec_Fetch_Site="cross-site")
    assert (refused.status, refused.code) == (403, "cross-site")
    assert refused.headers["Connection"] == "close"
    assert client.details(queue)["ready"] == 1


@pytest.mark.parametrize(
    ("line", "fields", "status", "code"),
    [
        (b"GET /v1/queues", b"no colon", 400, "bad-request"),
        (b"POST /v1/queues/q/messages", b"Content-Length: x", 400, "bad-request"),
        (b"POST /v1/queues/q/messages", b"Content-Length: 99999999", 413, "too-large"),
        (b"POST /v1/queues/q/messages", b"Transfer-Encoding: chunked\r\n\r\nx", 413, "too-large"),
        (b"PUT /v1/queues/q", b"Content-Length: 1\r\nExpect: x", 417, "bad-expectation"),
        (b"GET /v1/queues", b"a: b\r\n" * 2001 + b"a: b", 431, "head-too-large"),
    ],
)
def test_what_is_no_request(
    daemon: Daemon, line: bytes, fields: bytes, status: int, code: str
) -> None:
    answer = daemon.talk(line + b" HTTP/1.1\r\n" + fields + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (problem["status"], problem["code"]) == (status, code)


def test_methods_that_nobody_knows(client: Client) -> None:
    for method in ("BREW", "TRACE", "PATCH"):
        refused = client.call(method, "/queues")
        assert (refused.status, refused.code) == (405, "method-not-allowed")
        assert refused.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_methods_of_v1_are_not_those_of_httpsqs(daemon: Daemon) -> None:
    for method in (b"PATCH", b"OPTIONS"):
        for target in (b"/?name=q&opt=get", b"/v1/queues/q?name=q&opt=get", b"/v1"):
            answer = daemon.talk(method + b" " + target + b" HTTP/1.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 501 ")
            assert b"<H1>" in answer


def test_too_many_queues(tmp_path: Path) -> None:
    with running(tmp_path, ["--max-queues", "1"]) as daemon, Client(daemon.port) as client:
        assert client.put("a", b"1").status == 201
        for refused in (client.put("b", b"1"), client.ask("PUT", "/queues/b")):
            assert (refused.status, refused.code) == (507, "too-many-queues")


def test_a_damaged_queue(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        with Client(daemon.port) as client:
            client.put("bad", b"x" * 100)
            client.put("good", b"1")
        daemon.stop()
        segment = next(directory(daemon.data / "queues", b"bad").glob("*.log"))
        flip(segment, 4096 + 50)
        daemon.start()
        with Client(daemon.port) as client:
            for refused in (client.receive("bad"), client.put("bad", b"2")):
                assert (refused.status, refused.code) == (500, "queue-damaged")
                assert str(tmp_path) not in str(refused.json["detail"])
            rows = client.call("GET", "/queues").json["queues"]
            assert [(row["name"], row["damaged"]) for row in rows] == [  # type: ignore[attr-defined]
                ("bad", True),
                ("good", False),
            ]
            assert client.receive("good").body == b"1"
        assert daemon.says(segment.name)


@needs_mounts
def test_a_full_disk(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "data", 8 << 20):
        options = ["--reserve-bytes", "1048576"]
        with running(tmp_path, options) as daemon, Client(daemon.port) as client:
            body = b"x" * 500_000
            while (refused := client.put("q", body, body)).status == 201:
                pass
            assert (refused.status, refused.code) == (507, "disk-full")
            assert refused.headers["Retry-After"] == "1"
            assert str(tmp_path) not in str(refused.json["detail"])
            assert client.receive("q", "lease=0").body == body


@needs_strace
@pytest.mark.parametrize(
    "operation",
    [
        lambda client: client.put("q", b"1"),
        lambda client: client.put("q", b"1", b"2"),
        lambda client: client.receive("q", "lease=0"),
        lambda client: client.receive("q", "lease=30s"),
        lambda client: client.receive("q", "lease=0&wait=20s&max=2"),
    ],
    ids=["put", "batch", "get", "lease", "wait"],
)
def test_a_failed_disk_ends_the_daemon(
    tmp_path: Path, operation: Callable[[Client], Answer]
) -> None:
    """And nobody is told that anything was done."""
    with Daemon(tmp_path, prefix=failing("fdatasync", "EIO", 40)) as daemon:
        daemon.start()
        with Client(daemon.port) as client:
            client.put("q", *[b"x"] * 1000)
            with contextlib.suppress(ConnectionError):
                while (answer := operation(client)).status in (200, 201):
                    pass
                pytest.fail(f"answered: {answer}")
        assert daemon.wait() == STORAGE_FAILED
        assert "Traceback" not in daemon.log


def test_every_code_is_documented() -> None:
    documented = set(re.findall(r"^\| [0-9, ]+ \| (.*?) \|", DOCUMENT, re.MULTILINE))
    codes = {code for cell in documented for code in re.findall(r"`([a-z-]+)`", cell)}
    web = Path(__file__).parent.parent / "logqueue" / "web"
    sources = [web / "problem.py", web.parent / "administration.py", *(web / "v1").glob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    raised = set(re.findall(r'\b[45][0-9]{2}(?:, |: )"([a-z-]+)"|reason, "([a-z-]+)"\)', text))
    assert {one or other for one, other in raised} == codes
