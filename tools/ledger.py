"""What clients saw, and what it proves about the daemon.  Pure but for reading journals.

Every message says who sent it, which one of that producer it is, and a CRC of itself.  A client
writes down what it is about to do, does it, and writes down what came of it: its journal is the
only witness.  A journal is lines of text:

    producer    i FIRST LAST     about to put these messages, in this order
                b FIRST LAST     the same, as one batch: all of it will be there, or nothing
                a N POSITION     message N was acknowledged and stands at POSITION
                f N ANSWER       message N was refused: it must never be delivered
    consumer    g COUNT          about to get so many messages
                r POSITION PRODUCER N   this one was delivered, unaltered
                e [COUNT]        the queue was empty for the last one, or the last COUNT
                f ANSWER         the get was refused: it must not have taken a message
                x POSITION WHY   delivered, but altered

`Ledger` holds one queue to its promises, round by round.  Positions number a queue's messages
without a gap, so each one must be delivered exactly once, in order; the only ones that may be
missing are those that a get had taken when the daemon died under it (at most once, as promised).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_NOISE = bytes((i * 197 + (i >> 8) * 71) & 0xFF for i in range(1 << 17))


class Broken(Exception):
    """The daemon broke a promise."""


def message(producer: int, n: int, length: int) -> bytes:
    """A payload of at least `length` bytes that proves itself."""
    start = (producer * 7919 + n * 31) % 4096
    content = b"%d %d %b" % (producer, n, _NOISE[start : start + length])
    return b"%08x %b" % (zlib.crc32(content), content)


def sender(payload: bytes) -> tuple[int, int]:
    """The producer of a payload, and its number there.  Raises ValueError when it was altered."""
    content = payload[9:]
    if int(payload[:8], 16) != zlib.crc32(content):
        raise ValueError("the CRC does not fit")
    producer, n, _ = content.split(b" ", 2)
    return int(producer), int(n)


class Outbox:
    """What the producers of one queue sent, and what they were told of it.

    `awaited` is what was acknowledged and has not come out yet, with its position; `uncertain`
    what was sent and never answered.
    """

    def __init__(self) -> None:
        self.acknowledged = 0
        self.refused = 0
        self.awaited: dict[tuple[int, int], int] = {}
        self.uncertain: set[tuple[int, int]] = set()
        self.batches: dict[tuple[int, int], range] = {}  # of what is uncertain: the whole batch
        self._next: dict[int, int] = {}  # per producer, the next message to send
        self._last: dict[int, tuple[int, int]] = {}  # per producer, acknowledged: n, position

    def next_of(self, producer: int) -> int:
        """The number of the next message that `producer` may send; none is ever sent twice."""
        return self._next.get(producer, 1)

    def read(self, producers: Mapping[int, Iterable[str]]) -> None:
        """Take in the journals of one life.  Raises Broken when it reordered what was put."""
        for producer, journal in producers.items():
            for line in journal:
                self._sent(producer, line.split(maxsplit=2))

    def may_be(self, sender: tuple[int, int], position: int) -> bool:
        """Whether this message may be delivered from there."""
        return sender in self.uncertain or self.awaited.get(sender) == position

    def found(self, sender: tuple[int, int], position: int) -> None:
        """It is there, whether it was acknowledged or not, and must come out."""
        self.uncertain.discard(sender)
        self.awaited[sender] = position

    def done(self, sender: tuple[int, int]) -> None:
        """It has come out, and is not to come again."""
        self.awaited.pop(sender, None)
        self.uncertain.discard(sender)
        self.batches.pop(sender, None)

    def _sent(self, producer: int, words: list[str]) -> None:
        what, n, *rest = words
        if what in ("i", "b"):
            sent = range(int(n), int(rest[0]) + 1)
            assert sent.start == self.next_of(producer)
            self.uncertain.update((producer, each) for each in sent)
            if what == "b":
                self.batches.update(((producer, each), sent) for each in sent)
            self._next[producer] = sent.stop
            return
        key = producer, int(n)
        self.uncertain.remove(key)
        self.batches.pop(key, None)
        if what == "f":
            self.refused += 1
            return
        before = self._last.get(producer, (0, 0))
        now = key[1], int(rest[0])
        if now[0] <= before[0] or now[1] <= before[1]:
            raise Broken(f"reordered: producer {producer} was told {before} and then {now}")
        self._last[producer] = now
        self.awaited[key] = now[1]
        self.acknowledged += 1


class Receipt(NamedTuple):
    """One delivery."""

    position: int
    producer: int
    n: int


class Ledger:
    """One queue, as its clients know it.  `absorb` each round's journals; `finish` after a drain.

    Both raise Broken.
    """

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.delivered = 0
        self._gets_refused = 0
        self.taken_unseen = 0  # positions that a get took along when the daemon died
        self._last_delivered: dict[int, int] = {}
        self._position = 0  # the last one delivered
        self._batch: tuple[range, int, int] | None = None  # positions, producer, first message
        self._unseen: set[int] = set()
        self._gets_lost = 0  # gets that died with the daemon since the last delivery

    @property
    def refused(self) -> int:
        """How many puts and gets were refused."""
        return self.outbox.refused + self._gets_refused

    @property
    def awaited(self) -> int:
        """How many acknowledged messages have not been delivered yet."""
        return len(self.outbox.awaited)

    def absorb(
        self,
        producers: Mapping[int, Iterable[str]],
        consumers: Iterable[Iterable[str]],
        *,
        crashed: bool = True,
    ) -> None:
        """Take in the journals of one life of the daemon, which ended by a crash or in order."""
        self.outbox.read(producers)
        gets_lost = 0
        receipts: list[Receipt] = []
        for consumer in consumers:
            lost, refused = read_consumer(consumer, receipts)
            gets_lost += lost
            self._gets_refused += refused
        self._deliver(sorted(receipts), gets_lost if crashed else 0)

    def finish(self) -> None:
        """The queue has just been drained: everything acknowledged must have come out."""
        end = max(self.outbox.awaited.values(), default=0)
        if self._batch is not None:  # as a whole
            end = max(end, self._batch[0].stop - 1)
        missing = range(self._position + 1, end + 1)
        if len(missing) > self._gets_lost:
            raise Broken(f"lost: the queue ended before positions {missing} were delivered")
        self._unseen.update(missing)
        self.taken_unseen += len(missing)
        for (producer, n), position in self.outbox.awaited.items():
            if position not in self._unseen:
                raise Broken(f"lost: message {n} of producer {producer} stood at {position}")

    def _deliver(self, receipts: list[Receipt], gets_lost: int) -> None:
        """Walk this life's deliveries.  Before the first of them, gets that died with an earlier
        life may have taken messages along; after it, only those that died with this one."""
        inherited = self._gets_lost
        for receipt in receipts:
            if receipt.position <= self._position:
                raise Broken(f"delivered twice, or out of order: {receipt} after {self._position}")
            self._keep_whole(receipt)
            missing = range(self._position + 1, receipt.position)
            gets_lost -= max(0, len(missing) - inherited)
            inherited = 0
            if gets_lost < 0:
                raise Broken(f"lost: nobody got positions {missing}, and no get died with them")
            self._unseen.update(missing)
            self.taken_unseen += len(missing)
            self._position = receipt.position
            self._match(receipt)
        self._gets_lost = gets_lost + inherited
        self.delivered += len(receipts)

    def _keep_whole(self, receipt: Receipt) -> None:
        """Of a batch that nobody was told of, all is there once one message of it is."""
        position, producer, n = receipt
        if self._batch is not None and position in self._batch[0]:
            positions, owner, first = self._batch
            if (producer, n) != (owner, first + position - positions.start):
                raise Broken(f"a batch was split: {receipt} within {self._batch}")
        elif (producer, n) in self.outbox.batches:
            sent = self.outbox.batches[producer, n]
            start = position - (n - sent.start)
            if start <= self._position:
                raise Broken(f"a batch was split: {receipt}, of messages {sent}")
            self._batch = range(start, start + len(sent)), producer, sent.start

    def _match(self, receipt: Receipt) -> None:
        position, producer, n = receipt
        if not self.outbox.may_be((producer, n), position):
            at = self.outbox.awaited.get((producer, n))
            if at is None:
                raise Broken(f"never sent, refused, or delivered twice: {receipt}")
            raise Broken(f"moved: {receipt} was acknowledged at position {at}")
        self.outbox.done((producer, n))
        if n <= self._last_delivered.get(producer, 0):
            raise Broken(f"reordered: {receipt} after {self._last_delivered[producer]}")
        self._last_delivered[producer] = n


def read_consumer(journal: Iterable[str], receipts: list[Receipt]) -> tuple[int, int]:
    """Collect the receipts; how many gets were never answered, and how many were refused."""
    asked = answered = refused = 0
    for line in journal:
        what, *rest = line.split(maxsplit=3)
        if what == "g":
            asked += int(rest[0])
            continue
        answered += int(rest[0]) if what == "e" and rest else 1
        if what == "x":
            raise Broken(f"altered: {line.strip()}")
        if what == "r":
            receipts.append(Receipt(int(rest[0]), int(rest[1]), int(rest[2])))
        refused += what == "f"
    return asked - answered, refused
