"""The queue operations that HTTP needs: a port, which `logqueue.local` fills with the log store.

Every method may raise `Corrupt` (this queue is damaged and stopped) besides what it names.
`StorageFailed` may come out of any of them; it is fatal and passes through every handler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

from logqueue.options import QueueOptions
from logqueue.web.message import Presence, Promise

BATCH_BYTES_MAX = 64 << 20  # of payloads in one answer
DEAD_HEADER = b"logqueue-dead"  # one for each move into a dead-letter queue

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]


class Status(NamedTuple):
    """A queue in HTTPSQS's words.  A queue that nobody has written to has the default `maxqueue`
    and zeros."""

    maxqueue: int
    putpos: int
    putlap: int
    getpos: int
    getlap: int
    unread: int


class Queues(Protocol):
    """All queues of one daemon, by name (0 to 256 bytes)."""

    async def put(self, name: bytes, payload: bytes) -> int | None:
        """Append `payload`; the ring position once the durability mode's promise is kept.

        None when the ring is full.  Raises DiskFull or LimitExceeded, and then nothing was
        written.  When cancelled, the message may or may not be in the queue.
        """

    async def get(
        self, name: bytes, wait_s: float = 0.0, presence: Presence | None = None
    ) -> tuple[int, bytes] | None:
        """Consume the oldest message: (ring position, payload), or None when there is none, and
        none came within `wait_s` seconds.  Waits are served in arrival order, long polls of
        `receive` included, and end with None once the `presence` is over: nothing is taken for
        it then.  Raises LimitExceeded when too many are parked.

        When cancelled while it waits, nothing was taken; later, the message may be consumed all
        the same.
        """

    def put_nowait(self, name: bytes, payload: bytes) -> tuple[int | None, Promise | None]:
        """`put`, and how to wait until the durability mode's promise is kept (None: it is).

        Raises trio.WouldBlock when anything else must be waited for, and then nothing has
        happened.
        """

    def get_nowait(self, name: bytes) -> tuple[tuple[int, bytes] | None, Promise | None]:
        """`get` in the same way."""

    async def view(self, name: bytes, position: int) -> bytes | None:
        """The message that stands at a ring position, read or not; None when there is none."""

    async def status(self, name: bytes) -> Status:
        """Positions and size; creates nothing."""

    async def reset(self, name: bytes) -> None:
        """Empty the queue: positions and size go back to their first values."""

    async def set_maxqueue(self, name: bytes, maxqueue: int) -> bool:
        """Change the ring's size, creating the queue if need be; False when the positions forbid
        it, and then nothing was changed."""

    def set_sync_interval(self, seconds: int) -> None:
        """Change the time between syncs under durability `interval`; no effect under others."""


class Stored(NamedTuple):
    """Where put messages stand: sequences `first`..`last`, and the ring position of the first."""

    first: int
    last: int
    position: int


class State(Enum):
    """What is the matter with a sequence, for peek."""

    READY = "ready"
    LEASED = "leased"
    DELAYED = "delayed"  # released with a delay that is not over
    DEAD = "dead"  # out of attempts, on the way to the dead-letter queue
    CONSUMED = "consumed"
    UNWRITTEN = "unwritten"  # no such message yet
    COMPACTED = "compacted"  # consumed, and gone from the disk


class Message(NamedTuple):
    """One message as it is handed out.

    `headers` were stored with it: lower-case names, among them `content-type` if the put had one,
    and in a dead-letter queue one `logqueue-dead` per move (see docs/format.md).  `lease` is the
    token that answers for it, empty when it was consumed at once or only looked at; `attempts`
    counts the leases so far, this one included.
    """

    sequence: int
    position: int
    timestamp: int  # milliseconds since the epoch, when it was put
    payload: bytes
    headers: Headers = ()
    attempts: int = 0
    lease: str = ""
    state: State = State.CONSUMED


class Outcome(Enum):
    """What became of one lease token."""

    DONE = "done"  # also when it was acknowledged before and that is still remembered
    EXPIRED = "expired"  # the lease is over or given back, or the queue was purged or deleted
    UNKNOWN = "unknown"  # no lease of this queue ever had this token


class Details(NamedTuple):
    """All about one queue.  ready + leased + delayed + dead = not yet consumed."""

    name: bytes
    options: QueueOptions
    first: int  # the oldest sequence on disk
    last: int  # the newest sequence; 0 before the first put
    consumed: int  # everything up to here is consumed; above it some may be
    ready: int
    leased: int
    delayed: int
    dead: int  # out of attempts, on the way to the dead-letter queue
    expired: int  # messages skipped for their age since the queue was opened
    waiting: int  # parked long polls
    bytes_on_disk: int
    bytes_consumed: int  # of these: everything in them is consumed, they are about to be freed
    bytes_retained: int  # of these: likewise, but kept for view and replay


class Overview(NamedTuple):
    """One queue in a list."""

    name: bytes
    unread: int
    last: int  # the newest sequence; 0 before the first put
    waiting: int  # parked long polls
    bytes_on_disk: int
    damaged: bool


class MessageQueues(Queues, Protocol):
    """What the v1 API needs on top of the legacy operations.

    Names are 0 to 256 bytes.  Where there is no such queue, `receive` finds it empty, puts and
    `create_queue` make it, and everything else that names one raises NoSuchQueue.
    Answers come after the durability mode's promise is kept, acknowledgements included.
    """

    async def create_queue(self, name: bytes, options: QueueOptions) -> bool:
        """Create the queue: True.  False when it is there already with the same options.

        Raises BadOption when it is there with different ones, DiskFull, LimitExceeded.
        """

    async def update_queue(self, name: bytes, given: Mapping[str, object]) -> Details:
        """Change the options that `given` names, by their JSON names and values.

        Raises BadOption, also for a `max_length` that the positions of the ring forbid.
        """

    async def delete_queue(self, name: bytes) -> None:
        """Remove the queue and all its messages from the disk; parked long polls for it go on.
        Tokens of its leases are EXPIRED from then on, under a new queue too."""

    async def describe_queue(self, name: bytes) -> Details:
        """Numbers and options of one queue; creates nothing."""

    def list_queues(self, after: bytes | None, limit: int) -> tuple[list[Overview], bytes | None]:
        """Up to `limit` queues in byte order of their names, those after `after`; from the first
        with None.  And what to give as `after` for more, None when there are none."""

    async def purge_queue(self, name: bytes) -> int:
        """Consume everything that is there, leased or not; the number of messages."""

    async def put_batch(
        self, name: bytes, payloads: Sequence[bytes], content_types: Sequence[bytes] = ()
    ) -> Stored | None:
        """Append all `payloads`, at least one, under consecutive sequences: all or nothing, across
        a crash too.  Creates the queue if need be.

        `content_types` is empty or as long as `payloads`; b"" means none.  None when the ring has
        no room for all of them.  Raises DiskFull or LimitExceeded, and then nothing was written.
        When cancelled, the batch is in the queue as a whole or not at all.
        """

    def put_batch_nowait(
        self, name: bytes, payloads: Sequence[bytes], content_types: Sequence[bytes] = ()
    ) -> tuple[Stored | None, Promise | None]:
        """`put_batch`, and how to wait until the durability mode's promise is kept (None: it is).

        Raises trio.WouldBlock when anything else must be waited for, and then nothing has
        happened.
        """

    async def receive(
        self,
        name: bytes,
        maximum: int,
        lease_s: float | None,
        wait_s: float = 0.0,
        presence: Presence | None = None,
    ) -> list[Message]:
        """Hand out up to `maximum` messages, oldest first; [] when none came within `wait_s`, or
        `presence` is over before.

        `lease_s` 0 consumes them; None takes the queue's own lease time.  A wait ends with the
        first message; waits are served in arrival order.  Fewer than `maximum` come when they
        would exceed BATCH_BYTES_MAX together.  Raises DiskFull when a lease cannot be noted,
        LimitExceeded when too many messages are leased or too many long polls are parked.

        Cancelled while waiting: nothing was taken.  Cancelled later: the messages are leased, or
        consumed, all the same.
        """

    async def acknowledge(self, name: bytes, tokens: Sequence[str]) -> list[Outcome]:
        """Consume leased messages for good.  One commit for all; when cancelled, all or none of
        them may be consumed."""

    async def extend(self, name: bytes, tokens: Sequence[str], lease_s: float) -> list[Outcome]:
        """Let the leases end `lease_s` from now.  The tokens stay valid."""

    async def release(self, name: bytes, leases: Sequence[tuple[str, float]]) -> list[Outcome]:
        """Give leased messages back: (token, seconds after which it may be handed out again).

        The attempt counts: a message out of attempts moves to the dead-letter queue.
        """

    async def peek(self, name: bytes, sequence: int) -> Message | State:
        """The message, or UNWRITTEN or COMPACTED when it is not there.  Changes nothing."""

    async def peek_from(self, name: bytes, sequence: int, limit: int) -> list[Message]:
        """Up to `limit` messages from `sequence` on that are on the disk, consumed ones too."""
