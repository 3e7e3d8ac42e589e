"""Leases on the crash disk: kill -9 and power cuts anywhere, recovery included.

Promised, once synced: an acknowledged record never comes back, an unacknowledged one always does,
and a lease that was handed out is counted.  What a crash caught before its sync may be either way.
"""

from __future__ import annotations

from random import Random

import pytest

from logqueue.options import QueueOptions
from logqueue.storage.acks import AckLog
from logqueue.storage.delivery import Delivered, NoRoom
from logqueue.storage.disk import Extent
from logqueue.storage.queue import Options, Queue
from logqueue.storage.reader import Cold
from logqueue.storage.store import Store
from logqueue.storage.token import Outcome
from tests.crashdisk import CrashDisk, Died
from tests.crashledger import check
from tests.crashsweep import HOWS, MOODS, seeded

ROOT = "/srv/data"
NAME = b"jobs"
CUTS = 400
CUTS_TO_CATCH = 1500


class LeaseWorld:
    """One queue under durability `always`, and what it has promised of every record."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.disk = CrashDisk(Random(seed + 1))
        self.now = 1_700_000_000_000
        self.store: Store | None = None
        self.queue: Queue
        self.options = Options(segment_bytes_max=12 << 10, clock=self.clock, now=self.clock)
        self.put: dict[int, bytes] = {}  # asked for
        self.put_promised = 0
        self.settled: set[int] = set()  # asked for
        self.settled_promised: set[int] = set()
        self.attempts: dict[int, int] = {}
        self.attempts_promised: dict[int, int] = {}
        self.tokens: dict[int, str] = {}

    def clock(self) -> int:
        return self.now

    # ------------------------------------------------------------ life and death

    def start(self) -> None:
        store = Store.open(self.disk, ROOT, self.options)
        if store.exists(NAME):
            self.queue, _ = store.open_queue(NAME)
        else:
            check(not self.put_promised, "the queue is gone")
            self.queue = store.create_queue(NAME)
        self.store = store
        if self.queue.settings.max_age_s:  # a crash in the middle of `age`
            self.queue.configure(QueueOptions())
        self.audit()

    def crash(self) -> None:
        if self.random.random() < 0.4:
            self.disk.kill()
        else:
            self.disk.cut_power(self.random.choice((*MOODS, "mixed", "mixed")))
        self.store = None

    def alive(self, sequence: int) -> bool:
        queue, delivery = self.queue, self.queue.delivery
        if not queue.consumed < sequence <= queue.log.last:
            return False
        return delivery is None or delivery.leases.state(sequence) is not None

    def audit(self) -> None:
        """Hold the recovered queue against the promises; take over what was undecided."""
        check(self.queue.log.last >= self.put_promised, "acknowledged puts are gone")
        for sequence in sorted(self.put):
            alive = self.alive(sequence)
            if sequence <= self.put_promised and sequence not in self.settled:
                check(alive, f"{sequence} is gone, and nobody has acknowledged it")
            if sequence in self.settled_promised:
                check(not alive, f"{sequence} comes back after it was acknowledged")
            delivery = self.queue.delivery
            found = delivery.leases.attempts(sequence) if alive and delivery else 0
            if alive:
                low = self.attempts_promised.get(sequence, 0)
                check(low <= found <= self.attempts.get(sequence, 0), f"{sequence}: {found} leases")
                self.attempts[sequence] = self.attempts_promised[sequence] = found
                self.settled.discard(sequence)
            elif sequence > self.queue.log.last:  # never acknowledged, and the crash took it
                del self.put[sequence]
                self.settled.discard(sequence)
                self.attempts.pop(sequence, None)
                self.attempts_promised.pop(sequence, None)
            else:
                self.settled.add(sequence)
        self.put_promised = self.queue.log.last
        self.settled_promised = set(self.settled)

    def sync(self) -> None:
        """What was done so far is answered."""
        self.queue.sync()
        self.put_promised = self.queue.log.last
        self.settled_promised = set(self.settled)
        self.attempts_promised = dict(self.attempts)

    # ------------------------------------------------------------ work

    def step(self) -> None:
        twice = (self.batch, self.lease, self.lease, self.acknowledge)
        once = (self.release, self.get, self.wait, self.tidy, self.age)
        work = self.random.choice((*twice, *twice, *once))
        work()
        if self.random.random() < 0.8:
            self.sync()

    def batch(self) -> None:
        if len(self.put) - len(self.settled) > 40:
            return
        payloads = [
            self.random.randbytes(self.random.choice((5, 300, 3000)))
            for _ in range(self.random.randint(1, 4))
        ]
        first = self.queue.log.last + 1
        self.put.update(enumerate(payloads, first))
        for sequence in range(first, first + len(payloads)):
            self.settled.discard(sequence)
            self.attempts[sequence] = 0
        check(self.queue.put_batch(payloads) == first, "the batch stands elsewhere")

    def hand_out(self, maximum: int, lease_ms: int) -> list[Delivered]:
        while True:
            try:
                taken = self.queue.deliver().receive(maximum, lease_ms, 1 << 20)
                break
            except Cold as cold:
                cold.fetch.run()
                self.queue.install(cold.fetch)
            except NoRoom as wanted:
                self.queue.deliver().make_room(wanted.size)
        for frame, attempts in taken:
            check(frame.payload == self.put[frame.sequence], f"{frame.sequence} is altered")
            if lease_ms:
                check(frame.sequence not in self.settled, f"{frame.sequence} was consumed before")
                check(attempts == self.attempts[frame.sequence] + 1, "attempts are off")
        return taken

    def lease(self) -> None:
        # Undecided until it returns: a crash inside may have counted them.
        before = dict(self.attempts)
        for sequence in self.attempts:
            self.attempts[sequence] += 1
        taken = None
        real, self.attempts = self.attempts, before
        try:
            taken = self.hand_out(self.random.randint(1, 5), self.random.choice((5, 1000)))
        finally:
            if taken is None:
                self.attempts = real
        for each in taken:
            sequence = each.frame.sequence
            self.attempts[sequence] += 1
            self.tokens[sequence] = self.queue.deliver().tokens.make(sequence, each.attempts)

    def answer(self) -> list[int]:
        known = sorted(self.tokens)
        return self.random.sample(known, min(len(known), self.random.randint(1, 4)))

    def acknowledge(self) -> None:
        for sequence in self.answer():
            token = self.tokens.pop(sequence)
            was_settled = sequence in self.settled
            self.settled.add(sequence)
            try:
                (outcome,) = self.queue.deliver().acknowledge([token])
            except NoRoom as wanted:
                self.queue.deliver().make_room(wanted.size)
                (outcome,) = self.queue.deliver().acknowledge([token])
            if outcome is not Outcome.DONE and not was_settled:
                self.settled.discard(sequence)

    def release(self) -> None:
        for sequence in self.answer():
            delay_ms = self.random.choice((0, 20))
            try:
                self.queue.deliver().release([(self.tokens.pop(sequence), delay_ms)])
            except NoRoom as wanted:
                self.queue.deliver().make_room(wanted.size)

    def get(self) -> None:
        ready = [s for s in sorted(self.put) if s not in self.settled and self.alive(s)]
        before = set(self.settled)
        self.settled.update(ready)  # whichever it takes
        got = self.hand_out(1, 0)
        taken = {each.frame.sequence for each in got}
        check(not taken & before, f"{taken} was consumed before")
        self.settled = before | taken

    def age(self) -> None:
        """All that is ready becomes too old, and is consumed without anybody asking."""
        self.sync()
        before, self.settled = self.settled, set(self.put)  # whichever it takes
        self.queue.configure(QueueOptions(max_age_s=0.001))
        self.now += 5
        while self.expire() == 0:
            pass
        self.queue.configure(QueueOptions())
        self.settled = before | {each for each in self.put if not self.alive(each)}

    def expire(self) -> int | None:
        delivery = self.queue.deliver()
        try:
            return delivery.expire()
        except Cold as cold:
            cold.fetch.run()
            self.queue.install(cold.fetch)
        except NoRoom as wanted:
            delivery.make_room(wanted.size)
        return 0

    def wait(self) -> None:
        self.now += self.random.randint(1, 30)

    def tidy(self) -> None:
        """What the daemon does by itself: marks, rolls, compaction, a good end."""
        acks = self.queue.deliver().acks
        what = self.random.randrange(5)
        if what == 0:
            self.queue.checkpoint()
        elif what == 1 and acks is not None:
            acks.roll(self.queue.deliver().leases.snapshot())
        elif what == 2:
            self.queue.free(self.queue.consumed + 1)
        elif what == 3:
            self.queue.roll()
        else:
            self.queue.close()
            assert self.store is not None
            self.store.close()
            self.store = None
            self.sync_promised_by_close()
            self.start()

    def sync_promised_by_close(self) -> None:
        self.put_promised = max(self.put_promised, self.queue.log.last)
        self.settled_promised = set(self.settled)
        self.attempts_promised = dict(self.attempts)

    def drain(self) -> None:
        """Every record that is not consumed comes once more, in order, unaltered."""
        self.now += 10**6
        left = [sequence for sequence in sorted(self.put) if sequence not in self.settled]
        got: list[int] = []
        while taken := self.hand_out(7, 10**6):
            got += [each.frame.sequence for each in taken]
            for each in taken:
                self.attempts[each.frame.sequence] += 1
        check(got == left, f"{got} came back, not {left}")


def chain(seed: int, cuts: int) -> None:
    """`cuts` crashes in a row, wherever the workload or recovery happens to be."""
    with seeded(seed):
        world = LeaseWorld(seed)

        def live() -> None:
            if world.store is None:
                world.start()
            while True:
                world.step()

        for _ in range(cuts):
            at = 1 + int(world.random.expovariate(1 / world.random.choice((4, 30))))
            world.disk.die_at = world.disk.operations + at
            world.disk.how = world.random.choice(HOWS)
            try:
                live()
            except Died:
                world.crash()
        world.disk.die_at = 0
        world.start()
        world.drain()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_leases_keep_every_promise_through_crashes(seed: int) -> None:
    chain(seed, CUTS)


class _NoSync(AckLog):
    def begin_sync(self) -> Extent | None:
        self._durable = self._last  # a lie
        return None


def test_the_proof_fails_without_the_sync_of_the_acknowledgements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AckLog, "begin_sync", _NoSync.begin_sync)
    with pytest.raises(AssertionError):
        chain(1, CUTS_TO_CATCH)
