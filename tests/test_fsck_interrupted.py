"""A repair, an undo, and what tidies up after either, ended at every step of theirs: the directory
is as it was or wholly changed, never between, and the next run or the daemon goes on from there.

A step is a line of the modules that change the disk; a real process is ended there, by SIGKILL or
by SIGINT.  With FSCK_STEPS=all (`make fsck-long`) at the first and at the last time that each line
runs, by both; by default at every fifth of these lines, by one of them.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

from logqueue.fsck import build, quarantine, repair, transaction
from logqueue.fsck.command import EXIT_INTERRUPTED, main
from logqueue.storage.format import footer_offset
from tests.daemon import Daemon
from tests.fscktree import drain, flip, fsck, kinds, make, payload, segments

ALL = os.environ.get("FSCK_STEPS") == "all"
SOURCES = {each.__file__ for each in (repair, transaction, quarantine, build, shutil)}
TIMED = {"new_id"}  # what runs there depends on the time of day
COUNT = 40
EXPECTED = {n: payload(b"q", n) for n in range(1, COUNT + 1)}
LOST = {1}


class Step(NamedTuple):
    """The `nth` time that a line is about to run."""

    file: str
    line: int
    nth: int

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}:{self.nth}"


def run(arguments: list[str], at_step: Callable[[Step], None]) -> int:
    """Run the command in a process of its own; its exit status, negative for a signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests' threads are not used
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 70
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        sys.stdout = sys.stderr = io.StringIO()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        passed: Counter[tuple[str, int]] = Counter()

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code.co_filename not in SOURCES or frame.f_code.co_name in TIMED:
                return None
            if event == "line":
                place = frame.f_code.co_filename, frame.f_lineno
                passed[place] += 1
                at_step(Step(*place, passed[place]))
            return trace

        sys.settrace(trace)
        status = main(arguments)
    finally:
        os._exit(status)


def steps(arguments: list[str], status: int = 1) -> list[Step]:
    """Where to end the command: runs it once, to its end, with this exit status."""
    reading, writing = os.pipe()

    def tell(step: Step) -> None:
        os.write(writing, f"{step.file}\0{step.line}\0{step.nth}\n".encode())

    def told() -> Iterator[Step]:
        os.close(writing)
        with open(reading) as pipe:
            for line in pipe:
                file, number, nth = line.rstrip("\n").split("\0")
                yield Step(file, int(number), int(nth))

    if (child := os.fork()) == 0:
        os._exit(run(arguments, tell) & 255)
    found = list(told())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
    last = {step[:2]: step for step in found}
    return [each for each in found if each.nth == 1 or (ALL and each == last[each[:2]])]


def end(arguments: list[str], step: Step, number: signal.Signals) -> int:
    """Run the command up to a step and send its process a signal there; its exit status."""

    def maybe(here: Step) -> None:
        if here == step:
            os.kill(os.getpid(), number)

    return run(arguments, maybe)


def content(root: Path) -> dict[str, bytes]:
    """Everything below the queues."""
    top = root / "queues"
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else b""
        for path in sorted(top.rglob("*"))
    }


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory in memory, if there is such a place: the syncs are not what is tested here."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def damaged(place: Path) -> Path:
    """Two queues, one with a lost record, one with a bad footer, and a stranger among them."""
    root = place / "damaged"
    make(root, {b"q": (COUNT, 0), b"other": (30, 0), b"sound": (3, 0)})
    flip(segments(root, b"q")[0], 4096 + 100)
    footer = footer_offset(segments(root, b"other")[0].stat().st_size)
    flip(segments(root, b"other")[0], footer + 20)
    (root / "queues" / "stranger").write_bytes(b"mine")
    return root


@pytest.fixture(scope="module")
def repaired(damaged: Path, place: Path) -> tuple[Path, str]:
    root = copy(damaged, place / "repaired")
    assert main(["--json", "--repair", "-y", str(root)]) == 1
    (ident,) = os.listdir(root / "quarantine")
    return root, ident


