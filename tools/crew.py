"""All clients of one daemon, their processes and journals, and the ledgers of its queues."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from pathlib import Path

from tools.batches import consume_batches, produce_batches
from tools.clients import TIMEOUT_S, Load, consume, produce
from tools.jobs import JobLedger
from tools.ledger import Ledger, Outbox
from tools.workers import work

# A server process is forked once, early and without threads, and forks the clients: 5 ms each.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tools.batches", "tools.workers"])


JOIN_S = 1800.0  # for a client to end: it may have millions to drain, and has its own time-outs
JOBS = "jobs"  # the queue that is leased from


@dataclass
class Crew:
    """Clients of one daemon, their journals in `directory`, and the ledgers of their queues.

    Producer and consumer i work on queue i modulo the number of queues, on every second one by
    batches; each of the `workers` leases from the queue JOBS, to which as many more producers put.
    """

    directory: Path
    queues: Sequence[str]
    producers: int
    consumers: int
    workers: int = 0
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    jobs: JobLedger = field(default_factory=JobLedger)
    _working: list[BaseProcess] = field(default_factory=list)
    _busy: Semaphore = field(default_factory=lambda: _CONTEXT.Semaphore(0))
    _producing: dict[str, dict[int, Path]] = field(default_factory=dict)
    _taking: dict[str, list[Path]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledgers = {queue: Ledger() for queue in self.queues}

    @property
    def all_queues(self) -> list[str]:
        """The queues, that of the workers included."""
        return [*self.queues, *([JOBS] if self.workers else [])]

    def start(self, port: int, load: Load, *, consume_only: bool = False) -> None:
        """Start every client, and wait until each has had its first answers; `consume_only`
        starts consumers and workers alone, until all queues are empty."""
        self._producing = {queue: {} for queue in self.all_queues}
        self._taking = {queue: [] for queue in self.all_queues}
        for i in range(0 if consume_only else self.producers + self.workers):
            queue = self.queues[i % len(self.queues)] if i < self.producers else JOBS
            path = self._producing[queue][i] = self.directory / f"producer-{i}"
            run = produce_batches if self._in_batches(queue) else produce
            self._start(run, port, queue, i, self._outbox(queue).next_of(i), path, load)
        for i in range(max(self.consumers, len(self.queues))):
            queue = self.queues[i % len(self.queues)]
            drain = consume_only or self._in_batches(queue)
            take = consume_batches if drain else consume
            self._take(take, port, queue, f"consumer-{i}", load, consume_only)
        for i in range(self.workers):
            self._take(work, port, JOBS, f"worker-{i}", load, consume_only)
        for _ in self._working:  # so that a slow machine has its share of work done, too
            assert self._busy.acquire(timeout=TIMEOUT_S), "a client does not get to work"

    def _in_batches(self, queue: str) -> bool:
        return queue in self.queues[1::2]

    def _outbox(self, queue: str) -> Outbox:
        return (self.jobs if queue == JOBS else self.ledgers[queue]).outbox

    def _take(
        self, run: Callable[..., None], port: int, queue: str, name: str, load: Load, drain: bool
    ) -> None:
        path = self.directory / name
        self._taking[queue].append(path)
        self._start(run, port, queue, path, load, drain)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        process = _CONTEXT.Process(target=run, args=(self._busy, *arguments))
        process.start()
        self._working.append(process)

    def join(self) -> None:
        """Wait until the clients have noticed that the daemon is gone."""
        for process in self._working:
            process.join(JOIN_S)
            assert process.exitcode == 0, f"a client ended with {process.exitcode}"
        self._working.clear()

    def join_producers(self) -> None:
        """Wait until the producers have put all that their load allows."""
        for process in self._working[: self.producers + self.workers]:
            process.join(TIMEOUT_S)
            assert process.exitcode == 0, f"a producer ended with {process.exitcode}"

    def finish(self, *, crashed: bool) -> None:
        """Wait for the clients, and take their journals in.

        Raises Broken when the daemon has broken a promise.
        """
        self.join()
        for queue, paths in self._producing.items():
            producers = {i: _lines(path) for i, path in paths.items()}
            takers = [_lines(path) for path in self._taking[queue]]
            if queue == JOBS:
                self.jobs.absorb(producers, takers)
            else:
                self.ledgers[queue].absorb(producers, takers, crashed=crashed)
        self._producing.clear()
        self._taking.clear()

    def settle(self) -> None:
        """The queues have just been drained: nothing may be missing.  Raises Broken."""
        for ledger in self.ledgers.values():
            ledger.finish()
        self.jobs.finish()

    def account(self) -> str:
        """What the ledgers count."""
        ledgers = self.ledgers.values()
        put = sum(each.outbox.acknowledged for each in ledgers) + self.jobs.outbox.acknowledged
        jobs = f", {self.jobs.delivered} leased and {self.jobs.settled} settled"
        return (
            f"{put} acknowledged, "
            f"{sum(each.delivered for each in ledgers)} delivered"
            f"{jobs if self.workers else ''}, "
            f"{sum(each.awaited for each in ledgers) + self.jobs.awaited} waiting, "
            f"{sum(each.taken_unseen for each in ledgers)} taken by a get that died with the daemon"
        )

    @property
    def refused(self) -> int:
        """How many requests were refused."""
        return sum(each.refused for each in self.ledgers.values()) + self.jobs.refused


def _lines(path: Path) -> list[str]:
    return path.read_text("ascii").splitlines() if path.exists() else []
