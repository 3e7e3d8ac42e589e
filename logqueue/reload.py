"""SIGHUP: the settings are read again, and what can change in a running daemon changes.

All of it or nothing: settings that are not usable leave those in force that there were.  One line
in the log says what was done, and what needs a restart.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import fields, replace

from logqueue.arguments import option_names, parse
from logqueue.config import Config
from logqueue.errors import UsageError
from logqueue.limits import LIMITS
from logqueue.notify import notify

# What needs no restart: the password, and whatever a connection looks up when it needs it.
LIVE = {
    "access_log",
    "auth",
    "tls_certificate",
    "tls_key",
    "timeout_idle_s",
    *(each.field for each in LIMITS),
}

_log = logging.getLogger("logqueue.daemon")


def read_settings(words: list[str], directory: str) -> Config:
    """The settings, whose relative paths begin at `directory`.  Raises UsageError."""
    try:
        with contextlib.chdir(directory):  # a detached daemon has left it
            config = parse(words, os.environ)
            return _anchored(config) if config.detach else config
    except OSError as error:  # somebody has removed it
        raise UsageError(f"{directory}, where relative paths begin: {error.strerror}") from error


def _anchored(config: Config) -> Config:
    """The same with absolute paths: a detached daemon leaves its directory."""

    def anchored(path: str | None) -> str | None:
        return None if path is None else os.path.abspath(path)

    return replace(
        config,
        data_directory=os.path.abspath(config.data_directory),
        pid_file=anchored(config.pid_file),
        tls_certificate=anchored(config.tls_certificate),
        tls_key=anchored(config.tls_key),
        addresses=tuple(
            each._replace(path=os.path.abspath(each.path)) if each.path else each
            for each in config.addresses
        ),
    )


class Reload:
    """What is in force, and how to read what should be.

    `read` may raise UsageError.  `apply` is set once there is somebody who serves: it puts a
    configuration into force, and may raise UsageError, but then has changed nothing.
    """

    def __init__(self, config: Config, read: Callable[[], Config]) -> None:
        self.config = config
        self.apply: Callable[[Config], None] | None = None
        self._read = read

    def run(self) -> None:
        """Read the settings again and put into force what can be."""
        if self.apply is None:
            _log.warning("SIGHUP: nothing was reloaded, the daemon is still starting")
            return
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            wanted = self._read()
            changed = {
                field.name
                for field in fields(Config)
                if getattr(wanted, field.name) != getattr(self.config, field.name)
            }
            live = changed & LIVE
            if self.config.tls_key is None or wanted.tls_key is None:  # sockets stay what they are
                live -= {"tls_certificate", "tls_key"}
            config = replace(self.config, **{key: getattr(wanted, key) for key in live})
            self.apply(config)
        except UsageError as error:
            _log.error("SIGHUP: nothing was reloaded, the old settings stay in force: %s", error)
        else:
            self.config = config
            _log.info("SIGHUP: %s", "; ".join(_account(config, live, changed - live)))
        notify("READY=1")


def _account(config: Config, live: set[str], dead: set[str]) -> Iterable[str]:
    """What was done, without a value: some are secret."""
    names = {**option_names(), "auth": "the password"}
    now = sorted(names[each] for each in live)
    later = sorted(names[each] for each in dead)
    yield f"changed {', '.join(now)}" if now else "no setting has changed"
    if config.tls_certificate is not None:
        yield "the certificate was read again"
    if later:
        yield f"{', '.join(later)} will change at the next start"
