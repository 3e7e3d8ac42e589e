"""`logqueue status`, `queues`, `peek` and `purge`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from datetime import UTC, datetime

from logqueue.cli.output import Output, escape, message_row
from logqueue.cli.session import Commands, add_form, add_server, command, connect, whole
from logqueue.cli.status import Status
from logqueue.client import Client, Message
from logqueue.client.operations import LIST_LIMIT
from logqueue.errors import UsageError

SHOWN = 60  # characters of a message in a table


def add(commands: Commands) -> None:
    """Declare the commands."""
    parser = command(
        commands,
        "status",
        _status,
        "how a queue is, or the whole server",
        "Without QUEUE: whether the server takes work (exit status 1 when it does not), and "
        "what its queues hold together. With QUEUE: its options and what it holds.",
        "  logqueue status\n  logqueue status jobs\n  logqueue status --json jobs | jq .ready",
    )
    parser.add_argument("queue", metavar="QUEUE", nargs="?", help="name of a queue")
    _add_common(parser)

    parser = command(
        commands,
        "queues",
        _queues,
        "list all queues",
        "List all queues in byte order of their names: unread messages, the newest sequence, "
        "long polls that wait, bytes on disk, and whether it is damaged.",
        "  logqueue queues\n  logqueue queues --json | jq -r 'select(.unread > 1000).name'",
    )
    _add_common(parser)

    parser = command(
        commands,
        "peek",
        _peek,
        "look at messages",
        "Look at messages without taking them. Consumed ones are shown too while they are on "
        "the disk.",
        "  logqueue peek jobs\n  logqueue peek --from 1000 --limit 5 --json jobs",
    )
    parser.add_argument("queue", metavar="QUEUE", help="name of the queue")
    parser.add_argument(
        "--from",
        dest="sequence",
        metavar="SEQUENCE",
        type=whole,
        help="begin there (default: the oldest message that is not consumed)",
    )
    parser.add_argument(
        "--limit", metavar="N", type=whole, default=10, help="so many (default: 10, at most 1000)"
    )
    _add_common(parser)

    parser = command(
        commands,
        "purge",
        _purge,
        "consume all messages of a queue",
        "Consume all messages that are in QUEUE, leased ones included: they are gone. On a "
        "terminal the command asks first.",
        "  logqueue purge jobs\n  logqueue purge --yes jobs",
    )
    parser.add_argument("queue", metavar="QUEUE", help="name of the queue")
    parser.add_argument("--yes", action="store_true", help="do not ask; needed without a terminal")
    _add_common(parser)


def _add_common(parser: ArgumentParser) -> None:
    add_form(parser)
    add_server(parser)


def _status(given: Namespace) -> Status:
    with connect(given) as client:
        if given.queue is None:
            return _server_status(client, given)
        details = asdict(client.describe(given.queue))
    output = Output(given)
    if not output.as_json:
        details |= details.pop("options")
    output.record(details)
    return Status.DONE


def _server_status(client: Client, given: Namespace) -> Status:
    ready, reasons = client.ready()
    found = list(client.queues())
    damaged = [each.name for each in found if each.damaged]
    row: dict[str, object] = {
        "url": client.endpoint.name,
        "ready": ready,
        "reasons": "" if ready else reasons,
        "queues": len(found),
        "unread": sum(each.unread for each in found),
        "waiting": sum(each.waiting for each in found),
        "bytes_on_disk": sum(each.bytes_on_disk for each in found),
        "damaged": damaged,
    }
    output = Output(given)
    if not output.as_json:
        row["damaged"] = " ".join(damaged)
    output.record(row)
    return Status.DONE if ready else Status.FAILED


def _queues(given: Namespace) -> Status:
    columns = ("name", "unread", "last", "waiting", "bytes_on_disk", "damaged")
    with connect(given) as client:
        Output(given).show(columns, map(asdict, client.queues()))
    return Status.DONE


def _peek(given: Namespace) -> Status:
    if given.limit > LIST_LIMIT:
        raise UsageError(f"--limit is at most {LIST_LIMIT}; the next ones are shown by --from")
    with connect(given) as client:
        start = given.sequence or client.describe(given.queue).consumed + 1
        messages = client.peek(given.queue, start, given.limit)
    output = Output(given)
    if output.as_json:
        output.show((), map(message_row, messages))
    else:
        columns = ("sequence", "state", "put at", "attempts", "bytes", "type", "message")
        output.show(columns, map(_shown, messages))
    return Status.DONE


def _shown(message: Message) -> dict[str, object]:
    """A message for people: one line."""
    text = message.body[: 4 * SHOWN].decode("utf-8", "replace")
    short = "".join(each if each.isprintable() else escape(each) for each in text)
    when = datetime.fromtimestamp(message.time_ms / 1000, UTC)
    return {
        "sequence": str(message.sequence),
        "state": message.state,
        "put at": when.isoformat(" ", "seconds").removesuffix("+00:00"),
        "attempts": message.attempts,
        "bytes": len(message.body),
        "type": message.content_type,
        "message": short if len(short) <= SHOWN else short[: SHOWN - 3] + "...",
    }


def _purge(given: Namespace) -> Status:
    if not given.yes and not _agreed(given.queue):
        raise UsageError("nothing was purged; say --yes")
    with connect(given) as client:
        Output(given).record({"purged": client.purge(given.queue)})
    return Status.DONE


def _agreed(queue: str) -> bool:
    if not sys.stdin.isatty():
        return False
    print(f"Consume all messages of {queue!r}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
