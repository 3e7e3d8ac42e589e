"""TLS with real certificates on real sockets: a connection is the same, encrypted."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from logqueue.config import KIB, MIB, Config
from logqueue.errors import UsageError
from logqueue.listening import tcp
from logqueue.web.message import Handler, Request, Response
from logqueue.web.server import Listener, serve
from logqueue.web.tls import Certificate
from tests.daemon import START_S, Daemon, assert_refused, running, start
from tests.test_server import CONFIG, GET, POST, Sometimes, body_of, echo


class Files:
    """A certificate authority, and the files of a certificate of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.certificate, self.key = directory / "cert.pem", directory / "key.pem"
        self.issue()

    def issue(self) -> None:
        """Write a new certificate."""
        issued = self.authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(self.key)
        self.certificate.unlink(missing_ok=True)
        for each in issued.cert_chain_pems:
            each.write_to_path(self.certificate, append=True)

    @property
    def arguments(self) -> list[str]:
        """For a daemon."""
        return ["--tls-cert", str(self.certificate), "--tls-key", str(self.key)]

    def client(self) -> ssl.SSLContext:
        """A client that trusts the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


class Served:
    """A running server that speaks TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.port = port
        self.context = context
        self.drain = trio.Event()
        self.clients: list[trio.SocketStream] = []

    async def connect_plain(self) -> trio.SocketStream:
        """A client that speaks no TLS by itself."""
        self.clients.append(await trio.open_tcp_stream("127.0.0.1", self.port))
        return self.clients[-1]

    async def connect(self) -> trio.SSLStream[trio.SocketStream]:
        """A client, hands not shaken.  It insists on an end that is no cut."""
        return trio.SSLStream(
            await self.connect_plain(),
            self.context,
            server_hostname="127.0.0.1",
            https_compatible=False,
        )


@contextlib.asynccontextmanager
async def served(
    files: Files, config: Config = CONFIG, handler: Handler | None = None
) -> AsyncIterator[Served]:
    """A server for the length of a block; the whole test fails after 20 s."""
    certificate = Certificate(str(files.certificate), str(files.key))
    listeners = [Listener(each, certificate) for each in tcp("127.0.0.1", 0)]
    server = Served(listeners[0].socket.getsockname()[1], files.client())
    run = partial(serve, listeners, handler or Sometimes(echo), config, drain=server.drain)
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                yield server
                nursery.cancel_scope.cancel()
    finally:
        for client in server.clients:
            client.socket.close()


async def read_to_end(client: trio.SSLStream[trio.SocketStream]) -> bytes:
    """Everything up to the end, which is told: a cut raises BrokenResourceError."""
    received = b""
    while data := await client.receive_some():
        received += data
    return received


CLOSING = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"


async def test_requests_are_answered_and_the_end_is_told(files: Files) -> None:
    async with served(files) as server:
        client = await server.connect()
        await client.send_all(GET * 40 + POST % 5 + b"hello" + CLOSING)
        answers = (await read_to_end(client)).split(b"HTTP/1.1 200 OK")[1:]
        assert [body_of(each) for each in answers] == [b"/"] * 40 + [b"hello", b"/"]


async def test_large_bodies_both_ways(files: Files) -> None:
    message = bytes(range(256)) * (32 * KIB)
    async with served(files) as server:
        client = await server.connect()
        head = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        await client.send_all(head % len(message) + message)
        assert body_of(await read_to_end(client)) == message


async def test_a_refusal_arrives_while_the_client_still_sends(files: Files) -> None:
    async with served(files, dataclasses.replace(CONFIG, body_bytes_max=MIB)) as server:
        client = await server.connect()
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send_all(POST % (MIB + 1) + bytes(MIB + 1))
        assert (await client.receive_some()).startswith(b"HTTP/1.1 413 ")


async def test_an_idle_end_is_told_and_a_cut_answer_is_not(files: Files) -> None:
    def answer(request: Request) -> Response:
        return Response(bytes(32 * MIB) if request.target == b"/flood" else b"")

    config = dataclasses.replace(CONFIG, timeout_idle_s=0.3, timeout_write_s=0.3)
    async with served(files, config, Sometimes(answer)) as server:
        idle, slow = await server.connect(), await server.connect()
        await idle.send_all(GET)
        await slow.send_all(b"GET /flood HTTP/1.1\r\n\r\n")
        assert b"200 OK" in await read_to_end(idle)
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(slow)


