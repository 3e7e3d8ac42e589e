"""Check, ask, plan, and put everything in place in one transaction; and undo that.

A queue is repaired as a whole, when every one of its findings may be mended.  What was rebuilt is
checked like any queue before it takes the place of the old one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from logqueue.errors import LogqueueError, UsageError
from logqueue.fsck.build import build
from logqueue.fsck.check import Checkup, How, check
from logqueue.fsck.finding import Finding, Kind, Severity
from logqueue.fsck.identity import Identities
from logqueue.fsck.plan import Plan, plan
from logqueue.fsck.quarantine import FORMAT_ASIDE, read_manifest, unsound
from logqueue.fsck.queue import survey
from logqueue.fsck.segments import Progress
from logqueue.fsck.transaction import NewFormat, Rebuilt, replace, settle
from logqueue.storage.disk import Disk
from logqueue.storage.layout import QUARANTINE, QUEUES, encode_format

Ask = Callable[[Finding, bool], bool]  # (finding, whether it can be mended) -> whether to mend it


class NotClean(LogqueueError):
    """What a repair has built does not check clean: a bug; nothing was changed."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(
            f"{finding.path}: offset {finding.offset}: the rebuilt queue is not clean "
            f"({finding.kind.label}: {finding.text}); nothing was changed. Use --salvage, keep the "
            "directory and report this as a bug"
        )


@dataclass(slots=True)
class Outcome:
    """What a repair has done, or would do: `ident` is where the old files are, None when nothing
    was changed."""

    plans: list[Plan] = field(default_factory=list)
    repaired: list[Finding] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)
    ident: str | None = None


def repair(
    disk: Disk, root: str, how: How, ask: Ask, progress: Progress, *, dry_run: bool
) -> Outcome:
    """Mend what `ask` agrees to.  Needs the exclusive lock, unless it is a dry run.

    Raises DiskFull, StorageFailed, UsageError, NotClean; then nothing has changed.
    """
    outcome = Outcome()
    with contextlib.nullcontext() if dry_run else _tidily(disk, root):
        checkup = check(disk, root, how, progress)
        changes = _choose(disk, checkup, ask, outcome, progress)
        if dry_run:
            return outcome
        bad = [_reason(each) for each in outcome.repaired if each.kind is Kind.FORMAT_BAD]
        new_format = NewFormat(encode_format(), bad[0]) if bad else None
        if changes or new_format:
            outcome.ident = replace(disk, root, changes, new_format)
    return outcome


@contextlib.contextmanager
def _tidily(disk: Disk, root: str) -> Iterator[None]:
    """Finish or undo what an earlier run has left, and what this one leaves when it fails."""
    settle(disk, root)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, LogqueueError):  # the first error is the one to tell
            settle(disk, root)
        raise


def _choose(
    disk: Disk, checkup: Checkup, ask: Ask, outcome: Outcome, progress: Progress
) -> dict[str, Rebuilt]:
    changes: dict[str, Rebuilt] = {}
    for finding in checkup.beside:
        if not finding.harmful:
            continue
        if not ask(finding, finding.kind.severity is not Severity.STOP):
            outcome.left.append(finding)
            continue
        outcome.repaired.append(finding)
        if finding.kind is Kind.NOT_A_QUEUE:
            changes[finding.queue] = Rebuilt(finding.queue, None, {}, _reason(finding))
    for found in checkup.surveys:
        harmful = [each for each in found.findings if each.harmful]
        if not harmful:
            continue
        mendable = found.meta is not None and not found.stopped
        agreed = [ask(each, mendable) for each in harmful]
        if not (mendable and all(agreed)):
            outcome.left += harmful
            continue
        outcome.repaired += harmful
        mend = plan(found, checkup.strays_of(found))
        outcome.plans.append(mend)
        reasons = {os.path.basename(each.path): _reason(each) for each in reversed(harmful)}
        make = partial(_build, disk, mend, progress)
        changes[found.queue] = Rebuilt(mend.directory, make, reasons, "replaced by the repair")
    return changes


