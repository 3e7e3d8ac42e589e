"""The v1 operations on the log store: batches, long polls, leases, settings.

`LocalQueues` keeps each mode's promise for single puts and gets; this adds the rest of the port
`logqueue.web.queues.MessageQueues`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import trio

from logqueue.administration import Administration
from logqueue.commit import Committer
from logqueue.config import Config
from logqueue.deadletters import headstone
from logqueue.errors import LimitExceeded
from logqueue.handle import Handle
from logqueue.keeper import Keeper
from logqueue.records import hand_out, message_of, state_of, whole_ms, with_headers
from logqueue.storage.clock import steady_ms
from logqueue.storage.delivery import Delivery, NoRoom
from logqueue.storage.frame import HEADERS, Frame
from logqueue.storage.leases import Leases
from logqueue.storage.leases import State as LeaseState
from logqueue.storage.log import batch_length
from logqueue.storage.reader import Cold
from logqueue.storage.store import Store
from logqueue.storage.token import Outcome as TokenOutcome
from logqueue.storage.token import Tokens
from logqueue.web.message import Presence, Promise
from logqueue.web.queues import Message, Outcome, State, Stored

BURIED_AT_ONCE = 100  # dead messages moved with one commit
PEEK_BYTES_MAX = 8 << 20


class LocalMessageQueues(Administration):
    """All queues of one data directory.  Satisfies `logqueue.web.queues.MessageQueues`."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        config: Config,
        now: Callable[[], int] = steady_ms,
    ) -> None:
        super().__init__(store, committer, config)
        self._now = now
        self._keeper = Keeper(self._visit, now)

    async def run(self) -> None:
        """The chores of the running store, dead letters included, until cancelled.

        Raises StorageFailed.
        """
        for name, facts in self._pool.resting.items():
            if "dead_letter" in facts.options:
                self._keeper.look_after(name, facts.due_ms)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run)
            nursery.start_soon(self._keeper.run)

    # ------------------------------------------------------------ messages

    async def put_batch(
        self, name: bytes, payloads: Sequence[bytes], content_types: Sequence[bytes] = ()
    ) -> Stored | None:
        payloads, flags = with_headers(payloads, content_types)
        handle, length = self._open.get(name), batch_length(payloads)
        if handle is None or handle.away or not self._has_room(handle.queue, length):
            handle = await self._make_room(name, length)
        stored = self._append(handle, payloads, flags)
        if stored is not None:
            await self._stored(handle)
        return stored

    def put_batch_nowait(
        self, name: bytes, payloads: Sequence[bytes], content_types: Sequence[bytes] = ()
    ) -> tuple[Stored | None, Promise | None]:
        payloads, flags = with_headers(payloads, content_types)
        handle, length = self._open.get(name), batch_length(payloads)
        if handle is None or handle.away or not self._has_room(handle.queue, length):
            raise trio.WouldBlock
        stored = self._append(handle, payloads, flags)
        return stored, None if stored is None else self._note(handle)

    def _append(
        self, handle: Handle, payloads: Sequence[bytes], flags: Sequence[int]
    ) -> Stored | None:
        first = handle.queue.put_batch(payloads, flags)
        if first is None:
            return None
        if self._lines:
            self._arrived(handle)
        return Stored(first, first + len(payloads) - 1, handle.queue.position_of(first))

    async def receive(
        self,
        name: bytes,
        maximum: int,
        lease_s: float | None,
        wait_s: float = 0.0,
        presence: Presence | None = None,
    ) -> list[Message]:
        take = partial(self._take, name, maximum, lease_s)
        if wait_s <= 0:
            return await take() or []
        deadline = trio.current_time() + wait_s
        return await self._lines.wait(name, deadline, take, presence) or []

    async def _take(self, name: bytes, maximum: int, lease_s: float | None) -> list[Message] | None:
        while self._pool.exists(name):  # until somebody puts into it, it is empty
            handle = await self._pool.acquire(name)
            await trio.lowlevel.checkpoint_if_cancelled()
            queue = handle.queue
            try:
                messages = hand_out(queue, maximum, lease_s)
            except Cold as cold:
                await self._fetch(handle, cold.fetch)
                continue
            except NoRoom as wanted:
                await self._make_room_to_settle(handle, wanted)
                continue
            if messages:
                self._look_after(queue)
                await self._stored(handle)
                return messages
            if not queue.unfinished:
                self._look_after(queue)
                self._expect(handle)
                return None
            self._note(handle)  # only messages that were too old: go on behind them
            await trio.lowlevel.checkpoint()
        return None

    async def acknowledge(self, name: bytes, tokens: Sequence[str]) -> list[Outcome]:
        return await self._answer(name, tokens, lambda delivery: delivery.acknowledge(tokens))

    async def extend(self, name: bytes, tokens: Sequence[str], lease_s: float) -> list[Outcome]:
        lease_ms = whole_ms(lease_s)
        return await self._answer(name, tokens, lambda delivery: delivery.extend(tokens, lease_ms))

    async def release(self, name: bytes, leases: Sequence[tuple[str, float]]) -> list[Outcome]:
        given = [(token, whole_ms(delay_s)) for token, delay_s in leases]
        tokens = [token for token, _ in leases]
        return await self._answer(name, tokens, lambda delivery: delivery.release(given))

    async def peek(self, name: bytes, sequence: int) -> Message | State:
        found = await self.peek_from(name, sequence, 1)
        if found and found[0].sequence == sequence:
            return found[0]
        servable = (await self._existing(name)).queue.servable
        return State.COMPACTED if 0 < sequence <= servable else State.UNWRITTEN

    async def peek_from(self, name: bytes, sequence: int, limit: int) -> list[Message]:
        found: list[Message] = []
        room = PEEK_BYTES_MAX
        while len(found) < limit and room > 0:
            handle = await self._existing(name)
            queue = handle.queue
            sequence = max(sequence, queue.log.first)
            if sequence > queue.servable:
                break
            lookup = queue.log.lookup(sequence)
            if lookup is None:
                behind = queue.log.after_gap(sequence)
                if behind is None:
                    break
                sequence = behind
                continue
            frames = await trio.to_thread.run_sync(lookup.run_many, limit - len(found), room)
            if not handle.away:
                queue.log.learn(lookup)
            if not frames:  # its segment was removed meanwhile
                continue
            frames = [each for each in frames if each.sequence <= queue.servable]
            found += [
                message_of(each, queue.position_of(each.sequence), state_of(queue, each.sequence))
                for each in frames
            ]
            room -= sum(len(each.payload) for each in frames)
            sequence = frames[-1].sequence + 1
        return found

    # ------------------------------------------------------------ inside

    async def _get(self, name: bytes) -> tuple[int, bytes] | None:
        got = await super()._get(name)
        if got is None and (handle := self._open.get(name)) is not None:
            self._look_after(handle.queue)
        return got

    async def _answer(
        self,
        name: bytes,
        tokens: Sequence[str],
        answer: Callable[[Delivery], list[TokenOutcome]],
    ) -> list[Outcome]:
        handle = await self._existing(name)
        while True:
            queue = handle.queue
            if queue.delivery is None:  # nothing was ever leased
                nobody, judge = Leases(queue.consumed), Tokens(queue.queue_id).judge
                return [Outcome(judge(token, nobody)[1].value) for token in tokens]
            try:
                outcomes = answer(queue.delivery)
            except NoRoom as wanted:
                handle = await self._make_room_to_settle(handle, wanted)
                continue
            self._look_after(queue)
            if queue.delivery.ready:
                self._lines.wake(name)
            await self._stored(handle)
            return [Outcome(each.value) for each in outcomes]

    # ------------------------------------------------------------ by themselves

    async def _visit(self, name: bytes) -> int | None:
        """Look after a queue: wake who waits, move the dead; when to come again.

        Raises LogqueueError when the dead cannot be moved now.
        """
        if not self._pool.exists(name):
            return None
        handle = await self._pool.acquire(name)
        delivery = handle.queue.delivery
        if delivery is None:
            return None
        if delivery.ready:
            self._lines.wake(name)
        if delivery.leases.counts[LeaseState.DEAD]:
            await self._bury(name)
        return self._next_visit((await self._pool.acquire(name)).queue)

    async def _bury(self, name: bytes) -> None:
        """Move some dead messages to the dead-letter queue."""
        handle = await self._existing(name)
        target, delivery = handle.queue.settings.dead_letter, handle.queue.delivery
        assert target is not None
        assert delivery is not None
        now = self._now()
        sequences, payloads = [], []
        for sequence in delivery.leases.dead()[:BURIED_AT_ONCE]:
            found = await self._read_dead(name, sequence)
            if found is not None:
                sequences.append(sequence)
                payloads.append(headstone(name, *found, now))
        if not payloads:
            return
        grave = await self._make_room(target, batch_length(payloads))
        if grave.queue.put_batch(payloads, [HEADERS] * len(payloads)) is None:
            length = grave.queue.settings.max_length
            raise LimitExceeded(f"messages in the dead-letter queue {target!r}", length, length)
        if self._lines:
            self._arrived(grave)
        self._note(grave)
        await self._committer.commit(grave)
        await self._settle_dead(name, sequences)

    async def _read_dead(self, name: bytes, sequence: int) -> tuple[Frame, int] | None:
        """A dead record, and its attempts; None when it is not dead any more: a purge, a reset or
        new settings have come between, and its file may be gone."""
        handle = await self._existing(name)
        while True:
            delivery = handle.queue.delivery
            if delivery is None or delivery.leases.state(sequence) is not LeaseState.DEAD:
                return None
            try:
                return delivery.read(sequence), delivery.leases.attempts(sequence)
            except Cold as cold:
                handle = await self._fetch(handle, cold.fetch)

    async def _settle_dead(self, name: bytes, sequences: Sequence[int]) -> None:
        handle = await self._existing(name)
        while True:
            try:
                handle.queue.deliver().settle_dead(sequences)
                break
            except NoRoom as wanted:
                handle = await self._make_room_to_settle(handle, wanted)
        await self._stored(handle)
