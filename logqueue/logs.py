"""What the daemon says: one event a line on stderr, as text or as JSON (docs/operating.md).

Plan.  Loggers below `logqueue` -> `Sieve` (noisy ones only: what clients can provoke) -> `Stderr`,
which formats on the spot and writes in a thread.  Nothing in a line can end it, move a cursor or
forge another line: whatever is not printable is escaped where the line is made.  A reader of
stderr that stalls (a full pipe, a hung log collector) stalls nobody: lines beyond LINES_MAX are
counted and left out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import syslog
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Literal

Style = Literal["text", "json"]

NOISY = ("logqueue.web", "logqueue.leases")  # loggers whose events clients cause
WINDOW_S = 10.0  # in which so many lines of one kind are written,
TELL_S = 1.0  # at most, until it is told what was kept back when a window is over
LINES_PER_WINDOW = 5  # enough to see what goes on
MESSAGE_CHARS_MAX = 4096  # names have 256 bytes, paths 4096; what is longer is cut
LINES_MAX = 10_000  # waiting for whoever reads stderr: some MB
LINES_PER_WRITE = 100
FLUSH_S = 1.0  # how long an end waits for it
PRIORITIES = (  # levels in syslog's words, worst first
    (logging.CRITICAL, syslog.LOG_CRIT),
    (logging.ERROR, syslog.LOG_ERR),
    (logging.WARNING, syslog.LOG_WARNING),
    (logging.NOTSET, syslog.LOG_INFO),
)


def escaped(text: str) -> str:
    """The same, with `\\xNN` or `\\uNNNN` for all that is not printable: controls, line breaks of
    every script, marks that change the direction of writing, undecodable bytes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str) -> str:
    if len(text) <= MESSAGE_CHARS_MAX:
        return text
    return f"{text[:MESSAGE_CHARS_MAX]}... ({len(text) - MESSAGE_CHARS_MAX} more)"


def message_of(record: logging.LogRecord) -> str:
    """What an event says, safe to show."""
    return escaped(_cut(record.getMessage()))


def traceback_of(record: logging.LogRecord) -> list[str]:
    """The lines of its traceback, safe to show; none without an exception."""
    if not record.exc_info:
        return []
    text = logging.Formatter().formatException(record.exc_info)
    return [escaped(_cut(line)) for line in text.split("\n")]


def _time_of(record: logging.LogRecord) -> str:
    """RFC 3339, UTC, milliseconds."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{stamp}.{int(record.msecs):03d}Z"


class Text(logging.Formatter):
    """For people: time, level, message; a traceback follows on lines that start with `| `."""

    def format(self, record: logging.LogRecord) -> str:
        """One event."""
        first = f"{_time_of(record)} {record.levelname} {message_of(record)}"
        return "\n".join([first, *(f"| {line}" for line in traceback_of(record))])


class Json(logging.Formatter):
    """For programs: an object on one line.  The names of its members are part of the interface."""

    def format(self, record: logging.LogRecord) -> str:
        """One event."""
        event: dict[str, object] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
        }
        if (count := getattr(record, "suppressed", None)) is not None:
            event["suppressed"] = count
        fields: Mapping[str, object] = getattr(record, "fields", {})  # of the access log
        event |= {key: escaped(v) if isinstance(v, str) else v for key, v in fields.items()}
        if lines := traceback_of(record):
            event["exception"] = "\n".join(lines)
        return json.dumps(event)


class _Window:
    """What became of one kind of event lately."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.passed = 0
        self.suppressed = 0
        self.example: tuple[str, int, str] | None = None  # logger, level, message


