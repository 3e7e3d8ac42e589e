"""The Python client of the v1 API: `Client`, and `AsyncClient` for trio.

Reading order: `exchange.py` (conversations as data, and when a request may be repeated),
`messages.py`, `operations.py` (what a client can do), `blocking.py` and `asynchronous.py`.
"""

from __future__ import annotations

from logqueue.client.asynchronous import AsyncClient
from logqueue.client.blocking import Client
from logqueue.client.errors import (
    BadAnswer,
    ClientError,
    InDoubt,
    LeaseLost,
    Refused,
    Unreachable,
)
from logqueue.client.messages import Details, Message, Overview, Stored, StoredBatch

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "Client",
    "ClientError",
    "Details",
    "InDoubt",
    "LeaseLost",
    "Message",
    "Overview",
    "Refused",
    "Stored",
    "StoredBatch",
    "Unreachable",
]
