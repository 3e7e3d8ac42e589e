"""What the daemon says: one safe line an event, whatever clients send and whoever reads."""

from __future__ import annotations

import base64
import io
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue import logs
from logqueue.logs import LINES_PER_WINDOW, MESSAGE_CHARS_MAX, WINDOW_S, Json, Sieve, Text, escaped
from logqueue.web.access import TARGET_BYTES_MAX, redacted
from tests.daemon import START_S, Daemon, running

# Each of these has ended a line, cleared a screen, hidden a text or broken a parser somewhere.
HOSTILE = (
    b"a\nERROR forged\r\x1b[2J\x1b]0;title\x07\x7f\x9b31m",
    "\u202e\u2028\u2029\u200b\x85\ufeff".encode(),
    b"\xff\xfe\xc3(\xed\xa0\x80",
    b'"}{\\"\\n%s%d%(name)s',
)


def record(message: str, *arguments: object, name: str = "logqueue.web") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, message, arguments, None)


# ---------------------------------------------------------------- formats


@given(st.text() | st.text(alphabet="\ud800\udcff\x1b\n\r\u2028\u202ex"))
def test_every_event_is_one_printable_line(text: str) -> None:
    for formatter in (Text(), Json()):
        line = formatter.format(record("%s", text))
        assert line.isprintable()
        line.encode()  # no lone surrogate is left
    assert json.loads(line)["message"] == escaped(text)


def test_what_is_printable_stays_as_it_is() -> None:
    assert escaped("Ünïcode 中文 \\") == "Ünïcode 中文 \\"
    assert escaped("\x1b\udcff\u202e") == "\\x1b\\udcff\\u202e"


def failing() -> logging.LogRecord:
    found = record("it failed")
    try:
        raise ValueError("evil\n\x1b[2J| text")
    except ValueError:
        found.exc_info = sys.exc_info()
    return found


def test_a_traceback_cannot_be_forged() -> None:
    first, *rest = Text().format(failing()).split("\n")
    assert first.endswith("ERROR it failed")
    assert all(re.match(r"\| ", line) and line.isprintable() for line in rest)
    event = json.loads(Json().format(failing()))
    assert list(event) == ["time", "level", "logger", "message", "exception"]
    assert all(line.isprintable() for line in event["exception"].split("\n"))
    assert event["exception"].startswith("Traceback")


def test_long_messages_are_cut() -> None:
    for length, shown in ((MESSAGE_CHARS_MAX, None), (MESSAGE_CHARS_MAX + 7, "... (7 more)")):
        message = json.loads(Json().format(record("x" * length)))["message"]
        assert message == "x" * MESSAGE_CHARS_MAX + (shown or "")


# ---------------------------------------------------------------- noise


