"""The errors of logqueue.  Each carries the place where it happened; the message is made of it.

`LogqueueError` and its children are answers to one request or one start; `StorageFailed` is not:
it means that the disk under a queue can no longer be believed, and it ends the daemon.
"""

from __future__ import annotations


class LogqueueError(Exception):
    """Base of every error that logqueue raises on purpose."""


class Corrupt(LogqueueError):
    """Bytes on disk are not what was written: the queue that owns them stops.

    `path` is the file, `offset` the byte position inside it, `reason` what is wrong there, and
    `sequence` the record concerned, when one is known.
    """

    def __init__(self, path: str, offset: int, reason: str, sequence: int | None = None) -> None:
        self.path = path
        self.offset = offset
        self.reason = reason
        self.sequence = sequence
        record = "" if sequence is None else f", sequence {sequence}"
        super().__init__(f"{path}: offset {offset}{record}: {reason}")


class NewerFormat(LogqueueError):
    """The file was written by a newer logqueue; this one leaves it alone."""

    def __init__(self, path: str, found: int, known: int) -> None:
        self.path = path
        self.found = found
        self.known = known
        super().__init__(
            f"{path}: format version {found} is newer than the {known} that this logqueue knows; "
            "start the newer logqueue again, or restore a backup of the older one"
        )


class Locked(LogqueueError):
    """Another process holds the data directory."""

    def __init__(self, path: str, holder: str) -> None:
        self.path = path
        self.holder = holder
        super().__init__(f"{path}: in use by {holder}; stop it first, or choose another directory")


class DiskFull(LogqueueError):
    """No room for a new segment.  Nothing was written; puts resume when space is back."""

    def __init__(self, path: str, needed: int, free: int, reserve: int) -> None:
        self.path = path
        self.needed = needed
        self.free = free
        self.reserve = reserve
        super().__init__(
            f"{path}: {needed} bytes needed, {free} free and {reserve} of them held in reserve; "
            "consume messages or free disk space"
        )


class NotWritable(LogqueueError):
    """The file system does not let us write there.  Nothing was changed."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path}: not writable ({reason}); give the directory to the user that runs logqueued, "
            "or mount it writable"
        )


class LimitExceeded(LogqueueError):
    """A named limit of the configuration refused the request; nothing was changed."""

    def __init__(self, limit: str, value: int, maximum: int) -> None:
        self.limit = limit
        self.value = value
        self.maximum = maximum
        super().__init__(f"{limit}: {value} exceeds the maximum of {maximum}")


class BadOption(LogqueueError):
    """A setting of a queue is not usable; nothing was changed."""

    def __init__(self, option: str, reason: str) -> None:
        self.option = option
        self.reason = reason
        super().__init__(f"{option}: {reason}")


class OptionConflict(BadOption):
    """The setting is usable, but not with what is there; `code` names which it is."""

    def __init__(self, option: str, reason: str, code: str) -> None:
        super().__init__(option, reason)
        self.code = code


class NoSuchQueue(LogqueueError):
    """Nobody has created the queue, or somebody has deleted it meanwhile."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        super().__init__(f"there is no queue {name!r}; create it, or put a message")


class UsageError(LogqueueError):
    """The command line, the configuration or the environment is not usable; says the remedy."""


class StorageFailed(Exception):
    """A write-back failed: the page cache can no longer be trusted and the daemon must end.

    Not a `LogqueueError`, so that no handler of a single request can swallow it.  After a failed
    fdatasync Linux marks the pages clean, and every later call says that all is well.
    """

    def __init__(self, path: str, cause: OSError) -> None:
        self.path = path
        self.cause = cause
        super().__init__(
            f"{path}: {cause.strerror or cause}: the disk did not take what was written; nothing "
            "more is acknowledged. Check the disk (dmesg, SMART), then start again"
        )
