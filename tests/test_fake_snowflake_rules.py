"""The provider's rules, asked offline: each with a request that breaks only it."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from agentloop.testing.fake_snowflake import (
    MODELS,
    Known,
    header_violation,
    sign,
    size_violation,
    violations,
)

GONE = object()

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}

MESSAGES: dict[str, Any] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 4096,
    "system": [{"type": "text", "text": "be brief"}],
    "temperature": 1,
    "stop_sequences": ["END"],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": [
        {"name": "add", "description": "adds", "input_schema": {"type": "object"}},
        {"name": "sub", "input_schema": {"type": "object"}},
    ],
    "tool_choice": {"type": "auto"},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "add"},
                {
                    "type": "image",
                    "source": {
                        "type": "base64",
                        "media_type": "image/png",
                        "data": "x",
                    },
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": sign("hm")},
                {"type": "redacted_thinking", "data": "c2VjcmV0"},
                {"type": "tool_use", "id": "a", "name": "add", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "sub", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "3"},
                {
                    "type": "tool_result",
                    "tool_use_id": "b",
                    "content": [{"type": "text", "text": "no"}],
                    "is_error": True,
                },
                {"type": "text", "text": "go on"},
            ],
        },
    ],
}

CHAT: dict[str, Any] = {
    "model": "openai-gpt-5",
    "max_completion_tokens": 4096,
    "tools": [
        {"type": "function", "function": {"name": "add", "parameters": SCHEMA}},
        {"type": "function", "function": {"name": "sub"}},
    ],
    "tool_choice": {"type": "function", "function": {"name": "add"}},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "final", "schema": SCHEMA, "strict": True},
    },
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "add"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"x":1}'},
                },
                {
                    "id": "b",
                    "type": "function",
                    "function": {"name": "sub", "arguments": "{}"},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "b", "content": "no"},
        {"role": "tool", "tool_call_id": "a", "content": "3"},
    ],
}

CLAUDE_CHAT = {**CHAT, "model": "claude-sonnet-4-6"}

SQL: dict[str, Any] = {
    "model": "llama3.1-70b",
    "prompt": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and?"},
    ],
    "options": {
        "temperature": 0,
        "max_tokens": 8192,
        "response_format": {"type": "json", "schema": SCHEMA},
    },
}

LEGAL = {"messages": MESSAGES, "chat": CHAT, "claude": CLAUDE_CHAT, "sql": SQL}


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The body with the value at a dotted path put, deleted, or appended (``+``)."""
    body = copy.deepcopy(body)
    *steps, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    here: Any = body
    for step in steps:
        here = here[step]
    if last == "+":
        here.append(value)
    elif value is GONE:
        del here[last]
    else:
        here[last] = value
    return body


def said(role: str, text: str = "x") -> dict[str, Any]:
    """A turn of one text."""
    return {"role": role, "content": [{"type": "text", "text": text}]}


IMAGE = MESSAGES["messages"][0]["content"][1]
CACHED = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "3"}

