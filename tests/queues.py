"""Real queues in real directories: what the tests of the log store have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from logqueue.storage.disk import MmapDisk
from logqueue.storage.layout import directory_name
from logqueue.storage.opening import create_queue, open_queue
from logqueue.storage.queue import Options, Queue
from logqueue.storage.recovery import Report, inspect

DISK = MmapDisk()
COMMITTED = Options(segment_bytes_max=64 << 10, clock=lambda: 1_700_000_000_000)
EAGER = Options(
    committed_reads=False, segment_bytes_max=64 << 10, clock=lambda: 1_700_000_000_000
)  # serves what is stored, as durability `interval` and `os` do


def directory(root: Path, name: bytes = b"q") -> Path:
    """Where the queue `name` lives below `root`."""
    return root / directory_name(name)


def create(root: Path, options: Options = COMMITTED, name: bytes = b"q") -> Queue:
    return create_queue(DISK, str(directory(root, name)), name, options)


def reopen(root: Path, options: Options = COMMITTED, name: bytes = b"q") -> tuple[Queue, Report]:
    return open_queue(DISK, str(directory(root, name)), options)


def look(root: Path, name: bytes = b"q") -> Report:
    return inspect(DISK, str(directory(root, name)))


@contextmanager
def reopened(root: Path, options: Options = COMMITTED, name: bytes = b"q") -> Iterator[Queue]:
    """The recovered queue; its files are given back without a sync or a clean mark."""
    queue, _ = reopen(root, options, name)
    try:
        yield queue
    finally:
        queue.close(clean=False)


def put_synced(queue: Queue, *payloads: bytes) -> None:
    """Each payload is acknowledged before the next one is put."""
    for payload in payloads:
        assert queue.put(payload) is not None
        queue.sync()


def drain(queue: Queue) -> list[bytes]:
    """All that can be consumed."""
    payloads = []
    while (got := queue.get()) is not None:
        payloads.append(got[1])
    return payloads


def flip(path: Path, offset: int, mask: int = 1) -> None:
    """Flip bits of one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Store `data` into a file behind everybody's back."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
