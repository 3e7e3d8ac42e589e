"""The data directory: every queue, and what stands beside them.  Reads only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from logqueue.errors import Corrupt, NewerFormat, UsageError
from logqueue.fsck.finding import Finding, Kind
from logqueue.fsck.identity import Identities, identify
from logqueue.fsck.quarantine import unfinished, unsound
from logqueue.fsck.queue import default_meta, survey
from logqueue.fsck.segmentfile import SegmentFile
from logqueue.fsck.segments import Progress, examine_sealed
from logqueue.fsck.survey import Survey
from logqueue.storage.disk import Disk
from logqueue.storage.layout import (
    CURSOR,
    FORMAT,
    LOCK,
    META,
    QUARANTINE,
    QUEUES,
    TEMPORARY_SUFFIX,
    decode_format,
    directory_name,
    segment_base,
)

ONLINE_TRIES = 8  # a queue that changes under the check is looked at again, so many times
# What a daemon at work has lying about.
_AT_WORK = {
    Kind.ORPHAN_TMP,
    Kind.CURSOR_OLDER,
    Kind.CURSOR_PAST_END,
    Kind.STALE_SEGMENT,
    Kind.TORN_TAIL,
}


@dataclass(slots=True)
class Checkup:
    """What a check found: the queues in order, and findings that concern none of them."""

    surveys: list[Survey] = field(default_factory=list)
    beside: list[Finding] = field(default_factory=list)

    def strays_of(self, found: Survey) -> list[SegmentFile]:
        """The segments of a queue that lie in other queues' directories."""
        return [
            segment
            for other in self.surveys
            for segment in other.strays
            if other is not found and segment.queue_id == found.queue_id
        ]

    @property
    def findings(self) -> list[Finding]:
        """All of them, those of the data directory first."""
        return [*self.beside, *(each for found in self.surveys for each in found.findings)]


@dataclass(frozen=True, slots=True)
class How:
    """How to check: `online` beside a running daemon; `thorough` decodes every record, and hashes
    what is in quarantine, where a CRC over the segment would do; `queue` is the only one to look
    at, None for all."""

    online: bool = False
    thorough: bool = False
    queue: bytes | None = None


def check(disk: Disk, root: str, how: How, progress: Progress) -> Checkup:
    """Look at everything below `root`.  `progress` is told the bytes that were checked.

    Raises UsageError when there is no data directory, StorageFailed, LimitExceeded, OSError.
    """
    checkup = Checkup()
    if not _check_root(disk, root, checkup):
        return checkup
    _check_quarantine(root, how, checkup)
    queues = os.path.join(root, QUEUES)
    names = disk.list(queues) if disk.exists(queues) else []
    living = [name for name in names if _may_be_queue(disk, os.path.join(queues, name))]
    identities = identify(disk, queues, living)
    for name in names:
        path = os.path.join(queues, name)
        if how.queue is not None and name != directory_name(how.queue):
            continue
        if how.online and (name.endswith(TEMPORARY_SUFFIX) or not disk.exists(path)):
            continue
        if name.endswith(TEMPORARY_SUFFIX):
            checkup.beside.append(Finding(Kind.ORPHAN_TMP, name, path, 0, "an unfinished queue"))
        elif name not in living:
            text = "neither a meta file, nor a cursor, nor a segment is in it"
            checkup.beside.append(Finding(Kind.NOT_A_QUEUE, name, path, 0, text))
        elif how.online:
            with contextlib.suppress(FileNotFoundError):
                checkup.surveys.append(_survey_online(disk, path, identities, how, progress))
        else:
            checkup.surveys.append(
                survey(
                    disk, path, identities, online=False, thorough=how.thorough, progress=progress
                )
            )
    if how.online:
        return checkup
    for found in checkup.surveys:
        for stray in found.strays:
            if stray.seed is None:
                continue
            examine_sealed(disk, stray, None, None, how.thorough, progress)
    if how.queue is None:
        _gather_homeless(checkup, identities, queues)
    return checkup


