"""Runs recorded HTTPSQS 1.7 conversations against a daemon.

A recording is one JSON line a scenario: `scenario`, `about`, `server_args` and `steps`.  A request
step holds the raw bytes sent (`request`, latin-1, or run-length encoded as `request_rle`) and what
came back: `status_line`, `headers` (those that are compared, in wire order), `header_names` (all
of them), `body` or `body_rle`, `closed`, and `more` for pipelined answers.  `conn` labels a
connection that steps share, `pause_at` cuts the bytes into pieces, `await_continue` waits for an
interim answer there, `half_close` shuts the sending side down.  A control step restarts the
daemon, sleeps, or asks whether a connection is closed.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

from tests.daemon import Daemon

Step = dict[str, Any]
Scenario = dict[str, Any]

GOLDEN = Path(__file__).parent / "golden"
COMPARED = ("content-type", "connection", "cache-control", "pos", "content-length")
RESULT = ("status_line", "headers", "header_names", "body", "interim", "more", "closed", "bytes")

ANSWER_S = 20.0  # an answer that was recorded may take this long, on a busy machine
SILENCE_S = 0.7  # where none was recorded: no answer within this, none comes
PIECE_S = 0.04  # between the pieces of a request
STILL_OPEN_S = 0.02  # a connection that should stay open did so for this long after an answer
CLOSES_S = 20.0  # a connection that should close has this long
UNFRAMED_S = 0.25  # silence that ends an answer without a length


def scenarios() -> list[Scenario]:
    """All recorded scenarios."""
    lines = (GOLDEN / "httpsqs-1.7.jsonl").read_text(encoding="ascii").splitlines()
    return [json.loads(line) for line in lines]


def unpack(step: Step, key: str) -> str:
    """A recorded text, its run-length form undone."""
    if f"{key}_rle" in step:
        return "".join(text * times for text, times in step[f"{key}_rle"])
    return str(step.get(key, ""))


def expected(step: Step) -> Step:
    """What a recorded step compares, in the terms of `Runner.play`."""
    result = {key: step[key] for key in RESULT if step.get(key) is not None}
    if "control" not in step:
        result["body"] = unpack(step, "body")
    if "more" in step:
        result["more"] = [expected(answer) for answer in step["more"]]
    return result


class Connection:
    """A client's end that keeps what it has received."""

    def __init__(self, daemon: Daemon) -> None:
        self.socket = daemon.connect()
        self.received = b""
        self.ended = False

    def fill(self, timeout_s: float) -> bool:
        """Receive once; False on silence or at the end."""
        if self.ended:
            return False
        self.socket.settimeout(max(timeout_s, 0.001))
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        self.received += data
        self.ended = not data
        return bool(data)

    def send(self, data: bytes) -> None:
        """Send all of it; a daemon that has hung up meanwhile may have answered before."""
        self.socket.settimeout(5)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def answer(self, method: str, interim: list[str], patience_s: float) -> Step | None:
        """The next final answer; interim ones are collected by their status lines."""
        while True:
            while b"\r\n\r\n" not in self.received and self.fill(patience_s):
                pass
            if not self.received:
                return None
            head, found, self.received = self.received.partition(b"\r\n\r\n")
            assert found, f"an answer without an end of its head: {head!r}"
            status_line, *lines = head.decode("latin-1").split("\r\n")
            if not status_line.split()[1].startswith("1"):
                break
            interim.append(status_line)
        headers = [line.split(": ", 1) for line in lines]
        return {
            "status_line": status_line,
            "headers": [[name, value] for name, value in headers if name.lower() in COMPARED],
            "header_names": [name for name, _ in headers],
            "body": self._body(dict(headers), method).decode("latin-1"),
        }

    def _body(self, headers: dict[str, str], method: str) -> bytes:
        length = headers.get("Content-Length")
        if method == "HEAD" or length is None:
            while self.fill(UNFRAMED_S):
                pass
            body, self.received = self.received, b""
            return body
        while len(self.received) < int(length) and self.fill(ANSWER_S):
            pass
        body, self.received = self.received[: int(length)], self.received[int(length) :]
        return body


class Runner:
    """Plays one scenario's steps."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._connections: dict[str, Connection] = {}

    def play(self, step: Step) -> Step:
        """Play a step; what happened, in the terms of `expected`."""
        return self._control(step) if "control" in step else self._request(step)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()

    def _request(self, step: Step) -> Step:
        label = step.get("conn")
        connection = self._connections.get(label or "")
        if connection is None or connection.ended:
            connection = Connection(self._daemon)
        if label:
            self._connections[label] = connection
        request = unpack(step, "request").encode("latin-1")
        self._send(connection, step, request)
        interim: list[str] = []
        answers: list[Step] = []
        recorded = 0 if step["status"] is None else 1 + len(step.get("more", ()))
        for method in step.get("methods") or [request.split(b" ", 1)[0].decode("latin-1")]:
            patience_s = ANSWER_S if len(answers) < recorded else SILENCE_S
            answer = connection.answer(method, interim, patience_s)
            if answer is None:
                break
            answers.append(answer)
        self._watch(connection, step)
        while connection.received:
            answer = connection.answer("GET", interim, SILENCE_S)
            assert answer is not None
            answers.append(answer)
        result: Step = (
            dict(answers[0]) if answers else {"headers": [], "header_names": [], "body": ""}
        )
        if answers[1:]:
            result["more"] = answers[1:]
        if interim:
            result["interim"] = interim
        result["closed"] = connection.ended
        if not label or connection.ended:
            connection.socket.close()
            self._connections.pop(label or "", None)
        return result

    def _send(self, connection: Connection, step: Step, request: bytes) -> None:
        awaited = step.get("await_continue")
        at = 0
        for cut in sorted([*step.get("pause_at", ()), *([awaited] if awaited else ())]):
            connection.send(request[at:cut])
            if cut == awaited:
                connection.fill(ANSWER_S)
            else:
                time.sleep(PIECE_S)
            at = cut
        connection.send(request[at:])
        if step.get("half_close"):
            connection.socket.shutdown(socket.SHUT_WR)

    def _watch(self, connection: Connection, step: Step) -> None:
        """See whether the connection closes, and whether surplus bytes come."""
        deadline = time.monotonic() + (CLOSES_S if step["closed"] else STILL_OPEN_S)
        while not connection.ended and (left := deadline - time.monotonic()) > 0:
            connection.fill(left)

    def _control(self, step: Step) -> Step:
        match step["control"]:
            case "sleep":
                time.sleep(step["seconds"])
                return {}
            case "restart":
                self.close()
                self._daemon.stop(signal.Signals[f"SIG{step['signal']}"])
                self._daemon.start()
                return {}
            case "closed?":
                connection = self._connections.get(step["conn"])
                if connection is not None:
                    connection.fill(CLOSES_S if step["closed"] else STILL_OPEN_S)
                closed = connection is None or connection.ended
                surplus = b"" if connection is None else connection.received
                return {"closed": closed} | (
                    {"bytes": surplus.decode("latin-1")} if surplus else {}
                )
        raise AssertionError(step)
