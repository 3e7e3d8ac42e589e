"""Templates: which requests have one, and that they never read one as the long way would not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logqueue.config import Config
from logqueue.web import answer
from logqueue.web.fastpath import HEAD_BYTES_MAX
from logqueue.web.httpsqs import Dialect
from logqueue.web.template import TEMPLATE_BYTES_MAX, TEMPLATES_MAX, Template, Templates
from logqueue.web.wire import Reader
from tests.test_fastpath import HOT
from tests.test_httpsqs import OneQueue

CONFIG = Config(data_directory="", body_bytes_max=3000)
DATE = b"Date: today\r\n"

GET = b"GET /?name=q&opt=get HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = b"GET /?name=q&opt=put&data=%b HTTP/1.1\r\nHost: h\r\n\r\n"
PUT_FIRST = b"GET /?name=q&data=%b&opt=put#x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
POST = b"POST /?name=q&opt=put&charset=gbk HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n%b\r\n%b"
OCTETS = b"Content-Type: application/octet-stream\r\n"


def post(body: bytes, line: bytes = OCTETS) -> bytes:
    return POST % (len(body), line, body)


def template(data: bytes, queues: OneQueue, config: Config = CONFIG) -> Template | None:
    return Templates(Dialect(queues), config).of(data)


def long_way(data: bytes, queues: OneQueue) -> bytes | None:
    """The answer to `data`; None when it is not one request that is answered at once."""
    reader = Reader(CONFIG)
    reader.receive(data)
    request = reader.next_request()
    if request is None or not reader.is_idle:
        return None
    response = Dialect(queues).handle_nowait(request)
    return response and answer.encode(response, request.layout, DATE, head_only=False)


def short_way(like: bytes, data: bytes, queues: OneQueue) -> bytes | None:
    """The answer to `data` by the template of `like`; None when it does not fit."""
    found = template(like, queues)
    message = None if found is None else found.find(data)
    if found is None or message is None:
        return None
    done = found.run(message)
    assert done is not None
    body, position, _ = done
    return found.encode(body, position, DATE)


@pytest.mark.parametrize(
    ("like", "data", "message"),
    [
        (GET, GET, b"stored"),
        (PUT % b"a", PUT % b"b-c", b"b-c"),
        (PUT % b"a", PUT % b"", b""),
        (PUT % b"", PUT % b"!\"$'()*,/:;<=>?@[]^_`{|}~", b"!\"$'()*,/:;<=>?@[]^_`{|}~"),
        (PUT % b"a", PUT % b"%E4%B8%AD+%2B%2541", b"\xe4\xb8\xad  A"),
        (PUT % b"%41", PUT % b"b", b"b"),
        (PUT_FIRST % b"a", PUT_FIRST % b"b", b"b"),
        (post(b"a"), post(b"%41\r\n\0" * 100), b"%41\r\n\0" * 100),
        (post(b"a"), post(b"x" * 3000), b"x" * 3000),
        (post(b"a", b""), post(b"%41+", b""), b"A "),
        (HOT["ab"], HOT["ab"], b"x"),
        (HOT["ab post"], HOT["ab post"], b"ab"),
        (HOT["curl"], HOT["curl"], b"ab"),
    ],
)
def test_repeated_requests_are_answered_as_the_first(
    like: bytes, data: bytes, message: bytes
) -> None:
    queues = OneQueue()
    queues.message = b"stored"
    assert short_way(like, data, queues) == long_way(data, queues) is not None
    assert queues.message == message


@pytest.mark.parametrize(
    "data",
    [
        PUT % b"a b",
        PUT % b"a&b",
        PUT % b"a#b",
        PUT % b"\xff",
        PUT % (b"a" * (HEAD_BYTES_MAX - len(PUT % b"") + 1)),
        PUT % b"a" + GET,
        (PUT % b"a")[:-1],
        b"GET /?name=q&opt=put&data= HTTP/1.1\r\nHost: i\r\n\r\n",
        GET,
    ],
)
def test_a_message_in_the_target_must_not_end_and_all_else_be_the_same(data: bytes) -> None:
    found = template(PUT % b"a", OneQueue())
    assert found is not None
    assert found.find(data) is None


def test_what_stands_around_a_message_may_not_overlap() -> None:
    like = b"GET /?a=b&name=q&opt=put&data=x&data= HTTP/1.1\r\n\r\n"
    assert template(like, OneQueue()) is None  # there are two messages
    found = template(PUT % b"a", OneQueue())
    assert found is not None
    before, _, after = (PUT % b"\n").partition(b"\n")
    assert found.find(before[:-1] + after) is None


@pytest.mark.parametrize(
    "data",
    [
        post(b"a" * 3001),  # over body_bytes_max
        post(b"ab")[:-1],
        post(b"ab") + b"c",
        post(b"").replace(b"0", b"+0"),
        post(b""),
        post(b"a").replace(b": 1\r", b": 1 \r"),
        post(b"a").replace(b": 1\r", b": 0000000001\r"),
        post(b"a").replace(b"name=q", b"name=r"),
    ],
)
def test_a_body_must_be_as_long_as_its_head_says(data: bytes) -> None:
    found = template(post(b"a"), OneQueue())
    assert found is not None
    assert found.find(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET /?name=q&opt=status HTTP/1.1\r\n\r\n",
        b"GET /?data=m&name=q&opt=put HTTP/1.1\r\n\r\n",  # the message stands first
        b"GET /?name=q&opt=put&data=m HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /?name=q&opt=put&data=m HTTP/1.1\r\nX-Unusual: 1\r\n\r\n",
        b"GET /?name=q&opt=get HTTP/1.1\r\nReferer: http://h/?x&data=m\r\n\r\n"
        b"GET /?name=q&opt=get HTTP/1.1\r\n\r\n",
        b"GET /?name=q&opt=get HTTP/1.1\r\nReferer: %b\r\n\r\n" % (b"r" * TEMPLATE_BYTES_MAX),
        PUT % b"m" + b"rest",
        post(b"m").replace(b"Length", b"Length", 1).replace(b"POST", b"PUT"),
    ],
)
def test_requests_without_a_template(data: bytes) -> None:
    assert template(data, OneQueue()) is None


def test_messages_share_a_template_and_what_has_none_drives_none_out() -> None:
    templates = Templates(Dialect(OneQueue()), CONFIG)
    first = templates.of(PUT % b"%41")
    assert first is not None
    for number in range(TEMPLATES_MAX):
        assert templates.of(PUT % b"%%41+%d" % number) is first
        assert templates.of(PUT % b"\xff%d" % number) is None
        assert templates.of(b"DELETE /v1/queues/q/leases/%d HTTP/1.1\r\n\r\n" % number) is None
    assert templates.of(PUT % b"a+b") is first


def test_a_password_is_part_of_what_must_be_the_same() -> None:
    templates = Templates(Dialect(OneQueue(), b"secret"), CONFIG)
    good = b"GET /?auth=secret&name=q&opt=put&data=%b HTTP/1.1\r\n\r\n"
    found = templates.of(good % b"m")
    assert found is not None
    assert found.find(good.replace(b"secret", b"Secret") % b"m") is None
    assert templates.of(good.replace(b"secret", b"Secret") % b"m") is None


def test_unusual_limits_leave_every_request_to_h11() -> None:
    small = Config(data_directory="", header_bytes_max=HEAD_BYTES_MAX - 1)
    assert template(GET, OneQueue(), small) is None


edits = st.lists(
    st.tuples(
        st.integers(0, 120),
        st.integers(0, 3),
        st.one_of(
            st.binary(max_size=3),
            st.sampled_from([b"&data=", b"%41", b"+", b"#", b" ", b"\r\n", b"&", b"1", b"0", b"a"]),
        ),
    ),
    max_size=3,
)
LIKE = [*HOT.values(), GET, PUT % b"a", PUT_FIRST % b"a", post(b"abc"), post(b"abc", b"")]


@given(st.sampled_from(LIKE), st.sampled_from(LIKE), edits, edits)
def test_reads_as_the_long_way_does(
    like: bytes,
    data: bytes,
    like_changes: list[tuple[int, int, bytes]],
    changes: list[tuple[int, int, bytes]],
) -> None:
    for at, removed, inserted in like_changes[:1]:
        like = like[:at] + inserted + like[at + removed :]
    for at, removed, inserted in changes:
        data = data[:at] + inserted + data[at + removed :]
    short, long = OneQueue(), OneQueue()
    short.message = long.message = b"stored"
    given_short = short_way(like, data, short)
    if given_short is not None:
        assert given_short == long_way(data, long)
        assert (short.name, short.message) == (long.name, long.message)
