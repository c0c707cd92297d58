"""JSON Schemas for Bedrock: of tools, and of native structured output."""

import json
from typing import Any

import pytest

from agentloop.backends.bedrock.codec.schemas import native, tool_schema
from agentloop.core.config import ToolSpec
from agentloop.testing.fake_bedrock import first_violation
from agentloop.testing.fake_bedrock.rules.schemas import schema_faults
from tests.bedrock_cases import CLAUDE, body_of, setup, user

STRING = {"type": "string"}
A = {"type": "object", "properties": {"a": STRING, "k": STRING}, "required": ["a", "k"]}
B = {"type": "object", "properties": {"b": STRING, "k": STRING}, "required": ["b", "k"]}

TOOLS: dict[str, tuple[Any, Any]] = {
    "plain": (A, A),
    "no type": (
        {"properties": {"a": STRING}},
        {"type": "object", "properties": {"a": STRING}},
    ),
    "nothing": ({}, {"type": "object"}),
    "no object": ([], {"type": "object", "properties": {}}),
    "two types": ({"type": ["object", "null"]}, {"type": "object"}),
    "another type": (STRING, {"type": "object"}),
    "properties null": (
        {"type": "object", "properties": None},
        {"type": "object", "properties": {}},
    ),
    "required null": ({"type": "object", "required": None}, {"type": "object"}),
    "any of": (
        {"anyOf": [A, B]},
        {
            "type": "object",
            "properties": {"a": STRING, "k": STRING, "b": STRING},
            "required": ["k"],
        },
    ),
    "one of": (
        {"description": "d", "oneOf": [A]},
        {"type": "object", "description": "d", **A},
    ),
    "all of": (
        {"allOf": [A, B, True]},
        {
            "type": "object",
            "properties": {"a": STRING, "k": STRING, "b": STRING},
            "required": ["a", "k", "b"],
        },
    ),
    "any of references": (
        {"anyOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": A}},
        {**A, "$defs": {"A": A}},
    ),
    "a reference": (
        {"$ref": "#/$defs/A", "$defs": {"A": A}},
        {**A, "$defs": {"A": A}},
    ),
    "a reference to itself": (
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"type": "object", "$defs": {"A": {"$ref": "#/$defs/A"}}},
    ),
    "a reference to nowhere": (
        {"$ref": "#/$defs/Z"},
        {"type": "object", "$ref": "#/$defs/Z"},
    ),
}


@pytest.mark.parametrize("name", TOOLS)
def test_tool_schema(name: str) -> None:
    """What Bedrock refuses at the top of a schema is rewritten, the rest is kept."""
    given, expected = TOOLS[name]
    found, changes = tool_schema(given)
    assert found == expected
    assert (changes == []) == (found == given)


@pytest.mark.parametrize("name", TOOLS)
def test_tool_schema_is_taken(name: str) -> None:
    """Every rewritten schema passes the rules, and what was changed is noted."""
    given, expected = TOOLS[name]
    spec = ToolSpec(name="t", input_schema=given)
    body, notes = body_of(user("a"), given=setup(specs=(spec,)))
    assert first_violation(CLAUDE, body) is None
    assert all("schema of tool 't'" in note for note in notes)
    assert bool(notes) == (given != expected)


def nested(**more: Any) -> dict[str, Any]:
    """A schema with another keyword on a property deep inside."""
    leaf = {"type": "object", "properties": {"x": {**STRING, **more}}}
    return {"type": "object", "properties": {"l": {"type": "array", "items": leaf}}}


DEFINED = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/T"}, "b": {"$ref": "#/$defs/T"}},
    "$defs": {"T": {"type": "object", "properties": {"pattern": STRING}}},
}
NATIVE: dict[str, Any] = {
    "nested": nested(),
    "enum": nested(enum=["a", {"minimum": 1}]),
    "format": nested(format="date"),
    "definitions": DEFINED,
    "a property called like a keyword": {
        "type": "object",
        "properties": {"minimum": STRING, "oneOf": {"type": "integer"}},
    },
    "closed and empty": {"type": "object", "additionalProperties": False},
    "one item at least": {
        "type": "object",
        "properties": {"l": {"type": "array", "minItems": 1}},
    },
}


@pytest.mark.parametrize("name", NATIVE)
def test_native(name: str) -> None:
    """A schema of the subset is taken, with every object closed."""
    closed, problem = native(NATIVE[name])
    assert problem is None
    assert list(schema_faults(closed or {})) == []


NOT_NATIVE: dict[str, Any] = {
    "minLength": nested(minLength=1),
    "pattern": nested(pattern="a"),
    "the format 'regex'": nested(format="regex"),
    "'minItems' above 1": {
        "type": "object",
        "properties": {"l": {"type": "array", "minItems": 2}},
    },
    "own choosing": {"type": "object", "additionalProperties": STRING},
    "oneOf": {"oneOf": [A]},
    "reference '#/$defs/Z'": {"$ref": "#/$defs/Z"},
    "recursive reference": {
        "$ref": "#/$defs/T",
        "$defs": {"T": {"type": "array", "items": {"$ref": "#/$defs/T"}}},
    },
    "no object": {"type": "array", "items": 3},
    "maximum": {"type": "string", "$defs": {"T": {"maximum": 1}}},
}


@pytest.mark.parametrize("part", NOT_NATIVE)
def test_not_native(part: str) -> None:
    """A schema beyond the subset is not sent natively, and the reason is named."""
    closed, problem = native(NOT_NATIVE[part])
    assert closed is None
    assert part in str(problem)


def test_bomb() -> None:
    """A schema whose definitions use each other twice is walked in linear time."""
    doubled = {
        f"D{n}": {"anyOf": [{"$ref": f"#/$defs/D{n + 1}"}] * 2} for n in range(200)
    }
    bomb = {"$ref": "#/$defs/D0", "$defs": {**doubled, "D200": STRING}}
    assert native(bomb)[1] is None
    assert len(json.dumps(tool_schema({"anyOf": [bomb, bomb]})[0])) < 10**5
