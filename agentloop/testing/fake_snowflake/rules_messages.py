"""The rules of `/api/v2/cortex/v1/messages`: Claude as Bedrock serves it.

The room holds one small function per rule and the order they are asked in. The rules
follow the Anthropic Messages reference, and where they differ the Bedrock limits, for
that is what stands behind the door. It must not hold state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from agentloop.testing.fake_snowflake.known import Known, is_claude, refuses_prefill
from agentloop.testing.fake_snowflake.rules_history import (
    pairing_fault,
    thought_fault,
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
CALL_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_IMAGES: Final = 20
MAX_CACHE_POINTS: Final = 4

_FIELDS: Final = frozenset({
    "model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking",
    "stream", "temperature", "top_p", "top_k", "stop_sequences", "metadata",
    "output_config", "cache_control", "context_management",
})  # fmt: skip

_ROLES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("user", "assistant"),
    "image": ("user",),
    "document": ("user",),
    "search_result": ("user",),
    "tool_result": ("user",),
    "tool_use": ("assistant",),
    "thinking": ("assistant",),
    "redacted_thinking": ("assistant",),
}


def messages_fault(body: Doc, known: Known) -> str | None:
    """The first rule the request breaks, or None."""
    return next((fault for rule in _RULES if (fault := rule(body, known))), None)


# -- envelope -------------------------------------------------------------------------
def _envelope(body: Doc, known: Known) -> str | None:
    for required in ("model", "max_tokens", "messages"):
        if required not in body:
            return f"{required}: Field required"
    for name in body:
        if name not in _FIELDS:
            return f"{name}: Extra inputs are not permitted"
    model, most = body["model"], body["max_tokens"]
    if not isinstance(model, str) or model not in known.models:
        return f'unknown model "{model}"'
    if not is_claude(model):
        return f'model "{model}" is not supported by the messages API'
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        return f"max_tokens: Input should be a positive integer, not {most!r}"
    return None


def _sampling(body: Doc, _: Known) -> str | None:
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            return f"{name}: Input should be between 0 and 1, not {value!r}"
    for stop in items(body.get("stop_sequences")):
        if not isinstance(stop, str) or not stop.strip():
            return "stop_sequences: each stop sequence must contain non-whitespace"
    return None


def _system(body: Doc, _: Known) -> str | None:
    match body.get("system"):
        case None:
            return None
        case str(said):
            return None if said.strip() else "system: text must be non-empty"
        case list(blocks):
            for i, block in enumerate(blocks):
                if fault := _text_fault(doc(block), f"system.{i}"):
                    return fault
            return None
        case other:
            return f"system: Input should be a string or a list, not {kind(other)}"


# -- turns ----------------------------------------------------------------------------
def _turns(body: Doc, _: Known) -> str | None:
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        return "messages: at least one message is required"
    last = ""
    for i, message in enumerate(messages):
        role = text(doc(message).get("role"))
        if role not in ("user", "assistant"):
            return f"messages.{i}.role: must be user or assistant, not {role!r}"
        if not last and role != "user":
            return "messages: first message must use the user role"
        if role == last:
            return f"messages.{i}: roles must alternate between user and assistant"
        last = role
    return _content(docs(messages))


def _content(messages: list[Doc]) -> str | None:
    for i, message in enumerate(messages):
        content = message.get("content")
        where = f"messages.{i}"
        if isinstance(content, str):
            if not content.strip():
                return f"{where}: text content blocks must be non-empty"
        elif not isinstance(content, list) or not content:
            return f"{where}.content: the content field is empty"
        elif fault := _blocks_fault(message, where):
            return fault
    return None


def _blocks_fault(message: Doc, where: str) -> str | None:
    for j, block in enumerate(items(message["content"])):
        at, shape = f"{where}.content.{j}", doc(block)
        type_ = str(shape.get("type"))
        if type_ not in _ROLES_OF:
            return f"{at}: Input tag {type_!r} does not match any of the expected tags"
        if message["role"] not in _ROLES_OF[type_]:
            return f"{at}: {type_} blocks are not allowed in {message['role']} turns"
        if fault := _block_fault(type_, shape, at):
            return fault
    return None


def _block_fault(type_: str, block: Doc, at: str) -> str | None:
    check = _BLOCK_FAULTS.get(type_)
    return check(block, at) if check else None


def _text_fault(block: Doc, at: str) -> str | None:
    said = block.get("text")
    if not isinstance(said, str):
        return f"{at}.text: Input should be a valid string"
    return None if said.strip() else f"{at}: text content blocks must be non-empty"


def _image_fault(block: Doc, at: str) -> str | None:
    source = doc(block.get("source"))
    if source.get("type") != "base64":
        return f"{at}.source: only base64 sources are supported"
    for required in ("media_type", "data"):
        if not isinstance(source.get(required), str):
            return f"{at}.source.{required}: Field required"
    return None


def _tool_use_fault(block: Doc, at: str) -> str | None:
    id_, name = block.get("id"), block.get("name")
    if not isinstance(id_, str) or not CALL_ID.fullmatch(id_):
        return f"{at}.tool_use.id: {id_!r} should match pattern {CALL_ID.pattern}"
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        return f"{at}.tool_use.name: {name!r} should match pattern {TOOL_NAME.pattern}"
    if not isinstance(block.get("input"), dict):
        found = kind(block.get("input"))
        return f"{at}.tool_use.input: Input should be an object, not {found}"
    return None


def _tool_result_fault(block: Doc, at: str) -> str | None:
    content = block.get("content")
    if not isinstance(block.get("tool_use_id"), str):
        return f"{at}.tool_result.tool_use_id: Field required"
    if block.get("is_error") is True and not content:
        return f"{at}.tool_result: content cannot be empty if is_error is true"
    if content is not None and not isinstance(content, str | list):
        return f"{at}.tool_result.content: Input should be a string or a list"
    for k, part in enumerate(docs(content)):
        if part.get("type") == "text" and (
            fault := _text_fault(part, f"{at}.tool_result.content.{k}")
        ):
            return fault
    return None


def _thinking_fault(block: Doc, at: str) -> str | None:
    if not isinstance(block.get("thinking"), str):
        return f"{at}.thinking.thinking: Field required"
    if not isinstance(block.get("signature"), str) or not block["signature"]:
        return f"{at}.thinking.signature: Field required"
    return None


def _redacted_fault(block: Doc, at: str) -> str | None:
    if isinstance(block.get("data"), str):
        return None
    return f"{at}.redacted_thinking.data: Field required"


_BLOCK_FAULTS: Final[Mapping[str, Callable[[Doc, str], str | None]]] = {
    "text": _text_fault,
    "image": _image_fault,
    "tool_use": _tool_use_fault,
    "tool_result": _tool_result_fault,
    "thinking": _thinking_fault,
    "redacted_thinking": _redacted_fault,
}


def _pairing(body: Doc, _: Known) -> str | None:
    return pairing_fault(docs(body["messages"]))


def _prefill(body: Doc, _: Known) -> str | None:
    last = docs(body["messages"])[-1]
    if last["role"] != "assistant":
        return None
    if refuses_prefill(str(body["model"])):
        return (
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )
    content = last["content"]
    said = content if isinstance(content, str) else docs(content)[-1].get("text")
    if isinstance(said, str) and said != said.rstrip():
        return "messages: final assistant content cannot end with trailing whitespace"
    return None


# -- tools ----------------------------------------------------------------------------
def _tools(body: Doc, _: Known) -> str | None:
    tools = body.get("tools")
    if not tools and _has_tool_blocks(body):
        return "tools: must be defined when using tool_use and tool_result blocks"
    if tools is None:
        return None
    if not isinstance(tools, list):
        return f"tools: Input should be a list, not {kind(tools)}"
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        if fault := _tool_fault(doc(tool), f"tools.{i}"):
            return fault
        if (name := str(doc(tool)["name"])) in seen:
            return f"tools: Tool names must be unique, {name!r} is not"
        seen.add(name)
    return None


def _tool_fault(tool: Doc, at: str) -> str | None:
    for key in tool:
        if key not in {"name", "description", "input_schema", "type", "cache_control"}:
            return f"{at}.custom.{key}: Extra inputs are not permitted"
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        return f"{at}.custom.name: {name!r} should match pattern {TOOL_NAME.pattern}"
    if not isinstance(schema, dict):
        return f"{at}.custom.input_schema: Field required"
    if schema.get("type") != "object":
        return f"{at}.custom.input_schema.type: Input should be 'object'"
    if tool.get("description") == "":
        return f"{at}.custom.description: must be non-empty"
    return None


def _has_tool_blocks(body: Doc) -> bool:
    return any(
        block.get("type") in {"tool_use", "tool_result"}
        for message in docs(body["messages"])
        for block in docs(message.get("content"))
    )


def _tool_choice(body: Doc, _: Known) -> str | None:
    choice = body.get("tool_choice")
    if choice is None:
        return None
    type_ = text(doc(choice).get("type"))
    if type_ not in {"auto", "any", "tool", "none"}:
        return f"tool_choice: Input tag {type_!r} does not match auto, any, tool, none"
    if not body.get("tools"):
        return "tool_choice: may only be specified while providing tools"
    if type_ != "tool":
        return None
    name = text(doc(choice).get("name"))
    if name in {text(tool.get("name")) for tool in docs(body["tools"])}:
        return None
    return f"tool_choice.tool.name: tool {name!r} not found in provided tools"


# -- thinking, caching, structured output ----------------------------------------------
def _thinking(body: Doc, _: Known) -> str | None:
    thinking = doc(body.get("thinking"))
    type_ = text(thinking.get("type"))
    if "thinking" not in body or type_ == "disabled":
        return None
    if type_ not in {"enabled", "adaptive"}:
        return f"thinking.type: unexpected value {type_!r}"
    if text(doc(body.get("tool_choice")).get("type")) in {"any", "tool"}:
        return "Thinking may not be enabled when tool_choice forces tool use."
    if body.get("temperature") not in (None, 1):
        return "`temperature` may only be set to 1 when thinking is enabled."
    return _budget_fault(thinking, body["max_tokens"])


def _budget_fault(thinking: Doc, most: Json) -> str | None:
    if thinking["type"] == "adaptive":
        return None
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < 1024:
        return "thinking.enabled.budget_tokens: Input should be at least 1024"
    if isinstance(most, int) and most <= budget:
        return "`max_tokens` must be greater than `thinking.budget_tokens`"
    return None


def _thoughts(body: Doc, known: Known) -> str | None:
    return thought_fault(body, known)


def _limits(body: Doc, _: Known) -> str | None:
    images = sum(1 for block in _everything(body) if block.get("type") == "image")
    points = sum(1 for block in _everything(body) if block.get("cache_control"))
    if images > MAX_IMAGES:
        return f"too many images: {images} > {MAX_IMAGES}"
    if points > MAX_CACHE_POINTS:
        limit = f"A maximum of {MAX_CACHE_POINTS} blocks with cache_control"
        return f"{limit} may be provided. Found {points}."
    return None


def _everything(value: Json) -> Iterator[Doc]:
    match value:
        case dict():
            yield value
            # An input_schema or a tool input is the host's own data, not a block.
            for key, below in value.items():
                if key not in {"input", "input_schema"}:
                    yield from _everything(below)
        case list():
            for below in value:
                yield from _everything(below)
        case _:
            return


def _output(body: Doc, _: Known) -> str | None:
    if "format" not in doc(body.get("output_config")):
        return None
    format_ = doc(doc(body["output_config"])["format"])
    if format_.get("type") != "json_schema":
        found = format_.get("type")
        return f"output_config.format.type: must be json_schema, not {found!r}"
    return schema_fault(format_.get("schema"), closed=False)


_RULES: Final[tuple[Callable[[Doc, Known], str | None], ...]] = (
    _envelope,
    _sampling,
    _system,
    _turns,
    _pairing,
    _tools,
    _tool_choice,
    _thinking,
    _thoughts,
    _prefill,
    _limits,
    _output,
)
