"""A workload of leases on the crash disk; every step is a method without arguments."""

from __future__ import annotations

from dataclasses import replace

from logqueue.deadletters import headstone
from logqueue.storage.delivery import Delivered, NoRoom
from logqueue.storage.frame import HEADERS, Frame
from logqueue.storage.reader import Cold
from logqueue.storage.token import Outcome
from tests.crashextent import Died
from tests.crashledger import check
from tests.crashsweep import HOWS, seeded
from tests.leaseworld import NAME, LeaseWorld

_OFTEN = "batch lease lease acknowledge"
_STEPS = f"{_OFTEN} {_OFTEN} release get wait tidy age bury".split()


class LeaseWork(LeaseWorld):
    """Steps that the queue can be put through, each held against the promises at once."""

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


def chain(seed: int, cuts: int) -> None:
    """`cuts` crashes in a row, wherever the workload or recovery happens to be; every fourth
    world is under a weaker durability."""
    with seeded(seed):
        world = LeaseWork(seed, committed_reads=seed % 4 != 0)

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
