"""The front end of FakeBedrock's rules: shapes, schemas, model families, drift."""

import base64
import gzip
import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import botocore
import pytest

from agentloop.backends.bedrock import capabilities_of
from agentloop.testing.fake_bedrock import FakeBedrock, says, violations
from agentloop.testing.fake_bedrock.facts import bare_model_id, facts_of
from agentloop.testing.fake_bedrock.rules import converse
from agentloop.testing.fake_bedrock.rules.schemas import schema_faults

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
WIDE_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x27\x10\0\0\0\x01"


def body(*blocks: Any, **fields: Any) -> dict[str, Any]:
    """A request body with one user message."""
    content = list(blocks) or [{"text": "hi"}]
    return {"messages": [{"role": "user", "content": content}], **fields}


def image(data: Any) -> dict[str, Any]:
    """An image block of bytes or base64."""
    return {"image": {"format": "png", "source": {"bytes": data}}}


def tools(**more: Any) -> dict[str, Any]:
    """A tool configuration of one tool."""
    spec = {"name": "add", "inputSchema": {"json": {"type": "object"}}, **more}
    return {"tools": [{"toolSpec": spec}]}


@pytest.fixture(scope="module")
def bedrock() -> Iterator[FakeBedrock]:
    """A fake that answers every legal request."""
    with FakeBedrock(default=says("ok"), keep=0) as fake:
        yield fake


RAW = (
    (b'{"messages": [', "Malformed input request"),
    (b'{"messages": [{"role": "user", "content": [{"text": "\xff"}]}]}', "codec"),
    (b"[]", "the body is no JSON object"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (b'{"messages": 1}', "Value at 'messages' failed to satisfy constraint"),
    (b'{"messages": [{"role": "user"}]}', "content' failed to satisfy constraint"),
    (b'{"messages": [{"role": "user", "content": ["x"]}]}', "exactly one of"),
    (b'{"messages": [], "top_k": 1}', "extraneous key [top_k] is not permitted"),
    (
        json.dumps(body({"text": "a", "image": {}})).encode(),
        "Member must hold exactly one of",
    ),
    (
        json.dumps(body(inferenceConfig={"maxTokens": 0})).encode(),
        "Member must have value greater than or equal to 1",
    ),
    (
        json.dumps(body(inferenceConfig={"topP": -0.1})).encode(),
        "Value '-0.1' at 'inferenceConfig.topP' failed to satisfy constraint: Member "
        "must have value greater than or equal to 0",
    ),
    (
        json.dumps(body(inferenceConfig={"maxTokens": 1.5})).encode(),
        "Member must be an integer",
    ),
    (
        json.dumps(body(inferenceConfig={"temperature": True})).encode(),
        "Member must be a number",
    ),
    (
        json.dumps(body(toolConfig={"tools": []})).encode(),
        "Value at 'toolConfig.tools' failed to satisfy constraint: Member must have "
        "length greater than or equal to 1",
    ),
    (
        json.dumps(body(toolConfig=tools(description=""))).encode(),
        "Value '' at 'toolConfig.tools.1.member.toolSpec.description'",
    ),
    (
        json.dumps(body(toolConfig=tools(strict="yes"))).encode(),
        "Member must be a boolean",
    ),
    (
        json.dumps(body(toolConfig={**tools(), "toolChoice": {"none": {}}})).encode(),
        "extraneous key [none]",
    ),
    (
        json.dumps(body(system=[{"text": ""}])).encode(),
        "'system.1.member.text' failed to satisfy constraint: Member must have length",
    ),
    (
        json.dumps(body(requestMetadata={})).encode(),
        "Value at 'requestMetadata' failed to satisfy constraint",
    ),
    (
        json.dumps(body(requestMetadata=[1])).encode(),
        "Value at 'requestMetadata' failed to satisfy constraint: Member must be an",
    ),
    (
        json.dumps(body(image("?"))).encode(),
        "Member must be base64",
    ),
    (
        json.dumps(body(image(""))).encode(),
        "Member must have length greater than or equal to 1",
    ),
    (
        json.dumps(body({"text": 5})).encode(),
        "Member must be a string",
    ),
    (b'{"inferenceConfig": []}', "Member must be an object"),
)


@pytest.mark.parametrize(
    ("raw", "said"), RAW, ids=[f"raw-{place}" for place in range(len(RAW))]
)
def test_what_boto3_would_never_send_is_refused_too(
    raw: bytes, said: str, bedrock: FakeBedrock
) -> None:
    """A hand-made body meets the same front end, and the server lives on."""
    host = bedrock.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("POST", f"/model/{CLAUDE}/converse", raw)
        reply = connection.getresponse()
        assert reply.status == 400
        assert reply.headers["x-amzn-ErrorType"] == "ValidationException"
        assert said in json.loads(reply.read())["message"]
    finally:
        connection.close()


def test_all_broken_constraints_come_in_one_answer() -> None:
    """The front end counts every broken constraint in one text."""
    broken = body(toolConfig=tools(name="", description=""))
    message = str(violations(CLAUDE, broken))
    assert message.startswith("3 validation errors detected: ")


def test_bytes_and_base64_are_judged_alike() -> None:
    """A blob is the same before and after it was encoded for the wire."""
    sent = base64.b64encode(WIDE_PNG).decode()
    message = violations(CLAUDE, body(image(WIDE_PNG)))
    assert message == violations(CLAUDE, body(image(sent)))
    assert "8000 pixels" in str(message)


def test_a_value_that_is_no_json_is_named() -> None:
    """A request that could not be serialised is refused with its type."""
    message = violations(CLAUDE, body(additionalModelRequestFields={"x": {1, 2}}))
    assert "a set is no JSON value" in str(message)


SCHEMAS = (
    ({"type": "string", "minLength": 1}, "property 'minLength'"),
    ({"type": "number", "multipleOf": 2}, "property 'multipleOf'"),
    ({"oneOf": [{"type": "string"}]}, "For 'any' type, property 'oneOf'"),
    ({"type": "array", "minItems": 2, "items": {}}, "'minItems' must be 0 or 1"),
    ({"type": "string", "format": "color"}, "String format 'color'"),
    ({"$ref": "https://example.com/schema"}, "External $ref"),
    ({"$ref": "#"}, "Recursive $ref '#'"),
    ({"$ref": "#/$defs/nowhere"}, "does not resolve"),
    (
        {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        "Recursive $ref '#/$defs/a'",
    ),
    (
        {
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            "$ref": "#/$defs/a",
        },
        "Recursive $ref",
    ),
)


@pytest.mark.parametrize(("schema", "said"), SCHEMAS)
def test_a_schema_beyond_the_subset_is_refused(schema: Any, said: str) -> None:
    """Each unsupported keyword, format and reference is named."""
    assert said in next(schema_faults(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        {"type": "string", "format": "date-time", "enum": ["a"]},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "properties": {"type": "string"},
                "not": {"$ref": "#/$defs/a"},
                "b": {"$ref": "#/$defs/a"},
            },
            "$defs": {"a": {"type": "string", "const": {"minimum": 1}}},
        },
    ],
)
def test_a_schema_inside_the_subset_passes(schema: Any) -> None:
    """Property names and constants that look like keywords are not taken for them."""
    assert list(schema_faults(schema)) == []


