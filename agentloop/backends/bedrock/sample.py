"""A conversation with every kind of block that we ever encode.

Serialised by botocore when a client is first used and compared with our bytes: what is
equal here is equal for every conversation made of the same kinds.
"""

from typing import Final

from agentloop.backends.bedrock.capabilities import Capabilities
from agentloop.backends.bedrock.codec import Conversation
from agentloop.backends.bedrock.options import (
    CachePoints,
    Guardrail,
    Model,
    ModelOptions,
)
from agentloop.backends.common.thinking import Thinking
from agentloop.core.config import AnyTool, Config, ToolSpec
from agentloop.core.content import (
    Document,
    Image,
    Json,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.core.phases import Infer, Log
from agentloop.ports import SessionSetup

_TEXT: Final = 'plain, "quoted", back\\slash, \n\t, é, 漢字, 😀, \u2028, <&>'
_VALUE: Final = {
    "text": _TEXT,
    "numbers": [0, -1, 2**53 + 1, 10**30, 0.1, -2.5e-8, 1e22, 1.0],
    "others": [True, False, None, {}, [], ""],
    "é": {"bytes": "bm90IGEgYmxvYg==", "source": {"bytes": "bm8="}},
}
_EVERYTHING: Final = Capabilities(
    family="all",
    forced_choice=frozenset({"any", "tool"}),
    result_status=True,
    result_media=True,
    mixed_results=True,
    native_schema=True,
    strict_tools=True,
    cache=frozenset({"tools", "system", "messages"}),
    cache_hour=True,
    thinking=frozenset({"budget", "adaptive"}),
)
_SCHEMA: Final = {
    "type": "object",
    "properties": {"day": {"type": "string", "description": _TEXT}},
    "required": ["day"],
}
_MODEL: Final = Model(
    id="sample",
    can=_EVERYTHING,
    options=ModelOptions(
        top_p=0.9,
        stop_sequences=("END", "\u2603"),
        thinking=Thinking(2048),
        guardrail=Guardrail(identifier="abc", version="1", trace="enabled"),
        cache=CachePoints(),
        service_tier="default",
        latency="standard",
        request_fields={"top_k": 5, "nested": _VALUE},
        response_field_paths=("/stop_sequence",),
        metadata={"tenant": "a b"},
    ),
)


def sample_body() -> bytes:
    """The body of the request for that conversation."""
    media = (
        Image("png", "iVBORw0KGgo="),
        Document("pdf", "a plan", "JVBERi0xLjc="),
    )
    results = (
        Text(_TEXT),
        Json(_VALUE),
        Json([1, 2.5]),
        *media,
        Opaque("bedrock", {"searchResult": _SEARCH}),
    )
    setup = SessionSetup(
        config=Config(model="sample", temperature=0.7, output_format_schema=_SCHEMA),
        system=_TEXT,
        specs=(
            ToolSpec(name="a-b", description=_TEXT, input_schema=_SCHEMA, strict=True),
            ToolSpec(name="c", input_schema={"type": "object"}),
        ),
        history=(Message("user", (Text(_TEXT), *media)),),
    )
    log = Log(
        Message(
            "assistant",
            (
                Reasoning(text=_TEXT, signature="sig/+="),
                Reasoning(redacted="c2VjcmV0"),
                Text(_TEXT),
                ToolUse("tooluse.1:a", "a-b", _VALUE),
                ToolUse("call 2", "ill.egal", {}),
            ),
        ),
        Message(
            "tool",
            (
                ToolResult("tooluse.1:a", results),
                ToolResult("call 2", (), is_error=True),
            ),
        ),
        Message("user", (Text(_TEXT),)),
    )
    command = Infer(1, 1, 0.0, 0.0, AnyTool(), log)
    return Conversation(setup, _MODEL).body(
        command, "00000000-0000-0000-0000-000000000000"
    )


_SEARCH: Final = {
    "source": "https://example.test",
    "title": "a title",
    "content": [{"text": _TEXT}],
}
