"""Rules on structured output: the schema subset of `outputConfig` and strict tools.

Source: the structured output page of the Bedrock user guide.
"""

import json
from collections.abc import Iterator
from typing import Final

from agentloop.testing.fake_bedrock.rules.tools import MODEL_SAYS
from agentloop.testing.fake_bedrock.rules.view import Ask
from agentloop.testing.fake_bedrock.values import Json, at, nested, obj, text

_UNSUPPORTED: Final = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "oneOf",
    "not",
    "patternProperties",
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
# Under these keys stand names of the caller's own, or data, not keywords.
_NAMED: Final = frozenset({"properties", "$defs", "definitions"})
_DATA: Final = frozenset({"enum", "const", "default", "examples"})


def output_format_supported(ask: Ask) -> Iterator[str]:
    """The model has native structured output."""
    if obj(ask.body, "outputConfig", "textFormat") and not ask.model.json_schema:
        yield (
            "This model doesn't support the outputConfig.textFormat field. "
            "Remove outputConfig.textFormat and try again."
        )


def strict_supported(ask: Ask) -> Iterator[str]:
    """The model has strict tools."""
    for place, spec in ask.specs():
        if at(spec, "strict") is True and not ask.model.json_schema:
            field = f"toolConfig.tools.{place}.toolSpec.strict"
            yield (
                f"This model doesn't support the {field} field. "
                f"Remove {field} and try again."
            )


def output_schema_parses(ask: Ask) -> Iterator[str]:
    """The output schema is a string that holds a JSON object."""
    if "textFormat" in obj(ask.body, "outputConfig") and _output_schema(ask) is None:
        yield (
            "The format of the value at outputConfig.textFormat.structure.jsonSchema."
            "schema is invalid. Provide a json object for the field and try again."
        )


def output_schema_in_subset(ask: Ask) -> Iterator[str]:
    """The output schema keeps to the supported subset."""
    schema = _output_schema(ask)
    if schema is not None:
        for fault in schema_faults(schema):
            yield f"{MODEL_SAYS}output_config.format.schema: {fault}"


def strict_schema_in_subset(ask: Ask) -> Iterator[str]:
    """The schema of a strict tool keeps to the supported subset."""
    for place, spec in ask.specs():
        if at(spec, "strict") is True:
            for fault in schema_faults(obj(spec, "inputSchema", "json")):
                yield f"{MODEL_SAYS}tools.{place}.custom.input_schema: {fault}"


def output_without_citations(ask: Ask) -> Iterator[str]:
    """Structured output and citations exclude each other."""
    cited = any(
        at(document, "citations", "enabled") is True
        for _, document in ask.media("document")
    )
    if cited and "textFormat" in obj(ask.body, "outputConfig"):
        yield f"{MODEL_SAYS}output_config.format: citations are not supported"


def schema_faults(schema: Json) -> Iterator[str]:
    """What a schema holds beyond the subset, in reading order."""
    for path, part in _subschemas(schema):
        yield from _keyword_faults(part)
        yield from _object_faults(part)
        yield from _reference_faults(schema, path, part)


def _keyword_faults(part: Json) -> Iterator[str]:
    kind = text(part, "type") or "any"
    for keyword in _UNSUPPORTED:
        if keyword in part:
            yield f"For '{kind}' type, property '{keyword}' is not supported"
    if at(part, "minItems") not in {None, 0, 1}:
        yield f"For '{kind}' type, 'minItems' must be 0 or 1"
    if text(part, "format") and text(part, "format") not in _FORMATS:
        yield f"String format '{text(part, 'format')}' is not supported"


def _object_faults(part: Json) -> Iterator[str]:
    if at(part, "type") == "object" and at(part, "additionalProperties") is not False:
        yield (
            "For 'object' type, 'additionalProperties' must be explicitly set to false"
        )


def _reference_faults(root: Json, path: str, part: Json) -> Iterator[str]:
    reference = text(part, "$ref")
    if not reference:
        return
    target = reference.removeprefix("#/").replace("/", ".")
    if not reference.startswith("#"):
        yield f"External $ref '{reference}' is not supported"
    elif reference == "#" or path == target or path.startswith(f"{target}."):
        yield f"Recursive $ref '{reference}' is not supported"
    elif not obj(root, *target.split(".")):
        yield f"$ref '{reference}' does not resolve"
    elif _reaches(root, target, frozenset()):
        yield f"Recursive $ref '{reference}' is not supported"


def _reaches(root: Json, target: str, seen: frozenset[str]) -> bool:
    """Whether following references from `target` comes back to one already seen."""
    if target in seen:
        return True
    inner = (
        text(part, "$ref").removeprefix("#/").replace("/", ".")
        for _, part in nested(obj(root, *target.split(".")))
        if text(part, "$ref").startswith("#/")
    )
    return any(_reaches(root, reference, seen | {target}) for reference in inner)


def _subschemas(schema: Json) -> Iterator[tuple[str, Json]]:
    """Every schema inside a schema, names and data left out."""
    for path, part in nested(schema):
        keys = path.split(".") if path else []
        named = bool(keys) and keys[-1] in _NAMED and not _is_name(keys)
        if not named and not _DATA.intersection(keys):
            yield path, part


def _is_name(keys: list[str]) -> bool:
    """Whether the last key is a property called like a keyword."""
    return len(keys) > 1 and keys[-2] in _NAMED


def _output_schema(ask: Ask) -> Json | None:
    raw = text(
        ask.body, "outputConfig", "textFormat", "structure", "jsonSchema", "schema"
    )
    try:
        parsed: object = json.loads(raw)
    except ValueError:
        return None
    return obj(parsed) if isinstance(parsed, dict) else None
