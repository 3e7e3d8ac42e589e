"""The command line, and what stands for it in a file or the environment -> `Config`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from logqueue import __version__, settings
from logqueue.address import PORT_MAX
from logqueue.config import KIB, Config
from logqueue.errors import UsageError
from logqueue.limits import LIMITS
from logqueue.values import addresses, number, password


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see logqueued --help")


def parse(argv: list[str], environment: Mapping[str, str] | None = None) -> Config:
    """Command line, environment and the file that they name -> `Config`.

    Raises UsageError; `-h` prints the help and exits with 0.
    """
    parser = _parser()
    options = [each for action in parser._actions for each in action.option_strings]
    given: dict[str, Any] = {}
    for words in settings.layers(argv, {} if environment is None else environment, options):
        found = vars(parser.parse_args(words))
        given |= {key: value for key, value in found.items() if value is not None}
    for ignored in ("cache", "memory", "config"):
        given.pop(ignored, None)
    if not given.get("data_directory"):
        raise UsageError("-x/--data is missing or empty; give a directory")
    if ("tls_certificate" in given) != ("tls_key" in given):
        raise UsageError("--tls-cert and --tls-key go together; give both")
    if "addresses" in given:
        given["addresses"] = tuple(given["addresses"])
    password_file = given.pop("auth_file", None)
    if password_file is not None:
        if "auth" in given:
            raise UsageError("-a and --auth-file exclude each other; leave one out")
        given["auth"] = password(password_file)
    if "sync_interval_s" in given:
        given.setdefault("durability", "interval")
    return _with_httpsqs_timeout(given)


def _with_httpsqs_timeout(given: dict[str, Any]) -> Config:
    """HTTPSQS had one time limit for all of reading and writing: a short `-t` shortens the others
    as well, unless they are given."""
    config = Config(**given)
    if "timeout_idle_s" not in given:
        return config
    shorter = {
        field: min(getattr(config, field), config.timeout_idle_s)
        for field in ("timeout_head_s", "timeout_body_s", "timeout_write_s")
        if field not in given
    }
    return replace(config, **shorter)


def option_names() -> dict[str, str]:
    """The long option that sets each field of a `Config`, for messages."""
    return {
        action.dest: each
        for action in _parser()._actions
        for each in action.option_strings
        if each.startswith("--")
    }


def _parser() -> _Parser:
    parser = _Parser(
        prog="logqueued",
        usage="logqueued -x DIR [options]",
        description="A crash-safe HTTP message queue that speaks HTTPSQS 1.7.",
        epilog="Example: logqueued -x /var/lib/logqueue, then "
        "curl 'http://127.0.0.1:1218/?name=q&opt=put&data=hello'",
        allow_abbrev=False,
    )
    _add_http_options(parser)
    _add_limits(parser)
    _add_storage_options(parser)
    _add_process_options(parser)
    return parser


def _add_http_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "-l",
        "--listen",
        metavar="ADDR",
        dest="addresses",
        action="extend",
        type=addresses,
        help="address to listen on: HOST, HOST:PORT, [IPv6]:PORT or unix:PATH (default 127.0.0.1; "
        "HTTPSQS had 0.0.0.0). May be repeated. On any that others reach, set a password: whoever "
        "reaches it owns the queues",
    )
    group.add_argument(
        "-p",
        "--port",
        metavar="PORT",
        type=number(int, 0, PORT_MAX),
        help="port of addresses that name none (default 1218; 0 takes a free one)",
    )
    group.add_argument(
        "--tls-cert",
        metavar="FILE",
        dest="tls_certificate",
        help="speak TLS, with the certificate (and its chain) in this PEM file; read again at "
        "SIGHUP. Addresses written as http://HOST:PORT, and Unix sockets, stay plain",
    )
    group.add_argument(
        "--tls-key",
        metavar="FILE",
        help="the key of the certificate, in a PEM file without a pass phrase",
    )
    group.add_argument(
        "-t",
        "--timeout",
        metavar="SECONDS",
        dest="timeout_idle_s",
        type=number(float, 0.001, 1e9),
        help="close a connection that has been idle for so long (default 60); "
        "less than what is below lowers that as well",
    )
    group.add_argument(
        "-a",
        "--auth",
        metavar="PASSWORD",
        help="password that each request must carry as auth=. Every user of this machine can see "
        "it in the process list: prefer --auth-file",
    )
    group.add_argument(
        "--auth-file", metavar="FILE", help="read the password from the first line of FILE"
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "limits of HTTP", "What clients may make the daemon hold, and how long it waits for them."
    )
    for limit in LIMITS:
        default = getattr(Config("-"), limit.field)
        group.add_argument(
            limit.option,
            metavar=limit.unit,
            dest=limit.field,
            type=number(type(default), limit.least, limit.most),
            help=f"{limit.text} (default {default:{'g' if isinstance(default, float) else 'd'}})",
        )


def _add_storage_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("storage")
    group.add_argument(
        "-x",
        "--data",
        metavar="DIR",
        dest="data_directory",
        help="data directory, made when absent (required)",
    )
    group.add_argument(
        "--durability",
        choices=("always", "interval", "os"),
        help="what an answer to put promises. always (default): the message is on the disk. "
        "interval: it survives kill -9; a power cut loses the last seconds, see -s. os: it "
        "survives kill -9; a power cut loses what the kernel had not written back",
    )
    group.add_argument(
        "-s",
        "--sync-interval",
        metavar="SECONDS",
        dest="sync_interval_s",
        type=number(float, 0.001, 1e9),
        help="seconds between syncs to disk (default 5); selects --durability interval",
    )
    group.add_argument(
        "--segment-bytes",
        metavar="BYTES",
        dest="segment_bytes_max",
        type=number(int, 64 * KIB, 1 << 40),
        help="size that segment files grow to (default 67108864). Consumed messages are deleted "
        "by whole files; after a crash the newest file is read once",
    )
    group.add_argument(
        "--reserve-bytes",
        metavar="BYTES",
        dest="disk_reserve_bytes",
        type=number(int, 0, 1 << 60),
        help="free disk space that messages never take (default 16777216); puts are refused there",
    )
    _add_queue_options(parser.add_argument_group("queues"))
    for flags, name, unit, was in (
        (("-c", "--cache"), "cache", "NODES", "the cached nodes of its B+ tree"),
        (("-m", "--memory"), "memory", "MB", "its mapped memory"),
    ):
        group.add_argument(
            *flags,
            metavar=unit,
            dest=name,
            type=number(int, 0, 10**9),
            help=f"accepted for HTTPSQS's command lines, without effect: it sized {was}, and "
            "logqueue leaves caching to the kernel",
        )


def _add_queue_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--retain-bytes",
        metavar="BYTES",
        type=number(int, 0, 1 << 60),
        help="keep consumed messages for view and replay, at most this much of each queue "
        "(default: none are kept); they go by whole segment files",
    )
    group.add_argument(
        "--retain-seconds",
        metavar="SECONDS",
        type=number(float, 0, 1e10),
        help="keep consumed messages at least so long after they were put, unless --retain-bytes "
        "is exceeded",
    )
    group.add_argument(
        "--max-queues",
        metavar="N",
        dest="queues_max",
        type=number(int, 1, 10_000_000),
        help="refuse to create more queues than this (default 10000); those that exist are served",
    )
    group.add_argument(
        "--max-open-queues",
        metavar="N",
        dest="queues_open_max",
        type=number(int, 1, 30_000),
        help="queues held open at once (default 1000); each takes 4 file descriptors. The others "
        "are opened when they are used",
    )
    group.add_argument(
        "--max-waits",
        metavar="N",
        dest="long_polls_max",
        type=number(int, 1, 10_000_000),
        help="consumers that may wait for messages at once (default 10000); more are refused",
    )


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("process")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="read settings from a TOML file: every long option without its dashes is a key. "
        "Variables LOGQUEUE_* win over it, flags over both",
    )
    group.add_argument(
        "--check-config",
        dest="check_only",
        action="store_true",
        default=None,
        help="say whether the settings are usable, and exit",
    )
    group.add_argument(
        "-d",
        "--daemon",
        dest="detach",
        action="store_true",
        default=None,
        help="run in the background; returns once the daemon serves, or fails saying why",
    )
    group.add_argument(
        "-i",
        "--pid-file",
        metavar="FILE",
        dest="pid_file",
        help="write the process id to FILE, remove it at the end (default: none; HTTPSQS had "
        "/tmp/httpsqs.pid)",
    )
    group.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="how to log to stderr: text (default), or json, an object a line",
    )
    group.add_argument(
        "--access-log",
        action="store_true",
        default=None,
        help="log each request without passwords and messages; costs 0.1 ms of processor time each",
    )
    version = f"logqueue {__version__}"
    group.add_argument(
        "-v", "--version", action="version", version=version, help="print the version and exit"
    )
