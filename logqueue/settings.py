"""Settings from a TOML file and the environment, as words of the command line.

Each source is a layer, and what a later one says wins: file, environment, command line.  Every
long option is a key of the file without its dashes (`sync-interval = 2`), and a variable
(`LOGQUEUE_SYNC_INTERVAL=2`).
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Collection, Mapping

from logqueue.errors import UsageError

PREFIX = "LOGQUEUE_"
NOT_SETTINGS = frozenset(("LOGQUEUE_FAILPOINT", "LOGQUEUE_URL"))  # of the tests, of clients
SWITCHES = frozenset(("access-log", "daemon"))
LISTS = frozenset(("listen",))  # several values with commas between them
ONLY_TYPED = frozenset(("help", "version", "check-config"))


def layers(
    argv: list[str], environment: Mapping[str, str], options: Collection[str]
) -> list[list[str]]:
    """The words of a command line by where they come from, those that weigh least first.

    `options` are those that there are, dashes included.  Raises UsageError.
    """
    keys = {each[2:] for each in options if each.startswith("--")} - ONLY_TYPED
    typed = [from_environment(environment, keys), argv]
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", default=None)
    try:
        path = finder.parse_known_args([*typed[0], *argv])[0].config
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}; see logqueued --help") from error
    return typed if path is None else [from_file(path, keys - {"config"}), *typed]


def from_file(path: str, keys: Collection[str]) -> list[str]:
    """The words in a file.  Raises UsageError, which names the file and the key."""
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from error
    found = []
    for key, value in table.items():
        if key not in keys:
            raise UsageError(f"--config {path}: there is no setting {key!r}; see logqueued --help")
        if (key in SWITCHES) != isinstance(value, bool):
            wanted = "true or false" if key in SWITCHES else "a text or a number"
            raise UsageError(f"--config {path}: {key} must be {wanted}")
        if key in LISTS and isinstance(value, list) and all(isinstance(v, str) for v in value):
            value = ",".join(value)
        if not isinstance(value, str | int | float):
            raise UsageError(f"--config {path}: {key} must be a text or a number")
        if "\0" in str(value):  # no word of a command line holds one, nor a path
            raise UsageError(f"--config {path}: {key} holds a NUL")
        found += _words(key, str(value).lower() if key in SWITCHES else str(value))
    return found


def from_environment(environment: Mapping[str, str], keys: Collection[str]) -> list[str]:
    """The words in the environment.  Raises UsageError, which names the variable."""
    found = []
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        key = variable.removeprefix(PREFIX).lower().replace("_", "-")
        if key not in keys:
            raise UsageError(f"{variable}: there is no such setting; see logqueued --help")
        if key in SWITCHES and value not in ("true", "false"):
            raise UsageError(f"{variable} must be true or false")
        found += _words(key, value)
    return found


def _words(key: str, value: str) -> list[str]:
    if key in SWITCHES:
        return [f"--{key}"] if value == "true" else []
    return [f"--{key}={value}"]
