"""What HTTPSQS says of a queue, byte for byte: `opt=status` and `opt=status_json`.  PURE."""

from __future__ import annotations

import re

from logqueue.web.queues import Status

_control = re.compile(rb"[\x00-\x1f\x7f]")
_json_unsafe = re.compile(rb'[\x00-\x1f"\\]')


def status_text(name: bytes, status: Status) -> bytes:
    """The page of `opt=status`."""
    return (
        b"HTTP Simple Queue Service v1.7\n"
        b"------------------------------\n"
        b"Queue Name: %b\n"
        b"Maximum number of queues: %d\n"
        b"Put position of queue (%b lap): %d\n"
        b"Get position of queue (%b lap): %d\n"
        b"Number of unread queue: %d\n"
    ) % (
        _control.sub(lambda raw: b"%%%02X" % ord(raw[0]), name),
        status.maxqueue,
        b"1st" if status.putlap == 1 else b"2nd",
        status.putpos,
        b"1st" if status.getlap == 1 else b"2nd",
        status.getpos,
        status.unread,
    )


def status_json(name: bytes, status: Status) -> bytes:
    """One line of JSON.  The name's bytes beyond ASCII go out as they came in, GBK included."""
    return (
        b'{"name":"%b","maxqueue":%d,"putpos":%d,"putlap":%d,"getpos":%d,"getlap":%d,"unread":%d}\n'
    ) % (
        _json_unsafe.sub(lambda raw: b"\\u%04x" % ord(raw[0]), name),
        status.maxqueue,
        status.putpos,
        status.putlap,
        status.getpos,
        status.getlap,
        status.unread,
    )
