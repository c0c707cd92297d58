"""How JSON shapes become values and values JSON shapes, one kind of shape each.

Strict in what comes in: nothing is coerced, unknown keys are refused, and whatever
does not fit is a `WireError` with its JSON path. Here stands what is true of every
class; what the contract says of one of them is `agentloop.wire.converter`'s.
"""

from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from agentloop.core.config import (
    AnyTool,
    Auto,
    ClientTools,
    Config,
    McpServer,
    SpecificTool,
    ToolSpec,
)
from agentloop.core.content import (
    Document,
    Image,
    Json,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.core.run import Page, RunError
from agentloop.wire.text import WireError

BLOCK_TAGS: Mapping[type, str] = {
    Text: "text",
    ToolUse: "tool_use",
    ToolResult: "tool_result",
    Json: "json",
    Image: "image",
    Document: "document",
    Reasoning: "reasoning",
    Opaque: "opaque",
}
CHOICE_TAGS: Mapping[type, str] = {
    Auto: "auto",
    AnyTool: "any",
    SpecificTool: "specific_tool",
}


def first_problem(error: BaseException) -> tuple[str, str]:
    """The path and the cause of the first leaf of a validation error."""
    path = ""
    while isinstance(error, ClassValidationError | IterableValidationError):
        inner = error.exceptions[0]
        path += _step(inner, getattr(error, "cl", None))
        error = inner
    match error:
        case WireError():
            return path + error.path.removeprefix("$"), error.problem
        case ForbiddenExtraKeysError():
            return path + unknown(error.extra_fields), "unknown key"
        case KeyError():  # the note has named the key already
            return path, "required"
        case _:
            return path, str(error) or type(error).__name__


def unknown(names: Iterable[Any]) -> str:
    """The step to one of the keys that are not known."""
    return f".{min(map(str, names))[:80]}"


def _step(error: BaseException, outer: Any) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f".{_RENAMED.get((outer, note.name), note.name)}"
        if isinstance(note, IterableValidationNote):
            return f"[{note.index}]"
    return ""


def _whole(value: Any) -> Any:
    """A number without a fraction as JSON Schema sees it: 1.0 is an integer."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def strictly(kind: type, name: str) -> Callable[[Any, Any], Any]:
    """Structure a value of exactly this kind; `name` is what a problem calls it."""

    def structure(value: Any, _: Any) -> Any:
        if kind is int:
            value = _whole(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise WireError("$", f"must be {name}, not {shown(value)}")
        return value

    return structure


def shown(value: Any) -> str:
    """A value as a problem quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(value: Any, _: Any) -> float:
    """Structure a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError("$", f"must be a number, not {shown(value)}")
    return value


def literal(type_: Any) -> Callable[[Any, Any], Any]:
    """Structure one of the strings of a Literal."""
    allowed = get_args(type_)

    def structure(value: Any, _: Any) -> Any:
        if value not in allowed:
            known = ", ".join(allowed)
            raise WireError("$", f"must be one of {known}, not {shown(value)}")
        return value

    return structure


def at(step: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call, and put `step` before the path of what goes wrong inside."""
    try:
        return function(*args)
    except Exception as error:
        path, problem = first_problem(error)
        raise WireError(f"${step}{path}", problem) from None


def list_of(converter: Converter, inner: Any) -> Callable[[Any, Any], Any]:
    """Structure a list as a tuple of one type."""
    one = converter.structure

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise WireError("$", f"must be a list, not {shown(value)}")
        try:
            return tuple([one(item, inner) for item in value])
        except Exception:
            return tuple(at(f"[{i}]", one, item, inner) for i, item in enumerate(value))

    return structure


def each(converter: Converter) -> Callable[[Any], list[Any]]:
    """Every item by its own class, whatever the tuple's type allows."""
    out = converter.unstructure
    return lambda values: [out(value) for value in listed(values)]


def listed(values: Any) -> Any:
    """What a host put where a tuple belongs, which a class does not check."""
    if not isinstance(values, tuple | list):
        raise WireError("$", f"must be in a tuple: {shown(values)}")
    return values


def object_of(converter: Converter, type_: type) -> Callable[[Any, Any], Any]:
    """Structure an attrs class from a JSON object without unknown keys."""
    inner: Any = make_dict_structure_fn(type_, converter, **_renames(type_))

    def structure(value: Any, type__: Any) -> Any:
        if not isinstance(value, dict):
            raise WireError("$", f"must be an object, not {shown(value)}")
        return inner(value, type__)

    return structure


_RENAMED: Mapping[tuple[Any, str], str] = {
    (Message, "content"): "content_blocks",
    (ToolResult, "content"): "content_blocks",
}
"""Fields that go by another name in JSON."""


def _renames(type_: type) -> dict[str, Any]:
    return {
        field: override(rename=name)
        for (owner, field), name in _RENAMED.items()
        if owner is type_
    }


def plain_of(converter: Converter, type_: type) -> Callable[[Any], dict[str, Any]]:
    """The JSON object of an attrs class; some leave out what is absent."""
    inner: Any = make_dict_unstructure_fn(type_, converter, **_renames(type_))
    tag = BLOCK_TAGS.get(type_)
    choice = CHOICE_TAGS.get(type_)
    if type_ in _SPARSE:
        return lambda value: {
            **({"type": tag} if tag else {}),
            **{k: item for k, item in inner(value).items() if item is not None},
        }
    if tag:
        return lambda value: {"type": tag, **inner(value)}
    if choice:
        return lambda value: {
            "kind": choice,
            **{k: item for k, item in inner(value).items() if item is not None},
        }
    plain: Callable[[Any], dict[str, Any]] = inner
    return plain


_SPARSE = frozenset(
    {Config, ToolSpec, McpServer, ClientTools, RunError, Reasoning, Page}
)
"""Values whose absent fields stay absent in JSON."""


def tagged(
    converter: Converter, key: str, tags: Mapping[type, str], union: Any
) -> Callable[[Any, Any], Any]:
    """Structure a union whose members are told apart by `key`."""
    members = {tags[t]: t for t in get_args(union) if t in tags}
    optional = type(None) in get_args(union)

    def structure(value: Any, _: Any) -> Any:
        if value is None and optional:
            return None
        if not isinstance(value, dict):
            raise WireError("$", f"must be an object, not {shown(value)}")
        tag = value.get(key)
        member = members.get(tag) if isinstance(tag, str) else None
        if member is None:
            problem = f"must be one of {', '.join(members)}, not {shown(tag)}"
            raise WireError(f"$.{key}", problem)
        rest = {name: item for name, item in value.items() if name != key}
        return converter.structure(rest, member)

    return structure


def is_tagged(tags: Mapping[type, str]) -> Callable[[Any], bool]:
    """Whether a type is a union of classes that have tags."""

    def check(type_: Any) -> bool:
        members = set(get_args(type_)) - {type(None)}
        union = get_origin(type_) is UnionType or isinstance(type_, UnionType)
        return union and len(members) > 1 and members <= tags.keys()

    return check


def is_literal(type_: Any) -> bool:
    """Whether a type is one of a few strings."""
    origin: object = get_origin(type_)
    return origin is Literal


def is_tuple(type_: Any) -> bool:
    """Whether a type is a tuple of others."""
    return get_origin(type_) is tuple
