"""What commands print: tables for people, a JSON object a line for programs, progress meanwhile."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from logqueue.client.messages import OCTETS, Message

REDRAW_S = 0.2  # a progress line more often only flickers


class Output:
    """Prints as `--json` or `--table` asks, else a table on a terminal and JSON elsewhere."""

    def __init__(self, given: Namespace) -> None:
        self.as_json = given.json or not (given.table or sys.stdout.isatty())

    def show(self, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        """Things of one kind: a table with these columns, or all that is known of each as JSON."""
        if self.as_json:
            for row in rows:
                print(json.dumps(row), flush=True)
            return
        table = [columns, *([_cell(row[each]) for each in columns] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print("  ".join(map(str.ljust, line, widths)).rstrip())

    def record(self, row: Mapping[str, object]) -> None:
        """One thing: a line for each of its fields, or JSON."""
        if self.as_json:
            print(json.dumps(row))
            return
        width = max(map(len, row))
        for name, value in row.items():
            print(f"{name.ljust(width)}  {_cell(value)}")


def _cell(value: object) -> str:
    """A value for people.  Whatever came from the network may not steer their terminal."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "".join(each if each.isprintable() else escape(each) for each in str(value))


def escape(character: str) -> str:
    """A character that cannot be printed, as Python writes it."""
    return character.encode("unicode_escape").decode()


def message_row(message: Message) -> dict[str, object]:
    """A message as the v1 API's lines have it."""
    row: dict[str, object] = {
        "sequence": message.sequence,
        "pos": message.pos,
        "time": message.time_ms,
        "attempts": message.attempts,
        "lease": message.lease or "",
        "type": None if message.content_type == OCTETS else message.content_type,
    }
    if message.state is not None:
        row["state"] = message.state
    if message.dead:
        row["dead"] = list(message.dead)
    try:
        return row | {"data": message.body.decode()}
    except UnicodeDecodeError:
        return row | {"data_b64": b64encode(message.body).decode()}


class Progress:
    """A line on a terminal's stderr that says how far long work has come; nothing elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = sys.stderr.isatty()
        self._start = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wipe the line."""
        if self._shown and self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def at(self, done: int, total: int | None = None) -> None:
        """So much is done."""
        now = time.monotonic()
        if not self._shown or now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        rate = done / max(now - self._start, 0.001)
        of = "" if total is None else f" of {total:,}"
        line = f"{self._what}: {done:,}{of}, {rate:,.0f}/s"
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A line for people, beside what programs read."""
    print(f"logqueue: {text}", file=sys.stderr)


def write(data: bytes) -> None:
    """Bytes to stdout, all of them: after this they are the reader's."""
    sys.stdout.flush()
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]
