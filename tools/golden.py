"""Makes the golden data directory of this version, which every later version must open.

    python -m tools.golden

Writes tests/golden/data-<format>.tar.xz and .json beside it, which says what stands in it.  A
golden directory is never made again once a version with its format has been released.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote_from_bytes

from logqueue.storage.disk import MmapDisk
from logqueue.storage.format import SEGMENT_BYTES_MIN, VERSION
from logqueue.storage.layout import directory_name
from logqueue.storage.opening import open_queue
from logqueue.storage.queue import Options, Queue
from logqueue.storage.store import Store
from logqueue.storage.token import Outcome

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
OPTIONS = Options(committed_reads=False, segment_bytes_max=2 * SEGMENT_BYTES_MIN)


def message(name: bytes, number: int, size: int = 80) -> bytes:
    """A payload that no other queue or number has."""
    return (b"%b %d " % (name[:20], number)).ljust(size, b"%d" % (number % 10))


def _fill(queue: Queue, put: int, get: int, size: int = 80) -> None:
    for number in range(put):
        assert queue.put(message(queue.name, number, size)) is not None
    for _ in range(get):
        assert queue.get() is not None


def _reset(queue: Queue) -> None:
    _fill(queue, 10, 4)
    queue.reset()
    _fill(queue, 3, 1)


def _rings(queue: Queue) -> None:
    _fill(queue, 8, 2)
    assert queue.set_maxqueue(12)
    _fill(queue, 4, 5)
    _fill(queue, 2, 0)


def _batch(queue: Queue) -> None:
    assert queue.put_batch([message(queue.name, number) for number in range(5)]) == 1
    assert len(queue.get_batch(2, 1 << 20)) == 2


def _leases(queue: Queue) -> None:
    _fill(queue, 6, 1)
    queue.sync()
    delivery = queue.deliver()
    delivery.make_room(0)
    handed = delivery.receive(3, 12 * 3600 * 1000, 1 << 20)
    first, second, third = (delivery.tokens.make(each.frame.sequence, 1) for each in handed)
    assert delivery.acknowledge([second]) == [Outcome.DONE]
    assert delivery.release([(first, 0), (third, 0)]) == [Outcome.DONE] * 2


QUEUES: dict[bytes, Callable[[Queue], None]] = {
    b"plain": lambda queue: _fill(queue, 20, 5),
    b"empty": lambda queue: _fill(queue, 7, 7),
    b"": lambda queue: _fill(queue, 2, 0),
    b"%/.. \xe6\x97\xa5": lambda queue: _fill(queue, 2, 1),
    b"\xff" * 256: lambda queue: _fill(queue, 3, 1),
    b"segments": lambda queue: _fill(queue, 120, 40, 1500),
    b"large": lambda queue: _fill(queue, 2, 0, 100_000),
    b"reset": _reset,
    b"rings": _rings,
    b"batch": _batch,
    b"leases": _leases,
    b"killed": lambda queue: _fill(queue, 12, 3),
    b"torn": lambda queue: _fill(queue, 12, 3),
}


def describe(queue: Queue) -> dict[str, object]:
    """What can be seen of a queue without consuming anything: status, and every position."""
    views = (queue.view(position) for position in range(1, queue.positions.putpos + 1))
    digests = [None if body is None else sha256(body).hexdigest()[:16] for body in views]
    return {"positions": list(queue.positions), "views": digests}


def drain(queue: Queue) -> list[list[object]]:
    """Get all that is left: positions and digests."""
    taken: list[list[object]] = []
    while (got := queue.get()) is not None:
        taken.append([got[0], sha256(got[1]).hexdigest()[:16]])
    return taken


def make(root: Path) -> None:
    """The data directory."""
    store = Store.open(MmapDisk(), str(root), OPTIONS)
    for name, fill in QUEUES.items():
        queue = store.create_queue(name)
        fill(queue)
        queue.sync()
        queue.close(clean=name not in (b"killed", b"torn"))
    store.close()
    [segment] = (root / "queues" / "torn").glob("*.log")
    with segment.open("rb+") as file:
        file.seek(SEGMENT_BYTES_MIN // 2)
        file.write(b"never acknowledged".ljust(64, b"\1"))


def main() -> None:
    """Make it, describe it, pack it."""
    expected = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "data"
        make(root)
        archive = GOLDEN / f"data-{VERSION}.tar.xz"
        with tarfile.open(archive, "w:xz") as packed:
            packed.add(root, "data")
        for name in QUEUES:
            directory = os.path.join(root, "queues", directory_name(name))
            queue, _ = open_queue(MmapDisk(), directory, OPTIONS)
            seen = describe(queue)
            expected[quote_from_bytes(name, safe="")] = {**seen, "unread": drain(queue)}
            queue.close()
    (GOLDEN / f"data-{VERSION}.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(f"{archive}: {archive.stat().st_size} bytes, {len(expected)} queues")


if __name__ == "__main__":
    main()
