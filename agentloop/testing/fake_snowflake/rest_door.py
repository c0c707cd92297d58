"""The REST inference doors: credentials, limits, rules, then the script.

The room turns one POST into one reply. It must not touch sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, assert_never

from attrs import evolve, frozen

from agentloop.testing.fake_snowflake.clock import Clock
from agentloop.testing.fake_snowflake.records import Request
from agentloop.testing.fake_snowflake.replies import (
    Answer,
    Computed,
    Delivery,
    Expired,
    Failure,
    Fault,
    Null,
    Page,
    Reset,
    SqlFailure,
)
from agentloop.testing.fake_snowflake.rules import (
    Judge,
    header_violation,
    size_violation,
    violations,
)
from agentloop.testing.fake_snowflake.script import Script
from agentloop.testing.fake_snowflake.sessions import (
    Bearer,
    Refused,
    Session,
    Sessions,
    expired_body,
)
from agentloop.testing.fake_snowflake.shapes import Doc, loads
from agentloop.testing.fake_snowflake.streams import (
    Door,
    Drop,
    Response,
    body_response,
    json_response,
    streamed,
    whole,
)
from agentloop.testing.fake_snowflake.wire_messages import Stamp

PATHS: Final[Mapping[str, Door]] = {
    "/api/v2/cortex/v1/messages": "messages",
    "/api/v2/cortex/v1/chat/completions": "chat",
}

BEARER_KIND: Final = "x-snowflake-authorization-token-type"
REQUEST_ID: Final = "X-Snowflake-Request-Id"


@frozen(kw_only=True)
class RestDoor:
    """Both REST dialects over one script.

    Attributes:
        finish: What Claude's chat replies hold as finish reason; None leaves it out.
    """

    script: Script
    sessions: Sessions
    clock: Clock
    judge: Judge = violations
    finish: str | None = ""

    def post(
        self, door: Door, raw: bytes, headers: Mapping[str, str]
    ) -> Response | Drop:
        """Answer one POST; `headers` have lower-case names."""
        request = self._request(door, headers)
        reply = self._judged(request, raw, headers)
        if isinstance(reply, Drop):
            return reply
        given = {REQUEST_ID: request.request_id, **reply.headers}
        return evolve(reply, headers=given)

    def _request(self, door: Door, headers: Mapping[str, str]) -> Request:
        number = self.script.next_id("request")
        bearer = headers.get("authorization", "").startswith("Bearer")
        return Request(
            number=number,
            door=door,
            body={},
            headers={k: v for k, v in headers.items() if k != "authorization"},
            auth="bearer" if bearer else "session",
            request_id=f"00000000-0000-4000-8000-{number:012d}",
        )

    def _judged(
        self, request: Request, raw: bytes, headers: Mapping[str, str]
    ) -> Response | Drop:
        credentials, kind = headers.get("authorization", ""), headers.get(BEARER_KIND)
        who = self.sessions.judge(credentials, "rest", kind)
        body = _parsed(raw)
        request = evolve(request, body=body or {})
        self.script.receive(request)
        if isinstance(who, Refused):
            self.script.settle(request.number, "unauthorized", str(who.body["message"]))
            return json_response(who.status, who.body)
        if too_large := size_violation(raw):
            return self._refused(request, 413, too_large)
        if body is None:
            why = "Incoming request does not contain a valid payload."
            return self._refused(request, 400, why, code="390142")
        broken = header_violation(request.door, headers)
        broken = broken or self.judge(request.door, body, self.script.known())
        if broken:
            return self._refused(request, 400, broken)
        return self._scripted(request, who)

    def _refused(
        self, request: Request, status: int, why: str, code: str | None = None
    ) -> Response:
        self.script.settle(request.number, "refused", why)
        failure = Failure(status=status, message=why, code=code)
        return json_response(status, _failure_body(failure, request))

    # -- the script -------------------------------------------------------------------
    def _scripted(self, request: Request, who: Session | Bearer) -> Response | Drop:
        reply = self.script.take(request)
        if reply is None:
            why = "the script has no reply for it"
            self.script.settle(request.number, "unscripted", why)
            return json_response(
                400, {"message": why, "request_id": request.request_id}
            )
        ran = isinstance(reply, Answer)
        self.script.settle(request.number, "answered" if ran else "failed")
        if isinstance(reply, Answer):
            return self._answer(reply, request)
        if isinstance(reply, Expired) and isinstance(who, Session):
            who.live = False
        return self._fault(reply, request)

    def _fault(self, reply: Fault, request: Request) -> Response | Drop:
        match reply:
            case Failure():
                failed = json_response(reply.status, _failure_body(reply, request))
                return evolve(failed, headers=reply.headers)
            case Page():
                return body_response(reply.status, reply.body, reply.content_type)
            case Reset():
                return Drop()
            case Expired():
                return json_response(200, expired_body(reply))
            case SqlFailure() | Null():
                why = f"only the SQL door can serve {reply!r}, not {request.door}"
                self.script.complain(why)
                return json_response(500, {"message": why})
            case Computed():
                raise AssertionError("the script decides computed replies")
            case _:
                assert_never(reply)

    def _answer(self, answer: Answer, request: Request) -> Response | Drop:
        ready = self._ready(answer.delivery)
        ending = answer.delivery.ending
        if ending is not None and ending.how == "reset" and ending.events == 0:
            return Drop(ready)
        broken = answer.delivery.broken
        if broken is not None and not request.stream:
            failure = Failure(status=500, message=broken.message)
            failed = json_response(500, _failure_body(failure, request))
            return evolve(failed, ready=ready)
        stamp = Stamp(
            id=f"{request.number:06d}",
            model=request.model,
            usage_asked=request.usage_asked,
            finish=self.finish,
        )
        door: Door = "messages" if request.door == "messages" else "chat"
        render = streamed if request.stream else whole
        return evolve(render(door, answer, stamp), ready=ready)

    def _ready(self, travel: Delivery) -> Callable[[], bool]:
        arrived = self.clock.now()

        def due() -> float:
            opened = travel.gate.opened if travel.gate else arrived
            return max(arrived + travel.seconds, opened)

        return lambda: self.clock.wait(due)


def _parsed(raw: bytes) -> Doc | None:
    try:
        value = loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _failure_body(failure: Failure, request: Request) -> Doc:
    body: Doc = {"message": failure.message, "request_id": request.request_id}
    return body if failure.code is None else {"code": failure.code, **body}
