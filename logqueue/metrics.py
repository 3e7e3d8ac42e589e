"""Metrics in the text format of Prometheus.  docs/operating.md says what each is good for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from logqueue import __version__
from logqueue.administration import Administration
from logqueue.census import Census
from logqueue.latency import Latencies
from logqueue.web.failures import Failures
from logqueue.web.shared import Traffic

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Sources(NamedTuple):
    """Where the numbers come from."""

    queues: Administration
    census: Census
    traffic: Traffic
    failures: Failures
    lags: Latencies  # of the event loop
    reserve_bytes: int


class Metrics:
    """A collector.  What only a look can tell is set before `exposition`."""

    def __init__(self, sources: Sources) -> None:
        self.free_bytes = 0
        self.syncing_s = 0.0
        self.auth_failures = 0
        self._from = sources
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """All metrics.  Takes milliseconds; for any thread, it reads plain numbers alone."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """None in advance: the registry would collect before there is anything."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics, for the registry."""
        yield from self._of_queues()
        yield from self._of_storage()
        yield from self._of_server()

    def _of_queues(self) -> Iterator[Metric]:
        census = self._from.census
        numbers = census.numbers
        for kind, name, text, values in (
            (
                GaugeMetricFamily,
                "depth",
                "Messages not consumed",
                {label: each.unread for label, each in numbers.items()},
            ),
            (
                CounterMetricFamily,
                "put",
                "Messages ever put",
                {label: each.put for label, each in numbers.items()},
            ),
            (
                CounterMetricFamily,
                "consumed",
                "Messages got, acknowledged, expired, reset or purged",
                {label: each.taken for label, each in numbers.items()},
            ),
            (
                GaugeMetricFamily,
                "segments",
                "Segment files",
                {label: each.segments for label, each in numbers.items()},
            ),
            (
                GaugeMetricFamily,
                "damaged",
                "Queues that answer errors",
                {label: each.damaged for label, each in numbers.items()},
            ),
            (
                GaugeMetricFamily,
                "oldest_age_seconds",
                "Age of the oldest message that is not consumed",
                census.ages_s,
            ),
            (CounterMetricFamily, "errors", "Operations that the storage refused", census.errors),
        ):
            family = kind(f"logqueue_queue_{name}", text, labels=["queue"])
            for label, value in values.items():
                family.add_metric([label], value)
            yield family
        size = GaugeMetricFamily(
            "logqueue_queue_bytes", "Disk space by state", labels=["queue", "state"]
        )
        for label, each in numbers.items():
            for state in ("live", "consumed", "retained"):
                size.add_metric([label, state], getattr(each, state))
        yield size

    def _of_storage(self) -> Iterator[Metric]:
        queues, census = self._from.queues, self._from.census
        for name, text, value in (
            ("queues", "Queues that exist", census.count),
            ("queues_open", "Queues held open", queues.open_count),
            ("queues_damaged", "Damaged queues", census.damaged),
            ("long_polls", "Consumers that wait for a message", queues.waiting),
            ("disk_free_bytes", "Of the file system", self.free_bytes),
            ("disk_reserve_bytes", "Puts stop there", self._from.reserve_bytes),
            ("syncing_seconds", "Age of the oldest sync that runs", self.syncing_s),
            ("recovery_seconds", "What the start took", queues.recovery.seconds),
            ("recovery_notes", "What the start tidied up, see the log", queues.recovery.notes),
        ):
            yield GaugeMetricFamily(f"logqueue_{name}", text, value)
        yield _histogram("logqueue_sync_seconds", "Syncs to disk", queues.sync_latencies)

    def _of_server(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("logqueue_build_info", "Version", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        traffic = self._from.traffic
        count = len(traffic.connections)
        yield GaugeMetricFamily("logqueue_connections", "Connections that are open", count)
        refused = CounterMetricFamily(
            "logqueue_http_refused", "Requests refused, by HTTP status", labels=["status"]
        )
        for status, count in sorted(traffic.refused.copy().items()):
            refused.add_metric([str(status)], count)
        yield refused
        yield _histogram("logqueue_loop_lag_seconds", "How late the event loop is", self._from.lags)
        failures = CounterMetricFamily(
            "logqueue_operation_errors", "Operations that the storage refused", labels=["opt"]
        )
        for operation, count in sorted(self._from.failures.by_operation.copy().items()):
            failures.add_metric([operation.decode()], count)
        yield failures
        yield CounterMetricFamily(
            "logqueue_auth_failures", "Requests without the password", self.auth_failures
        )


def _histogram(name: str, text: str, latencies: Latencies) -> Metric:
    buckets = [
        ("+Inf" if bound == float("inf") else str(bound), float(count))
        for bound, count in latencies.buckets()
    ]
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=latencies.sum_s)
