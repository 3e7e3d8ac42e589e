"""Every limit and default in one place, each with its reason; command line -> `Config`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Literal, NoReturn

from logqueue import __version__
from logqueue.errors import UsageError

Durability = Literal["always", "interval", "os"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Config:
    """What one daemon runs with.  Sizes in bytes, times in seconds."""

    data_directory: str
    address: str = "127.0.0.1"  # HTTPSQS listened on 0.0.0.0; a queue without a password must not
    port: int = 1218
    auth: str | None = None
    detach: bool = False
    pid_file: str | None = None

    durability: Durability = "always"
    sync_interval_s: float = 5.0  # HTTPSQS's default for -s
    segment_bytes_max: int = 64 * MIB  # a tail of 64 MiB is scanned in a third of a second
    disk_reserve_bytes: int = 16 * MIB  # room for metadata, and for an operator to log in

    timeout_idle_s: float = 60.0  # HTTPSQS's default for -t


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see logqueued --help")


def parse(argv: list[str]) -> Config:
    """Command line -> `Config`.  Raises UsageError; `-h` prints the help and exits with 0."""
    parser = _Parser(prog="logqueued", description="A crash-safe HTTP message queue.")
    parser.add_argument("-x", "--data", metavar="DIR", dest="data_directory", required=True)
    parser.add_argument("-l", "--listen", metavar="ADDR", dest="address")
    parser.add_argument("-p", "--port", metavar="PORT", type=int)
    parser.add_argument("--version", action="version", version=f"logqueue {__version__}")
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    return Config(**given)
