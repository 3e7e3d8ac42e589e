"""Putting rebuilt queues in the place of the old ones: at once, or not at all.

The whole tree of queues is built anew beside the old one, from hard links for what stays, and then
the two change their names in one system call (renameat2 with RENAME_EXCHANGE).  What a crash
leaves behind is told by what lies in `quarantine/`:

    ID.tmp, no ID.json             being built: copies and links, which may go
    ID.tmp and ID.json             if `queues` is the directory that ID.json names (by its inode),
                                   the exchange has happened: finish; else it has not: discard
    ID.tmp with manifest.json      finished but for its name
    ID                             done: what was set aside, and its manifest

Finishing takes those files out of the old tree that are the new tree's as well; what is left is
what was set aside: `quarantine/ID/<queue>/`.

The FORMAT file lies beside the queues, so it cannot change in the same system call.  Its new
content waits in FORMAT.tmp until all else is finished: a repair's daemon, which does not start on
the old one, starts on what is wholly mended or not at all.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from logqueue.errors import UsageError
from logqueue.fsck.quarantine import (
    FORMAT_ASIDE,
    INTENT_SUFFIX,
    MANIFEST,
    describe,
    new_id,
    paths,
    plain_files,
    unfinished,
    write_manifest,
)
from logqueue.storage.disk import Disk
from logqueue.storage.layout import FORMAT, QUARANTINE, QUEUES, TEMPORARY_SUFFIX

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """One queue that changes: `build` makes its new directory and returns the names of the files
    that stay; None when the queue goes.  `name` is the new directory's name."""

    name: str
    build: Callable[[str], list[str]] | None
    reasons: dict[str, str] = field(default_factory=dict)  # file name -> why it is set aside
    reason: str = ""  # for every other file


class NewFormat(NamedTuple):
    """What the FORMAT file is to hold; None when there is to be none."""

    data: bytes | None
    reason: str  # why the old one is set aside


def replace(
    disk: Disk, root: str, changes: dict[str, Rebuilt], new_format: NewFormat | None = None
) -> str:
    """Rebuild the queues whose directory names are the keys, and replace the FORMAT file if there
    is a new one: all of them or none.  The id under which the old ones are in quarantine.

    When it raises (DiskFull, StorageFailed, OSError, KeyboardInterrupt), `settle` undoes or
    finishes it.
    """
    queues, quarantine = os.path.join(root, QUEUES), os.path.join(root, QUARANTINE)
    if changes:
        _refuse_links(queues)
    disk.make_directory(queues)
    disk.make_directory(quarantine)
    disk.sync_directory(root)
    ident = new_id(quarantine)
    tree, intent = paths(root, ident)
    disk.make_directory(tree)
    kept = _build(disk, queues, tree, changes) if changes else {}
    _give_to_owner(root, tree)
    disk.sync_directory(tree)
    if new_format is not None and new_format.data is not None:
        _prepare_format(disk, root, new_format.data)
    manifest = _manifest(root, ident, changes, kept, new_format)
    write_manifest(disk, intent, manifest)
    disk.sync_directory(quarantine)
    if changes:
        _exchange(queues, tree)
        disk.sync_directory(root)
        disk.sync_directory(quarantine)
    _finish(disk, root, ident)
    return ident


def settle(disk: Disk, root: str) -> None:
    """Finish or undo what an interrupted `replace` has left.  Needs the exclusive lock.

    What was copied to another file system meanwhile has lost its inodes: that is left alone.
    """
    quarantine, queues = os.path.join(root, QUARANTINE), os.path.join(root, QUEUES)
    for path in unfinished(root):
        ident = os.path.basename(path).removesuffix(TEMPORARY_SUFFIX).removesuffix(INTENT_SUFFIX)
        tree, intent = paths(root, ident)
        if os.path.exists(os.path.join(tree, MANIFEST)) or _is_built(intent, queues):
            _finish(disk, root, ident)
        elif not os.path.exists(intent) or not os.path.exists(tree) or _is_built(intent, tree):
            disk.unlink(intent)
            disk.unlink(intent + TEMPORARY_SUFFIX)
            disk.unlink(os.path.join(root, FORMAT + TEMPORARY_SUFFIX))
            _remove(tree)
        disk.sync_directory(quarantine)


def _refuse_links(queues: str) -> None:
    if os.path.islink(queues) or os.path.ismount(queues):
        raise UsageError(
            f"{queues} is a link or a mount point and cannot be exchanged in one step; use "
            "--salvage into a new directory"
        )


def _build(disk: Disk, queues: str, tree: str, changes: dict[str, Rebuilt]) -> dict[str, list[str]]:
    """All queues as they are to be, in `tree`; of each that changes, the files that stay."""
    for name in disk.list(queues):
        if name not in changes and not name.endswith(TEMPORARY_SUFFIX):
            _link_tree(disk, os.path.join(queues, name), os.path.join(tree, name))
    return {
        name: change.build(os.path.join(tree, change.name))
        for name, change in changes.items()
        if change.build is not None
    }


