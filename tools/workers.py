"""Workers: they lease messages, acknowledge most of them, give some back, forget some.

Each runs in a process of its own and keeps a journal (see `tools.jobs`).
"""

from __future__ import annotations

import base64
import json
import random
import time
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any, TextIO

from tools.clients import Busy, Connection, Load
from tools.ledger import sender

AT_ONCE = 16  # messages in one receive
LEASES_MS = (300, 1000)  # some end within a life of the daemon, some outlive it
WAIT_MS = 100  # for the first message
DRY_MS = 1200  # of waiting in a drain: all leases have ended by then
FORGOTTEN, GIVEN_BACK = 0.1, 0.2  # parts of what is received: below these bounds


def work(busy: Semaphore, port: int, queue: str, journal: Path, load: Load, drain: bool) -> None:
    """Lease and acknowledge until the daemon goes away; with `drain`, until nothing comes."""
    chance = random.Random(f"{load.seed} {load.life} {journal.name}")
    with Busy(busy) as at_work, journal.open("w", encoding="ascii") as file:
        connection = Connection(port)
        while True:
            lease_ms = chance.choice(LEASES_MS)
            held = _receive(connection, file, queue, lease_ms, DRY_MS if drain else WAIT_MS)
            if held is None or (drain and not held):
                return
            at_work.tell()
            if not _settle(connection, file, queue, held, None if drain else chance):
                return


def _receive(
    connection: Connection, file: TextIO, queue: str, lease_ms: int, wait_ms: int
) -> dict[str, int] | None:
    """Lease some messages: their leases with their sequences; None when the daemon is gone."""
    query = f"max={AT_ONCE}&lease={lease_ms}ms&wait={wait_ms}ms"
    file.write(f"g {time.monotonic_ns()} {lease_ms}\n")
    file.flush()
    request = _post(f"/v1/queues/{queue}/messages/receive?{query}")
    for status, _, body in connection.ask([request]):
        if status not in (200, 204):
            file.write(f"f {status} {body[:200]!r}\n")
        lines = [json.loads(line) for line in body.splitlines()] if status == 200 else []
        for each in lines:
            file.write(_delivery(each))
        return {each["lease"]: each["sequence"] for each in lines}
    return None


def _delivery(line: dict[str, Any]) -> str:
    data = line.get("data_b64")
    payload = line["data"].encode() if data is None else base64.b64decode(data)
    sequence = line["sequence"]
    try:
        producer, n = sender(payload)
    except ValueError as error:
        return f"x {sequence} {error} {payload[:100]!r}\n"
    return f"d {time.monotonic_ns()} {sequence} {line['attempts']} {producer} {n}\n"


def _settle(
    connection: Connection,
    file: TextIO,
    queue: str,
    held: dict[str, int],
    chance: random.Random | None,
) -> bool:
    """Acknowledge what is held, or as `chance` has it; False when the daemon is gone."""
    draws = {lease: chance.random() if chance else 1.0 for lease in held}
    release = [each for each in held if FORGOTTEN <= draws[each] < GIVEN_BACK]
    ack = [each for each in held if draws[each] >= GIVEN_BACK]
    for what, leases in (("k", ack), ("l", release)):
        sequences = " ".join(str(held[each]) for each in leases)
        file.write(f"{what} {time.monotonic_ns()} {sequences}\n")
    file.flush()
    body = json.dumps({"ack": ack, "release": [{"lease": each} for each in release]})
    for status, _, answer in connection.ask([_post(f"/v1/queues/{queue}/leases", body)]):
        outcome = json.loads(answer)
        if status != 200 or outcome["unknown"]:
            file.write(f"f {status} {answer[:200]!r}\n")
        else:
            ended = " ".join(str(held[each]) for each in outcome["expired"])
            file.write(f"s {time.monotonic_ns()} {ended}\n")
        return True
    return False


def _post(target: str, body: str = "") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    kind = "Content-Type: application/json\r\n" if body else ""
    return f"{head}{kind}\r\n{body}".encode()
