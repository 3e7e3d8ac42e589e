"""What repairs have set aside: `quarantine/ID/` with its manifest, one for each repair.

A manifest lists every file with its length, SHA-256 and the reason, so that a repair can be undone
from it, and proved to be undoable.  Nothing here is ever deleted by the program.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator

from logqueue.errors import UsageError
from logqueue.storage.disk import Disk
from logqueue.storage.layout import QUARANTINE, TEMPORARY_SUFFIX

MANIFEST = "manifest.json"
INTENT_SUFFIX = ".json"
FORMAT_ASIDE = "FORMAT.old"  # a queue may be called FORMAT; none has a dot in its directory's name


def read_manifest(root: str, ident: str) -> dict[str, object]:
    """The manifest of a finished repair.  Raises UsageError when there is none of this id."""
    place = os.path.join(root, QUARANTINE)
    path = os.path.join(place, ident, MANIFEST)
    if not os.path.exists(os.path.join(place, ident)):
        ids = ", ".join(sorted(os.listdir(place))) if os.path.isdir(place) else ""
        raise UsageError(f"{place}: no repair {ident} is here; there are: {ids or 'none'}")
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: no repair can be undone from it: {error}") from error
    assert isinstance(manifest, dict)
    return manifest


def unsound(root: str, *, hashes: bool) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) for everything in quarantine that is not what its manifest lists."""
    quarantine = os.path.join(root, QUARANTINE)
    for ident in sorted(os.listdir(quarantine)) if os.path.isdir(quarantine) else []:
        if ident.endswith((TEMPORARY_SUFFIX, INTENT_SUFFIX)):
            continue
        try:
            entries = read_manifest(root, ident)["set_aside"]
        except (UsageError, KeyError, AssertionError) as error:
            yield os.path.join(quarantine, ident), str(error)
            continue
        assert isinstance(entries, list)
        for entry in entries:
            path = os.path.join(quarantine, ident, entry["path"])
            if not os.path.isfile(path):
                yield path, "the file is missing"
            elif os.path.getsize(path) != entry["length"]:
                yield path, f"{os.path.getsize(path)} bytes, the manifest says {entry['length']}"
            elif hashes and _sha256(path) != entry["sha256"]:
                yield path, "the SHA-256 is not the manifest's"


def unfinished(root: str) -> list[str]:
    """What an interrupted repair has left in quarantine."""
    quarantine = os.path.join(root, QUARANTINE)
    names = sorted(os.listdir(quarantine)) if os.path.isdir(quarantine) else []
    suffixes = (TEMPORARY_SUFFIX, INTENT_SUFFIX)
    return [os.path.join(quarantine, name) for name in names if name.endswith(suffixes)]


def paths(root: str, ident: str) -> tuple[str, str]:
    """The tree that is being built or set aside, and the manifest while it is."""
    place = os.path.join(root, QUARANTINE, ident)
    return place + TEMPORARY_SUFFIX, place + INTENT_SUFFIX


def new_id(quarantine: str) -> str:
    """A name for a new repair: the time in UTC, numbered when it is taken."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    taken = {name.partition(".")[0] for name in os.listdir(quarantine)}
    number, ident = 1, stamp
    while ident in taken:
        number += 1
        ident = f"{stamp}-{number}"
    return ident


def describe(path: str, shown: str, reason: str) -> dict[str, object]:
    """One file in a manifest; whole files are set aside, so the offset is 0."""
    length, digest = os.path.getsize(path), _sha256(path)
    return {"path": shown, "offset": 0, "length": length, "sha256": digest, "reason": reason}


def plain_files(path: str) -> Iterator[str]:
    """Every plain file at or below `path`."""
    if os.path.isfile(path):
        yield path
    for directory, _, names in os.walk(path):
        for name in sorted(names):
            file = os.path.join(directory, name)
            if os.path.isfile(file):
                yield file


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(disk: Disk, path: str, manifest: dict[str, object]) -> None:
    """A small file, whole or not at all; its directory is still to be synced."""
    data = json.dumps(manifest, indent=1).encode()
    extent = disk.create(path + TEMPORARY_SUFFIX, len(data))
    try:
        extent.write(0, data)
        extent.sync()
    finally:
        extent.close()
    disk.rename(path + TEMPORARY_SUFFIX, path)