def copy(root: Path, to: Path) -> Path:
    """A copy in place of whatever is there."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(root, to, symlinks=True)
    return to


def sound(root: Path) -> bool:
    survivors = {number: data for number, data in EXPECTED.items() if number not in LOST}
    return drain(root, b"q") == survivors and len(drain(root, b"other")) == 30


def signals(places: list[Step]) -> Iterator[tuple[Step, signal.Signals]]:
    """Which step to end how."""
    if ALL:
        yield from itertools.product(places, (signal.SIGKILL, signal.SIGINT))
    else:
        yield from zip(places[::5], itertools.cycle((signal.SIGKILL, signal.SIGINT)))
        done = Step(transaction.__file__, line_of("    _finish("), 1)
        if done in places:
            yield done, signal.SIGKILL


def ended_as_asked(status: int, number: signal.Signals) -> bool:
    return status == (-number if number is signal.SIGKILL else EXIT_INTERRUPTED)


def test_a_repair(damaged: Path, place: Path, capsys: Any) -> None:
    before = content(damaged)
    root = copy(damaged, place / "data")
    command = ["--repair", "-y", str(root)]
    places, seen = steps(command), set()
    for step, number in signals(places):
        copy(damaged, root)
        assert ended_as_asked(end(command, step, number), number), step
        as_it_was = content(root) == before
        seen.add(as_it_was)
        status, rows = fsck(capsys, root)
        if number is signal.SIGINT:
            assert "interrupted-repair" not in kinds(rows), f"{step}: nothing tidies up"
        assert status == (4 if as_it_was else 0), (step, rows)
        assert fsck(capsys, *command)[0] == (1 if as_it_was else 0), step
        status, rows = fsck(capsys, "--thorough", root)
        assert (status, kinds(rows)) == (0, set()), (step, rows)
        (ident,) = os.listdir(root / "quarantine")
        assert sound(copy(root, place / "drained")), step
        assert fsck(capsys, "--undo", ident, root)[0] == 1, step
        assert content(root) == before, step
    assert seen == {True, False}, "both sides of the exchange were met"


def test_an_undo(damaged: Path, repaired: tuple[Path, str], place: Path, capsys: Any) -> None:
    mended, ident = repaired
    before, after = content(mended), content(damaged)
    root = copy(mended, place / "data")
    command = ["--undo", ident, str(root)]
    seen = set()
    for step, number in signals(steps(command)):
        copy(mended, root)
        assert ended_as_asked(end(command, step, number), number), step
        now = content(root)
        assert now in (before, after), step
        seen.add(now == before)
        if number is signal.SIGINT:
            assert "interrupted-repair" not in kinds(fsck(capsys, root)[1]), step
        if now == before:
            assert fsck(capsys, *command)[0] == 1, step
        assert content(root) == after, step
        assert fsck(capsys, "--repair", "-y", root)[0] == 1, step
        status, rows = fsck(capsys, "--thorough", root)
        assert (status, kinds(rows)) == (0, set()), (step, rows)
    assert seen == {True, False}


@pytest.mark.parametrize("exchanged", [False, True])
def test_tidying_up(damaged: Path, place: Path, capsys: Any, exchanged: bool) -> None:
    """What an ended repair has left is tidied up by the next one, which is ended as well."""
    root = place / "data"
    command = ["--repair", "-y", str(root)]
    first = Step(
        transaction.__file__, line_of("    _finish(" if exchanged else "        _exchange("), 1
    )

    def begin() -> dict[str, bytes]:
        copy(damaged, root)
        assert end(command, first, signal.SIGKILL) == -signal.SIGKILL
        assert "interrupted-repair" in kinds(fsck(capsys, root)[1])
        return content(root)

    before = begin()
    assert (before == content(damaged)) == (not exchanged)
    places = steps(command, 0 if exchanged else 1)
    settling = line_of("def settle("), line_of("def _remove(")
    assert any(settling[0] < each.line < settling[1] for each in places)
    for step, number in signals(places):
        before = begin()
        assert ended_as_asked(end(command, step, number), number), step
        if exchanged:
            assert content(root) == before, step
        assert fsck(capsys, *command)[0] in (0, 1), step
        status, rows = fsck(capsys, "--thorough", root)
        assert (status, kinds(rows)) == (0, set()), (step, rows)
        assert sound(copy(root, place / "drained")), step


@pytest.mark.parametrize("bad", [None, b"no format\n"])
def test_the_format_file_goes_with_the_queues(
    damaged: Path, place: Path, capsys: Any, bad: bytes | None
) -> None:
    """Ended anywhere, a repair has not made the FORMAT file good unless the queues are; and what
    comes next finishes or undoes both of them together."""
    origin, root = copy(damaged, place / "origin"), place / "data"
    good = (origin / "FORMAT").read_bytes()
    (origin / "FORMAT").unlink()
    if bad is not None:
        (origin / "FORMAT").write_bytes(bad)
    before = content(origin)
    command = ["--repair", "-y", str(copy(origin, root))]
    seen = set()
    for step in in_transaction(steps(command)):
        copy(origin, root)
        assert end(command, step, signal.SIGKILL) == -signal.SIGKILL
        exchanged = content(root) != before
        mended = format_of(root) == good
        assert exchanged or not mended, step
        seen.add((exchanged, mended))
        assert fsck(capsys, *command)[0] == (0 if exchanged else 1), step
        status, rows = fsck(capsys, "--thorough", root)
        assert (status, kinds(rows)) == (0, set()), (step, rows)
        (ident,) = os.listdir(root / "quarantine")
        assert fsck(capsys, "--undo", ident, root)[0] == 1, step
        assert (content(root), format_of(root)) == (before, bad), step
    assert seen == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("bad", [None, b"no format\n"])
def test_the_format_file_comes_back_with_the_queues(
    damaged: Path, place: Path, capsys: Any, bad: bytes | None
) -> None:
    origin, root = copy(damaged, place / "origin"), place / "data"
    good = (origin / "FORMAT").read_bytes()
    (origin / "FORMAT").unlink()
    if bad is not None:
        (origin / "FORMAT").write_bytes(bad)
    before = content(origin)
    assert main(["--json", "--repair", "-y", str(origin)]) == 1
    (ident,) = os.listdir(origin / "quarantine")
    after = content(origin)
    command = ["--undo", ident, str(copy(origin, root))]
    for step in in_transaction(steps(command)):
        copy(origin, root)
        assert end(command, step, signal.SIGKILL) == -signal.SIGKILL
        exchanged = content(root) == before
        assert exchanged or (content(root), format_of(root)) == (after, good), step
        fsck(capsys, "--undo", "none", root)  # what tidies up, and does nothing else
        assert (content(root), format_of(root)) == (
            (before, bad) if exchanged else (after, good)
        ), step
        assert [each.name for each in root.glob("*.tmp")] == [], step


def test_the_format_file_alone(damaged: Path, place: Path, capsys: Any) -> None:
    """Nothing is exchanged here; the file that was there is never lost."""
    origin, root = copy(damaged, place / "origin"), place / "data"
    assert fsck(capsys, "--repair", "-y", origin)[0] == 1
    shutil.rmtree(origin / "quarantine")
    before = content(origin)
    (origin / "FORMAT").write_bytes(b"no format\n")
    command = ["--repair", "-y", str(copy(origin, root))]
    for step in in_transaction(steps(command)):
        copy(origin, root)
        assert end(command, step, signal.SIGKILL) == -signal.SIGKILL
        assert fsck(capsys, *command)[0] in (0, 1), step
        assert fsck(capsys, root)[0] == 0, step
        (ident,) = os.listdir(root / "quarantine")
        assert fsck(capsys, "--undo", ident, root)[0] == 1, step
        assert (content(root), format_of(root)) == (before, b"no format\n"), step


def in_transaction(places: list[Step]) -> list[Step]:
    """Those steps that change what is there, not what is built beside it."""
    return [each for each in places if each.file == transaction.__file__]


def format_of(root: Path) -> bytes | None:
    path = root / "FORMAT"
    return path.read_bytes() if path.exists() else None


def line_of(start: str) -> int:
    """The number of the one line of the transaction that starts so."""
    with open(transaction.__file__) as source:
        (found,) = (number for number, line in enumerate(source, 1) if line.startswith(start))
    return found


@pytest.mark.parametrize(
    "start", ["        _exchange(", "    _finish(", "    disk.rename(tree, tree"]
)
def test_the_daemon_starts_on_what_a_killed_repair_leaves(
    damaged: Path, tmp_path: Path, start: str
) -> None:
    root = copy(damaged, tmp_path / "data")
    step = Step(transaction.__file__, line_of(start), 1)
    assert end(["--repair", "-y", str(root)], step, signal.SIGKILL) == -signal.SIGKILL
    with Daemon(tmp_path) as daemon:
        daemon.start()
        assert daemon.ask("name=sound&opt=get") == payload(b"sound", 1)
        if start == "        _exchange(":
            assert daemon.ask("name=q&opt=get") == b"HTTPSQS_ERROR"
        else:
            served = list(iter(lambda: daemon.ask("name=q&opt=get"), b"HTTPSQS_GET_END"))
            assert served == [data for number, data in EXPECTED.items() if number not in LOST]
        assert daemon.stop() == 0, daemon.log
