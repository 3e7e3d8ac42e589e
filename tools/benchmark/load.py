"""One run of the load: what it takes of the server, and how much a get needs to find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tools.benchmark import processes, wrk
from tools.benchmark.cases import Case, Sample
from tools.benchmark.processes import Service
from tools.benchmark.wrk import Request, Result

BACKLOG_MARGIN = 1.5  # more messages than the last run would have taken
FIRST_RATE = 60_000  # get/s to be ready for when nothing has been measured yet
FIRST_BYTES_S = 1 << 29


class Backlog:
    """How many messages a get of each case needs, learned from the runs before."""

    def __init__(self, first_rate: float = FIRST_RATE) -> None:
        self._first_rate = first_rate
        self._rates: dict[Case, float] = {}

    def wanted(self, case: Case, seconds: int) -> int:
        """Enough for the next run."""
        first = min(self._first_rate, FIRST_BYTES_S / case.size)
        rate = self._rates.get(case, first) * BACKLOG_MARGIN
        return int(rate * seconds) + case.connections

    def learn(self, case: Case, sample: Sample) -> None:
        """Remember how fast it went."""
        self._rates[case] = sample.rate


def loaded(pids: Sequence[int], load: Callable[[], Result]) -> Result:
    """Run the load, and note what it takes of the processes' processor time."""
    before_s = processes.processor_s(pids)
    result = load()
    cpu_us = (processes.processor_s(pids) - before_s) / result.requests * 1e6
    return result._replace(sample=result.sample._replace(cpu_us=cpu_us))


def drive(service: Service, request: Request, case: Case, seconds: int) -> Result:
    """Load a service with wrk."""
    return loaded(service.pids, lambda: wrk.run(request, case.connections, seconds))
