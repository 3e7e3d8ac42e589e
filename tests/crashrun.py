"""The long run of the simulated crashes, on all cores: `make crash`, or `python -m tests.crashrun`.

Worlds of CUTS cuts each, of three kinds in turn: one queue, leases with dead letters, batches.
Every third or fourth world is under a weaker durability.  One kind and seed is one world.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from multiprocessing import Pool

from tests import crashbatches, crashleases, crashsweep

CUTS = crashsweep.CUTS_PER_WORLD
AT_ONCE = 60  # worlds between two looks at the clock

KINDS: dict[str, Callable[[int], None]] = {
    "queue": lambda seed: crashsweep.chain(seed, CUTS, committed_reads=seed % 3 != 0),
    "leases": lambda seed: crashleases.chain(seed, CUTS),
    "batches": crashbatches.chain,  # of as many
}

World = tuple[str, int]  # kind and seed


def live(world: World) -> str:
    """Go through one world; its kind.  Raises what breaks a promise, and says how to see it."""
    kind, seed = world
    try:
        KINDS[kind](seed)
    except Exception as error:
        raise AssertionError(
            f"{error!r}; reproduce with: make crash KIND={kind} SEED={seed} CUTS={CUTS}"
        ) from error
    return kind


def worlds(kinds: list[str], seed: int) -> Iterator[World]:
    """Each kind in turn, from this seed on."""
    for own in count(seed):
        yield from ((kind, own) for kind in kinds)


def run(kinds: list[str], seed: int, cuts: int, until: float, report: Callable[[str], None]) -> int:
    """So many cuts, or those before `until` (monotonic); how many there were."""
    done, coming = 0, worlds(kinds, seed)
    with Pool() as pool:
        while done < cuts and time.monotonic() < until:
            left = min(AT_ONCE, math.ceil((cuts - done) / CUTS))
            for _ in pool.imap_unordered(live, islice(coming, left)):
                done += CUTS
            report(f"{done} cuts")
    return done


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashrun", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--kind", choices=list(KINDS), help="one kind of world only")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no world later")
    parser.add_argument(
        "--cuts",
        type=int,
        default=200_000,
        help="random cuts (default 200000); 0 dies at every operation of a fixed script instead",
    )
    given = parser.parse_args()
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)

    if given.cuts:
        kinds = [given.kind] if given.kind else list(KINDS)
        cuts = run(kinds, given.seed, given.cuts, began + given.minutes * 60, report)
    else:
        cuts = sum(crashsweep.every_operation(given.seed, committed_reads=x) for x in (True, False))
    report(
        f"{cuts} cuts from seed {given.seed}: "
        "nothing lost, altered, reordered or back from the dead, and no false alarm"
    )


if __name__ == "__main__":
    main()
