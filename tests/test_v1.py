"""The v1 API of a real daemon over real sockets, as docs/api.md has it: what works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.daemon import Daemon, running
from tests.v1 import FRAMES, NDJSON, Client, framed, unframed

_names = (f"q{number}" for number in count())


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("v1")) as started:
        yield started


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.port) as connected:
        yield connected


@pytest.fixture
def queue() -> str:
    """A name that no other test uses."""
    return next(_names)


# ------------------------------------------------------------ put


def test_a_put_keeps_bytes_and_content_type(client: Client, queue: str) -> None:
    body = bytes(range(256))
    put = client.call("POST", f"/queues/{queue}/messages", body, "image/x-icon; v=1")
    assert put.status == 201
    assert put.json == {"sequence": 1, "pos": 1, "durable": "disk"}
    assert put.headers["Location"] == f"/v1/queues/{queue}/messages/1"
    assert (put.headers["Queue-Sequence"], put.headers["Queue-Pos"]) == ("1", "1")
    got = client.receive(queue, "lease=0")
    assert (got.status, got.body) == (200, body)
    assert got.headers["Content-Type"] == "image/x-icon; v=1"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert (got.headers["Queue-Sequence"], got.headers["Queue-Attempts"]) == ("1", "0")
    assert "Queue-Lease" not in got.headers
    empty = client.receive(queue, "lease=0")
    assert (empty.status, empty.body) == (204, b"")
    assert "Content-Length" not in empty.headers


def test_an_empty_message_without_a_type(client: Client, queue: str) -> None:
    assert client.put(queue, b"").status == 201
    got = client.receive(queue)
    assert (got.status, got.body) == (200, b"")
    assert got.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("in_path", "name"),
    [
        ("", b""),
        ("%2E%2E", b".."),
        ("a%2Fb", b"a/b"),
        ("%ff%FE", b"\xff\xfe"),
        ("a+b", b"a+b"),
        ("x" * 256, b"x" * 256),
        ("messages", b"messages"),
    ],
)
def test_any_name(client: Client, daemon: Daemon, in_path: str, name: bytes) -> None:
    put = client.put(in_path, b"m")
    assert put.status == 201
    assert client.call("GET", put.headers["Location"].removeprefix("/v1")).body == b"m"
    details = client.details(in_path)
    escaped = "".join(f"%{byte:02X}" for byte in name)
    assert daemon.ask(f"name={escaped}&opt=status_json").endswith(b'"unread":1}\n')
    assert daemon.ask(f"name={escaped}&opt=get") == b"m"
    assert client.details(str(details["name"]))["consumed"] == 1


def test_legacy_and_v1_share_the_queues(client: Client, daemon: Daemon, queue: str) -> None:
    client.put(queue, b"new way")
    assert daemon.ask(f"name={queue}&opt=get") == b"new way"
    assert daemon.ask(f"name={queue}&opt=put", b"old way") == b"HTTPSQS_PUT_OK"
    got = client.receive(queue, "lease=0")
    assert (got.body, got.headers["Queue-Sequence"]) == (b"old way", "2")


def test_a_name_makes_it_an_operation_of_httpsqs(client: Client, queue: str) -> None:
    path = f"/queues/{queue}/messages"
    assert client.call("GET", f"{path}?name={queue}&opt=put&data=x").body == b"HTTPSQS_PUT_OK"
    assert client.call("GET", f"{path}?NAME={queue}&opt=get").body == b"x"


def test_a_batch_of_lines(client: Client, queue: str) -> None:
    lines = [
        {"data": 'one "quoted" \u20ac \x00'},
        {"data_b64": "/w==", "type": "image/png"},
        {"type": "text/plain", "data": ""},
    ]
    body = "\r\n\n".join(map(json.dumps, lines)).encode() + b"\n"
    put = client.call("POST", f"/queues/{queue}/messages/batch", body, f"{NDJSON}; charset=utf-8")
    assert put.status == 201
    assert put.json == {"first": 1, "last": 3, "count": 3, "pos": 1, "durable": "disk"}
    got = client.receive(queue, "max=5&lease=0")
    assert got.headers["Content-Type"] == NDJSON
    assert got.headers["Queue-Count"] == "3"
    one, two, three = got.lines
    assert {**one, "time": 0} == {
        "sequence": 1,
        "pos": 1,
        "time": 0,
        "attempts": 0,
        "lease": "",
        "type": None,
        "data": 'one "quoted" \u20ac \x00',
    }
    assert (two["type"], two["data_b64"], "data" in two) == ("image/png", "/w==", False)
    assert (three["type"], three["data"]) == ("text/plain", "")


def test_a_batch_of_frames(client: Client, queue: str) -> None:
    messages = [b"", b"\0" * 5, bytes(range(256)), b"x" * 100_000]
    put = client.put(queue, *messages)
    assert put.json == {"first": 1, "last": 4, "count": 4, "pos": 1, "durable": "disk"}
    got = client.receive(queue, "max=3&lease=0", FRAMES)
    assert (got.headers["Content-Type"], got.headers["Queue-Count"]) == (FRAMES, "3")
    assert unframed(got.body) == messages[:3]
    leased = client.receive(queue, "max=3", f"{NDJSON};q=0.5, {FRAMES}")
    lease, message = unframed(leased.body)
    assert (leased.headers["Queue-Count"], message) == ("1", messages[3])
    path = f"/queues/{queue}/leases/{lease.decode()}"
    assert client.call("DELETE", path).status == 204


def test_one_message_as_a_batch_when_asked(client: Client, queue: str) -> None:
    client.put(queue, b"1", b"2")
    assert unframed(client.receive(queue, "lease=0", FRAMES).body) == [b"1"]
    assert client.receive(queue, "lease=0", f"text/html, {NDJSON};q=0.1").lines[0]["data"] == "2"


# ------------------------------------------------------------ leases


def test_a_lease_is_acknowledged(client: Client, queue: str) -> None:
    client.put(queue, b"1")
    got = client.receive(queue)
    lease = got.headers["Queue-Lease"]
    assert (got.body, got.headers["Queue-Attempts"], len(lease)) == (b"1", "1", 40)
    assert client.receive(queue).status == 204
    assert client.details(queue)["leased"] == 1
    path = f"/queues/{queue}/leases/{lease}"
    assert client.call("DELETE", path).status == 204
    assert client.call("DELETE", path).status == 204  # an answer that was lost may be repeated
    assert client.details(queue)["consumed"] == 1
    assert client.ask("PATCH", path, {"extend": "5s"}).code == "lease-expired"


def test_a_lease_is_extended_and_released(client: Client, queue: str) -> None:
    client.put(queue, b"1")
    path = f"/queues/{queue}/leases/{client.receive(queue).headers['Queue-Lease']}"
    for extension in ("45s", 45, "500ms", 0.5, "12h"):
        assert client.ask("PATCH", path, {"extend": extension}).status == 204
    assert client.call("POST", f"{path}/release").status == 204
    again = client.receive(queue)
    assert (again.body, again.headers["Queue-Attempts"]) == (b"1", "2")
    path = f"/queues/{queue}/leases/{again.headers['Queue-Lease']}"
    assert client.ask("POST", f"{path}/release", {"delay": "12h"}).status == 204
    assert client.details(queue)["delayed"] == 1
    assert client.call("DELETE", path).code == "lease-expired"


def test_a_lease_that_ends_is_handed_out_again_to_who_waits(client: Client, queue: str) -> None:
    client.put(queue, b"1", b"2")
    assert client.receive(queue, "lease=50ms").headers["Queue-Attempts"] == "1"
    assert client.receive(queue, "lease=0").body == b"2"
    again = client.receive(queue, "wait=20s")
    assert (again.body, again.headers["Queue-Attempts"]) == (b"1", "2")


def test_many_leases_in_one_request(client: Client, queue: str) -> None:
    client.put(queue, *(b"%d" % n for n in range(5)))
    leases = [line["lease"] for line in client.receive(queue, "max=5").lines]
    path = f"/queues/{queue}/leases"
    releases = [{"lease": leases[3]}, {"lease": leases[4], "delay": "1h"}]
    given = {"ack": [*leases[:3], "nonsense"], "release": [*releases, {"lease": leases[0]}]}
    assert client.ask("POST", path, given).json == {
        "acknowledged": 3,
        "released": 2,
        "expired": [leases[0]],
        "unknown": ["nonsense"],
    }
    details = client.details(queue)
    assert (details["consumed"], details["ready"], details["delayed"]) == (3, 1, 1)


def test_dead_letters_tell_where_they_come_from(client: Client, queue: str) -> None:
    options = {"max_attempts": 1, "dead_letter": f"{queue}-dead", "lease_s": 0.05}
    assert client.ask("PUT", f"/queues/{queue}", options).status == 201
    client.call("POST", f"/queues/{queue}/messages", b"1", "text/plain")
    client.ask("PUT", f"/queues/{queue}-dead")
    assert client.receive(queue).status == 200
    dead = client.receive(f"{queue}-dead", "wait=20s&lease=30s")
    assert (dead.body, dead.headers["Content-Type"]) == (b"1", "text/plain")
    assert dead.headers["Queue-Dead"].startswith(f"queue={queue}; sequence=1; attempts=1; put=")
    (line,) = client.call("GET", f"/queues/{queue}-dead/messages").lines
    assert line["dead"] == [dead.headers["Queue-Dead"]]


# ------------------------------------------------------------ look


def test_looking_changes_nothing(client: Client, queue: str) -> None:
    client.put(queue, *(b"%d" % n for n in range(4)))
    client.receive(queue, "lease=0")
    lease = client.receive(queue).headers["Queue-Lease"]
    delayed = client.receive(queue).headers["Queue-Lease"]
    client.ask("POST", f"/queues/{queue}/leases/{delayed}/release", {"delay": "1h"})
    states = ["consumed", "leased", "delayed", "ready"]
    for sequence, state in enumerate(states, 1):
        found = client.call("GET", f"/queues/{queue}/messages/{sequence}")
        assert (found.status, found.body) == (200, b"%d" % (sequence - 1))
        assert found.headers["Queue-State"] == state
        head = client.call("HEAD", f"/queues/{queue}/messages/{sequence}")
        assert {**head.headers, "Date": ""} == {**found.headers, "Date": ""}
        assert head.body == b""
    lines = client.call("GET", f"/queues/{queue}/messages").lines
    assert [line["state"] for line in lines] == states
    lines = client.call("GET", f"/queues/{queue}/messages?from=2&limit=2").lines
    assert [line["sequence"] for line in lines] == [2, 3]
    assert client.call("GET", f"/queues/{queue}/messages/5").code == "not-yet-written"
    assert client.call("GET", f"/queues/{queue}/messages?from=5").body == b""
    assert client.call("DELETE", f"/queues/{queue}/leases/{lease}").status == 204


def test_what_was_freed_is_gone(client: Client, queue: str) -> None:
    for _ in range(4):
        client.put(queue, b"x" * 50_000)
    assert client.call("POST", f"/queues/{queue}/purge").json == {"purged": 4}
    gone = client.call("GET", f"/queues/{queue}/messages/1")
    assert (gone.status, gone.code) == (410, "compacted")


# ------------------------------------------------------------ queues


def test_the_life_of_a_queue(client: Client, queue: str) -> None:
    path = f"/queues/{queue}"
    assert client.call("GET", path).code == "no-such-queue"
    created = client.ask("PUT", path, {"max_length": 10, "lease_s": 7})
    assert (created.status, created.headers["Location"]) == (201, f"/v1{path}")
    assert created.json["options"] == {
        "max_length": 10,
        "max_age_s": 0.0,
        "lease_s": 7.0,
        "max_attempts": 0,
        "dead_letter": None,
        "retain_bytes": 0,
        "retain_s": 0.0,
        "paused": False,
    }
    assert client.ask("PUT", path, {"lease_s": 7, "max_length": 10}).status == 200
    assert client.ask("PUT", path, {"max_length": 11}).code == "queue-exists"
    client.put(queue, *[b"x"] * 10)
    changed = client.call("PATCH", path, b'{"lease_s":8}', "application/merge-patch+json")
    assert changed.json["options"] == {**created.json["options"], "lease_s": 8.0}
    details = client.details(queue)
    assert {key: details[key] for key in ("name", "first", "last", "consumed", "ready")} == {
        "name": queue,
        "first": 1,
        "last": 10,
        "consumed": 0,
        "ready": 10,
    }
    assert client.call("POST", f"{path}/purge").json == {"purged": 10}
    assert client.call("DELETE", path).status == 204
    assert client.call("DELETE", path).code == "no-such-queue"


def test_pause_and_resume(client: Client, queue: str) -> None:
    client.put(queue, b"1")
    paused = client.call("POST", f"/queues/{queue}/pause")
    assert paused.json["options"]["paused"] is True  # type: ignore[index]
    assert client.receive(queue).status == 204
    assert client.put(queue, b"2").status == 201
    assert client.call("POST", f"/queues/{queue}/resume").status == 200
    assert client.receive(queue).body == b"1"


def test_the_list_in_pages(tmp_path: Path) -> None:
    names = ["", "%20", "a", "b%2Fc", "%C3%A9", "%FF"]
    with running(tmp_path) as daemon, Client(daemon.port) as client:
        for name in names:
            client.put(name, b"1")
        client.put("a", b"2")
        seen: list[dict[str, object]] = []
        page = client.call("GET", "/queues?limit=4").json
        while True:
            seen += page["queues"]  # type: ignore[arg-type]
            if page["next"] is None:
                break
            page = client.call("GET", f"/queues?limit=4&after={page['next']}").json
        assert [each["name"] for each in seen] == names
        assert [each["unread"] for each in seen] == [1, 1, 2, 1, 1, 1]
        assert set(seen[0]) == {"name", "unread", "last", "waiting", "bytes_on_disk", "damaged"}


# ------------------------------------------------------------ HTTP


def test_methods(client: Client, queue: str) -> None:
    options = client.call("OPTIONS", f"/queues/{queue}")
    assert (options.status, options.body) == (204, b"")
    assert options.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"
    assert "Content-Length" not in options.headers
    wrong = client.call("DELETE", f"/queues/{queue}/messages")
    assert (wrong.status, wrong.code) == (405, "method-not-allowed")
    assert wrong.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


def test_one_server_speaks_both_on_one_connection(daemon: Daemon, queue: str) -> None:
    v1 = b"POST /v1/queues/%b/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1"
    get = b"GET /?name=%b&opt=get HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = (v1 + get) % (queue.encode(), queue.encode())
    absolute = b"GET http://x/v1/queues/%b HTTP/1.1\r\nHost: x\r\n\r\n" % queue.encode()
    answer = daemon.talk(sent + absolute)
    assert answer.count(b"HTTP/1.1 201 Created\r\n") == 1
    assert b"Pos: 1\r\n" in answer
    assert b'"consumed":1' in answer


def test_a_client_that_asks_before_it_sends(daemon: Daemon, queue: str) -> None:
    head = f"POST /v1/queues/{queue}/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    with daemon.connect() as client:
        client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"1")
        assert client.recv(65536).startswith(b"HTTP/1.1 201 Created\r\n")


def test_chunks(client: Client, daemon: Daemon, queue: str) -> None:
    head = f"POST /v1/queues/{queue}/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    answer = daemon.talk(f"{head}\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 201 Created\r\n")
    assert client.receive(queue).body == b"abcde"


def test_http_1_0(daemon: Daemon, queue: str) -> None:
    answer = daemon.talk(b"GET /v1/queues/%b HTTP/1.0\r\n\r\n" % queue.encode())
    assert answer.startswith(b"HTTP/1.0 404 Not Found\r\n")


def test_the_same_bytes_however_they_are_cut(daemon: Daemon, queue: str) -> None:
    body = framed([b"a", b"bc"])
    head = f"POST /v1/queues/{queue}/messages/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {FRAMES}"
    whole = f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with daemon.connect() as client:
        for at in range(len(whole)):
            client.sendall(whole[at : at + 1])
        assert client.recv(65536).startswith(b"HTTP/1.1 201 Created\r\n")
