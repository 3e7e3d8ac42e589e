"""Every limit and default in one place, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from logqueue.address import Address
from logqueue.errors import UsageError

Durability = Literal["always", "interval", "os"]

KIB = 1024
MIB = 1024 * KIB

DESCRIPTORS_PER_QUEUE = 6  # segment, cursor, acknowledgement log; each once more by its map
DESCRIPTORS_RESERVED = 64  # listeners, the lock, a roll, a read-ahead, a view, a log


@dataclass(frozen=True, slots=True)
class Config:
    """What one daemon runs with.  Sizes in bytes, times in seconds."""

    data_directory: str
    # None: 127.0.0.1 (HTTPSQS had 0.0.0.0; a queue without a password must not), or systemd's.
    addresses: tuple[Address, ...] = ()
    port: int = 1218  # of addresses without one
    tls_certificate: str | None = None  # paths of PEM files, both or none
    tls_key: str | None = None
    auth: str | None = None
    detach: bool = False
    check_only: bool = False
    pid_file: str | None = None

    durability: Durability = "always"
    sync_interval_s: float = 5.0  # HTTPSQS's default for -s
    segment_bytes_max: int = 64 * MIB  # a tail of 64 MiB is scanned in a third of a second
    disk_reserve_bytes: int = 16 * MIB  # room for metadata, and for an operator to log in
    retain_bytes: int | None = None  # of consumed messages, per queue; both None: keep nothing
    retain_seconds: float | None = None
    queues_max: int = 10_000  # 48 KiB of disk each: a stranger's loop over names stops at 0.5 GB
    queues_open_max: int = 1000  # 4 descriptors and 2 maps each; the kernel gives 65,530 maps

    long_polls_max: int = 10_000  # parked at once: as many as connections

    # HTTP: what one client may make the daemon hold, and for how long.
    timeout_idle_s: float = 60.0  # HTTPSQS's default for -t
    timeout_handshake_s: float = 10.0  # of TLS: two round trips, and time for a slow machine
    receive_rate_min: int = KIB  # bytes/s; a request may take timeout_idle_s and its size over this
    head_bytes_max: int = 8 * MIB  # Node and Python 2 clients put through the URL; h11 stops at 16K
    header_count_max: int = 2000  # HTTPSQS had no limit; a thousand were recorded
    body_bytes_max: int = 64 * MIB  # a message stands in memory as a whole
    requests_bytes_max: int = 256 * MIB  # of half-sent requests, over all connections
    connections_max: int = 10_000  # an idle one costs 1.3 KB, and what the kernel adds
    drain_s: float = 10.0  # for requests in flight when the daemon stops

    def within(self, descriptors: int) -> Config:
        """This configuration, cut down to a limit of open files where it must be.

        Queues get at most a third of them, connections what is left.  Raises UsageError when
        that is next to nothing.
        """
        spare = descriptors - DESCRIPTORS_RESERVED
        if spare < DESCRIPTORS_RESERVED:
            raise UsageError(
                f"{descriptors} open files are too few; raise the limit (ulimit -n, LimitNOFILE)"
            )
        queues = min(self.queues_open_max, spare // 3 // DESCRIPTORS_PER_QUEUE)
        connections = min(self.connections_max, spare - queues * DESCRIPTORS_PER_QUEUE)
        return replace(self, queues_open_max=queues, connections_max=connections)
