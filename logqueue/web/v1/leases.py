"""Leases of the v1 API: acknowledge, extend, give back."""

from __future__ import annotations

from logqueue.options import LEASE_S_MAX, LEASE_S_MIN
from logqueue.web.message import Response
from logqueue.web.problem import Failed
from logqueue.web.queues import MessageQueues, Outcome
from logqueue.web.v1.answers import Routes, json_answer, nothing
from logqueue.web.v1.batches import MESSAGES_MAX
from logqueue.web.v1.call import Call, bad_body, bad_parameter, json_duration


class Leases:
    """Operations on the leases of `queues`."""

    def __init__(self, queues: MessageQueues) -> None:
        self._queues = queues

    @property
    def routes(self) -> Routes:
        """What this serves."""
        leases = (b"queues", None, b"leases")
        return {
            leases: {b"POST": self.answer_many},
            (*leases, None): {b"DELETE": self.acknowledge, b"PATCH": self.extend},
            (*leases, None, b"release"): {b"POST": self.release},
        }

    async def acknowledge(self, call: Call) -> Response:
        """Consume the message for good."""
        call.allow()
        (outcome,) = await self._queues.acknowledge(call.queue, [_token(call)])
        return _told(outcome)

    async def extend(self, call: Call) -> Response:
        """Let the lease end later, or earlier."""
        call.allow()
        given = call.json()
        _only(given, "extend")
        if "extend" not in given:
            bad_body('there is nothing to do; give {"extend":"30s"}')
        lease_s = json_duration("extend", given["extend"], LEASE_S_MAX)
        if lease_s < LEASE_S_MIN:
            bad_parameter("extend", f"must be at least {LEASE_S_MIN}s; release gives back")
        (outcome,) = await self._queues.extend(call.queue, [_token(call)], lease_s)
        return _told(outcome)

    async def release(self, call: Call) -> Response:
        """Give the message back."""
        call.allow()
        given = call.json()
        _only(given, "delay")
        delay_s = json_duration("delay", given.get("delay", 0), LEASE_S_MAX)
        (outcome,) = await self._queues.release(call.queue, [(_token(call), delay_s)])
        return _told(outcome)

    async def answer_many(self, call: Call) -> Response:
        """Acknowledge and give back many."""
        call.allow()
        if not call.request.body:
            bad_body('there is nothing to do; give {"ack":[LEASE,...]}')
        given = call.json()
        _only(given, "ack", "release")
        tokens = [_text("ack", each) for each in _list(given, "ack")]
        releases = [_release(each) for each in _list(given, "release")]
        if len(tokens) + len(releases) > MESSAGES_MAX:
            raise Failed(413, "too-large", f"at most {MESSAGES_MAX} leases in one request")
        queues, name = self._queues, call.queue
        acknowledged = await queues.acknowledge(name, tokens) if tokens or not releases else []
        released = await queues.release(name, releases) if releases else []
        told = [*zip(tokens, acknowledged, strict=True)]
        told += [(token, each) for (token, _), each in zip(releases, released, strict=True)]
        body = {
            "acknowledged": acknowledged.count(Outcome.DONE),
            "released": released.count(Outcome.DONE),
            "expired": [token for token, each in told if each is Outcome.EXPIRED],
            "unknown": [token for token, each in told if each is Outcome.UNKNOWN],
        }
        return json_answer(200, body)


def _told(outcome: Outcome) -> Response:
    if outcome is Outcome.DONE:
        return nothing()
    if outcome is Outcome.EXPIRED:
        raise Failed(410, "lease-expired", "the lease is over; the message may be out again")
    raise Failed(404, "no-such-lease", "no lease of this queue ever had this token")


def _token(call: Call) -> str:
    return call.item.decode("latin-1")


def _only(given: dict[str, object], *known: str) -> None:
    for each in given:
        if each not in known:
            bad_body(f"{each!r} is unknown; known: {', '.join(known)}")


def _list(given: dict[str, object], name: str) -> list[object]:
    value = given.get(name, [])
    if not isinstance(value, list):
        bad_body(f"{name} is not an array")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        bad_body(f"{name} holds something that is not a string")
    return value


def _release(value: object) -> tuple[str, float]:
    if not isinstance(value, dict):
        bad_body("release holds something that is not an object")
    _only(value, "lease", "delay")
    token = _text("release", value.get("lease"))
    return token, json_duration("delay", value.get("delay", 0), LEASE_S_MAX)
