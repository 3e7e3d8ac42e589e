"""How evenly the daemon's event loop ticks under load: the daemon itself, with a metronome beside.

`python tools/bench_ticks.py [logqueued options]` serves until SIGTERM, then prints the gaps as
JSON.  The metronome is one more task in the daemon's loop; a gap is the time between two of its
ticks, less the pause it asked for: what a request would have waited for its turn.
"""

from __future__ import annotations

import json
import sys
import time

import trio

from logqueue import arguments, daemon

TICK_S = 0.001


async def metronome(gaps_s: list[float]) -> None:
    """Note every gap, until cancelled."""
    before = time.perf_counter()
    while True:
        await trio.sleep(TICK_S)
        now = time.perf_counter()
        gaps_s.append(max(0.0, now - before - TICK_S))
        before = now


async def _serve(argv: list[str], gaps_s: list[float]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(metronome, gaps_s)
        config = arguments.parse(argv)
        await daemon.run(config, lambda: None, lambda: config)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Serve, then report."""
    gaps_s: list[float] = []
    trio.run(_serve, sys.argv[1:], gaps_s, restrict_keyboard_interrupt_to_checkpoints=True)
    gaps_s.sort()
    count = len(gaps_s)
    quantiles = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
    found = {key: gaps_s[min(count - 1, int(count * q))] * 1e3 for key, q in quantiles.items()}
    print(json.dumps({"ticks": count, **found}), flush=True)


if __name__ == "__main__":
    main()
