"""The command line of logqueue-fsck.  Conventions are those of fsck(8)."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from logqueue import __version__
from logqueue.errors import LogqueueError, NotWritable, StorageFailed, UsageError
from logqueue.fsck.check import Checkup, How, bytes_to_check, check
from logqueue.fsck.finding import Finding, Severity
from logqueue.fsck.repair import Ask, Outcome, repair, undo
from logqueue.fsck.report import Printer
from logqueue.fsck.salvage import salvage
from logqueue.fsck.show import dump, shown_name, stat
from logqueue.storage.disk import Disk, MmapDisk
from logqueue.storage.layout import LOCK, QUARANTINE

EXIT_REPAIRED = 1
EXIT_DAMAGE_LEFT = 4
EXIT_OPERATION = 8
EXIT_USAGE = 16
EXIT_INTERRUPTED = 32
SHOWN_MAX = 5  # stretches of lost records that are named


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see logqueue-fsck --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        options = _parse(list(sys.argv[1:] if argv is None else argv))
        return _run(options)
    except UsageError as error:
        status, text = EXIT_USAGE, str(error)
    except (LogqueueError, StorageFailed, OSError) as error:
        status, text = EXIT_OPERATION, str(error)
    except KeyboardInterrupt:
        status, text = EXIT_INTERRUPTED, "interrupted; the directory is as it was, or wholly mended"
    finally:
        signal.signal(signal.SIGTERM, before)
    with contextlib.suppress(OSError):
        print(f"logqueue-fsck: {text}", file=sys.stderr)
    return status


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parse(argv: list[str]) -> argparse.Namespace:
    options = _parser().parse_args(argv)
    chosen = ("repair", "salvage", "dump", "stat", "undo")
    modes = [name for name in chosen if getattr(options, name) not in (None, False)]
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} exclude each other; see --help")
    options.mode = modes[0] if modes else "check"
    if options.online and options.mode in ("repair", "salvage", "undo"):
        raise UsageError(f"--online is no way to {options.mode}; stop the daemon first")
    if (options.yes or options.preen or options.dry_run) and options.mode != "repair":
        raise UsageError("-y, -p and -n go with --repair; see --help")
    if options.mode != "dump" and (options.first != 1 or options.limit != sys.maxsize):
        raise UsageError("--from and --limit go with --dump; see --help")
    if options.queue is not None and options.mode in ("repair", "salvage", "undo"):
        raise UsageError("--queue goes with a check, --dump and --stat; see --help")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="logqueue-fsck",
        usage="logqueue-fsck [options] DATA_DIR",
        description="Check a logqueue data directory; repair it, or rescue what is in it.",
        epilog="Without an option it only looks.  Exit status: 0 clean, and bits 1 repaired, 4 "
        "damage left, 8 operational error, 16 usage, 32 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("directory", metavar="DATA_DIR")
    _add_modes(parser.add_argument_group("instead of a check"))
    _add_details(parser.add_argument_group("details"))
    parser.add_argument("-v", "--version", action="version", version=f"logqueue {__version__}")
    return parser


def _add_modes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--repair",
        action="store_true",
        help="mend what is found, asking for each finding; what is replaced goes to quarantine/",
    )
    group.add_argument("--undo", metavar="ID", help="take the repair quarantine/ID back")
    group.add_argument(
        "--salvage", metavar="DIR", help="write every valid record into the new directory DIR"
    )
    group.add_argument("--dump", action="store_true", help="print the records as NDJSON")
    group.add_argument("--stat", action="store_true", help="print the figures of each queue")


def _add_details(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-y", "--yes", action="store_true", help="repair: agree to everything")
    group.add_argument(
        "-p", "--preen", action="store_true", help="repair: only what costs no message, unasked"
    )
    group.add_argument(
        "-n", "--dry-run", action="store_true", help="repair: say what would be done"
    )
    group.add_argument(
        "--online",
        action="store_true",
        help="look beside a running daemon, up to what it has noted as durable",
    )
    group.add_argument(
        "--thorough",
        action="store_true",
        help="decode every record, also where the CRC over a whole segment proves it; hash what "
        "is in quarantine",
    )
    group.add_argument("--queue", metavar="NAME", type=os.fsencode, help="only this queue")
    group.add_argument("--json", action="store_true", help="print NDJSON, at last a summary")
    group.add_argument(
        "--from", dest="first", metavar="SEQUENCE", type=int, default=1, help="dump: begin here"
    )
    group.add_argument(
        "--limit", metavar="N", type=int, default=sys.maxsize, help="dump: at most N of each queue"
    )


def _run(options: argparse.Namespace) -> int:
    root = options.directory
    if not os.path.isdir(root):
        raise UsageError(f"{root}: no such directory")
    disk = MmapDisk()
    printer = Printer(root, as_json=options.json)
    how = How(options.online, options.thorough, options.queue)
    changing = options.mode == "undo" or (options.mode == "repair" and not options.dry_run)
    with _locked(disk, root, changing, options.online), printer.progress(bytes_to_check(root)):
        if options.mode == "repair":
            return _repair(disk, root, how, options, printer)
        if options.mode == "undo":
            ident = undo(disk, root, options.undo)
            printer.say(f"the repair is taken back; what it had made is in {QUARANTINE}/{ident}")
            return EXIT_REPAIRED
        checkup = check(disk, root, how, printer.checked)
        if options.mode == "check":
            return _report(checkup.findings, printer, len(checkup.surveys))
        return _show(disk, checkup, options, printer)


@contextlib.contextmanager
def _locked(disk: Disk, root: str, changing: bool, online: bool) -> Iterator[None]:
    """Hold the data directory's lock: exclusive for changes, else shared, none beside a daemon."""
    lock = None
    if not online:
        try:
            lock = disk.lock(os.path.join(root, LOCK), shared=not changing)
        except NotWritable:
            if changing:
                raise
            # Nothing can run a daemon there either: a file system that is mounted to read.
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _report(findings: Iterable[Finding], printer: Printer, queues: int) -> int:
    harmful = 0
    for finding in findings:
        harmful += finding.harmful
        printer.finding(finding)
    status = EXIT_DAMAGE_LEFT if harmful else 0
    printer.summary(status, queues=queues, damage=harmful)
    return status


