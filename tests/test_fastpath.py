"""The fast path: what it must recognise, and that it never reads a request as h11 would not."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.config import Config
from logqueue.web.fastpath import (
    HEAD_BYTES_MAX,
    HEADER_BLOCK_BYTES_MAX,
    HEADERS,
    recognise,
    recognise_v1,
)
from logqueue.web.message import KEPT, KEPT_1_0, Refused, Request
from logqueue.web.wire import Reader

FAST = Config(data_directory="", header_count_max=len(HEADERS), body_bytes_max=99)
# One byte less than the fast path needs: h11 judges every head.
SLOW = dataclasses.replace(FAST, header_bytes_max=HEAD_BYTES_MAX - 1)


def read(data: bytes, config: Config) -> list[Request | int]:
    reader = Reader(config)
    reader.receive(data)
    found: list[Request | int] = []
    try:
        while (request := reader.next_request()) is not None:
            found.append(request)
    except Refused as refused:
        found.append(refused.status)
    return [*found, reader.bytes_held]


HOT = {
    "wrk": b"GET /?name=q&opt=get HTTP/1.1\r\nHost: 127.0.0.1:1218\r\n\r\n",
    "wrk post": b"POST /?name=q&opt=put HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab",
    "ab": b"GET /?name=q&opt=put&data=x HTTP/1.0\r\nConnection: Keep-Alive\r\nHost: h:1218\r\n"
    b"User-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n",
    "ab post": b"POST /?name=q&opt=put HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-length: 2\r\n"
    b"Content-type: text/plain\r\nHost: h\r\nUser-Agent: ApacheBench/2.3\r\n"
    b"Accept: */*\r\n\r\nab",
    "curl": b"POST /?name=q&opt=put HTTP/1.1\r\nHost: h\r\nUser-Agent: curl/7.88.1\r\n"
    b"Accept: */*\r\nContent-Length: 2\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\nab",
    "php": b"POST /?auth=&charset=utf-8&name=q&opt=put HTTP/1.1\r\nHost: \r\nContent-Length: 2\r\n"
    b"Connection: close\r\n\r\nab",
    "java": b"GET /?opt=get&charset=UTF-8&name=q HTTP/1.1\r\nUser-Agent: Java/17.0.15\r\n"
    b"Host: h:1218\r\nAccept: text/html, image/gif, image/jpeg, */*; q=0.2\r\n"
    b"Connection: keep-alive\r\n\r\n",
    "node": b"GET /?name=q&opt=put&data=1%2B1 HTTP/1.1\r\nuser-agent: got/9.6.0 (https://x)\r\n"
    b"accept-encoding: gzip, deflate\r\nHost: h:1218\r\nConnection: keep-alive\r\n\r\n",
    "python2": b"GET /?opt=get&name=q HTTP/1.1\r\nAccept-Encoding: identity\r\nHost: h\r\n"
    b"Connection: close\r\nUser-Agent: Python-urllib/2.7\r\n\r\n",
    "no header": b"GET /?name=q&opt=get HTTP/1.1\r\n\r\n",
}


HOT_V1 = {
    "curl": b"POST /v1/queues/q/messages?x HTTP/1.1\r\nHost: h\r\nUser-Agent: curl/7.88.1\r\n"
    b"Accept: */*\r\nAuthorization: Bearer secret\r\nContent-Length: 2\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\nab",
    "python": b"DELETE /v1/queues/q/leases/x HTTP/1.1\r\nHost: h\r\nAccept-Encoding: identity\r\n"
    b"Accept: application/x-ndjson\r\nConnection: close\r\n\r\n",
    "patch": b"PATCH /v1/queues/q HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("name", HOT_V1)
def test_hot_heads_of_the_v1_api_are_recognised(name: str) -> None:
    data = HOT_V1[name]
    assert recognise_v1(bytearray(data)) is not None
    assert read(data, FAST) == read(data, SLOW)
    for cut in range(len(data)):
        reader = Reader(FAST)
        reader.receive(data[:cut])
        found = reader.next_request()
        reader.receive(data[cut:])
        assert [found or reader.next_request()] == read(data, SLOW)[:1]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1 HTTP/1.1\r\n\r\n",
        b"GET /v1/queues/q?name=q&opt=get HTTP/1.1\r\n\r\n",
        b"GET http://h/v1/queues HTTP/1.1\r\n\r\n",
        b"GET /v1/queues HTTP/1.0\r\n\r\n",
        b"BREW /v1/queues HTTP/1.1\r\n\r\n",
        b"GET /v1/\xff HTTP/1.1\r\n\r\n",
        b"GET /v1/queues HTTP/1.1\r\nSec-Fetch-Site: cross-site\r\n\r\n",
        b"GET /v1/queues HTTP/1.1\r\nAccept: a\r\nAccept: b\r\n\r\n",
        b"PUT /v1/queues/q HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        b"PUT /v1/queues/q HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_the_rest_of_the_v1_api_is_left_to_h11(head: bytes) -> None:
    assert recognise(bytearray(head)) is None
    assert recognise_v1(bytearray(head)) is None


def test_what_was_searched_in_vain_is_forgotten() -> None:
    """The next request is shorter than what had come of the one before."""
    first = b"GET /?name=q&opt=get HTTP/1.1"
    reader = Reader(FAST)
    reader.receive(first)
    assert reader.next_request() is None
    reader.receive(b"\r\n\r\n")
    assert reader.next_request() is not None
    reader.receive(b"GET / HTTP/1.1\r\nCookie: c\r\n\r\n")
    found = reader.next_request()
    assert found is not None
    assert found.target == b"/"


@pytest.mark.parametrize("name", HOT)
def test_hot_heads_are_recognised(name: str) -> None:
    assert recognise(bytearray(HOT[name])) is not None
    assert read(HOT[name], FAST) == read(HOT[name], SLOW)


@pytest.mark.parametrize(
    "head",
    [
        b"PUT /?x HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET //h:99999/?x HTTP/1.1\r\n\r\n",
        b"GET http://h/?x HTTP/1.1\r\n\r\n",
        b"GET /?\xff HTTP/1.1\r\n\r\n",
        b"GET /?a b HTTP/1.1\r\n\r\n",
        b"GET /?x HTTP/1.2\r\n\r\n",
        b"GET /?x HTTP/1.1\n\n",
        b"GET /?x HTTP/1.1\r\nHost: h\n\r\n",
        b"GET /?x HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET /?x HTTP/1.1\r\nHost: h\r\n i\r\n\r\n",
        b"GET /?x HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        b"GET /?x HTTP/1.1\r\nHost: h\r\n",
        b"GET /?x HTTP/1.1\r\nAccept: a\tb\r\n\r\n",
        b"GET /?x HTTP/1.1\r\nCookie: a=b\r\n\r\n",
        b"GET /?x HTTP/1.1\r\nSec-Fetch-Site: none\r\n\r\n",
        b"POST /?x HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
        b"POST /?x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /?x HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        b"POST /?x HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
        b"POST /?x HTTP/1.1\r\nContent-Length:\r\n\r\n",
        b"POST /?x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"GET /?x HTTP/1.1\r\nConnection: upgrade\r\n\r\n",
        b"GET /?x HTTP/1.1\r\nConnection: close, TE\r\n\r\n",
        b"GET /?" + b"x" * HEAD_BYTES_MAX + b" HTTP/1.1\r\n\r\n",
        b"GET /?x HTTP/1.1\r\nAccept: " + b"x" * HEADER_BLOCK_BYTES_MAX + b"\r\n\r\n",
    ],
)
def test_the_rest_is_left_to_h11(head: bytes) -> None:
    assert recognise(bytearray(head)) is None


lines = st.sampled_from(
    [
        b"Host: h",
        b"Host:h",
        b"Host: ",
        b"host:\th ",
        b"Accept: */*",
        b"Accept: a;q=0.1,b",
        b"Authorization: Basic YTpi",
        b"User-Agent: a  b",
        b"Content-Type: application/octet-stream",
        b"Content-Length: 3",
        b"content-length: 03",
        b"Content-Length: 100",
        b"Content-Length : 3",
        b"Connection: Close",
        b"Connection: keep-alive",
        b"Connection: ",
        b"Connection: TE, close",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Sec-Fetch-Site: cross-site",
        b"X-Other: y",
        b" folded",
        b"",
    ]
)
heads = st.builds(
    lambda method, target, version, fields: (
        b"%b %b HTTP/%b\r\n%b\r\n"
        % (method, target, version, b"".join(field + b"\r\n" for field in fields))
    ),
    st.sampled_from([b"GET", b"POST", b"HEAD", b"PATCH", b"OPTIONS", b"get"]),
    st.sampled_from([b"/v1/queues", b"/v1/q?a#b", b"/v1/q?name=q", b"/v1/%", b"/v1"])
    | st.sampled_from([b"/?a=b", b"/?", b"/", b"?a", b"/?a#b", b"/?a b", b"/?\xff"]),
    st.sampled_from([b"1.1", b"1.0", b"1.2", b"2.0"]),
    st.lists(lines, max_size=5),
)
edits = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.integers(0, 2),
        st.sampled_from(
            [b"", b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b"x", b"\xff", b"\r\n"]
        ),
    ),
    max_size=3,
)


@given(
    st.lists(st.one_of(heads, st.sampled_from([*HOT.values(), *HOT_V1.values()])), max_size=3),
    edits,
)
def test_reads_as_h11_does(parts: list[bytes], changes: list[tuple[int, int, bytes]]) -> None:
    data = b"abc".join(parts)
    for at, removed, inserted in changes:
        data = data[:at] + inserted + data[at + removed :]
    assert read(data, FAST) == read(data, SLOW)


def test_a_body_may_come_later() -> None:
    reader = Reader(FAST)
    reader.receive(HOT["curl"][:-1])
    assert reader.next_request() is None
    reader.receive(b"b")
    request = reader.next_request()
    assert request is not None
    assert (request.body, request.layout) == (b"ab", KEPT)


def test_a_body_over_the_limit_is_left_to_h11() -> None:
    head = b"POST /?x HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
    assert recognise(bytearray(head % 100)) is not None
    assert read(head % 100, FAST) == [413, 0]


def test_ab_is_kept_alive() -> None:
    found = recognise(bytearray(HOT["ab"]))
    assert found is not None
    assert found[2].layout == KEPT_1_0
