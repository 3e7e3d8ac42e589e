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
DESCRIPTORS_RESERVED = 64  # listeners, the lock, rolls, read-aheads, views, a log: 11 at rest
DESCRIPTORS_MIN = 64  # of which a third is reserved: enough, and slow


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
    log_format: Literal["text", "json"] = "text"
    access_log: bool = False  # 0.1 ms a request, five times the cost of a put without a sync

    durability: Durability = "always"
    sync_interval_s: float = 5.0  # HTTPSQS's default for -s
    segment_bytes_max: int = 64 * MIB  # a tail of 64 MiB is scanned in a third of a second
    disk_reserve_bytes: int = 16 * MIB  # room for metadata, and for an operator to log in
    retain_bytes: int | None = None  # of consumed messages, per queue; both None: keep nothing
    retain_seconds: float | None = None
    queues_max: int = 10_000  # 48 KiB of disk each: a stranger's loop over names stops at 0.5 GB
    queues_open_max: int = 1000  # 4 descriptors and 2 maps each; the kernel gives 65,530 maps

    long_polls_max: int = 10_000  # parked at once: as many as connections

    # HTTP: what clients may make the daemon hold.
    target_bytes_max: int = 8 * MIB  # Node and Python 2 clients put 1 MiB through the URL, escaped
    header_bytes_max: int = 2 * MIB  # HTTPSQS had no limit; a line of 1 MiB was recorded
    header_count_max: int = 2000  # a thousand were recorded; reading so many takes 4 ms
    body_bytes_max: int = 64 * MIB  # a message stands in memory as a whole
    chunk_factor_max: int = 8  # bytes on the wire for each of a chunked body: docs/decisions/chunks
    pipelined_max: int = 16  # requests of one client that run before others get their turn
    connections_max: int = 10_000  # an idle one costs 1.3 KB, and what the kernel adds
    # Of half-sent requests, and again of answers that wait to be taken, over all connections: a
    # few of the largest messages, a quarter of a small machine.
    bytes_in_flight_max: int = 256 * MIB

    # HTTP: how long the daemon waits for a client.
    timeout_idle_s: float = 60.0  # HTTPSQS's default for -t
    timeout_handshake_s: float = 10.0  # of TLS: two round trips, and time for a slow machine
    timeout_head_s: float = 10.0  # from the first byte to the empty line: it is one packet or two
    timeout_body_s: float = 30.0  # without progress: a mobile network loses its cell for so long
    timeout_write_s: float = 30.0  # the same for answers that are not taken
    rate_min: int = KIB  # bytes/s of the last three, on average: a modem had three times as much
    drain_s: float = 10.0  # for requests in flight when the daemon stops

    def within(self, descriptors: int) -> Config:
        """This configuration, cut down to a limit of open files where it must be.

        Queues get at most a third of them, connections what is left.  Raises UsageError when
        that is next to nothing.
        """
        if descriptors < DESCRIPTORS_MIN:
            raise UsageError(
                f"{descriptors} open files are too few; raise the limit (ulimit -n, LimitNOFILE)"
            )
        spare = descriptors - min(DESCRIPTORS_RESERVED, descriptors // 3)
        queues = min(self.queues_open_max, spare // 3 // DESCRIPTORS_PER_QUEUE)
        connections = min(self.connections_max, spare - queues * DESCRIPTORS_PER_QUEUE)
        return replace(self, queues_open_max=queues, connections_max=connections)
