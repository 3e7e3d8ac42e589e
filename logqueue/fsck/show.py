"""What is in a data directory, for people and programs: the records, and figures of each queue."""

from __future__ import annotations

import base64
import contextlib
import sys
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

from logqueue.errors import Corrupt
from logqueue.fsck.build import records
from logqueue.fsck.check import Checkup
from logqueue.fsck.plan import Part, plan
from logqueue.fsck.segmentfile import Piece
from logqueue.fsck.survey import Survey
from logqueue.storage.disk import Disk
from logqueue.storage.format import Ring, index_lookup
from logqueue.storage.frame import Frame
from logqueue.storage.reader import Reader, stored_index
from logqueue.storage.tail import open_existing

Row = dict[str, object]


def shown_name(found: Survey) -> str:
    """A queue's name as in a URL."""
    return quote_from_bytes(found.meta.name, safe="") if found.meta else found.queue


def dump(disk: Disk, checkup: Checkup, first: int = 1, limit: int = sys.maxsize) -> Iterator[Row]:
    """The valid records of the queues in `checkup`, from the sequence `first` on, at most `limit`
    of each queue."""
    for found in checkup.surveys:
        if found.meta is None:
            continue
        left = limit
        for frame in _frames(disk, plan(found, checkup.strays_of(found), apart=True).parts, first):
            if left == 0:
                break
            left -= 1
            yield _row(shown_name(found), found.meta.rings, frame)


def _frames(disk: Disk, parts: list[Part], first: int) -> Iterator[Frame]:
    for part in parts:
        assert isinstance(part.source, Piece)
        if part.last >= first:
            start = max(part.first, first)
            yield from records(disk, _from(disk, part.source, start), start, part.last)


def _from(disk: Disk, piece: Piece, sequence: int) -> Piece:
    """The piece, begun as near before the record `sequence` as the segment's index knows."""
    with (
        contextlib.suppress(Corrupt),  # the index cannot be read: then from the piece's beginning
        contextlib.closing(open_existing(disk, piece.path)) as extent,
    ):
        reader = Reader(extent, piece.seed, piece.end)
        index = [each for each in stored_index(reader) if each[0] >= piece.first]
        return piece._replace(offset=max(piece.offset, index_lookup(index, sequence)))
    return piece


def _row(queue: str, rings: tuple[Ring, ...], frame: Frame) -> Row:
    ring = next((each for each in reversed(rings) if frame.sequence > each.after), rings[0])
    row: Row = {
        "queue": queue,
        "sequence": frame.sequence,
        "position": (frame.sequence - ring.base - 1) % ring.maxqueue + 1,
        "time": frame.timestamp,
        "length": len(frame.payload),
    }
    try:
        row["text"] = frame.payload.decode()
    except UnicodeDecodeError:
        row["base64"] = base64.b64encode(frame.payload).decode()
    return row


def stat(disk: Disk, checkup: Checkup) -> Iterator[Row]:
    """The figures of each queue; sizes in bytes, times in milliseconds since the epoch."""
    for found in checkup.surveys:
        pieces = [piece for segment in found.segments for piece in segment.pieces]
        consumed = found.consumed
        total = sum(piece.last - piece.first + 1 for piece in pieces)
        live = sum(max(0, piece.last - max(piece.first - 1, consumed)) for piece in pieces)
        checkpoint = found.checkpoint
        yield {
            "queue": shown_name(found),
            "segments": len(found.segments),
            "file_bytes": sum(segment.size for segment in found.segments),
            "live_records": live,
            "consumed_records": total - live,
            "live_bytes": _live_bytes(disk, pieces, consumed),
            "record_bytes": sum(piece.end - piece.offset for piece in pieces),
            "first": pieces[0].first if pieces else 0,
            "last": pieces[-1].last if pieces else 0,
            "consumed": consumed,
            "durable_mark": checkpoint.durable if checkpoint else 0,
            "clean": bool(checkpoint and checkpoint.clean),
            "maxqueue": found.meta.rings[-1].maxqueue if found.meta else 0,
            "oldest": _time(disk, pieces[0], pieces[0].first) if pieces else None,
            "newest": _time(disk, pieces[-1], pieces[-1].last) if pieces else None,
        }


def _live_bytes(disk: Disk, pieces: list[Piece], consumed: int) -> int:
    total = 0
    for piece in pieces:
        begin = piece.offset
        if piece.first <= consumed:
            begin = piece.end
            if consumed < piece.last:
                begin = next(
                    records(disk, _from(disk, piece, consumed + 1), consumed + 1, piece.last)
                ).offset
        total += piece.end - begin
    return total


def _time(disk: Disk, piece: Piece, sequence: int) -> int:
    return next(records(disk, _from(disk, piece, sequence), sequence, sequence)).timestamp
