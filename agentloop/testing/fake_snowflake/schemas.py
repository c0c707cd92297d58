"""What the provider accepts as a JSON Schema for structured output.

The room holds the limits of the provider's "Complete structured outputs" page. It must
not validate values against schemas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from agentloop.testing.fake_snowflake.shapes import Doc, Json, doc, docs, items

PROPERTY: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")

FORBIDDEN: Final = frozenset({
    "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "maxLength", "format", "uniqueItems", "contains", "minContains",
    "maxContains", "minItems", "maxItems", "patternProperties", "minProperties",
    "maxProperties", "propertyNames",
})  # fmt: skip

REJECTED: Final = "input schema validation error: "


def schema_fault(schema: Json, *, closed: bool) -> str | None:
    """The first reason why the provider would refuse the schema, or None.

    Args:
        schema: What was sent as the schema.
        closed: Whether every object must forbid other properties and require all its
            own, as OpenAI's models demand.
    """
    if not isinstance(schema, dict):
        return f"{REJECTED}the schema must be an object, not {schema!r}"
    for node in _nodes(schema):
        if fault := _open_fault(node) or (closed and _closed_fault(node)):
            return REJECTED + fault
    return None


def _nodes(schema: Doc) -> Iterator[Doc]:
    yield schema
    below = [
        *doc(schema.get("properties")).values(),
        *doc(schema.get("$defs")).values(),
        *docs(schema.get("anyOf")),
        *docs(schema.get("allOf")),
        *docs(schema.get("oneOf")),
        schema.get("items"),
    ]
    for child in below:
        if isinstance(child, dict):
            yield from _nodes(child)


def _open_fault(node: Doc) -> str | None:
    for key in node:
        if key in FORBIDDEN:
            return f"keyword {key!r} is not supported"
    for name in doc(node.get("properties")):
        if not PROPERTY.fullmatch(name):
            return f"property name {name!r} must match {PROPERTY.pattern}"
    ref = node.get("$ref")
    if isinstance(ref, str) and not re.fullmatch(r"#/\$defs/[^/]+", ref):
        return f"reference {ref!r} must point to a top-level $defs entry"
    return None


def _closed_fault(node: Doc) -> str | None:
    if "properties" not in node and node.get("type") != "object":
        return None
    if node.get("additionalProperties") is not False:
        return "'additionalProperties' must be false at every object"
    missing = set(doc(node.get("properties"))) - {
        str(i) for i in items(node.get("required"))
    }
    if missing:
        return f"'required' must name every property, {sorted(missing)} missing"
    return None
