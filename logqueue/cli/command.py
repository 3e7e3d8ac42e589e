"""The command line `logqueue`: its parser, its completion, and what it ends with."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from types import FrameType

from logqueue import __version__
from logqueue.cli import bench, queues, receiving, sending, upkeep
from logqueue.cli.output import say
from logqueue.cli.session import HELP_COLUMNS, command
from logqueue.cli.status import TEXTS, Status, status_of
from logqueue.client.endpoint import PASSWORD_VARIABLE, URL_DEFAULT, URL_VARIABLE
from logqueue.errors import LogqueueError, StorageFailed

SHELLS = ("bash", "zsh", "fish")

ENVIRONMENT = f"""\
environment:
  {URL_VARIABLE}   the server, when --url is not given (default: {URL_DEFAULT})
  {PASSWORD_VARIABLE}  its password, when the URL has none
  SSL_CERT_FILE  certificates to trust for https, instead of the system's
"""


class Terminated(BaseException):
    """SIGTERM has come: what was begun is given back on the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        given = parser().parse_args(argv)
        status: Status = given.run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        say("interrupted")
        status = Status.INTERRUPTED
    except Terminated:
        status = Status.TERMINATED
    except BrokenPipeError:  # `| head` has seen enough
        # Python flushes stdout once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = Status.PIPE
    except (LogqueueError, StorageFailed, OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            say(str(error))
        status = status_of(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    return status


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def parser() -> ArgumentParser:
    """All commands and their options."""
    statuses = "\n".join(
        textwrap.fill(f"  {status:<4}{text}", HELP_COLUMNS, subsequent_indent=" " * 6)
        for status, text in TEXTS.items()
    )
    made = ArgumentParser(
        prog="logqueue",
        description="Put messages into a logqueue and get them out, and look after it.\n\n"
        "Every command has a page of help: logqueue put --help",
        epilog=f"exit status:\n{statuses}\n\n{ENVIRONMENT}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"logqueue {__version__}")
    commands = made.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for group in (sending, receiving, queues, upkeep, bench):
        group.add(commands)
    completion = command(
        commands,
        "completion",
        _completion,
        "print a completion script for a shell",
        "Print a script that completes commands and options.",
        "  logqueue completion bash > /etc/bash_completion.d/logqueue\n"
        "  logqueue completion zsh > /usr/local/share/zsh/site-functions/_logqueue\n"
        "  logqueue completion fish > ~/.config/fish/completions/logqueue.fish",
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    return made


def _completion(given: Namespace) -> Status:
    import shtab  # only here: it is not needed for anything else

    print(shtab.complete(parser(), given.shell))
    return Status.DONE


if __name__ == "__main__":
    sys.exit(main())
