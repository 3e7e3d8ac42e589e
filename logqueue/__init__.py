"""logqueue: a crash-safe HTTP message queue, wire compatible with HTTPSQS 1.7.

Reading order: `storage/format.py` (every byte on disk), `storage/disk.py` (the only system calls),
`storage/segment.py`, `storage/cursor.py`, `storage/log.py`, `storage/recovery.py`,
`storage/queue.py`, `storage/store.py`; then `web/message.py`, `web/wire.py`, `web/query.py`,
`web/httpsqs.py`, `web/conversation.py`, `web/connection.py`, `web/server.py`; then `commit.py`,
`local.py` and `daemon.py`, where the two halves meet.

For programs that use queues there are `logqueue.Client` and `logqueue.AsyncClient`, `client/`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logqueue.client import AsyncClient as AsyncClient
    from logqueue.client import Client as Client

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The clients, imported when they are asked for: the daemon does without httpcore."""
    if name not in ("AsyncClient", "Client"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module("logqueue.client"), name)
    return found
