"""Batches, taken by lease, through chains of crashes: what was acknowledged never comes back, all
else does, and of a batch there is all or nothing."""

from __future__ import annotations

from random import Random

import pytest

from logqueue.storage.delivery import Delivered, NoRoom
from logqueue.storage.queue import Options, Queue
from logqueue.storage.reader import Cold
from logqueue.storage.store import Store
from logqueue.storage.token import Outcome
from tests.crashdisk import CrashDisk
from tests.crashextent import Died
from tests.crashledger import check
from tests.crashsweep import CUTS_PER_WORLD, HOWS, MOODS, seeded
from tests.crashworld import NAME, ROOT

CUTS = CUTS_PER_WORLD
LEASE_MS = 5000


class BatchWorld:
    """A queue that is leased from, and what was put and settled: asked for, and promised."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.disk = CrashDisk(Random(seed + 1))
        self.queue: Queue | None = None
        self._now = 0
        self._options = Options(segment_bytes_max=64 << 10, clock=self._tick, now=self._tick)
        self._payloads: dict[int, bytes] = {}
        self._batch_ends = {0}
        self._promised = 0
        self._settled: set[int] = set()
        self._settled_promised: set[int] = set()
        self._held: list[Delivered] = []

    def _tick(self) -> int:
        self._now += 1
        return self._now

    def live(self) -> None:
        """Recover, and work until the process dies."""
        store = Store.open(self.disk, ROOT, self._options)
        if store.exists(NAME):
            self.queue, _ = store.open_queue(NAME)
            self.audit()
        else:
            check(not self._promised, "the queue is gone")
            self.queue = store.create_queue(NAME)
        steps = (self.put, self.put, self.receive, self.receive, self.acknowledge, self.sync)
        while True:
            self.random.choice((*steps, *steps, self.sync, self.free))()

    def audit(self) -> None:
        """Take everything that is to be had, and hold it against what was promised."""
        assert self.queue is not None
        last = self.queue.log.last
        check(last >= self._promised, f"lost {last + 1}..{self._promised}")
        check(last in self._batch_ends, f"{last} is in the middle of a batch")
        self._payloads = {each: p for each, p in self._payloads.items() if each <= last}
        self._batch_ends = {each for each in self._batch_ends if each <= last}
        self._now += 10 * LEASE_MS
        found = {}
        while taken := self._receive(1000):
            found.update({each.frame.sequence: each.frame.payload for each in taken})
        check(not self._settled_promised & set(found), "acknowledged, and back again")
        missing = set(self._payloads) - set(found) - self._settled
        check(not missing, f"neither acknowledged nor there: {sorted(missing)}")
        check(all(self._payloads[each] == p for each, p in found.items()), "altered")
        self._settled = set(self._payloads) - set(found)
        self._promised, self._settled_promised = last, set(self._settled)
        self._held.clear()
        self._now += 10 * LEASE_MS

    def put(self) -> None:
        """Put a batch."""
        assert self.queue is not None
        first = self.queue.log.last + 1
        size = self.random.choice((10, 200, 3000))
        batch = [b"%d " % each * size for each in range(first, first + self.random.randint(1, 5))]
        batch = [payload[:size] for payload in batch]
        self._payloads.update(dict(enumerate(batch, first)))
        self._batch_ends.add(first + len(batch) - 1)
        check(self.queue.put_batch(batch) == first, "the sequences are not dense")

    def receive(self) -> None:
        self._held += self._receive(self.random.randint(1, 8))

    def _receive(self, maximum: int) -> list[Delivered]:
        assert self.queue is not None
        delivery = self.queue.deliver()
        while True:
            try:
                return delivery.receive(maximum, LEASE_MS, 1 << 20)
            except Cold as cold:
                cold.fetch.run()
                self.queue.install(cold.fetch)
            except NoRoom as wanted:
                delivery.make_room(wanted.size)

    def acknowledge(self) -> None:
        """Settle some of what is held, in any order."""
        assert self.queue is not None
        self.random.shuffle(self._held)
        count = self.random.randint(0, len(self._held))
        done, self._held = self._held[:count], self._held[count:]
        self._settled.update(each.frame.sequence for each in done)
        delivery = self.queue.deliver()
        tokens = [delivery.tokens.make(each.frame.sequence, each.attempts) for each in done]
        while True:
            try:
                outcomes = delivery.acknowledge(tokens)
                check(all(each is Outcome.DONE for each in outcomes), f"{outcomes}")
                return
            except NoRoom as wanted:
                delivery.make_room(wanted.size)

    def sync(self) -> None:
        assert self.queue is not None
        self.queue.sync()
        self._promised = self.queue.log.last
        self._settled_promised = set(self._settled)

    def free(self) -> None:
        """Compact, roll, note the marks."""
        assert self.queue is not None
        self.queue.free(self.queue.consumed + 1)
        self.random.choice((self.queue.roll, self.queue.checkpoint))()
        self.sync()

    def crash(self) -> None:
        if self.random.random() < 0.4:
            self.disk.kill()
        else:
            self.disk.cut_power(self.random.choice((*MOODS, "mixed")))


def chain(seed: int) -> None:
    """Crash after crash in one world."""
    with seeded(seed):
        world = BatchWorld(seed)
        for _ in range(CUTS):
            at = 1 + int(world.random.expovariate(1 / world.random.choice((5, 40))))
            world.disk.die_at = world.disk.operations + at
            world.disk.how = world.random.choice(HOWS)
            with pytest.raises(Died):
                world.live()
            world.crash()