def _link_tree(disk: Disk, source: str, target: str) -> None:
    """The same files under a second name."""
    if os.path.islink(source) or not os.path.isdir(source):
        os.link(source, target, follow_symlinks=False)
        return
    disk.make_directory(target)
    for name in disk.list(source):
        _link_tree(disk, os.path.join(source, name), os.path.join(target, name))
    disk.sync_directory(target)


def _prepare_format(disk: Disk, root: str, data: bytes) -> None:
    """The new FORMAT file, durable, under its temporary name."""
    path = os.path.join(root, FORMAT + TEMPORARY_SUFFIX)
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _give_to_owner(root, path)
    disk.sync_directory(root)


def _manifest(
    root: str,
    ident: str,
    changes: dict[str, Rebuilt],
    kept: dict[str, list[str]],
    new_format: NewFormat | None,
) -> dict[str, object]:
    queues = os.path.join(root, QUEUES)
    entries = []
    for name, change in changes.items():
        for path in plain_files(os.path.join(queues, name)):
            inside = os.path.relpath(path, os.path.join(queues, name))
            if inside in kept.get(name, []):
                continue
            reason = change.reasons.get(inside, change.reason)
            entries.append(describe(path, os.path.normpath(os.path.join(name, inside)), reason))
    path = os.path.join(root, FORMAT)
    if new_format is not None and os.path.exists(path):
        entries.append(describe(path, FORMAT_ASIDE, new_format.reason))
    built = paths(root, ident)[0] if changes else queues  # without changes nothing is exchanged
    became = {name: each.name for name, each in changes.items() if each.build is not None}
    return {
        "id": ident,
        "inode": os.stat(built).st_ino,
        "format": new_format and ("removed" if new_format.data is None else "replaced"),
        "became": became,
        "kept": kept,
        "set_aside": entries,
    }


def _exchange(one: str, other: str) -> None:
    """Let two directories change their names, in one step.  Raises UsageError where the file
    system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "renameat2", None)
    if call is not None:
        flags = ctypes.c_uint(_RENAME_EXCHANGE)
        if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), flags) == 0:
            return
    reason = os.strerror(ctypes.get_errno()) if call is not None else "no renameat2 here"
    raise UsageError(
        f"{one}: cannot be exchanged in one step ({reason}); nothing was changed. Use --salvage "
        "into a new directory"
    )


def _is_built(intent: str, directory: str) -> bool:
    """Whether `directory` is the tree that was built for `intent`."""
    try:
        with open(intent, encoding="utf-8") as file:
            inode = json.load(file)["inode"]
        return bool(os.stat(directory).st_ino == inode)
    except FileNotFoundError:
        return False


def _give_to_owner(root: str, made: str) -> None:
    """What root has made must be the daemon's, which runs as the owner of the data directory."""
    owner = os.stat(root)
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    below = (os.path.join(top, name) for top, *names in os.walk(made) for name in chain(*names))
    for path in (made, *below):
        if os.lstat(path).st_uid == 0:
            os.lchown(path, owner.st_uid, owner.st_gid)


def _finish(disk: Disk, root: str, ident: str) -> None:
    """The exchange has happened: leave in the old tree only what was set aside.  Idempotent."""
    tree, intent = paths(root, ident)
    inside = os.path.join(tree, MANIFEST)
    if not os.path.exists(inside):
        with open(intent, encoding="utf-8") as file:
            manifest = json.load(file)
        became = manifest["became"]
        for name in disk.list(tree):
            _prune(os.path.join(tree, name), os.path.join(root, QUEUES, became.get(name, name)))
        _replace_format(disk, root, tree, manifest.get("format"))
        disk.rename(intent, inside)
        disk.sync_directory(tree)
    disk.rename(tree, tree.removesuffix(TEMPORARY_SUFFIX))
    disk.sync_directory(os.path.join(root, QUARANTINE))


def _replace_format(disk: Disk, root: str, tree: str, change: str | None) -> None:
    """Set the FORMAT file aside, and give the new one its name.  Idempotent."""
    path = os.path.join(root, FORMAT)
    new = path + TEMPORARY_SUFFIX
    if change == "removed" or (change == "replaced" and os.path.exists(new)):
        if os.path.exists(path):
            disk.rename(path, os.path.join(tree, FORMAT_ASIDE))
        if change == "replaced":
            disk.rename(new, path)
        disk.sync_directory(root)


def _remove(path: str) -> None:
    """Remove what is at `path`, with all that is in it.  May be cut short anywhere and repeated,
    which `shutil.rmtree` may not: interrupted, it closes a descriptor twice."""
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            _remove(os.path.join(path, name))
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _prune(old: str, new: str) -> None:
    """Remove those names below `old` that are the same files as below `new`, and empty
    directories."""
    if os.path.isdir(old) and not os.path.islink(old):
        for name in os.listdir(old):
            _prune(os.path.join(old, name), os.path.join(new, name))
        if not os.listdir(old):
            os.rmdir(old)
    elif os.path.lexists(new) and os.path.samestat(os.lstat(old), os.lstat(new)):
        os.unlink(old)
