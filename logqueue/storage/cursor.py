"""The cursor file: how far a queue has been consumed, kept in two slots on pages of their own.

Each slot is a page of eight entries, one a sector.  A move is stored in the next entry of the
working slot; a sync makes the working slot durable, and then the slots change roles.

Invariants:
  C1  the slot that was synced last is never written before the other one has been synced, so a
      power cut finds at least the state of the last completed sync;
  C2  the entry that a running sync covers is not written while the sync runs, so no torn sector
      can replace it;
  C3  two moves in a row never go to the same entry, so kill -9 in the middle of a store leaves
      the move before it;
  C4  generations only rise: the valid entry with the highest one is the state;
  C5  every entry is valid from the start; its magic is zeros, or on its way there or back, while
      it is being stored, and comes last.  So what begins otherwise and does not verify, or a slot
      without any entry, is damage and never the trace of a crash: the queue refuses, because what
      was damaged may have been the newest state.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from crc32c import crc32c

from logqueue.errors import Corrupt
from logqueue.storage.disk import Disk, Extent
from logqueue.storage.format import (
    CRC,
    CURSOR_CLEAN,
    CURSOR_ENTRIES,
    CURSOR_FILE_BYTES,
    CURSOR_LEASED,
    CURSOR_MAGIC,
    CURSOR_SLOTS,
    CURSOR_STATE,
    PAGE,
    SECTOR,
    Checkpoint,
    checkpoint_head,
    decode_checkpoint,
    encode_checkpoint,
)
from logqueue.storage.layout import CURSOR


class CursorFile(NamedTuple):
    """What a cursor file holds: the newest valid state, its slot, what is damaged, and how many
    entries a crash has caught half stored.  Only when nothing is damaged is the state known to be
    the newest that there was.  `closed`: the other slot says the same, both that the queue was
    closed in order."""

    checkpoint: Checkpoint
    slot: int
    damage: list[Corrupt]
    half_stored: int = 0
    closed: bool = False


def read_cursor(path: str, data: bytes, queue_seed: int) -> CursorFile:
    """The newest valid entry.  Raises Corrupt when there is none, or NewerFormat."""
    if len(data) != CURSOR_FILE_BYTES:
        raise Corrupt(path, len(data), f"the cursor file must have {CURSOR_FILE_BYTES} bytes")
    newest: dict[int, Checkpoint] = {}  # by slot
    damage, half_stored = [], 0
    valid: dict[bytes, Checkpoint] = {}  # most entries of a queue that is hardly used are the same
    for offset in range(0, CURSOR_FILE_BYTES, SECTOR):
        sector = data[offset : offset + SECTOR]
        if _half_stored(sector[: len(CURSOR_MAGIC)]):  # C5
            half_stored += 1
            continue
        checkpoint = valid.get(sector)
        if checkpoint is None:
            try:
                checkpoint = decode_checkpoint(path, offset, sector, queue_seed)
            except Corrupt as error:
                damage.append(error)
                continue
            valid[sector] = checkpoint
        slot = offset // PAGE
        if slot not in newest or checkpoint.generation > newest[slot].generation:
            newest[slot] = checkpoint
    if not newest:
        raise Corrupt(path, 0, "no cursor entry is readable: what was consumed is not known")
    empty = set(range(CURSOR_SLOTS)) - newest.keys()
    damage += [Corrupt(path, slot * PAGE, "the slot has no entry") for slot in empty]
    slot = max(newest, key=lambda each: newest[each].generation)
    state = newest[slot]
    closed = state.clean and all(each[1:] == state[1:] for each in newest.values())
    return CursorFile(state, slot, damage, half_stored, closed and not empty)


def settle(disk: Disk, path: str) -> None:
    """Have the disk and the cache agree on a file that nobody has mapped: what was stored since
    the last sync goes to the disk, and what a failed one has lost is forgotten (A4).

    Raises FileNotFoundError, Corrupt, LimitExceeded, StorageFailed.
    """
    extent = disk.open(path)
    try:
        extent.sync()
        extent.drop_cache(0)
    finally:
        extent.close()


_BEING_STORED = bytes(len(CURSOR_MAGIC))


def _half_stored(start: bytes) -> bool:
    """Whether zeros are replacing a magic there, or a magic zeros: a store may be cut short after
    any byte.  Every byte of the magic has two bits or more, so no flipped bit looks like this."""
    if start == CURSOR_MAGIC:
        return False
    return all(byte in (0, magic) for byte, magic in zip(start, CURSOR_MAGIC, strict=False))


class Cursor:
    """The open cursor of one queue."""

    def __init__(self, extent: Extent, queue_seed: int, state: CursorFile) -> None:
        self._extent = extent
        self._seed = queue_seed
        self._working = 1 - state.slot
        self._entry = 0
        self._pinned = -1
        self._stored_in = state.slot
        self._syncing = state.checkpoint
        self.durable = state.checkpoint  # recovery has synced what it read
        # Whatever is stored from now on, the queue is not closed cleanly.
        self._flags = state.checkpoint.flags & CURSOR_LEASED
        self._generation, _, *latest = state.checkpoint
        self._position, self._mark = tuple(latest[:3]), tuple(latest[3:])
        self._set_head()

    @classmethod
    def create(cls, disk: Disk, directory: str, queue_seed: int, first: Checkpoint) -> Cursor:
        """The cursor of a new queue, durable on return but for its name."""
        extent = disk.create(os.path.join(directory, CURSOR), CURSOR_FILE_BYTES)
        try:
            entry = encode_checkpoint(first, queue_seed).ljust(SECTOR, b"\0")
            extent.write(0, entry * (CURSOR_SLOTS * CURSOR_ENTRIES))
            extent.sync()
        except BaseException:
            extent.close()
            raise
        return cls(extent, queue_seed, CursorFile(first, 0, []))

    @classmethod
    def open(cls, disk: Disk, directory: str, queue_seed: int) -> Cursor:
        """An existing cursor; entries that a crash has caught half stored are stored again.

        Raises Corrupt, NewerFormat, LimitExceeded, StorageFailed.
        """
        path = os.path.join(directory, CURSOR)
        settle(disk, path)  # C1 starts from what is durable, which a clean entry need not be
        extent = disk.open(path, writable=True)
        try:
            state = read_cursor(path, extent.read(0, extent.size), queue_seed)
            if state.damage:
                raise state.damage[0]
            cursor = cls(extent, queue_seed, state)
            for _ in range(CURSOR_SLOTS if state.half_stored else 0):
                cursor._fill_working_slot()
        except BaseException:
            extent.close()
            raise
        return cursor

    def move(self, directory: str) -> None:
        """The queue's directory has been renamed, with the cursor open."""
        self._extent.path = os.path.join(directory, CURSOR)

    def note_leases(self) -> None:
        """From the next state on, a queue without its acknowledgement log is damaged."""
        self._set_flags(self._flags | CURSOR_LEASED)

    @property
    def latest(self) -> Checkpoint:
        """The state that was stored last."""
        return Checkpoint(self._generation, self._flags, *self._position, *self._mark)

    @property
    def moved(self) -> bool:
        """Whether something was stored that is not durable yet."""
        return self._generation != self.durable.generation

    def store(
        self,
        consumed: int,
        base: int,
        offset: int,
        durable: int,
        durable_base: int,
        durable_offset: int,
        clean: bool = False,
    ) -> None:
        """Store a new state; durable after the next sync."""
        self._mark = durable, durable_base, durable_offset
        self._set_flags(self._flags & ~CURSOR_CLEAN | (CURSOR_CLEAN if clean else 0))
        self.advance(consumed, base, offset)

    def advance(self, consumed: int, base: int, offset: int) -> None:
        """Store a move; the rest of the state stays.  For every get, so it is written out flat."""
        entry = (self._entry + 1) % CURSOR_ENTRIES
        if entry == self._pinned:  # C2
            entry = (entry + 1) % CURSOR_ENTRIES
        self._entry = entry
        self._stored_in = working = self._working
        self._generation = generation = self._generation + 1
        self._position = consumed, base, offset
        mark, mark_base, mark_offset = self._mark
        state = CURSOR_STATE.pack(generation, consumed, base, offset, mark, mark_base, mark_offset)
        crc = CRC.pack(crc32c(state, self._head_crc))
        at, write = working * PAGE + entry * SECTOR, self._extent.write
        write(at, _BEING_STORED)  # C5
        write(at + len(CURSOR_MAGIC), self._head + crc + state)
        write(at, CURSOR_MAGIC)

    def begin_sync(self) -> Extent | None:
        """The file to sync so that the latest state is durable; None when it is already."""
        if not self.moved:
            return None
        if self._stored_in != self._working:  # it was stored while the last sync ran
            self.store(*self.latest[2:], clean=self.latest.clean)
        self._pinned = self._entry
        self._syncing = self.latest
        return self._extent

    def finish_sync(self) -> None:
        """The sync that `begin_sync` asked for is done: the slots change roles."""
        self.durable = self._syncing
        self._pinned = -1
        self._working = 1 - self._working

    def close(self, *, clean: bool) -> None:
        """Close the file; when `clean`, leave the state durable in both slots with the clean mark,
        so that a repair finds it in one of them when the other is damaged."""
        for _ in range(CURSOR_SLOTS if clean else 0):
            self.store(*self.latest[2:], clean=True)
            self._sync()
        self._extent.close()

    def _sync(self) -> None:
        extent = self.begin_sync()
        if extent is not None:
            extent.sync()
            self.finish_sync()

    def _fill_working_slot(self) -> None:
        for _ in range(CURSOR_ENTRIES):
            self.store(*self.latest[2:])
        self._sync()

    def _set_flags(self, flags: int) -> None:
        if flags != self._flags:
            self._flags = flags
            self._set_head()

    def _set_head(self) -> None:
        head, self._head_crc = checkpoint_head(self._flags, self._seed)
        self._head = head[len(CURSOR_MAGIC) :]
