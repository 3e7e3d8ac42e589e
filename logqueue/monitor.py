"""What the daemon tells about itself: health, metrics, and the list of its queues.

Puts and gets are not counted: the sequences on disk are the counters, so a scrape costs and the
hot path does not.  Series are bounded: METRIC_QUEUES_MAX queues have series of their own, as long
as they exist; all others are added up in one without a name.
"""

from __future__ import annotations

import heapq
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from logqueue import __version__
from logqueue.administration import Administration
from logqueue.config import Config
from logqueue.latency import Latencies
from logqueue.local import Sight
from logqueue.notify import notify
from logqueue.web.httpsqs import Dialect
from logqueue.web.message import Response
from logqueue.web.pages import Pages, page
from logqueue.web.shared import Traffic

METRIC_QUEUES_MAX = 500
OTHERS = ""  # the label of all the other queues; the queue with the empty name is shown as %00
SIGHT_BATCH = 32  # queues looked at before others get their turn
METRICS_AGE_S = 1.0  # a scrape is answered again for so long: it costs milliseconds
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
HUNG_S = 30.0  # a sync that runs for so long is a disk that hangs: starve the watchdog
TURN_S = 0.5  # between two looks at how late the event loop is

_hidden = re.compile("[\udc80-\udcff\x00-\x1f\x7f%]")


class Numbers(NamedTuple):
    """What is known of one queue, or of several added up."""

    unread: int = 0
    put: int = 0
    taken: int = 0
    segments: int = 0
    live: int = 0
    consumed: int = 0
    retained: int = 0
    damaged: int = 0

    @classmethod
    def of(cls, sight: Sight) -> Numbers:
        """The numbers of one queue."""
        unread = sight.positions.unread
        taken = max(0, sight.last - unread)
        damaged = int(sight.is_damaged)
        return cls(unread, sight.last, taken, sight.segments, *sight.usage, damaged)

    def plus(self, other: Numbers) -> Numbers:
        """Both added up."""
        return Numbers(*(a + b for a, b in zip(self, other, strict=True)))


