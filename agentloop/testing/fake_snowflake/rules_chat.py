"""The rules of `/api/v2/cortex/v1/chat/completions`: OpenAI's wire, every family.

The room holds one small function per rule and the order they are asked in, after the
OpenAI chat reference and the limits of the provider's "Cortex REST API" page. It must
not hold state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from agentloop.testing.fake_snowflake.known import (
    Known,
    has_tools,
    is_claude,
    is_openai,
    refuses_prefill,
)
from agentloop.testing.fake_snowflake.schemas import schema_fault
from agentloop.testing.fake_snowflake.shapes import (
    Doc,
    Json,
    doc,
    docs,
    items,
    kind,
    text,
)

TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_IMAGES: Final = 20

_FIELDS: Final = frozenset({
    "model", "messages", "max_completion_tokens", "temperature", "top_p", "stream",
    "stream_options", "tools", "tool_choice", "parallel_tool_calls", "response_format",
    "reasoning", "reasoning_effort", "stop", "n", "user", "metadata", "seed",
    "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs",
    "store", "verbosity", "guardrails", "provisioned_throughput_id", "cache_control",
})  # fmt: skip

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})


def chat_fault(body: Doc, known: Known) -> str | None:
    """The first rule the request breaks, or None."""
    return next((fault for rule in _RULES if (fault := rule(body, known))), None)


# -- envelope --------------------------------------------------------------------------
def _envelope(body: Doc, known: Known) -> str | None:
    if "max_tokens" in body:
        return "max_tokens is not supported, use max_completion_tokens instead"
    for required in ("model", "messages"):
        if required not in body:
            return f"you must provide a {required} parameter"
    for name in body:
        if name not in _FIELDS:
            return f"Unrecognized request argument supplied: {name}"
    model = body["model"]
    if not isinstance(model, str) or model not in known.models:
        return f'unknown model "{model}"'
    return _numbers(body)


def _numbers(body: Doc) -> str | None:
    most = body.get("max_completion_tokens", 1)
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        return f"max_completion_tokens must be a positive integer, not {most!r}"
    for name, highest in (("temperature", 2), ("top_p", 1)):
        value = body.get(name, 0)
        if not isinstance(value, int | float) or not 0 <= value <= highest:
            return f"{name} must be between 0 and {highest}, not {value!r}"
    return None


# -- messages --------------------------------------------------------------------------
def _messages(body: Doc, _: Known) -> str | None:
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        return "messages must be a non-empty array"
    for i, message in enumerate(messages):
        role = text(doc(message).get("role"))
        if role not in _ROLES:
            return f'messages[{i}].role: unknown role "{role}"'
        if fault := _message_fault(doc(message), f"messages[{i}]"):
            return fault
    return None


def _message_fault(message: Doc, at: str) -> str | None:
    content = message.get("content")
    match message["role"]:
        case "assistant":
            if content is None and not message.get("tool_calls"):
                return f"{at}.content: required unless tool_calls is specified"
            return _calls_fault(message, at)
        case "tool":
            if not isinstance(message.get("tool_call_id"), str):
                return f"{at}.tool_call_id: missing required parameter"
    if not isinstance(content, str | list):
        return f"{at}.content: expected a string or an array, got {kind(content)}"
    return None


def _calls_fault(message: Doc, at: str) -> str | None:
    if "tool_calls" not in message:
        return None
    calls = message["tool_calls"]
    if not isinstance(calls, list) or not calls:
        return f"{at}.tool_calls: expected a non-empty array"
    for j, call in enumerate(calls):
        if fault := _call_fault(doc(call), f"{at}.tool_calls[{j}]"):
            return fault
    ids = [call.get("id") for call in docs(calls)]
    if len(set(map(str, ids))) < len(ids):
        return f"{at}.tool_calls: duplicate tool call ids {ids}"
    return None


def _call_fault(call: Doc, at: str) -> str | None:
    function = doc(call.get("function"))
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(call.get("id"), str) or not call["id"]:
        return f"{at}.id: missing required parameter"
    if call.get("type") != "function":
        return f"{at}.type: must be 'function', not {call.get('type')!r}"
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        return f"{at}.function.name: {name!r} must match {TOOL_NAME.pattern}"
    if not isinstance(arguments, str):
        found = kind(arguments)
        return f"{at}.function.arguments: expected a string, but got {found} instead"
    return None


def _pairing(body: Doc, _: Known) -> str | None:
    """Each call answered exactly once, before any other message."""
    open_calls: list[str] = []
    answered: set[str] = set()
    for i, message in enumerate(docs(body["messages"])):
        if message["role"] == "tool":
            id_ = str(message["tool_call_id"])
            if id_ in answered:
                return f"messages[{i}]: tool_call_id {id_!r} was already answered"
            if id_ not in open_calls:
                return (
                    f"messages[{i}]: messages with role 'tool' must be a response to a "
                    f"preceding message with 'tool_calls', {id_!r} is not"
                )
            open_calls.remove(id_)
            answered.add(id_)
            continue
        if open_calls:
            return _unanswered(open_calls)
        answered = set()
        open_calls = [str(c["id"]) for c in docs(message.get("tool_calls"))]
    return _unanswered(open_calls) if open_calls else None


def _unanswered(ids: list[str]) -> str:
    return (
        "An assistant message with 'tool_calls' must be followed by tool messages "
        "responding to each 'tool_call_id'. The following tool_call_ids did not have "
        f"response messages: {', '.join(ids)}"
    )


# -- tools -----------------------------------------------------------------------------
def _tools(body: Doc, _: Known) -> str | None:
    tools = body.get("tools")
    if tools is None:
        return None
    if not has_tools(str(body["model"])):
        return f'tools are not supported by model "{body["model"]}"'
    if not isinstance(tools, list) or not tools:
        return "tools: expected a non-empty array"
    for i, tool in enumerate(tools):
        if fault := _tool_fault(doc(tool), f"tools[{i}]"):
            return fault
    names = _tool_names(body)
    if len(set(names)) < len(names):
        return f"tools: names must be unique, not {names}"
    return None


def _tool_fault(tool: Doc, at: str) -> str | None:
    function = doc(tool.get("function"))
    name, parameters = function.get("name"), function.get("parameters", {})
    if tool.get("type") != "function":
        return f"{at}.type: must be 'function', not {tool.get('type')!r}"
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        return f"{at}.function.name: {name!r} must match {TOOL_NAME.pattern}"
    if not isinstance(parameters, dict):
        return f"{at}.function.parameters: expected an object, got {kind(parameters)}"
    if parameters and parameters.get("type") != "object":
        return f"{at}.function.parameters: schema must be of type 'object'"
    if function.get("strict") is True:
        fault = schema_fault(parameters, closed=True)
        return fault and f"{at}.function.parameters: {fault}"
    return None


def _tool_names(body: Doc) -> list[str]:
    return [text(doc(t.get("function")).get("name")) for t in docs(body.get("tools"))]


def _tool_choice(body: Doc, _: Known) -> str | None:
    if body.get("tool_choice") is None:
        return None
    if not body.get("tools"):
        return "tool_choice is only allowed when tools are specified"
    match body["tool_choice"]:
        case "none" | "auto" | "required":
            return None
        case {"type": "function", "function": {"name": str(name)}}:
            if name in _tool_names(body):
                return None
            return f"tool_choice: tool {name!r} not found in tools"
        case other:
            return f"tool_choice: invalid value {other!r}"


# -- structured output -----------------------------------------------------------------
def _response_format(body: Doc, _: Known) -> str | None:
    asked = body.get("response_format")
    if asked is None:
        return None
    model = str(body["model"])
    match doc(asked).get("type"):
        case "json_schema":
            return _json_schema_fault(doc(doc(asked).get("json_schema")), model)
        case "text" | "json_object" as type_:
            if not is_claude(model):
                return None
            return f"response_format: {type_} is not supported by {model}"
        case other:
            return f"response_format.type: invalid value {other!r}"


def _json_schema_fault(asked: Doc, model: str) -> str | None:
    name = asked.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        return (
            f"response_format.json_schema.name: {name!r} must match {TOOL_NAME.pattern}"
        )
    if "schema" not in asked:
        return "response_format.json_schema.schema: missing required parameter"
    return schema_fault(asked["schema"], closed=is_openai(model))


# -- Claude behind the OpenAI wire -----------------------------------------------------
def _claude(body: Doc, known: Known) -> str | None:
    if not is_claude(str(body["model"])):
        return None
    messages = docs(body["messages"])
    for i, message in enumerate(messages):
        if fault := _blank_fault(message) or _reasoning_fault(message, known):
            return f"messages[{i}]: {fault}"
    spoken = [m for m in messages if m["role"] not in {"system", "developer"}]
    if not spoken or spoken[0]["role"] != "user":
        return "messages: first message must use the user role"
    if any(m.get("tool_calls") for m in messages) and not body.get("tools"):
        return "tools: must be defined when using tool_calls"
    if spoken[-1]["role"] == "assistant" and refuses_prefill(str(body["model"])):
        return (
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )
    return None


def _blank_fault(message: Doc) -> str | None:
    content = message.get("content")
    parts = [text(p.get("text")) for p in docs(content) if p.get("type") == "text"]
    spoken = [content] if isinstance(content, str) else parts
    # Next to calls an empty text is how the OpenAI wire says "no text".
    if message.get("tool_calls") and content == "":
        return None
    if any(not said.strip() for said in spoken):
        return "text content blocks must be non-empty"
    return None


def _reasoning_fault(message: Doc, known: Known) -> str | None:
    for detail in docs(message.get("reasoning_details")):
        seal = text(detail.get("signature") or detail.get("data"))
        if known.thoughts is None:
            continue
        issued = known.thoughts.get(seal)
        if issued is None or ("text" in detail and detail["text"] != issued):
            return "Invalid `signature` in `thinking` block"
    return None


def _images(body: Doc, _: Known) -> str | None:
    images = sum(1 for part in _parts(body) if part.get("type") == "image_url")
    return f"too many images: {images} > {MAX_IMAGES}" if images > MAX_IMAGES else None


def _parts(body: Doc) -> Iterator[Mapping[str, Json]]:
    for message in docs(body["messages"]):
        for part in items(message.get("content")):
            yield doc(part)


_RULES: Final[tuple[Callable[[Doc, Known], str | None], ...]] = (
    _envelope,
    _messages,
    _pairing,
    _tools,
    _tool_choice,
    _response_format,
    _claude,
    _images,
)
