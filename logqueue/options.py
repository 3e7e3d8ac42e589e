"""What can be set per queue, and how it stands in the queue's meta file and in the v1 API's JSON.

Pure.  `max_length` is HTTPSQS's maxqueue and lives in the ring, everything else in the options of
the meta file; what equals its default is left out there, and keys that this version does not know
are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from urllib.parse import quote_from_bytes, unquote_to_bytes

from logqueue.errors import BadOption

MAX_LENGTH_DEFAULT = 1_000_000  # HTTPSQS's
MAX_LENGTH_MIN = 10
MAX_LENGTH_MAX = 1_000_000_000
LEASE_S_DEFAULT = 30.0
LEASE_S_MIN = 0.001  # the resolution of a deadline on disk
LEASE_S_MAX = 12 * 3600.0  # SQS's limit: whoever needs longer extends
AGE_S_MAX = 10 * 366 * 86400.0
ATTEMPTS_MAX = 1_000_000
NAME_BYTES_MAX = 256
BYTES_MAX = 1 << 62


def _within(option: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN lies within nothing
        raise BadOption(option, f"{value:g} does not lie within {least:g} and {most:g}")


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """The settings of one queue.  Times in seconds, sizes in bytes; 0 switches a thing off.

    Raises BadOption when a value is out of range.
    """

    max_length: int = MAX_LENGTH_DEFAULT  # messages, consumed ones that block the ring included
    max_age_s: float = 0.0  # older messages are skipped and counted
    lease_s: float = LEASE_S_DEFAULT  # of a receive that names none
    max_attempts: int = 0  # deliveries after which a message moves to `dead_letter`
    dead_letter: bytes | None = None  # the name of another queue
    retain_bytes: int = 0  # consumed messages kept for view and replay, by size of their segments
    retain_s: float = 0.0  # and by age
    paused: bool = False  # puts go on, nothing is delivered

    def __post_init__(self) -> None:
        _within("max_length", self.max_length, MAX_LENGTH_MIN, MAX_LENGTH_MAX)
        _within("max_age_s", self.max_age_s, 0, AGE_S_MAX)
        _within("lease_s", self.lease_s, LEASE_S_MIN, LEASE_S_MAX)
        _within("max_attempts", self.max_attempts, 0, ATTEMPTS_MAX)
        _within("retain_bytes", self.retain_bytes, 0, BYTES_MAX)
        _within("retain_s", self.retain_s, 0, AGE_S_MAX)
        if (self.max_attempts > 0) != (self.dead_letter is not None):
            raise BadOption("max_attempts", "goes together with dead_letter: set both or neither")
        if self.dead_letter is not None and len(self.dead_letter) > NAME_BYTES_MAX:
            raise BadOption("dead_letter", f"a queue name has at most {NAME_BYTES_MAX} bytes")

    @property
    def needs_delivery(self) -> bool:
        """Whether first in, first consumed is not all there is to it."""
        return self.paused or self.max_age_s > 0

    def changed(self, given: Mapping[str, object]) -> QueueOptions:
        """These options with the JSON values in `given` put in.  Raises BadOption."""
        values = {key: _convert(key, value) for key, value in given.items()}
        return replace(self, **values)  # type: ignore[arg-type]

    def as_json(self) -> dict[str, object]:
        """Every option as a JSON value; a queue's name stands percent-encoded, as in a URL."""
        values: dict[str, object] = {field.name: getattr(self, field.name) for field in _FIELDS}
        if self.dead_letter is not None:
            values["dead_letter"] = quote_from_bytes(self.dead_letter, safe="")
        return values

    def stored(self, unknown: Mapping[str, object]) -> dict[str, object]:
        """What the meta file keeps: all but `max_length` and defaults, and the `unknown` keys."""
        ours = {k: v for k, v in self.as_json().items() if v != DEFAULTS[k] and k != "max_length"}
        return {**{k: v for k, v in unknown.items() if k not in _TYPES}, **ours}

    @classmethod
    def loaded(cls, stored: Mapping[str, object], max_length: int) -> QueueOptions:
        """The reverse of `stored`.  Raises BadOption."""
        known = {key: value for key, value in stored.items() if key in _TYPES}
        return cls(max_length=max_length).changed(known)


_FIELDS = fields(QueueOptions)
_TYPES: dict[str, type] = {field.name: type(field.default) for field in _FIELDS}
DEFAULT = QueueOptions()
DEFAULTS = DEFAULT.as_json()


def _convert(key: str, value: object) -> object:
    """One JSON value as the option's own type."""
    if key not in _TYPES:
        raise BadOption(key, f"no such option; there are {', '.join(sorted(_TYPES))}")
    if key == "dead_letter":
        if value is not None and not isinstance(value, str):
            raise BadOption(key, "must be a queue's name, percent-encoded, or null")
        return None if value is None else unquote_to_bytes(value)
    wanted = _TYPES[key]
    if isinstance(value, bool) is not (wanted is bool) or not isinstance(value, int | float):
        raise BadOption(key, f"must be a {'truth value' if wanted is bool else 'number'}")
    if wanted is int and value != int(value):
        raise BadOption(key, "must be a whole number")
    return wanted(value)