MESSAGES_TABLE = [
    ("model", GONE, "model: Field required"),
    ("max_tokens", GONE, "max_tokens: Field required"),
    ("messages", GONE, "messages: Field required"),
    ("max_tokens", 0, "max_tokens"),
    ("max_tokens", True, "max_tokens"),
    ("service_tier", "auto", "service_tier: Extra inputs"),
    ("model", "claude-sonnet-9-9", 'unknown model "claude-sonnet-9-9"'),
    ("model", "openai-gpt-5", "not supported by the messages API"),
    ("temperature", 1.5, "temperature"),
    ("stop_sequences", [" "], "non-whitespace"),
    ("system", "  ", "system: text must be non-empty"),
    ("system.0.text", "\n", "non-empty"),
    ("messages", [], "at least one message"),
    ("messages.0.role", "system", "must be user or assistant"),
    ("messages", [said("assistant"), said("user")], "first message"),
    ("messages.+", said("user"), "alternate"),
    ("messages.0.content", [], "content field is empty"),
    ("messages.0.content", " ", "non-empty"),
    ("messages.0.content.0.text", "", "non-empty"),
    ("messages.0.content.0.type", "hologram", "'hologram' does not match"),
    ("messages.0.content.1.source", {"type": "url", "url": "x"}, "base64"),
    ("messages.1.content.+", IMAGE, "not allowed in assistant turns"),
    ("messages.0.content.+", MESSAGES["messages"][1]["content"][2], "not allowed in"),
    ("messages.1.content.2.name", "a.b", "tool_use.name"),
    ("messages.1.content.2.id", "x" * 65, "tool_use.id"),
    ("messages.1.content.2.input", "{}", "should be an object, not string"),
    ("messages.1.content.3.id", "a", "ids must be unique"),
    ("messages.2", GONE, "without `tool_result` blocks immediately after: a, b"),
    ("messages.2.content.1", GONE, "without `tool_result` blocks immediately after: b"),
    ("messages.2.content.1.tool_use_id", "c", "unexpected `tool_use_id` 'c'"),
    ("messages.2.content.+", RESULT, "2 `tool_result` blocks for one call 'a'"),
    ("messages.0.content.+", RESULT, "unexpected `tool_use_id` 'a'"),
    ("messages.2.content.1.content", "", "content cannot be empty if is_error"),
    ("messages.2.content.1.content.0.text", " ", "non-empty"),
    (
        "messages.2.content",
        [{"type": "text", "text": "first"}, *MESSAGES["messages"][2]["content"][:2]],
        "must come first",
    ),
    ("tools", GONE, "tools: must be defined"),
    ("tools", [], "tools: must be defined"),
    ("tools.0.name", "rooms.find", "tools.0.custom.name"),
    ("tools.0.name", "x" * 65, "tools.0.custom.name"),
    ("tools.1.name", "add", "must be unique"),
    ("tools.0.strict", True, "strict: Extra inputs"),
    ("tools.0.description", "", "description"),
    ("tools.0.input_schema", GONE, "input_schema"),
    ("tools.0.input_schema", {"type": "string"}, "input_schema.type"),
    ("tool_choice", {"type": "required"}, "tool_choice: Input tag 'required'"),
    ("tool_choice", {"type": "any"}, "Thinking may not be enabled"),
    ("tool_choice", {"type": "tool", "name": "add"}, "Thinking may not be enabled"),
    ("tool_choice", {"type": "tool", "name": "mul"}, "'mul' not found"),
    ("temperature", 0, "may only be set to 1"),
    ("thinking.budget_tokens", 1000, "at least 1024"),
    ("thinking.budget_tokens", 4096, "must be greater than"),
    ("thinking.type", "always", "thinking.type"),
    ("messages.1.content.0.signature", GONE, "thinking.signature"),
    ("messages.1.content.1.data", GONE, "redacted_thinking.data"),
    ("output_config.format.type", "json", "json_schema"),
    ("output_config.format.schema.properties.a.minLength", 1, "'minLength'"),
]


def test_ids_of_calls_are_unique_in_a_conversation() -> None:
    """Claude refuses an id that a turn before has used already."""
    first, call, answer = MESSAGES["messages"][:3]
    twice = [first, call, answer, call, answer]
    body = {**MESSAGES, "messages": twice}
    assert "messages.3: `tool_use` ids must be unique" in str(
        violations("messages", body)
    )


PREFILLED = [
    ("claude-opus-4-6", "Sure", "does not support assistant message prefill"),
    ("claude-sonnet-4-5", "Sure ", "trailing whitespace"),
    ("claude-sonnet-4-5", "Sure", None),
]

CALLS = "messages.2.tool_calls"

CHAT_TABLE = [
    ("model", GONE, "model"),
    ("model", "gpt-4o", 'unknown model "gpt-4o"'),
    ("max_tokens", 5, "use max_completion_tokens"),
    ("max_completion_tokens", 0, "max_completion_tokens"),
    ("thinking", {}, "Unrecognized request argument supplied: thinking"),
    ("temperature", 3, "temperature"),
    ("messages", [], "non-empty array"),
    ("messages.0.role", "robot", 'unknown role "robot"'),
    ("messages.1.content", None, "expected a string or an array, got null"),
    (
        "messages.1",
        {"role": "assistant", "content": None},
        "required unless tool_calls",
    ),
    (CALLS, [], "required unless tool_calls"),
    (
        "messages.2",
        {"role": "assistant", "content": "x", "tool_calls": []},
        "non-empty array",
    ),
    (f"{CALLS}.0.id", "", "id: missing"),
    (f"{CALLS}.0.type", "tool", "must be 'function'"),
    (f"{CALLS}.0.function.name", "a b", "must match"),
    (f"{CALLS}.0.function.arguments", {"x": 1}, "expected a string, but got object"),
    (f"{CALLS}.1.id", "a", "duplicate"),
    ("messages.4", GONE, "did not have response messages: a"),
    ("messages.3", said("user"), "did not have response messages: a, b"),
    ("messages.4.tool_call_id", "b", "already answered"),
    ("messages.4.tool_call_id", "c", "must be a response to a preceding message"),
    ("messages.4.tool_call_id", GONE, "tool_call_id"),
    ("messages.2", said("assistant"), "must be a response to a preceding message"),
    ("model", "mistral-large2", "tools are not supported by model"),
    ("tools", [], "non-empty array"),
    ("tools.0.function.name", "rooms.find", "must match"),
    ("tools.1.function.name", "add", "unique"),
    ("tools.0.type", "custom", "must be 'function'"),
    ("tools.1.function.parameters", "{}", "expected an object"),
    ("tools.1.function.parameters", {"type": "array"}, "must be of type 'object'"),
    ("tool_choice", {"type": "any"}, "invalid value"),
    (
        "tool_choice",
        {"type": "function", "function": {"name": "mul"}},
        "'mul' not found",
    ),
    ("response_format.type", "json", "invalid value 'json'"),
    ("response_format.json_schema.name", "a b", "must match"),
    ("response_format.json_schema.schema", GONE, "missing required"),
    ("response_format.json_schema.schema.required", [], "['a'] missing"),
    ("response_format.json_schema.schema.additionalProperties", GONE, "must be false"),
]

