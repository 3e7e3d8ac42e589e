"""How fast is the v1 API: batches, leases, long polls, against their targets.

One daemon for each durability mode, and this process as the only client; both share the machine's
cores, so the rate of a row depends on what else runs.  What does not: the processor time of the
daemon for each message, and the rate that a whole core would give.

  python -m tools.bench_v1                   all rows: a table, and build/bench/v1.json
  python -m tools.bench_v1 --rows wake,park  some
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tools.benchmark import processes, report
from tools.benchmark.targets import Target

BATCH = 1000  # messages
SIZE = 100  # bytes of each
ACKNOWLEDGED = 100  # leases in a request
LEASERS = 2  # connections that receive and acknowledge; one alone waits for the client's parsing
LATENCIES = 2000
PARKED, PARKED_QUEUES = 5000, 1000
PARKED_PUTS = 2000
PARKED_BYTES_MAX = 12 * 1024
RECEIVED_BYTES = 1 << 20
RECEIVED_BATCHES_S, LEASED_BATCHES_S = 1000, 200  # filled in for each second
FRAMES = "application/vnd.logqueue.frames"
NDJSON = "application/x-ndjson"


class Connection:
    """A client's connection that says what it was told to, byte for byte."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(RECEIVED_BYTES)

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def ask(self, request: bytes) -> bytes:
        """One exchange; the body, which must come with a 2xx."""
        self.socket.sendall(request)
        return self.answer()

    def answer(self) -> bytes:
        """The body of the next answer."""
        view, got, end = memoryview(self._buffer), 0, -1
        while end < 0:
            got += self._more(view[got:])
            end = self._buffer.find(b"\r\n\r\n", 0, got)
        head = bytes(self._buffer[:end])
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(head.decode())
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or b"0")
        while got < end + 4 + length:
            got += self._more(view[got:])
        return bytes(view[end + 4 : got])

    def _more(self, into: memoryview) -> int:
        count = self.socket.recv_into(into)
        if not count:
            raise RuntimeError("the daemon hung up")
        return count


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request to /v1`path`."""
    lines = [f"{method} /v1{path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Served(NamedTuple):
    """A running daemon."""

    port: int
    pid: int

    def connect(self) -> Connection:
        """A new connection."""
        return Connection(self.port)

    @property
    def resident_bytes(self) -> int:
        """Its memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


class Row(NamedTuple):
    """What was measured: a figure, and what the daemon's processor says about it."""

    target: Target
    unit: str
    daemon_us: float | None = None  # of its processor, a message


def _rate(served: Served, what: str, least: float, seconds: float, step: Callable[[], int]) -> Row:
    """Repeat `step`, which tells how many messages it has moved."""
    step()
    processor, began = processes.processor_s([served.pid]), time.perf_counter()
    count = 0
    while (elapsed := time.perf_counter() - began) < seconds:
        count += step()
    used = (processes.processor_s([served.pid]) - processor) / count
    note = f"{1 / used:,.0f} /s on a core of its own" if used else ""
    return Row(Target(what, count / elapsed, least=least, note=note), "messages/s", used * 1e6)


# ---------------------------------------------------------------- the rows


def _messages() -> list[bytes]:
    return [f"{number:06d}".encode().ljust(SIZE, b"x") for number in range(BATCH)]


def _frames() -> bytes:
    return b"".join(len(each).to_bytes(4, "big") + each for each in _messages())


def _large_queue(connection: Connection, name: str) -> str:
    body = b'{"max_length":1000000000}'
    connection.ask(request("PUT", f"/queues/{name}", body, Content_Type="application/json"))
    return f"/queues/{name}"


def _put(served: Served, name: str, least: float, seconds: float, kind: str, body: bytes) -> Row:
    with ExitStack() as stack:
        connection = served.connect()
        stack.callback(connection.close)
        queue = _large_queue(connection, name)
        put = request("POST", f"{queue}/messages/batch", body, Content_Type=kind)

        def step() -> int:
            connection.ask(put)
            return BATCH

        return _rate(served, "", least, seconds, step)


def put_frames(served: Served, seconds: float, least: float) -> Row:
    """Batch put of frames on one connection."""
    return _put(served, "frames", least, seconds, FRAMES, _frames())


def put_lines(served: Served, seconds: float, least: float) -> Row:
    """Batch put of NDJSON on one connection."""
    body = b"".join(b'{"data":"%b"}\n' % each for each in _messages())
    return _put(served, "lines", least, seconds, NDJSON, body)


