"""Leases on real files: the queue against a model, through crashes, rolls and restarts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logqueue.errors import Corrupt, DiskFull, LimitExceeded
from logqueue.options import LEASE_S_MAX, QueueOptions
from logqueue.storage import acks
from logqueue.storage import delivery as module
from logqueue.storage.delivery import Delivered, Delivery, NoRoom
from logqueue.storage.disk import Extent, MmapDisk
from logqueue.storage.leases import State
from logqueue.storage.opening import create_queue, open_queue
from logqueue.storage.queue import Options
from logqueue.storage.reader import Cold
from logqueue.storage.token import Acknowledged, Outcome

T = TypeVar("T")


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


class World:
    """One queue on disk, and what a caller does for it: fetch what is cold, make room, sync."""

    def __init__(self, root: str, disk: MmapDisk | None = None) -> None:
        self.disk = disk or MmapDisk()
        self.clock = Clock()
        self.options = Options(segment_bytes_max=64 << 10, clock=self.clock, now=self.clock)
        self.directory = os.path.join(root, "q")
        self.queue = create_queue(self.disk, self.directory, b"q", self.options)

    @property
    def delivery(self) -> Delivery:
        return self.queue.deliver()

    def put(self, *payloads: bytes) -> None:
        for payload in payloads:
            assert self.queue.put(payload)
        self.queue.sync()

    def do(self, operation: Callable[[], T]) -> T:
        """Run an operation as the daemon does, up to its answer."""
        while True:
            try:
                result = operation()
            except Cold as cold:
                cold.fetch.run()
                self.queue.install(cold.fetch)
            except NoRoom as wanted:
                self.delivery.make_room(wanted.size)
            else:
                self.queue.sync()
                return result

    def receive(self, maximum: int = 1, lease_ms: int = 1000) -> list[Delivered]:
        return self.do(lambda: self.delivery.receive(maximum, lease_ms, 1 << 30))

    def lease(self, maximum: int = 1, lease_ms: int = 1000) -> list[str]:
        return [self.token(each) for each in self.receive(maximum, lease_ms)]

    def token(self, delivered: Delivered) -> str:
        return self.delivery.tokens.make(delivered.frame.sequence, delivered.attempts)

    def acknowledge(self, *tokens: str) -> list[Outcome]:
        return self.do(lambda: self.delivery.acknowledge(tokens))

    def release(self, token: str, delay_ms: int = 0) -> Outcome:
        return self.do(lambda: self.delivery.release([(token, delay_ms)]))[0]

    def get(self) -> bytes | None:
        got = self.do(self.queue.get)
        return got[1] if got else None

    def reopen(self, *, clean: bool) -> None:
        """Stop and start again; not `clean`: as after kill -9, where the maps' stores stay."""
        self.queue.close(clean=clean)
        if not clean:
            self.options = replace(self.options, acknowledged=Acknowledged())
        self.queue, report = open_queue(self.disk, self.directory, self.options)
        assert not report.notes


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(str(tmp_path))
    yield made
    made.queue.close(clean=False)


