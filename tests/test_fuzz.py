"""The request layer of a real daemon under bytes that nobody should send.

Requests of all kinds, spliced, edited and cut into pieces anywhere, a few thousand connections of
them.  The daemon may refuse, and must do so in HTTP; it may not fail, hang, or keep anything.
FUZZ_INPUTS says how many (`make fuzz`: 100,000).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.daemon import Daemon, running
from tests.test_http_vectors import ANSWERED, REFUSED

INPUTS = int(os.environ.get("FUZZ_INPUTS", "10000"))
HANG_S = 10.0
GROWTH_BYTES_MAX = 300  # of memory for each input of the second half: what is remembered is bounded
LIMITS = (
    "--max-queues=30 --max-open-queues=8 --max-body-bytes=20000 --max-target-bytes=20000 "
    "--max-header-bytes=20000 --max-headers=50 --durability=os --reserve-bytes=0"
)

_JSON = b"Content-Type: application/json\r\n"
V1 = [
    (b"GET", b"/v1/queues", b""),
    (b"GET", b"/v1/openapi.json", b""),
    (b"PUT", b"/v1/queues/a", _JSON),
    (b"PATCH", b"/v1/queues/a", _JSON),
    (b"GET", b"/v1/queues/%41", b""),
    (b"DELETE", b"/v1/queues/a", b""),
    (b"POST", b"/v1/queues/a/purge", b""),
    (b"POST", b"/v1/queues/a/pause", b""),
    (b"POST", b"/v1/queues/a/resume", b""),
    (b"POST", b"/v1/queues/a/messages", b"Content-Type: a/b\r\n"),
    (b"POST", b"/v1/queues/a/messages/batch", b"Content-Type: application/x-ndjson\r\n"),
    (
        b"POST",
        b"/v1/queues/a/messages/batch",
        b"Content-Type: application/vnd.logqueue.frames\r\n",
    ),
    (b"POST", b"/v1/queues/a/messages/receive?lease=1s&max=3&wait=0", b"Accept: */*\r\n"),
    (b"GET", b"/v1/queues/a/messages/1", b""),
    (b"GET", b"/v1/queues/a/messages?from=1&limit=2", b""),
    (b"DELETE", b"/v1/queues/a/leases/1-1-1", b""),
    (b"PATCH", b"/v1/queues/a/leases/1-1-1?lease=1s", b""),
    (b"POST", b"/v1/queues/a/leases", _JSON),
]
BODIES = [
    b"",
    b"message",
    b"%41+%zz",
    b"{}",
    b'{"max_length":10,"lease_s":1}',
    b'{"data":"x"}\n{"data_b64":"eA=="}\n',
    b"\0\0\0\x01x\0\0\0\0",
    b'{"ack":["1-1-1"],"release":[]}',
    b"[" * 3000,
]
LEGACY = [b"put&data=x", b"get", b"status", b"status_json", b"view&pos=1", b"reset", b"queues"]
LEGACY += [b"maxqueue&num=10", b"synctime&num=1"]


def shapes() -> Iterator[bytes]:
    """Requests of all kinds, whole."""
    yield from ANSWERED.values()
    yield from (request for _, request in REFUSED.values() if len(request) < 1000)
    for (method, target, lines), body in itertools.product(V1, BODIES):
        head = b"%b %b HTTP/1.1\r\nHost: h\r\n%bContent-Length: %d\r\n\r\n"
        yield head % (method, target, lines, len(body)) + body
    for operation, close in itertools.product(LEGACY, (b"", b"Connection: close\r\n")):
        yield b"GET /?name=a&opt=%b HTTP/1.1\r\n%b\r\n" % (operation, close)
    for body in BODIES:
        chunked = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        head = b"POST /?name=a&opt=put HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        yield head + chunked + b"0\r\n\r\n"


SHAPES = list(shapes())
FRAGMENTS = [bytes([byte]) for byte in b"\r\n\0 :&=%+?#/\xff\x0b"]
FRAGMENTS += [b"\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET ", b"HEAD ", b"0\r\n\r\n", b"a:b\r\n" * 60]
FRAGMENTS += [b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"x" * 21_000]
FRAGMENTS += [b"Expect: 100-continue\r\n", b"name=", b"/v1/queues/", b"wait=1s&", b"9" * 30, b"-1"]


def pieces(program: bytes) -> list[bytes]:
    """Carry out what the bytes of a `program` say: splice, edit and cut.

    One draw for each input, read here, costs a quarter of hypothesis drawing every number.
    """
    numbers = iter(program)

    def number(end: int) -> int:
        return (next(numbers, 0) << 8 | next(numbers, 0)) % end

    data = b"".join(SHAPES[number(len(SHAPES))] for _ in range(1 + number(3)))
    for _ in range(number(5)):
        at, inserted = number(len(data) + 1), FRAGMENTS[number(len(FRAGMENTS))]
        data = data[:at] + inserted + data[at + number(9) :]
    edges = [0, *sorted(number(len(data) + 1) for _ in range(number(4))), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def exchange(port: int, sent: list[bytes]) -> bytes:
    """Send the pieces on a connection of their own; all that comes back.  Hanging fails."""
    with socket.create_connection(("127.0.0.1", port), HANG_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        try:
            for piece in sent:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        except TimeoutError:
            raise
        except OSError:  # it has refused already, and closed
            pass
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(1 << 16):
                received += data
        return received


def held(daemon: Daemon) -> tuple[int, int]:
    """Bytes of memory that are its own, and open connections besides ours."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    connections = re.search(rb"\nlogqueue_connections (\d+)", daemon.talk(METRICS))
    assert found
    assert connections
    return int(found[1]) * 1024, int(connections[1]) - 1


METRICS = b"GET /metrics HTTP/1.0\r\n\r\n"


def test_requests_that_nobody_should_send(tmp_path: Path) -> None:
    count = itertools.count()
    halfway = 0

    @settings(
        max_examples=INPUTS,
        deadline=None,
        database=None,
        derandomize="FUZZ_INPUTS" not in os.environ,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=16, max_size=48))
    def fuzz(program: bytes) -> None:
        nonlocal halfway
        if next(count) == INPUTS // 2:
            halfway = held(daemon)[0]
        answer = exchange(daemon.port, pieces(program))
        assert not answer or answer.startswith((b"HTTP/1.", b"HTTP/0.")), answer[:100]
        assert b" 500 " not in answer.partition(b"\r\n")[0]
        assert "Traceback" not in daemon.log

    with running(tmp_path, LIMITS.split()) as daemon:
        fuzz()
        grown, left = held(daemon)
        assert left == 0
        assert grown - halfway < GROWTH_BYTES_MAX * INPUTS // 2
        assert daemon.ask("name=alive&opt=status_json")
        assert daemon.stop() == 0
        assert "a bug" not in daemon.log