def _filled(connection: Connection, name: str, batches: int) -> str:
    queue = _large_queue(connection, name)
    put = request("POST", f"{queue}/messages/batch", _frames(), Content_Type=FRAMES)
    for _ in range(batches):
        connection.ask(put)
    return queue


def receive_frames(served: Served, seconds: float, least: float) -> Row:
    """Batch receive with lease 0 on one connection."""
    with ExitStack() as stack:
        connection = served.connect()
        stack.callback(connection.close)
        queue = _filled(connection, "received", int(RECEIVED_BATCHES_S * seconds))
        path = f"{queue}/messages/receive?max={BATCH}&lease=0"
        receive = request("POST", path, Accept=FRAMES)

        def step() -> int:
            received = len(connection.ask(receive)) // (SIZE + 4)
            if not received:
                raise RuntimeError("the queue is empty: this daemon is faster than foreseen")
            return received

        return _rate(served, "", least, seconds, step)


def leases(served: Served, seconds: float, least: float) -> Row:
    """Receive and acknowledge in bulk, the requests of some connections in turn."""
    with ExitStack() as stack:
        connections = [served.connect() for _ in range(LEASERS)]
        for each in connections:
            stack.callback(each.close)
        queue = _filled(connections[0], "leased", int(LEASED_BATCHES_S * seconds))
        path = f"{queue}/messages/receive?max={ACKNOWLEDGED}&lease=60s"
        receive = request("POST", path, Accept=FRAMES)
        for each in connections:
            each.socket.sendall(receive)
        stride = 4 + 40 + 4 + SIZE

        def step() -> int:
            moved = 0
            for each in connections:
                body = each.answer()
                moved += len(body) // stride
                tokens = [body[at + 4 : at + 44].decode() for at in range(0, len(body), stride)]
                given = json.dumps({"ack": tokens}).encode()
                acknowledge = request(
                    "POST", f"{queue}/leases", given, Content_Type="application/json"
                )
                each.socket.sendall(acknowledge)
            for each in connections:
                each.answer()
                each.socket.sendall(receive)
            return moved

        row = _rate(served, "", least, seconds, step)
        for each in connections:
            each.answer()
        return row


def _put_one(queue: str) -> bytes:
    return request("POST", f"{queue}/messages", b"x" * SIZE, Content_Type="text/plain")


def _percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def wake(served: Served) -> Iterator[Row]:
    """From sending a put to the parked consumer's having the message."""
    with ExitStack() as stack:
        producer, consumer = served.connect(), served.connect()
        stack.callback(producer.close)
        stack.callback(consumer.close)
        queue = _large_queue(producer, "woken")
        put = _put_one(queue)
        receive = request("POST", f"{queue}/messages/receive?lease=0&wait=60s")
        waiting = request("GET", queue)
        latencies = []
        for _ in range(LATENCIES):
            consumer.socket.sendall(receive)
            while b'"waiting":1' not in producer.ask(waiting):
                pass
            began = time.perf_counter()
            producer.socket.sendall(put)
            consumer.answer()
            latencies.append((time.perf_counter() - began) * 1000)
            producer.answer()
    what = "put to wake of a parked long poll, ms"
    yield Row(Target(f"{what}, p50", _percentile(latencies, 0.5), most=0.5), "ms")
    yield Row(Target(f"{what}, p99", _percentile(latencies, 0.99), most=3.0), "ms")


def park(served: Served) -> Iterator[Row]:
    """Thousands of parked long polls: their memory, and what they do to puts."""
    with ExitStack() as stack:
        producer = served.connect()
        stack.callback(producer.close)
        queues = [_large_queue(producer, f"parked{number}") for number in range(PARKED_QUEUES)]
        busy = _put_one(_large_queue(producer, "busy"))
        unloaded = _latencies(producer, busy)
        before = served.resident_bytes
        parked = []
        for number in range(PARKED):
            each = served.connect()
            stack.callback(each.close)
            path = f"{queues[number % PARKED_QUEUES]}/messages/receive?wait=60s&lease=0"
            each.socket.sendall(request("POST", path))
            parked.append(each.socket)
        want = PARKED // PARKED_QUEUES
        while b'"waiting":%d' % want not in producer.ask(request("GET", queues[-1])):
            time.sleep(0.01)
        loaded = _latencies(producer, busy)
        held = (served.resident_bytes - before) / PARKED
        silent = not select.select(parked[:1], [], [], 0)[0]
    if not silent:
        raise RuntimeError("a long poll was answered before its time: this machine is too slow")
    what = f"{PARKED} parked long polls on {PARKED_QUEUES} queues"
    yield Row(Target(f"{what}, bytes each", held, most=PARKED_BYTES_MAX), "bytes")
    ratio = _percentile(loaded, 0.99) / _percentile(unloaded, 0.99)
    note = "p50 {:.3f} to {:.3f} ms, p99 {:.3f} to {:.3f} ms".format(
        *(_percentile(each, part) for part in (0.5, 0.99) for each in (unloaded, loaded))
    )
    yield Row(Target(f"{what}, p99 of a put to unloaded", ratio, most=2.0, note=note), "times")