async def test_drain_tells_the_end(files: Files) -> None:
    async with served(files) as server:
        client = await server.connect()
        await client.send_all(GET)
        assert b"200 OK" in await client.receive_some()
        server.drain.set()
        assert await client.receive_some() == b""


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00", GET], ids=["none", "half", "http"])
async def test_hands_are_shaken_in_time_or_not_at_all(files: Files, sent: bytes) -> None:
    config = dataclasses.replace(CONFIG, timeout_handshake_s=0.2)
    async with served(files, config) as server:
        client = await server.connect_plain()
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send_all(sent)
            while b"HTTP" not in (received := await client.receive_some()) and received:
                pass
            assert received == b""


async def test_clients_that_hang_up_anywhere_stay_alone(files: Files) -> None:
    """A handshake of a real client, cut after every few bytes of it."""
    async with served(files) as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = server.context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            session.do_handshake()
        hello = outgoing.read()
        for end in range(0, len(hello) + 1, 16):
            client = await server.connect_plain()
            await client.send_all(hello[:end])
            await client.aclose()
        client = await server.connect_plain()
        await client.send_all(hello)
        await client.receive_some()
        await client.aclose()  # after the answer to it
        last = await server.connect()
        await last.send_all(CLOSING)
        assert body_of(await read_to_end(last)) == b"/"


async def test_connections_beyond_the_limit_are_closed(files: Files) -> None:
    async with served(files, dataclasses.replace(CONFIG, connections_max=1)) as server:
        first, second = await server.connect(), await server.connect()
        await first.send_all(GET)
        assert b"200 OK" in await first.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await second.send_all(GET)


async def test_old_protocols_are_not_spoken(files: Files) -> None:
    async with served(files) as server:
        server.context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        server.context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            server.context.maximum_version = ssl.TLSVersion.TLSv1_1
        client = await server.connect()
        with pytest.raises(trio.BrokenResourceError):
            await client.do_handshake()


# ------------------------------------------------------------------ the daemon


@pytest.fixture(scope="module")
def daemon(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    arguments = [*files.arguments, "-l", "http://127.0.0.1:0"]
    with running(tmp_path_factory.mktemp("daemon"), arguments) as started:
        yield started


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_with_curl(daemon: Daemon, files: Files, version: str) -> None:
    authority = files.directory / "authority.pem"
    files.authority.cert_pem.write_to_path(authority)
    message = files.directory / "message"
    message.write_bytes(bytes(range(256)) * KIB)
    url = f"https://127.0.0.1:{daemon.port}/?name=curl{version}&opt="
    common = ["curl", "-sS", "--cacert", str(authority), f"--tlsv{version}", "--tls-max", version]
    octets = ["-H", "Content-Type: application/octet-stream", "--data-binary", f"@{message}"]
    for arguments, answer in (
        ([*octets, url + "put"], b"HTTPSQS_PUT_OK"),
        (["-H", "Expect: 100-continue", *octets, url + "put"], b"HTTPSQS_PUT_OK"),
        ([url + "get"], message.read_bytes()),
        ([url + "get", url + "get"], message.read_bytes() + b"HTTPSQS_GET_END"),
    ):
        done = subprocess.run([*common, *arguments], capture_output=True, timeout=30, check=True)
        assert done.stdout == answer


def test_an_address_may_stay_plain(daemon: Daemon) -> None:
    assert daemon.says("ready on http://")
    assert daemon.log.count("ready on https://127.0.0.1:") == 1
    plain = daemon.log.partition("ready on http://127.0.0.1:")[2].partition("/")[0]
    with socket.create_connection(("127.0.0.1", int(plain)), START_S) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.0 200 OK")


# ------------------------------------------------------------------ the files


def test_files_that_are_not_usable_are_named(files: Files, tmp_path: Path) -> None:
    other = Files(tmp_path)
    locked = tmp_path / "locked.pem"
    command = ["openssl", "rsa", "-aes128", "-passout", "pass:x", "-out", str(locked)]
    encrypt = subprocess.run(
        [*command, "-in", str(other.key)], capture_output=True, check=False, timeout=30
    )
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    for certificate, key, complaint in (
        (files.certificate, tmp_path / "none.pem", "No such file"),
        (rubbish, files.key, "PEM"),
        (files.certificate, other.key, "KEY_VALUES_MISMATCH|key values mismatch"),
        (files.certificate, files.certificate, "PEM"),
        *([(other.certificate, locked, "pass phrase")] if encrypt.returncode == 0 else []),
    ):
        with pytest.raises(UsageError, match=complaint) as error:
            Certificate(str(certificate), str(key))
        assert str(key) in str(error.value)


def test_a_daemon_does_not_start_without_them(tmp_path: Path, files: Files) -> None:
    arguments = ["-x", str(tmp_path / "data"), "-p", "0", "--tls-key", str(files.key)]
    assert_refused(start(*arguments, "--tls-cert", "none.pem"), "none.pem.*No such file")
