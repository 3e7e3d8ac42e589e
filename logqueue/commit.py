"""Group commit: many puts and gets wait for one fdatasync.

Plan.  Whoever needs what it did to be durable waits in its queue's group.  The committer starts
at most one sync per queue at a time; what happens while it runs waits for the next one.  Syncs
run in a few dedicated threads, each fed by a SimpleQueue of its own, that answer through
`TrioToken.run_sync_soon`: 21 us a round trip, against 103 us for `trio.to_thread.run_sync`.  (One
queue for all threads would wake a second one with each job, to find nothing and fight for the GIL.)

The next sync of a queue starts one scheduler tick after the waiters of the last one woke, so that
their next puts ride along: half-empty batches cost twice the syncs (measured: 14k against 25k
puts/s with 8 producers).  A queue whose last sync had one waiter does not wait for company: the
tick and the committer's turns are a fifth of what a lone producer's put costs.

Invariant G1: a sync's snapshot is taken before the sync starts, on the event loop, and wakes only
those who had already done what they wait for.  A failed sync wakes nobody: it ends the daemon.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

import outcome
import trio

from logqueue.errors import StorageFailed
from logqueue.latency import Latencies
from logqueue.storage.queue import Queue
from logqueue.storage.sync import Sync

SYNC_THREADS = 8  # syncs of different files at once; more gain nothing (64 files: 4.5 ms with 4,
# 3.4 ms with 8 threads, 9.6 ms one after the other)


Inbox: TypeAlias = "SimpleQueue[tuple[Group, Sync] | None]"  # of one sync thread


class Group:
    """The waiters of one open queue."""

    __slots__ = ("covered", "lone", "queue", "running", "waiting", "wanted")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.waiting: list[Callable[[], object]] = []  # to be called after the next sync
        self.covered: list[Callable[[], object]] = []  # after the one that is running
        self.wanted = False
        self.running = False
        self.lone = True  # the last sync had one waiter at most


class Committer:
    """The syncs of all queues of one daemon."""

    def __init__(self) -> None:
        self._wanted: list[Group] = []
        self._idle: list[Inbox] = []  # of threads with nothing to do; the last to rest is next
        self._overflow: deque[tuple[Group, Sync]] = deque()  # for whichever thread is idle first
        self._task: trio.lowlevel.Task | None = None
        self._asleep = False
        self.latencies = Latencies()  # of syncs, from when they were asked of a thread
        self._began: dict[Group, float] = {}  # the syncs that run, by trio's clock
        self._failure: StorageFailed | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the syncs that are asked for, until cancelled.  Raises StorageFailed."""
        self._token = trio.lowlevel.current_trio_token()
        self._task = trio.lowlevel.current_task()
        inboxes: list[Inbox] = [SimpleQueue() for _ in range(SYNC_THREADS)]
        for inbox in inboxes:
            threading.Thread(target=self._work, args=(inbox,), name="sync", daemon=True).start()
        self._idle = inboxes.copy()
        task_status.started()
        try:
            while True:
                if not self._wanted and self._failure is None:
                    await self._sleep()
                if self._failure is not None:
                    raise self._failure
                # One tick: whoever was woken by the last sync puts again before the next one.
                await trio.lowlevel.cancel_shielded_checkpoint()
                wanted, self._wanted = self._wanted, []
                for group in wanted:
                    self._begin(group)
        finally:
            for inbox in inboxes:
                inbox.put(None)

    @property
    def syncing_s(self) -> float:
        """How many seconds the oldest sync that runs has been running; 0 without one."""
        if not self._began:
            return 0.0
        return trio.current_time() - min(self._began.values())

    async def commit(self, group: Group) -> None:
        """Wait until everything done to the group's queue so far is durable.

        When cancelled, it may become durable all the same.  If the sync fails this never returns:
        `run` raises, and takes the waiters down with it.
        """
        wake = partial(trio.lowlevel.reschedule, trio.lowlevel.current_task())
        self.when_durable(group, wake)

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            (group.waiting if wake in group.waiting else group.covered).remove(wake)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def when_durable(self, group: Group, call: Callable[[], object]) -> None:
        """Have `call` called on the event loop once everything done to the group's queue so far
        is durable: a `commit` without a task.  It is never called when the sync fails.  It may
        raise StorageFailed, which ends the daemon, and nothing else."""
        group.waiting.append(call)
        self.request(group)

    def request(self, group: Group) -> None:
        """Have the queue synced soon, without waiting for it."""
        if group.wanted:
            return
        if group.lone and not group.running:
            self._begin(group)
            return
        group.wanted = True
        if not group.running:
            self._enqueue(group)

    async def settle(self, group: Group) -> None:
        """Wait until no sync of the group's queue is running or wanted."""
        while group.running or group.wanted:
            await self.commit(group)

    def _enqueue(self, group: Group) -> None:
        self._wanted.append(group)
        if self._asleep:
            self._wake()

    def _begin(self, group: Group) -> None:
        assert self._token is not None
        group.wanted, group.running = False, True
        group.covered, group.waiting = group.waiting, []
        group.lone = len(group.covered) <= 1
        sync = group.queue.begin_sync()
        if sync is None:  # not at once: nobody is called before `when_durable` has returned
            self._token.run_sync_soon(self._finish, group)
            return
        self._began[group] = trio.current_time()
        self._overflow.append((group, sync))
        if self._idle:
            self._idle.pop().put(self._overflow.popleft())

    def _done(self, inbox: Inbox, group: Group, sync: Sync, failure: BaseException | None) -> None:
        """A sync has ended; runs on the event loop."""
        if self._overflow:
            inbox.put(self._overflow.popleft())
        else:
            self._idle.append(inbox)
        if isinstance(failure, StorageFailed):
            self._fail(failure)
            return
        if failure is not None:
            raise failure
        self.latencies.observe(trio.current_time() - self._began.pop(group))
        group.queue.finish_sync(sync)
        self._finish(group)

    def _finish(self, group: Group) -> None:
        """What the group has waited for is durable."""
        group.running = False
        if group.wanted:
            self._enqueue(group)
        covered, group.covered = group.covered, []
        try:
            for call in covered:  # it may want the next sync already
                call()
        except StorageFailed as error:
            self._fail(error)

    def _fail(self, failure: StorageFailed) -> None:
        self._failure = failure
        if self._asleep:
            self._wake()

    async def _sleep(self) -> None:
        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._asleep = False
            return trio.lowlevel.Abort.SUCCEEDED

        self._asleep = True
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self) -> None:
        assert self._task is not None
        self._asleep = False
        trio.lowlevel.reschedule(self._task, outcome.Value(None))

    def _work(self, inbox: Inbox) -> None:
        """A sync thread."""
        assert self._token is not None
        while (job := inbox.get()) is not None:
            group, sync = job
            failure = None
            try:
                sync.run()
            except BaseException as error:  # our bug, if it is no StorageFailed: it ends the loop
                failure = error
            try:
                self._token.run_sync_soon(self._done, inbox, group, sync, failure)
            except trio.RunFinishedError:  # the daemon has ended; nobody waits any more
                return
