"""Going into the background (`-d`): a new session, no terminal, a truthful exit status.

The launching process stays until the daemon serves or has failed, and exits accordingly: a start
script learns the truth, and what the daemon says on its way there still reaches the terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

_READY = b"+"


@contextlib.contextmanager
def detached() -> Iterator[Callable[[], None]]:
    """Fork; the body runs in the child, which calls what is yielded once it is ready.

    The parent leaves with status 0 after that call, or with the child's status if it ended first.
    """
    reading, writing = os.pipe()
    if (child := os.fork()) > 0:
        os.close(writing)
        sys.stderr.flush()
        if os.read(reading, 1) == _READY:
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF or 1)
    os.close(reading)
    os.setsid()
    os.umask(0o077)

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
        os.write(writing, _READY)
        os.close(writing)

    yield ready
