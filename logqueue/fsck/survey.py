"""What is known of one queue: the result of looking at its directory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from logqueue.fsck.finding import Finding, Kind
from logqueue.fsck.segmentfile import SegmentFile
from logqueue.storage.format import Checkpoint, Meta
from logqueue.storage.layout import ACKS_SPARE, acks_base


def is_acks(name: str) -> bool:
    """Whether a file name is one of the acknowledgement log's."""
    return name == ACKS_SPARE or acks_base(name) is not None


@dataclass(slots=True)
class Survey:
    """What is known of one queue.  `meta` and `checkpoint` are as good as could be found."""

    queue: str  # the directory's name
    directory: str
    queue_id: bytes | None = None
    meta: Meta | None = None
    meta_sound: bool = True
    checkpoint: Checkpoint | None = None
    cursor_sound: bool = True
    acks_sound: bool = True
    settled: int = 0  # everything up to here is settled, says the acknowledgement log,
    frontier: int = 0  # and this is the newest record that it knows of
    segments: list[SegmentFile] = field(default_factory=list)  # in order; the last is the tail
    strays: list[SegmentFile] = field(default_factory=list)  # of other queues
    carried: list[str] = field(default_factory=list)  # other files that a repair keeps
    findings: list[Finding] = field(default_factory=list)

    def report(self, kind: Kind, name: str, offset: int, text: str, **place: int) -> None:
        """Note a finding in one of the queue's files."""
        path = os.path.join(self.directory, name) if name else self.directory
        self.findings.append(Finding(kind, self.queue, path, offset, text, **place))

    @property
    def consumed(self) -> int:
        """The newest record that is known to be consumed."""
        ring = self.meta.rings[-1].base if self.meta else 0
        return max(self.checkpoint.consumed if self.checkpoint else 0, ring, self.settled)

    @property
    def last(self) -> int:
        """The newest record that is there; 0 when there never was one."""
        return self.segments[-1].last if self.segments else 0

    @property
    def harmful(self) -> bool:
        """Whether anything is wrong that the daemon does not mend by itself."""
        return any(each.harmful for each in self.findings)

    @property
    def stopped(self) -> bool:
        """Whether there is something that no repair may touch."""
        return any(each.kind in (Kind.VERSION_NEWER, Kind.UNREADABLE) for each in self.findings)
