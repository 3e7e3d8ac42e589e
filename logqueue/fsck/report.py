"""What logqueue-fsck prints: findings and rows as text or NDJSON, and progress on a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from logqueue.fsck.finding import Finding

_PROGRESS_S = 0.2


class Printer:
    """Prints for the data directory `root`."""

    def __init__(self, root: str, *, as_json: bool) -> None:
        self._root = root
        self._json = as_json
        self._total = 0
        self._done = 0
        self._began = self._shown = time.monotonic()
        self._visible = sys.stderr.isatty()

    @contextlib.contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show on a terminal how much of `total` bytes has been checked."""
        self._total = total
        try:
            yield
        finally:
            self._clear()

    def checked(self, count: int) -> None:
        """`count` more bytes have been checked."""
        self._done += count
        now = time.monotonic()
        if self._visible and now - self._shown > _PROGRESS_S:
            self._shown = now
            share = min(100, 100 * self._done // max(1, self._total))
            rate = self._done / (now - self._began) / 1e6
            print(f"\r{share:3} %, {rate:.0f} MB/s ", end="", file=sys.stderr, flush=True)

    def finding(self, finding: Finding, *, remedy: bool = True) -> None:
        """One finding: where, what, what it means, and what to do unless it is being done."""
        self._clear()
        kind, command = finding.kind, finding.remedy(self._root)
        if self._json:
            row: dict[str, object] = {
                "finding": kind.label,
                "severity": kind.severity.value,
                "queue": finding.queue,
                "path": finding.path,
                "offset": finding.offset,
                "first": finding.first or None,
                "last": finding.last or None,
                "bytes": finding.size,
                "text": finding.text,
                "meaning": kind.meaning,
                "daemon": kind.daemon,
                "remedy": command or None,
            }
            self.row(row)
            return
        path = os.path.relpath(finding.path, self._root)
        records = f", {finding.records}" if finding.records else ""
        size = f", {finding.size} bytes" if finding.size else ""
        print(
            f"{kind.severity.value}: {kind.label}: {path}: offset {finding.offset} "
            f"({finding.offset:#x}){records}{size}: {finding.text}"
        )
        print(f"    what it is: {kind.meaning}")
        print(f"    the daemon: {kind.daemon}")
        if command and remedy:
            print(f"    mend it with: {command}")

    def row(self, row: dict[str, object]) -> None:
        """One line of NDJSON."""
        self._clear()
        print(json.dumps(row, ensure_ascii=False))

    def table(self, row: dict[str, object]) -> None:
        """One queue's figures."""
        if self._json:
            self.row(row)
            return
        self._clear()
        print(f"queue {row['queue'] or '(empty name)'}")
        for name, value in row.items():
            if name in ("oldest", "newest") and isinstance(value, int):
                moment = datetime.fromtimestamp(value / 1000, UTC)
                value = moment.isoformat(sep=" ", timespec="milliseconds")
            if name != "queue":
                print(f"    {name:18}{value}")

    def say(self, text: str) -> None:
        """One line for people; not part of the NDJSON."""
        self._clear()
        print(text, file=sys.stderr if self._json else sys.stdout)

    def ask(self, question: str) -> bool:
        """Whether the answer is yes; no at the end of the input."""
        print(question, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def summary(self, status: int, **figures: object) -> None:
        """The last line."""
        if self._json:
            self.row({"summary": True, "status": status, "bytes": self._done, **figures})
            return
        told = ", ".join(f"{name} {value}" for name, value in figures.items() if value is not None)
        verdict = "clean" if status == 0 else "repaired" if status == 1 else "damage left"
        self.say(f"{self._root}: {verdict} ({told}, {self._done} bytes checked)")

    def _clear(self) -> None:
        if self._visible:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
