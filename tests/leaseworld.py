"""A queue that is leased from on a crash disk, its dead-letter queue, and what they have promised.

An acknowledged record never comes back, an unacknowledged one always does, a lease that was handed
out is counted, and what died often enough stands in the dead-letter queue.  Under durability
`always` all that holds once it is synced; under a weaker one a power cut may take back what was
not, and kill -9 nothing that was answered.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from random import Random

from logqueue.options import QueueOptions
from logqueue.storage.headers import message_of
from logqueue.storage.queue import Options, Queue
from logqueue.storage.store import Store
from logqueue.storage.token import Acknowledged
from tests.crashdisk import CrashDisk
from tests.crashfile import Mood
from tests.crashledger import check
from tests.crashsweep import MOODS

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
    record.  `answered` is what kill -9 must keep, `promised` what a power cut must."""

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
