"""Hostile and odd request shapes, and our answer to each, over a real socket.

The rule: what is merely old-fashioned is answered, what leaves a message's length or end in doubt
is refused.  None of these shapes may smuggle a second request past the first.
"""

from __future__ import annotations

import re

import pytest

from tests.daemon import Daemon

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /?name=vectors&opt=put HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"

REFUSED = {
    "length and chunks": (
        400,
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + END + GET + b"\r\n",
    ),
    "length and chunks, and what they hide": (
        400,
        POST
        + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        + END
        + b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    "chunks and length": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + END + GET + b"\r\n",
    ),
    "chunks in HTTP/1.0": (
        400,
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
    ),
    "coding list": (400, POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + END),
    "coding twice": (400, POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + END),
    "coding unknown": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n" + END),
    "coding after VT": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + END),
    "coding folded": (400, POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + END),
    "coding blank before colon": (400, POST + b"Transfer-Encoding : chunked\r\n\r\n" + END),
    "coding behind a bare CR": (400, POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + END),
    "length list": (400, POST + b"Content-Length: 1, 1\r\n\r\nx"),
    "lengths differ": (400, POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    "length underscore": (400, POST + b"Content-Length: 1_0\r\n\r\nx"),
    "length hexadecimal": (400, POST + b"Content-Length: 0x1\r\n\r\nx"),
    "length negative": (400, POST + b"Content-Length: -1\r\n\r\nx"),
    "length empty": (400, POST + b"Content-Length: \r\n\r\nx"),
    "length with a word": (400, POST + b"Content-Length: 3abc\r\n\r\nxyz"),
    "length of 20 digits": (413, POST + b"Content-Length: 99999999999999999999\r\n\r\nx"),
    "length indented": (400, POST + b" Content-Length: 1\r\n\r\nx"),
    "length folded": (400, POST + b"Content-Length: 1\r\n 2\r\n\r\nx"),
    "length blank before colon": (400, POST + b"Content-Length : 1\r\n\r\nx"),
    "NUL in a value": (400, GET + b"X: a\0b\r\n\r\n"),
    "NUL in the target": (400, b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "header without a colon": (400, GET + b"rubbish\r\n\r\n"),
    "odd method": (501, b"get! / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT": (501, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "HTTP/2.0": (400, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "leading CR LF": (400, b"\r\n" + GET + b"\r\n"),
    "leading CR LF twice": (400, b"\r\n\r\n" + GET + b"\r\n"),
    "chunk extension": (413, CHUNKED + b"1;a=b\r\nx\r\n" + END),
    "chunk extension and LF": (413, CHUNKED + b"1;a\nx\r\n" + END),
    "chunk size ends in LF": (413, CHUNKED + b"1\nx\r\n" + END),
    "chunk longer than its size": (413, CHUNKED + b"1\r\nxZZ" + END),
    "chunk size 0x1": (413, CHUNKED + b"0x1\r\nx\r\n" + END),
    "chunk size +1": (413, CHUNKED + b"+1\r\nx\r\n" + END),
    "chunk size negative": (413, CHUNKED + b"-1\r\nx\r\n" + END),
    "chunk size of 21 digits": (413, CHUNKED + b"0" * 20 + b"1\r\nx\r\n" + END),
    "chunk size overflows": (413, CHUNKED + b"F" * 16 + b"\r\nx\r\n" + END),
    "chunk size line without end": (413, CHUNKED + b"0" * 40),
    "empty line before a chunk": (413, CHUNKED + b"\r\n1\r\nx\r\n" + END),
    "trailer ends in LF": (413, CHUNKED + b"0\r\nX: y\n\n"),
    "trailer with a length": (413, CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n"),
    "trailer without end": (413, CHUNKED + b"0\r\n" + b"X: y\r\n" * 2000),
    "TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01"),
    "SSH": (400, b"SSH-2.0-x\r\n"),
    "other expectation": (417, POST + b"Expect: 200-maybe\r\nContent-Length: 1\r\n\r\nx"),
    "sent by another web site": (403, GET + b"Sec-Fetch-Site: cross-site\r\n\r\n"),
    "posted by a form of another web site": (
        403,
        POST + b"Origin: http://evil\r\nContent-Length: 1\r\n\r\nx",
    ),
    "sent by a page without an origin": (403, GET + b"Origin: null\r\n\r\n"),
    "sent by a page on another port": (403, GET + b"Origin: http://a:81\r\n\r\n"),
    "port beyond 65535": (400, b"GET http://h:99999/ HTTP/1.1\r\nHost: a\r\n\r\n"),
}

ANSWERED = {
    "lengths agree": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "length with a plus": POST + b"Content-Length: +1\r\n\r\nx",
    "length padded": POST + b"Content-Length:  \t01 \r\n\r\nx",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "one bare LF": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "bare CR in a value": GET + b"X: a\rb\r\n\r\n",
    "folded value": GET + b"X: a\r\n b\r\n\r\n",
    "first header indented": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "blank before a colon": GET + b"X : y\r\n\r\n",
    "blank in a name": GET + b"X Y: z\r\n\r\n",
    "empty name": GET + b": z\r\n\r\n",
    "0xff in a name": GET + b"X\xff: z\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": GET + b"Host: b\r\n\r\n",
    "empty Host": b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
    "junk Host": b"GET / HTTP/1.1\r\nHost: a b@c\r\n\r\n",
    "absolute form": b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "target without slash": b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "only a fragment": b"GET #b HTTP/1.1\r\nHost: a\r\n\r\n",
    "raw UTF-8 in the target": "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "control byte in the target": b"GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "blank in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "quotes in the target": b'GET /<>"`{} HTTP/1.1\r\nHost: a\r\n\r\n',
    "two blanks": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "blank at the end of the line": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "chunk size and a blank": CHUNKED + b"1 \r\nx\r\n" + END,
    "chunks and trailer": CHUNKED + b"1\r\nx\r\n0\r\nX: y\r\n\r\n",
    "GET with a body": GET + b"Content-Length: 3\r\n\r\nabc",
    "upgrade": GET + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "other expectation without a body": GET + b"Expect: 200-maybe\r\n\r\n",
    "expectation in HTTP/1.0": b"GET / HTTP/1.0\r\nExpect: x\r\n\r\n",
    "sent by our own page": GET + b"Origin: http://A\r\n\r\n",
    "sent by our own page behind a proxy": GET
    + b"Origin: https://public\r\nSec-Fetch-Site: same-origin\r\n\r\n",
    "sent by the address bar": GET + b"Sec-Fetch-Site: none\r\n\r\n",
}


def statuses(answer: bytes) -> list[int]:
    """The status of each answer in these bytes."""
    return [int(found) for found in re.findall(rb"HTTP/1\.\d (\d{3}) ", answer)]


@pytest.mark.parametrize("shape", REFUSED)
def test_refused(daemon: Daemon, shape: str) -> None:
    status, request = REFUSED[shape]
    answer = daemon.talk(request)
    assert statuses(answer) == [status]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert body, "stock PHP clients die of an empty body"
    assert b"\r\nContent-Length: %d" % len(body) in head
    if status == 403:  # HTTPSQS had no such answer
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in head


@pytest.mark.parametrize("shape", ANSWERED)
def test_answered(daemon: Daemon, shape: str) -> None:
    request = ANSWERED[shape]
    closes = request.startswith(b"GET http:") or b"HTTP/1.0" in request
    follower = b"GET /?name=vectors&opt=none HTTP/1.1\r\n\r\n"
    answer = daemon.talk(request + follower)
    assert statuses(answer) == ([200] if closes else [200, 200]), "the next request is out of step"
