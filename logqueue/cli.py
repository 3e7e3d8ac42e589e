"""`logqueue`: the command line beside the daemon.  Each subcommand is one function."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from logqueue import __version__, backup
from logqueue.errors import LogqueueError, StorageFailed
from logqueue.importer import Journal, Remote, import_queue

URL_DEFAULT = "http://127.0.0.1:1218"
EXIT_DAMAGE = 1  # what was asked for was done, but not everything is well
EXIT_FAILED = 2  # it was not done; 2 is also argparse's status for a wrong command line
EXIT_INTERRUPTED = 130  # as a shell says it of SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status."""
    given = _parser().parse_args(argv)
    try:
        status: int = given.run(given)
    except KeyboardInterrupt:
        print("\nlogqueue: interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (LogqueueError, StorageFailed, OSError) as error:
        print(f"logqueue: {error}", file=sys.stderr)
        return EXIT_FAILED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="logqueue", description="Work with a logqueue.")
    parser.add_argument("--version", action="version", version=f"logqueue {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "import",
        help="move the unread messages of a running HTTPSQS here",
        description="Move the unread messages of queues of a running HTTPSQS (or logqueue) into a "
        "logqueue, in order. Nothing is lost and nothing doubled when it is interrupted: run the "
        "same command again. Meanwhile nobody else may read the old queues or put into the new "
        "ones.",
    )
    command.add_argument("source", metavar="URL", help="the old server, http://host:port")
    command.add_argument("queues", metavar="QUEUE", nargs="+", help="queues to move")
    command.add_argument(
        "--to",
        metavar="URL",
        default=os.environ.get("LOGQUEUE_URL", URL_DEFAULT),
        help=f"the logqueue (default: $LOGQUEUE_URL, or {URL_DEFAULT})",
    )
    command.add_argument(
        "--journal",
        metavar="DIR",
        default=".",
        help="where unfinished work is noted (default: here); the same at each repetition",
    )
    command.add_argument("--auth-file", metavar="FILE", help="password of the logqueue")
    command.add_argument("--source-auth-file", metavar="FILE", help="password of the old server")
    command.set_defaults(run=_import)

    command = commands.add_parser(
        "backup",
        help="copy a data directory while its daemon runs",
        description="Copy a data directory while its daemon runs; start a logqueued on the copy "
        "to restore it.",
    )
    command.add_argument("data_directory", metavar="DATA_DIR")
    command.add_argument("destination", metavar="DESTINATION", help="a directory that is made")
    command.set_defaults(run=_backup)
    return parser


def _import(given: argparse.Namespace) -> int:
    for queue in given.queues:
        source = Remote(given.source, queue, _password(given.source_auth_file))
        target = Remote(given.to, queue, _password(given.auth_file))
        safe = re.sub(r"[^A-Za-z0-9_-]", lambda found: f"%{ord(found[0]):02X}", queue)
        name = f"logqueue-import-{source.address.replace(':', '_')}-{safe}.journal"
        journal = Journal(os.path.join(given.journal, name))
        with source, target:
            moved = import_queue(source, target, journal, _show_progress)
        print(f"\r{queue}: {moved} messages moved", file=sys.stderr)
    return 0


def _show_progress(queue: str, moved: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{queue}: {moved} of {total}", end="", file=sys.stderr, flush=True)


def _password(path: str | None) -> str | None:
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        return file.readline().removesuffix("\n")


def _backup(given: argparse.Namespace) -> int:
    damage = backup.backup(given.data_directory, given.destination)
    for line in damage:
        print(f"logqueue: copied as it is: {line}", file=sys.stderr)
    return EXIT_DAMAGE if damage else 0


if __name__ == "__main__":
    sys.exit(main())