def _repair(disk: Disk, root: str, how: How, options: argparse.Namespace, printer: Printer) -> int:
    ask = _ask(options, printer)
    outcome = repair(disk, root, how, ask, printer.checked, dry_run=options.dry_run)
    _tell(outcome, printer, options.dry_run)
    status = EXIT_DAMAGE_LEFT if outcome.left or (outcome.repaired and options.dry_run) else 0
    if outcome.repaired and not options.dry_run:
        status |= EXIT_REPAIRED
    done = "would_repair" if options.dry_run else "repaired"
    figures = {done: len(outcome.repaired), "damage": len(outcome.left)}
    printer.summary(status, **figures, quarantine=outcome.ident)
    return status


def _ask(options: argparse.Namespace, printer: Printer) -> Ask:
    def ask(finding: Finding, mendable: bool) -> bool:
        printer.finding(finding, remedy=not mendable)
        if not mendable:
            return False
        safe = finding.kind.severity is Severity.SAFE
        if options.yes or options.dry_run or options.preen:
            return bool(safe or not options.preen)
        return printer.ask("    mend it? [y/N] ")

    return ask


def _tell(outcome: Outcome, printer: Printer, dry_run: bool) -> None:
    for plan in outcome.plans:
        lost = sum(last - first + 1 for first, last in plan.lost)
        where = ", ".join(f"{first} to {last}" for first, last in plan.lost[:SHOWN_MAX])
        more = ", ..." if len(plan.lost) > SHOWN_MAX else ""
        printer.say(
            f"queue {shown_name(plan.survey)}: {'would keep' if dry_run else 'keeps'} "
            f"{plan.records} records, consumed up to {plan.consumed}; "
            + (f"{lost} unconsumed ones are lost: {where}{more}" if lost else "none is lost")
        )
    if outcome.ident:
        printer.say(f"set aside: {QUARANTINE}/{outcome.ident}, to take back with --undo")


def _show(disk: Disk, checkup: Checkup, options: argparse.Namespace, printer: Printer) -> int:
    """Everything but check, repair and undo; what is damaged goes to stderr."""
    if options.mode == "dump":
        for row in dump(disk, checkup, options.first, options.limit):
            printer.row(row)
    elif options.mode == "stat":
        for row in stat(disk, checkup):
            printer.table(row)
    else:
        for plan in salvage(disk, checkup, options.salvage):
            printer.say(f"queue {shown_name(plan.survey)}: {plan.records} records")
    harmful = [each for each in checkup.findings if each.harmful]
    if harmful:
        print(
            f"logqueue-fsck: {len(harmful)} findings of damage; run a check to see them",
            file=sys.stderr,
        )
    return EXIT_DAMAGE_LEFT if harmful else 0
