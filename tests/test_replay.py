"""Every recorded HTTPSQS 1.7 conversation, replayed over real sockets against a real daemon.

What we answer differently on purpose stands in `DIFFERENCES`, each with its reason and our answer;
`docs/http.md` tells client authors the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.daemon import Daemon, running
from tests.recording import Runner, Scenario, Step, expected, scenarios

THREADS = 24  # mostly waiting for answers that must not come


def answer(body: str, *, pos: int | None = None, closes: bool = False, head: bool = False) -> Step:
    """An HTTP/1.1 answer of ours as the recordings tell it."""
    position = [] if pos is None else [["Pos", str(pos)]]
    lines = [["Content-Type", "text/plain"]]
    lines += [] if closes else [["Connection", "keep-alive"]]
    lines += [["Cache-Control", "no-cache"], *position, ["Date", ""]]
    lines += [["Content-Length", str(len(body))]]
    lines += [["Connection", "close"]] if closes else []
    return {
        "status_line": "HTTP/1.1 200 OK",
        "headers": [line for line in lines if line[0] != "Date"],
        "header_names": [name for name, _ in lines],
        "body": "" if head else body,
        "closed": closes,
    }


def refused(status: str) -> Step:
    """A refusal of ours, in the page of HTTPSQS's HTTP library."""
    phrase = status.partition(" ")[2]
    body = (
        f"<HTML><HEAD>\n<TITLE>{status}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n</BODY></HTML>\n"
    )
    return {
        "status_line": f"HTTP/1.1 {status}",
        "headers": [
            ["Content-Type", "text/html"],
            ["Connection", "close"],
            ["Content-Length", str(len(body))],
        ],
        "header_names": ["Content-Type", "Connection", "Date", "Content-Length"],
        "body": body,
        "closed": True,
    }


def explained(status: str, detail: str) -> Step:
    """A refusal that HTTPSQS did not have."""
    page = refused(status)
    body = page["body"].replace("</H1>\n", f"</H1>\n<P>{detail}</P>\n")
    page["headers"] = [*page["headers"][:2], ["Content-Length", str(len(body))]]
    page["header_names"].insert(2, "X-Content-Type-Options")
    return {**page, "body": body}


def status_json(name: str, *, maxqueue: int = 1000000, put: int = 0, got: int = 0) -> str:
    return (
        f'{{"name":"{name}","maxqueue":{maxqueue},"putpos":{put},"putlap":1,'
        f'"getpos":{got},"getlap":1,"unread":{put - got}}}\n'
    )


class Difference(NamedTuple):
    reason: str
    steps: dict[int, Step]


