"""The options that bound what clients may do over HTTP; `Config` has their defaults and reasons."""

from __future__ import annotations

from typing import NamedTuple


class Limit(NamedTuple):
    """One option, the field of `Config` that it sets, and from where to where it may be set."""

    option: str
    unit: str
    field: str
    least: float
    most: float
    text: str


_SECONDS_MIN, _SECONDS_MAX = 0.001, 1e9
_GIB = 1 << 30

LIMITS = (
    Limit("--max-target-bytes", "BYTES", "target_bytes_max", 64, _GIB, "target of a request"),
    Limit("--max-header-bytes", "BYTES", "header_bytes_max", 64, _GIB, "its header lines"),
    Limit("--max-headers", "N", "header_count_max", 1, 10**6, "the number of its header lines"),
    Limit("--max-body-bytes", "BYTES", "body_bytes_max", 1, _GIB, "its body: a message"),
    Limit(
        *("--max-chunk-factor", "N", "chunk_factor_max", 1, 1000),
        "bytes on the wire for each byte of a chunked body",
    ),
    Limit(
        *("--max-pipelined", "N", "pipelined_max", 1, 10**6),
        "requests of one connection in a row that run before others get their turn",
    ),
    Limit("--max-connections", "N", "connections_max", 1, 10**6, "connections that are open"),
    Limit(
        *("--max-bytes-in-flight", "BYTES", "bytes_in_flight_max", 1, 1 << 40),
        "memory for half-sent requests, and as much again for answers that are not taken",
    ),
    Limit(
        *("--handshake-timeout", "SECONDS", "timeout_handshake_s", _SECONDS_MIN, _SECONDS_MAX),
        "shaking hands for TLS",
    ),
    Limit(
        *("--head-timeout", "SECONDS", "timeout_head_s", _SECONDS_MIN, _SECONDS_MAX),
        "sending the head of a request",
    ),
    Limit(
        *("--body-timeout", "SECONDS", "timeout_body_s", _SECONDS_MIN, _SECONDS_MAX),
        "sending nothing of a body",
    ),
    Limit(
        *("--write-timeout", "SECONDS", "timeout_write_s", _SECONDS_MIN, _SECONDS_MAX),
        "taking nothing of an answer",
    ),
    Limit(
        *("--min-rate", "BYTES", "rate_min", 1, _GIB),
        "bytes a second that these three must reach on average",
    ),
    Limit(
        *("--drain-timeout", "SECONDS", "drain_s", 0, _SECONDS_MAX),
        "requests in flight when the daemon is told to stop",
    ),
)
