"""What real HTTPSQS clients put on the wire, byte for byte, and how they read the answer.

Each test stands for one client; the docstring says what it depends on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.daemon import Daemon

DATE = rb"Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n"


def dated(answer: bytes) -> bytes:
    """The answer with its Date lines replaced, which must be well formed."""
    return re.sub(DATE, b"Date: now\r\n", answer)


def closing(body: bytes, pos: int | None = None, content_type: bytes = b"text/plain") -> bytes:
    """The whole answer to a request that said `Connection: close`."""
    position = b"" if pos is None else b"Pos: %d\r\n" % pos
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nCache-Control: no-cache\r\n%bDate: now\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
    ) % (content_type, position, len(body), body)


def kept(body: bytes, pos: int | None = None, content_type: bytes = b"text/plain") -> bytes:
    """The whole answer on a connection that stays open."""
    position = b"" if pos is None else b"Pos: %d\r\n" % pos
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nConnection: keep-alive\r\n"
        b"Cache-Control: no-cache\r\n%bDate: now\r\nContent-Length: %d\r\n\r\n%b"
    ) % (content_type, position, len(body), body)


class Client:
    """A client's socket that reads as much as a known answer has."""

    def __init__(self, daemon: Daemon) -> None:
        self.socket = daemon.connect()
        self.socket.settimeout(10)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def expect(self, answer: bytes) -> None:
        received = b""
        while len(dated(received)) < len(answer):
            data = self.socket.recv(1 << 16)
            assert data, f"closed after {received!r}"
            received += data
        assert dated(received) == answer

    def expect_end(self) -> None:
        assert self.socket.recv(1) == b""


Connect = Callable[[], Client]


@pytest.fixture
def connect(daemon: Daemon) -> Iterator[Connect]:
    """Makes clients, and closes them after the test."""
    clients: list[Client] = []

    def new() -> Client:
        clients.append(Client(daemon))
        return clients[-1]

    yield new
    for client in clients:
        client.socket.close()


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()


def test_php_stock(connect: Connect) -> None:
    """Empty Host, raw name, headers matched by case, body read by Content-Length, then the end."""
    for head, body, answer, pos in (
        (b"POST /?auth=&charset=utf-8&name=%b&opt=put", b"hello+php", b"HTTPSQS_PUT_OK", 1),
        (b"GET /?auth=&charset=utf-8&name=%b&opt=get", b"", b"hello php", 1),
        (b"GET /?auth=&charset=utf-8&name=%b&opt=get", b"", b"HTTPSQS_GET_END", None),
        (b"GET /?auth=&charset=utf-8&name=%b&opt=view&pos=", b"", b"HTTPSQS_ERROR", None),
    ):
        client = connect()
        length = b"Content-Length: %d\r\n" % len(body) if body else b""
        name = "队列 php".encode()
        client.send(
            head % name + b" HTTP/1.1\r\nHost: \r\n" + length + b"Connection: close\r\n\r\n"
        )
        client.send(body)
        client.expect(closing(answer, pos, b"text/plain; charset=utf-8"))
        client.expect_end()


def test_php_chekun_before_8(client: Client) -> None:
    """PHP streams spoke HTTP/1.0: no Date, no length, the body ends with the connection."""
    client.send(
        b"POST /?name=chekun&opt=put HTTP/1.0\r\nHost: h:1218\r\nConnection: close\r\n"
        b"Content-Length: 1\r\nContent-type: application/x-www-form-urlencoded\r\n\r\nx"
    )
    client.expect(
        b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-cache\r\nPos: 1\r\n"
        b"Connection: close\r\n\r\nHTTPSQS_PUT_OK"
    )
    client.expect_end()


def test_php_chekun(client: Client) -> None:
    """PHP 8 streams: HTTP/1.1, close, body only."""
    client.send(
        b"GET /?name=chekun8&opt=get HTTP/1.1\r\nHost: h:1218\r\nConnection: close\r\n"
        b"Content-type: application/x-www-form-urlencoded\r\n\r\n"
    )
    client.expect(closing(b"HTTPSQS_GET_END"))
    client.expect_end()


