"""The OpenAPI document against the running daemon: generated requests, checked answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import positive_data_acceptance

from logqueue.duration import seconds
from logqueue.web.v1.openapi import document
from tests.daemon import Daemon, running
from tests.v1 import FRAMES, NDJSON, Client, framed

EXAMPLES_MAX = 25  # for each operation
# The longest duration cannot be said in a pattern, nor can what has to fit together.
NOT_CHECKED: list[CheckFunction] = [positive_data_acceptance]

lines = st.lists(st.fixed_dictionaries({"data": st.text(st.characters(codec="utf-8"))}), min_size=1)
schemathesis.openapi.media_type(
    NDJSON, lines.map(lambda given: "\n".join(map(json.dumps, given)).encode())
)
schemathesis.openapi.media_type(FRAMES, st.lists(st.binary(), min_size=1).map(framed))

api = schemathesis.openapi.from_dict(json.loads(document()))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("v1")
    with running(directory, ["--durability", "os", "--max-queues", "50"]) as started:
        yield started


def test_it_is_served(daemon: Daemon) -> None:
    with Client(daemon.port) as client:
        served = client.call("GET", "/openapi.json")
    assert served.headers["Content-Type"] == "application/json"
    assert served.body == document()


@api.parametrize()
@settings(max_examples=EXAMPLES_MAX, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(daemon: Daemon, case: Case[Any]) -> None:
    if len(case.path_parameters.get("queue", "")) == 1:  # the usual one: let it be there
        case.path_parameters["queue"] = "jobs"
        with Client(daemon.port) as client:
            client.put("jobs", b"some", b"messages")
            leased = client.receive("jobs", "lease=1h&max=1").headers.get("Queue-Lease")
        if leased and len(case.path_parameters.get("lease", "")) == 1:
            case.path_parameters["lease"] = leased
    if 0 < (seconds(str((case.query or {}).get("wait"))) or 0) <= 60:
        case.query["wait"] = "1ms"
    base_url = f"http://127.0.0.1:{daemon.port}"
    case.call_and_validate(base_url=base_url, excluded_checks=NOT_CHECKED)