class Sieve(logging.Filter):
    """Lets LINES_PER_WINDOW events of a kind pass in WINDOW_S, and tells how many it kept back.

    A kind is a logger and the template of a message, so there are as many as the code has.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, str], _Window] = {}
        self._lock = threading.Lock()  # the thread that writes tells

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the event is to be written."""
        self.tell()
        with self._lock:
            kind = (record.name, str(record.msg))
            window = self._windows.get(kind)
            if window is None:
                window = self._windows[kind] = _Window(self._clock() + WINDOW_S)
            window.passed += 1
            if window.passed <= LINES_PER_WINDOW:
                return True
            if window.example is None:  # what stands in its arguments may be large: not kept
                window.example = record.name, record.levelno, _cut(record.getMessage())
            window.suppressed += 1
            return False

    def tell(self, *, all_of_them: bool = False) -> None:
        """Write how many events were kept back in the windows that are over, or in all."""
        now = self._clock()
        with self._lock:
            over = [k for k, each in self._windows.items() if all_of_them or now >= each.ends]
            windows = [self._windows.pop(kind) for kind in over]
        for window in windows:
            self._tell(window)

    @staticmethod
    def _tell(window: _Window) -> None:
        if window.example is None:
            return
        name, level, message = window.example
        template, arguments = "suppressed %d more like this one: %s", (window.suppressed, message)
        record = logging.LogRecord(name, level, "", 0, template, arguments, None)
        record.suppressed = window.suppressed
        logging.getLogger(name).callHandlers(record)


class Stderr(logging.Handler):
    """Writes events to stderr in a thread of its own, where it has the sieve tell in time."""

    def __init__(self, sieve: Sieve) -> None:
        super().__init__()
        self._sieve = sieve
        self._lines: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._lost = 0
        # Not the handler's own: `logging.shutdown` holds that while it waits for the writer.
        self._losing = threading.Lock()
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format now, while what the event is about is as it was; write soon."""
        if self._lines.qsize() < LINES_MAX:
            self._lines.put(self.format(record))
        else:
            with self._losing:
                self._lost += 1

    def flush(self) -> None:
        """Wait until all is written, FLUSH_S at most."""
        done = threading.Event()
        self._lines.put(done)
        done.wait(FLUSH_S)

    def _write(self) -> None:
        """Write whatever has come meanwhile in one go: each write costs two fights for the GIL."""
        while True:
            self._sieve.tell()
            found: list[str | threading.Event] = []
            with contextlib.suppress(Empty):
                found.append(self._lines.get(timeout=TELL_S))
                while len(found) < LINES_PER_WRITE:
                    found.append(self._lines.get_nowait())
            lines = [each for each in found if isinstance(each, str)] + self._confession()
            text = "".join(f"{line}\n" for line in lines)
            with contextlib.suppress(
                OSError, ValueError
            ):  # nobody reads any more: there is no one to tell
                sys.stderr.write(text)
                sys.stderr.flush()
            for each in found:
                if isinstance(each, threading.Event):
                    each.set()

    def _confession(self) -> list[str]:
        """A line about those that were lost, when there is room again."""
        with self._losing:
            if not self._lost or self._lines.qsize() >= LINES_MAX:
                return []
            count, self._lost = self._lost, 0
        template = "%d events were not logged: whoever reads stderr is too slow"
        event = logging.LogRecord(__name__, logging.WARNING, "", 0, template, (count,), None)
        return [self.format(event)]


class Syslog(logging.Handler):
    """Hands events to the system's log, which notes the time itself."""

    def __init__(self) -> None:
        super().__init__()
        syslog.openlog("logqueued", syslog.LOG_PID, syslog.LOG_DAEMON)

    def emit(self, record: logging.LogRecord) -> None:
        """One entry for each line."""
        priority = next(each for level, each in PRIORITIES if record.levelno >= level)
        for line in (message_of(record), *traceback_of(record)):
            syslog.syslog(priority, line)


@contextlib.contextmanager
def to_stderr(style: Style) -> Iterator[None]:
    """Log to stderr for the length of a `with` block."""
    root, sieve = logging.getLogger(), Sieve()
    handler = Stderr(sieve)
    handler.setFormatter(Json() if style == "json" else Text())
    noisy = [logging.getLogger(name) for name in NOISY]
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for logger in noisy:
        logger.addFilter(sieve)
    try:
        yield
    finally:
        sieve.tell(all_of_them=True)
        flush()
        root.removeHandler(handler)
        for logger in noisy:
            logger.removeFilter(sieve)


def to_syslog() -> None:
    """Log to syslog as well; without one nothing is said."""
    logging.getLogger().addHandler(Syslog())


def flush() -> None:
    """Wait until all that was logged is written, FLUSH_S at most."""
    for handler in logging.getLogger().handlers:
        handler.flush()
