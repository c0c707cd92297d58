"""Every rule of FakeBedrock, seen through the real client, with its legal twin."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import field, frozen
from botocore.exceptions import ClientError

from agentloop.testing.fake_bedrock import (
    RULES,
    FakeBedrock,
    first_violation,
    says,
    violations,
)
from agentloop.testing.fake_bedrock.rules.reasoning import sign

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NEW_CLAUDE = "global.anthropic.claude-opus-4-6-v1"
OLD_CLAUDE = "anthropic.claude-3-sonnet-20240229-v1:0"
NOVA = "us.amazon.nova-lite-v1:0"
LLAMA = "us.meta.llama3-3-70b-instruct-v1:0"
MISTRAL = "mistral.mistral-large-2402-v1:0"
DEEPSEEK_R1 = "us.deepseek.r1-v1:0"
PROMPT = "arn:aws:bedrock:us-east-1:123456789012:prompt/ABCDEFGHIJ:1"

TYPE_OBJECT = {"type": "object"}


def user(*blocks: Any) -> dict[str, Any]:
    """A user message of texts and blocks."""
    return {"role": "user", "content": [as_block(b) for b in blocks]}


def assistant(*blocks: Any) -> dict[str, Any]:
    """An assistant message of texts and blocks."""
    return {"role": "assistant", "content": [as_block(b) for b in blocks]}


def as_block(block: Any) -> Any:
    """A text block for a string, anything else as it is."""
    return {"text": block} if isinstance(block, str) else block


def use(id_: str = "t1", name: str = "add", input_: Any = None) -> dict[str, Any]:
    """A tool use block."""
    given = {"a": 1} if input_ is None else input_
    return {"toolUse": {"toolUseId": id_, "name": name, "input": given}}


def result(id_: str = "t1", *content: Any, **more: Any) -> dict[str, Any]:
    """A tool result block."""
    parts = [as_block(c) for c in content or ("2",)]
    return {"toolResult": {"toolUseId": id_, "content": parts, **more}}


def tool(name: str = "add", schema: Any = None, **more: Any) -> dict[str, Any]:
    """A tool definition."""
    json_ = TYPE_OBJECT if schema is None else schema
    return {"toolSpec": {"name": name, "inputSchema": {"json": json_}, **more}}


def tools(*defined: Any, **more: Any) -> dict[str, Any]:
    """A tool configuration."""
    return {"tools": list(defined) or [tool()], **more}


def reasoning(text: str = "hm", signature: str | None = None) -> dict[str, Any]:
    """A reasoning block, signed by the fake; an empty signature is left out."""
    signed = sign(text) if signature is None else signature
    block = {"text": text, **({"signature": signed} if signed else {})}
    return {"reasoningContent": {"reasoningText": block}}


def png(width: int = 1, height: int = 1, size: int = 0) -> dict[str, Any]:
    """An image block with the header of a PNG."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack("!I4sII", 13, b"IHDR", width, height)
    return {"image": {"format": "png", "source": {"bytes": head + bytes(size)}}}


def paper(name: str = "report", size: int = 3, **more: Any) -> dict[str, Any]:
    """A document block."""
    source = {"bytes": b"x" * size}
    return {"document": {"format": "txt", "name": name, "source": source, **more}}


def cache(ttl: str | None = None) -> dict[str, Any]:
    """A cache point."""
    return {"cachePoint": {"type": "default", **({"ttl": ttl} if ttl else {})}}