CLAUDE_CHAT_TABLE = [
    ("messages.1.content", " ", "non-empty"),
    ("messages.1.content.0.text", "", "non-empty"),
    ("messages.1.role", "system", "first message must use the user role"),
    ("messages.+", said("assistant"), "assistant message prefill"),
    ("response_format", {"type": "json_object"}, "not supported by claude"),
    ("tool_choice", GONE, None),
    ("response_format.json_schema.schema.additionalProperties", GONE, None),
]

SQL_TABLE = [
    ("model", "gpt-4", 'unknown model "gpt-4"'),
    ("prompt", "hi", "non-empty array with options"),
    ("prompt", [], "non-empty array"),
    ("options", GONE, "must be a string without options"),
    ("options", [], "options must be an object"),
    ("options.tools", [], "unknown option 'tools'"),
    ("options.max_tokens", 8193, "between 1 and 8192"),
    ("options.temperature", 1.1, "between 0 and 1"),
    ("prompt.2.role", "tool", 'unknown role "tool"'),
    ("prompt.2.role", "system", "only the first message"),
    ("prompt.2.content", [{"type": "text", "text": "x"}], "must be a string"),
    ("prompt.2.tool_calls", [], "only role and content"),
    ("prompt.3", GONE, "last message must be of role user"),
    ("options.response_format.type", "json_schema", "must be 'json'"),
    ("options.response_format.schema", GONE, "must be an object"),
    ("options.response_format.schema.properties.a.format", "uri", "'format'"),
    ("options.response_format.schema.properties", {"a.b": {}}, "must match"),
    ("options.response_format.schema.properties.a", {"$ref": "#/a"}, "top-level $defs"),
]


def rows() -> Iterator[Any]:
    """Every table as (dialect, body, phrase)."""
    tables = {
        "messages": MESSAGES_TABLE,
        "chat": CHAT_TABLE,
        "claude": CLAUDE_CHAT_TABLE,
        "sql": SQL_TABLE,
    }
    for name, table in tables.items():
        for row, (path, value, phrase) in enumerate(table):
            dialect = "chat" if name == "claude" else name
            body = changed(LEGAL[name], path, value)
            yield pytest.param(dialect, body, phrase, id=f"{name}-{row}-{path}")


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_request_breaks_nothing(name: str) -> None:
    """The requests all tables start from break no rule."""
    assert violations("chat" if name == "claude" else name, LEGAL[name]) is None


@pytest.mark.parametrize(("dialect", "body", "phrase"), list(rows()))
def test_one_change_breaks_one_rule(dialect: Any, body: Any, phrase: Any) -> None:
    """A legal request with one change breaks the rule the table names, or none."""
    found = violations(dialect, body)
    assert found is None if phrase is None else phrase in (found or "")


@pytest.mark.parametrize(("model", "text", "phrase"), PREFILLED)
def test_prefill_depends_on_the_generation(
    model: str, text: str, phrase: str | None
) -> None:
    """Claude 4.6 refuses a trailing assistant turn, older ones a trailing blank."""
    body = {
        "model": model,
        "max_tokens": 5,
        "messages": [said("user"), said("assistant", text)],
    }
    found = violations("messages", body)
    assert found is None if phrase is None else phrase in (found or "")


@pytest.mark.parametrize(
    ("block", "allowed", "phrase"),
    [(CACHED, 4, "cache_control may be provided. Found 5"), (IMAGE, 20, "21 > 20")],
)
def test_blocks_are_counted(block: Any, allowed: int, phrase: str) -> None:
    """Cache points and images have a limit over the whole request."""
    turn = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    body = {"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": [turn]}
    turn["content"] += [block] * allowed
    assert violations("messages", body) is None
    turn["content"].append(block)
    assert phrase in (violations("messages", body) or "")