@pytest.mark.parametrize(
    ("model_id", "bare", "family"),
    [
        (CLAUDE, "anthropic.claude-sonnet-4-5-20250929-v1:0", "claude"),
        ("us-gov.anthropic.claude-sonnet-5", "anthropic.claude-sonnet-5", "claude"),
        ("apac.amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0", "nova"),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/eu.meta.llama4-scout-v1:0",
            "meta.llama4-scout-v1:0",
            "llama",
        ),
        (
            "arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fdeepseek.v3-v1%3A0",
            "deepseek.v3-v1:0",
            "deepseek",
        ),
        ("openai.gpt-oss-120b-1:0", "openai.gpt-oss-120b-1:0", "openai"),
        (
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
            "unknown",
        ),
    ],
)
def test_a_family_is_read_off_the_id(model_id: str, bare: str, family: str) -> None:
    """Region prefixes, ARNs and URL escapes do not hide the family."""
    assert bare_model_id(model_id) == bare
    assert facts_of(model_id).family == family


@pytest.mark.parametrize(
    ("model_id", "tools_", "prefill", "cache_", "json_schema"),
    [
        ("anthropic.claude-v2:1", False, True, False, False),
        ("anthropic.claude-3-haiku-20240307-v1:0", True, True, False, False),
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", True, True, False, False),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", True, True, True, False),
        ("anthropic.claude-sonnet-4-20250514-v1:0", True, True, True, False),
        ("anthropic.claude-opus-4-1-20250805-v1:0", True, True, True, False),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", True, True, True, True),
        ("anthropic.claude-opus-4-6-v1", True, False, True, True),
        ("anthropic.claude-sonnet-5", True, False, True, True),
    ],
)
def test_claude_generations_differ(
    model_id: str, tools_: bool, prefill: bool, cache_: bool, json_schema: bool
) -> None:
    """Old and new spellings of a Claude id give the facts of its generation."""
    facts = facts_of(model_id)
    assert (facts.tools, facts.prefill) == (tools_, prefill)
    assert (bool(facts.cache), facts.json_schema) == (cache_, json_schema)


