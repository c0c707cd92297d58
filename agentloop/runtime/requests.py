"""The convenient spellings of the face, brought to the contract's request bodies."""

from collections.abc import Mapping
from typing import Any, TypeAlias
from uuid import UUID

from attrs import frozen, has

from agentloop.core.catalog import RequestError
from agentloop.core.content import ToolResult
from agentloop.core.request import NewConversation, Payload
from agentloop.core.run import Run
from agentloop.wire import WireError, to_json

Said: TypeAlias = str | Payload | Mapping[str, Any]
"""What a run may be started with: a text, a payload, or a payload as a dict."""


@frozen
class Again:
    """What a run was asked to do, ready to be asked again."""

    conversation_id: str
    start: dict[str, Any]


def plain(value: Any) -> Any:
    """A value of the core as JSON; anything else as it is.

    Raises:
        RequestError: `invalid-request` for one that holds what it should not.
    """
    if not has(type(value)):
        return value
    try:
        return to_json(value)
    except (WireError, AttributeError, TypeError) as error:
        problem = f"{type(value).__name__} {error}"
        raise RequestError("invalid-request", problem=problem) from None


def _payload(said: Any) -> Any:
    """A payload in its JSON form; a bare text is a user message.

    Raises:
        RequestError: it is neither; says that a text will do.
    """
    if isinstance(said, str):
        return {"kind": "user_message", "text": said}
    found = plain(said)
    if isinstance(found, Mapping) and "kind" in found:
        return found
    what = "an object without kind" if isinstance(found, Mapping) else repr(said)[:60]
    problem = (
        "$.payload: must be a text, or an object of the kind user_message or "
        f"tool_outputs, not {what}"
    )
    raise RequestError("invalid-request", problem=problem)


def conversation_body(
    request: NewConversation | Mapping[str, Any] | None, fields: Mapping[str, Any]
) -> Any:
    """The body of a new conversation from one value or from fields."""
    if request is not None and fields:
        raise TypeError("give the request as one value or by its fields, not both")
    body = plain(request) if request is not None else fields
    if not isinstance(body, Mapping):
        return body
    return {name: plain(value) for name, value in body.items()}


def run_body(
    payload: Any, key: Any, version: int, tool_choice: Any, override: Any
) -> dict[str, Any]:
    """The body that starts a run."""
    body = {
        "client_op_id": str(key) if isinstance(key, UUID) else key,
        "expected_version": version,
        "payload": _payload(payload),
    }
    if tool_choice is not None:
        body["tool_choice"] = plain(tool_choice)
    if override is not None:
        body["config_override"] = plain(override)
    return body


def tool_outputs(run: Run, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The payload that answers a paused run.

    Raises:
        RequestError: `incomplete-tool-outputs` when a name fits no single call or a
            call is answered twice, and `invalid-request` for outputs that are not
            given by call.
    """
    if not isinstance(outputs, Mapping):
        problem = (
            "outputs must be a dict, by tool_use_id or by tool name, not a "
            f"{type(outputs).__name__}"
        )
        raise RequestError("invalid-request", problem=problem)
    by_id: dict[str, Any] = {}
    for key, value in outputs.items():
        id_ = _pending_id(run, key)
        if id_ in by_id:
            clauses = f"'{key}' answers {id_} again; answer each call once"
            raise RequestError("incomplete-tool-outputs", clauses=clauses)
        by_id[id_] = value
    return {
        "kind": "tool_outputs",
        "outputs": [_output(id_, value) for id_, value in by_id.items()],
    }


def _pending_id(run: Run, key: str) -> str:
    calls = run.pending_tool_calls
    if any(call.tool_use_id == key for call in calls):
        return key
    named = [call.tool_use_id for call in calls if call.name == key]
    if len(named) > 1:
        clauses = f"'{key}' names {len(named)} calls, use their ids: {', '.join(named)}"
        raise RequestError("incomplete-tool-outputs", clauses=clauses)
    return named[0] if named else key


def _output(id_: str, value: Any) -> dict[str, Any]:
    if isinstance(value, ToolResult):
        output = {**to_json(value), "tool_use_id": id_}
        del output["type"]
        return output
    return {"tool_use_id": id_, "content": value}
