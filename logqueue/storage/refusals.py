"""What the kernel refuses, in our words: which error says that nothing was changed, which that
the disk has failed."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator

from logqueue.errors import Corrupt, DiskFull, LimitExceeded, NotWritable, StorageFailed

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def changing(path: str) -> Iterator[None]:
    """While something is being changed at `path`.  Raises DiskFull, LimitExceeded, NotWritable,
    and StorageFailed for all else."""
    with sparing_descriptors():
        try:
            yield
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                raise
            if error.errno in NO_SPACE:
                raise DiskFull(path, mmap.PAGESIZE, 0, 0) from error
            if error.errno in _NOT_ALLOWED:
                raise NotWritable(path, error.strerror or "") from error
            raise StorageFailed(path, error) from error


@contextlib.contextmanager
def sparing_descriptors() -> Iterator[None]:
    """Raises LimitExceeded when there is no descriptor left."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_DESCRIPTORS:
            raise
        limit = os.sysconf("SC_OPEN_MAX")
        raise LimitExceeded(f"open files ({error.strerror})", limit + 1, limit) from error


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """While a directory is being read.  Raises LimitExceeded, Corrupt (unreadable), OSError."""
    with sparing_descriptors():
        try:
            yield
        except OSError as error:
            if error.errno == errno.EIO:
                raise Corrupt(path, 0, f"cannot be read: {error.strerror}") from error
            raise


@contextlib.contextmanager
def syncing(path: str) -> Iterator[None]:
    """While something is made durable.  Raises StorageFailed: a name or a page that may or may
    not be there (A4)."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(path, error) from error
