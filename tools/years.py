"""What a queue costs after years: many queues, a deep backlog, space given back.

    python -m tools.years queues --directory DIR     10,000 queues of 10 messages
    python -m tools.years backlog --directory DIR    100,000,000 messages of 100 bytes in one queue
    python -m tools.years compaction --directory DIR puts while gigabytes are deleted

Each starts real daemons on 127.0.0.1 and prints one line per figure.  DIR must be on the disk that
is to be measured; what is made there stays, so that a second run is quick: remove it yourself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from logqueue.storage.disk import MmapDisk
from logqueue.storage.queue import Options
from logqueue.storage.store import Store
from tests.daemon import Daemon
from tools.pipeline import Pipeline, put_request, request

PAYLOAD_BYTES = 100
PIPELINED = 32
CONNECTIONS = 4
MESSAGES = 25_600  # of one measurement of a rate
PASSES = 9  # of each
IDLE_S = 10.0
DEEP = "deep"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(prog="tools.years", description=__doc__)
    parser.add_argument("what", choices=("queues", "backlog", "compaction"))
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--count", type=int, help="queues, or messages")
    given = parser.parse_args(argv)
    given.directory.mkdir(parents=True, exist_ok=True)
    if given.what == "queues":
        queues(given.directory, given.count or 10_000)
    elif given.what == "backlog":
        backlog(given.directory, given.count or 100_000_000)
    else:
        compaction(given.directory, given.count or 40_000_000)


def queues(directory: Path, count: int) -> None:
    """Many queues: creation, start after kill -9 and after a clean stop, disk, memory."""
    names = [f"queue-{number:05d}" for number in range(count)]
    with Daemon(directory, ["--max-queues", str(count)]) as daemon:
        began = time.perf_counter()
        daemon.start()
        report("start, empty or as it was", time.perf_counter() - began, "s")
        message = put_request("%s", b"x" * PAYLOAD_BYTES).decode()
        began = time.perf_counter()
        each(daemon.port, [(message % name).encode() for name in names for _ in range(10)])
        report("ten puts to each queue", (time.perf_counter() - began) / count * 1e3, "ms a queue")
        _memory(daemon)
        daemon.stop(signal.SIGKILL)
        _start(daemon, "start after kill -9")
        report("disk", disk_bytes(daemon.data) / count / 1024, "KiB a queue")
        for what, operation in (("status", "status"), ("get (the queue is opened)", "get")):
            began = time.perf_counter()
            each(daemon.port, [request(name, operation) for name in names])
            report(f"{what} of each queue", (time.perf_counter() - began) / count * 1e3, "ms")
        _memory(daemon)
        began = time.perf_counter()
        daemon.stop()
        report("clean stop", time.perf_counter() - began, "s")
        _start(daemon, "start after a clean stop")
        daemon.stop()


def backlog(directory: Path, count: int) -> None:
    """One deep queue: start, memory, rates against an empty queue, view at random positions."""
    with Daemon(directory, ["--max-queues", "100"]) as daemon:
        if not daemon.data.exists():
            build(daemon.data, count)
        deep = daemon.data / "queues" / DEEP
        report("backlog", disk_bytes(deep) / 1e9, "GB")
        drop_cache(deep)
        _start(daemon, "start")
        each(daemon.port, [put_request(DEEP, b"x" * PAYLOAD_BYTES)])
        daemon.stop(signal.SIGKILL)
        drop_cache(deep)
        _start(daemon, "start after kill -9, cold")
        _rates(daemon, deep)
        _views(daemon.port, count)
        _memory(daemon)
        daemon.stop()
        drop_cache(deep)
        _start(daemon, "start after a clean stop, cold")
        daemon.stop()


def compaction(directory: Path, count: int) -> None:
    """Latency of lone puts, idle and while a reset deletes gigabytes; what an idle queue keeps."""
    with Daemon(directory) as daemon:
        if not daemon.data.exists():
            build(daemon.data, count)
        daemon.start()
        size = disk_bytes(daemon.data)
        idle = _latencies_idle(daemon.port)
        deleted = threading.Event()
        busy: list[float] = []
        puts = threading.Thread(target=lambda: busy.extend(latencies(daemon.port, deleted)))
        puts.start()
        began = time.perf_counter()
        each(daemon.port, [request(DEEP, "reset")])
        report("reset answered after", time.perf_counter() - began, "s")
        while disk_bytes(daemon.data / "queues" / DEEP) > 1 << 20:
            time.sleep(0.1)
        took = time.perf_counter() - began
        deleted.set()
        puts.join()
        report("deleted", (size - disk_bytes(daemon.data)) / 1e9, "GB")
        report("in", took, "s")
        idle = sorted(idle + _latencies_idle(daemon.port))  # before and after
        for what, found in (("idle", idle), ("while deleting", busy)):
            for share in (0.5, 0.99, 0.999):
                quantile = found[min(len(found) - 1, int(len(found) * share))]
                report(f"put p{share * 100:g} {what} ({len(found)} puts)", quantile * 1e3, "ms")
        for asked in (put_request("used", b"x" * PAYLOAD_BYTES), request("used", "get")):
            rate(daemon.port, asked)
        time.sleep(60)
        report("a used queue after a minute", disk_bytes(daemon.data / "queues/used") / 1024, "KiB")
        daemon.stop()


def build(data: Path, count: int) -> None:
    """A queue of `count` unread messages, written without the daemon."""
    store = Store.open(MmapDisk(), str(data), Options(committed_reads=False))
    queue = store.create_queue(DEEP.encode())
    queue.set_maxqueue(1_000_000_000)
    for number in range(1, count + 1):
        queue.put(b"%012d" % number + b"x" * (PAYLOAD_BYTES - 12))
    queue.close()
    store.close()


def each(port: int, requests: list[bytes]) -> list[bytes]:
    """The bodies of the answers to all requests, sent over one connection in batches."""
    bodies: list[bytes] = []
    with Pipeline(port) as connection:
        for at in range(0, len(requests), PIPELINED):
            bodies += connection.ask(requests[at : at + PIPELINED])
    return bodies


def rate(port: int, asked: bytes) -> float:
    """Answers a second over a few pipelined connections, which are none of an empty queue."""

    def load(_: int) -> None:
        with Pipeline(port) as connection:
            for _ in range(MESSAGES // CONNECTIONS // PIPELINED):
                assert b"HTTPSQS_GET_END" not in connection.ask([asked] * PIPELINED)

    began = time.perf_counter()
    _together(load, CONNECTIONS)
    return MESSAGES / (time.perf_counter() - began)


def latencies(port: int, done: threading.Event) -> list[float]:
    """Seconds that lone puts took, sorted."""
    put = [put_request("lone", b"x" * PAYLOAD_BYTES)]
    found = []
    with Pipeline(port) as connection:
        while not done.is_set():
            began = time.perf_counter()
            assert connection.ask(put) == [b"HTTPSQS_PUT_OK"]
            found.append(time.perf_counter() - began)
    return sorted(found)


def _latencies_idle(port: int) -> list[float]:
    done = threading.Event()
    threading.Timer(IDLE_S, done.set).start()
    return latencies(port, done)


def drop_cache(directory: Path) -> None:
    """Make the next reads of the files in a directory the disk's."""
    for path in directory.iterdir():
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # compaction
            continue
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def disk_bytes(directory: Path) -> int:
    """What a directory takes on disk, its own block included."""
    found = directory.lstat().st_blocks * 512
    for root, directories, files in os.walk(directory):
        for name in [*directories, *files]:
            with contextlib.suppress(FileNotFoundError):  # the daemon deletes meanwhile
                found += os.lstat(os.path.join(root, name)).st_blocks * 512
    return found


