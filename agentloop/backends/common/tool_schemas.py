"""JSON Schemas of tools as every provider takes them.

A tool's schema must be an object at the top, without a choice between shapes; what
differs is rewritten and reported, the rest goes out verbatim. The arguments are
checked against the original elsewhere, so a looser schema loses nothing.
"""

from collections.abc import Mapping
from typing import Any, Final

from agentloop.core.content import JsonObject

_COMPOSITIONS: Final = ("allOf", "anyOf", "oneOf")
_DEPTH: Final = 8  # references followed at the top of a schema


def tool_schema(schema: Any) -> tuple[dict[str, Any], list[str]]:
    """A tool's input schema as providers take it, and what was changed."""
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
                _resolved(b, schema)
                for b in members(top[word])
                if isinstance(b, Mapping)
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
        found = target(root, reference)
        if found is None:
            return part
        part = found
    return {}


def target(root: JsonObject, reference: str) -> JsonObject | None:
    """The part of a schema that a local reference points to, if there is one."""
    found: Any = root
    for key in reference.removeprefix("#/").split("/"):
        name = key.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _merge(flat: dict[str, Any], branches: list[JsonObject], *, every: bool) -> None:
    """Join branches: what all of them ask for, or what any of them allows."""
    properties: dict[str, Any] = dict(mapping(flat.get("properties")))
    for branch in branches:
        for name, schema in mapping(branch.get("properties")).items():
            properties.setdefault(name, schema)
    wanted = [names_in(branch.get("required")) for branch in branches]
    merged = set().union(*wanted) if every or not wanted else set.intersection(*wanted)
    required = names_in(flat.get("required")) | merged
    flat["properties"] = properties
    if required:
        flat["required"] = [name for name in properties if name in required]
    flat["type"] = "object"


def members(value: Any) -> list[Any]:
    """A list's members, none of anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def mapping(value: Any) -> JsonObject:
    """An object, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def names_in(value: Any) -> set[str]:
    """The texts in a list."""
    return {name for name in members(value) if isinstance(name, str)}