class Told(logging.Handler):
    """Keeps what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.counts: list[int | None] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.counts.append(getattr(record, "suppressed", None))


def test_the_sieve_says_how_much_it_kept_back() -> None:
    now = [0.0]
    sieve, told, logger = Sieve(lambda: now[0]), Told(), logging.getLogger("tests.noise")
    logger.addFilter(sieve)
    logger.addHandler(told)
    logger.propagate = False
    for number in range(LINES_PER_WINDOW + 3):
        logger.error("put of %d", number)
    logger.error("another kind")
    assert told.messages == [*(f"put of {n}" for n in range(LINES_PER_WINDOW)), "another kind"]
    now[0] = WINDOW_S * 0.99
    sieve.tell()
    assert len(told.messages) == LINES_PER_WINDOW + 1
    now[0] = WINDOW_S
    sieve.tell()
    assert told.messages[-1] == f"suppressed 3 more like this one: put of {LINES_PER_WINDOW}"
    assert told.counts[-1] == 3
    for number in range(LINES_PER_WINDOW + 2):
        logger.error("put of %d", number)
    sieve.tell(all_of_them=True)
    assert told.counts[-1] == 2
    sieve.tell(all_of_them=True)
    assert told.counts.count(None) == 2 * LINES_PER_WINDOW + 1
    assert len(told.counts) == 2 * LINES_PER_WINDOW + 3


def test_a_flood_of_errors_is_a_few_lines(tmp_path: Path) -> None:
    with Daemon(tmp_path, ["--max-queues", "1"]) as daemon:
        daemon.start()
        assert daemon.ask("name=q&opt=put&data=x") == b"HTTPSQS_PUT_OK"
        request = b"GET /?name=other&opt=put&data=x HTTP/1.1\r\nHost: x\r\n\r\n"
        assert daemon.talk(request * 300).count(b"HTTPSQS_PUT_ERROR") == 300
        assert daemon.stop() == 0
        lines = [line for line in daemon.log.splitlines() if "number of queues" in line]
    suppressed = sum(int(n) for n in re.findall(r"suppressed (\d+) more like this one", daemon.log))
    plain = [line for line in lines if "suppressed" not in line]
    assert len(plain) + suppressed == 300
    assert len(lines) < 300 / 4


# ---------------------------------------------------------------- a real daemon


def hostile_requests() -> list[bytes]:
    """Everything of a request that could find its way into a log line."""
    requests = []
    for evil in HOSTILE:
        coded = "".join(f"%{byte:02X}" for byte in evil).encode()
        raw = evil.replace(b"\n", b"").replace(b"\r", b"").replace(b" ", b"")
        for target in (
            b"/?name=%b&opt=put&data=x" % coded,
            b"/?name=q&opt=%b" % coded,
            b"/%b?name=q%b&opt=put&data=%b&auth=wr0ng" % (raw, raw, raw),
            b"/v1/queues/%b/messages" % coded,
            b"/v1/queues/%b?auth=wr0ng" % raw,
        ):
            for method in (b"GET", b"POST", b"PUT", b"D%bX" % raw):
                head = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method, target, raw)
                head += b"Authorization: Bearer %b\r\nX-%b: %b\r\n" % (raw, raw, raw)
                requests.append(head + b"Content-Length: 1\r\nConnection: close\r\n\r\nx")
        requests += [evil, b"GET %b\r\n\r\n" % evil, b"GET / HTTP/1.1\r\nContent-Length: " + evil]
    return requests


ACCESS = ["client", "method", "target", "status", "bytes", "seconds"]


@pytest.mark.parametrize("style", ["text", "json"])
def test_nothing_from_the_wire_breaks_a_line(tmp_path: Path, style: str) -> None:
    arguments = ["--log-format", style, "--access-log", "--max-queues", "1"]
    with Daemon(tmp_path, arguments) as daemon:
        daemon.start()
        daemon.ask("name=q&opt=put&data=x")
        for request in hostile_requests():
            daemon.talk(request)
        assert daemon.stop() == 0
    lines = daemon.log.removesuffix("\n").split("\n")
    assert len(lines) > 90
    for line in lines:
        assert line.isprintable(), line
        if style == "text":
            assert re.match(r"\d{4}-\d\d-\d\dT\S{13} (INFO|WARNING|ERROR) ", line), line
        else:
            event = json.loads(line)
            expected = ["time", "level", "logger", "message"]
            expected += ["suppressed"] * ("suppressed" in event)
            expected += ACCESS * (event["logger"] == "logqueue.access")
            assert list(event) == expected
            assert all(isinstance(v, int | float) or v.isprintable() for v in event.values())
    assert "Traceback" not in daemon.log
    assert "wr0ng" not in daemon.log


def test_no_password_is_logged_right_or_wrong(tmp_path: Path) -> None:
    arguments = ["--access-log", "--max-queues", "1", "-a", "s3cret"]
    with Daemon(tmp_path, arguments) as daemon:
        daemon.start()
        numbers = itertools.count()
        for password in (b"s3cret", b"wr0ng"):
            for target in (b"/?name=%d&opt=put&data=x&auth=%b", b"/v1/queues/q%d/messages?auth=%b"):
                for way in (
                    b"Basic %b" % base64.b64encode(b"u:" + password),
                    b"Bearer " + password,
                ):
                    request = b"POST " + target % (next(numbers), password)
                    request += b" HTTP/1.1\r\nHost: x\r\nAuthorization: %b\r\n" % way
                    daemon.talk(request + b"Connection: close\r\nContent-Length: 1\r\n\r\nx")
        assert daemon.stop() == 0
    assert "number of queues" in daemon.log
    assert "wrong or no password" in daemon.log
    for secret in (b"s3cret", b"wr0ng"):
        assert secret.decode() not in daemon.log
        assert base64.b64encode(b"u:" + secret).decode() not in daemon.log


def test_the_access_log_tells_what_was_answered(tmp_path: Path) -> None:
    with Daemon(tmp_path, ["--log-format", "json", "--access-log"]) as daemon:
        daemon.start()
        daemon.ask("name=q&opt=put&data=the-message")
        daemon.ask("name=q&opt=get")
        daemon.talk(b"HEAD /?name=q&opt=status HTTP/1.0\r\n\r\n")
        daemon.talk(b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n")
        daemon.talk(b"GET /v1/queues/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert daemon.stop() == 0
    events = [json.loads(line) for line in daemon.log.splitlines()]
    access = [each for each in events if each["logger"] == "logqueue.access"]
    assert [[each[key] for key in ("client", "method", "target", "status")] for each in access] == [
        ["127.0.0.1", "GET", "/?name=q&opt=put&data=***", 200],
        ["127.0.0.1", "GET", "/?name=q&opt=get", 200],
        ["127.0.0.1", "HEAD", "/?name=q&opt=status", 200],
        ["127.0.0.1", "-", "/", 501],
        ["127.0.0.1", "GET", "/v1/queues/none", 404],
    ]
    assert [each["bytes"] for each in access[:3]] == [14, 11, 0]
    assert 0 < access[0]["seconds"] < START_S  # the sync included
    assert access[1]["message"].startswith("127.0.0.1 GET /?name=q&opt=get 200 11 0.")


def test_the_access_log_tells_of_each_that_repeats_one_before(tmp_path: Path) -> None:
    with Daemon(tmp_path, ["--access-log"]) as daemon:
        daemon.start()
        with daemon.connect() as client:
            for _ in range(5):
                client.sendall(b"GET /?name=q&opt=put&data=x HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(1000).endswith(b"HTTPSQS_PUT_OK")
        assert daemon.stop() == 0
        assert daemon.log.count("GET /?name=q&opt=put&data=*** 200 14 ") == 5


def test_the_access_log_keeps_the_order_of_a_pipeline(tmp_path: Path) -> None:
    with running(tmp_path, ["--access-log"]) as daemon:
        requests = b"".join(
            b"GET /?name=q&opt=put&data=%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(100)
        )
        requests += b"GET /?name=q&opt=get HTTP/1.1\r\nHost: x\r\n\r\n" * 100
        bodies = re.findall(rb"\r\n\r\n(\d+)", daemon.talk(requests))
        assert bodies == [b"%d" % n for n in range(100)]


def test_sighup_turns_the_access_log_on_and_off(tmp_path: Path) -> None:
    file = tmp_path / "logqueue.toml"
    file.write_text("")
    with running(tmp_path, ["--config", str(file)]) as daemon:
        daemon.ask("name=before&opt=put&data=x")
        file.write_text("access-log = true\n")
        daemon.send(signal.SIGHUP)
        assert daemon.says("SIGHUP: changed --access-log\n")
        daemon.ask("name=during&opt=put&data=x")
        file.write_text("")
        assert daemon.says("GET /?name=during")
        assert "name=before" not in daemon.log


def test_a_reader_that_stalls_stalls_nobody(tmp_path: Path) -> None:
    """The pipe takes 64 KiB; nobody reads it until the end."""
    place = tmp_path / "http"
    command = [sys.executable, "-m", "logqueue", "-x", "data", "-l", f"unix:{place}"]
    command += ["--access-log", "--durability", "os"]
    reading, writing = os.pipe()
    with subprocess.Popen(command, cwd=tmp_path, stderr=writing) as process:
        os.close(writing)
        try:
            with open(reading, encoding="utf-8") as pipe:
                assert "ready on" in pipe.readline()
                answers = flood(place, logs.LINES_MAX + 3000)
                assert answers == logs.LINES_MAX + 3000
                process.send_signal(signal.SIGTERM)
                text = pipe.read()
            assert process.wait(START_S) == 0
        finally:
            process.kill()
    lost = sum(int(n) for n in re.findall(r"(\d+) events were not logged", text))
    written = text.count("GET /?name=q&opt=get 200")
    told = text.count("SIGTERM: finishing the requests in flight")
    assert lost > 0
    assert written + told + lost == logs.LINES_MAX + 3000 + 1


END = b"HTTPSQS_GET_END"


def flood(place: Path, count: int) -> int:
    """So many requests, pipelined over a Unix socket; how many were answered."""
    request = b"GET /?name=q&opt=get HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(START_S)
        client.connect(str(place))
        answered = 0
        for _ in range(count // 100):
            client.sendall(request * 100)
            due, rest = answered + 100, b""
            while answered < due:
                rest += client.recv(1 << 16)
                answered += rest.count(END)
                rest = rest[rest.rfind(END) + len(END) :] if END in rest else rest
        return answered


# ---------------------------------------------------------------- redaction


@given(st.binary(max_size=600))
def test_no_target_shows_a_password_or_a_message(value: bytes) -> None:
    value = re.sub(rb"[&#]", b"", value)
    assert redacted(b"/?name=q&AUTH=%b&opt=get" % value) == "/?name=q&AUTH=***&opt=get"
    assert redacted(b"/?data=%b" % value) == "/?data=***"


def test_targets_are_cut() -> None:
    assert redacted(b"x" * TARGET_BYTES_MAX) == "x" * TARGET_BYTES_MAX
    assert redacted(b"x" * (TARGET_BYTES_MAX + 1)) == "x" * TARGET_BYTES_MAX + "..."
    assert redacted(b"/?data=" + b"x" * (8 << 20)).startswith("/?data=***")
    assert redacted(b"http://user:pw@host/?name=q") == "http://***host/?name=q"


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_end_that_is_an_error_is_one_line(tmp_path: Path, style: str) -> None:
    with running(tmp_path) as daemon:
        command = [sys.executable, "-m", "logqueue", "-x", str(daemon.data)]
        done = subprocess.run(
            [*command, "-p", "0", "--log-format", style],
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    if style == "json":
        event = json.loads(line)
        assert (event["level"], event["logger"]) == ("critical", "logqueue.daemon")
        line = f"logqueued: {event['message']}"
    assert re.match(r"logqueued: .*LOCK: in use by .*; stop it first", line)


def test_a_closed_stderr_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.to_stderr("text"), pytest.MonkeyPatch.context() as patch:
        closed = io.StringIO()
        closed.close()
        patch.setattr(sys, "stderr", closed)
        logging.getLogger("logqueue.daemon").info("nobody reads this")
        logs.flush()
    assert capsys.readouterr().err == ""


def test_the_writer_does_not_wait_for_who_waits_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    """`logging.shutdown` flushes each handler with its lock held."""
    with logs.to_stderr("text"):
        handler = next(each for each in logging.getLogger().handlers if type(each) is logs.Stderr)
        logging.getLogger("logqueue.daemon").info("at the end")
        handler.acquire()
        try:
            handler.flush()
            assert "at the end" in capsys.readouterr().err
        finally:
            handler.release()
