"""Crashes at every operation, and chains of random crashes; `tests.crashrun` is the long run.

`every_operation` counts the changes that a fixed script makes to the disk, then dies at each of
them, before, within and after it, and recovers; dies at every change that such a recovery makes,
recovers again, and now and then dies in that one too.  `chains` lives through crash after crash
at random places of a random workload, so that what one crash left meets the next.

One seed is one run.  A failure says which.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import get_args
from unittest.mock import patch

from tests.crashextent import Died, How
from tests.crashfile import Mood
from tests.crashsteps import Workload

CUTS_PER_WORLD = 20
RECOVERY_CHANGES = 12  # about as many as a recovery makes
MOODS: tuple[Mood, ...] = get_args(Mood)
HOWS: tuple[How, ...] = get_args(How)

SCRIPT = (
    "start put put_some sync get sync_under_load checkpoint put get roll put_some "
    "sync_under_load get_some compact put_typed maxqueue put sync configure restart put_some roll "
    "put sync drain compact shrink put_some sync get_some compact_under_load reset put_some put "
    "sync_under_load get_some sync put_some purge put get sync close"
)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Salts and queue ids from the seed: then one seed is one run, byte for byte."""
    random = Random(seed)
    with (
        patch.object(secrets, "randbits", random.getrandbits),
        patch.object(secrets, "token_bytes", random.randbytes),
    ):
        yield


@contextmanager
def _reproduced_by(command: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"reproduce with: {command}")
        raise


def die(world: Workload, at: int, how: How, life: Callable[[], None]) -> bool:
    """Live until the change number `at` from now; whether it came to that."""
    world.disk.die_at, world.disk.how = world.disk.operations + at, how
    try:
        life()
    except Died:
        return True
    world.disk.die_at = 0
    return False


def crash(world: Workload, random: Random) -> None:
    """kill -9 or a power cut; the one after the other happens when this comes twice."""
    if random.random() < 0.4:
        world.kill()
    else:
        world.cut_power(random.choice((*MOODS, "mixed", "mixed")))


def chain(seed: int, cuts: int, *, committed_reads: bool) -> None:
    """`cuts` crashes in a row in one world, wherever the workload or recovery happens to be."""
    with seeded(seed):
        world, random = Workload(seed, committed_reads=committed_reads), Random(seed)

        def live() -> None:
            if world.store is None:
                world.start()
            while True:
                world.step()

        for _ in range(cuts):
            at = 1 + int(random.expovariate(1 / random.choice((4, 30))))
            die(world, at, random.choice(HOWS), live)
            crash(world, random)
        world.start()
        world.drain()
        world.restart()
        world.close()


def chains(seed: int, cuts: int) -> None:
    """Worlds of CUTS_PER_WORLD cuts each, `cuts` in all; every third is under a weaker mode."""
    for start in range(0, cuts, CUTS_PER_WORLD):
        own = seed + start // CUTS_PER_WORLD
        with _reproduced_by(f"make crash KIND=queue SEED={own} CUTS={CUTS_PER_WORLD}"):
            chain(own, CUTS_PER_WORLD, committed_reads=own % 3 != 0)


def every_operation(seed: int, *, committed_reads: bool, stride: int = 1) -> int:
    """Crash at every change of the script, and at every change of the recoveries from every
    `stride`th of these crashes; the number of cuts."""
    cuts = 0
    for how in HOWS:
        for at in count(1):
            with _reproduced_by(f"make crash SEED={seed} CUTS=0, at change {at}, {how}"):
                world = _survivor(seed, at, how, committed_reads=committed_reads)
                if world is None:
                    break
                _prove(world)
                cuts += 1
                # To die after one change is to die before the next.
                if how == "before" and at % stride == 0:
                    cuts += _every_recovery(seed, at, committed_reads=committed_reads)
    return cuts


def _every_recovery(seed: int, at: int, *, committed_reads: bool) -> int:
    """Crash at change `at` of the script, then at every change of the recovery."""
    random = Random(seed * 1000 + at)
    cuts, within = 0, 1
    while True:
        world = _survivor(seed, at, "before", committed_reads=committed_reads)
        assert world is not None
        if not die(world, within, random.choice(HOWS), world.start):
            return cuts
        crash(world, random)
        cuts, within = cuts + 2, within + 1
        third = random.randrange(1, 2 * RECOVERY_CHANGES)
        if die(world, third, random.choice(HOWS), world.start):
            crash(world, random)
            cuts += 1
        else:
            world.close()
        _prove(world)


def _survivor(seed: int, at: int, how: How, *, committed_reads: bool) -> Workload | None:
    """The script's world after a crash at change `at`; None when the script ends before."""
    with seeded(seed):
        world = Workload(seed, committed_reads=committed_reads, segment_bytes_max=256 << 10)

        def script() -> None:
            for step in SCRIPT.split():
                world.do(step)

        if not die(world, at, how, script):
            return None
        crash(world, Random(seed * 1000 + at))
        return world


def _prove(world: Workload) -> None:
    """Recover, work, close, and recover once more."""
    world.start()
    for step in ["put", "sync", "get", "restart", "close"]:
        world.do(step)