def processor_s(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(what: str, value: float, unit: str) -> None:
    """One figure."""
    print(f"{what:45} {value:12,.3f} {unit}", flush=True)


def _start(daemon: Daemon, what: str) -> None:
    began = time.perf_counter()
    daemon.start()
    report(what, time.perf_counter() - began, "s")
    _memory(daemon)


def _memory(daemon: Daemon) -> None:
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    anonymous = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    report("  RssAnon", int(anonymous.split()[1]) / 1024, "MiB")
    report("  descriptors", len(os.listdir(f"/proc/{daemon.pid}/fd")), "")


def _rates(daemon: Daemon, deep: Path) -> None:
    """Rates of the deep queue against those of one that holds only what was put just now.

    They take turns, and take turns in going first, because other processes use this machine too;
    the middle ratio counts.  The daemon's processor time for a message is what they disturb least.
    """
    found: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    for attempt in range(PASSES):
        pair = [("shallow", f"shallow{attempt}"), ("deep", DEEP)]
        for where, queue in pair[:: 1 if attempt % 2 else -1]:
            drop_cache(deep)
            asked = {"put": put_request(queue, b"x" * PAYLOAD_BYTES), "get": request(queue, "get")}
            for what, message in asked.items():
                before = processor_s(daemon.pid)
                found.setdefault(f"{what} {where}", []).append(rate(daemon.port, message))
                spent = processor_s(daemon.pid) - before
                costs.setdefault(f"{what} {where}", []).append(spent / MESSAGES * 1e6)
    for name, values in found.items():
        report(f"{name}, best", max(values), "a second")
        report("  processor time, median", statistics.median(costs[name]), "us a message")
    for what in ("put", "get"):
        pairs = zip(found[f"{what} deep"], found[f"{what} shallow"], strict=True)
        ratios = sorted(deep_rate / shallow for deep_rate, shallow in pairs)
        report(f"{what}, deep against shallow", statistics.median(ratios), "")
        report("  least and most", ratios[0], f"{ratios[-1]:.3f}")


def _views(port: int, count: int) -> None:
    chance = random.Random(1)
    positions = [chance.randrange(count // 10, count) for _ in range(1000)]
    with Pipeline(port) as connection:
        for what in ("cold", "warm"):
            took = []
            for position in positions:
                began = time.perf_counter()
                [body] = connection.ask([request(DEEP, f"view&pos={position}")])
                took.append(time.perf_counter() - began)
                assert body.startswith(b"%012d" % position), body
            took.sort()
            report(f"view, {what}, p50", took[len(took) // 2] * 1e3, "ms")
            report(f"view, {what}, p99", took[len(took) * 99 // 100] * 1e3, "ms")


def _together(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
