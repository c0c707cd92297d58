"""JSON Schemas as Bedrock takes them: of tools, and of the final answer.

A tool's schema must be an object at the top, without a choice between shapes; what
differs is rewritten and reported, the rest goes out verbatim. The arguments are
checked against the original elsewhere, so a looser schema loses nothing. A schema for
native structured output must keep to the subset of the "Structured output" page of
the Bedrock user guide; `native` says whether it does.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from agentloop.core.content import JsonObject

_COMPOSITIONS: Final = ("allOf", "anyOf", "oneOf")
_DEPTH: Final = 8  # references followed at the top of a schema


# ---------------------------------------------------------------- tools


def tool_schema(schema: Any) -> tuple[dict[str, Any], list[str]]:
    """A tool's input schema as Bedrock takes it, and what was changed."""
    changes: list[str] = []
    if not isinstance(schema, Mapping):
        return {"type": "object", "properties": {}}, ["it was no object"]
    fixed = _flattened(schema, changes)
    if fixed.get("type") != "object":
        changes.append("its top level became an object")
        fixed = {"type": "object", **{k: v for k, v in fixed.items() if k != "type"}}
    if not isinstance(fixed.get("properties", {}), Mapping):
        changes.append("its properties were no object")
        fixed["properties"] = {}
    if not isinstance(fixed.get("required", []), list | tuple):
        changes.append("its required was no list")
        del fixed["required"]
    return fixed, changes


def _flattened(schema: JsonObject, changes: list[str]) -> dict[str, Any]:
    """The schema without a reference or a composition at its top."""
    top = _resolved(schema, schema)
    if top is not schema:
        changes.append("the reference at its top was followed")
    flat = {k: v for k, v in top.items() if k not in _COMPOSITIONS}
    for word in _COMPOSITIONS:
        if word in top:
            changes.append(f"{word} at its top was merged")
            branches = [
                _resolved(b, schema) for b in _members(top[word]) if _is_object(b)
            ]
            _merge(flat, branches, every=word == "allOf")
    if "$defs" in schema and "$defs" not in flat:
        flat["$defs"] = schema["$defs"]
    return flat


def _resolved(part: JsonObject, root: JsonObject) -> JsonObject:
    for _ in range(_DEPTH):
        reference = part.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return part
        target = _target(root, reference)
        if target is None:
            return part
        part = target
    return {}


def _target(root: JsonObject, reference: str) -> JsonObject | None:
    found: Any = root
    for key in reference.removeprefix("#/").split("/"):
        name = key.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _merge(flat: dict[str, Any], branches: list[JsonObject], *, every: bool) -> None:
    """Join branches: what all of them ask for, or what any of them allows."""
    properties: dict[str, Any] = dict(_mapping(flat.get("properties")))
    for branch in branches:
        for name, schema in _mapping(branch.get("properties")).items():
            properties.setdefault(name, schema)
    wanted = [_names(branch.get("required")) for branch in branches]
    merged = set().union(*wanted) if every or not wanted else set.intersection(*wanted)
    required = _names(flat.get("required")) | merged
    flat["properties"] = properties
    if required:
        flat["required"] = [name for name in properties if name in required]
    flat["type"] = "object"


def _members(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _mapping(value: Any) -> JsonObject:
    return value if isinstance(value, Mapping) else {}


def _names(value: Any) -> set[str]:
    return {name for name in _members(value) if isinstance(name, str)}


# ---------------------------------------------------------------- native output

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
                for name in _mapping(value):
                    yield from self.reference(f"#/{word}/{name}", path, used=False)
        for inner in _subschemas(part):
            yield from self.faults(inner, path)

    def reference(
        self, reference: str, path: tuple[str, ...], *, used: bool = True
    ) -> Iterator[str]:
        """What a definition holds; one that leads back to itself is no good."""
        target = _target(self.root, reference) if reference.startswith("#/") else None
        if used and reference in path:
            yield f"the recursive reference '{reference}'"
        elif used and target is None:
            yield f"the reference '{reference}'"
        elif target is not None and reference not in self.done:
            yield from self.faults(target, (*path, reference))
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
            yield from _mapping(value).values()
        elif word in _LISTED:
            yield from _members(value)
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
        return {name: _closed(inner) for name, inner in _mapping(value).items()}
    if word in _LISTED:
        return [_closed(inner) for inner in _members(value)]
    return _closed(value) if word in _NESTED else value
