"""JSON Schemas as Bedrock takes them: of tools, and of the final answer.

A schema for native structured output must keep to the subset of the "Structured
output" page of the Bedrock user guide; `native` says whether it does. Tools have the
rules that all providers share.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from agentloop.backends.common.tool_schemas import (
    mapping,
    members,
    target,
    tool_schema,
)
from agentloop.core.content import JsonObject

__all__ = ["native", "tool_schema"]

_UNSUPPORTED: Final = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "maxItems",
        "uniqueItems",
        "contains",
        "minProperties",
        "maxProperties",
        "patternProperties",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "oneOf",
        "not",
        "if",
        "pattern",
    }
)
_FORMATS: Final = frozenset(
    {
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "hostname",
        "uri",
        "ipv4",
        "ipv6",
        "uuid",
    }
)
_NAMED: Final = frozenset({"properties", "$defs", "definitions"})
_NESTED: Final = frozenset({"items", "additionalProperties"})
_LISTED: Final = frozenset({"anyOf", "allOf", "prefixItems"})


def native(schema: JsonObject) -> tuple[dict[str, Any], None] | tuple[None, str]:
    """The schema for native structured output, or why it cannot be used there.

    Objects that leave `additionalProperties` open are closed, which Bedrock demands
    and which no answer that fits the original can suffer from; an object without
    properties of its own is a map, and closing that would leave it empty.
    """
    problem = next(_Walk(schema).faults(schema, ()), None)
    if problem is not None:
        return None, problem
    closed: dict[str, Any] = _closed(schema)
    return closed, None


class _Walk:
    """One walk over a schema; each definition is looked into once."""

    def __init__(self, root: JsonObject) -> None:
        self.root = root
        self.done: set[str] = set()

    def faults(self, part: Any, path: tuple[str, ...]) -> Iterator[str]:
        """What a part of the schema holds beyond the subset."""
        if not isinstance(part, Mapping):
            yield "a schema that is no object"
            return
        yield from _keyword_faults(part)
        if "$ref" in part:
            yield from self.reference(str(part["$ref"]), path)
        for word, value in part.items():
            if word in _NAMED - {"properties"}:
                for name in mapping(value):
                    yield from self.reference(f"#/{word}/{name}", path, used=False)
        for inner in _subschemas(part):
            yield from self.faults(inner, path)

    def reference(
        self, reference: str, path: tuple[str, ...], *, used: bool = True
    ) -> Iterator[str]:
        """What a definition holds; one that leads back to itself is no good."""
        found = target(self.root, reference) if reference.startswith("#/") else None
        if used and reference in path:
            yield f"the recursive reference '{reference}'"
        elif used and found is None:
            yield f"the reference '{reference}'"
        elif found is not None and reference not in self.done:
            yield from self.faults(found, (*path, reference))
            self.done.add(reference)


def _keyword_faults(part: JsonObject) -> Iterator[str]:
    yield from (f"'{word}'" for word in part if word in _UNSUPPORTED)
    if part.get("minItems", 0) not in {0, 1}:
        yield "'minItems' above 1"
    if part.get("format", "date") not in _FORMATS:
        yield f"the format '{part['format']}'"
    if part.get("type") == "object" or "properties" in part:
        is_map = not part.get("properties") and "additionalProperties" not in part
        if is_map or part.get("additionalProperties", False) is not False:
            yield "an object with names of its own choosing"


def _subschemas(part: JsonObject) -> Iterator[Any]:
    for word, value in part.items():
        if word == "properties":
            yield from mapping(value).values()
        elif word in _LISTED:
            yield from members(value)
        elif word in _NESTED and not isinstance(value, bool):
            yield value


def _closed(part: Any) -> Any:
    """The same schema with every object closed; data is left alone."""
    if not isinstance(part, Mapping):
        return part
    closed = {word: _closed_value(word, value) for word, value in part.items()}
    if part.get("type") == "object" or "properties" in part:
        closed["additionalProperties"] = False
    return closed


def _closed_value(word: str, value: Any) -> Any:
    if word in _NAMED:
        return {name: _closed(inner) for name, inner in mapping(value).items()}
    if word in _LISTED:
        return [_closed(inner) for inner in members(value)]
    return _closed(value) if word in _NESTED else value
