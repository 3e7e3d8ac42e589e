"""Going into the background (`-d`): a session of its own, no terminal, a truthful exit status.

The launching process stays until the daemon serves or has failed, and exits accordingly: a start
script learns the truth, and what the daemon says on its way there still reaches the terminal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

_READY = b"+"


@contextlib.contextmanager
def detached() -> Iterator[Callable[[], None]]:
    """Fork; the body runs in the child, which calls what is yielded once it is ready.

    The parent leaves with status 0 after that call, or with the child's status if it ended first,
    1 if that was 0.  Paths must be absolute: the child leaves its directory.
    """
    reading, writing = os.pipe()
    sys.stderr.flush()
    if (child := os.fork()) > 0:
        os.close(writing)
        _follow(child, reading)
    os.closerange(3, writing)  # what the launcher had open, besides `reading`
    os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
    os.setsid()
    os.umask(0o022)
    os.chdir("/")  # so that no file system is kept from being unmounted

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
        os.write(writing, _READY)
        os.close(writing)

    yield ready


def _follow(child: int, reading: int) -> None:
    """The launching process: wait for the daemon's fate, and end with it."""
    # Ctrl-C ends the launch: a daemon that finds nobody waiting for its word ends as well.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.read(reading, 1) == _READY:
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF or 1)
