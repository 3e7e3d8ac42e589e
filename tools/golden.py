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
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote_from_bytes

from logqueue.fsck.command import EXIT_REPAIRED
from logqueue.fsck.command import main as fsck
from logqueue.options import QueueOptions
from logqueue.storage.disk import MmapDisk
from logqueue.storage.format import FRAMES_OFFSET, SEGMENT_BYTES_MIN, VERSION
from logqueue.storage.frame import HEADERS, frame_bytes
from logqueue.storage.headers import encode_headers
from logqueue.storage.layout import directory_name
from logqueue.storage.opening import open_queue
from logqueue.storage.queue import Options, Queue
from logqueue.storage.store import Store
from logqueue.storage.token import Outcome

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
OPTIONS = Options(committed_reads=False, segment_bytes_max=2 * SEGMENT_BYTES_MIN)
MADE_MS = 1_700_000_000_000  # so that whenever it is opened, every lease and delay has ended
MAKING = replace(OPTIONS, clock=lambda: MADE_MS, now=lambda: MADE_MS)
LEASE_MS = 12 * 3600 * 1000


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


def _headers(queue: Queue) -> None:
    block = encode_headers(((b"content-type", b"text/plain"), (b"x", b"\xff")))
    bodies = [block + message(queue.name, 0), message(queue.name, 1), block]
    assert queue.put_batch(bodies, [HEADERS, 0, HEADERS]) == 1


def _options(queue: Queue) -> None:
    _fill(queue, 4, 1)
    wanted = QueueOptions(77, 3600.5, 1.5, 3, b"lost & found", 1 << 20, 7200.0)
    assert queue.configure(wanted)


def _paused(queue: Queue) -> None:
    _fill(queue, 4, 1)
    assert queue.configure(QueueOptions(paused=True))


def _step(queue: Queue) -> None:
    _fill(queue, 3, 1)
    queue.log.roll(base=10)
    _fill(queue, 2, 0)


def _lease(queue: Queue, count: int) -> list[str]:
    queue.sync()
    delivery = queue.deliver()
    delivery.make_room(0)
    handed = delivery.receive(count, LEASE_MS, 1 << 20)
    assert len(handed) == count
    return [delivery.tokens.make(each.frame.sequence, each.attempts) for each in handed]


def _leases(queue: Queue) -> None:
    """Every state, and every kind of step: leased, settled, returned, extended, marked."""
    _fill(queue, 9, 1)
    first, second, third, fourth, _ = _lease(queue, 5)
    delivery = queue.deliver()
    assert delivery.acknowledge([second]) == [Outcome.DONE]
    assert delivery.release([(first, 0), (third, LEASE_MS)]) == [Outcome.DONE] * 2
    assert delivery.extend([fourth], LEASE_MS) == [Outcome.DONE]
    queue.sync()
    assert queue.checkpoint()


def _rolled(queue: Queue) -> None:
    """An acknowledgement log that has begun again, with its spare."""
    _leases(queue)
    delivery = queue.deliver()
    assert delivery.acks is not None
    delivery.acks.roll(delivery.leases.snapshot())
    assert delivery.acknowledge(_lease(queue, 1)) == [Outcome.DONE]


def _dead(queue: Queue) -> None:
    _fill(queue, 5, 0)
    assert queue.configure(QueueOptions(max_attempts=1, dead_letter=b"plain"))
    assert queue.deliver().release([(_lease(queue, 2)[1], 0)]) == [Outcome.DONE]


def _damage(root: Path) -> None:
    """Leave a tear in one queue, and have damage in another one repaired."""
    [torn] = (root / "queues" / "torn").glob("*.log")
    with torn.open("rb+") as file:
        file.seek(SEGMENT_BYTES_MIN // 2)
        file.write(b"never acknowledged".ljust(64, b"\1"))
    damaged = sorted((root / "queues" / "repaired").glob("*.log"))[1]
    with damaged.open("rb+") as file:
        file.seek(FRAMES_OFFSET + 5 * frame_bytes(1500) + 100)
        file.write(b"damaged")
    assert fsck(["--repair", "--yes", str(root)]) == EXIT_REPAIRED


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
    b"headers": _headers,
    b"options": _options,
    b"paused": _paused,
    b"step": _step,
    b"leases": _leases,
    b"rolled leases": _rolled,
    b"dead": _dead,
    b"leases killed": _leases,
    b"repaired": lambda queue: _fill(queue, 120, 3, 1500),
    b"killed": lambda queue: _fill(queue, 12, 3),
    b"torn": lambda queue: _fill(queue, 12, 3),
}


def describe(queue: Queue) -> dict[str, object]:
    """What can be seen of a queue without consuming anything: status, options, what is dead, the
    attempts of what was leased, and every position."""
    views = (queue.view(position) for position in range(1, queue.positions.putpos + 1))
    digests = [None if body is None else sha256(body).hexdigest()[:16] for body in views]
    attempts: dict[str, int] = {}
    dead: list[int] = []
    if queue.delivery is not None:
        leases = queue.delivery.leases
        leases.expire(OPTIONS.now())
        sequences = range(queue.consumed + 1, queue.log.last + 1)
        attempts = {str(each): leases.attempts(each) for each in sequences if leases.attempts(each)}
        dead = leases.dead()
    return {
        "positions": list(queue.positions),
        "options": dict(queue.options),
        "attempts": attempts,
        "dead": dead,
        "views": digests,
    }


def drain(queue: Queue) -> list[list[object]]:
    """Get all that is left: positions and digests."""
    taken: list[list[object]] = []
    while (got := queue.get()) is not None:
        taken.append([got[0], sha256(got[1]).hexdigest()[:16]])
    return taken


def make(root: Path) -> None:
    """The data directory."""
    store = Store.open(MmapDisk(), str(root), MAKING)
    for name, fill in QUEUES.items():
        queue = store.create_queue(name)
        fill(queue)
        queue.sync()
        queue.close(clean=name not in (b"killed", b"torn", b"leases killed"))
    store.close()
    _damage(root)


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