def _reason(finding: Finding) -> str:
    records = f" ({finding.records})" if finding.records else ""
    return f"{finding.kind.label}: offset {finding.offset}: {finding.text}{records}"


def _build(disk: Disk, mend: Plan, progress: Progress, directory: str) -> list[str]:
    kept = build(disk, directory, mend)
    made = Identities({mend.directory: mend.meta.queue_id}, {})
    found = survey(disk, directory, made, online=False, thorough=False, progress=progress)
    for finding in found.findings:
        if finding.harmful:
            raise NotClean(finding)
    return kept


def undo(disk: Disk, root: str, ident: str) -> str:
    """Put back what the repair `ident` has set aside; the id under which what is there now is in
    quarantine.  Needs the exclusive lock.

    Messages that were put since, and how far they were consumed, go into quarantine too.  Raises
    UsageError when the quarantine is not what its manifest lists; then nothing has changed.
    """
    with _tidily(disk, root):
        manifest = _sound_manifest(root, ident)
        changes = _changes_back(disk, root, ident, manifest)
        return replace(disk, root, changes, _format_back(root, ident, manifest))


def _sound_manifest(root: str, ident: str) -> dict[str, object]:
    manifest = read_manifest(root, ident)
    for path, text in unsound(root, hashes=True):
        if os.path.relpath(path, os.path.join(root, QUARANTINE)).split(os.sep)[0] == ident:
            raise UsageError(f"{path}: {text}; the repair {ident} cannot be undone")
    return manifest


def _format_back(root: str, ident: str, manifest: dict[str, object]) -> NewFormat | None:
    """The FORMAT file as it was before the repair; None when that has left it alone."""
    if manifest.get("format") is None:
        return None
    reason = f"undo of {ident}"
    try:
        with open(os.path.join(root, QUARANTINE, ident, FORMAT_ASIDE), "rb") as file:
            return NewFormat(file.read(), reason)
    except FileNotFoundError:
        return NewFormat(None, reason)


def _changes_back(
    disk: Disk, root: str, ident: str, manifest: dict[str, object]
) -> dict[str, Rebuilt]:
    became, kept = manifest["became"], manifest["kept"]
    assert isinstance(became, dict)
    assert isinstance(kept, dict)
    place = os.path.join(root, QUARANTINE, ident)
    changes: dict[str, Rebuilt] = {}
    reason, had_files = f"undo of {ident}", _set_aside(manifest)
    for old in had_files | set(became):
        new, stayed = became.get(old, old), kept.get(old, [])
        current = os.path.join(root, QUEUES, new)
        make: Callable[[str], list[str]] | None = None
        if old in had_files or stayed:  # else the repair has made it of others' segments
            make = partial(_restore, disk, os.path.join(place, old), current, stayed)
        if new != old:
            changes[new] = Rebuilt(new, None, {}, reason)
        changes[old] = Rebuilt(old, make, {}, reason)
    return changes


def _set_aside(manifest: dict[str, object]) -> set[str]:
    entries = manifest["set_aside"]
    assert isinstance(entries, list)
    return {entry["path"].split(os.sep)[0] for entry in entries} - {FORMAT_ASIDE}


def _restore(disk: Disk, old: str, current: str, kept: list[str], directory: str) -> list[str]:
    """The files that were set aside, copied, beside those that had stayed and still do."""
    if os.path.isdir(old):
        shutil.copytree(old, directory, symlinks=True)
    elif os.path.isfile(old):
        shutil.copy2(old, directory)
        return []
    else:
        disk.make_directory(directory)
    for name in kept:
        path = os.path.join(current, name)
        if os.path.exists(path):
            os.link(path, os.path.join(directory, name))
    for name in disk.list(directory):
        if os.path.isfile(os.path.join(directory, name)):
            with open(os.path.join(directory, name), "rb") as file:
                os.fsync(file.fileno())
    disk.sync_directory(directory)
    return [name for name in kept if os.path.exists(os.path.join(directory, name))]
