"""Random damages: a clean verdict is true, a repair ends clean, and loses nothing that a salvage
finds."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fscktree import directory, drain, flip, fsck, make, patch, payload

ROUNDS = int(os.environ.get("FSCK_ROUNDS", "200"))
SEED = int(os.environ.get("FSCK_SEED", "0"))
DIRECTORIES = 20  # different ones, each damaged in many ways
NAMES = (b"a", b"b", b"", b"a b/c", b"n" * 256)

Queues = dict[bytes, tuple[int, int]]  # name -> records, consumed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fsck")


def original(place: Path, number: int) -> tuple[Path, Queues]:
    """An undamaged directory with one to three random queues, and what is in them."""
    rng = random.Random(number)
    queues: Queues = {}
    for name in rng.sample(NAMES, rng.randint(1, 3)):
        count = rng.choice((0, 1, 12, 60, 100))
        queues[name] = count, rng.choice((0, rng.randint(0, count), count))
    root = place / str(number)
    if not root.exists():
        make(root, queues)
    return root, queues


def damage(rng: random.Random, root: Path) -> None:
    files = sorted(path for path in (root / "queues").rglob("*") if path.is_file())
    path = rng.choice(files)
    size = path.stat().st_size
    match rng.randrange(6):
        case 0 | 1 if size:
            flip(path, rng.randrange(size))
        case 2 if size:
            patch(path, rng.randrange(size) & -512, bytes(min(size, 512)))
        case 3:
            os.truncate(path, rng.randrange(size + 1))
        case 4:
            path.unlink()
        case _:
            other = rng.choice(files)
            kept = path.read_bytes()
            path.write_bytes(other.read_bytes())
            other.write_bytes(kept)


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_random_damage(place: Path, tmp_path: Path, capsys: Any, seed: int) -> None:
    rng = random.Random(seed)
    root, saved = tmp_path / "data", tmp_path / "saved"
    whole, queues = original(place, seed % DIRECTORIES)
    shutil.copytree(whole, root)
    for _ in range(rng.randint(1, 3)):
        damage(rng, root)
    status, _ = fsck(capsys, root)
    assert status in (0, 4)
    if status == 4:
        assert fsck(capsys, "--salvage", saved, root)[0] in (0, 4)
        mended, _ = fsck(capsys, "--repair", "-y", root)
        assert mended == 1
        status, rows = fsck(capsys, "--thorough", root)
        assert status == 0, rows
    for name, (count, consumed) in queues.items():
        if not directory(root, name).exists():
            continue
        found = drain(root, name)
        written = {n: payload(name, n) for n in range(1, count + 1)}
        assert found.items() <= written.items()
        if saved.exists():
            assert drain(saved, name).items() <= found.items()
        else:
            assert sorted(found) == list(range(consumed + 1, count + 1))
