"""Data directories for the tests of fsck: made by the store itself, drained by it afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from logqueue.errors import Corrupt
from logqueue.fsck.command import main
from logqueue.storage.disk import MmapDisk
from logqueue.storage.layout import QUEUES, directory_name, segment_base
from logqueue.storage.queue import Options, Queue
from logqueue.storage.store import Store

DISK = MmapDisk()
OPTIONS = Options(segment_bytes_max=32 * 1024, clock=lambda: 1_700_000_000_000)

Records = dict[int, bytes]


def payload(name: bytes, number: int, size: int = 1000) -> bytes:
    """What the record `number` of a queue holds; each has a length of its own."""
    return (b"%s-%d-" % (name, number)).ljust(size + number * 7 % 50, b"x")


def make(root: Path, queues: dict[bytes, tuple[int, int]], *, clean: bool = True) -> None:
    """Queues with (records, consumed) each; `clean=False` leaves them as kill -9 does."""
    store = Store.open(DISK, str(root), OPTIONS)
    for name, (count, consumed) in queues.items():
        queue = store.create_queue(name)
        for number in range(1, count + 1):
            queue.put(payload(name, number))
            if number % 5 == 0:
                queue.sync()
        queue.sync()
        for _ in range(consumed):
            queue.get()
        queue.sync()
        if clean:
            queue.close()
        else:
            queue.cursor.close(clean=False)
            queue.log.close()
    store.close()


def directory(root: Path, name: bytes) -> Path:
    """Where the queue `name` lies."""
    return root / QUEUES / directory_name(name)


def segments(root: Path, name: bytes) -> list[Path]:
    """Its segment files, oldest first."""
    paths = sorted(directory(root, name).iterdir())
    return [path for path in paths if segment_base(path.name) is not None]


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes in a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    """Flip one bit."""
    data = path.read_bytes()
    patch(path, offset, bytes([data[offset] ^ 4]))


def drain(root: Path, name: bytes) -> Records:
    """Open the queue as the daemon does, take everything, put the directory back as it was.

    Raises Corrupt when the daemon would refuse it.
    """
    store = Store.open(DISK, str(root), OPTIONS)
    try:
        queue, _ = store.open_queue(name)
        try:
            return dict(_taken(queue))
        finally:
            queue.close()
    finally:
        store.close()


def _taken(queue: Queue) -> list[tuple[int, bytes]]:
    return list(iter(queue.get, None))


def refused(root: Path, name: bytes) -> bool:
    """Whether the daemon refuses the queue."""
    try:
        drain(root, name)
    except Corrupt:
        return True
    return False


def fsck(capsys: Any, *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    """Run the command with --json: its status and what it printed."""
    capsys.readouterr()
    status = main(["--json", *(os.fspath(each) for each in map(str, arguments))])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def kinds(rows: list[dict[str, Any]]) -> set[str]:
    """The classes of the findings in the output."""
    return {row["finding"] for row in rows if "finding" in row}
