"""The OpenAPI 3.1 document of the v1 API, served at /v1/openapi.json.  PURE.

Its limits are those of the code.  `tests/test_openapi.py` holds the running daemon against it.
"""

from __future__ import annotations

import json

from logqueue import __version__
from logqueue.options import LEASE_S_MAX, LEASE_S_MIN
from logqueue.web.httpsqs import WAIT_S_MAX
from logqueue.web.v1.batches import FRAMES, LINES, MESSAGES_MAX
from logqueue.web.v1.call import JSON, SEQUENCE_MAX
from logqueue.web.v1.messages import LOOK, LOOK_MAX
from logqueue.web.v1.queues import LISTED, LISTED_MAX
from logqueue.web.v1.schemas import (
    ANY_NAME,
    DURATION,
    Json,
    components,
    list_of,
    object_of,
    path_item,
    ref,
    states,
    whole,
)

LEASE = "^[A-Za-z0-9_-]{40}$"
ANYWHERE = (400, 401, 403, 405, 413, 414, 417, 431, 500, 503)  # may answer any request


def document() -> bytes:
    """The document in JSON."""
    found: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "logqueue",
            "version": __version__,
            "description": "A crash-safe HTTP message queue. The reference is docs/api.md.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"basic": []}],
        "paths": _paths(),
        "components": components(),
    }
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def _paths() -> Json:
    queue = "/v1/queues/{queue}"
    return {
        "/v1/openapi.json": {
            "get": _operation("describeApi", "This document", {200: _said("OpenAPI 3.1", {})})
        },
        "/v1/queues": {"get": _list_queues()},
        queue: {"parameters": [ref("parameters", "queue")], **_queue()},
        **{
            f"{queue}/{name}": _on_queue({"post": operation})
            for name, operation in _switches().items()
        },
        f"{queue}/messages": _on_queue({"post": _put(), "get": _look_from()}),
        f"{queue}/messages/batch": _on_queue({"post": _put_batch()}),
        f"{queue}/messages/receive": _on_queue({"post": _receive()}),
        f"{queue}/messages/{{sequence}}": _on_queue(
            {"get": _look()}, path_item("sequence", whole(1, SEQUENCE_MAX))
        ),
        f"{queue}/leases": _on_queue({"post": _answer_many()}),
        f"{queue}/leases/{{lease}}": _on_queue(_lease(), ref("parameters", "lease")),
        f"{queue}/leases/{{lease}}/release": _on_queue(
            {"post": _release()}, ref("parameters", "lease")
        ),
    }


def _on_queue(operations: Json, *more: Json) -> Json:
    return {"parameters": [ref("parameters", "queue"), *more], **operations}


def _list_queues() -> Json:
    parameters = [
        _query("after", ANY_NAME, "`next` of the page before."),
        _query("limit", whole(1, LISTED_MAX, default=LISTED), "Queues in one answer."),
    ]
    return _operation(
        "listQueues",
        "The queues, in byte order of their names",
        {200: _said("A page", ref("schemas", "QueueList"))},
        parameters=parameters,
    )


def _queue() -> Json:
    queue, options = ref("schemas", "Queue"), ref("schemas", "Options")
    place: Json = {"Location": _header({"type": "string"})}
    return {
        "put": _operation(
            "createQueue",
            "Create",
            {
                200: _said("It is there already, with the same options", queue),
                201: _said("Created", queue, place),
            },
            *(409, 415, 507),
            requestBody=_body(options, required=False),
        ),
        "get": _operation("describeQueue", "Describe", {200: _said("The queue", queue)}, 404),
        "patch": _operation(
            "updateQueue",
            "Change options",
            {200: _said("The queue", queue)},
            *(404, 409, 415, 507),
            requestBody=_body(options, required=False),
        ),
        "delete": _operation(
            "deleteQueue", "Delete, with all messages", {204: _said("Deleted")}, 404
        ),
    }


def _switches() -> dict[str, Json]:
    queue = {200: _said("The queue", ref("schemas", "Queue"))}
    purged = {200: _said("Purged", object_of({"purged": whole()}))}
    return {
        "purge": _operation("purgeQueue", "Consume all that is there", purged, 404),
        "pause": _operation("pauseQueue", "Stop delivery", queue, 404, 507),
        "resume": _operation("resumeQueue", "Start delivery", queue, 404, 507),
    }


def _put() -> Json:
    headers: Json = {
        "Location": _header({"type": "string"}),
        "Queue-Sequence": _header(whole(1)),
        "Queue-Pos": _header(whole(1)),
    }
    return _operation(
        "putMessage",
        "Put the body as one message; its Content-Type is kept",
        {201: _said("Stored", ref("schemas", "Stored"), headers)},
        *(415, 429, 507),
        requestBody={"content": {"*/*": {}}},
    )


