"""What the commands that talk to a server have in common: their options, and the connection."""

from __future__ import annotations

import argparse
import textwrap
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import TypeAlias

from logqueue.cli.status import Status
from logqueue.client import Client
from logqueue.client.endpoint import PASSWORD_VARIABLE, URL_DEFAULT, URL_VARIABLE
from logqueue.duration import seconds

Commands: TypeAlias = "argparse._SubParsersAction[ArgumentParser]"
HELP_COLUMNS = 79

Run: TypeAlias = Callable[[Namespace], Status]


def command(
    commands: Commands, name: str, run: Run, brief: str, description: str, examples: str
) -> ArgumentParser:
    """A command with its help page; a blank line in `description` ends a paragraph."""
    parser = commands.add_parser(
        name,
        help=brief,
        description="\n\n".join(map(_filled, description.split("\n\n"))),
        epilog=f"examples:\n{examples}\n\nExit statuses and environment: logqueue --help",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def _filled(paragraph: str) -> str:
    return textwrap.fill(paragraph, HELP_COLUMNS)


def add_server(parser: ArgumentParser) -> None:
    """Options that say where the server is."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        metavar="URL",
        help="http://[user:password@]HOST:PORT, https://... or unix:PATH "
        f"(default: ${URL_VARIABLE}, or {URL_DEFAULT}); its password also by ${PASSWORD_VARIABLE}",
    )
    group.add_argument(
        "--timeout",
        metavar="DURATION",
        type=duration,
        default=30.0,
        help="for connecting, for sending, for the answer, each (default: 30s)",
    )
    group.add_argument(
        "--retry",
        metavar="DURATION",
        type=duration,
        default=0.0,
        help="repeat for so long what was certainly not carried out, and what may be carried out "
        "twice (default: 0s)",
    )


def add_form(parser: ArgumentParser) -> None:
    """Options that say how to print."""
    group = parser.add_argument_group("output").add_mutually_exclusive_group()
    group.add_argument(
        "--json", action="store_true", help="JSON, an object a line (default unless on a terminal)"
    )
    group.add_argument("--table", action="store_true", help="for people (default on a terminal)")


def connect(given: Namespace) -> Client:
    """The server that the options name.  Raises UsageError."""
    return Client(given.url, timeout_s=given.timeout, retry_s=given.retry)


def duration(text: str) -> float:
    """20s, 500ms, 5m, 1h, or seconds."""
    value = seconds(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: 20s, 500ms, 5m, 1h, or seconds")
    return value


def whole(text: str) -> int:
    """A number from 1 on."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) < 1 << 63):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
