"""What can be wrong with a data directory, and what it means to the operator.

One table says it for every kind: what it is, what the daemon does with it at its next start, and
whether the mend costs anything.  The runbook (`docs/repair.md`) has a chapter for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How much a finding matters."""

    NOTE = "note"  # the normal trace of a crash, or harmless: the directory is clean
    SAFE = "safe"  # damage whose mend touches no message: `--repair -p` does it
    LOSS = "loss"  # messages are lost, may come twice, or settings are gone: repair asks
    STOP = "stop"  # not for this program to mend


class Kind(Enum):
    """The classes of findings: (name, severity, what it means, what the daemon will do)."""

    TORN_TAIL = (
        "torn-tail",
        Severity.NOTE,
        "bytes behind the last whole record that were never acknowledged; a crash leaves them",
        "serves the queue; they are dropped and never come back",
    )
    STALE_SEGMENT = (
        "stale-segment",
        Severity.NOTE,
        "a consumed segment whose removal a power cut undid",
        "removes it",
    )
    ORPHAN_TMP = (
        "orphan-tmp",
        Severity.NOTE,
        "a file that was being made when the daemon stopped",
        "removes it",
    )
    FOREIGN_FILE = (
        "foreign-file",
        Severity.NOTE,
        "not a file of logqueue",
        "leaves it alone",
    )
    CURSOR_OLDER = (
        "cursor-older",
        Severity.NOTE,
        "an entry of the cursor is torn, as a power cut leaves it; the one before it counts",
        "uses the older entry",
    )
    CURSOR_PAST_END = (
        "cursor-past-end",
        Severity.NOTE,
        "records that had been consumed were not on the disk yet when power failed, which the "
        "durability modes interval and os allow; they had all been delivered",
        "goes on with the next sequence",
    )
    INTERRUPTED_REPAIR = (
        "interrupted-repair",
        Severity.NOTE,
        "a repair was cut short; the queues are as they were before it, or wholly repaired",
        "serves the queues as they are; the next --repair tidies up",
    )
    FOOTER_BAD = (
        "footer-bad",
        Severity.SAFE,
        "the index at the end of a complete segment cannot be read; every record is there",
        "serves the queue, and rebuilds the index in memory each time it needs it",
    )
    FOOTER_STALE = (
        "footer-stale",
        Severity.SAFE,
        "the index at the end of a segment does not describe the segment; every record is there",
        "serves the queue, but a view may miss its message",
    )
    PADDING = (
        "padding",
        Severity.SAFE,
        "bytes that belong to no record have changed inside a segment; every record is there",
        "serves the queue",
    )
    CURSOR_ENTRY = (
        "cursor-entry",
        Severity.SAFE,
        "one copy of a cleanly closed cursor is damaged; the other one holds the same",
        "does not serve the queue",
    )
    CURSOR_POSITION = (
        "cursor-position",
        Severity.SAFE,
        "the cursor names a place where its record does not stand; the sequence is known",
        "stops the queue at the next get",
    )
    DUPLICATE_SEGMENT = (
        "duplicate-segment",
        Severity.SAFE,
        "a segment under another segment's name",
        "does not serve the queue",
    )
    FOREIGN_SEGMENT = (
        "foreign-segment",
        Severity.SAFE,
        "a segment of another queue",
        "does not serve the queue",
    )
    FORMAT_BAD = (
        "format-bad",
        Severity.SAFE,
        "the FORMAT file of the data directory is missing or damaged",
        "does not start",
    )
    MID_DAMAGE = (
        "mid-damage",
        Severity.LOSS,
        "acknowledged records are damaged",
        "does not serve the queue, or stops it when the damage is reached",
    )
    ZERO_TAIL = (
        "zero-tail",
        Severity.LOSS,
        "acknowledged records at the end of a segment are zeros: the disk did not keep them",
        "does not serve the queue",
    )
    SIZE_BAD = (
        "size-bad",
        Severity.LOSS,
        "the file is shorter or longer than it was made",
        "does not serve the queue",
    )
    HEADER_BAD = (
        "header-bad",
        Severity.LOSS,
        "the first page of a segment is damaged",
        "does not serve the queue",
    )
    GAP = (
        "gap",
        Severity.LOSS,
        "acknowledged records are missing: a segment file is gone, or its records are",
        "does not serve the queue",
    )
    NO_SEGMENT = (
        "no-segment",
        Severity.LOSS,
        "the queue has no segment file at all",
        "does not serve the queue",
    )
    CURSOR_BAD = (
        "cursor-bad",
        Severity.LOSS,
        "nothing in the cursor file can be read, so what was consumed is not known; a repair "
        "starts at the oldest record on disk, and messages that were consumed may come again",
        "does not serve the queue",
    )
    CURSOR_STALE = (
        "cursor-stale",
        Severity.LOSS,
        "an entry of the cursor is damaged and may have been the newest; a repair goes on from the "
        "one before it, and the messages that were consumed last may come again",
        "does not serve the queue",
    )
    META_BAD = (
        "meta-bad",
        Severity.LOSS,
        "the queue's meta file is missing, damaged or another queue's; a repair makes it anew "
        "with default settings where they cannot be read",
        "does not serve the queue",
    )
    ACKS_BAD = (
        "acks-bad",
        Severity.LOSS,
        "the acknowledgement log is damaged or missing; a repair goes on without it, and messages "
        "that were acknowledged out of order may come again",
        "does not serve the queue",
    )
    LOST_QUEUE = (
        "lost-queue",
        Severity.LOSS,
        "segments of a queue that has no directory lie in other queues' directories; a repair "
        "makes a queue of them, under its own name if that is known, else recovered-ID",
        "does not serve them",
    )
    NOT_A_QUEUE = (
        "not-a-queue",
        Severity.LOSS,
        "something among the queues that is no queue's directory; a repair sets it aside",
        "takes it for a damaged queue",
    )
    REFUSED = (
        "refused",
        Severity.LOSS,
        "the daemon refuses the queue for a reason that no other finding names",
        "does not serve the queue",
    )
    VERSION_NEWER = (
        "version-newer",
        Severity.STOP,
        "written by a newer logqueue; use that one's tools",
        "does not serve it",
    )
    UNREADABLE = (
        "unreadable",
        Severity.STOP,
        "the disk does not give the file back; look at dmesg and SMART, copy the directory to a "
        "good disk (ddrescue), then repair the copy",
        "does not serve the queue",
    )
    QUARANTINE_BAD = (
        "quarantine-bad",
        Severity.STOP,
        "what an earlier repair set aside is not what its manifest lists, so that repair cannot "
        "be undone; the queues are not concerned",
        "does not look there",
    )

    def __init__(self, label: str, severity: Severity, meaning: str, daemon: str) -> None:
        self.label = label
        self.severity = severity
        self.meaning = meaning
        self.daemon = daemon


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong at one place.

    `queue` is the queue's directory name, empty when none is concerned; `first` and `last` are the
    sequences of the records concerned, 0 when there are none or they are not known; `size` counts
    the bytes concerned.
    """

    kind: Kind
    queue: str
    path: str
    offset: int
    text: str
    first: int = 0
    last: int = 0
    size: int = 0

    @property
    def harmful(self) -> bool:
        """Whether the directory is not clean because of it."""
        return self.kind.severity is not Severity.NOTE

    @property
    def records(self) -> str:
        """The records concerned, for people; empty when there are none."""
        if not self.first:
            return ""
        return (
            f"record {self.first}"
            if self.first == self.last
            else (f"records {self.first} to {self.last}")
        )

    def remedy(self, directory: str) -> str:
        """The command that mends it, for a shell; empty when nothing needs mending."""
        match self.kind.severity:
            case Severity.NOTE:
                return ""
            case Severity.SAFE:
                return f"logqueue-fsck --repair -p {directory}"
            case Severity.LOSS:
                return f"logqueue-fsck --repair {directory}"
        return f"logqueue-fsck --salvage NEW_DIRECTORY {directory}"
