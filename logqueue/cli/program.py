"""A program that works on a message: its stdin, while its lease is kept alive."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from logqueue.cli.output import say
from logqueue.client import ClientError, Message

END_S = 10.0  # a program that is told to end may take so long


def perform(
    command: str, queue: str, message: Message, extend: Callable[[], None], pause_s: float
) -> int:
    """Run `command` by the shell; its exit status, negative for a signal.

    `extend` is called every `pause_s` seconds meanwhile.  Whatever interrupts this ends the program
    first.
    """
    environment = {
        "QUEUE_NAME": queue,
        "QUEUE_SEQUENCE": str(message.sequence),
        "QUEUE_ATTEMPTS": str(message.attempts),
        "QUEUE_CONTENT_TYPE": message.content_type,
    }
    with tempfile.TemporaryFile() as stdin:  # a pipe would have to be fed while we wait
        stdin.write(message.body)
        stdin.seek(0)
        process = None
        try:
            with _signals_later():
                process = subprocess.Popen(
                    command, shell=True, stdin=stdin, env={**os.environ, **environment}
                )
            return _wait(process, extend, pause_s)
        except BaseException:
            if process is not None:
                _end(process)
            raise


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """Signals that end us take effect after the block: a program that has begun is known then."""
    come: list[int] = []
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each, handler in before.items():
        if handler != signal.SIG_IGN:  # the program ignores it as well
            signal.signal(each, lambda number, _: come.append(number))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    for number in come:
        signal.raise_signal(number)


def _wait(process: subprocess.Popen[bytes], extend: Callable[[], None], pause_s: float) -> int:
    while True:
        try:
            return process.wait(pause_s)
        except subprocess.TimeoutExpired:
            pass
        try:
            extend()
        except ClientError as error:  # the program goes on: it may end before others are given it
            say(f"the lease was not extended: {error}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
