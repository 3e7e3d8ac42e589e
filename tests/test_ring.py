"""Random operations on small rings, against a model written from the rules of HTTPSQS 1.7.

The model is the ring itself (docs/http.md, Positions): put position P, get position G, size M and
slots 1..M.  The daemon keeps sequences instead; both must tell a client the same, restarts and
kill -9 included.
"""

from __future__ import annotations

import http.client
import itertools
import json
import signal
from pathlib import Path
from urllib.parse import urlencode

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.daemon import running

FIRST_SIZE = 1_000_000


class Ring:
    """HTTPSQS's queue."""

    def __init__(self) -> None:
        self.put_position = self.get_position = 0
        self.size = FIRST_SIZE
        self.slots: dict[int, bytes] = {}

    def put(self, message: bytes) -> int | None:
        place = self.put_position + 1
        if place == self.get_position:
            return None
        if place > self.size:
            if self.get_position <= 1:
                return None
            place = 1
        self.put_position = place
        self.slots[place] = message
        return place

    def get(self) -> tuple[int, bytes] | None:
        put, got = self.put_position, self.get_position
        if got == put:
            return None
        self.get_position = got + 1 if got < put or got < self.size else 1
        return self.get_position, self.slots[self.get_position]

    def resize(self, size: int) -> bool:
        put, got = self.put_position, self.get_position
        fits = size >= put >= got
        if fits:
            self.size = size
        return fits

    @property
    def status(self) -> dict[str, int]:
        put, got, size = self.put_position, self.get_position, self.size
        return {
            "maxqueue": size,
            "putpos": put,
            "putlap": 2 if put < got else 1,
            "getpos": got,
            "getlap": 1,
            "unread": put - got if put >= got else size - got + put,
        }


def run_machine(kill: bool, directory: Path) -> None:
    """Let hypothesis drive one daemon; each example has a queue of its own."""
    names = itertools.count()
    with running(directory, ["--durability", "os"]) as daemon:

        class Machine(RuleBasedStateMachine):
            @initialize(size=st.sampled_from([10, 11, 13, None]))
            def begin(self, size: int | None) -> None:
                self.name = f"ring{next(names)}"
                self.numbers = itertools.count()
                self.ring = Ring()
                self.connect()
                if size is not None:
                    self.resize(size)

            def connect(self) -> None:
                self.connection = http.client.HTTPConnection("127.0.0.1", daemon.port, 10)

            def ask(self, opt: str, **given: object) -> tuple[bytes, int | None]:
                query = urlencode({"name": self.name, "opt": opt, **given})
                self.connection.request("GET", f"/?{query}")
                response = self.connection.getresponse()
                position = response.getheader("Pos")
                return response.read(), None if position is None else int(position)

            @rule(times=st.integers(1, 12))
            def put(self, times: int) -> None:
                for _ in range(times):
                    message = b"message %d" % next(self.numbers)
                    position = self.ring.put(message)
                    body = b"HTTPSQS_PUT_END" if position is None else b"HTTPSQS_PUT_OK"
                    assert self.ask("put", data=message) == (body, position)

            @rule(times=st.integers(1, 12))
            def get(self, times: int) -> None:
                for _ in range(times):
                    found = self.ring.get()
                    answer = (b"HTTPSQS_GET_END", None) if found is None else (found[1], found[0])
                    assert self.ask("get") == answer

            @rule(size=st.integers(10, 16))
            def resize(self, size: int) -> None:
                done = self.ring.resize(size)
                body = b"HTTPSQS_MAXQUEUE_OK" if done else b"HTTPSQS_MAXQUEUE_CANCEL"
                assert self.ask("maxqueue", num=size) == (body, None)

            @rule(position=st.integers(1, 17))
            def view_unread(self, position: int) -> None:
                """Read ones may have been freed; unread ones are there."""
                put, got = self.ring.put_position, self.ring.get_position
                unread = got < position <= put if put >= got else position > got or position <= put
                if unread and position in self.ring.slots and position <= self.ring.size:
                    assert self.ask("view", pos=position) == (self.ring.slots[position], None)

            @rule()
            def reset(self) -> None:
                assert self.ask("reset") == (b"HTTPSQS_RESET_OK", None)
                self.ring = Ring()
                for position in range(1, 17):
                    assert self.ask("view", pos=position) == (b"", None)

            if kill:

                @rule(how=st.sampled_from([signal.SIGTERM, signal.SIGKILL]))
                def restart(self, how: signal.Signals) -> None:
                    self.connection.close()
                    daemon.stop(how)
                    daemon.start()
                    self.connect()

            @invariant()
            def status(self) -> None:
                body, _ = self.ask("status_json")
                assert json.loads(body) == {"name": self.name, **self.ring.status}

            def teardown(self) -> None:
                self.connection.close()

        Machine.TestCase.settings = settings(
            max_examples=15 if kill else 40,
            stateful_step_count=15 if kill else 30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        Machine.TestCase().runTest()


def test_random_operations(tmp_path: Path) -> None:
    run_machine(kill=False, directory=tmp_path)


def test_random_operations_and_restarts(tmp_path: Path) -> None:
    run_machine(kill=True, directory=tmp_path)