def _gather_homeless(checkup: Checkup, identities: Identities, queues: str) -> None:
    """Queues of which there are segments in others' directories, and none of their own."""
    at_home = {found.queue_id for found in checkup.surveys}
    homeless: dict[bytes, list[SegmentFile]] = {}
    for found in checkup.surveys:
        for stray in found.strays:
            if stray.queue_id is not None and stray.queue_id not in at_home:
                homeless.setdefault(stray.queue_id, []).append(stray)
    for queue_id, strays in homeless.items():
        meta = identities.metas.get(queue_id)
        if meta is None or directory_name(meta.name) in identities.ids:
            meta = default_meta(queue_id, b"recovered-" + queue_id.hex().encode())
        name = directory_name(meta.name)
        found = Survey(name, os.path.join(queues, name), queue_id, meta, meta_sound=False)
        found.cursor_sound = False
        text = f"segments of the queue with the id {queue_id.hex()}, which has no directory"
        first, last = min(each.base for each in strays), max(each.last for each in strays)
        size = sum(each.size for each in strays)
        finding = Finding(
            Kind.LOST_QUEUE, name, strays[0].path, 0, text, first, max(first, last), size
        )
        found.findings.append(finding)
        checkup.surveys.append(found)


def bytes_to_check(root: str) -> int:
    """The size of all segment files below `root`: what `progress` counts up to, about."""
    total = 0
    for directory, _, names in os.walk(os.path.join(root, QUEUES)):
        for name in names:
            if segment_base(name) is not None:
                with contextlib.suppress(OSError):
                    total += os.stat(os.path.join(directory, name)).st_size
    return total


def _check_root(disk: Disk, root: str, checkup: Checkup) -> bool:
    """The files beside the queues; whether the queues may be looked at."""
    names = disk.list(root)
    if FORMAT not in names and QUEUES not in names:
        raise UsageError(f"{root}: neither {FORMAT} nor {QUEUES} is here: not a data directory")
    for name in names:
        path = os.path.join(root, name)
        if name == FORMAT + TEMPORARY_SUFFIX:
            checkup.beside.append(Finding(Kind.ORPHAN_TMP, "", path, 0, "unfinished"))
        elif name not in (LOCK, FORMAT, QUEUES, QUARANTINE):
            checkup.beside.append(Finding(Kind.FOREIGN_FILE, "", path, 0, "left alone"))
    path = os.path.join(root, FORMAT)
    try:
        with contextlib.closing(disk.open(path)) as extent:
            decode_format(path, extent.read(0, 4096))
    except FileNotFoundError:
        checkup.beside.append(Finding(Kind.FORMAT_BAD, "", path, 0, "the file is missing"))
    except Corrupt as error:
        checkup.beside.append(Finding(Kind.FORMAT_BAD, "", path, error.offset, error.reason))
    except NewerFormat as error:
        checkup.beside.append(Finding(Kind.VERSION_NEWER, "", path, 0, str(error)))
        return False
    return True


def _check_quarantine(root: str, how: How, checkup: Checkup) -> None:
    for path in unfinished(root):
        checkup.beside.append(Finding(Kind.INTERRUPTED_REPAIR, "", path, 0, "left by a repair"))
    for path, text in unsound(root, hashes=how.thorough):
        checkup.beside.append(Finding(Kind.QUARANTINE_BAD, "", path, 0, text))


def _may_be_queue(disk: Disk, path: str) -> bool:
    if path.endswith(TEMPORARY_SUFFIX) or not os.path.isdir(path) or os.path.islink(path):
        return False
    try:
        names = disk.list(path)
    except FileNotFoundError:  # a daemon at work has removed it
        return False
    return META in names or CURSOR in names or any(segment_base(name) is not None for name in names)


def _survey_online(
    disk: Disk, path: str, identities: Identities, how: How, progress: Progress
) -> Survey:
    """A look at a queue that a daemon is changing: what is wrong is looked at again until nothing
    has moved meanwhile, so that no roll or removal passes for damage.  Of a queue that never holds
    still only what was wrong at every look counts."""
    queues, name = os.path.split(path)
    lasting: set[tuple[Kind, str, int]] | None = None
    for _ in range(ONLINE_TRIES):
        before = list(_identities(path))
        found = survey(
            disk, path, identities, online=True, thorough=how.thorough, progress=progress
        )
        found.findings = [each for each in found.findings if each.kind not in _AT_WORK]
        if not found.harmful or before == list(_identities(path)):
            return found
        seen = {(each.kind, each.path, each.offset) for each in found.findings}
        lasting = seen if lasting is None else lasting & seen
        identities = identify(disk, queues, [name])
    found.findings = [
        each for each in found.findings if (each.kind, each.path, each.offset) in (lasting or ())
    ]
    return found


def _identities(path: str) -> Iterator[tuple[str, int]]:
    with os.scandir(path) as entries:
        for entry in entries:
            yield entry.name, entry.inode()
