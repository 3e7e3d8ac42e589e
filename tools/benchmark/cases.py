"""What is measured: one `Case` is one kind of load, `Cell` says who meets it.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

Operation = Literal["put", "post", "get"]  # put by GET, put by POST, get
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
SIZES = (100, 1024, 65536)
CONNECTIONS = (1, 16, 64, 256)
DURABILITIES = ("always", "interval", "os")
FLOOR = "floor"
FDATASYNC = "fdatasync"  # 1 / (time of one fdatasync): what a lone producer could reach


class Case(NamedTuple):
    """One kind of load.  `closes`: each request has a connection of its own."""

    operation: Operation
    size: int  # bytes of the message
    connections: int
    closes: bool = False

    @property
    def label(self) -> str:
        """For people."""
        what = {"put": "put (GET)", "post": "put (POST)", "get": "get"}[self.operation]
        size = f"{self.size} B" if self.size < 1024 else f"{self.size // 1024} KiB"
        kind = ", a connection each" if self.closes else ""
        return f"{what} {size}, {self.connections} conn{kind}"


class Sample(NamedTuple):
    """One measurement: requests/s, how long a request took, and what it took of the server's
    processor (which says more than the rate on a machine that others use); microseconds."""

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float = 0.0  # 0: not known


Plan = dict[Case, list[str]]  # who meets which load; the floor first


def matrix(
    operations: Iterable[Operation],
    sizes: Iterable[int],
    connections: Sequence[int],
    contenders: Sequence[str],
) -> Plan:
    """Every combination, and connection per request for the smallest size.

    That is for HTTP alone: beanstalkd's clients keep theirs.
    """
    sizes = sorted(sizes)
    plan: Plan = {}
    for operation in operations:
        for size in sizes:
            for count in connections:
                plan[Case(operation, size, count)] = list(contenders)
        for count in [each for each in connections if each in (16, 64)]:
            plan[Case(operation, sizes[0], count, closes=True)] = [
                name for name in contenders if not name.startswith("beanstalkd")
            ]
    lone = Case("put", sizes[0], 1)
    if lone in plan:
        plan[lone] = [*plan[lone], FDATASYNC]
    return plan


def in_rounds(plan: Plan, rounds: int) -> Iterator[list[tuple[Case, str]]]:
    """The cells of each round: every one once, the contenders of a case one after the other.

    Every second round goes backwards, so that none always comes first.
    """
    for number in range(rounds):
        yield [
            (case, name)
            for case, contenders in plan.items()
            for name in (contenders if number % 2 == 0 else reversed(contenders))
        ]
