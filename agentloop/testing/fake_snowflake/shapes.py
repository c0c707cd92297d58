"""JSON as a type, and safe looks into documents nobody has checked yet.

The room holds the shape of wire documents and readers that never raise. It must not
know any dialect.
"""

from __future__ import annotations

import json
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Doc: TypeAlias = dict[str, Json]


def loads(written: str | bytes) -> Json:
    """Strict JSON: Python would also read NaN and Infinity.

    Raises:
        ValueError: If it is none.
    """
    value: Json = json.loads(written, parse_constant=_refuse_constant)
    return value


def doc(value: Json) -> Doc:
    """The value if it is an object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Json) -> list[Json]:
    """The value if it is an array, otherwise an empty one."""
    return value if isinstance(value, list) else []


def docs(value: Json) -> list[Doc]:
    """The objects among the items of an array."""
    return [item for item in items(value) if isinstance(item, dict)]


def text(value: Json) -> str:
    """The value if it is a string, otherwise an empty one."""
    return value if isinstance(value, str) else ""


def dumps(value: Json) -> str:
    """Compact JSON, with every character as itself."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def kind(value: Json) -> str:
    """The JSON name of the value's type, for error messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