def test_perl(client: Client) -> None:
    """Reads to the end of the connection: it must close at once after `close`."""
    client.send(b"POST /?charset=utf-8&name=perl&opt=put HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    client.send(b"Content-Length: 4\r\nConnection: close\r\n\r\nperl")
    client.expect(closing(b"HTTPSQS_PUT_OK", 1, b"text/plain; charset=utf-8"))
    client.expect_end()


def test_perl_keep_alive(client: Client) -> None:
    """The p* calls: `Keep-Alive` on a new connection each."""
    client.send(b"GET /?charset=utf-8&name=pperl&opt=get HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    client.send(b"Connection: Keep-Alive\r\n\r\n")
    client.expect(kept(b"HTTPSQS_GET_END", None, b"text/plain; charset=utf-8"))


def test_c(daemon: Daemon, client: Client) -> None:
    """Counts lines: Pos in the fourth, the body from the ninth with Pos, the eighth without.

    It sends its head in small writes.
    """
    writes = [
        b"POST /?charset=utf-8&name=cc&opt=put HTTP/1.1\r\n",
        b"Host: 127.0.0.1\r\n",
        b"Content-Length: 5\r\n",
        b"Connection: close\r\n",
        b"\r\n",
        b"c msg",
    ]
    for write in writes:
        client.send(write)
    client.expect(closing(b"HTTPSQS_PUT_OK", 1, b"text/plain; charset=utf-8"))
    for body, pos, line in ((b"c msg", b"Pos: 1", 8), (b"HTTPSQS_GET_END", None, 7)):
        lines = daemon.talk(
            b"GET /?charset=utf-8&name=cc&opt=get HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Connection: close\r\n\r\n"
        ).split(b"\r\n")
        assert lines[line] == body
        assert pos is None or lines[3] == pos


def test_httpsqs4j(connect: Connect) -> None:
    """A connection without a request first; then one connection, kept; head and body apart."""
    connect().socket.close()
    head = b"HTTP/1.1\r\nUser-Agent: Java/17.0.15\r\nHost: 127.0.0.1:1218\r\n"
    head += b"Accept: text/html, image/gif, image/jpeg, */*; q=0.2\r\nConnection: keep-alive\r\n"
    client = connect()
    client.send(
        b"POST /?opt=put&name=java " + head + b"Content-type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 4\r\n\r\n"
    )
    client.send(b"test")
    client.expect(kept(b"HTTPSQS_PUT_OK", 1))
    client.send(b"GET /?opt=get&charset=UTF-8&name=java " + head + b"\r\n")
    client.expect(kept(b"test", 1, b"text/plain; charset=UTF-8"))
    client.send(b"GET /?opt=status&name=java " + head + b"\r\n")
    client.expect(
        kept(
            b"HTTP Simple Queue Service v1.7\n------------------------------\nQueue Name: java\n"
            b"Maximum number of queues: 1000000\nPut position of queue (1st lap): 1\n"
            b"Get position of queue (1st lap): 1\nNumber of unread queue: 0\n"
        )
    )


def test_node_got(client: Client) -> None:
    """Lower-case header names, kept alive, everything in the query and encoded once."""
    tail = b" HTTP/1.1\r\nuser-agent: got/9.6.0\r\naccept-encoding: gzip, deflate\r\n"
    tail += b"Host: 127.0.0.1:1218\r\nConnection: keep-alive\r\n\r\n"
    client.send(b"GET /?name=node&charset=utf-8&opt=put&data=1%2B1%3D2+%E4%BD%A0" + tail)
    client.expect(kept(b"HTTPSQS_PUT_OK", 1, b"text/plain; charset=utf-8"))
    client.send(b"GET /?name=node&auth=&charset=&opt=get&data=&pos=&num=" + tail)
    client.expect(kept("1 1=2 你".encode(), 1, b"text/plain; charset="))


def test_node_puts_a_megabyte_through_the_url(client: Client) -> None:
    """Node and Python 2 clients know no other way."""
    message = b"m" * (1 << 20)
    client.send(b"GET /?name=long&opt=put&data=" + message + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    client.expect(kept(b"HTTPSQS_PUT_OK", 1))
    client.send(b"GET /?name=long&opt=get HTTP/1.1\r\nHost: h\r\n\r\n")
    client.expect(kept(message, 1))


def test_python2_distribution(daemon: Daemon) -> None:
    """`gets` takes the third header as Pos."""
    tail = b" HTTP/1.1\r\nAccept-Encoding: identity\r\nHost: 127.0.0.1:1218\r\n"
    tail += b"Connection: close\r\nUser-Agent: Python-urllib/2.7\r\n\r\n"
    daemon.talk(b"GET /?opt=put&charset=utf-8&data=hello&name=py2" + tail)
    answer = daemon.talk(b"GET /?opt=get&charset=utf-8&name=py2" + tail)
    assert dated(answer) == closing(b"hello", 1, b"text/plain; charset=utf-8")
    assert answer.split(b"\r\n")[3] == b"Pos: 1"


def test_python_wendal_and_pypi(client: Client) -> None:
    """httplib: no Connection header; PyPI 1.4 does not encode the name, here GBK."""
    client.send(b"POST /?opt=put&name=\xb6\xd3\xc1\xd0 HTTP/1.1\r\nHost: 127.0.0.1:1218\r\n")
    client.send(b"Accept-Encoding: identity\r\nContent-Length: 4\r\n\r\n\xc4\xe3\xba\xc3")
    client.expect(kept(b"HTTPSQS_PUT_OK", 1))
    client.send(b"GET /?opt=get&name=%B6%D3%C1%D0 HTTP/1.1\r\nHost: 127.0.0.1:1218\r\n\r\n")
    client.expect(kept(b"\xc4\xe3\xba\xc3", 1))


def test_ab(client: Client) -> None:
    """ab -k: HTTP/1.0 kept alive; two Connection lines, a length, no Date."""
    for at in (1, 2):
        client.send(
            b"GET /?name=ab&opt=put&data=x HTTP/1.0\r\nConnection: Keep-Alive\r\n"
            b"Host: 127.0.0.1:1218\r\nUser-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n"
        )
        client.expect(
            b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nConnection: keep-alive\r\n"
            b"Cache-Control: no-cache\r\nPos: %d\r\nConnection: keep-alive\r\n"
            b"Content-Length: 14\r\n\r\nHTTPSQS_PUT_OK" % at
        )


def test_wrk(client: Client) -> None:
    """The shortest head there is, pipelined."""
    client.send(b"GET /?name=wrk&opt=get HTTP/1.1\r\nHost: 127.0.0.1:1218\r\n\r\n" * 3)
    client.expect(kept(b"HTTPSQS_GET_END") * 3)


def test_curl_waits_for_continue(client: Client) -> None:
    """curl sends `Expect` with bodies over 1 MB and waits a second for the interim answer."""
    client.send(
        b"POST /?name=curl&opt=put HTTP/1.1\r\nHost: 127.0.0.1:1218\r\nUser-Agent: curl/7.88.1\r\n"
        b"Accept: */*\r\nContent-Length: 11\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"hello+world")
    client.expect(kept(b"HTTPSQS_PUT_OK", 1))
    client.send(b"GET /?name=curl&opt=get HTTP/1.1\r\nHost: 127.0.0.1:1218\r\n\r\n")
    client.expect(kept(b"hello world", 1))


def test_curl_upload_in_chunks(client: Client) -> None:
    """curl -T - and Node streams."""
    client.send(
        b"PUT /?name=chunks&opt=put HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"5\r\nhello\r\n", b"6\r\n world\r\n", b"0\r\n\r\n")
    client.expect(kept(b"HTTPSQS_PUT_OK", 1))
    client.send(b"GET /?name=chunks&opt=get HTTP/1.1\r\nHost: h\r\n\r\n")
    client.expect(kept(b"hello world", 1))


def test_browser(client: Client) -> None:
    """An address typed by hand."""
    client.send(
        b"GET /?name=browser&opt=put&data=hello HTTP/1.1\r\nHost: 127.0.0.1:1218\r\n"
        b"Connection: keep-alive\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html\r\n"
        b"Sec-Fetch-Site: none\r\nAccept-Encoding: gzip, deflate\r\n\r\n"
    )
    client.expect(kept(b"HTTPSQS_PUT_OK", 1))


def test_octet_stream_is_stored_as_sent(client: Client) -> None:
    """Any bytes, NUL, plus and percent included; every other type is URL-decoded once."""
    message = bytes(range(256)) + b"a+b%41%2B\0"
    decoded = bytes(range(256)).replace(b"+", b" ") + b"a bA+\0"
    for pos, content_type, stored in (
        (1, b"application/octet-stream", message),
        (2, b"Application/Octet-Stream; x=y", message),
        (3, b"application/octet-streams", decoded),
    ):
        client.send(
            b"POST /?name=octets&opt=put HTTP/1.1\r\nHost: h\r\nContent-Type: %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (content_type, len(message), message)
        )
        client.expect(kept(b"HTTPSQS_PUT_OK", pos))
        client.send(b"GET /?name=octets&opt=get HTTP/1.1\r\nHost: h\r\n\r\n")
        client.expect(kept(stored, pos))
