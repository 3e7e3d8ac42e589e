"""A workload for the world of a crash disk: every step is a method without arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from logqueue.errors import DiskFull, LimitExceeded
from logqueue.storage.compactor import KEEP_NOTHING, plan
from logqueue.storage.format import MAXQUEUE_DEFAULT, Ring
from logqueue.storage.frame import HEADERS
from logqueue.storage.headers import encode_headers
from tests.crashledger import check, position
from tests.crashworld import World

BACKLOG = 40  # above this many messages the workload prefers to consume

_NOISE = Random(0).randbytes(1 << 17)


class Workload(World):
    """Steps that a queue can be put through, each held against the ledger at once."""

    files_max = 2  # active segment, cursor

    def step(self) -> None:
        """One random step."""
        self.do(self.choose())

    def choose(self) -> str:
        """The name of the next random step."""
        behind = self.ledger.put - self.ledger.got > BACKLOG
        steps = _PUTTING if self._tearing else _STEPS
        return self.random.choice(_CONSUMING if behind else steps)

    @property
    def _tearing(self) -> bool:
        """Whether this world is one for tears upon tears: puts mostly, over many pages."""
        return self.seed % 2 == 0

    def do(self, step: str) -> None:
        """The step of this name."""
        getattr(self, step)()

    def put(self) -> None:
        """Put a message of any size, now and then larger than a segment."""
        sizes = ((0, 64), (0, 64), (20, 300), (20, 300), (1000, 5000), (3000, 9000), (100, 70000))
        self._put(self.random.randint(*self.random.choice(sizes)))

    def put_some(self) -> None:
        """Put a few of nearly one size, so that what is dropped and what is put next align."""
        for _ in range(self.random.randint(1, 6)):
            self._put(self._usual())

    def put_one(self) -> None:
        """Put one of exactly the usual size."""
        self._put(self._usual(0))

    def put_typed(self) -> None:
        """Put one with headers, which a get and a view leave out."""
        self._put(self._usual(), headers=encode_headers(((b"content-type", b"text/plain"),)))

    def _usual(self, odd: float = 0.3) -> int:
        if self._tearing:
            return 2000
        return self.random.randint(0, 1500) if self.random.random() < odd else 200

    def _put(self, length: int, headers: bytes = b"") -> None:
        ledger, sequence = self.ledger, self.ledger.put + 1
        full = sequence - ledger.got > ledger.ring.maxqueue - (ledger.got > ledger.ring.base)
        payload = self._payload(length)
        if not full:
            ledger.payloads[sequence], ledger.put = payload, sequence
        try:
            if headers:
                first = self.queue.put_batch([headers + payload], [HEADERS])
                got = None if first is None else position(ledger.ring, first)
            else:
                got = self.queue.put(payload)
        except (DiskFull, LimitExceeded):
            if not full:
                del ledger.payloads[sequence]
                ledger.put -= 1
            raise
        check(got == (None if full else position(ledger.ring, sequence)), f"put said {got}")
        if not full:
            ledger.put_answered = sequence

    def _payload(self, length: int) -> bytes:
        self._made += 1
        kind = self.random.random()
        head = b"%d " % self._made
        if kind < 0.1:  # looks unwritten, or like the beginning of a frame everywhere
            return (bytes if kind < 0.05 else b"\1".__mul__)(length)[len(head) :] + head
        start = self.random.randrange(len(_NOISE) - length)
        return head + _NOISE[start : start + length - len(head)] if length > len(head) else head

    def get(self) -> None:
        """Consume one message, if there is one that may be consumed."""
        ledger, queue = self.ledger, self.queue
        sequence = ledger.got + 1
        some = sequence <= (queue.durable if self._options.committed_reads else ledger.put)
        if some:
            ledger.got = sequence
        got = queue.get()
        check((got is not None) == some, f"get said {got!r}")
        if got is not None:
            expected = position(ledger.ring, sequence), ledger.payloads[sequence]
            check(got == expected, f"get of {sequence} is wrong")
            ledger.got_answered = sequence

    def get_some(self) -> None:
        for _ in range(self.random.randint(2, 12)):
            self.get()

    def finish(self) -> None:
        """Work once more, consume everything, close in good order."""
        self.put()
        self.drain()
        self.close()

    def drain(self) -> None:
        """Consume everything."""
        self.sync()
        while self.ledger.got < self.ledger.put:
            self.get()
        self.sync()

    def sync(self) -> None:
        """What group commit does, with nothing beside it."""
        self._sync(None)

    def sync_under_load(self) -> None:
        """Puts and gets go on while the sync runs; it promises none of them."""
        self._sync(self._load)

    def _sync(self, meanwhile: Callable[[], None] | None) -> None:
        put, got = self.ledger.put, self.ledger.got
        sync = self.queue.begin_sync()
        if sync is not None:
            self.disk.meanwhile = meanwhile
            sync.run()
            self.disk.meanwhile = None
            self.queue.finish_sync(sync)
        self._promised(put, got)

    def _load(self) -> None:
        for _ in range(self.random.randint(1, 12)):
            length = self._usual()
            if self.random.random() < 0.5:
                self.get()
            elif self.queue.fits(length + 20):
                self._put(length)

    def checkpoint(self) -> None:
        """What a queue does when it falls quiet."""
        self.sync()
        self.queue.checkpoint()
        self.sync()

    def roll(self) -> None:
        self.queue.roll()
        self._promised(self.ledger.put, 0)

    def compact(self) -> None:
        """Free what has been consumed."""
        self.queue.free(self._goes_before())
        self._promised(self.ledger.put, self.ledger.got)

    def _goes_before(self) -> int:
        queue = self.queue
        return plan(queue.log.sealed, queue.consumed, KEEP_NOTHING, self._now, queue.hidden)

    def compact_under_load(self) -> None:
        """Let go of segments at once, and remove them while the queue works on."""
        self.sync()
        removal = self.queue.release(self._goes_before(), self.random.choice((1, None)))
        self._load()
        removal.run()

    def shrink(self) -> None:
        self.queue.shrink()

    def reset(self) -> None:
        ledger, last = self.ledger, self.ledger.put
        ledger.rings.append(Ring(last, last, MAXQUEUE_DEFAULT))
        self.queue.reset()
        del ledger.rings[0]
        ledger.got = ledger.got_answered = last
        self._promised(last, last)

    def purge(self) -> None:
        """Consume everything that was put, whether it is durable or not."""
        ledger = self.ledger
        ledger.got = ledger.put
        self.queue.purge()
        ledger.got_answered = ledger.got

    def configure(self) -> None:
        """Change settings that change nothing here."""
        ledger = self.ledger
        wanted = replace(ledger.settings[-1], retain_s=self.random.choice((0.0, 1.0, 2.0)))
        ledger.settings.append(wanted)
        check(self.queue.configure(replace(wanted, max_length=ledger.ring.maxqueue)), "refused")
        del ledger.settings[:-1]

    def maxqueue(self) -> None:
        """Change the ring's size, which its positions may forbid."""
        ledger, wanted = self.ledger, self.random.choice((10, 15, 30, 100, 1000))
        put, get = position(ledger.ring, ledger.put), position(ledger.ring, ledger.got)
        allowed = wanted >= put >= get and ledger.put - put <= ledger.got
        if allowed and wanted != ledger.ring.maxqueue:
            ledger.rings.append(Ring(ledger.put, ledger.put - put, wanted))
        check(self.queue.set_maxqueue(wanted) == allowed, f"maxqueue {wanted} from {ledger.ring}")
        del ledger.rings[:-1]


_OFTEN = "put put put_some put_typed get get_some sync"
_SELDOM = (
    "checkpoint roll compact compact_under_load shrink reset maxqueue configure purge restart view"
)
_STEPS = f"{_OFTEN} {_OFTEN} {_OFTEN} {'sync_under_load ' * 4} {_SELDOM}".split()
_PUTTING = ["put_one", "put_one", "put_one", "put_some", "sync", "get"]
_CONSUMING = ["drain", "get_some", "get_some", "compact", "sync_under_load"]
