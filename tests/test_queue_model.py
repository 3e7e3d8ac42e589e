"""The queue against HTTPSQS's ring rules, through rolls, restarts and everything that moves it.

`Ring` is `Queue`'s independent twin: a few lines per operation over a dict of slots, as the
protocol describes them.  Two differences are meant: after a reset nothing old is visible, and a
consumed message can be viewed only while its segment exists.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logqueue.storage.format import MAXQUEUE_DEFAULT
from logqueue.storage.queue import Queue
from logqueue.storage.ring import RINGS_MAX
from tests.queues import COMMITTED, EAGER, create, reopen


class Ring:
    """HTTPSQS's queue: positions P and G, the size M, and slots that keep what was put there."""

    def __init__(self) -> None:
        self.sequence = 0
        self.reset()

    def reset(self) -> None:
        self.put_position = self.get_position = 0
        self.size = MAXQUEUE_DEFAULT
        self.slots: dict[int, list[tuple[int, bytes]]] = {}
        self.unread: list[tuple[int, int, bytes]] = []  # (sequence, position, payload)
        self.size_changes = 0

    def put(self, payload: bytes) -> int | None:
        position = self.put_position + 1
        if position == self.get_position:
            return None
        if position > self.size:
            if self.get_position <= 1:
                return None
            position = 1
        self.put_position = position
        self.sequence += 1
        self.slots.setdefault(position, []).append((self.sequence, payload))
        self.unread.append((self.sequence, position, payload))
        return position

    def get(self, durable: int) -> tuple[int, bytes] | None:
        if not self.unread or self.unread[0][0] > durable:
            return None
        put, got = self.put_position, self.get_position
        if got == 0 and put > 0:
            position = 1
        elif got < put or got < self.size:
            position = got + 1
        else:
            position = 1
        _, expected, payload = self.unread.pop(0)
        assert position == expected
        self.get_position = position
        return position, payload

    def view(self, position: int, durable: int, first: int) -> bytes | None:
        """What was put last into a slot and may be shown; None when its segment is gone."""
        shown = [each for each in self.slots.get(position, []) if each[0] <= durable]
        return shown[-1][1] if shown and shown[-1][0] >= first else None

    def set_size(self, size: int) -> bool:
        put, got = self.put_position, self.get_position
        if size < put or size < got or put < got:
            return False
        self.size_changes += size != self.size
        self.size = size
        return True

    @property
    def positions(self) -> tuple[int, int, int, int, int, int]:
        put, got = self.put_position, self.get_position
        unread = put - got if put >= got else abs(self.size - got + put)
        return self.size, put, 2 if put < got else 1, got, 1, unread


SIZES = st.integers(10, 30)
# Thousands of syncs, and no power cut here that would tell a real one from a fast one.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class QueueAgainstRing(RuleBasedStateMachine):
    """Payloads of a few KiB in segments of 32 and 64 KiB: a roll every dozen messages."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="logqueue-model-", dir=MEMORY))
        self.queue: Queue | None = None

    def teardown(self) -> None:
        if self.queue is not None:
            self.queue.close(clean=False)
        shutil.rmtree(self.root)

    @initialize(committed=st.booleans(), size=SIZES)
    def start(self, committed: bool, size: int) -> None:
        self.options = COMMITTED if committed else EAGER
        self.queue = create(self.root, self.options)
        self.ring = Ring()
        self.durable = 0  # as far as this test has synced
        self.maxqueue(size)

    @property
    def real(self) -> Queue:
        assert self.queue is not None
        return self.queue

    @property
    def served(self) -> int:
        """The newest sequence that may be handed out."""
        return self.real.durable if self.options.committed_reads else self.ring.sequence

    @rule(size=st.sampled_from([0, 1, 900, 3000, 6000]), count=st.integers(1, 12))
    def put(self, size: int, count: int) -> None:
        for _ in range(count):
            payload = (b"%d " % (self.ring.sequence + 1)).ljust(size, b"%c" % (65 + count))
            assert self.real.put(payload) == self.ring.put(payload)

    @rule()
    def put_more_than_a_segment(self) -> None:
        payload = b"%d " % (self.ring.sequence + 1) * 20_000
        assert self.real.put(payload) == self.ring.put(payload)

    @rule(count=st.integers(1, 15))
    def get(self, count: int) -> None:
        for _ in range(count):
            assert self.real.get() == self.ring.get(self.served)

    @precondition(lambda self: self.ring.size <= 30)
    @rule(left=st.integers(0, 3))
    def go_round_the_ring(self, left: int) -> None:
        """Fill it, consume all but a few, and go on into the next lap."""
        self.put(900, 30)
        assert self.real.full
        self.sync()
        self.get(self.ring.positions[5] - left)
        self.put(900, 2)

    @rule(position=st.integers(1, 31))
    def view(self, position: int) -> None:
        expected = self.ring.view(position, self.served, self.real.log.first)
        assert self.real.view(position) == expected

    @rule()
    def view_everything(self) -> None:
        for position in range(1, 32):
            self.view(position)

    @precondition(lambda self: self.ring.size_changes < RINGS_MAX - 1)
    @rule(size=SIZES | st.just(MAXQUEUE_DEFAULT))
    def maxqueue(self, size: int) -> None:
        assert self.real.set_maxqueue(size) == self.ring.set_size(size)

    @rule()
    def reset(self) -> None:
        self.real.reset()
        self.ring.reset()
        self.durable = self.ring.sequence

    @rule()
    def sync(self) -> None:
        self.real.sync()
        self.durable = self.ring.sequence
        assert self.real.durable == self.durable

    @rule(gets=st.integers(0, 4), puts=st.integers(0, 4))
    def sync_with_puts_and_gets_beside_it(self, gets: int, puts: int) -> None:
        """What happens while a sync runs is not covered by it (G1)."""
        pending = self.real.begin_sync()
        covered = self.ring.sequence
        for _ in range(puts):
            if self.real.fits(900):  # a roll waits for the sync to end
                self.put(900, 1)
        self.get(gets)
        if pending is not None:
            pending.run()
            self.real.finish_sync(pending)
            self.durable = covered
            assert self.real.durable == covered

    @rule()
    def checkpoint(self) -> None:
        self.real.checkpoint()

    @rule()
    def roll(self) -> None:
        self.real.roll()
        self.durable = self.ring.sequence

    @rule()
    def free(self) -> None:
        """Every consumed segment goes, and none that is not."""
        self.real.free(self.real.consumed + 1)
        for sealed in self.real.log.sealed:
            assert sealed.ended.last > self.real.consumed
        self.durable = self.ring.sequence

    @rule()
    def shrink(self) -> None:
        self.real.shrink()

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """Stopped in good order or killed: neither loses a put or a move."""
        self.real.close(clean=clean)
        self.queue = None
        self.queue, report = reopen(self.root, self.options)
        assert report.notes == []
        self.durable = self.ring.sequence

    @invariant()
    def same_positions(self) -> None:
        if self.queue is not None:
            assert self.queue.positions == self.ring.positions
            assert self.queue.log.last == self.ring.sequence
            assert self.durable <= self.queue.durable <= self.ring.sequence


TestQueueAgainstRing = QueueAgainstRing.TestCase
TestQueueAgainstRing.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
