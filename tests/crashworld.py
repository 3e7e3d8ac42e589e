"""One queue on a crash disk, a workload for it, and the ledger of what it has promised.

`start` recovers the queue after whatever happened and holds it against the ledger: everything
promised is there, in order and unaltered; nothing consumed comes back; nothing that was dropped
does either; every position is right; and whatever goes on from there must keep it so.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from logqueue.options import MAX_LENGTH_DEFAULT
from logqueue.storage.frame import Frame
from logqueue.storage.headers import body_of
from logqueue.storage.log import Position
from logqueue.storage.queue import Options, Queue
from logqueue.storage.reader import Cold
from logqueue.storage.store import Store
from tests.crashdisk import CrashDisk
from tests.crashfile import Mood
from tests.crashledger import Ledger, check, position

ROOT = "/srv/data"
NAME = b"orders"
BACKLOG = 40  # above this many messages the workload prefers to consume


class World:
    """The queue, its disk and its ledger.  Every step is a method without arguments.

    `committed_reads` is durability `always`; without it a get may be answered before its sync.
    """

    def __init__(self, seed: int, *, committed_reads: bool, segment_bytes_max: int = 0) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.disk = CrashDisk(Random(seed + 1))
        self.ledger = Ledger()
        self.store: Store | None = None
        self.queue: Queue
        self._now = 0
        self._made = 0
        self._options = Options(
            committed_reads=committed_reads,
            segment_bytes_max=segment_bytes_max
            or self.random.choice((12 << 10, 16 << 10, 64 << 10, 256 << 10)),
            clock=self._clock,
        )

    # ------------------------------------------------------------ life and death

    def start(self) -> None:
        """Recover, and hold what is there against the ledger."""
        assert self.store is None
        store = Store.open(self.disk, ROOT, self._options)
        self.store = store
        try:
            self._open_queue(store)
        except Exception:
            self.disk.meanwhile = None
            self.store = None
            store.close()
            raise
        self.ledger.created = True

    def _open_queue(self, store: Store) -> None:
        if store.exists(NAME):
            self.queue, _ = store.open_queue(NAME)
            fault, self.disk.fault = self.disk.fault, None  # it is for the storage, not for us
            self.audit()
            self.disk.fault = fault
        else:
            check(not self.ledger.created, "the queue is gone")
            self.ledger = Ledger()
            self.queue = store.create_queue(NAME)

    def restart(self) -> None:
        """Close in good order and start again."""
        self.close()
        self.start()

    def close(self) -> None:
        """Close in good order: then nothing is left open."""
        assert self.store is not None
        self.queue.close()
        self._promised(self.ledger.put, self.ledger.got)
        self.store.close()
        self.store = None
        check(not self.disk.extents, f"left open: {[each.path for each in self.disk.extents]}")

    def abandon(self) -> None:
        """The disk has failed: give everything back without a word to it.  What was answered
        and not promised may be in the cache only, which lies."""
        if self.store is not None:
            self.queue.close(clean=False)
            self.store.close()
            self.store = None
        self.ledger.power_cut()
        self.disk.meanwhile = None
        check(not self.disk.extents, f"left open: {[each.path for each in self.disk.extents]}")

    def kill(self) -> None:
        """kill -9."""
        self.disk.kill()
        self.store = None

    def cut_power(self, mood: Mood) -> None:
        """Pull the plug."""
        self.disk.cut_power(mood)
        self.ledger.power_cut()
        self.store = None

    # ------------------------------------------------------------ looking

    def audit(self) -> None:
        """Hold the open queue against the ledger, and take over what a crash left undecided."""
        ledger, queue = self.ledger, self.queue
        last, consumed = queue.log.last, queue.consumed
        check(last >= ledger.put_answered, f"lost {last + 1}..{ledger.put_answered}")
        check(last <= ledger.put, f"{last} is there, but only {ledger.put} was ever put")
        check(
            consumed >= ledger.got_answered,
            f"{consumed + 1}..{ledger.got_answered} come back after they were consumed",
        )
        self._audit_ring(last, consumed)
        self._audit_settings()
        # A weaker mode may remember a get of a record that a power cut took: there is a gap then.
        for sequence in range(ledger.put_answered + 1, min(consumed, ledger.put) + 1):
            if queue.log.lookup(sequence) is None:
                del ledger.payloads[sequence]
        ledger.found(last, consumed)
        self._audit_records(last, consumed)
        for sequence in [each for each in ledger.payloads if each < queue.log.first]:
            del ledger.payloads[sequence]
        self.view()

    def reconcile(self) -> None:
        """Something was refused: take over what it has done to the ring and to the settings, all
        or nothing."""
        self._audit_ring(self.queue.log.last, self.queue.consumed)
        self._audit_settings()
        self.ledger.got = self.queue.consumed
        self.ledger.got_answered = max(self.ledger.got_answered, self.queue.consumed)

    def _audit_ring(self, last: int, consumed: int) -> None:
        """Exactly one of the possible rings must explain the positions."""
        ledger, shown = self.ledger, self.queue.positions
        # A reset consumes everything, on a full disk even before it changes the ring.
        reach = max(ledger.got, *(ring.base for ring in ledger.rings))
        for ring in reversed(ledger.rings):
            put, get = position(ring, last), position(ring, consumed)
            expected = (ring.maxqueue, put, 2 if put < get else 1, get, 1, last - consumed)
            if shown == expected and ring.base <= consumed <= reach:
                ledger.rings = [ring]
                return
        raise AssertionError(f"{shown}: not what {ledger.rings} with {last}, {consumed} shows")

    def _audit_settings(self) -> None:
        shown = replace(self.queue.settings, max_length=MAX_LENGTH_DEFAULT)
        check(shown in self.ledger.settings, f"{shown}: not one of {self.ledger.settings}")
        self.ledger.settings = [shown]

    def _audit_records(self, last: int, consumed: int) -> None:
        """Read everything that is to come, the first record by the index, the others in order."""
        place = None
        for sequence in range(consumed + 1, last + 1):
            if place is None:
                lookup = self.queue.log.lookup(sequence)
                frame = lookup.run() if lookup else None
                assert lookup is not None, f"{sequence} is not on disk"
                assert frame is not None, f"{sequence} is not on disk"
                place = Position(lookup.base, frame.end)
            else:
                frame, place = self._read(sequence, place)
            check(body_of(frame) == self.ledger.payloads[sequence], f"{sequence} is altered")

    def _read(self, sequence: int, place: Position) -> tuple[Frame, Position]:
        while True:
            try:
                return self.queue.log.read(sequence, place)
            except Cold as cold:
                cold.fetch.run()
                if cold.fetch.damage is not None:
                    raise cold.fetch.damage from None
                self.queue.log.install(cold.fetch)

    def view(self) -> None:
        """Look at a position: its message, or nothing when its segment is gone."""
        ledger, ring = self.ledger, self.ledger.ring
        upper = self.queue.durable if self._options.committed_reads else ledger.put
        sequence = max(1, upper + 1 - self.random.randrange(BACKLOG))
        if ring.after < sequence <= upper and upper - sequence < ring.maxqueue:
            seen = self.queue.view(position(ring, sequence))
            gone = sequence < self.queue.log.first
            check(seen == (None if gone else ledger.payloads.get(sequence)), f"view of {sequence}")

    def _promised(self, put: int, got: int) -> None:
        """The queue has said so, and must know it."""
        check(self.queue.durable >= put, f"durable {self.queue.durable} after a sync of {put}")
        self.ledger.promise(max(put, self.queue.durable), got)

    def _clock(self) -> int:
        self._now += 1
        return self._now