def test_cache_marks_inside_tool_data_are_the_hosts_own() -> None:
    """A property called cache_control in a schema is no cache point."""
    schema = {"type": "object", "cache_control": True}
    body = changed(
        MESSAGES, "tools", [{"name": f"t{i}", "input_schema": schema} for i in range(9)]
    )
    body = changed(body, "tools.0.name", "add")
    assert violations("messages", changed(body, "tools.1.name", "sub")) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("messages.1.content.0.thinking", "hmm"),
        ("messages.1.content.0.signature", "forged"),
        ("messages.1.content.1.data", "b3RoZXI="),
    ],
)
def test_sealed_thoughts_come_back_unmodified(path: str, value: str) -> None:
    """Who knows what was issued refuses a changed text, signature or hidden thought."""
    known = Known(thoughts={sign("hm"): "hm", "c2VjcmV0": ""})
    assert violations("messages", MESSAGES, known) is None
    assert "Invalid `signature`" in (
        violations("messages", changed(MESSAGES, path, value), known) or ""
    )


def test_reasoning_details_come_back_unmodified() -> None:
    """The chat dialect carries the same seals in reasoning_details."""
    known = Known(thoughts={"s": "hm"})
    path = "messages.2.reasoning_details"
    detail = {"type": "reasoning.text", "text": "hm", "signature": "s"}
    assert violations("chat", changed(CLAUDE_CHAT, path, [detail]), known) is None
    forged = changed(CLAUDE_CHAT, path, [{**detail, "text": "ha"}])
    assert "Invalid `signature`" in (violations("chat", forged, known) or "")


def test_thinking_turns_with_calls_begin_with_their_thought() -> None:
    """Dropping the thought of the last calling turn is refused while thinking is on."""
    dropped = MESSAGES["messages"][1]["content"][2:]
    body = changed(MESSAGES, "messages.1.content", dropped)
    assert "Expected `thinking`" in (violations("messages", body) or "")
    assert (
        violations("messages", changed(body, "thinking", {"type": "adaptive"})) is None
    )
    never_thought = Known(thoughtless=frozenset({"a"}))
    assert violations("messages", body, never_thought) is None


def test_forced_tools_are_fine_without_thinking() -> None:
    """Forcing a tool is only refused together with thinking."""
    body = changed(changed(MESSAGES, "thinking", GONE), "tool_choice", {"type": "any"})
    assert violations("messages", body) is None
    named = {"type": "tool", "name": "sub"}
    assert violations("messages", changed(body, "tool_choice", named)) is None


def test_the_catalogue_can_be_narrowed() -> None:
    """A model the account's region does not serve reads as unknown."""
    known = Known(models=tuple(m for m in MODELS if m != "claude-sonnet-4-5"))
    assert "unknown model" in (violations("messages", MESSAGES, known) or "")


@pytest.mark.parametrize(
    ("dialect", "headers", "phrase"),
    [
        ("messages", {"anthropic-version": "2023-06-01"}, None),
        ("messages", {}, "anthropic-version"),
        ("messages", {"Anthropic-Version": "2023-01-01"}, "anthropic-version"),
        (
            "messages",
            {
                "anthropic-version": "2023-06-01",
                "anthropic-beta": "files-api-2025-04-14",
            },
            "invalid beta flag",
        ),
        (
            "messages",
            {
                "anthropic-version": "2023-06-01",
                "anthropic-beta": "interleaved-thinking-2025-05-14",
            },
            None,
        ),
        ("chat", {}, None),
        ("chat", {"Content-Type": "text/plain"}, "content-type"),
    ],
)
def test_headers_are_judged(dialect: Any, headers: Any, phrase: str | None) -> None:
    """The messages dialect wants its version and only betas that Bedrock knows."""
    found = header_violation(dialect, {"Content-Type": "application/json"} | headers)
    assert found is None if phrase is None else phrase in (found or "")


def test_the_largest_request_is_twenty_mebibytes() -> None:
    """One byte more than the limit is refused."""
    assert size_violation(bytes(20 * 1024 * 1024)) is None
    assert "20971521" in (size_violation(bytes(20 * 1024 * 1024 + 1)) or "")


JUNK = [
    GONE,
    None,
    True,
    -1,
    1.5,
    "",
    "x",
    [],
    {},
    [[]],
    [None],
    [{}],
    {"type": []},
    {"role": []},
]


def paths(value: Any, at: str = "") -> Iterator[str]:
    """Every dotted path into a document."""
    below = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in below:
        yield f"{at}{key}"
        if isinstance(child, dict | list):
            yield from paths(child, f"{at}{key}.")


@pytest.mark.parametrize("name", LEGAL)
def test_rules_never_raise(name: str) -> None:
    """Whatever JSON stands in any place, the rules say something instead of raising."""
    dialect: Any = "chat" if name == "claude" else name
    known = Known(thoughts={})
    for path in paths(LEGAL[name]):
        for junk in JUNK:
            found = violations(dialect, changed(LEGAL[name], path, junk), known)
            assert found is None or isinstance(found, str)