def _latencies(connection: Connection, put: bytes) -> list[float]:
    found = []
    for _ in range(PARKED_PUTS):
        began = time.perf_counter()
        connection.ask(put)
        found.append((time.perf_counter() - began) * 1000)
    return found


# ---------------------------------------------------------------- all of it

Measured = tuple[str, str, str, Callable[[Served, float], Row]]

RATES: tuple[Measured, ...] = (
    ("put", "interval", "batch put, frames", lambda s, t: put_frames(s, t, 300_000)),
    ("put", "always", "batch put, frames", lambda s, t: put_frames(s, t, 250_000)),
    ("receive", "interval", "batch receive, lease 0", lambda s, t: receive_frames(s, t, 300_000)),
    ("receive", "always", "batch receive, lease 0", lambda s, t: receive_frames(s, t, 300_000)),
    ("lines", "interval", "batch put, NDJSON", lambda s, t: put_lines(s, t, 100_000)),
    ("lease", "interval", "receive and acknowledge 100", lambda s, t: leases(s, t, 60_000)),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit status is 1 when a target was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="put,receive,lines,lease,wake,park")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each rate and round")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument(
        "--output", type=Path, default=Path("build/bench"), help="results and data; on a real disk"
    )
    given = parser.parse_args(argv)
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    given.output.mkdir(parents=True, exist_ok=True)
    rows = list(_measure(given.rows.split(","), given))
    print(_table(rows))
    found = [{**row.target._asdict(), "daemon_us": row.daemon_us} for row in rows]
    (given.output / "v1.json").write_text(
        json.dumps({"machine": report.machine(), "rows": found}, indent=1)
    )
    return 1 if any(row.target.verdict == "MISSED" for row in rows) else 0


def _measure(names: Sequence[str], given: argparse.Namespace) -> Iterator[Row]:
    for name, durability, what, measure in RATES:
        if name in names:
            found = []
            for _ in range(given.rounds):
                with _daemon(given.output, durability) as served:
                    found.append(measure(served, given.seconds))
            row = _median(found)
            label = f"{what}, {durability}"
            yield row._replace(target=row.target._replace(what=label))
            print(f"{label}: {row.target.reached:,.0f}", file=sys.stderr)
    for name, more in (("wake", wake), ("park", park)):
        if name in names:
            with _daemon(given.output, "interval") as served:
                yield from more(served)
            print(name, file=sys.stderr)


def _median(rows: list[Row]) -> Row:
    middle = statistics.median_low([row.target.reached or 0 for row in rows])
    return next(row for row in rows if row.target.reached == middle)


class _daemon(ExitStack):
    """A daemon of its own, with an empty directory."""

    def __init__(self, output: Path, durability: str) -> None:
        super().__init__()
        directory = self.enter_context(TemporaryDirectory(dir=output, prefix="v1-"))
        service = self.enter_context(processes.logqueued(Path(directory).resolve(), durability))
        self.served = Served(int(service.url.rpartition(":")[2]), service.pids[0])

    def __enter__(self) -> Served:  # type: ignore[override]
        return self.served


def _table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        target = row.target
        digits = 2 if (target.reached or 0) < 100 else 0
        cost = "" if row.daemon_us is None else f"{row.daemon_us:.2f}"
        wanted = target.least if target.least is not None else target.most
        sign = ">=" if target.least is not None else "<="
        lines.append(
            [
                target.what,
                f"{sign} {wanted:,g}",
                f"{target.reached:,.{digits}f} {row.unit}",
                target.verdict,
                cost,
                target.note,
            ]
        )
    header = ["what", "wanted", "reached", "verdict", "processor, us a message", "remarks"]
    return report.table(header, lines)


if __name__ == "__main__":
    sys.exit(main())
