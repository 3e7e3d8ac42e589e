"""Queues as such: create, configure, describe, list, purge, delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from logqueue.errors import BadOption, NoSuchQueue, OptionConflict
from logqueue.handle import Handle
from logqueue.keeper import Keeper
from logqueue.local import LocalQueues
from logqueue.options import QueueOptions
from logqueue.storage.queue import Queue
from logqueue.web.queues import Details, Overview


class Administration(LocalQueues):
    """The half of `LocalMessageQueues` that is about a whole queue."""

    _keeper: Keeper
    _now: Callable[[], int]  # of the leases, in milliseconds

    # ------------------------------------------------------------ queues

    async def create_queue(self, name: bytes, options: QueueOptions) -> bool:
        _check_dead_letter(name, options)
        if await self._pool.create(name, options):
            return True
        if (await self._existing(name)).queue.settings != options:
            reason = "the queue exists with others; change them by PATCH"
            raise OptionConflict("options", reason, "queue-exists")
        return False

    async def update_queue(self, name: bytes, given: Mapping[str, object]) -> Details:
        handle = await self._existing(name)
        options = handle.queue.settings.changed(given)
        _check_dead_letter(name, options)
        await self._configure(handle, options)
        return await self.describe_queue(name)

    async def delete_queue(self, name: bytes) -> None:
        await self._pool.delete(await self._existing(name))

    async def describe_queue(self, name: bytes) -> Details:
        handle = await self._existing(name)
        queue = handle.queue
        unread = queue.positions.unread
        leased = delayed = dead = expired = 0
        if queue.delivery is not None:
            queue.delivery.leases.expire(self._now())
            _, leased, delayed, dead = queue.delivery.leases.counts
            expired = queue.delivery.expired
        usage = self._chores.usage(handle.facts)
        return Details(
            name,
            queue.settings,
            queue.log.first,
            queue.log.last,
            queue.consumed,
            unread - leased - delayed - dead,
            leased,
            delayed,
            dead,
            expired,
            self._lines.length(name),
            sum(usage),
            usage.consumed,
            usage.retained,
        )

    def list_queues(self, after: bytes | None, limit: int) -> tuple[list[Overview], bytes | None]:
        names, more = self.names_after(after, limit)
        seen = [(name, self.sight(name)) for name in names]
        rows = [
            Overview(
                name,
                sight.positions.unread,
                sight.last,
                self._lines.length(name),
                sum(sight.usage),
                sight.is_damaged,
            )
            for name, sight in seen
            if sight is not None
        ]
        return rows, more

    async def purge_queue(self, name: bytes) -> int:
        handle = await self._existing(name)
        count = handle.queue.purge()
        await self._stored(handle)
        await self._chores.compact(handle)
        return count

    @property
    def waiting(self) -> int:
        """How many long polls are parked."""
        return self._lines.count

    # ------------------------------------------------------------ inside

    async def _existing(self, name: bytes) -> Handle:
        if not self._pool.exists(name):
            raise NoSuchQueue(name)
        return await self._pool.acquire(name)

    async def _configure(self, handle: Handle, options: QueueOptions) -> None:
        name = handle.queue.name
        if not await self._pool.hand_over(handle, handle.queue.configure, options):
            reason = "the positions of the messages in the ring forbid it; consume or purge them"
            raise OptionConflict("max_length", reason, "max-length-below-backlog")
        self._chores.stored(handle)  # what is too old now, or retained no longer, is freed soon
        self._lines.wake(name)  # it may have been paused
        if (opened := self._open.get(name)) is not None:
            self._look_after(opened.queue)

    def _look_after(self, queue: Queue) -> None:
        """Have the queue visited when something happens to its leases that matters to anybody."""
        self._keeper.look_after(queue.name, self._next_visit(queue))

    def _next_visit(self, queue: Queue) -> int | None:
        if queue.delivery is None:
            return None
        if queue.settings.dead_letter is None and queue.name not in self._lines:
            return None
        return queue.delivery.leases.next_event()


def _check_dead_letter(name: bytes, options: QueueOptions) -> None:
    if options.dead_letter == name:
        raise BadOption("dead_letter", "a queue cannot be its own dead-letter queue")