class Monitor:
    """The pages of one daemon.  `run` watches the event loop for them."""

    def __init__(
        self, queues: Administration, config: Config, is_draining: Callable[[], bool]
    ) -> None:
        self.traffic = Traffic()
        self.dialect: Dialect | None = None  # whose failures are counted
        self.lags = Latencies()  # of the event loop
        self._queues = queues
        self._config = config
        self._is_draining = is_draining
        self._labelled: set[bytes] = set()
        self._numbers: dict[str, Numbers] = {}
        self._scraping = trio.Lock()
        self._count = self._damaged = self._free = 0
        self._syncing_s = 0.0
        self._scraped = b""
        self._scraped_at = float("-inf")
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    @property
    def pages(self) -> Pages:
        """For the dialect."""
        return Pages(
            {b"/healthz": self._healthz, b"/readyz": self._readyz},
            {b"/metrics": self._metrics},
            self._list_queues,
        )

    async def run(self) -> None:
        """Measure how late the event loop is, and feed systemd's watchdog, until cancelled."""
        while True:
            due = trio.current_time() + TURN_S
            await trio.sleep_until(due)
            self.lags.observe(trio.current_time() - due)
            if self._queues.syncing_s < HUNG_S:
                notify("WATCHDOG=1")

    # ------------------------------------------------------------ health

    async def _healthz(self) -> Response:
        return page(200, b"text/plain", b"ok\n")

    async def _readyz(self) -> Response:
        reasons = await self.complaints()
        text = "".join(f"{reason}\n" for reason in reasons) or "ok\n"
        return page(503 if reasons else 200, b"text/plain", text.encode())

    async def complaints(self) -> list[str]:
        """Why no new work should come here; none when it may.  Names no queue: everybody may
        ask."""
        found = []
        if self._is_draining():
            found.append("draining: the daemon is about to end")
        free = await trio.to_thread.run_sync(self._free_bytes)
        if free <= self._config.disk_reserve_bytes:
            found.append("disk: no space above the reserve (--reserve-bytes)")
        damaged = self._queues.damaged()
        if damaged:
            found.append(f"queues: {damaged} damaged, see the log")
        return found

    def _free_bytes(self) -> int:
        facts = os.statvfs(self._config.data_directory)
        return facts.f_bavail * facts.f_frsize

    # ------------------------------------------------------------ queues

    async def _list_queues(self, after: bytes | None, limit: int) -> bytes:
        """JSON: `queues` in byte order of their names, and `next`, to be given as `after`, when
        there are more.  Names are percent-encoded, ready for a URL."""
        names = (name for name in self._queues.names() if after is None or name > after)
        found = heapq.nsmallest(limit + 1, names)
        rows = []
        for name in found[:limit]:
            await trio.lowlevel.checkpoint()
            sight = self._queues.sight(name)
            if sight is not None:
                numbers = Numbers.of(sight)
                row = {"name": quote(name, safe=""), **sight.positions._asdict()}
                rows.append(
                    row
                    | {"bytes": numbers.live + numbers.consumed + numbers.retained}
                    | {"bytes_consumed": numbers.consumed, "bytes_retained": numbers.retained}
                    | {"segments": numbers.segments, "damaged": sight.is_damaged}
                )
        more = quote(found[limit - 1], safe="") if len(found) > limit else None
        return json.dumps({"queues": rows, "next": more}).encode() + b"\n"

    # ------------------------------------------------------------ metrics

    async def _metrics(self) -> Response:
        async with self._scraping:
            if trio.current_time() - self._scraped_at >= METRICS_AGE_S:
                await self._look_at_queues()
                self._free = await trio.to_thread.run_sync(self._free_bytes)
                self._scraped = await trio.to_thread.run_sync(generate_latest, self._registry)
                self._scraped_at = trio.current_time()
        return page(200, METRICS_TYPE, self._scraped)

    async def _look_at_queues(self) -> None:
        names = self._queues.names()
        self._labelled.intersection_update(names)
        numbers: dict[str, Numbers] = {}
        for at, name in enumerate(names):
            if at % SIGHT_BATCH == 0:
                await trio.lowlevel.checkpoint()
            sight = self._queues.sight(name)
            if sight is None:
                continue
            if len(self._labelled) < METRIC_QUEUES_MAX:
                self._labelled.add(name)
            label = shown(name) if name in self._labelled else OTHERS
            numbers[label] = numbers.get(label, Numbers()).plus(Numbers.of(sight))
        self._numbers = numbers
        self._count, self._damaged = len(names), self._queues.damaged()
        self._syncing_s = self._queues.syncing_s

    def describe(self) -> list[Metric]:
        """None in advance: the registry would collect before there is anything."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics, for the registry.  Runs in a thread; reads plain numbers alone."""
        yield from self._of_queues()
        yield from self._of_storage()
        yield from self._of_server()

    def _of_queues(self) -> Iterator[Metric]:
        labels = ["queue"]
        depth = GaugeMetricFamily("logqueue_queue_depth", "Messages not consumed", labels=labels)
        put = CounterMetricFamily("logqueue_queue_put", "Messages ever put", labels=labels)
        taken = CounterMetricFamily(
            "logqueue_queue_consumed", "Messages got, reset or purged", labels=labels
        )
        segments = GaugeMetricFamily("logqueue_queue_segments", "Segment files", labels=labels)
        damaged = GaugeMetricFamily(
            "logqueue_queue_damaged", "Queues that answer errors", labels=labels
        )
        size = GaugeMetricFamily(
            "logqueue_queue_bytes", "Disk space by state", labels=["queue", "state"]
        )
        for label, numbers in self._numbers.items():
            for family, value in (
                (depth, numbers.unread),
                (put, numbers.put),
                (taken, numbers.taken),
                (segments, numbers.segments),
                (damaged, numbers.damaged),
            ):
                family.add_metric([label], value)
            for state in ("live", "consumed", "retained"):
                size.add_metric([label, state], getattr(numbers, state))
        yield from (depth, put, taken, segments, damaged, size)

    def _of_storage(self) -> Iterator[Metric]:
        queues, recovery = self._queues, self._queues.recovery
        yield GaugeMetricFamily("logqueue_queues", "Queues that exist", self._count)
        yield GaugeMetricFamily("logqueue_queues_open", "Queues held open", queues.open_count)
        yield GaugeMetricFamily("logqueue_queues_damaged", "Damaged queues", self._damaged)
        yield GaugeMetricFamily(
            "logqueue_long_polls", "Consumers that wait for a message", queues.waiting
        )
        yield GaugeMetricFamily("logqueue_disk_free_bytes", "Of the file system", self._free)
        reserve = self._config.disk_reserve_bytes
        yield GaugeMetricFamily("logqueue_disk_reserve_bytes", "Puts stop there", reserve)
        yield _histogram("logqueue_sync_seconds", "Syncs to disk", queues.sync_latencies)
        yield GaugeMetricFamily(
            "logqueue_syncing_seconds", "Age of the oldest sync that runs", self._syncing_s
        )
        yield GaugeMetricFamily(
            "logqueue_recovery_seconds", "What the start took", recovery.seconds
        )
        yield GaugeMetricFamily(
            "logqueue_recovery_notes", "What the start tidied up, see the log", recovery.notes
        )

    def _of_server(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("logqueue_build_info", "Version", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        count = len(self.traffic.connections)
        yield GaugeMetricFamily("logqueue_connections", "Connections that are open", count)
        refused = CounterMetricFamily(
            "logqueue_http_refused", "Requests refused, by HTTP status", labels=["status"]
        )
        for status, count in sorted(self.traffic.refused.copy().items()):
            refused.add_metric([str(status)], count)
        yield refused
        yield _histogram("logqueue_loop_lag_seconds", "How late the event loop is", self.lags)
        if self.dialect is None:
            return
        failures = CounterMetricFamily(
            "logqueue_operation_errors", "Operations that the storage refused", labels=["opt"]
        )
        for operation, count in sorted(self.dialect.failures.copy().items()):
            failures.add_metric([operation.decode()], count)
        yield failures
        yield CounterMetricFamily(
            "logqueue_auth_failures",
            "Requests without the password",
            self.dialect.patience.failures,
        )


def shown(name: bytes) -> str:
    """A queue's name for people: UTF-8, with `%XX` for what is not, for controls and for `%`.

    No two names are shown alike.
    """
    text = name.decode("utf-8", "surrogateescape")
    return _hidden.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", text) or "%00"


def _histogram(name: str, text: str, latencies: Latencies) -> Metric:
    buckets = [
        ("+Inf" if bound == float("inf") else str(bound), float(count))
        for bound, count in latencies.buckets()
    ]
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=latencies.sum_s)
