"""The lock file of a data directory: flock, because a POSIX lock goes with any descriptor of it."""

from __future__ import annotations

import contextlib
import fcntl
import os

from logqueue.errors import Locked


class FileLock:
    """A held lock file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: str, descriptor: int, *, shared: bool) -> FileLock:
        """Lock the open file `path`, which is the lock's from then on.  Raises Locked."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).strip().decode("ascii", "replace")
            os.close(descriptor)
            raise Locked(path, f"process {holder or 'unknown'}") from None
        if not shared:
            # Always of one size, so that it takes no block of a full disk.  Nothing depends on it
            # but the message for the next one who comes.
            with contextlib.suppress(OSError):
                os.pwrite(descriptor, f"{os.getpid():<19}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._descriptor)
