"""The reader of requests: any cut of the bytes gives the same result, and nothing but `Refused`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.config import KIB, MIB, Config
from logqueue.web.chunked import OVERHEAD_BYTES, ChunkedBody
from logqueue.web.message import CLOSED, KEPT, KEPT_1_0, UNFRAMED_1_0, Refused, Request
from logqueue.web.wire import AROUND_TARGET_BYTES_MAX, Reader

CONFIG = Config(
    data_directory="",
    target_bytes_max=KIB,
    header_bytes_max=KIB,
    header_count_max=8,
    body_bytes_max=64,
)

Result = list[Request | int]


def read(pieces: list[bytes], config: Config = CONFIG) -> Result:
    """The requests in these pieces; a status at the end when the reader refused."""
    reader = Reader(config)
    found: Result = []
    try:
        for piece in pieces:
            reader.receive(piece)
            while (request := reader.next_request()) is not None:
                found.append(request)
    except Refused as refused:
        found.append(refused.status)
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces that end at these places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


SHAPES = [
    b"GET /?name=q&opt=get HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /?name=q&opt=get HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
    b"GET /\xe4\xbd\xa0 b?x HTTP/1.1\nHost: h\nX: a\n b\n\n",
    b"POST /?opt=put HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /?opt=put HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: +3\r\nContent-Type: a/b\r\n\r\n\r\n\0",
    b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2 \r\nde\r\n0\r\nX: y\r\n\r\n",
    b"GET /" + b"x" * KIB + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"x" * KIB + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 9 + b"\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX : y\r\n\r\n",
    b"GET http://h/ HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 65\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\n",
    b"\x16\x03\x01",
]


@given(st.lists(st.sampled_from(SHAPES), max_size=6), st.lists(st.integers(0, 500), max_size=12))
def test_segmentation_does_not_matter(shapes: list[bytes], places: list[int]) -> None:
    data = b"".join(shapes)
    assert read(cut(data, places)) == read([data])


def test_byte_by_byte() -> None:
    for shape in SHAPES:
        assert read([bytes([byte]) for byte in shape]) == read([shape])


@given(
    st.sampled_from(SHAPES),
    st.lists(st.tuples(st.integers(0, 500), st.binary(max_size=3), st.integers(0, 3)), max_size=4),
    st.lists(st.integers(0, 500), max_size=4),
)
def test_mutations_are_read_or_refused(
    shape: bytes, edits: list[tuple[int, bytes, int]], places: list[int]
) -> None:
    for at, inserted, removed in edits:
        at %= len(shape) + 1
        shape = shape[:at] + inserted + shape[at + removed :]
    assert read(cut(shape, places)) == read([shape])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_rubbish_is_refused(data: bytes, places: list[int]) -> None:
    assert all(isinstance(found, int) for found in read(cut(data, places)))


@given(
    st.lists(st.one_of(st.binary(min_size=1, max_size=20), st.none()), max_size=5),
    st.lists(st.integers(0, 300), max_size=5),
    st.data(),
)
def test_chunks_as_h11_reads_them(
    chunks: list[bytes | None], places: list[int], data: st.DataObject
) -> None:
    """What is accepted has the body that h11 finds; None is a chunk that is damaged."""
    wire = b""
    for chunk in chunks:
        wire += b"0x1\r\n-\r\n" if chunk is None else b"%x\r\n%b\r\n" % (len(chunk), chunk)
    wire += b"0\r\n" + data.draw(st.sampled_from([b"\r\n", b"X: y\r\n\r\n"]))
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    found = read(cut(head + wire, places), dataclasses.replace(CONFIG, body_bytes_max=1000))
    if None in chunks:
        assert found == [413]
        return
    judge = h11.Connection(h11.SERVER)
    judge.receive_data(head + wire)
    body = b""
    while not isinstance(event := judge.next_event(), h11.EndOfMessage):
        body += event.data if isinstance(event, h11.Data) else b""
    assert found == [Request(b"POST", b"/", b"", body, KEPT)]


def test_a_target_is_as_it_was_sent() -> None:
    target = b" /" + bytes(set(range(1, 256)) - {0x0A}) + b"%zz#f"
    (found,) = read([b"GET " + target + b" HTTP/1.1\r\n\r\n"])
    assert isinstance(found, Request)
    assert found.target == target


@pytest.mark.parametrize(
    ("version", "connection", "layout"),
    [
        (b"1.1", b"", KEPT),
        (b"1.1", b"keep-alive", KEPT),
        (b"1.1", b"Close", CLOSED),
        (b"1.1", b"TE, close", CLOSED),
        (b"1.1", b"close, keep-alive", CLOSED),
        (b"1.1", b"upgrade", KEPT),
        (b"1.0", b"", UNFRAMED_1_0),
        (b"1.0", b"Keep-Alive", KEPT_1_0),
        (b"1.10", b"", KEPT._replace(status=b"HTTP/1.10 200 OK\r\n")),
        (b"0.9", b"keep-alive", UNFRAMED_1_0._replace(status=b"HTTP/0.9 200 OK\r\n")),
    ],
)
def test_layouts(version: bytes, connection: bytes, layout: object) -> None:
    head = b"GET / HTTP/%b\r\nConnection: %b\r\n\r\n" % (version, connection)
    (found,) = read([head])
    assert isinstance(found, Request)
    assert found.layout == layout


# Every limit at its edge.


def head_of(size: int) -> bytes:
    """A head whose header lines, with the empty one, have that size."""
    return b"GET / HTTP/1.1\r\nX: " + b"x" * (size - len("X: \r\n\r\n")) + b"\r\n\r\n"


def test_header_bytes_limit() -> None:
    assert isinstance(read([head_of(KIB)])[0], Request)
    assert read([head_of(KIB + 1)]) == [431]
    assert read([head_of(KIB + 100)[:-4]]) == [431], "refused before its end has come"


def test_target_limit() -> None:
    for end, status in ((b" HTTP/1.1\r\n\r\n", 414), (b"", 414), (b" HTTP/1.1\r\n" * 9, 414)):
        longest = b"GET /" + b"x" * (KIB - 1)
        assert status not in read([longest + end[:13]])
        assert read([longest + b"x" * (1 if end else AROUND_TARGET_BYTES_MAX) + end]) == [status]


def test_a_megabyte_goes_through_the_url() -> None:
    """Escaped, as Node and Python 2 clients send it: the default limits admit it."""
    target = b"/?name=q&opt=put&data=" + b"%FF" * MIB
    for reader_sees in (CONFIG, Config("")):
        found = read([b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n"], reader_sees)
        assert found == [414] if reader_sees is CONFIG else isinstance(found[0], Request)


@pytest.mark.parametrize("factor", [2, 8])
def test_chunk_factor_limit(factor: int) -> None:
    """`factor` bytes on the wire for each of the body, and OVERHEAD_BYTES; not one more."""
    config = dataclasses.replace(CONFIG, body_bytes_max=10_000, chunk_factor_max=factor)
    size, chunk = 1000, b"1" + b" " * (factor + 4) + b"\r\nx\r\n"
    surplus = size * (len(chunk) - factor) - OVERHEAD_BYTES
    pays_for = -(-surplus // (factor - 1))  # bytes of body in one chunk
    body = chunk * size
    for paid, passes in ((pays_for + 8, True), (pays_for - 8, False)):
        reading = ChunkedBody(config)
        wire = bytearray(b"%x\r\n" % paid + b"y" * paid + b"\r\n" + body)
        with contextlib.nullcontext() if passes else pytest.raises(Refused, match="cost more"):
            reading.feed(wire)


def test_header_count_limit() -> None:
    head = b"GET / HTTP/1.1\r\n"
    assert isinstance(read([head + b"X: y\r\n" * 8 + b"\r\n"])[0], Request)
    assert read([head + b"X: y\r\n" * 9 + b"\r\n"]) == [431]


def test_body_limit() -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
    assert isinstance(read([head % 64 + b"x" * 64])[0], Request)
    assert read([head % 65]) == [413]
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert isinstance(read([head + b"40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n"])[0], Request)
    assert read([head + b"41\r\n"]) == [413]
    assert read([head + b"40\r\n" + b"x" * 64 + b"\r\n1\r\n"]) == [413]


def test_padded_chunks_are_refused() -> None:
    """One-byte chunks pass; padding that makes a body a hundred times its size does not."""
    config = dataclasses.replace(CONFIG, body_bytes_max=1000)
    body = ChunkedBody(config)
    assert body.feed(bytearray(b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"))
    with pytest.raises(Refused):
        ChunkedBody(config).feed(bytearray((b"0" * 15 + b"1" + b" " * 14 + b"\r\nx\r\n") * 1000))


def test_bytes_held() -> None:
    reader = Reader(CONFIG)
    assert reader.is_idle
    reader.receive(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    assert reader.next_request() is None
    assert (reader.bytes_held, reader.is_idle) == (3, False)
    reader.receive(b"defghij")
    assert reader.next_request() is not None
    assert (reader.bytes_held, reader.is_idle) == (0, True)


@pytest.mark.parametrize("body", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
def test_continue_is_asked_for_once_and_only_while_the_body_is_missing(body: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\n" + body + b"\r\n\r\n"
    reader = Reader(CONFIG)
    reader.receive(head)
    assert reader.next_request() is None
    assert reader.expects_continue
    reader.expects_continue = False
    reader.receive(b"3")
    assert reader.next_request() is None
    assert not reader.expects_continue
    reader = Reader(CONFIG)
    reader.receive(head + b"3")
    reader.next_request()
    assert not reader.expects_continue
