"""`logqueue put`."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict

from logqueue.cli.output import Output, Progress, say
from logqueue.cli.session import Commands, add_form, add_server, command, connect
from logqueue.cli.status import Status
from logqueue.client import Client
from logqueue.errors import LogqueueError, UsageError

READ_BYTES = 1 << 20  # lines that are there together are put together
LINE_BYTES_MAX = 64 << 20  # the server's limit for a body, unless it was told another
BATCH_MESSAGES = 10_000  # the server's limit


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "put",
        _put,
        "put messages into a queue",
        "Put MESSAGE into QUEUE, or what stands on stdin: as one message of any bytes, or "
        "with --lines each line as a message. The queue is made if need be. When the command "
        "ends with 0 the messages are as safe as the server's --durability promises.\n\n"
        "With --lines, lines that can be read together are put together, all of them or none; "
        "the others as they come, so a log can be piped in for ever. What was stored before "
        "an error is told.",
        "  logqueue put mail 'to: ann@example.org'\n"
        "  logqueue put --type image/jpeg photos < photo.jpg\n"
        "  tail -F access.log | logqueue put --lines hits",
    )
    parser.add_argument("queue", metavar="QUEUE", help="name of the queue")
    parser.add_argument(
        "message", metavar="MESSAGE", nargs="?", help="the message (default: stdin)"
    )
    parser.add_argument("--lines", action="store_true", help="each line of stdin is a message")
    parser.add_argument(
        "--type", metavar="TYPE", help="Content-Type of the message, given back with it"
    )
    add_form(parser)
    add_server(parser)


def _put(given: Namespace) -> Status:
    if given.lines and (given.message is not None or given.type is not None):
        raise UsageError(
            "--lines reads stdin, and lines have no --type; leave MESSAGE and --type out"
        )
    with connect(given) as client:
        if given.lines:
            return _put_lines(client, given)
        body = sys.stdin.buffer.read() if given.message is None else os.fsencode(given.message)
        stored = client.put(given.queue, body, content_type=given.type)
        Output(given).record(asdict(stored))
    return Status.DONE


def _put_lines(client: Client, given: Namespace) -> Status:
    first, last, count = 0, 0, 0
    try:
        with Progress(f"{given.queue}: lines") as progress:
            for lines in _batches():
                stored = client.put_many(given.queue, lines)
                first, last, count = first or stored.first, stored.last, count + stored.count
                progress.at(count)
    except BaseException:
        say(f"{count:,} lines were stored before this")
        raise
    Output(given).record({"first": first, "last": last, "count": count})
    return Status.DONE


def _batches() -> Iterator[list[bytes]]:
    """The lines of stdin without their ends, in groups of what is there at once."""
    begun: list[bytes] = []  # of a line whose end has not come
    while data := os.read(sys.stdin.fileno(), READ_BYTES):
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*begun, lines[0]])
            begun = []
        begun.append(rest)
        if sum(map(len, begun)) > LINE_BYTES_MAX:
            raise LogqueueError(f"stdin: a line exceeds {LINE_BYTES_MAX >> 20} MiB")
        for start in range(0, len(lines), BATCH_MESSAGES):
            yield lines[start : start + BATCH_MESSAGES]
    if any(begun):
        yield [b"".join(begun)]
