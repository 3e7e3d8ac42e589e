"""logqueue: a crash-safe HTTP message queue, wire compatible with HTTPSQS 1.7.

Reading order: `storage/format.py` (every byte on disk), `storage/disk.py` (the only system calls),
`storage/segment.py`, `storage/cursor.py`, `storage/log.py`, `storage/recovery.py`,
`storage/queue.py`, `storage/store.py`; then `web/message.py`, `web/wire.py`, `web/query.py`,
`web/httpsqs.py`, `web/connection.py`, `web/server.py`; then `commit.py`, `local.py` and
`daemon.py`, where the two halves meet.
"""

__version__ = "0.1.0"
