"""The v1 port on real files: batches, long polls, leases, dead letters, whole queues."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from logqueue.commit import Committer
from logqueue.config import Config, Durability
from logqueue.errors import BadOption, LimitExceeded, NoSuchQueue
from logqueue.messages import LocalMessageQueues
from logqueue.options import QueueOptions
from logqueue.storage.disk import Extent, MmapDisk
from logqueue.storage.queue import Options
from logqueue.storage.store import Store
from logqueue.web.queues import Message, MessageQueues, Outcome, State

SOON_S = 0.05  # a lease or a delay whose end a test waits for
LONG_S = 60.0  # far beyond any test


@contextlib.asynccontextmanager
async def opened(
    root: Path, durability: Durability = "always", disk: MmapDisk | None = None, **limits: int
) -> AsyncIterator[MessageQueues]:
    """The store in `root`, with all that a daemon runs for it."""
    config = Config(str(root), durability=durability, **limits)  # type: ignore[arg-type]
    options = Options(committed_reads=durability == "always")
    store = Store.open(disk or MmapDisk(), str(root), options)
    async with trio.open_nursery() as outer:
        committer = Committer()
        await outer.start(committer.run)
        queues = LocalMessageQueues(store, committer, config)
        await queues.recover()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queues.run)
            yield queues
            nursery.cancel_scope.cancel()
        await queues.close()
        outer.cancel_scope.cancel()


@pytest.fixture(params=["always", "interval"])
async def queues(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MessageQueues]:
    async with opened(tmp_path, request.param) as made:
        yield made


def payloads(messages: list[Message]) -> list[bytes]:
    return [each.payload for each in messages]


async def test_a_batch_comes_back_in_order_with_its_types(queues: MessageQueues) -> None:
    stored = await queues.put_batch(b"q", [b"1", b"2", b"3"], [b"", b"text/plain", b"image/png"])
    assert stored == (1, 3, 1)
    assert await queues.put_batch(b"q", [b"4"]) == (4, 4, 4)
    first = await queues.receive(b"q", 2, 0)
    assert payloads(first) == [b"1", b"2"]
    assert [each.headers for each in first] == [(), ((b"content-type", b"text/plain"),)]
    assert [(each.sequence, each.position, each.lease) for each in first] == [
        (1, 1, ""),
        (2, 2, ""),
    ]
    assert await queues.get(b"q") == (3, b"3")  # a legacy reader sees the body only
    assert await queues.view(b"q", 3) == b"3"
    assert payloads(await queues.receive(b"q", 9, 0)) == [b"4"]
    assert await queues.receive(b"q", 9, 0) == []


async def test_a_batch_goes_in_whole_or_not_at_all(queues: MessageQueues) -> None:
    assert await queues.create_queue(b"q", QueueOptions(max_length=10))
    assert await queues.put_batch(b"q", [b"x"] * 11) is None
    assert (await queues.status(b"q")).unread == 0
    assert await queues.put_batch(b"q", [b"x"] * 10) == (1, 10, 1)
    assert await queues.put_batch(b"q", [b"x"]) is None


async def test_of_several_that_create_a_queue_at_once_one_does(queues: MessageQueues) -> None:
    made: list[bool] = []
    refused: list[BadOption] = []

    async def create(max_length: int) -> None:
        try:
            made.append(await queues.create_queue(b"q", QueueOptions(max_length=max_length)))
        except BadOption as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for max_length in (10, 20, 10, 20):
            nursery.start_soon(create, max_length)
    assert sorted(made) == [False, True]
    assert len(refused) == 2
    assert (await queues.status(b"q")).maxqueue == (
        (await queues.describe_queue(b"q")).options.max_length
    )


async def test_a_batch_that_need_not_wait(tmp_path: Path) -> None:
    async with opened(tmp_path, "always") as queues:
        with pytest.raises(trio.WouldBlock):  # the queue is not open
            queues.put_batch_nowait(b"q", [b"x"])
        await queues.create_queue(b"q", QueueOptions(max_length=10))
        stored, promise = queues.put_batch_nowait(b"q", [b"1", b"2"], [b"", b"text/plain"])
        assert stored == (1, 2, 1)
        assert promise is not None
        assert await queues.receive(b"q", 9, 0) == []  # not durable yet
        kept = trio.Event()
        promise(kept.set)
        await kept.wait()
        one, two = await queues.receive(b"q", 9, 0)
        assert (one.headers, two.headers) == ((), ((b"content-type", b"text/plain"),))
        assert queues.put_batch_nowait(b"q", [b"x"] * 10) == (None, None)
        with pytest.raises(trio.WouldBlock):  # a roll comes first
            queues.put_batch_nowait(b"q", [b"x" * 100_000])
        assert (await queues.status(b"q")).unread == 0


async def test_a_batch_larger_than_a_segment(queues: MessageQueues) -> None:
    bodies = [bytes([n]) * 50_000 for n in range(100)]
    assert await queues.put_batch(b"q", bodies) == (1, 100, 1)
    got: list[bytes] = []
    while len(got) < 100:
        got += payloads(await queues.receive(b"q", 30, 0))
    assert got == bodies


async def test_lease_acknowledge_extend_release(queues: MessageQueues) -> None:
    await queues.put_batch(b"q", [b"1", b"2", b"3"])
    one, two, three = await queues.receive(b"q", 9, LONG_S)
    assert [each.attempts for each in (one, two, three)] == [1, 1, 1]
    assert await queues.get(b"q") is None
    assert (await queues.status(b"q")).unread == 3
    assert await queues.acknowledge(b"q", [two.lease, "no token"]) == [
        Outcome.DONE,
        Outcome.UNKNOWN,
    ]
    assert await queues.extend(b"q", [one.lease], LONG_S) == [Outcome.DONE]
    assert await queues.release(b"q", [(three.lease, 0), (one.lease, LONG_S)]) == [Outcome.DONE] * 2
    assert await queues.extend(b"q", [one.lease], LONG_S) == [Outcome.EXPIRED]
    details = await queues.describe_queue(b"q")
    assert (details.ready, details.leased, details.delayed, details.dead) == (1, 0, 1, 0)
    assert details.consumed == 0
    (again,) = await queues.receive(b"q", 9, None)
    assert (again.payload, again.attempts) == (b"3", 2)
    assert await queues.acknowledge(b"q", [two.lease]) == [Outcome.DONE]  # once more is fine


async def test_tokens_of_a_queue_that_never_leased(queues: MessageQueues) -> None:
    await queues.put_batch(b"a", [b"1"])
    await queues.put_batch(b"b", [b"1"])
    (message,) = await queues.receive(b"a", 1, LONG_S)
    assert await queues.acknowledge(b"b", [message.lease, "?"]) == [
        Outcome.EXPIRED,
        Outcome.UNKNOWN,
    ]
    with pytest.raises(NoSuchQueue):
        await queues.acknowledge(b"c", [message.lease])


async def park(
    nursery: trio.Nursery, poll: Callable[[], Awaitable[object]], into: list[object]
) -> None:
    """Start a long poll and come back once it is parked."""

    async def run() -> None:
        into.append(await poll())

    nursery.start_soon(run)
    await wait_all_tasks_blocked(0.01)


async def test_long_polls_are_answered_in_arrival_order(queues: MessageQueues) -> None:
    await queues.put_batch(b"q", [b"0"])
    await queues.receive(b"q", 1, 0)
    got: list[object] = []
    async with trio.open_nursery() as nursery:
        for number in range(6):

            async def poll(number: int = number) -> tuple[int, bytes]:
                if number % 2:
                    found = await queues.get(b"q", LONG_S)
                    assert found is not None
                    return number, found[1]
                return number, payloads(await queues.receive(b"q", 1, LONG_S, LONG_S))[0]

            await park(nursery, poll, got)
        for number in range(6):
            await queues.put(b"q", b"%d" % number)
    assert sorted(got) == [(number, b"%d" % number) for number in range(6)]  # type: ignore[type-var]


async def test_who_begins_to_wait_between_a_put_and_its_sync_is_served(
    queues: MessageQueues,
) -> None:
    await queues.put(b"q", b"opens the queue")
    assert await queues.get(b"q") == (1, b"opens the queue")
    with trio.fail_after(LONG_S):
        for number in range(50):  # tasks of one tick run in any order
            async with trio.open_nursery() as nursery:
                nursery.start_soon(queues.put, b"q", b"%d" % number)
                if number % 2:
                    assert await queues.get(b"q", 2 * LONG_S) == (number + 2, b"%d" % number)
                else:
                    await trio.lowlevel.checkpoint()
                    (message,) = await queues.receive(b"q", 1, 0, 2 * LONG_S)
                    assert message.payload == b"%d" % number


async def test_one_batch_serves_all_who_wait(queues: MessageQueues) -> None:
    await queues.create_queue(b"q", QueueOptions())
    got: list[object] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            await park(nursery, lambda: queues.receive(b"q", 2, LONG_S, LONG_S), got)
        await queues.put_batch(b"q", [b"%d" % number for number in range(6)])
    assert [payloads(each) for each in got] == [[b"0", b"1"], [b"2", b"3"], [b"4", b"5"]]  # type: ignore[arg-type]


async def test_a_client_that_went_takes_nothing(queues: MessageQueues) -> None:
    await queues.create_queue(b"q", QueueOptions())
    got: list[object] = []
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as gone:
            await park(gone, lambda: queues.receive(b"q", 1, 0, LONG_S), got)
            gone.cancel_scope.cancel()
        await park(nursery, lambda: queues.get(b"q", LONG_S), got)
        await queues.put(b"q", b"1")
    assert got == [(1, b"1")]


async def test_gone_in_the_moment_of_waking(tmp_path: Path) -> None:
    """The put wakes the first in line, whose client goes before it runs: the next is served."""
    async with opened(tmp_path, "interval") as queues:
        await queues.create_queue(b"q", QueueOptions())
        got: list[object] = []
        async with trio.open_nursery() as nursery, trio.open_nursery() as gone:
            await park(gone, lambda: queues.get(b"q", LONG_S), got)
            await park(nursery, lambda: queues.receive(b"q", 1, 0, LONG_S), got)
            queues.put_nowait(b"q", b"1")
            gone.cancel_scope.cancel()
        assert [payloads(each) for each in got] == [[b"1"]]  # type: ignore[arg-type]


async def test_a_wait_ends_empty(queues: MessageQueues) -> None:
    assert await queues.get(b"nobody's", SOON_S) is None
    await queues.create_queue(b"q", QueueOptions())
    assert await queues.receive(b"q", 1, 0, SOON_S) == []
    assert (await queues.describe_queue(b"q")).waiting == 0
    for wait_s in (0, SOON_S):
        assert await queues.receive(b"nobody's", 1, None, wait_s) == []
    assert queues.list_queues(None, 9)[0][1:] == [], "asking makes no queue"


async def test_waits_for_a_queue_that_is_not_there_yet(queues: MessageQueues) -> None:
    got: list[object] = []
    async with trio.open_nursery() as nursery:
        await park(nursery, lambda: queues.get(b"new", LONG_S), got)
        await park(nursery, lambda: queues.receive(b"new", 1, LONG_S, LONG_S), got)
        await park(nursery, lambda: queues.receive(b"new", 1, 0, LONG_S), got)
        await queues.put(b"new", b"1")
        await queues.create_queue(b"new", QueueOptions())
        await queues.put_batch(b"new", [b"2", b"3"])
    assert [payloads(each) for each in got[1:]] == [[b"2"], [b"3"]]  # type: ignore[arg-type]
    assert got[0] == (1, b"1")


async def test_the_end_of_a_lease_wakes(queues: MessageQueues) -> None:
    await queues.put_batch(b"q", [b"1"])
    await queues.receive(b"q", 1, SOON_S)
    (again,) = await queues.receive(b"q", 1, LONG_S, LONG_S)
    assert (again.payload, again.attempts) == (b"1", 2)


async def test_the_end_of_a_delay_wakes_a_legacy_wait(queues: MessageQueues) -> None:
    await queues.put_batch(b"q", [b"1"])
    (message,) = await queues.receive(b"q", 1, LONG_S)
    got: list[object] = []
    async with trio.open_nursery() as nursery:
        await park(nursery, lambda: queues.get(b"q", LONG_S), got)
        await queues.release(b"q", [(message.lease, SOON_S)])
    assert got == [(1, b"1")]


async def test_a_release_and_a_resume_wake(queues: MessageQueues) -> None:
    await queues.put_batch(b"q", [b"1"])
    (message,) = await queues.receive(b"q", 1, LONG_S)
    got: list[object] = []
    async with trio.open_nursery() as nursery:
        await park(nursery, lambda: queues.get(b"q", LONG_S), got)
        await queues.update_queue(b"q", {"paused": True})
        await queues.release(b"q", [(message.lease, 0)])
        await wait_all_tasks_blocked(0.05)
        assert got == []
        assert (await queues.describe_queue(b"q")).waiting == 1
        await queues.update_queue(b"q", {"paused": False})
    assert got == [(1, b"1")]


async def test_waits_outlive_their_queue(queues: MessageQueues) -> None:
    await queues.put_batch(b"q", [b"1"])
    (message,) = await queues.receive(b"q", 1, LONG_S)
    got: list[object] = []
    async with trio.open_nursery() as nursery:
        await park(nursery, lambda: queues.get(b"q", LONG_S), got)
        await park(nursery, lambda: queues.receive(b"q", 1, 0, LONG_S), got)
        await queues.delete_queue(b"q")
        await wait_all_tasks_blocked(0.01)
        assert queues.list_queues(None, 9) == ([], None)
        assert got == []
        await queues.put_batch(b"q", [b"2", b"3"])
    assert got[0] == (1, b"2")
    assert payloads(got[1]) == [b"3"]  # type: ignore[arg-type]
    assert await queues.acknowledge(b"q", [message.lease]) == [Outcome.EXPIRED]


async def test_parked_long_polls_are_limited(tmp_path: Path) -> None:
    async with opened(tmp_path, long_polls_max=2) as queues:
        got: list[object] = []
        async with trio.open_nursery() as nursery:
            await park(nursery, lambda: queues.get(b"a", LONG_S), got)
            await park(nursery, lambda: queues.get(b"b", LONG_S), got)
            with pytest.raises(LimitExceeded, match="2"):
                await queues.get(b"c", LONG_S)
            nursery.cancel_scope.cancel()
        assert await queues.get(b"c", SOON_S) is None


async def test_out_of_attempts_moves_to_the_dead_letter_queue(queues: MessageQueues) -> None:
    await queues.create_queue(b"q", QueueOptions(max_attempts=2, dead_letter=b"lost & found"))
    await queues.put_batch(b"q", [b"bad", b"good"], [b"text/plain", b""])
    for _ in range(2):
        (message,) = await queues.receive(b"q", 1, LONG_S)
        await queues.release(b"q", [(message.lease, 0)])
    found = await queues.get(b"lost & found", LONG_S)
    assert found == (1, b"bad")
    dead = await queues.peek(b"lost & found", 1)
    assert isinstance(dead, Message)
    assert dead.headers[0] == (b"content-type", b"text/plain")
    assert dead.headers[1][0] == b"logqueue-dead"
    assert dead.headers[1][1].startswith(b"queue=q; sequence=1; attempts=2; put=")
    assert payloads(await queues.receive(b"q", 9, LONG_S)) == [b"good"]


async def test_an_expired_lease_is_buried_while_nobody_asks(queues: MessageQueues) -> None:
    await queues.create_queue(b"q", QueueOptions(max_attempts=1, dead_letter=b"dlq"))
    await queues.put_batch(b"q", [b"bad"])
    await queues.receive(b"q", 1, SOON_S)
    assert await queues.get(b"dlq", LONG_S) == (1, b"bad")


async def test_the_dead_wait_for_room_and_survive_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as queues:
        await queues.create_queue(b"dlq", QueueOptions(max_length=10))
        await queues.put_batch(b"dlq", [b"x"] * 10)
        await queues.create_queue(b"q", QueueOptions(max_attempts=1, dead_letter=b"dlq"))
        await queues.put_batch(b"q", [b"bad"])
        (message,) = await queues.receive(b"q", 1, LONG_S)
        await queues.release(b"q", [(message.lease, 0)])
        await wait_all_tasks_blocked(0.05)
        assert (await queues.describe_queue(b"q")).dead == 1
        assert (await queues.status(b"dlq")).unread == 10
    async with opened(tmp_path) as queues:
        assert len(await queues.receive(b"dlq", 10, 0)) == 10
        assert await queues.get(b"dlq", LONG_S) == (1, b"bad")
        with trio.fail_after(LONG_S):  # it is settled here only once it is durable there
            while (await queues.status(b"q")).unread:
                await wait_all_tasks_blocked(0.01)


class SlowDisk(MmapDisk):
    """Segments are opened once `goes_on` is set; `waits` tells that one is to be."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on, self.waits = threading.Event(), threading.Event()

    def open(self, path: str, *, writable: bool = False) -> Extent:
        if path.endswith(".log"):
            self.waits.set()
            assert self.goes_on.wait(LONG_S)
        return super().open(path, writable=writable)


