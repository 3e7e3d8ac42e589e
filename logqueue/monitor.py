"""What the daemon tells about itself: health, the list of its queues, and its metrics as a page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from urllib.parse import quote

import trio

from logqueue.administration import Administration
from logqueue.census import Census, Numbers
from logqueue.config import Config
from logqueue.latency import Latencies
from logqueue.metrics import CONTENT_TYPE, Metrics, Sources
from logqueue.notify import notify
from logqueue.web.failures import Failures
from logqueue.web.httpsqs import Dialect
from logqueue.web.message import Response
from logqueue.web.pages import Pages, page
from logqueue.web.shared import Traffic

HUNG_S = 30.0  # a sync that runs for so long is a disk that hangs: starve the watchdog
METRICS_AGE_S = 1.0  # a scrape is answered again for so long: it costs milliseconds
TURN_S = 0.5  # between two looks at how late the event loop is


class Monitor:
    """The pages of one daemon.  `run` watches the event loop for them."""

    def __init__(
        self, queues: Administration, config: Config, is_draining: Callable[[], bool]
    ) -> None:
        self.traffic = Traffic()
        self.failures = Failures()
        self.dialect: Dialect | None = None  # whose failures with passwords are counted
        self.lags = Latencies()  # of the event loop
        self._queues = queues
        self._config = config
        self._is_draining = is_draining
        self._census = Census(queues, self.failures)
        self._metrics = Metrics(
            Sources(
                queues,
                self._census,
                self.traffic,
                self.failures,
                self.lags,
                config.disk_reserve_bytes,
            )
        )
        self._scraping = trio.Lock()
        self._scraped = b""
        self._scraped_at = float("-inf")

    @property
    def pages(self) -> Pages:
        """For the dialect."""
        return Pages(
            {b"/healthz": self._healthz, b"/readyz": self._readyz},
            {b"/metrics": self._show_metrics},
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
        if await trio.to_thread.run_sync(self.free_bytes) <= self._config.disk_reserve_bytes:
            found.append("disk: no space above the reserve (--reserve-bytes)")
        damaged = self._queues.damaged()
        if damaged:
            found.append(f"queues: {damaged} damaged, see the log")
        return found

    def free_bytes(self) -> int:
        """Of the file system that the queues are on.  Blocks."""
        facts = os.statvfs(self._config.data_directory)
        return facts.f_bavail * facts.f_frsize

    # ------------------------------------------------------------ queues

    async def _list_queues(self, after: bytes | None, limit: int) -> bytes:
        """JSON: `queues` in byte order of their names, and `next`, to be given as `after`, when
        there are more.  Names are percent-encoded, ready for a URL."""
        names, more = self._queues.names_after(after, limit)
        rows = []
        for name in names:
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
        behind = None if more is None else quote(more, safe="")
        return json.dumps({"queues": rows, "next": behind}).encode() + b"\n"

    # ------------------------------------------------------------ metrics

    async def _show_metrics(self) -> Response:
        async with self._scraping:
            if trio.current_time() - self._scraped_at >= METRICS_AGE_S:
                await self._census.look()
                metrics = self._metrics
                metrics.free_bytes = await trio.to_thread.run_sync(self.free_bytes)
                metrics.syncing_s = self._queues.syncing_s
                if self.dialect is not None:
                    metrics.auth_failures = self.dialect.patience.failures
                self._scraped = await trio.to_thread.run_sync(metrics.exposition)
                self._scraped_at = trio.current_time()
        return page(200, CONTENT_TYPE, self._scraped)
