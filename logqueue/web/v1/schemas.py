"""The schemas of the OpenAPI document: what bodies and parameters look like.  PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TypeAlias

from logqueue.options import (
    AGE_S_MAX,
    ATTEMPTS_MAX,
    BYTES_MAX,
    LEASE_S_MAX,
    LEASE_S_MIN,
    MAX_LENGTH_MAX,
    MAX_LENGTH_MIN,
    QueueOptions,
)
from logqueue.web.problem import CONTENT_TYPE
from logqueue.web.queues import Details, Overview, State
from logqueue.web.v1.batches import CONTENT_TYPE_BYTES_MAX
from logqueue.web.v1.queues import LISTED_MAX

Json: TypeAlias = dict[str, object]

DURATION = r"^[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h)?$"
ANY_NAME: Json = {
    "description": "Percent-encoded, 0 to 256 bytes after decoding.",
    "type": "string",
}


def ref(kind: str, name: str) -> Json:
    """A component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def object_of(properties: Mapping[str, object], *, required: bool = True, **more: object) -> Json:
    """An object with these properties, all of them required or none."""
    needed = {"required": list(properties)} if required else {}
    return {"type": "object", "properties": dict(properties), **needed, **more}


def whole(least: int = 0, most: int | None = None, **more: object) -> Json:
    """A whole number in a range."""
    limit = {} if most is None else {"maximum": most}
    return {"type": "integer", "minimum": least, **limit, **more}


def list_of(items: Json, **more: object) -> Json:
    """An array."""
    return {"type": "array", "items": items, **more}


def path_item(name: str, schema: Json) -> Json:
    """A part of a path."""
    return {"name": name, "in": "path", "required": True, "schema": schema}


def components() -> Json:
    """What the paths refer to."""
    problem = {
        "description": "RFC 9457 problem",
        "content": {CONTENT_TYPE.decode(): {"schema": _problem()}},
    }
    return {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic"},
        },
        "parameters": {
            "queue": path_item("queue", ANY_NAME),
            "lease": path_item("lease", {"type": "string", "minLength": 1}),
        },
        "responses": {"Problem": problem},
        "schemas": _schemas(),
    }


def _problem() -> Json:
    text = {"type": "string"}
    return object_of(
        {"type": text, "title": text, "status": whole(400), "code": text, "detail": text}
    )


def states() -> list[str]:
    """Those of messages that are there."""
    absent = (State.UNWRITTEN, State.COMPACTED)
    return [state.value for state in State if state not in absent]


def _schemas() -> Json:
    durable = {"enum": ["disk", "page-cache"]}
    overview = {name: whole() for name in Overview._fields}
    details = {name: whole() for name in Details._fields}
    overview |= {"name": ANY_NAME, "damaged": {"type": "boolean"}}
    details |= {"name": ANY_NAME, "options": ref("schemas", "Options")}
    content_type = {"type": "string", "maxLength": CONTENT_TYPE_BYTES_MAX}
    return {
        "Options": _options(),
        "Queue": object_of(details),
        "QueueList": object_of(
            {
                "queues": list_of(object_of(overview), maxItems=LISTED_MAX),
                "next": {"type": ["string", "null"]},
            }
        ),
        "Duration": {
            "description": f"Such as 20s or 500ms, or seconds; at most {LEASE_S_MAX:g} s.",
            "oneOf": [
                {"type": "string", "pattern": DURATION},
                {"type": "number", "minimum": 0, "maximum": LEASE_S_MAX},
            ],
        },
        "Stored": object_of({"sequence": whole(1), "pos": whole(1), "durable": durable}),
        "StoredBatch": object_of(
            {name: whole(1) for name in ("first", "last", "count", "pos")} | {"durable": durable}
        ),
        "BatchLine": object_of(
            {
                "data": {"type": "string"},
                "data_b64": {"type": "string", "contentEncoding": "base64"},
                "type": content_type,
            },
            required=False,
            additionalProperties=False,
            oneOf=[{"required": ["data"]}, {"required": ["data_b64"]}],
        ),
        "Line": _line(),
    }


def _line() -> Json:
    needed: Json = {name: whole() for name in ("sequence", "pos", "time", "attempts")}
    needed |= {"lease": {"type": "string"}, "type": {"type": ["string", "null"]}}
    line = object_of(needed)
    line["properties"] = needed | {
        "data": {"type": "string"},
        "data_b64": {"type": "string", "contentEncoding": "base64"},
        "dead": list_of({"type": "string"}),
        "state": {"enum": states()},
    }
    return line


def _options() -> Json:
    limits: Json = {
        "max_length": whole(MAX_LENGTH_MIN, MAX_LENGTH_MAX),
        "max_age_s": {"type": "number", "minimum": 0, "maximum": AGE_S_MAX},
        "lease_s": {"type": "number", "minimum": LEASE_S_MIN, "maximum": LEASE_S_MAX},
        "max_attempts": whole(0, ATTEMPTS_MAX),
        "dead_letter": {"type": ["string", "null"], "pattern": "^[!-~]*$"},
        "retain_bytes": whole(0, BYTES_MAX),
        "retain_s": {"type": "number", "minimum": 0, "maximum": AGE_S_MAX},
        "paused": {"type": "boolean"},
    }
    assert set(limits) == {each.name for each in fields(QueueOptions)}
    return object_of(limits, required=False, additionalProperties=False)