async def test_the_dead_are_purged_while_they_are_read_from_the_disk(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with opened(tmp_path, disk=disk) as queues:
        await queues.create_queue(b"q", QueueOptions(max_attempts=1, dead_letter=b"dlq"))
        await queues.put_batch(b"q", [b"bad"])
        (message,) = await queues.receive(b"q", 1, LONG_S)
        await queues.put_batch(b"q", [bytes(40_000)])  # into the next segment
        await queues.release(b"q", [(message.lease, 0)])
        await trio.to_thread.run_sync(disk.waits.wait)
        assert await queues.purge_queue(b"q") == 2
        disk.goes_on.set()
        await queues.put_batch(b"q", [b"good"])
        assert payloads(await queues.receive(b"q", 9, 0)) == [b"good"]
        await wait_all_tasks_blocked(0.05)
        assert await queues.put(b"q", b"and on") is not None
        assert (await queues.describe_queue(b"q")).last == 4


async def test_everything_survives_a_restart_but_the_waits(tmp_path: Path) -> None:
    async with opened(tmp_path) as queues:
        await queues.create_queue(b"q", QueueOptions(lease_s=LONG_S))
        await queues.put_batch(b"q", [b"1", b"2", b"3"])
        one, two = await queues.receive(b"q", 2, None)
        await queues.acknowledge(b"q", [two.lease])
    async with opened(tmp_path) as queues:
        assert (await queues.status(b"q")).unread == 2
        assert (await queues.describe_queue(b"q")).leased == 1
        assert await queues.get(b"q") == (3, b"3")
        assert await queues.acknowledge(b"q", [one.lease]) == [Outcome.DONE]
        assert (await queues.describe_queue(b"q")).consumed == 3


async def test_leases_of_queues_that_are_closed_meanwhile(tmp_path: Path) -> None:
    async with opened(tmp_path, queues_open_max=1) as queues:
        got: list[object] = []
        async with trio.open_nursery() as nursery:
            for name in (b"a", b"b", b"c"):
                await queues.put_batch(name, [name])
                await queues.receive(name, 1, SOON_S)
                await park(nursery, lambda name=name: queues.get(name, LONG_S), got)  # type: ignore[misc]
        assert sorted(got) == [(1, b"a"), (1, b"b"), (1, b"c")]  # type: ignore[type-var]


async def test_old_messages_are_passed_over_by_a_long_poll(queues: MessageQueues) -> None:
    await queues.put_batch(b"q", [b"old"] * 2500)
    await queues.update_queue(b"q", {"max_age_s": 0.001})
    await trio.sleep(0.01)  # the age itself, not a synchronisation
    got: list[object] = []
    async with trio.open_nursery() as nursery:
        await park(nursery, lambda: queues.receive(b"q", 1, 0, LONG_S), got)
        await queues.update_queue(b"q", {"max_age_s": 3600})
        await queues.put(b"q", b"new")
    assert [payloads(each) for each in got] == [[b"new"]]  # type: ignore[arg-type]
    assert (await queues.describe_queue(b"q")).expired == 2500


async def test_create_update_list(queues: MessageQueues) -> None:
    assert await queues.create_queue(b"b", QueueOptions(max_age_s=5))
    assert not await queues.create_queue(b"b", QueueOptions(max_age_s=5))
    with pytest.raises(BadOption):
        await queues.create_queue(b"b", QueueOptions())
    with pytest.raises(BadOption, match="dead_letter"):
        await queues.create_queue(b"c", QueueOptions(max_attempts=1, dead_letter=b"c"))
    details = await queues.update_queue(b"b", {"lease_s": 7, "max_length": 500})
    assert details.options == QueueOptions(max_age_s=5, lease_s=7, max_length=500)
    await queues.put_batch(b"b", [b"x"] * 20)
    with pytest.raises(BadOption, match="max_length"):
        await queues.update_queue(b"b", {"max_length": 10, "lease_s": 8})
    assert (await queues.describe_queue(b"b")).options.lease_s == 7
    for name in (b"a", b"", b"d"):
        await queues.put(name, b"1")
    found, following = queues.list_queues(None, 3)
    assert [(each.name, each.unread) for each in found] == [(b"", 1), (b"a", 1), (b"b", 20)]
    assert following == b"b"
    found, following = queues.list_queues(b"b", 3)
    assert [each.name for each in found] == [b"d"]
    assert following is None
    for operation in (queues.describe_queue, queues.purge_queue, queues.delete_queue):
        with pytest.raises(NoSuchQueue):
            await operation(b"nobody's")


async def test_purge_takes_leased_ones_too(queues: MessageQueues) -> None:
    await queues.put_batch(b"q", [b"1", b"2", b"3"])
    (message,) = await queues.receive(b"q", 1, LONG_S)
    assert await queues.purge_queue(b"q") == 3
    assert await queues.acknowledge(b"q", [message.lease]) == [Outcome.EXPIRED]
    assert await queues.put_batch(b"q", [b"4"]) == (4, 4, 4)
    assert payloads(await queues.receive(b"q", 9, 0)) == [b"4"]
    assert await queues.purge_queue(b"q") == 0


async def test_peek_tells_the_state(queues: MessageQueues) -> None:
    await queues.put_batch(b"q", [b"%d" % number for number in range(1, 7)])
    assert await queues.get(b"q") == (1, b"1")
    two, three, four = await queues.receive(b"q", 3, LONG_S)
    await queues.acknowledge(b"q", [three.lease])
    await queues.release(b"q", [(four.lease, LONG_S)])
    states = [(each.payload, each.state) for each in await queues.peek_from(b"q", 1, 5)]
    assert states == [
        (b"1", State.CONSUMED),
        (b"2", State.LEASED),
        (b"3", State.CONSUMED),
        (b"4", State.DELAYED),
        (b"5", State.READY),
    ]
    last = await queues.peek(b"q", 6)
    assert isinstance(last, Message)
    assert (last.payload, last.state, last.lease) == (b"6", State.READY, "")
    assert await queues.peek(b"q", 7) is State.UNWRITTEN
    assert await queues.peek(b"q", 0) is State.UNWRITTEN
    assert await queues.acknowledge(b"q", [two.lease]) == [Outcome.DONE]


async def test_peek_across_segments_and_what_is_compacted(queues: MessageQueues) -> None:
    bodies = [bytes([number]) * 20_000 for number in range(20)]
    for body in bodies:
        await queues.put(b"q", body)
    assert payloads(await queues.peek_from(b"q", 1, 99)) == bodies
    await queues.purge_queue(b"q")
    assert await queues.peek(b"q", 1) is State.COMPACTED
    assert await queues.peek(b"q", 21) is State.UNWRITTEN


async def test_consumed_messages_that_are_kept_show_in_the_description(
    queues: MessageQueues,
) -> None:
    await queues.create_queue(b"q", QueueOptions(retain_s=3600))
    for _ in range(3):  # a segment each
        await queues.put_batch(b"q", [bytes(20_000)])
    live = (await queues.describe_queue(b"q")).bytes_on_disk
    assert len(await queues.receive(b"q", 9, 0)) == 3
    details = await queues.describe_queue(b"q")
    assert details.bytes_on_disk == live
    assert 0 < details.bytes_retained < live
    assert details.bytes_consumed == 0