CROSS_SITE = explained("403 Forbidden", "another web site made the browser send this request")
DIFFERENCES = {
    "query-percent-nul": Difference(
        "a NUL byte is kept in a message; HTTPSQS lost the rest",
        {
            3: answer("ab\0cd", pos=1),
            4: answer("ab\0cd", pos=2),
            5: answer("\0x", pos=3),
        },
    ),
    "name-nul": Difference(
        "a name with a NUL byte is an error; HTTPSQS used the queue of the name before it",
        {
            0: answer("HTTPSQS_ERROR"),
            1: answer(status_json("nn1")),
            2: answer("HTTPSQS_ERROR"),
            3: answer("HTTPSQS_ERROR"),
        },
    ),
    "name-json-unescaped": Difference(
        "status_json is JSON for every name; HTTPSQS let a name forge it",
        {
            0: answer(status_json(r"a\u0022b")),
            1: answer(status_json(r"a\u005cb")),
            2: answer(status_json(r"a\u000ab")),
            3: answer(status_json(r"a\u0009b")),
            4: answer(status_json(r"\u0022,\u0022x\u0022:\u00221")),
        },
    ),
    "maxqueue-values": Difference(
        "a number beyond 32 bits is out of range; HTTPSQS wrapped it and set a size of 10",
        {15: answer("HTTPSQS_ERROR"), 19: answer(status_json("mq1", maxqueue=1000000000))},
    ),
    "synctime": Difference(
        "a number beyond 32 bits is out of range; HTTPSQS wrapped it",
        {8: answer("HTTPSQS_ERROR")},
    ),
    "charset-crlf": Difference(
        "a charset that would break the header line is ignored; HTTPSQS lost the Content-Type",
        {step: answer("HTTPSQS_GET_END") for step in range(6)},
    ),
    "method-head": Difference(
        "an answer to HEAD has a length and no body (HTTPSQS's put the connection out of step), "
        "and HEAD does not consume a message, which would be lost",
        {
            0: answer("HTTPSQS_PUT_OK", pos=1, head=True),
            1: answer(status_json("me1", put=1), head=True),
            3: answer("HTTPSQS_ERROR", head=True),
            4: answer("x", pos=1),
        },
    ),
    "method-connect": Difference(
        "501 has a length and closes; HTTPSQS left the connection out of step",
        {0: refused("501 Not Implemented")},
    ),
    "connection-close": Difference(
        "close is understood in a list of Connection options (RFC 9110, section 7.6.1)",
        {step: answer(status_json("cn1"), closes=True) for step in (3, 4)},
    ),
    "chunked-empty-uses-data": Difference(
        "chunks in an HTTP/1.0 request leave its end in doubt (RFC 9112, section 6.1)",
        {
            1: refused("400 Bad Request"),
            2: answer(status_json("bo9", put=1)),
            4: answer("HTTPSQS_GET_END"),
        },
    ),
    "auth-header-not-used": Difference(
        "the password is also accepted in an Authorization header, Basic or Bearer",
        {0: answer(status_json("au7"))},
    ),
    "header-ignored": Difference(
        "a page of another web site (its Origin is not the Host) cannot use the queues of whoever "
        "looks at it",
        {5: CROSS_SITE},
    ),
    "content-length-twice": Difference(
        "two different lengths leave a message's end in doubt (RFC 9112, section 6.3)",
        {1: refused("400 Bad Request"), 2: answer(status_json("bo6", put=1))},
    ),
}

RECORDED = scenarios()


def needs_own_daemon(scenario: Scenario) -> bool:
    """Whether it restarts the daemon or asks for flags; the others use queues of their own."""
    restarts = any(step.get("control") == "restart" for step in scenario["steps"])
    return restarts or bool(scenario["server_args"])


def play(scenario: Scenario, daemon: Daemon) -> list[Step]:
    runner = Runner(daemon)
    try:
        return [runner.play(step) for step in scenario["steps"]]
    finally:
        runner.close()


def play_alone(scenario: Scenario, directory: Path, fast_path: bool) -> list[Step]:
    with running(directory, scenario["server_args"], fast_path=fast_path) as daemon:
        return play(scenario, daemon)


@pytest.fixture(scope="module")
def played(
    tmp_path_factory: pytest.TempPathFactory, fast_path: bool
) -> Iterator[dict[str, Future[list[Step]]]]:
    """All scenarios, being played side by side: most of their time is waiting."""
    with (
        running(tmp_path_factory.mktemp("shared"), fast_path=fast_path) as shared,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        futures = {}
        for scenario in sorted(RECORDED, key=lambda each: -len(each["steps"])):
            name = scenario["scenario"]
            if needs_own_daemon(scenario):
                futures[name] = threads.submit(
                    play_alone, scenario, tmp_path_factory.mktemp(name), fast_path
                )
            else:
                futures[name] = threads.submit(play, scenario, shared)
        yield futures


@pytest.mark.parametrize("scenario", RECORDED, ids=[each["scenario"] for each in RECORDED])
def test_scenario(scenario: Scenario, played: dict[str, Future[list[Step]]]) -> None:
    name = scenario["scenario"]
    ours = DIFFERENCES[name].steps if name in DIFFERENCES else {}
    for at, (step, got) in enumerate(zip(scenario["steps"], played[name].result(), strict=True)):
        wanted = expected(step)
        if at in ours:
            assert ours[at] != wanted, f"step {at} does not differ from the recording any more"
            wanted = ours[at]
        assert got == wanted, f"step {at}"


def test_differences_are_of_recorded_steps() -> None:
    lengths = {each["scenario"]: len(each["steps"]) for each in RECORDED}
    assert all(step < lengths[name] for name, each in DIFFERENCES.items() for step in each.steps)
