"""A load client for beanstalkd's protocol, which wrk does not speak.

One thread, one outstanding command a connection.  It is written in Python, so above some tens of
thousands of requests a second it measures itself: its figures are a lower bound.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator

from tools.benchmark.cases import Sample
from tools.benchmark.wrk import LoadFailed, Result

CONNECT_S = 10.0
RECEIVE_BYTES = 1 << 17  # more than the largest job
PREFILL_BATCH = 100  # puts that are sent before their answers are read
RESERVE = b"reserve-with-timeout 0\r\n"

Following = Callable[[bytes], bytes | None]  # answer so far -> next command, None until complete


def puts(port: int, payload: bytes, producers: int, seconds: float) -> Result:
    """Producers that put as fast as answers come.  Raises LoadFailed."""
    command = _put(payload)

    def following(answer: bytes) -> bytes | None:
        if not answer.endswith(b"\r\n"):
            return None
        if not answer.startswith(b"INSERTED "):
            raise LoadFailed(f"beanstalkd: {answer[:60]!r}")
        return command

    return _drive(port, command, following, producers, seconds)


def gets(port: int, consumers: int, seconds: float) -> Result:
    """Consumers that take jobs: reserve, and delete with the next reserve in one round trip.

    There must be enough of them.  Raises LoadFailed.
    """

    def following(answer: bytes) -> bytes | None:
        at = answer.find(b"RESERVED ")
        end = answer.find(b"\r\n", at)
        if at < 0 or end < 0:
            if answer.endswith(b"TIMED_OUT\r\n"):
                raise LoadFailed("beanstalkd: there are no jobs left")
            return None
        _, number, size = answer[at:end].split()
        if len(answer) < end + 2 + int(size) + 2:
            return None
        return b"delete %b\r\n%b" % (number, RESERVE)

    return _drive(port, RESERVE, following, consumers, seconds)


def prefill(port: int, payload: bytes, count: int) -> None:
    """Put `count` jobs."""
    batch = _put(payload) * PREFILL_BATCH
    with _connected(port, 1) as (client,), client.makefile("rb") as answers:
        for _ in range(-(-count // PREFILL_BATCH)):
            client.sendall(batch)
            for _ in range(PREFILL_BATCH):
                if not answers.readline().startswith(b"INSERTED "):
                    raise LoadFailed("beanstalkd refuses a put")


def ready_jobs(port: int) -> int:
    """How many jobs wait."""
    with _connected(port, 1) as (client,), client.makefile("rb") as answers:
        client.sendall(b"stats\r\n")
        size = int(answers.readline().split()[1])
        for line in answers.read(size).splitlines():
            if line.startswith(b"current-jobs-ready:"):
                return int(line.split()[1])
    raise LoadFailed("beanstalkd does not say how many jobs it has")


def _put(payload: bytes) -> bytes:
    return b"put 0 0 3600 %d\r\n%b\r\n" % (len(payload), payload)


@contextlib.contextmanager
def _connected(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port), CONNECT_S)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clients.append(stack.enter_context(client))
        yield clients


def _drive(
    port: int, first: bytes, following: Following, connections: int, seconds: float
) -> Result:
    """One command after the other on each connection, for some seconds."""
    taken_s: list[float] = []
    with _connected(port, connections) as clients, select.epoll() as ready:
        by_descriptor = {client.fileno(): client for client in clients}
        answers = dict.fromkeys(by_descriptor, b"")
        sent_at = dict.fromkeys(by_descriptor, time.perf_counter())
        for descriptor, client in by_descriptor.items():
            ready.register(descriptor, select.EPOLLIN)
            client.sendall(first)
        began = time.perf_counter()
        while (now := time.perf_counter()) - began < seconds:
            for descriptor, _ in ready.poll(1.0):
                client = by_descriptor[descriptor]
                answer = answers[descriptor] + client.recv(RECEIVE_BYTES)
                command = following(answer)
                answers[descriptor] = answer if command is None else b""
                if command is not None:
                    client.sendall(command)
                    taken_s.append(-sent_at[descriptor])
                    sent_at[descriptor] = time.perf_counter()
                    taken_s[-1] += sent_at[descriptor]
    if not taken_s:
        raise LoadFailed("beanstalkd answers nothing")
    taken_s.sort()
    count = len(taken_s)
    p50, p99 = taken_s[count // 2] * 1e6, taken_s[count * 99 // 100] * 1e6
    return Result(count, Sample(count / (now - began), p50, p99))
