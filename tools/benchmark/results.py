"""What was measured, and the medians and ratios that are drawn from it.  Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict

from tools.benchmark.cases import Case, Sample


class Results:
    """The samples of every cell, one a round."""

    def __init__(self) -> None:
        self._samples: dict[tuple[Case, str], list[Sample]] = defaultdict(list)

    def add(self, case: Case, name: str, sample: Sample) -> None:
        """One more round of a cell."""
        self._samples[case, name].append(sample)

    def cases(self) -> list[Case]:
        """All that have samples, in the order in which they came."""
        return list(dict.fromkeys(case for case, _ in self._samples))

    def names(self) -> list[str]:
        """Likewise the contenders."""
        return list(dict.fromkeys(name for _, name in self._samples))

    def samples(self, case: Case, name: str) -> list[Sample]:
        """Those of one cell, by round; none when it was not measured."""
        return self._samples.get((case, name), [])

    def median(self, case: Case, name: str) -> Sample | None:
        """Of each figure on its own."""
        samples = self.samples(case, name)
        if not samples:
            return None
        return Sample(*(statistics.median(figures) for figures in zip(*samples, strict=True)))

    def ratio(self, case: Case, name: str, base: str) -> float | None:
        """How the rates compare: the median of the rounds' ratios, so that what disturbs a whole
        round cancels out."""
        ours = self.samples(case, name)
        theirs = self.samples(case, base)
        if not ours or len(ours) != len(theirs):
            return None
        return statistics.median(a.rate / b.rate for a, b in zip(ours, theirs, strict=True))
