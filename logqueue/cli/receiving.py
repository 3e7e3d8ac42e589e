"""`logqueue get`, `ack` and `release`.

A message is acknowledged only after it has been written, or its program has ended well: what a full
disk, a closed pipe or a killed command has cut short comes back when the lease ends at the latest.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

from logqueue.cli.output import message_row, say, write
from logqueue.cli.program import perform
from logqueue.cli.session import Commands, add_server, command, connect, duration, whole
from logqueue.cli.status import Status
from logqueue.client import Client, Message
from logqueue.client.operations import POLL_S
from logqueue.errors import UsageError

AT_ONCE = 100  # messages in one request; what was not written of them is given back
LEASE_S = 30.0
AGAIN_MAX_S = 60.0  # a message whose program fails is tried again so much later at most


def add(commands: Commands) -> None:
    """Declare the commands."""
    _add_get(commands)
    _add_ack(commands)
    _add_release(commands)


def _add_get(commands: Commands) -> None:
    parser = command(
        commands,
        "get",
        _get,
        "take messages out of a queue",
        "Take the oldest message out of QUEUE and write it to stdout: its bytes and nothing "
        "else. With --max or --follow each message becomes a line. A message counts as taken "
        "when it has been written.\n\n"
        "With --exec, CMD is run by the shell for each message, which is its stdin. When CMD "
        "ends with 0 the message is acknowledged; otherwise it is given back, and comes again "
        "after 1 s, 2 s, 4 s ... 60 s (a queue with max_attempts moves it to its dead-letter "
        "queue in the end). While CMD runs the lease is extended, so CMD may take as long as "
        "it needs. CMD finds QUEUE_NAME, QUEUE_SEQUENCE, QUEUE_ATTEMPTS and "
        "QUEUE_CONTENT_TYPE in its environment.\n\n"
        "With --lease alone, messages are written as JSON and are yours for so long: logqueue "
        "ack takes their leases.",
        "  logqueue get --wait 20s mail\n"
        "  logqueue get --max 1000 hits > hits.txt\n"
        "  logqueue get --follow --exec 'ffmpeg -i - out/$QUEUE_SEQUENCE.mp4' videos\n"
        "  logqueue get --lease 1m jobs > job && work && jq -r .lease job | logqueue ack jobs -",
    )
    parser.add_argument("queue", metavar="QUEUE", help="name of the queue")
    parser.add_argument(
        "--wait",
        metavar="DURATION",
        type=duration,
        default=0.0,
        help="wait so long for the first message (default: 0s)",
    )
    parser.add_argument(
        "--follow", action="store_true", help="go on, and wait for more, until interrupted"
    )
    parser.add_argument(
        "--max",
        metavar="N",
        type=whole,
        help="so many messages (default: 1; with --follow: no end)",
    )
    parser.add_argument(
        "--lease",
        metavar="DURATION",
        type=duration,
        help=f"how long a message is yours (default: {LEASE_S:g}s)",
    )
    parser.add_argument("--exec", metavar="CMD", help="run CMD for each message")
    parser.add_argument("--json", action="store_true", help="write messages as JSON, one a line")
    add_server(parser)


def _add_ack(commands: Commands) -> None:
    parser = command(
        commands,
        "ack",
        _ack,
        "acknowledge leased messages",
        "Acknowledge messages that get --lease has given: they never come back. Doing it "
        "again is no error. Leases that have ended are told, with exit status 6; all others "
        "are acknowledged.",
        "  logqueue ack jobs AQAAAAAAAAAB...\n  jq -r .lease batch | logqueue ack jobs -",
    )
    parser.add_argument("queue", metavar="QUEUE", help="name of the queue")
    parser.add_argument(
        "leases", metavar="LEASE", nargs="+", help="a lease; - reads them from stdin"
    )
    add_server(parser)


def _add_release(commands: Commands) -> None:
    parser = command(
        commands,
        "release",
        _release,
        "give leased messages back",
        "Give messages that get --lease has given back to the queue, before their leases end.",
        "  logqueue release --delay 5m jobs AQAAAAAAAAAB...",
    )
    parser.add_argument("queue", metavar="QUEUE", help="name of the queue")
    parser.add_argument(
        "leases", metavar="LEASE", nargs="+", help="a lease; - reads them from stdin"
    )
    parser.add_argument(
        "--delay",
        metavar="DURATION",
        type=duration,
        default=0.0,
        help="hand them out again after so long (default: 0s)",
    )
    add_server(parser)


# ------------------------------------------------------------------ get


def _get(given: Namespace) -> Status:
    if given.exec is not None and given.json:
        raise UsageError("--exec gives messages to CMD and writes none; leave --json out")
    if given.lease == 0:
        raise UsageError("--lease 0s would be over before the message is here; give it some time")
    with connect(given) as client:
        if given.exec is not None:
            return _run_programs(client, given)
        if given.lease is not None:
            return _hand_out(client, given)
        return _write_out(client, given)


def _taken(client: Client, given: Namespace, at_once: int) -> Iterator[list[Message]]:
    """What is to be taken, in groups of at most `at_once`."""
    left = given.max or (math.inf if given.follow else 1)
    wait_s = POLL_S if given.follow else given.wait
    while left:
        most = int(min(left, at_once))
        found = client.lease(given.queue, most, wait_s=wait_s, lease_s=given.lease or LEASE_S)
        if found:
            yield found
            left -= len(found)
        elif not given.follow:
            return
        if not given.follow:
            wait_s = 0.0


def _write_out(client: Client, given: Namespace) -> Status:
    """Write messages, and acknowledge them afterwards."""
    whole_message = not (given.follow or given.max or given.json)
    end = b"\n" if not whole_message or sys.stdout.isatty() else b""
    status = Status.NOTHING
    for messages in _taken(client, given, AT_ONCE):
        written = 0
        try:
            for message in messages:
                write(_json(message, leased=False) if given.json else message.body + end)
                written += 1
        finally:
            client.ack(given.queue, _leases(messages[:written]))
            if written < len(messages):
                client.release(given.queue, _leases(messages[written:]))
        status = Status.DONE
    return status


def _hand_out(client: Client, given: Namespace) -> Status:
    """Write messages with their leases; what cannot be written is given back."""
    status = Status.NOTHING
    for messages in _taken(client, given, AT_ONCE):
        try:
            write(b"".join(_json(each, leased=True) for each in messages))
        except BaseException:
            client.release(given.queue, _leases(messages))
            raise
        status = Status.DONE
    return status


def _run_programs(client: Client, given: Namespace) -> Status:
    """Run a program for each message; whether all of them ended well."""
    status = Status.NOTHING
    for (message,) in _taken(client, given, 1):
        lease = _leases([message])[0]

        def extend(lease: str = lease) -> None:
            client.extend(given.queue, lease, given.lease or LEASE_S)

        pause_s = (given.lease or LEASE_S) / 3
        try:
            code = perform(given.exec, given.queue, message, extend, pause_s)
        except BaseException:
            client.release(given.queue, [lease])
            raise
        if code == 0:
            client.ack(given.queue, [lease])
            status = Status.DONE if status is Status.NOTHING else status
        else:
            again_s = min(2.0 ** min(message.attempts - 1, 10), AGAIN_MAX_S)
            client.release(given.queue, [lease], delay_s=again_s)
            seen = f"message {message.sequence}: CMD ended with {code}"
            say(f"{seen}; it comes again in {again_s:g} s")
            status = Status.PARTLY
    return status


def _leases(messages: Sequence[Message]) -> list[str]:
    return [each.lease for each in messages if each.lease is not None]


def _json(message: Message, *, leased: bool) -> bytes:
    row = message_row(message)
    if not leased:
        del row["lease"]  # it is over when somebody reads this
    return json.dumps(row).encode() + b"\n"


# ------------------------------------------------------------------ ack, release


def _ack(given: Namespace) -> Status:
    with connect(given) as client:
        client.ack(given.queue, _given_leases(given.leases))
    return Status.DONE


def _release(given: Namespace) -> Status:
    leases = _given_leases(given.leases)
    with connect(given) as client:
        released = client.release(given.queue, leases, delay_s=given.delay)
    if released < len(leases):
        say(f"{len(leases) - released} of {len(leases)} leases had ended already")
        return Status.PARTLY
    return Status.DONE


def _given_leases(words: Sequence[str]) -> list[str]:
    """Leases from the command line, and from stdin where it says so."""
    return [
        lease for word in words for lease in (sys.stdin.read().split() if word == "-" else [word])
    ]
