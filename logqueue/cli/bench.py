"""`logqueue bench`: how fast a server is, as a client sees it."""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import NamedTuple

from logqueue.cli.output import REDRAW_S, Output, Progress
from logqueue.cli.session import Commands, add_form, add_server, command, connect, whole
from logqueue.cli.status import Status
from logqueue.errors import LogqueueError
from logqueue.options import MAX_LENGTH_MIN

QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "max_ms": 1.0}


class Done(NamedTuple):
    """One request: how many messages, how long it took."""

    messages: int
    seconds: float


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "bench",
        _bench,
        "measure how fast a server is",
        "Put messages into a queue of its own and get them again, over some connections at "
        "once, and print rates and how long requests took. The queue is deleted afterwards; "
        "others are not touched.\n\n"
        "All of it runs in one process of Python, which is busy before a server is: some "
        "thousand requests a second. So it tells what such a client can expect, and compares "
        "machines, disks and settings; with --batch far less of the time is the client's. "
        "docs/performance.md has the server's limits.",
        "  logqueue bench\n  logqueue bench --messages 1000000 --batch 1000 --connections 2\n"
        "  logqueue bench --connections 64 --size 1000 --url https://queue.example.org:1218",
    )
    for option, default, text in (
        ("--messages", 10_000, "messages"),
        ("--size", 100, "bytes of each"),
        ("--connections", 8, "connections, each with one request at a time"),
        ("--batch", 1, "messages in a request, at most 10000"),
    ):
        parser.add_argument(
            option, metavar="N", type=whole, default=default, help=f"{text} (default: {default})"
        )
    add_form(parser)
    add_server(parser)


def _bench(given: Namespace) -> Status:
    body = os.urandom(given.size)
    queue = f"bench-{secrets.token_hex(8)}"
    with connect(given) as client:
        client.create(queue, max_length=max(MAX_LENGTH_MIN, given.messages + 1))

        def put(most: int) -> int:
            if given.batch == 1:
                client.put(queue, body)
                return 1
            return client.put_many(queue, [body] * most).count

        def get(most: int) -> int:
            found = client.lease(queue, most, lease_s=0.0)
            if not found:
                raise LogqueueError(f"{queue}: messages are missing; who else reads this queue?")
            return len(found)

        try:
            rows = [_phase(given, "put", put), _phase(given, "get", get)]
        finally:
            client.delete(queue)
    Output(given).show(list(rows[0]), rows)
    return Status.DONE


def _phase(given: Namespace, name: str, request: Callable[[int], int]) -> dict[str, object]:
    """Run requests on all connections until all messages are done; the figures."""
    done: list[Done] = []  # appending is atomic
    stop = threading.Event()
    start = time.monotonic()
    with ThreadPoolExecutor(given.connections) as threads, Progress(name) as progress:
        try:
            left = {
                threads.submit(_connection, request, share, given.batch, done, stop)
                for share in _shares(given.messages, given.connections)
            }
            while left:
                ended, left = wait(left, REDRAW_S, FIRST_COMPLETED)
                for each in ended:
                    each.result()
                progress.at(sum(each.messages for each in done), given.messages)
        finally:
            stop.set()
    return figures(name, done, time.monotonic() - start, given.size)


def _shares(messages: int, connections: int) -> list[int]:
    """Messages for each connection, as even as can be."""
    return [(messages + number) // connections for number in range(connections)]


def _connection(
    request: Callable[[int], int], left: int, batch: int, done: list[Done], stop: threading.Event
) -> None:
    while left and not stop.is_set():
        start = time.perf_counter()
        messages = request(min(batch, left))
        done.append(Done(messages, time.perf_counter() - start))
        left -= messages


def figures(name: str, done: list[Done], seconds: float, size: int) -> dict[str, object]:
    """A row of the table."""
    latencies = sorted(each.seconds for each in done)
    messages = sum(each.messages for each in done)
    row: dict[str, object] = {
        "phase": name,
        "messages": messages,
        "seconds": round(seconds, 2),
        "messages_per_s": round(messages / seconds),
        "mb_per_s": round(messages * size / seconds / 1e6, 2),
    }
    for quantile, part in QUANTILES.items():
        place = max(0, math.ceil(part * len(latencies)) - 1)
        row[quantile] = round(latencies[place] * 1000, 3)
    return row
