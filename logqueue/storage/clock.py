"""The two clocks of the storage: the wall clock for timestamps, a steady one for deadlines."""

from __future__ import annotations

import time


def clock_ms() -> int:
    """Wall-clock milliseconds since the epoch.  Nothing but timestamps depends on it."""
    return max(0, time.time_ns() // 1_000_000)  # a clock may be set before the epoch


_BOOT_MS = clock_ms() - time.monotonic_ns() // 1_000_000


def steady_ms() -> int:
    """Milliseconds since the epoch by a clock that nobody sets while the process runs."""
    return _BOOT_MS + time.monotonic_ns() // 1_000_000
