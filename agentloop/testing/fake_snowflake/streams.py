"""HTTP replies as bytes: documents, server-sent events, and all that happens to them.

The room turns an answer into the body of a REST reply. It must not touch sockets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Literal, TypeAlias

from attrs import evolve, field, frozen

from agentloop.testing.fake_snowflake.replies import Answer, Break, Ending
from agentloop.testing.fake_snowflake.shapes import Doc, Json, dumps
from agentloop.testing.fake_snowflake.wire_chat import (
    completion,
    completion_chunks,
    error_chunk,
)
from agentloop.testing.fake_snowflake.wire_messages import (
    Stamp,
    error_event,
    message,
    message_events,
)

Door: TypeAlias = Literal["messages", "chat"]


def at_once() -> bool:
    """The wait of replies that do not wait."""
    return True


@frozen(kw_only=True)
class Response:
    """A reply as it leaves the server.

    Attributes:
        parts: The body; a stream has one part per event.
        length: The announced length, when the body is not a stream.
        framing: How the client learns where the body ends.
        leaving: What becomes of the connection after the last part.
        ready: Waits until the reply may go on; False when the server closes first.
        stall: How many parts are sent before that wait.
    """

    status: int = 200
    parts: tuple[bytes, ...] = ()
    length: int = 0
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(factory=dict)
    framing: Literal["length", "chunked", "close"] = "length"
    leaving: Literal["whole", "close", "reset"] = "whole"
    ready: Callable[[], bool] = at_once
    stall: int = 0


@frozen
class Drop:
    """No reply at all: the connection is reset, after a wait."""

    ready: Callable[[], bool] = at_once


def body_response(status: int, body: bytes, content_type: str) -> Response:
    """A small reply of any kind."""
    return Response(
        status=status, parts=(body,), length=len(body), content_type=content_type
    )


def json_response(status: int, body: Json) -> Response:
    """A small JSON reply."""
    return body_response(status, dumps(body).encode(), "application/json")


def whole(door: Door, answer: Answer, stamp: Stamp) -> Response:
    """The answer as one JSON document."""
    encode = message if door == "messages" else completion
    response = json_response(200, encode(answer, stamp))
    ending = answer.delivery.ending
    if ending is None:
        return response
    (body,) = response.parts
    left = body[: ending.at] if ending.at is not None else body[: len(body) // 2]
    length = len(left) if ending.how == "finish" else len(body)
    return evolve(response, parts=(left,), length=length, leaving=_leaving(ending))


def streamed(door: Door, answer: Answer, stamp: Stamp) -> Response:
    """The answer as server-sent events."""
    travel = answer.delivery
    render = _messages if door == "messages" else _chat
    response = Response(
        parts=tuple(render(answer, stamp)),
        content_type="text/event-stream",
        framing="chunked" if travel.chunked else "close",
        stall=travel.stall,
    )
    ending = travel.ending
    if ending is None:
        return response
    at = ending.at
    left = response.parts[: ending.events] if at is None else _first(response.parts, at)
    return evolve(response, parts=tuple(left), leaving=_leaving(ending))


def _leaving(ending: Ending) -> Literal["whole", "close", "reset"]:
    return "whole" if ending.how == "finish" else ending.how


def _first(parts: tuple[bytes, ...], at: int) -> Iterator[bytes]:
    """The parts up to so many bytes, the last one cut."""
    for part in parts:
        if at <= 0:
            return
        yield part[:at]
        at -= len(part)


def _messages(answer: Answer, stamp: Stamp) -> Iterator[bytes]:
    travel = answer.delivery
    events: list[tuple[str, Doc]] = list(message_events(answer, stamp))
    if not travel.terminated:
        events.pop()
    if travel.broken:
        events = events[: travel.broken.events]
        events.append(_break(travel.broken) or error_event(travel.broken.message))
    for name, event in events:
        head = f"event: {name}\n".encode() if name else b""
        yield head + _data(event, spread=travel.spread)


def _break(broken: Break) -> tuple[str, Doc] | None:
    """Snowflake's own error event, which has neither a name nor a type."""
    if broken.code is None:
        return None
    return "", {"error": {"message": broken.message, "code": broken.code}}


def _chat(answer: Answer, stamp: Stamp) -> Iterator[bytes]:
    travel = answer.delivery
    chunks = completion_chunks(answer, stamp)
    if travel.broken:
        for chunk in islice(chunks, travel.broken.events):
            yield _data(chunk, spread=travel.spread)
        _, told = _break(travel.broken) or ("", error_chunk(travel.broken.message))
        yield _data(told, spread=travel.spread)
        return
    for chunk in chunks:
        yield _data(chunk, spread=travel.spread)
    if travel.terminated:
        yield b"data: [DONE]\n\n"


def _data(event: Json, *, spread: bool) -> bytes:
    text = json.dumps(event, indent=1) if spread else dumps(event)
    lines = text.split("\n")  # splitlines would also split at U+2028
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"
