"""Leases on the crash disk: kill -9 and power cuts anywhere, recovery included.

Promised: an acknowledged record never comes back, an unacknowledged one always does, a lease that
was handed out is counted, and what died often enough stands in the dead-letter queue.  Under
durability `always` all that holds once it is synced; under a weaker one a power cut may take back
what was not, and kill -9 nothing that was answered.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from random import Random

from logqueue.deadletters import headstone
from logqueue.options import QueueOptions
from logqueue.storage.delivery import Delivered, NoRoom
from logqueue.storage.frame import HEADERS, Frame
from logqueue.storage.headers import message_of
from logqueue.storage.queue import Options, Queue
from logqueue.storage.reader import Cold
from logqueue.storage.store import Store
from logqueue.storage.token import Acknowledged, Outcome
from tests.crashdisk import CrashDisk, Died
from tests.crashfile import Mood
from tests.crashledger import check
from tests.crashsweep import HOWS, MOODS, seeded

ROOT = "/srv/data"
NAME = b"jobs"
DEAD = b"jobs-dead"
MORTAL = QueueOptions(max_attempts=3, dead_letter=DEAD)


@dataclass
class Marks:
    """What is certain: the newest put, what is settled, how often each was leased."""

    put: int = 0
    settled: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)


class LeaseWorld:
    """One queue, with a dead-letter queue in every third world, and what it has promised of every
    record.  `answered` is what kill -9 must keep, `promised` what a power cut must.

    Every step is a method without arguments."""

    files_max = 5  # two active segments and cursors, one acknowledgement log

    def __init__(self, seed: int, *, committed_reads: bool) -> None:
        self.random = Random(seed)
        self.disk = CrashDisk(Random(seed + 1))
        self.now = 1_700_000_000_000
        self.store: Store | None = None
        self.queue: Queue
        self.committed_reads = committed_reads
        self.mortal = seed % 3 == 0
        self.settings = MORTAL if self.mortal else QueueOptions()
        self.graves: Queue | None = None
        self.opened: list[Queue] = []
        self.options = Options(
            committed_reads=committed_reads,
            segment_bytes_max=12 << 10,
            clock=self.clock,
            now=self.clock,
        )
        self.put: dict[int, bytes] = {}  # asked for
        self.settled: set[int] = set()  # asked for
        self.buried: set[int] = set()  # of these: as dead letters
        self.attempts: dict[int, int] = {}  # asked for
        self.answered = Marks()
        self.promised = Marks()
        self.tokens: dict[int, str] = {}

    def clock(self) -> int:
        return self.now

    # ------------------------------------------------------------ life and death

    def start(self) -> None:
        """Recover, and hold what is there against the promises."""
        assert self.store is None
        store = Store.open(self.disk, ROOT, self.options)
        self.store = store
        try:
            self.open_queues(store)
        except Exception:
            self.give_back()
            raise
        fault, self.disk.fault = self.disk.fault, None  # it is for the storage, not for us
        self.audit()
        self.disk.fault = fault

    def open_queues(self, store: Store) -> None:
        self.opened.clear()
        if self.mortal:
            exists = store.exists(DEAD)
            self.graves = store.open_queue(DEAD)[0] if exists else store.create_queue(DEAD)
            self.opened.append(self.graves)
        if store.exists(NAME):
            self.queue, _ = store.open_queue(NAME)
        else:
            check(not self.answered.put, "the queue is gone")
            self.queue = store.create_queue(NAME, self.settings)
        self.opened.append(self.queue)
        if self.queue.settings.max_age_s:  # a crash in the middle of `age`
            self.queue.configure(self.settings)

    def close(self) -> None:
        """Close in good order: then nothing is left open."""
        for queue in self.opened:
            queue.close()
        self.answer()
        self.promised = deepcopy(self.answered)
        self.give_back()

    def give_back(self) -> None:
        """Files and lock, without a word to the disk."""
        assert self.store is not None
        for queue in self.opened:
            queue.close(clean=False)
        self.store.close()
        self.store = None
        check(not self.disk.extents, f"left open: {[each.path for each in self.disk.extents]}")

    def abandon(self) -> None:
        """The disk has failed; what was answered and not promised may be in the cache only."""
        if self.store is not None:
            self.give_back()
        self.answered = deepcopy(self.promised)
        self.another_process()

    def another_process(self) -> None:
        """It does not remember what was acknowledged."""
        self.options = replace(self.options, acknowledged=Acknowledged())

    def cut_power(self, mood: Mood) -> None:
        """Pull the plug."""
        self.disk.cut_power(mood)
        self.answered = deepcopy(self.promised)
        self.store = None
        self.another_process()

    def crash(self) -> None:
        if self.random.random() < 0.4:
            self.disk.kill()
        else:
            self.cut_power(self.random.choice((*MOODS, "mixed", "mixed")))
        self.another_process()
        self.store = None

    def alive(self, sequence: int) -> bool:
        queue, delivery = self.queue, self.queue.delivery
        if not queue.consumed < sequence <= queue.log.last or queue.log.lookup(sequence) is None:
            return False
        return delivery is None or delivery.leases.state(sequence) is not None

    def audit(self) -> None:
        """Hold the recovered queue against the promises; take over what was undecided."""
        answered, last = self.answered, self.queue.log.last
        check(last >= answered.put, "acknowledged puts are gone")
        graves = self.read_graves()
        for sequence in sorted(self.put):
            alive = self.alive(sequence)
            if sequence <= answered.put and sequence not in self.settled:
                check(alive, f"{sequence} is gone, and nobody has acknowledged it")
            if sequence in answered.settled:
                check(not alive, f"{sequence} comes back after it was acknowledged")
            if alive:
                self.take_over(sequence)
            elif sequence > last or sequence not in self.settled:
                self.forget(sequence)  # never acknowledged, and the crash took it
            else:
                check(sequence in graves or sequence not in self.buried, f"{sequence} is nowhere")
        self.answered.put = last
        self.answered.settled = set(self.settled)
        self.promised = deepcopy(self.answered)

    def reconcile(self) -> None:
        """Something was refused: what it was asked to do may have happened, or not."""
        fault, self.disk.fault = self.disk.fault, None
        if self.queue.settings.max_age_s:
            self.queue.configure(self.settings)
        for sequence in sorted(self.put):
            if self.alive(sequence):
                self.take_over(sequence)
            elif sequence > self.queue.log.last:
                self.forget(sequence)
        self.disk.fault = fault

    def take_over(self, sequence: int) -> None:
        """A record that is there: how often it was leased is known now."""
        delivery = self.queue.delivery
        found = delivery.leases.attempts(sequence) if delivery else 0
        low = self.answered.attempts.get(sequence, 0)
        check(low <= found <= self.attempts.get(sequence, 0), f"{sequence}: {found} leases")
        self.attempts[sequence] = self.answered.attempts[sequence] = found
        self.settled.discard(sequence)
        self.buried.discard(sequence)

    def forget(self, sequence: int) -> None:
        del self.put[sequence]
        self.settled.discard(sequence)
        self.buried.discard(sequence)
        for known in (self.attempts, self.answered.attempts, self.tokens):
            known.pop(sequence, None)

    def read_graves(self) -> set[int]:
        """The records in the dead-letter queue, each as it was put."""
        found: set[int] = set()
        if self.graves is not None:
            log = self.graves.log
            for number in range(log.first, log.last + 1):
                lookup = log.lookup(number)
                frame = lookup.run() if lookup else None
                if frame is None:
                    continue
                headers, body = message_of(frame)
                sequence = int(dict(headers)[b"logqueue-dead"].split(b"; ")[1][9:])
                check(self.put.get(sequence, body) == body, f"{sequence} is altered in its grave")
                found.add(sequence)
        return found

    def answer(self) -> None:
        """What was done so far is answered."""
        self.answered = Marks(self.queue.log.last, set(self.settled), dict(self.attempts))

    def sync(self) -> None:
        """What was done so far is durable."""
        self.queue.sync()
        self.answer()
        self.promised = deepcopy(self.answered)

    # ------------------------------------------------------------ work

    def choose(self) -> str:
        """The name of the next random step."""
        return self.random.choice(_STEPS)

    def do(self, step: str) -> None:
        """The step of this name, and often the sync that it is answered after."""
        getattr(self, step)()
        if step == "start":
            return
        if not self.committed_reads:
            self.answer()
        if self.random.random() < (0.8 if self.committed_reads else 0.2):
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
                if taken or not self.queue.deliver().ready:
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

    def some_held(self) -> list[int]:
        known = sorted(self.tokens)
        return self.random.sample(known, min(len(known), self.random.randint(1, 4)))

    def acknowledge(self) -> None:
        for sequence in self.some_held():
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
        for sequence in self.some_held():
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
        self.queue.configure(replace(self.settings, max_age_s=0.001))
        self.now += 5
        while self.expire() == 0:
            pass
        self.queue.configure(self.settings)
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
            again = self.random.choice((acks.roll, acks.shrink))
            again(self.queue.deliver().leases.snapshot())
        elif what == 2:
            self.queue.free(self.queue.consumed + 1)
        elif what == 3:
            self.queue.roll()
        else:
            self.close()
            self.start()

    def bury(self) -> None:
        """Move what is dead: there first, durably, and only then is it settled here."""
        delivery = self.queue.delivery
        if delivery is None or self.graves is None or not delivery.leases.dead():
            return
        dead = delivery.leases.dead()[:3]
        stones = [headstone(NAME, self.read(each), 3, self.now) for each in dead]
        self.graves.put_batch(stones, [HEADERS] * len(stones))
        self.graves.sync()
        self.settled.update(dead)
        self.buried.update(dead)
        try:
            delivery.settle_dead(dead)
        except NoRoom as wanted:
            delivery.make_room(wanted.size)
            delivery.settle_dead(dead)

    def read(self, sequence: int) -> Frame:
        lookup = self.queue.log.lookup(sequence)
        frame = lookup.run() if lookup else None
        assert frame is not None
        return frame

    def finish(self) -> None:
        """Work once more, take everything, close in good order."""
        self.batch()
        self.sync()
        self.drain()
        self.close()

    def drain(self) -> None:
        """Every record that is not consumed comes once more, in order, unaltered."""
        self.now += 10**6
        delivery = self.queue.deliver()
        delivery.leases.expire(self.now)
        dead = set(delivery.leases.dead())
        left = [each for each in sorted(self.put) if each not in self.settled | dead]
        got: list[int] = []
        while taken := self.hand_out(7, 10**6):
            got += [each.frame.sequence for each in taken]
            for each in taken:
                self.attempts[each.frame.sequence] += 1
        check(got == left, f"{got} came back, not {left}")


_OFTEN = "batch lease lease acknowledge"
_STEPS = f"{_OFTEN} {_OFTEN} release get wait tidy age bury".split()


def chain(seed: int, cuts: int) -> None:
    """`cuts` crashes in a row, wherever the workload or recovery happens to be; every fourth
    world is under a weaker durability."""
    with seeded(seed):
        world = LeaseWorld(seed, committed_reads=seed % 4 != 0)

        def live() -> None:
            if world.store is None:
                world.start()
            while True:
                world.do(world.choose())

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
