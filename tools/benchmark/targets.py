"""What logqueue is held to, as ratios within one run."""

from __future__ import annotations

from typing import NamedTuple

from tools.benchmark.cases import FDATASYNC, FLOOR, Case, Plan
from tools.benchmark.results import Results

STORAGE_US_MAX = 2.5
TICK_GAP_MS_MAX = 10.0


class Target(NamedTuple):
    """`reached` must be at least `least`, or at most `most`; None: it was not measured."""

    what: str
    reached: float | None
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def wanted(self) -> str:
        """For people."""
        return f">= {self.least:.2f}" if self.least is not None else f"<= {self.most}"

    @property
    def verdict(self) -> str:
        """For people."""
        if self.reached is None:
            return "not measured"
        too_low = self.least is not None and self.reached < self.least
        too_high = self.most is not None and self.reached > self.most
        return "MISSED" if too_low or too_high else "met"


class _Ratio(NamedTuple):
    what: str
    case: Case
    contender: str
    base: str
    least: float


_PUT, _POST, _GET = Case("put", 100, 16), Case("post", 100, 16), Case("get", 100, 16)
_LARGE = Case("post", 65536, 16)

_RATIOS = (
    _Ratio("put by GET, 100 B, interval, to the floor", _PUT, "interval", FLOOR, 0.80),
    _Ratio("get, 100 B, interval, to the floor", _GET, "interval", FLOOR, 0.80),
    _Ratio("put by POST, 100 B, interval, to the floor", _POST, "interval", FLOOR, 0.75),
    _Ratio("put, always, to interval", Case("put", 100, 64), "always", "interval", 0.60),
    _Ratio("put, always, to interval", Case("put", 100, 256), "always", "interval", 0.75),
    _Ratio("put, always, to 1 / fdatasync", Case("put", 100, 1), "always", FDATASYNC, 0.50),
    _Ratio("put of 64 KiB, interval, to the floor", _LARGE, "interval", FLOOR, 0.60),
    _Ratio(
        "put, a connection each, to the floor", _PUT._replace(closes=True), "interval", FLOOR, 0.60
    ),
    _Ratio(
        "get, a connection each, to the floor", _GET._replace(closes=True), "interval", FLOOR, 0.60
    ),
)


def plan() -> Plan:
    """What must be measured for them."""
    found: Plan = {}
    for ratio in _RATIOS:
        known = found.setdefault(ratio.case, [])
        known += [name for name in (ratio.base, ratio.contender) if name not in known]
    return found


def ratios(results: Results) -> list[Target]:
    """The targets that are ratios between servers."""
    return [
        Target(
            f"{ratio.what}, {ratio.case.connections} connections",
            results.ratio(ratio.case, ratio.contender, ratio.base),
            least=ratio.least,
            note=_rates(results, ratio),
        )
        for ratio in _RATIOS
    ]


def _rates(results: Results, ratio: _Ratio) -> str:
    ours = results.median(ratio.case, ratio.contender)
    theirs = results.median(ratio.case, ratio.base)
    if ours is None or theirs is None:
        return ""
    if ratio.case.size >= 1 << 16:
        megabytes = ratio.case.size / 1e6
        return f"{ours.rate * megabytes:,.0f} of {theirs.rate * megabytes:,.0f} MB/s"
    rates = f"{ours.rate:,.0f} of {theirs.rate:,.0f} /s"
    if not theirs.cpu_us:
        return rates
    return f"{rates}; {ours.cpu_us:.1f} to {theirs.cpu_us:.1f} us of processor"
