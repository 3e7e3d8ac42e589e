"""`logqueue import` and `backup`.

What they need is imported when they run: a put would start half as fast with the storage on board.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace

from logqueue.cli.output import Progress, say
from logqueue.cli.session import Commands, command
from logqueue.cli.status import Status
from logqueue.client.endpoint import PASSWORD_VARIABLE, URL_DEFAULT, URL_VARIABLE
from logqueue.values import password


def add(commands: Commands) -> None:
    """Declare the commands."""
    parser = command(
        commands,
        "import",
        _import,
        "move the unread messages of a running HTTPSQS here",
        "Move the unread messages of queues of a running HTTPSQS (or logqueue) into a "
        "logqueue, in order. Nothing is lost and nothing doubled when it is interrupted: run "
        "the same command again. Meanwhile nobody else may read the old queues or put into "
        "the new ones.",
        "  logqueue import http://old-host:1218 jobs mail video --to http://127.0.0.1:1218",
    )
    parser.add_argument("source", metavar="URL", help="the old server, http://host:port")
    parser.add_argument("queues", metavar="QUEUE", nargs="+", help="queues to move")
    parser.add_argument(
        "--to",
        metavar="URL",
        default=os.environ.get(URL_VARIABLE, URL_DEFAULT),
        help=f"the logqueue (default: ${URL_VARIABLE}, or {URL_DEFAULT})",
    )
    parser.add_argument(
        "--journal",
        metavar="DIR",
        default=".",
        help="where unfinished work is noted (default: here); the same at each repetition",
    )
    parser.add_argument(
        "--auth-file",
        metavar="FILE",
        help=f"password of the logqueue (default: ${PASSWORD_VARIABLE})",
    )
    parser.add_argument("--source-auth-file", metavar="FILE", help="password of the old server")

    parser = command(
        commands,
        "backup",
        _backup,
        "copy a data directory while its daemon runs",
        "Copy a data directory while its daemon runs; start a logqueued on the copy to "
        "restore it. A queue that is damaged is copied as it is, and told, with exit status "
        "6.",
        "  logqueue backup /var/lib/logqueue /backup/logqueue-$(date +%F)",
    )
    parser.add_argument("data_directory", metavar="DATA_DIR", help="of the daemon")
    parser.add_argument("destination", metavar="DESTINATION", help="a directory that is made")


def _import(given: Namespace) -> Status:
    from logqueue.importer import Journal, Remote, import_queue

    target_password = os.environ.get(PASSWORD_VARIABLE)
    if given.auth_file is not None:
        target_password = password(given.auth_file)
    source_password = None if given.source_auth_file is None else password(given.source_auth_file)
    for queue in given.queues:
        source = Remote(given.source, queue, source_password)
        target = Remote(given.to, queue, target_password)
        safe = re.sub(r"[^A-Za-z0-9_-]", lambda found: f"%{ord(found[0]):02X}", queue)
        name = f"logqueue-import-{source.address.replace(':', '_')}-{safe}.journal"
        journal = Journal(os.path.join(given.journal, name))
        with source, target, Progress(queue) as progress:
            moved = import_queue(
                source, target, journal, lambda _, done, total: progress.at(done, total)
            )
        say(f"{queue}: {moved} messages moved")
    return Status.DONE


def _backup(given: Namespace) -> Status:
    from logqueue.backup import backup

    with Progress("queues") as progress:
        damage = backup(given.data_directory, given.destination, progress.at)
    for line in damage:
        say(f"copied as it is: {line}")
    return Status.PARTLY if damage else Status.DONE
