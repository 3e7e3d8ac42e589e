"""The values of options: text in, the thing or a complaint out."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from logqueue.address import Address, parse
from logqueue.errors import UsageError


def addresses(text: str) -> list[Address]:
    """Addresses with commas between them."""
    try:
        return [parse(each) for each in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def number(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    """A number from `least` to `most`, both included."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(-1)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return value

    return convert


def password(path: str) -> str:
    """The first line of a file, without its end.  Raises UsageError, also when that is empty: a
    file that is just being written must not open the daemon to everybody."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            found = file.readline().removesuffix("\n")
    except OSError as error:
        raise UsageError(f"--auth-file {path}: {error.strerror}") from error
    if not found:
        raise UsageError(f"--auth-file {path}: its first line is empty; write the password there")
    return found
