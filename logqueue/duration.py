"""Durations as people write them: `20s`, `500ms`, `5m`, `1h`, or plain seconds.  PURE."""

from __future__ import annotations

import re

_FORM = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)?", re.ASCII)
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float | None:
    """The seconds that `text` stands for; None when it is no duration."""
    found = _FORM.fullmatch(text)
    return None if found is None else float(found[1]) * _SECONDS[found[2]]
