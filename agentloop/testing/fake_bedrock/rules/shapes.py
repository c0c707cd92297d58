"""A small vocabulary for request shapes, and the check of a value against one.

Answers in the words of the AWS front end: every broken constraint of a request comes
back in one text, list members counted from one. What the shapes of Converse are stands
in `converse`; rules that span several fields stand elsewhere.
"""

import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias, assert_never

from attrs import frozen

from agentloop.testing.fake_bedrock.values import is_list, items


@frozen
class Text:
    """A string with optional bounds, pattern and value set."""

    least: int = 0
    most: int | None = None
    pattern: str = ""
    among: tuple[str, ...] = ()


@frozen
class Number:
    """A number between two bounds."""

    least: float = 0
    most: float | None = None
    whole: bool = False


@frozen
class Flag:
    """A boolean."""


@frozen
class Document:
    """Any JSON value."""


@frozen
class Blob:
    """Bytes: base64 on the wire, raw in a request that was never sent."""

    least: int = 0


@frozen
class ListOf:
    """A list of one shape."""

    member: "Shape"
    least: int = 0
    most: int | None = None


@frozen
class MapOf:
    """A map from strings to one shape; its contents are never echoed."""

    key: Text
    value: "Shape"
    least: int = 0
    most: int | None = None


@frozen
class Struct:
    """An object with known fields."""

    fields: Mapping[str, "Shape"]
    required: tuple[str, ...] = ()


@frozen
class Union:
    """An object that must hold exactly one of its members."""

    members: Mapping[str, "Shape"]


Shape: TypeAlias = (
    Text | Number | Flag | Document | Blob | ListOf | MapOf | Struct | Union
)


def broken(shape: Shape, value: object, path: str = "") -> Iterator[str]:
    """Every constraint that `value` breaks, one sentence each."""
    match shape:
        case Text():
            yield from _broken_text(shape, value, path)
        case Struct():
            yield from _broken_struct(shape, value, path)
        case Union():
            yield from _broken_union(shape, value, path)
        case ListOf():
            yield from _broken_list(shape, value, path)
        case MapOf():
            yield from _broken_map(shape, value, path)
        case Number() | Flag() | Document() | Blob():
            yield from _broken_leaf(shape, value, path)
        case _:
            assert_never(shape)


def unsendable(value: object) -> str:
    """Why a value is no JSON text in strict UTF-8, or an empty string."""
    try:
        json.dumps(
            value, ensure_ascii=False, allow_nan=False, default=_as_wire
        ).encode()
    except UnicodeEncodeError:
        return "a string holds a lone surrogate"
    except RecursionError:
        return "the document is nested too deeply"
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def _as_wire(value: object) -> str:
    if isinstance(value, (bytes, bytearray)):
        return binascii.b2a_base64(value, newline=False).decode()
    raise TypeError(f"a {type(value).__name__} is no JSON value")


def _broken_leaf(
    shape: Number | Flag | Document | Blob, value: object, path: str
) -> Iterator[str]:
    match shape:
        case Number():
            yield from _broken_number(shape, value, path)
        case Flag():
            if not isinstance(value, bool):
                yield _wrong_type(path, "a boolean")
        case Blob():
            yield from _broken_blob(shape, value, path)
        case Document():
            return
        case _:
            assert_never(shape)


def _broken_text(shape: Text, value: object, path: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield _wrong_type(path, "a string")
        return
    for constraint in _text_constraints(shape, value):
        yield _said(path, constraint, value)


def _text_constraints(shape: Text, value: str) -> Iterator[str]:
    if shape.pattern and not re.fullmatch(shape.pattern, value):
        yield f"Member must satisfy regular expression pattern: {shape.pattern}"
    if shape.most is not None and len(value) > shape.most:
        yield f"Member must have length less than or equal to {shape.most}"
    if len(value) < shape.least:
        yield f"Member must have length greater than or equal to {shape.least}"
    if shape.among and value not in shape.among:
        yield f"Member must satisfy enum value set: [{', '.join(shape.among)}]"


def _broken_number(shape: Number, value: object, path: str) -> Iterator[str]:
    kinds = int if shape.whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        yield _wrong_type(path, "an integer" if shape.whole else "a number")
        return
    if shape.most is not None and value > shape.most:
        yield _said(
            path, f"Member must have value less than or equal to {shape.most}", value
        )
    if value < shape.least:
        yield _said(
            path,
            f"Member must have value greater than or equal to {shape.least}",
            value,
        )


def _broken_blob(shape: Blob, value: object, path: str) -> Iterator[str]:
    if isinstance(value, str):
        try:
            value = binascii.a2b_base64(value, strict_mode=True)
        except binascii.Error:
            yield _wrong_type(path, "base64")
            return
    if not isinstance(value, (bytes, bytearray)):
        yield _wrong_type(path, "base64")
    elif len(value) < shape.least:
        yield _said(
            path, f"Member must have length greater than or equal to {shape.least}"
        )


def _broken_list(shape: ListOf, value: object, path: str) -> Iterator[str]:
    if not is_list(value):
        yield _wrong_type(path, "a list")
        return
    members = items(value)
    yield from _broken_size(shape, len(members), path)
    for place, member in enumerate(members, 1):
        yield from broken(shape.member, member, f"{path}.{place}.member")


def _broken_map(shape: MapOf, value: object, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _wrong_type(path, "an object")
        return
    yield from _broken_size(shape, len(value), path)
    for key, member in value.items():
        for constraint in _text_constraints(shape.key, str(key)):
            yield _said(path, f"Map keys must satisfy constraint: [{constraint}]")
        if isinstance(shape.value, Text) and isinstance(member, str):
            for constraint in _text_constraints(shape.value, member):
                yield _said(path, f"Map value must satisfy constraint: [{constraint}]")
        else:
            yield from broken(shape.value, member, f"{path}.{key}")


def _broken_size(shape: ListOf | MapOf, size: int, path: str) -> Iterator[str]:
    if shape.most is not None and size > shape.most:
        yield _said(path, f"Member must have length less than or equal to {shape.most}")
    if size < shape.least:
        yield _said(
            path, f"Member must have length greater than or equal to {shape.least}"
        )


def _broken_struct(shape: Struct, value: object, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _wrong_type(path, "an object")
        return
    for name in shape.required:
        if value.get(name) is None:
            yield _said(_join(path, name), "Member must not be null")
    yield from _broken_fields(shape.fields, value, path)


def _broken_fields(
    fields: Mapping[str, "Shape"], value: Mapping[str, object], path: str
) -> Iterator[str]:
    for name, member in value.items():
        field = fields.get(name)
        if field is None:
            yield f"extraneous key [{name}] is not permitted at '{path or '#'}'"
        elif member is not None:
            yield from broken(field, member, _join(path, name))


def _broken_union(shape: Union, value: object, path: str) -> Iterator[str]:
    if not isinstance(value, dict) or len(value) != 1:
        names = ", ".join(shape.members)
        yield _said(path, f"Member must hold exactly one of: [{names}]")
        return
    yield from _broken_fields(shape.members, value, path)


_FAILED = "failed to satisfy constraint:"


def _said(path: str, constraint: str, value: object | None = None) -> str:
    echoed = "Value at" if value is None else f"Value '{value}' at"
    return f"{echoed} '{path}' {_FAILED} {constraint}"


def _wrong_type(path: str, wanted: str) -> str:
    return f"Value at '{path or '#'}' {_FAILED} Member must be {wanted}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
