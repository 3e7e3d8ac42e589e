"""Every valid record into a new, clean data directory; the old one is only read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from logqueue.errors import UsageError
from logqueue.fsck.build import build
from logqueue.fsck.check import Checkup
from logqueue.fsck.plan import Plan, plan
from logqueue.storage.disk import Disk, replace_file
from logqueue.storage.layout import FORMAT, QUEUES, TEMPORARY_SUFFIX, encode_format


def salvage(disk: Disk, checkup: Checkup, target: str) -> Iterator[Plan]:
    """Write every queue of `checkup` into the new data directory `target`; what each one holds.

    Two directories that claim the same queue name become two queues.  The FORMAT file comes last:
    a salvage that was cut short does not look like a data directory.  Raises UsageError when
    `target` has something in it, DiskFull, StorageFailed.
    """
    if disk.exists(target) and disk.list(target):
        raise UsageError(f"{target}: not empty; name a directory that is new")
    queues = os.path.join(target, QUEUES)
    disk.make_directory(target)
    disk.make_directory(queues)
    taken: set[str] = set()
    for found in checkup.surveys:
        if found.meta is None:
            continue
        records = plan(found, checkup.strays_of(found), apart=True)
        while records.directory in taken:
            meta = records.meta._replace(name=records.meta.name + b"-again")
            records = plan(replace(found, meta=meta), apart=True)
        taken.add(records.directory)
        build(disk, os.path.join(queues, records.directory), records)
        yield records
    disk.sync_directory(queues)
    replace_file(
        disk, target, FORMAT, encode_format(), os.path.join(target, FORMAT) + TEMPORARY_SUFFIX
    )