def _put_batch() -> Json:
    return _operation(
        "putBatch",
        "Put many, all or nothing: NDJSON (BatchLine), or frames (u32 big-endian length + bytes)",
        {201: _said("Stored", ref("schemas", "StoredBatch"))},
        *(415, 429, 507),
        requestBody={"required": True, "content": _raw(LINES, FRAMES)},
    )


def _receive() -> Json:
    duration: Json = {"type": "string", "pattern": DURATION}
    lease = (
        f"0 consumes at once; else {LEASE_S_MIN:g} s to {LEASE_S_MAX:g} s. Default: the queue's."
    )
    return _operation(
        "receiveMessages",
        "Hand out messages: one as it is, more as NDJSON (Line) or frames by Accept",
        {
            200: {
                "description": "Messages",
                "content": _raw(b"*/*", LINES, FRAMES),
                "headers": _message_headers() | {"Queue-Count": _header(whole(1))},
            },
            204: _said("Nothing to hand out"),
        },
        *(429, 507),
        parameters=[
            _query("max", whole(1, MESSAGES_MAX, default=1), "Messages at most."),
            _query("wait", duration, f"For the first one; at most {WAIT_S_MAX:g} s. Default 0."),
            _query("lease", duration, lease),
        ],
    )


def _message_headers() -> Json:
    return {
        "Queue-Sequence": _header(whole(1)),
        "Queue-Pos": _header(whole(1)),
        "Queue-Time": _header(whole()),
        "Queue-Attempts": _header(whole()),
        "Queue-Lease": _header({"type": "string", "pattern": LEASE}),
        "Queue-Dead": _header({"type": "string"}),
    }


def _look() -> Json:
    state = {"Queue-State": _header({"enum": states()})}
    found = {"description": "The message", "content": {"*/*": {}}}
    return _operation(
        "lookAtMessage",
        "One message; nothing changes",
        {200: {**found, "headers": _message_headers() | state}},
        *(404, 410),
    )


def _look_from() -> Json:
    return _operation(
        "lookAtMessages",
        "Messages from a sequence on, as NDJSON (Line with state); nothing changes",
        {200: {"description": "Messages", "content": _raw(LINES)}},
        404,
        parameters=[
            _query("from", whole(1, SEQUENCE_MAX, default=1), "The first sequence."),
            _query("limit", whole(1, LOOK_MAX, default=LOOK), "Messages in one answer."),
        ],
    )


def _lease() -> Json:
    extend = object_of({"extend": ref("schemas", "Duration")}, additionalProperties=False)
    return {
        "delete": _operation(
            "acknowledge", "Consume for good", {204: _said("Acknowledged")}, 404, 410, 507
        ),
        "patch": _operation(
            "extendLease",
            "Let the lease end so long from now",
            {204: _said("Extended")},
            *(404, 410, 415, 507),
            requestBody=_body(extend, required=True),
        ),
    }


def _release() -> Json:
    delay = {"delay": ref("schemas", "Duration")}
    return _operation(
        "releaseLease",
        "Give the message back",
        {204: _said("Given back")},
        *(404, 410, 415, 507),
        requestBody=_body(
            object_of(delay, required=False, additionalProperties=False), required=False
        ),
    )


def _answer_many() -> Json:
    tokens = list_of({"type": "string"})
    release = object_of({"lease": {"type": "string"}})
    release["properties"] = {"lease": {"type": "string"}, "delay": ref("schemas", "Duration")}
    given = object_of(
        {"ack": tokens, "release": list_of({**release, "additionalProperties": False})},
        required=False,
        additionalProperties=False,
    )
    told = {"acknowledged": whole(), "released": whole(), "expired": tokens, "unknown": tokens}
    return _operation(
        "answerLeases",
        f"Acknowledge and give back many, {MESSAGES_MAX} together at most",
        {200: _said("What became of them", object_of(told))},
        *(404, 415, 507),
        requestBody=_body(given, required=True),
    )


# ---------------------------------------------------------------- small parts


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(schema: Json) -> Json:
    return {"schema": schema}


def _content(schema: Json) -> Json:
    return {"content": {JSON.decode(): {"schema": schema}}}


def _body(schema: Json, *, required: bool) -> Json:
    return {"required": required, **_content(schema)}


def _raw(*types: bytes) -> Json:
    return {each.decode(): {} for each in types}


def _said(description: str, schema: Json | None = None, headers: Json | None = None) -> Json:
    content = {} if schema is None else _content(schema)
    return {"description": description, **content, **({"headers": headers} if headers else {})}


def _operation(
    name: str, summary: str, answers: dict[int, Json], *problems: int, **more: object
) -> Json:
    found = {str(status): answer for status, answer in answers.items()}
    for status in sorted({*ANYWHERE, *problems}):
        found[str(status)] = ref("responses", "Problem")
    return {"operationId": name, "summary": summary, "responses": found, **more}
