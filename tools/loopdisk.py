"""A small ext4 file system of its own, in a file: to be filled up, and to lose its power.

A power cut is the file system's shutdown ioctl without a log flush: from that moment nothing more
reaches the medium, whatever the page cache still holds is lost with the unmount, and the next
mount replays the journal as after a real cut.  Needs root and loop devices.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = struct.pack("I", 2)
SYNC_FILE_RANGE_ALL = 7  # wait for what is under way, start, wait
PAGE = 4096

# Files that are allocated, but not written yet, read as zeros after a cut whatever the daemon
# does.  Without extents ext4 writes the zeros, and the daemon appends to pages that can be lost.
EXTENTS = ()
PREWRITTEN = ("-O", "^extent,^64bit,^metadata_csum")

_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Why there can be no loop disk here; empty when there can."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/loop-control"):
        return "needs loop devices"
    wanted = [each for each in ("mkfs.ext4", "mount", "umount") if shutil.which(each) is None]
    return f"needs {', '.join(wanted)}" if wanted else ""


class LoopDisk:
    """An ext4 of `size` bytes, mounted at `point` within a `with` block."""

    def __init__(self, image: Path, point: Path, size: int, features: tuple[str, ...] = EXTENTS):
        self.point = point
        self._image = image
        with image.open("wb") as file:
            file.truncate(size)
        _run("mkfs.ext4", "-q", "-F", "-b", str(PAGE), "-m", "0", *features, str(image))

    def __enter__(self) -> LoopDisk:
        self.point.mkdir(exist_ok=True)
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        if self.point.is_mount():
            _run("umount", "--lazy", str(self.point))  # whatever may still be open there
        self._image.unlink()

    def mount(self, *options: str) -> None:
        """Mount it; the loop device goes away with the unmount."""
        _run("mount", "-o", ",".join(("loop", *options)), str(self._image), str(self.point))

    def unmount(self) -> None:
        """Unmount it.  Nobody may have a file open there."""
        _run("umount", str(self.point))

    def cut(self) -> None:
        """Take the power away: what has not been written stays unwritten."""
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def write_back(self, chance: random.Random, pages: int) -> None:
        """Have the kernel write some dirty pages early, in any order, as it may at any time."""
        files = [each for each in self.point.rglob("*") if each.suffix == ".log"]
        files += self.point.rglob("cursor")
        for path in chance.choices(files, k=pages if files else 0):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # consumed, and deleted meanwhile
            try:
                count = max(1, os.fstat(descriptor).st_size // PAGE)
                offset = chance.randrange(count) * PAGE
                _libc.sync_file_range(
                    descriptor,
                    ctypes.c_int64(offset),
                    ctypes.c_int64(PAGE),
                    ctypes.c_uint(SYNC_FILE_RANGE_ALL),
                )
            finally:
                os.close(descriptor)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