class QueueAgainstModel(RuleBasedStateMachine):
    """The model: [state, attempts, due, token] of every record that is not consumed."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp()
        self.world = World(self.root)
        self.model: dict[int, tuple[str, int, int, str]] = {}
        self.consumed: set[int] = set()
        self.last = 0

    def teardown(self) -> None:
        self.world.queue.close(clean=False)
        shutil.rmtree(self.root)

    @staticmethod
    def payload(sequence: int) -> bytes:
        return b"%d " % sequence * (200 + sequence % 7 * 500)

    def in_state(self, state: str) -> list[int]:
        return sorted(s for s, each in self.model.items() if each[0] == state)

    def settle(self, sequence: int) -> None:
        del self.model[sequence]
        self.consumed.add(sequence)

    @rule(count=st.integers(1, 8), batch=st.booleans())
    def put(self, count: int, batch: bool) -> None:
        new = range(self.last + 1, self.last + count + 1)
        payloads = [self.payload(sequence) for sequence in new]
        if batch:
            assert self.world.queue.put_batch(payloads) == new[0]
            self.world.queue.sync()
        else:
            self.world.put(*payloads)
        self.model.update(dict.fromkeys(new, ("ready", 0, 0, "")))
        self.last = new[-1]

    @rule(maximum=st.integers(1, 5), lease_ms=st.integers(1, 50))
    def receive(self, maximum: int, lease_ms: int) -> None:
        taken = self.world.receive(maximum, lease_ms)
        expected = self.in_state("ready")[:maximum]
        got = [each.frame.sequence for each in taken]
        assert got == expected[: len(got)]  # what is cold comes with the next call
        assert len(got) > 0 or not expected
        for each in taken:
            sequence = each.frame.sequence
            assert each.frame.payload == self.payload(sequence)
            assert each.attempts == self.model[sequence][1] + 1
            due = self.world.clock.ms + lease_ms
            self.model[sequence] = ("leased", each.attempts, due, self.world.token(each))

    @rule()
    def get(self) -> None:
        expected = self.in_state("ready")[:1]
        assert self.world.get() == (self.payload(expected[0]) if expected else None)
        for sequence in expected:
            self.settle(sequence)

    @precondition(lambda self: self.in_state("leased"))
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(self.in_state("leased")), min_size=1))
        tokens = [self.model[sequence][3] for sequence in some]
        assert self.world.acknowledge(*tokens) == [Outcome.DONE] * len(tokens)
        for sequence in set(some):
            self.settle(sequence)

    @precondition(lambda self: self.in_state("leased"))
    @rule(data=st.data(), delay_ms=st.integers(0, 30))
    def release(self, data: st.DataObject, delay_ms: int) -> None:
        sequence = data.draw(st.sampled_from(self.in_state("leased")))
        _, attempts, _, token = self.model[sequence]
        assert self.world.release(token, delay_ms) is Outcome.DONE
        due = self.world.clock.ms + delay_ms if delay_ms else 0
        self.model[sequence] = ("delayed" if delay_ms else "ready", attempts, due, "")
        assert self.world.acknowledge(token) == [Outcome.EXPIRED]

    @precondition(lambda self: self.in_state("leased"))
    @rule(data=st.data(), lease_ms=st.integers(1, 100))
    def extend(self, data: st.DataObject, lease_ms: int) -> None:
        sequence = data.draw(st.sampled_from(self.in_state("leased")))
        _, attempts, _, token = self.model[sequence]
        delivery = self.world.delivery
        assert self.world.do(lambda: delivery.extend([token], lease_ms)) == [Outcome.DONE]
        self.model[sequence] = ("leased", attempts, self.world.clock.ms + lease_ms, token)

    @rule(elapsed_ms=st.integers(1, 40))
    def time_passes(self, elapsed_ms: int) -> None:
        self.world.clock.ms += elapsed_ms
        for sequence, (_, attempts, due, _) in list(self.model.items()):
            if due and due <= self.world.clock.ms:
                self.model[sequence] = ("ready", attempts, 0, "")

    @rule()
    def purge(self) -> None:
        assert self.world.queue.purge() == len(self.model)
        self.world.queue.sync()
        for sequence in list(self.model):
            self.settle(sequence)

    @rule()
    def reset(self) -> None:
        self.world.queue.reset()
        for sequence in list(self.model):
            self.settle(sequence)

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        self.world.reopen(clean=clean)

    @precondition(lambda self: self.world.delivery.acks is not None)
    @rule()
    def roll_the_acknowledgements(self) -> None:
        acks = self.world.delivery.acks
        assert acks is not None
        acks.roll(self.world.delivery.leases.snapshot())

    @rule()
    def compact(self) -> None:
        self.world.queue.free(self.world.queue.consumed + 1)

    @invariant()
    def agrees_with_the_model(self) -> None:
        queue = self.world.queue
        assert queue.positions.unread == len(self.model)
        assert queue.log.last == self.last
        assert queue.consumed <= min(self.model, default=self.last + 1) - 1
        if queue.delivery is not None:
            leases = queue.delivery.leases
            leases.expire(self.world.clock.ms)
            assert leases.low == min(self.model, default=self.last + 1) - 1
            for sequence, (state, attempts, _, token) in self.model.items():
                found = leases.state(sequence)
                assert found is not None
                assert found.name.lower() == state
                assert leases.attempts(sequence) == attempts
                assert leases.holds(sequence, attempts) == bool(token)


QueueAgainstModel.TestCase.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None
)
test_the_queue_agrees_with_the_model = QueueAgainstModel.TestCase


def test_a_queue_that_never_leases_has_no_files_of_it(world: World) -> None:
    world.put(b"1", b"2")
    assert world.queue.get()
    assert [each.sequence for each in world.queue.get_batch(9, 99)] == [2]
    assert world.queue.delivery is None
    assert not [name for name in os.listdir(world.directory) if "ack" in name]


def test_leases_survive_a_crash_with_their_tokens(world: World) -> None:
    world.put(b"1", b"2", b"3")
    tokens = world.lease(2, 1000)
    world.reopen(clean=False)
    assert [each.frame.payload for each in world.receive(5)] == [b"3"]
    assert world.acknowledge(tokens[1]) == [Outcome.DONE]
    world.reopen(clean=False)
    assert world.acknowledge(tokens[1]) == [Outcome.EXPIRED]  # remembered in memory only
    world.clock.ms += 1000
    again = world.receive(5) + world.receive(5)  # what is cold comes with the next call
    assert [(each.frame.payload, each.attempts) for each in again] == [(b"1", 2), (b"3", 2)]


def test_acknowledging_twice_is_fine_while_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logqueue.storage.token.REMEMBERED_MIN", 2)
    world.put(*[b"%d" % number for number in range(6)])
    tokens = world.lease(6)
    assert world.acknowledge(tokens[0], tokens[0]) == [Outcome.DONE] * 2
    for token in tokens:
        assert world.acknowledge(token) == [Outcome.DONE]
    world.reopen(clean=True)  # as the pool closes and opens queues
    remembered = [Outcome.EXPIRED] * 4 + [Outcome.DONE] * 2
    assert world.acknowledge(*tokens) == remembered
    forged = tokens[1][:-1] + ("A" if tokens[1][-1] != "A" else "B")
    assert world.acknowledge(forged, "") == [Outcome.UNKNOWN] * 2


def test_old_records_are_skipped_counted_and_consumed(world: World) -> None:
    world.put(*[b"old"] * (module.SKIPS_MAX + 10))
    world.queue.configure(QueueOptions(max_age_s=1))
    world.clock.ms += 1001
    world.put(b"new")
    assert world.receive() == []
    assert world.delivery.ready
    assert [each.frame.payload for each in world.receive()] == [b"new"]
    assert world.delivery.expired == module.SKIPS_MAX + 10
    assert world.queue.positions.unread == 1
    world.reopen(clean=False)
    assert world.queue.positions.unread == 1
    assert world.queue.settings.max_age_s == 1


def test_a_paused_queue_takes_and_gives_nothing(world: World) -> None:
    world.put(b"1")
    world.queue.configure(QueueOptions(paused=True))
    world.put(b"2")
    assert world.get() is None
    assert world.receive() == []
    world.reopen(clean=True)
    assert world.get() is None
    world.queue.configure(QueueOptions())
    assert world.get() == b"1"


def test_out_of_attempts_stays_dead_until_it_is_moved(world: World) -> None:
    world.queue.configure(QueueOptions(max_attempts=2, dead_letter=b"dlq"))
    world.put(b"1", b"2")
    for _ in range(2):
        (token,) = world.lease()
        assert world.release(token) is Outcome.DONE
    world.reopen(clean=False)
    assert world.delivery.leases.dead() == [1]
    assert world.do(lambda: world.delivery.read(1)).payload == b"1"
    assert world.get() == b"2"
    world.do(lambda: world.delivery.settle_dead([1]))
    assert world.queue.positions.unread == 0
    world.reopen(clean=False)
    assert world.queue.consumed == 2


def test_bytes_limit_a_receive_but_never_to_nothing(world: World) -> None:
    world.put(b"x" * 100, b"x" * 100, b"x")
    taken = world.do(lambda: world.delivery.receive(9, 1000, 50))
    assert [each.frame.sequence for each in taken] == [1]
    taken = world.do(lambda: world.delivery.receive(9, 1000, 101))
    assert [each.frame.sequence for each in taken] == [2, 3]
    world.put(b"y" * 100, b"y" * 10)
    assert len(world.do(lambda: world.queue.get_batch(9, 50))) == 1


def test_the_number_of_leases_is_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASED_MAX", 3)
    world.put(*[b"x"] * 5)
    tokens = world.lease(5)
    assert len(tokens) == 3
    with pytest.raises(LimitExceeded, match="3"):
        world.receive()
    world.acknowledge(tokens[0])
    assert len(world.lease(5)) == 1


def test_a_clock_set_back_while_we_were_away(world: World) -> None:
    world.put(b"1")
    world.lease(1, 1000)
    world.queue.close()
    world.clock.ms -= 10**10
    world.queue, _ = open_queue(world.disk, world.directory, world.options)
    due = world.delivery.leases.next_due()
    assert due == world.clock.ms + int(LEASE_S_MAX * 1000)


class FillingDisk(MmapDisk):
    """A disk that is full when it has created so many files more."""

    room = 1 << 30

    def create(self, path: str, size: int) -> Extent:
        if not self.room:
            raise DiskFull(path, size, 0, 0)
        self.room -= 1
        return super().create(path, size)


def test_settings_change_all_at_once_or_not_at_all(tmp_path: Path) -> None:
    disk = FillingDisk()
    world = World(str(tmp_path), disk)
    before = world.queue.settings
    wanted = replace(before, max_length=100, max_age_s=1.0)
    disk.room = 0
    with pytest.raises(DiskFull):
        world.queue.configure(wanted)
    assert world.queue.settings == before
    disk.room = 1  # one file says it all
    assert world.queue.configure(wanted)
    disk.room = 100
    world.reopen(clean=False)
    assert world.queue.settings == wanted
    world.queue.close()


def test_a_full_disk_stops_the_first_lease_but_no_get_and_no_acknowledgement(
    tmp_path: Path,
) -> None:
    disk = FillingDisk()
    world = World(str(tmp_path), disk)
    world.put(*[b"x"] * 1000)
    disk.room = 0
    with pytest.raises(DiskFull):
        world.receive()
    assert world.get() == b"x"
    disk.room = 100
    first = world.lease()  # holds the low-water mark, so that each acknowledgement takes a step
    disk.room = 0
    for _ in range(600):
        assert world.acknowledge(*world.lease()) == [Outcome.DONE]
    assert world.acknowledge(*first) == [Outcome.DONE]
    assert world.queue.positions.unread == 398
    world.reopen(clean=False)
    assert world.queue.consumed == 602
    world.queue.close()


def test_damage_stops_the_queue_and_names_the_record(world: World) -> None:
    world.put(b"1" * 64, b"2" * 64)
    tokens = world.lease(1)
    path = world.queue.log.active.extent.path
    data = Path(path).read_bytes()
    with open(path, "r+b") as file:
        file.seek(data.index(b"2" * 64))
        file.write(b"x")
    for _ in range(2):
        with pytest.raises(Corrupt) as damage:
            world.receive()
        assert damage.value.sequence == 2
    with pytest.raises(Corrupt):
        world.acknowledge(*tokens)


def test_expired_leases_are_counted_right_while_nobody_asks(world: World) -> None:
    world.put(b"1", b"2")
    world.lease(2, 10)
    assert world.delivery.leases.counts[State.LEASED] == 2
    world.clock.ms += 10
    assert world.delivery.ready
    assert world.delivery.leases.counts[State.LEASED] == 0


def test_a_start_never_has_more_than_so_many_sequences_to_do_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acks, "REPLAY_MAX", 20)
    world.put(*[b"x"] * 60)
    assert len(world.receive(20)) == 20
    acknowledgements = world.delivery.acks
    assert acknowledgements is not None
    assert acknowledgements.room > 0
    assert len(world.receive()) == 1
    assert acknowledgements.room == 0
    world.reopen(clean=False)  # does not forget the count
    assert world.delivery.acks is not None
    assert world.delivery.acks.room == 0
    assert len(world.receive(39)) == 39  # rolls first
    with pytest.raises(NoRoom):
        world.delivery.acknowledge(["any"])
    world.reopen(clean=False)
    assert world.delivery.leases.counts[State.LEASED] == 60
