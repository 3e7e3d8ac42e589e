"""The cursor: what a crash at any point leaves of it, and what it refuses."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logqueue.errors import Corrupt
from logqueue.storage.cursor import Cursor, CursorFile, read_cursor
from logqueue.storage.disk import Extent, MmapDisk
from logqueue.storage.format import (
    CURSOR_CLEAN,
    CURSOR_ENTRIES,
    CURSOR_FILE_BYTES,
    CURSOR_MAGIC,
    PAGE,
    SECTOR,
    Checkpoint,
    encode_checkpoint,
)
from logqueue.storage.frame import Buffer
from logqueue.storage.layout import CURSOR
from tests.queues import flip, overwrite

SEED = crc32c(b"i" * 16)
FIRST = Checkpoint(1, 0, 0, 1, 4096, 0, 1, 4096)
SECTORS = CURSOR_FILE_BYTES // SECTOR
GARBAGE = b"\xa5" * SECTOR
FRESH = encode_checkpoint(FIRST, SEED).ljust(SECTOR, b"\0") * SECTORS


class PowerCut(Exception):
    """The machine stopped inside an operation on the file."""


class SectorFile:
    """A file whose unsynced sectors a power cut leaves old, new or in between.

    `past[sector]` holds what the sector may read as: its synced content first, then everything
    stored since.  A sync promises what was stored before it began, and nothing else.
    """

    def __init__(self, image: bytes) -> None:
        self.path, self.size = "cursor", len(image)
        self.buffer: Buffer = bytearray(image)
        self.past = [[image[at : at + SECTOR]] for at in range(0, len(image), SECTOR)]
        self.operations_left = -1  # then the power goes
        self._snapshot: list[int] = []

    def write(self, offset: int, data: bytes) -> None:
        self._count()
        assert isinstance(self.buffer, bytearray)
        self.buffer[offset : offset + len(data)] = data
        for sector in range(offset // SECTOR, (offset + len(data) - 1) // SECTOR + 1):
            content = bytes(self.buffer[sector * SECTOR : (sector + 1) * SECTOR])
            self.past[sector].append(content)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.buffer[offset : offset + length])

    def begin_sync(self) -> None:
        self._snapshot = [len(past) - 1 for past in self.past]

    def finish_sync(self) -> None:
        self.past = [past[keep:] for past, keep in zip(self.past, self._snapshot, strict=True)]

    def sync(self) -> None:
        self._count()
        self.begin_sync()
        self.finish_sync()

    def next_data(self, offset: int) -> tuple[int, int]:
        raise NotImplementedError

    def read_no_further(self) -> None:
        raise NotImplementedError

    def drop_cache(self, offset: int) -> None:
        pass  # no sync fails here

    def close(self) -> None:
        pass

    def after_power_cut(self, choices: list[int]) -> bytes:
        """`choices` picks, sector by sector, what is left of it; a write-back sees at most one
        sector while something is being stored there."""
        image = b""
        seen_half_stored = sum(choices) % SECTORS
        for sector, (past, choice) in enumerate(zip(self.past, choices, strict=True)):
            whole = [each for each in past if each[:8] != bytes(8)]
            possible = past if sector == seen_half_stored or not whole else whole
            image += possible[choice % len(possible)]
        return image

    def _count(self) -> None:
        if self.operations_left == 0:
            raise PowerCut
        self.operations_left -= 1


class OneFile(MmapDisk):
    """A disk that holds nothing but one cursor file."""

    def __init__(self, file: SectorFile) -> None:
        super().__init__()
        self.file = file

    def open(self, path: str, *, writable: bool = False) -> Extent:
        return self.file


class CursorThroughPowerCuts(RuleBasedStateMachine):
    """Stores, overlapping syncs, kills and power cuts in any order."""

    @initialize()
    def create(self) -> None:
        self.file = SectorFile(FRESH)
        self.stored = {FIRST[1:]}  # every state that was ever stored, without its generation
        self.promised = FIRST  # by the last sync that was completed
        self.consumed = 0
        self.syncing: Checkpoint | None = None
        self.cursor = Cursor(self.file, SEED, CursorFile(FIRST, 0, []))

    @rule(moves=st.integers(1, CURSOR_ENTRIES + 1))
    def store(self, moves: int) -> None:
        for _ in range(moves):
            self.consumed += 1
            self.cursor.store(self.consumed, 1, 4096 + self.consumed, self.consumed, 1, 4096)
            self.stored.add(self.cursor.latest[1:])

    @precondition(lambda self: self.syncing is None)
    @rule()
    def begin_sync(self) -> None:
        if self.cursor.begin_sync() is not None:
            self.syncing = self.cursor.latest
            self.file.begin_sync()
        else:
            assert self.cursor.latest == self.promised

    @precondition(lambda self: self.syncing is not None)
    @rule()
    def finish_sync(self) -> None:
        assert self.syncing is not None
        self.file.finish_sync()
        self.cursor.finish_sync()
        self.promised, self.syncing = self.syncing, None
        assert self.cursor.durable == self.promised

    @rule(choices=st.lists(st.integers(0, 50), min_size=SECTORS, max_size=SECTORS))
    def power_cut(self, choices: list[int]) -> None:
        self._recover(self.file.after_power_cut(choices))

    @rule(
        choices=st.lists(st.integers(0, 50), min_size=SECTORS, max_size=SECTORS),
        operations=st.integers(0, 8),
        again=st.lists(st.integers(0, 50), min_size=SECTORS, max_size=SECTORS),
    )
    def power_cut_and_another_one_in_the_recovery(
        self, choices: list[int], operations: int, again: list[int]
    ) -> None:
        file = SectorFile(self.file.after_power_cut(choices))
        file.operations_left = operations
        try:
            Cursor.open(OneFile(file), "", SEED)
        except PowerCut:
            self._recover(file.after_power_cut(again))
        else:
            self._recover(bytes(file.buffer))

    @rule(torn=st.booleans())
    def kill(self, torn: bool) -> None:
        """The page cache survives; the store that was being made may be there by half."""
        before = self.cursor.latest
        if torn:
            self.cursor.store(self.consumed + 1, 1, 5000, self.consumed, 1, 4096)
            whole = encode_checkpoint(self.cursor.latest, SEED)
            at = bytes(self.file.buffer).index(whole)
            self.file.write(at + 40, GARBAGE[:32])
            self.file.write(at, bytes(8))  # C5: the magic comes last
        self.promised = before  # kill -9 loses no move
        self._recover(bytes(self.file.buffer))

    def _recover(self, image: bytes) -> None:
        self.file = SectorFile(image)
        self.cursor = Cursor.open(OneFile(self.file), "", SEED)
        state = self.cursor.latest
        assert state.generation >= self.promised.generation
        assert state.consumed >= self.promised.consumed
        assert state[1:] in self.stored
        assert read_cursor("", bytes(self.file.buffer), SEED).damage == []
        self.promised, self.syncing = state, None
        self.consumed = state.consumed

    @invariant()
    def the_page_cache_holds_the_latest_state(self) -> None:
        state = read_cursor("", bytes(self.file.buffer), SEED)
        assert state.checkpoint == self.cursor.latest


TestCursorThroughPowerCuts = CursorThroughPowerCuts.TestCase
TestCursorThroughPowerCuts.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None
)


def test_every_short_history_survives_the_worst_cuts() -> None:
    """m: a move, M: as many as a slot has entries, s: begin a sync or finish it.  The worst cuts
    turn all that is dirty into garbage, or undo it."""
    for history in itertools.product("mMs", repeat=7):
        file = SectorFile(FRESH)
        cursor = Cursor(file, SEED, CursorFile(FIRST, 0, []))
        running = False
        for number, step in enumerate(history, 1):
            if step in "mM":
                for _ in range(1 if step == "m" else CURSOR_ENTRIES):
                    cursor.store(number, 1, 4096, number, 1, 4096)
            elif running:
                file.finish_sync()
                cursor.finish_sync()
                running = False
            elif cursor.begin_sync() is not None:
                file.begin_sync()
                running = True
        for choice in (0, -1):
            left = file.after_power_cut([choice] * SECTORS)
            found = read_cursor("", left, SEED).checkpoint
            assert found.generation >= cursor.durable.generation, "".join(history)


# ---------------------------------------------------------------- real files


def make(tmp_path: Path, moves: int = 3, *, clean: bool = False) -> Path:
    """A cursor file after some moves; the last one is consumed = `moves`."""
    cursor = Cursor.create(MmapDisk(), str(tmp_path), SEED, FIRST)
    for number in range(1, moves + 1):
        cursor.store(number, 1, 4096 + number, number, 1, 4096)
        extent = cursor.begin_sync()
        assert extent is not None
        extent.sync()
        cursor.finish_sync()
    cursor.close(clean=clean)
    return tmp_path / CURSOR


def open_cursor(path: Path) -> Cursor:
    return Cursor.open(MmapDisk(), os.path.dirname(path), SEED)


def newest_entry(path: Path) -> int:
    """The offset of the entry with the highest generation."""
    state = read_cursor("", path.read_bytes(), SEED)
    return path.read_bytes().index(encode_checkpoint(state.checkpoint, SEED))


def test_moves_survive_a_restart(tmp_path: Path) -> None:
    path = make(tmp_path, 20)
    assert path.stat().st_size == CURSOR_FILE_BYTES
    for number in range(20, 60):
        cursor = open_cursor(path)
        assert (cursor.latest.consumed, cursor.latest.offset) == (number, 4096 + number)
        cursor.store(number + 1, 1, 4097 + number, number + 1, 1, 4096)
        cursor.close(clean=number % 2 == 0)
        assert read_cursor("", path.read_bytes(), SEED).checkpoint.clean is (number % 2 == 0)


def test_a_clean_mark_stands_in_both_slots(tmp_path: Path) -> None:
    path = make(tmp_path, clean=True)
    whole = path.read_bytes()
    for slot in (0, 1):
        damaged = bytearray(whole)
        damaged[slot * PAGE : (slot + 1) * PAGE] = GARBAGE * CURSOR_ENTRIES
        state = read_cursor("cursor", bytes(damaged), SEED)
        assert (state.checkpoint.flags, state.checkpoint.consumed) == (CURSOR_CLEAN, 3)
        assert [error.offset for error in state.damage] == [
            *(slot * PAGE + entry * SECTOR for entry in range(CURSOR_ENTRIES)),
            slot * PAGE,
        ]


def test_a_damaged_entry_refuses_and_never_means_the_one_before(tmp_path: Path) -> None:
    """The newest entry may be the only one that knows what was answered."""
    path = make(tmp_path)
    at = newest_entry(path)
    flip(path, at + 30)
    state = read_cursor("cursor", path.read_bytes(), SEED)
    assert state.checkpoint.consumed == 2
    assert [(error.path, error.offset) for error in state.damage] == [("cursor", at)]
    with pytest.raises(Corrupt, match="the CRC of the cursor entry does not hold") as error:
        open_cursor(path)
    assert (error.value.path, error.value.offset) == (str(path), at)


def test_an_entry_that_was_being_stored_is_no_damage(tmp_path: Path) -> None:
    path = make(tmp_path)
    overwrite(path, newest_entry(path), bytes(8) + GARBAGE[:64])
    cursor = open_cursor(path)
    assert cursor.latest.consumed == 2
    cursor.close(clean=False)


@pytest.mark.parametrize("cut", range(1, 9))
def test_the_marks_of_a_store_may_be_cut_after_any_byte(tmp_path: Path, cut: int) -> None:
    """Zeros over an old magic, or the magic over zeros."""
    for start in (bytes(cut) + CURSOR_MAGIC[cut:], CURSOR_MAGIC[: cut - 1] + bytes(9 - cut)):
        path = make(tmp_path)
        overwrite(path, newest_entry(path), start)
        cursor = open_cursor(path)
        assert cursor.latest.consumed == 2
        cursor.close(clean=False)


def test_a_slot_without_any_entry_is_damage(tmp_path: Path) -> None:
    path = make(tmp_path)
    overwrite(path, newest_entry(path) // PAGE * PAGE, bytes(PAGE))
    with pytest.raises(Corrupt, match="the slot has no entry"):
        open_cursor(path)


def test_no_readable_entry_refuses_and_never_means_zero(tmp_path: Path) -> None:
    path = make(tmp_path)
    for at in range(0, CURSOR_FILE_BYTES, SECTOR):
        flip(path, at + 20)
    with pytest.raises(Corrupt, match="what was consumed is not known"):
        open_cursor(path)
    overwrite(path, 0, bytes(CURSOR_FILE_BYTES))
    with pytest.raises(Corrupt, match="what was consumed is not known"):
        open_cursor(path)


@pytest.mark.parametrize("size", [0, 1, PAGE, CURSOR_FILE_BYTES - 1, CURSOR_FILE_BYTES + 1])
def test_a_cursor_of_the_wrong_size_is_refused(tmp_path: Path, size: int) -> None:
    path = make(tmp_path)
    os.truncate(path, size)
    with pytest.raises(Corrupt, match="the cursor file must have 8192 bytes") as error:
        open_cursor(path)
    assert (error.value.path, error.value.offset) == (str(path), size)