@pytest.mark.parametrize(
    ("dashed", "dotted"),
    [
        ("claude-3-5-sonnet-20240620-v1:0", "claude-3.5-sonnet-20240620-v1:0"),
        ("claude-3-5-sonnet-20241022-v2:0", "claude-3.5-sonnet-20241022-v2:0"),
        ("claude-3-7-sonnet-20250219-v1:0", "claude-3.7-sonnet"),
        ("claude-opus-4-1-20250805-v1:0", "claude-opus-4.1"),
        ("claude-haiku-4-5-20251001-v1:0", "claude-haiku-4.5"),
        ("claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4.5"),
        ("claude-sonnet-4-6", "claude-sonnet-4.6"),
        ("claude-opus-4-6-v1", "claude-opus-4.6"),
    ],
)
def test_a_dot_before_the_minor_version_changes_nothing(
    dashed: str, dotted: str
) -> None:
    """The contract writes `claude-opus-4.6`, Bedrock itself `claude-opus-4-6-v1`."""
    assert facts_of(f"anthropic.{dotted}") == facts_of(f"anthropic.{dashed}")
    ours = capabilities_of(f"anthropic.{dotted}")
    assert ours == capabilities_of(f"anthropic.{dashed}")


def test_the_shapes_match_the_installed_botocore() -> None:
    """Every member, value and limit of the installed service model is in our table."""
    assert (
        list(drift(modelled("ConverseRequest"), attrs.asdict(converse.REQUEST))) == []
    )
    streamed = modelled("ConverseStreamRequest")
    assert list(drift(streamed, attrs.asdict(converse.REQUEST))) == []


def test_drift_is_noticed() -> None:
    """A table that lacks a value or a member, or has another limit, is reported."""
    ours = attrs.asdict(converse.REQUEST)
    ours["fields"]["performanceConfig"]["fields"]["latency"]["among"] = ("standard",)
    ours["fields"]["inferenceConfig"]["fields"]["maxTokens"]["least"] = 2
    del ours["fields"]["serviceTier"]
    assert list(drift(modelled("ConverseRequest"), ours)) == [
        ".fields.inferenceConfig.fields.maxTokens.least: 1 is not 2",
        ".fields.performanceConfig.fields.latency.among: ['optimized'] missing",
        ".fields.serviceTier: missing",
    ]


def service_shapes() -> dict[str, Any]:
    """The shapes of the installed service model."""
    service = "data/bedrock-runtime/2023-09-30/service-2.json.gz"
    packed = Path(botocore.__file__).parent / service
    return dict(json.loads(gzip.decompress(packed.read_bytes()))["shapes"])


SHAPES = service_shapes()


def modelled(name: str) -> dict[str, Any]:
    """A shape of the service model in the form of ours."""
    shape = SHAPES[name]
    return {} if shape.get("document") else READERS[shape["type"]](shape)


def read_text(shape: Any) -> dict[str, Any]:
    """A string shape."""
    size = {"least": shape.get("min", 0), "most": shape.get("max")}
    among = tuple(shape.get("enum", ()))
    return {**size, "pattern": shape.get("pattern", ""), "among": among}


def read_integer(shape: Any) -> dict[str, Any]:
    """An integer shape."""
    return {**read_number(shape), "whole": True}


def read_number(shape: Any) -> dict[str, Any]:
    """A float shape."""
    return {"least": shape.get("min", 0), "most": shape.get("max")}


def read_list(shape: Any) -> dict[str, Any]:
    """A list shape."""
    return {**read_number(shape), "member": modelled(shape["member"]["shape"])}


def read_map(shape: Any) -> dict[str, Any]:
    """A map shape."""
    inner = {side: modelled(shape[side]["shape"]) for side in ("key", "value")}
    return {**read_number(shape), **inner}


def read_structure(shape: Any) -> dict[str, Any]:
    """A structure or union shape; `modelId` travels in the path."""
    members = {
        name: modelled(member["shape"])
        for name, member in shape["members"].items()
        if name != "modelId"
    }
    if shape.get("union"):
        return {"members": members}
    required = tuple(name for name in shape.get("required", ()) if name != "modelId")
    return {"fields": members, "required": required}


READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "string": read_text,
    "integer": read_integer,
    "float": read_number,
    "boolean": lambda shape: {},
    "blob": lambda shape: {"least": shape.get("min", 0)},
    "list": read_list,
    "map": read_map,
    "structure": read_structure,
}


def drift(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """What the service model has and our table lacks or has otherwise."""
    if isinstance(theirs, Mapping):
        for name, value in theirs.items():
            here = f"{path}.{name}"
            if name in ours:
                yield from drift(value, ours[name], here)
            else:
                yield f"{here}: missing"
    elif isinstance(theirs, tuple):
        if unknown := [value for value in theirs if value not in ours]:
            yield f"{path}: {unknown} missing"
    elif theirs != ours:
        yield f"{path}: {theirs} is not {ours}"
