"""Which queue each directory holds, told from all of them together.  Reads only.

A queue's files bear its id; its name stands in its meta file alone, and in its directory's name.
Where the meta file is lost, the other files say whose directory it is, and what was put into a
wrong directory must not outvote them: records never come out under another queue's name.  So

  1. a sound meta file gives its id to the directory that its name asks for, wherever it lies;
  2. of the other ids each goes to the one directory where the most files speak for it;
  3. where two are as likely, to neither: then its records come out under a name of their own.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from logqueue.errors import Corrupt, LogqueueError, NewerFormat
from logqueue.storage.cursor import read_cursor
from logqueue.storage.disk import Disk
from logqueue.storage.format import (
    CURSOR_FILE_BYTES,
    META_BYTES,
    PAGE,
    Meta,
    decode_meta,
    decode_segment_header,
)
from logqueue.storage.format import META as META_FILE
from logqueue.storage.layout import CURSOR, META, directory_name, segment_base
from logqueue.storage.recovery import queue_seed
from logqueue.storage.tail import open_existing

META_BYTES_MAX = 1 << 20  # a meta file has a few hundred bytes; nothing larger is read


@dataclass(slots=True)
class Identities:
    """`ids`: directory name -> id of the queue that lives there, where that can be told.
    `metas`: id -> the sound meta file of that queue, wherever it lies."""

    ids: dict[str, bytes] = field(default_factory=dict)
    metas: dict[bytes, Meta] = field(default_factory=dict)

    @property
    def known(self) -> set[bytes]:
        """All ids that are surely some queue's."""
        return {*self.ids.values(), *self.metas}

    def settings_of(self, name: str) -> Meta | None:
        """The sound meta file of the queue in the directory `name`, under a name that is free: a
        directory that was renamed gets its own name back, unless that is another's by now."""
        meta = self.metas.get(self.ids.get(name, b""))
        taken = meta is None or directory_name(meta.name) in self.ids.keys() - {name}
        return None if taken else meta


def identify(disk: Disk, queues: str, names: Iterable[str]) -> Identities:
    """Who lives in the directories `names` below `queues`.  Raises LimitExceeded."""
    found = Identities()
    places = list(names)
    astray = []
    for name in places:
        with contextlib.suppress(LogqueueError, OSError):
            meta = read_meta(disk, os.path.join(queues, name))
            if directory_name(meta.name) == name:
                found.ids[name], found.metas[meta.queue_id] = meta.queue_id, meta
            else:
                astray.append(meta)
    for meta in astray:
        home = directory_name(meta.name)
        if home in places and home not in found.ids and meta.queue_id not in found.metas:
            found.ids[home] = meta.queue_id
        found.metas.setdefault(meta.queue_id, meta)
    nameless = [name for name in places if name not in found.ids]
    if nameless:
        _vote(disk, queues, places, nameless, found)
    return found


def read_meta(disk: Disk, directory: str) -> Meta:
    """The meta file of a queue's directory.  Raises Corrupt, NewerFormat, LimitExceeded."""
    data = _raw_meta(disk, directory)
    return decode_meta(os.path.join(directory, META), data)


def _raw_meta(disk: Disk, directory: str) -> bytes:
    path = os.path.join(directory, META)
    with contextlib.closing(open_existing(disk, path)) as extent:
        if extent.size > META_BYTES_MAX:
            raise Corrupt(path, extent.size, "too large for a meta file")
        return extent.read(0, extent.size)


def name_in_damaged_meta(disk: Disk, directory: str) -> bytes | None:
    """The queue's name as a damaged meta file has it, when the directory's name proves it."""
    with contextlib.suppress(LogqueueError):
        data = _raw_meta(disk, directory)
        if len(data) >= META_BYTES:
            name = data[META_BYTES:][: META_FILE.unpack_from(data)[5]]
            if directory_name(name) == os.path.basename(directory):
                return name
    return None


def _vote(
    disk: Disk, queues: str, places: list[str], nameless: list[str], found: Identities
) -> None:
    """Rules 2 and 3 for the directories that no meta file names."""
    taken = set(found.ids.values())
    headers = {name: list(_headers(disk, os.path.join(queues, name))) for name in places}
    written = {name: _id_in_damaged_meta(disk, os.path.join(queues, name)) for name in nameless}
    candidates = {queue_id for each in headers.values() for queue_id, _ in each}
    candidates |= {*written.values(), *found.metas} - {b""}
    votes: Counter[tuple[str, bytes]] = Counter()
    for name in nameless:
        votes.update((name, queue_id) for queue_id, in_place in headers[name] if in_place)
        for queue_id in _ids_of_cursor(disk, os.path.join(queues, name), candidates):
            votes[name, queue_id] += 1
        if votes[name, written[name]]:
            votes[name, written[name]] += 1
    _elect(Counter({pair: n for pair, n in votes.items() if n and pair[1] not in taken}), found)


def _elect(votes: Counter[tuple[str, bytes]], found: Identities) -> None:
    """Give ids to directories, the best vouched for first."""
    while votes:
        most = max(votes.values())
        best = [pair for pair, count in votes.items() if count == most]
        settled_names, settled_ids = Counter(n for n, _ in best), Counter(i for _, i in best)
        for name, queue_id in best:
            if settled_names[name] == settled_ids[queue_id] == 1:
                found.ids[name] = queue_id
        for name, queue_id in list(votes):
            if name in settled_names or queue_id in settled_ids:
                del votes[name, queue_id]


def _headers(disk: Disk, directory: str) -> Iterator[tuple[bytes, bool]]:
    """The queue id of each readable segment, and whether the file is in its own place."""
    for name in disk.list(directory):
        base = segment_base(name)
        if base is not None:
            path = os.path.join(directory, name)
            with (
                contextlib.suppress(Corrupt, NewerFormat),
                contextlib.closing(open_existing(disk, path)) as extent,
            ):
                header = decode_segment_header(path, extent.read(0, PAGE))
                yield header.queue_id, header.base == base


def _id_in_damaged_meta(disk: Disk, directory: str) -> bytes:
    with contextlib.suppress(LogqueueError):
        data = _raw_meta(disk, directory)
        if len(data) >= META_BYTES:
            queue_id: bytes = META_FILE.unpack_from(data)[3]
            return queue_id
    return b""


def _ids_of_cursor(disk: Disk, directory: str, candidates: Iterable[bytes]) -> Iterator[bytes]:
    """Those of `candidates` under whose id the cursor file verifies."""
    path = os.path.join(directory, CURSOR)
    with contextlib.suppress(Corrupt):
        with contextlib.closing(open_existing(disk, path)) as extent:
            data = extent.read(0, CURSOR_FILE_BYTES + 1)
        for queue_id in candidates:
            with contextlib.suppress(Corrupt, NewerFormat):
                read_cursor(path, data, queue_seed(queue_id))
                yield queue_id
