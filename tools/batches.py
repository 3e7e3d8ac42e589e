"""Producers and consumers of batches over the v1 API; their journals are those of `tools.clients`.

A batch that was never answered is there as a whole or not at all: the journal says `b` for it.
"""

from __future__ import annotations

import base64
import json
import random
import struct
import time
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

from tools.clients import PAUSE_EMPTY_S, Busy, Connection, Load, receipt, size
from tools.ledger import message

BATCH_MAX = 400  # messages in one put, and in one receive
DRAIN_MAX = 2000
_FRAMES = "application/vnd.logqueue.frames"


def produce_batches(
    busy: Semaphore, port: int, queue: str, producer: int, first: int, journal: Path, load: Load
) -> None:
    """Put batches from message `first` on until the daemon goes away or the limit is reached."""
    chance = random.Random(f"{load.seed} {producer} {first}")
    end = first + load.limit
    with Busy(busy) as at_work, journal.open("w", encoding="ascii") as file:
        connection = Connection(port)
        while first < end:
            last = min(first + chance.randint(1, BATCH_MAX), end) - 1
            payloads = [message(producer, n, size(chance)) for n in range(first, last + 1)]
            file.write(f"b {first} {last}\n")
            file.flush()
            body = b"".join(struct.pack(">I", len(each)) + each for each in payloads)
            for status, _, answer in connection.ask([_post(queue, "batch", _FRAMES, body)]):
                if status == 201:
                    position = json.loads(answer)["pos"]
                    told = [f"a {n} {position + n - first}\n" for n in range(first, last + 1)]
                else:
                    told = [f"f {n} {status}\n" for n in range(first, last + 1)]
                file.write("".join(told))
                break
            else:
                return
            first = last + 1
            at_work.tell()


def consume_batches(
    busy: Semaphore, port: int, queue: str, journal: Path, load: Load, drain: bool
) -> None:
    """Consume batches until the daemon goes away; with `drain`, until the queue is empty."""
    most = DRAIN_MAX if drain else BATCH_MAX
    request = _post(queue, f"receive?max={most}&lease=0", "", b"")
    with Busy(busy) as at_work, journal.open("w", encoding="ascii") as file:
        connection = Connection(port)
        while True:
            file.write(f"g {most}\n")
            file.flush()
            for status, _, body in connection.ask([request]):
                lines = [json.loads(line) for line in body.splitlines()] if status == 200 else []
                if status not in (200, 204):
                    file.write(f"f {status} {body[:200]!r}\n")
                file.write("".join(receipt(each["pos"], _payload(each)) for each in lines))
                file.write(f"e {most - len(lines) - (status not in (200, 204))}\n")
                break
            else:
                return
            at_work.tell()
            if not lines:
                if drain:
                    return
                time.sleep(PAUSE_EMPTY_S)


def _payload(line: dict[str, Any]) -> bytes:
    data = line.get("data_b64")
    payload: bytes = line["data"].encode() if data is None else base64.b64decode(data)
    return payload


def _post(queue: str, what: str, kind: str, body: bytes) -> bytes:
    head = f"POST /v1/queues/{queue}/messages/{what} HTTP/1.1\r\nHost: localhost\r\n"
    if kind:
        head += f"Content-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
