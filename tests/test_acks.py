"""The acknowledgement log on real files: what a crash leaves of it is a state that once was."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.errors import Corrupt, DiskFull
from logqueue.storage.acks import ACKS_BYTES_MIN, AckLog, AckTail, inspect_acks
from logqueue.storage.delivery import STEPS_BYTES
from logqueue.storage.disk import Extent, MmapDisk
from logqueue.storage.format import FRAMES_OFFSET
from logqueue.storage.layout import ACKS_SPARE, acks_name
from logqueue.storage.leases import Leases, Snapshot, State, ranges
from logqueue.storage.steps import (
    ENTRY_BYTES,
    Kind,
    decode_snapshot,
    encode_snapshot,
    encode_step,
    replay,
    step_bytes,
)
from logqueue.storage.store import Store
from tests.fscktree import OPTIONS, drain, fsck, kinds, refused

ID = b"queue id, random"
DISK = MmapDisk()


def clock() -> int:
    return 1_700_000_000_000


class Journaled:
    """A state and its acknowledgement log, changed together as `Delivery` does."""

    def __init__(self, directory: str, low: int = 0) -> None:
        self.directory = directory
        self.leases = Leases(low)
        self.acks = AckLog.create(DISK, directory, ID, clock, self.leases.snapshot())

    def step(self, kind: Kind, sequences: list[int], due: int = 0) -> None:
        change = {
            Kind.LEASE: self.leases.lease,
            Kind.RETURN: self.leases.give_back,
            Kind.EXTEND: self.leases.extend,
        }
        for sequence in sequences:
            if kind is Kind.SETTLE:
                self.leases.settle(sequence)
            else:
                change[kind](sequence, due)
        runs = list(ranges(sequences))
        if self.acks.room < step_bytes(len(runs)):
            self.acks.roll(self.leases.snapshot(), step_bytes(len(runs)))
        else:
            self.acks.append(kind, self.leases.low, due, runs)

    def random_step(self, chance: random.Random) -> None:
        leased = [s for s, _, _, state in self.leases.snapshot().entries if state == State.LEASED]
        picked = sorted(chance.sample(leased, chance.randint(1, len(leased)))) if leased else []
        kind = chance.choice([Kind.LEASE, Kind.SETTLE, Kind.RETURN, Kind.EXTEND])
        if kind is Kind.LEASE or not picked:
            first = self.leases.next_ready(10**9)
            assert first is not None
            self.step(kind if kind is Kind.SETTLE else Kind.LEASE, [first], 10**6)
        else:
            self.step(kind, picked, chance.choice([0, 10**6, 10**7]))


def look(directory: str) -> AckTail:
    found = inspect_acks(DISK, directory, os.listdir(directory), ID, 0, [])
    assert found is not None
    return found


@pytest.fixture
def journaled(tmp_path: Path) -> Iterator[Journaled]:
    made = Journaled(str(tmp_path), low=7)
    yield made
    made.acks.close()


def test_a_new_log_holds_its_state_and_a_spare(journaled: Journaled) -> None:
    assert look(journaled.directory).leases.snapshot() == Snapshot(7, 7, [])
    assert sorted(os.listdir(journaled.directory)) == [acks_name(1), ACKS_SPARE]


@pytest.mark.parametrize("seed", range(3))
def test_every_step_is_found_again_across_many_rolls(journaled: Journaled, seed: int) -> None:
    chance = random.Random(seed)
    for turn in range(3000):
        journaled.random_step(chance)
        if turn % 500 == 0:
            assert look(journaled.directory).leases.snapshot() == journaled.leases.snapshot()
    assert look(journaled.directory).leases.snapshot() == journaled.leases.snapshot()
    assert look(journaled.directory).tail.header.base > 1
    assert sorted(os.listdir(journaled.directory))[1:] == [ACKS_SPARE]


def test_a_cut_anywhere_leaves_a_state_that_once_was(
    journaled: Journaled, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = random.Random(5)
    states = [journaled.leases.snapshot()]
    ends = [look(journaled.directory).tail.end]
    for _ in range(40):
        journaled.random_step(chance)
        states.append(journaled.leases.snapshot())
        ends.append(look(journaled.directory).tail.end)
    whole = (Path(journaled.directory) / acks_name(1)).read_bytes()
    copy = tmp_path_factory.mktemp("cut")
    for at in range(ends[0], ends[-1], 8):
        (copy / acks_name(1)).write_bytes(whole[:at] + bytes(len(whole) - at))
        complete = max(n for n, end in enumerate(ends) if end <= at)
        found = look(str(copy))
        assert found.leases.snapshot() == states[complete]
        # Zeros may be torn into the frame's own zeros: then it is whole after all.
        assert found.tail.end == ends[complete] or found.tail.end == ends[complete + 1]


def test_damage_below_what_is_known_durable_is_not_taken_for_a_tear(journaled: Journaled) -> None:
    journaled.step(Kind.LEASE, [8, 9], 10**6)
    start = look(journaled.directory).tail.end
    journaled.step(Kind.SETTLE, [8])
    extent = journaled.acks.begin_sync()
    assert extent is not None
    extent.sync()
    journaled.acks.finish_sync()
    assert journaled.acks.mark(8)
    assert not journaled.acks.mark(8)
    with open(os.path.join(journaled.directory, acks_name(1)), "r+b") as file:
        file.seek(start + 40)
        file.write(b"\xff")
    with pytest.raises(Corrupt) as damage:
        look(journaled.directory)
    assert damage.value.offset == start


@pytest.mark.parametrize("offset", [100, FRAMES_OFFSET + 4, FRAMES_OFFSET + 40])
def test_a_damaged_header_or_snapshot_is_damage(journaled: Journaled, offset: int) -> None:
    with open(os.path.join(journaled.directory, acks_name(1)), "r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    with pytest.raises(Corrupt):
        look(journaled.directory)


def test_another_queue_s_log_is_refused(journaled: Journaled) -> None:
    with pytest.raises(Corrupt):
        inspect_acks(DISK, journaled.directory, [acks_name(1)], b"another queue id", 0, [])


def test_after_a_tear_it_goes_on_in_a_new_file(journaled: Journaled) -> None:
    journaled.step(Kind.LEASE, [8], 10**6)
    end = look(journaled.directory).tail.end
    journaled.step(Kind.SETTLE, [8])
    with open(os.path.join(journaled.directory, acks_name(1)), "r+b") as file:
        file.seek(end + 40)
        file.write(b"\xff")
    found = look(journaled.directory)
    assert not found.tail.appendable
    assert found.leases.holds(8, 1)
    acks = AckLog.open(DISK, journaled.directory, ID, clock, found)
    acks.roll(found.leases.snapshot())
    acks.append(Kind.EXTEND, 7, 2 * 10**6, [(8, 8)])
    acks.close()
    again = look(journaled.directory)
    assert again.tail.appendable
    assert again.leases.next_due() == 2 * 10**6
    assert sorted(os.listdir(journaled.directory)) == [acks_name(3), ACKS_SPARE]


def test_a_crash_before_the_old_file_became_the_spare(journaled: Journaled) -> None:
    old = os.path.join(journaled.directory, acks_name(1))
    shutil.copy(old, old + ".copy")
    journaled.step(Kind.LEASE, [8], 10**6)
    journaled.acks.roll(journaled.leases.snapshot())
    os.rename(old + ".copy", old)
    os.unlink(os.path.join(journaled.directory, ACKS_SPARE))
    found = look(journaled.directory)
    assert found.stale == [acks_name(1)]
    assert found.leases.holds(8, 1)
    AckLog.open(DISK, journaled.directory, ID, clock, found).close()
    assert sorted(os.listdir(journaled.directory)) == [acks_name(3), ACKS_SPARE]


class FullDisk(MmapDisk):
    """A disk on which no new file finds room."""

    def create(self, path: str, size: int) -> Extent:
        raise DiskFull(path, size, 0, 0)


def test_a_full_disk_stops_no_roll(tmp_path: Path) -> None:
    leases = Leases(0)
    AckLog.create(DISK, str(tmp_path), ID, clock, leases.snapshot()).close()
    acks = AckLog.open(FullDisk(), str(tmp_path), ID, clock, look(str(tmp_path)))
    for sequence in range(1, 5000):
        if acks.room < step_bytes(1):
            acks.roll(leases.snapshot())
        leases.lease(sequence, 99)
        acks.append(Kind.LEASE, leases.low, 99, [(sequence, sequence)])
        leases.settle(sequence)
    acks.close()
    assert look(str(tmp_path)).tail.header.base > 1000


def test_a_full_disk_at_the_first_lease_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        AckLog.create(FullDisk(), str(tmp_path), ID, clock, Leases(0).snapshot())
    assert os.listdir(tmp_path) == []


def test_the_file_grows_with_the_state(journaled: Journaled) -> None:
    many = ACKS_BYTES_MIN // ENTRY_BYTES
    journaled.step(Kind.LEASE, list(range(8, 8 + many)), 10**6)
    journaled.acks.roll(journaled.leases.snapshot(), 10**5)
    assert journaled.acks.room >= 10**5
    found = look(journaled.directory)
    assert found.tail.header.size > 2 * ACKS_BYTES_MIN
    assert found.leases.snapshot() == journaled.leases.snapshot()


@given(st.binary(max_size=200))
def test_no_payload_gets_further_than_a_value_error(payload: bytes) -> None:
    leases = Leases(5)
    leases.lease(6, 10)
    for decode in (lambda: replay(leases, payload), lambda: decode_snapshot(payload)):
        try:
            decode()
        except ValueError:
            continue


@pytest.mark.parametrize(
    "payload",
    [
        encode_step(Kind.SETTLE, 0, 0, [(8, 8)]),  # 7 is missing
        encode_step(Kind.RETURN, 0, 0, [(7, 7)]),  # was never leased
        encode_step(Kind.SNAPSHOT, 0, 0, [(6, 6)]),
        encode_step(Kind.LEASE, 0, 0, [(6, 6)])[:-1],
        encode_snapshot(Snapshot(5, 5, [(6, 0, 0, 0)])),
    ],
)
def test_a_step_that_cannot_have_been_is_refused(payload: bytes) -> None:
    leases = Leases(5)
    leases.lease(6, 10)
    with pytest.raises(ValueError, match=r"."):
        replay(leases, payload)


def test_a_missing_log_is_damage_which_fsck_names_and_mends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    store = Store.open(DISK, str(root), OPTIONS)
    queue = store.create_queue(b"q")
    queue.put(b"one")
    queue.put(b"two")
    queue.sync()
    delivery = queue.deliver()
    delivery.make_room(STEPS_BYTES)
    _, second = delivery.receive(2, 60_000, 1 << 20)
    delivery.acknowledge([delivery.tokens.make(second.frame.sequence, second.attempts)])
    queue.close()
    store.close()
    for path in (root / "queues" / "q").glob("*.ack"):
        path.unlink()
    assert refused(root, b"q")
    status, rows = fsck(capsys, root)
    assert (status, kinds(rows)) == (4, {"acks-bad"})
    fsck(capsys, "--repair", "-y", root)
    assert [payload for _, payload in sorted(drain(root, b"q").items())] == [b"one", b"two"]
