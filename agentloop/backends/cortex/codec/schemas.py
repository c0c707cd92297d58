"""JSON Schemas of final answers as Cortex takes them.

A schema for native structured output must keep to what the "COMPLETE structured
outputs" page and, for Claude, Bedrock's "Structured output" page allow; `native` says
whether it does.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agentloop.backends.common.tool_schemas import mapping, members, names_in
from agentloop.core.content import JsonObject

_UNSUPPORTED: Final = frozenset(
    {
        # "COMPLETE structured outputs"
        "multipleOf",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "format",
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "minItems",
        "maxItems",
        "patternProperties",
        "minProperties",
        "maxProperties",
        "propertyNames",
        # Bedrock, "Structured output"
        "dependentRequired",
        "dependentSchemas",
        "oneOf",
        "not",
        "if",
        "pattern",
        "definitions",
    }
)
_PROPERTY: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_REFERENCE: Final = re.compile(r"#/\$defs/([^/]+)")
_LISTED: Final = ("anyOf", "allOf", "prefixItems")


def native(
    schema: JsonObject, *, closed: bool
) -> tuple[dict[str, Any], None] | tuple[None, str]:
    """The schema for native structured output, or why it cannot be used there.

    Objects that leave `additionalProperties` open are closed, which no answer that
    fits the original can suffer from; an object without properties of its own is a
    map, and closing that would leave it empty.

    Args:
        schema: the schema of the final answer.
        closed: whether every property must be required as well.
    """
    problem = next(_faults(schema, closed=closed), None)
    if problem is not None:
        return None, problem
    shut: dict[str, Any] = _shut(schema)
    return shut, None


def _faults(schema: JsonObject, *, closed: bool) -> Iterator[str]:
    definitions = mapping(schema.get("$defs"))
    graph: dict[str, set[str]] = {}
    for name, root in {"": schema, **definitions}.items():
        nodes = list(_nodes(root))
        graph[name] = {ref for node in nodes if (ref := _reference(node)) is not None}
        for node in nodes:
            yield from _node_faults(node, closed=closed)
            if "$defs" in node and node is not schema:
                yield "'$defs' below the top"
        yield from (
            f"the reference '{ref}'" for ref in sorted(graph[name] - {*definitions})
        )
    if looped := _recursive(graph):
        yield f"the recursive definition '{looped}'"


def _reference(node: JsonObject) -> str | None:
    """The definition that a schema refers to, by name where it is one of the top's."""
    if "$ref" not in node:
        return None
    found = _REFERENCE.fullmatch(str(node["$ref"]))
    return found[1] if found is not None else str(node["$ref"])


def _nodes(root: Any) -> Iterator[JsonObject]:
    """Every schema in a schema, its definitions left out."""
    todo = [root]
    while todo:
        node = todo.pop()
        if not isinstance(node, Mapping):
            yield {"not": "a schema that is no object"}
            continue
        yield node
        todo.extend(mapping(node.get("properties")).values())
        for word in _LISTED:
            todo.extend(members(node.get(word)))
        todo.extend(node[w] for w in ("items",) if w in node)


def _node_faults(node: JsonObject, *, closed: bool) -> Iterator[str]:
    yield from (f"'{word}'" for word in node if word in _UNSUPPORTED)
    properties = mapping(node.get("properties"))
    for name in properties:
        if not _PROPERTY.fullmatch(name):
            yield f"the property name '{name[:80]}'"
    if not _is_object(node):
        return
    is_map = not properties and "additionalProperties" not in node
    if is_map or node.get("additionalProperties", False) is not False:
        yield "an object with names of its own choosing"
    if closed and (free := sorted(properties.keys() - names_in(node.get("required")))):
        yield f"the optional property '{free[0]}'"


def _recursive(graph: Mapping[str, set[str]]) -> str | None:
    """A definition that leads back to itself, if there is one."""
    for start in graph:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            name = todo.pop()
            if name == start:
                return name
            if name not in seen:
                seen.add(name)
                todo.extend(graph.get(name, ()))
    return None


def _shut(part: Any) -> Any:
    """The same schema with every object closed; data is left alone."""
    if not isinstance(part, Mapping):
        return part
    shut = {word: _shut_value(word, value) for word, value in part.items()}
    if _is_object(part):
        shut["additionalProperties"] = False
    return shut


def _shut_value(word: str, value: Any) -> Any:
    if word in {"properties", "$defs"}:
        return {name: _shut(inner) for name, inner in mapping(value).items()}
    if word in _LISTED:
        return [_shut(inner) for inner in members(value)]
    return _shut(value) if word == "items" else value


def _is_object(node: JsonObject) -> bool:
    kind = node.get("type")
    return kind == "object" or "properties" in node or "object" in members(kind)
