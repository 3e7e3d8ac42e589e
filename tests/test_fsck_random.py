"""Random damages: a clean verdict is true, a repair ends clean, and loses nothing that a salvage
finds."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fscktree import drain, flip, fsck, make, patch, payload

ROUNDS = int(os.environ.get("FSCK_ROUNDS", "200"))
SEED = int(os.environ.get("FSCK_SEED", "0"))
NAMES = {b"a": (60, 7), b"b": (12, 12)}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fsck") / "data"
    make(root, NAMES)
    return root


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
def test_random_damage(original: Path, tmp_path: Path, capsys: Any, seed: int) -> None:
    rng = random.Random(seed)
    root, saved = tmp_path / "data", tmp_path / "saved"
    shutil.copytree(original, root)
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
    for name, (count, consumed) in NAMES.items():
        if not (root / "queues" / name.decode()).exists():
            continue
        found = drain(root, name)
        written = {n: payload(name, n) for n in range(1, count + 1)}
        assert found.items() <= written.items()
        if saved.exists():
            assert drain(saved, name).items() <= found.items()
        else:
            assert sorted(found) == list(range(consumed + 1, count + 1))