def output(schema: Any) -> dict[str, Any]:
    """An output configuration."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    structure = {"jsonSchema": {"schema": text, "name": "answer"}}
    return {"textFormat": {"type": "json_schema", "structure": structure}}


def thinking(**more: Any) -> dict[str, Any]:
    """Request fields that turn thinking on."""
    return {"thinking": {"type": "enabled", "budget_tokens": 2000, **more}}


def body(*messages: Any, **fields: Any) -> dict[str, Any]:
    """A request body, of one greeting unless messages are given."""
    return {"messages": list(messages) or [user("hi")], **fields}


def looped(*after: Any, uses: Any = None, **fields: Any) -> dict[str, Any]:
    """A history with one tool call, and tools offered."""
    called = [use()] if uses is None else uses
    fields = {"toolConfig": tools(), **fields}
    return body(user("hi"), assistant(*called), *after, **fields)


CLOSED = {"type": "object", "properties": {}, "additionalProperties": False}
OPEN = {"type": "object", "properties": {}}
THINKS = {"maxTokens": 4000}


@frozen
class Case:
    """A request that breaks one rule, and the nearest one that breaks none."""

    rule: str
    said: str
    broken: dict[str, Any] = field(repr=False)
    legal: dict[str, Any] = field(repr=False)
    model: str = CLAUDE
    legal_model: str = ""
    code: str = "ValidationException"


CASES = (
    Case(
        "prompt-variables",
        "The promptVariables field is only supported with a prompt as modelId.",
        body(promptVariables={"x": {"text": "1"}}),
        {"promptVariables": {"x": {"text": "1"}}},
        legal_model=PROMPT,
    ),
    Case(
        "prompt-variables",
        "The system field can't be set when modelId is a prompt.",
        {"system": [{"text": "be nice"}]},
        body(),
        model=PROMPT,
    ),
    Case(
        "first-is-user",
        "A conversation must start with a user message.",
        body(assistant("hello"), user("hi")),
        body(user("hi"), assistant("hello"), user("so")),
    ),
    Case(
        "first-is-user",
        "A conversation must start with a user message.",
        {"messages": []},
        body(),
    ),
    Case(
        "roles-alternate",
        "A conversation must alternate between user and assistant roles.",
        body(user("hi"), user("there")),
        body(user("hi", "there")),
    ),
    Case(
        "content-empty",
        "The content field in the Message object at messages.1 is empty.",
        body(user("hi"), assistant(), user("so")),
        body(user("hi"), assistant("hello"), user("so")),
    ),
    Case(
        "text-blank",
        "The text field in the ContentBlock object at messages.0.content.1 is blank.",
        body(user("hi", "")),
        body(user("hi", ".")),
    ),
    Case(
        "text-blank",
        "The text field in the ContentBlock object at messages.0.content.0 is blank.",
        body(user(" \n\t")),
        body(user(" x ")),
    ),
    Case(
        "text-blank",
        "messages.2.content.0.toolResult.content.0 is blank.",
        looped(user(result("t1", ""))),
        looped(user(result("t1", "(empty)"))),
    ),
    Case(
        "system-blank",
        "The text field in the SystemContentBlock object at system.0 is blank.",
        body(system=[{"text": "  "}]),
        body(system=[{"text": "be nice"}]),
    ),
    Case(
        "system-turn",
        "The text block at messages.1.content.0 is not supported in a system message.",
        body(user("hi"), {"role": "system", "content": [{"text": "be nice"}]}),
        body(
            user("hi"),
            {
                "role": "system",
                "content": [{"toolRemoval": {"tool": {"name": "add"}}}],
            },
        ),
    ),
    Case(
        "block-role",
        "The toolUse block at messages.0.content.1 is not supported in a user message.",
        body(user("hi", use()), toolConfig=tools()),
        looped(user(result())),
    ),
    Case(
        "block-role",
        "The image block at messages.1.content.0 is not supported in an assistant",
        body(user("hi"), assistant(png()), user("so")),
        body(user("hi", png())),
    ),
    Case(
        "tool-config-missing",
        "The toolConfig field must be defined when using toolUse and toolResult",
        body(user("hi"), assistant(use()), user(result())),
        looped(user(result())),
    ),
    Case(
        "tools-unsupported",
        "This model doesn't support tool use.",
        body(toolConfig=tools()),
        body(),
        model=DEEPSEEK_R1,
    ),
    Case(
        "schema-object",
        "at toolConfig.tools.0.toolSpec.inputSchema.json is invalid. Provide a json",
        body(toolConfig=tools(tool(schema=["x"]))),
        body(toolConfig=tools(tool(schema=OPEN))),
    ),
    Case(
        "schema-object",
        "inputSchema.json.properties is invalid.",
        body(toolConfig=tools(tool(schema={"type": "object", "properties": None}))),
        body(toolConfig=tools(tool(schema=OPEN))),
    ),
    Case(
        "schema-type",
        "toolConfig.tools.1.toolSpec.inputSchema.json.type must be one of the "
        "following: object.",
        body(toolConfig=tools(tool(), tool("b", {"properties": {}}))),
        body(toolConfig=tools(tool(), tool("b", OPEN))),
    ),
    Case(
        "choice-unsupported",
        "This model doesn't support the toolConfig.toolChoice.any field. "
        "Remove toolConfig.toolChoice.any and try again.",
        body(toolConfig=tools(toolChoice={"any": {}})),
        body(toolConfig=tools()),
        model=LLAMA,
    ),
    Case(
        "choice-unsupported",
        "This model doesn't support the toolConfig.toolChoice.tool field.",
        body(toolConfig=tools(toolChoice={"tool": {"name": "add"}})),
        body(toolConfig=tools(toolChoice={"any": {}})),
        model=MISTRAL,
    ),
    Case(
        "input-object",
        "The format of the value at messages.1.content.0.toolUse.input is invalid.",
        looped(user(result()), uses=[use(input_='{"a": 1}')]),
        looped(user(result()), uses=[use(input_={"a": 1})]),
    ),
    Case(
        "result-json-object",
        "messages.2.content.0.toolResult.content.0.json is invalid.",
        looped(user(result("t1", {"json": [1, 2]}))),
        looped(user(result("t1", {"json": {"items": [1, 2]}}))),
    ),
    Case(
        "use-ids-repeat",
        "The toolUse blocks at messages.1.content contain duplicate Ids: t1",
        looped(user(result()), uses=[use(), use()]),
        looped(user(result("t1"), result("t2")), uses=[use("t1"), use("t2")]),
    ),
    Case(
        "result-ids-repeat",
        "The toolResult blocks at messages.2.content contain duplicate Ids: t1",
        looped(user(result(), result())),
        looped(user(result()), assistant(use("t2")), user(result("t2"))),
    ),
    Case(
        "use-ids-known",
        "The model returned the following errors: messages.3.content.0: `tool_use` ids "
        "must be unique",
        looped(user(result()), assistant(use()), user(result())),
        looped(user(result()), assistant(use("t2")), user(result("t2"))),
    ),
    Case(
        "results-exceed-uses",
        "The number of toolResult blocks at messages.2.content exceeds the number of "
        "toolUse blocks of previous turn",
        looped(user(result("t1"), result("t2"))),
        looped(user(result("t1"), result("t2")), uses=[use("t1"), use("t2")]),
    ),
    Case(
        "results-exceed-uses",
        "The number of toolResult blocks at messages.0.content exceeds",
        body(user(result()), toolConfig=tools()),
        body(user("hi"), toolConfig=tools()),
    ),
    Case(
        "use-unanswered",
        "Expected toolResult blocks at messages.2.content for the following Ids: t2",
        looped(user(result("t1")), uses=[use("t1"), use("t2")]),
        looped(user(result("t2"), result("t1")), uses=[use("t1"), use("t2")]),
    ),
    Case(
        "use-unanswered",
        "Expected toolResult blocks at messages.2.content for the following Ids: t1",
        looped(user("never mind")),
        looped(user(result(), "never mind")),
    ),
    Case(
        "use-unanswered",
        "Expected toolResult blocks at messages.2.content for the following Ids: t1",
        looped(user(result("t9"))),
        looped(user(result("t1"))),
    ),
    Case(
        "use-unanswered",
        "Expected toolResult blocks at messages.2.content for the following Ids: t1",
        looped(),
        looped(user(result())),
    ),
    Case(
        "error-result-empty",
        "The content field at messages.2.content.0.toolResult cannot be empty when "
        "status value is error.",
        looped(
            user({"toolResult": {"toolUseId": "t1", "content": [], "status": "error"}})
        ),
        looped(user(result("t1", "failed", status="error"))),
    ),
    Case(
        "result-empty",
        "The content field in the ToolResultBlock object at messages.2.content.0",
        looped(user({"toolResult": {"toolUseId": "t1", "content": []}})),
        looped(user(result("t1", {"json": {}}))),
    ),
    Case(
        "status-unsupported",
        "This model doesn't support the status field.",
        looped(user(result(status="success"))),
        looped(user(result())),
        model=LLAMA,
    ),
    Case(
        "results-not-alone",
        "messages.2.content: Conversation blocks and tool result blocks cannot be "
        "provided in the same turn.",
        looped(user(result(), "and hurry")),
        looped(user(result()), assistant("ok"), user("and hurry")),
        model=LLAMA,
    ),
    Case(
        "prefill",
        "This model does not support assistant message prefill. "
        "The conversation must end with a user message.",
        body(user("hi"), assistant("I say")),
        body(user("hi")),
        model=NEW_CLAUDE,
    ),
    Case(
        "prefill",
        "A conversation must end with a user message.",
        body(user("hi"), assistant("I say")),
        body(user("hi"), assistant("I say")),
        model=NOVA,
        legal_model=CLAUDE,
    ),
    Case(
        "document-without-text",
        "A text block must be included when using documents.",
        body(user(paper())),
        body(user(paper(), "sum it up")),
    ),
    Case(
        "document-name",
        "The document file name can only contain alphanumeric characters",
        body(user(paper("report.pdf"), "sum")),
        body(user(paper("my_report (final) [2]-x"), "sum")),
    ),
    Case(
        "document-name",
        "The name can't contain more than one consecutive whitespace character.",
        body(user(paper("a  b"), "sum")),
        body(user(paper("a b"), "sum")),
    ),
    Case(
        "document-name",
        "The document file name can only contain alphanumeric characters",
        body(user(paper("a\u3000b"), "sum")),
        body(user(paper(" a "), "sum")),
    ),
    Case(
        "document-names-repeat",
        "Messages can't contain duplicate document names.",
        looped(
            user(result("t1", paper("a"))), assistant("ok"), user("sum", paper("a"))
        ),
        looped(
            user(result("t1", paper("a"))), assistant("ok"), user("sum", paper("b"))
        ),
    ),
    Case(
        "documents-many",
        "You can't include more than 5 documents in a request.",
        body(user("sum", *(paper(f"d{i}") for i in range(6)))),
        body(user("sum", *(paper(f"d{i}") for i in range(5)))),
    ),
    Case(
        "document-large",
        "The document at messages.0.content.1.document exceeds the maximum size",
        body(user("sum", paper(size=4_500_003))),
        body(user("sum", paper(size=4_500_000))),
    ),
    Case(
        "cache-unsupported",
        "You invoked an unsupported model or your request did not allow prompt "
        "caching.",
        body(user("hi", cache())),
        body(user("hi")),
        model=LLAMA,
        code="AccessDeniedException",
    ),
    Case(
        "cache-unsupported",
        "You invoked an unsupported model or your request did not allow prompt "
        "caching.",
        body(toolConfig=tools(tool(), cache())),
        body(user("hi", cache()), system=[{"text": "be nice"}, cache()]),
        model=NOVA,
        code="AccessDeniedException",
    ),
    Case(
        "cache-after-reasoning",
        "Cache point cannot be inserted after reasoning block.",
        body(user("hi"), assistant(reasoning(), cache(), "yes"), user("so")),
        body(user("hi"), assistant(reasoning(), "yes", cache()), user("so")),
    ),
    Case(
        "output-unsupported",
        "This model doesn't support the outputConfig.textFormat field.",
        body(outputConfig=output(CLOSED)),
        body(),
        model=NOVA,
    ),
    Case(
        "strict-unsupported",
        "This model doesn't support the toolConfig.tools.0.toolSpec.strict field.",
        body(toolConfig=tools(tool(schema=CLOSED, strict=True))),
        body(toolConfig=tools(tool(schema=CLOSED, strict=False))),
        model=OLD_CLAUDE,
    ),
    Case(
        "output-schema-json",
        "outputConfig.textFormat.structure.jsonSchema.schema is invalid.",
        body(outputConfig=output("{not json")),
        body(outputConfig=output(CLOSED)),
    ),
    Case(
        "tool-names-repeat",
        "tools: Tool names must be unique.",
        body(toolConfig=tools(tool("add"), tool("add"))),
        body(toolConfig=tools(tool("add"), tool("Add"))),
    ),
    Case(
        "choice-unknown",
        "Tool 'sub' not found in provided tools",
        body(toolConfig=tools(toolChoice={"tool": {"name": "sub"}})),
        body(toolConfig=tools(toolChoice={"tool": {"name": "add"}})),
    ),
    Case(
        "schema-root-composed",
        "input_schema does not support oneOf, allOf, or anyOf at the top level",
        body(toolConfig=tools(tool(schema={**OPEN, "oneOf": [{}]}))),
        body(toolConfig=tools(tool(schema={**OPEN, "oneOf": [{}]}))),
        legal_model=NOVA,
    ),
    Case(
        "results-not-first",
        "messages.1: `tool_use` ids were found without `tool_result` blocks",
        looped(user("here", result())),
        looped(user(result(), "here")),
    ),
    Case(
        "images-many",
        "too many images and documents: 21 + 0 > 20",
        body(user("see", *(png() for _ in range(21)))),
        body(user("see", *(png() for _ in range(20)))),
    ),
    Case(
        "image-large",
        "messages.0.content.1.image.source.bytes: image exceeds 5 MB maximum: "
        "5242884 bytes > 5242880 bytes",
        body(user("see", png(size=3_932_161 - 24))),
        body(user("see", png(size=3_932_160 - 24))),
    ),
    Case(
        "image-wide",
        "At least one of the image dimensions exceed max allowed size: 8000 pixels",
        body(user("see", png(8001, 10))),
        body(user("see", png(8000, 8000))),
    ),
    Case(
        "image-wide",
        "At least one of the image dimensions exceed max allowed size: 8000 pixels",
        looped(
            user(
                result(
                    "t1",
                    {
                        "image": {
                            "format": "gif",
                            "source": {
                                "bytes": b"GIF89a" + struct.pack("<HH", 1, 9000)
                            },
                        }
                    },
                )
            )
        ),
        looped(user(result("t1", png()))),
    ),
    Case(
        "thinking-forced",
        "Thinking may not be enabled when tool_choice forces tool use.",
        body(
            toolConfig=tools(toolChoice={"any": {}}),
            inferenceConfig=THINKS,
            additionalModelRequestFields=thinking(),
        ),
        body(
            toolConfig=tools(toolChoice={"auto": {}}),
            inferenceConfig=THINKS,
            additionalModelRequestFields=thinking(),
        ),
    ),
    Case(
        "thinking-temperature",
        "`temperature` may only be set to 1 when thinking is enabled.",
        body(
            inferenceConfig={**THINKS, "temperature": 0.5},
            additionalModelRequestFields=thinking(),
        ),
        body(
            inferenceConfig={**THINKS, "temperature": 1.0},
            additionalModelRequestFields=thinking(),
        ),
    ),
    Case(
        "thinking-budget",
        "budget_tokens: Input should be greater than or equal to 1024",
        body(
            inferenceConfig=THINKS,
            additionalModelRequestFields=thinking(budget_tokens=1023),
        ),
        body(
            inferenceConfig=THINKS,
            additionalModelRequestFields=thinking(budget_tokens=1024),
        ),
    ),
    Case(
        "thinking-budget",
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
        body(
            inferenceConfig={"maxTokens": 2000},
            additionalModelRequestFields=thinking(),
        ),
        body(
            inferenceConfig={"maxTokens": 2001},
            additionalModelRequestFields=thinking(),
        ),
    ),
    Case(
        "thinking-budget",
        "thinking.enabled.budget_tokens: Field required",
        body(additionalModelRequestFields={"thinking": {"type": "enabled"}}),
        body(additionalModelRequestFields={"thinking": {"type": "adaptive"}}),
        model=NEW_CLAUDE,
    ),
    Case(
        "thinking-dropped",
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but "
        "found `tool_use`.",
        looped(
            user(result()),
            inferenceConfig=THINKS,
            additionalModelRequestFields=thinking(),
        ),
        looped(
            user(result("t1")),
            assistant(use("t2")),
            user(result("t2")),
            uses=[reasoning(), use("t1")],
            inferenceConfig=THINKS,
            additionalModelRequestFields=thinking(),
        ),
    ),
    Case(
        "thinking-dropped",
        "Expected `thinking` or `redacted_thinking`, but found `text`.",
        looped(
            user(result()),
            uses=["let me see", use()],
            inferenceConfig=THINKS,
            additionalModelRequestFields=thinking(),
        ),
        looped(
            user(result()),
            assistant("it is 2"),
            user("thanks"),
            uses=["let me see", use()],
            inferenceConfig=THINKS,
            additionalModelRequestFields=thinking(),
        ),
    ),
    Case(
        "signature-missing",
        "messages.1.content.0.thinking.signature: Field required",
        body(user("hi"), assistant(reasoning("hm", ""), "yes"), user("so")),
        body(user("hi"), assistant(reasoning("hm", "theirs"), "yes"), user("so")),
    ),
    Case(
        "signature-invalid",
        "messages.1.content.0: Invalid `signature` in `thinking` block",
        body(user("hi"), assistant(reasoning("hm!", sign("hm")), "yes"), user("so")),
        body(user("hi"), assistant(reasoning("hm", sign("hm")), "yes"), user("so")),
    ),
    Case(
        "two-samplers",
        "`temperature` and `top_p` cannot both be specified for this model.",
        body(inferenceConfig={"temperature": 0.1, "topP": 0.9}),
        body(inferenceConfig={"temperature": 0.1, "topP": 0.9}),
        legal_model=OLD_CLAUDE,
    ),
    Case(
        "cache-points-many",
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        body(
            user("a", cache(), "b", cache(), "c", cache()),
            system=[{"text": "s"}, cache()],
            toolConfig=tools(tool(), cache()),
        ),
        body(
            user("a", cache(), "b", cache()),
            system=[{"text": "s"}, cache()],
            toolConfig=tools(tool(), cache()),
        ),
    ),
    Case(
        "cache-lifetimes",
        "a ttl='1h' cache_control block must not come after a ttl='5m'",
        body(user("a", cache("1h")), system=[{"text": "s"}, cache()]),
        body(user("a", cache("5m")), system=[{"text": "s"}, cache("1h")]),
    ),
    Case(
        "output-schema-subset",
        "output_config.format.schema: For 'object' type, 'additionalProperties' must "
        "be explicitly set to false",
        body(outputConfig=output(OPEN)),
        body(outputConfig=output(CLOSED)),
    ),
    Case(
        "strict-schema-subset",
        "tools.0.custom.input_schema: For 'integer' type, property 'minimum' is not",
        body(
            toolConfig=tools(
                tool(
                    schema={
                        **CLOSED,
                        "properties": {"n": {"type": "integer", "minimum": 1}},
                    },
                    strict=True,
                )
            )
        ),
        body(
            toolConfig=tools(
                tool(
                    schema={
                        **CLOSED,
                        "properties": {"minimum": {"type": "integer"}},
                    },
                    strict=True,
                )
            )
        ),
    ),
    Case(
        "output-with-citations",
        "output_config.format: citations are not supported",
        body(
            user("sum", paper(citations={"enabled": True})),
            outputConfig=output(CLOSED),
        ),
        body(
            user("sum", paper(citations={"enabled": False})),
            outputConfig=output(CLOSED),
        ),
    ),
    # Modelled limits that botocore leaves to the server.
    Case(
        "shape",
        "1 validation error detected: Value 'add two' at "
        "'toolConfig.tools.1.member.toolSpec.name' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: [a-zA-Z0-9_-]+",
        body(toolConfig=tools(tool("add two"))),
        body(toolConfig=tools(tool("add-two_2"))),
    ),
    Case(
        "shape",
        "Member must have length less than or equal to 64",
        body(toolConfig=tools(tool("a" * 65))),
        body(toolConfig=tools(tool("a" * 64))),
    ),
    Case(
        "shape",
        "'messages.2.member.content.1.member.toolUse.toolUseId' failed to satisfy "
        "constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_.:-]+",
        looped(user(result("t/1")), uses=[use("t/1")]),
        looped(user(result("t.1:a")), uses=[use("t.1:a")]),
    ),
    Case(
        "shape",
        "'messages.2.member.content.1.member.toolUse.name'",
        looped(user(result()), uses=[use(name="$READ")]),
        looped(user(result()), uses=[use(name="READ")]),
    ),
    Case(
        "shape",
        "Value '1.5' at 'inferenceConfig.temperature' failed to satisfy constraint: "
        "Member must have value less than or equal to 1",
        body(inferenceConfig={"temperature": 1.5}),
        body(inferenceConfig={"temperature": 1}),
    ),
    Case(
        "shape",
        "Value '1.1' at 'inferenceConfig.topP' failed to satisfy constraint: Member "
        "must have value less than or equal to 1",
        body(inferenceConfig={"topP": 1.1}),
        body(inferenceConfig={"topP": 0}),
    ),
    Case(
        "shape",
        "Value 'model' at 'messages.2.member.role' failed to satisfy constraint: "
        "Member must satisfy enum value set: [user, assistant, system]",
        body(user("hi"), {"role": "model", "content": [{"text": "x"}]}),
        body(user("hi"), assistant("x")),
    ),
    Case(
        "shape",
        "Member must satisfy enum value set: [png, jpeg, gif, webp]",
        body(user({"image": {"format": "jpg", "source": {"bytes": b"x"}}})),
        body(user({"image": {"format": "jpeg", "source": {"bytes": b"x"}}})),
    ),
    Case(
        "shape",
        "Value at 'requestMetadata' failed to satisfy constraint: Member must have "
        "length less than or equal to 16",
        body(requestMetadata={f"k{i}": "v" for i in range(17)}),
        body(requestMetadata={f"k{i}": "v" for i in range(16)}),
    ),
    Case(
        "shape",
        "Map value must satisfy constraint: [Member must satisfy regular expression",
        body(requestMetadata={"run": "ключ"}),
        body(requestMetadata={"run": "a:b_c@d$e#f=g/h+i,j-k.l m"}),
    ),
    Case(
        "shape",
        "Map keys must satisfy constraint: [Member must have length less than or equal "
        "to 256]",
        body(requestMetadata={"k" * 257: "v"}),
        body(requestMetadata={"k" * 256: "v" * 256}),
    ),
    Case(
        "shape",
        "Value at 'inferenceConfig.stopSequences' failed to satisfy constraint: Member "
        "must have length less than or equal to 2500",
        body(inferenceConfig={"stopSequences": ["x"] * 2501}),
        body(inferenceConfig={"stopSequences": ["x"] * 2500}),
    ),
    Case(
        "json",
        "Malformed input request: NaN is no JSON value",
        body(additionalModelRequestFields={"top_k": float("nan")}),
        body(additionalModelRequestFields={"top_k": 5}),
    ),
    Case(
        "json",
        "Malformed input request: a string holds a lone surrogate",
        body(user("half \ud83d")),
        body(user("whole \U0001f600")),
    ),
    Case(
        "json",
        "Malformed input request: a string holds a lone surrogate",
        looped(user(result("t1", {"json": {"k": "\udc00"}}))),
        looped(user(result("t1", {"json": {"k": "\u00e9"}}))),
    ),
)


@pytest.fixture(scope="module")
def bedrock() -> Iterator[FakeBedrock]:
    """A fake that answers every legal request."""
    with FakeBedrock(default=says("ok"), keep=0) as fake:
        yield fake


@pytest.fixture(scope="module")
def client(bedrock: FakeBedrock) -> Any:
    """A real client for it."""
    return bedrock.client()


case_ids = [f"{case.rule}-{place}" for place, case in enumerate(CASES)]


@pytest.mark.parametrize("case", CASES, ids=case_ids)
def test_a_broken_rule_is_answered_with_its_text(case: Case, client: Any) -> None:
    """The real client gets the code, the status and the words of the broken rule."""
    with pytest.raises(ClientError) as caught:
        client.converse(modelId=case.model, **case.broken)
    error = caught.value.response
    assert case.said in error["Error"]["Message"]
    assert error["Error"]["Code"] == case.code
    status = {"AccessDeniedException": 403}.get(case.code, 400)
    assert error["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.parametrize("case", CASES, ids=case_ids)
def test_the_nearest_legal_request_passes(case: Case, client: Any) -> None:
    """A rule refuses nothing but its own breach."""
    reply = client.converse(modelId=case.legal_model or case.model, **case.legal)
    assert reply["output"]["message"]["content"] == [{"text": "ok"}]


@pytest.mark.parametrize("case", CASES, ids=case_ids)
def test_the_offline_question_has_the_same_answer(case: Case) -> None:
    """Asked without a server, the same rule is named for the request given to boto3."""
    found = first_violation(case.model, case.broken)
    assert found is not None
    assert found.rule == case.rule
    assert violations(case.model, case.broken) == found.message
    assert violations(case.legal_model or case.model, case.legal) is None


def test_every_rule_has_a_case() -> None:
    """No row of the table is untested, and no case names a row that is gone."""
    known = {rule.name for rule in RULES} | {"shape", "json"}
    assert {case.rule for case in CASES} == known
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_a_streamed_request_is_judged_alike(client: Any) -> None:
    """`converse_stream` refuses before any event, with the same exception class."""
    with pytest.raises(client.exceptions.ValidationException, match="is blank"):
        client.converse_stream(modelId=CLAUDE, messages=[user("")])
