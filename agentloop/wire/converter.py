"""Values to JSON and back: the one converter.

`load` refuses unknown keys and names the JSON path of what does not fit;
`to_json` writes the contract's form. Tags are written out, so that renaming a
class changes nothing on the wire. Text and bytes are `agentloop.wire.text`'s.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import UnionType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

from attrs import fields_dict, has
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
    Override,
    SpecificTool,
    ToolSpec,
)
from agentloop.core.content import (
    Block,
    Document,
    Image,
    Json,
    JsonObject,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.core.request import (
    NewConversation,
    Payload,
    ToolOutputs,
    UserContent,
    UserMessage,
)
from agentloop.core.run import Page, RunError, RunEvent, Usage
from agentloop.wire.text import WireError, clean, clean_text, is_clean, undump

SCHEMA_VERSION: Final = 1
"""Version of everything stored. 1: conversations, runs, checkpoints, messages,
jobs and events as of the first release."""

T = TypeVar("T")


# ---------------------------------------------------------------- values


def load(value: Any, type_: type[T] | Any, path: str = "$") -> Any:
    """The value of `type_` that a parsed JSON value describes.

    Raises:
        WireError: with the JSON path of the first thing that does not fit.
    """
    try:
        return CONVERTER.structure(value, type_)
    except Exception as error:
        where, problem = _first_problem(error)
        raise WireError(path + where, problem) from None


def to_json(value: Any) -> Any:
    """The JSON form of a value of the core."""
    return CONVERTER.unstructure(value)


def message_from(text: str) -> Message:
    """The message that a stored line holds.

    Raises:
        WireError: the line is damaged or newer than this library.
    """
    message: Message = load(undump(text), Message)
    return message


def clean_message(message: Message) -> tuple[Message, int]:
    """The message as every store and provider takes it, and what was replaced.

    Reasoning stays as it is: its signature covers every byte.

    Raises:
        WireError: something in it has no JSON form.
    """
    blocks, count = clean_blocks(message.content)
    return (Message(message.role, blocks), count) if count else (message, 0)


def clean_blocks(blocks: tuple[Any, ...]) -> tuple[tuple[Any, ...], int]:
    """The same for blocks.

    Raises:
        WireError: something in them has no JSON form.
    """
    if all(map(_is_seen_clean, blocks)):
        return blocks, 0
    cleaned: list[Any] = []
    count = 0
    for block in blocks:
        found, changed = _clean_block(block)
        cleaned.append(found)
        count += changed
    return (tuple(cleaned), count) if count else (blocks, 0)


def _is_seen_clean(block: Any) -> bool:
    """Whether it is seen at a glance that a block can stay as it is."""
    kind = type(block)
    if kind is Text:
        return type(block.text) is str and is_clean(block.text)
    if kind is ToolUse:
        id_, name, arguments = block.tool_use_id, block.name, block.arguments
        fits = type(id_) is str and type(name) is str and type(arguments) is dict
        return fits and is_clean(id_ + name) and is_clean(arguments)
    return False


def _clean_block(block: Any) -> tuple[Any, int]:
    if isinstance(block, Text):
        return _clean_said(block)
    if isinstance(block, ToolUse):
        return _clean_call(block)
    if isinstance(block, Reasoning | Image):
        return block, 0
    value, count = clean(to_json(block))
    return (load(value, Block), count) if count else (block, 0)


def _clean_said(block: Text) -> tuple[Text, int]:
    if not isinstance(block.text, str):
        raise WireError("$.text", f"must be a string, not {_shown(block.text)}")
    found, count = clean_text(block.text)
    return (Text(found), count) if count else (block, 0)


def _clean_call(block: ToolUse) -> tuple[ToolUse, int]:
    id_, name, arguments = block.tool_use_id, block.name, block.arguments
    if type(id_) is not str or type(name) is not str:
        raise WireError("$.name", "a call needs an id and a name of text")
    if not isinstance(arguments, Mapping):
        problem = f"must be an object, not {_shown(arguments)}"
        raise WireError("$.arguments", problem)
    (id_, name, arguments), count = clean([id_, name, arguments])
    return (ToolUse(id_, name, arguments), count) if count else (block, 0)


def _first_problem(error: BaseException) -> tuple[str, str]:
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
            return path + _unknown(error.extra_fields), "unknown key"
        case KeyError():  # the note has named the key already
            return path, "required"
        case _:
            return path, str(error) or type(error).__name__


def _unknown(names: Iterable[Any]) -> str:
    return f".{min(map(str, names))[:80]}"


def _step(error: BaseException, outer: Any) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f".{_RENAMED.get((outer, note.name), note.name)}"
        if isinstance(note, IterableValidationNote):
            return f"[{note.index}]"
    return ""


# ---------------------------------------------------------------- the converter

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
_ANSWERS: Final = ("text", "json", "image", "document")
CHOICE_TAGS: Mapping[type, str] = {
    Auto: "auto",
    AnyTool: "any",
    SpecificTool: "specific_tool",
}
IMAGE_FORMATS = ("png", "jpeg", "gif", "webp")
DOCUMENT_FORMATS = (
    "pdf",
    "csv",
    "doc",
    "docx",
    "xls",
    "xlsx",
    "html",
    "txt",
    "md",
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_uuid(text: str) -> bool:
    """Whether a text has the form of a uuid."""
    return _UUID.fullmatch(text) is not None


def _whole(value: Any) -> Any:
    """A number without a fraction as JSON Schema sees it: 1.0 is an integer."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _strictly(kind: type, name: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if kind is int:
            value = _whole(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise WireError("$", f"must be {name}, not {_shown(value)}")
        return value

    return structure


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _number(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError("$", f"must be a number, not {_shown(value)}")
    return value


def _literal(type_: Any) -> Callable[[Any, Any], Any]:
    """Structure one of the strings of a Literal."""
    allowed = get_args(type_)

    def structure(value: Any, _: Any) -> Any:
        if value not in allowed:
            known = ", ".join(allowed)
            raise WireError("$", f"must be one of {known}, not {_shown(value)}")
        return value

    return structure


def _at(step: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call, and put `step` before the path of what goes wrong inside."""
    try:
        return function(*args)
    except Exception as error:
        path, problem = _first_problem(error)
        raise WireError(f"${step}{path}", problem) from None


def _list_of(converter: Converter, inner: Any) -> Callable[[Any, Any], Any]:
    one = converter.structure

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise WireError("$", f"must be a list, not {_shown(value)}")
        try:
            return tuple([one(item, inner) for item in value])
        except Exception:
            return tuple(
                _at(f"[{i}]", one, item, inner) for i, item in enumerate(value)
            )

    return structure


def _each(converter: Converter) -> Callable[[Any], list[Any]]:
    """Every item by its own class, whatever the tuple's type allows."""
    out = converter.unstructure
    return lambda values: [out(value) for value in _listed(values)]


def _listed(values: Any) -> Any:
    """What a host put where a tuple belongs, which a class does not check."""
    if not isinstance(values, tuple | list):
        raise WireError("$", f"must be in a tuple: {_shown(values)}")
    return values


def _object(converter: Converter, type_: type) -> Callable[[Any, Any], Any]:
    """Structure an attrs class from a JSON object without unknown keys."""
    inner: Any = make_dict_structure_fn(type_, converter, **_renames(type_))

    def structure(value: Any, type__: Any) -> Any:
        if not isinstance(value, dict):
            raise WireError("$", f"must be an object, not {_shown(value)}")
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


def _plain(converter: Converter, type_: type) -> Callable[[Any], dict[str, Any]]:
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


def _tagged(
    converter: Converter, key: str, tags: Mapping[type, str], union: Any
) -> Callable[[Any, Any], Any]:
    """Structure a union whose members are told apart by `key`."""
    members = {tags[t]: t for t in get_args(union) if t in tags}
    optional = type(None) in get_args(union)

    def structure(value: Any, _: Any) -> Any:
        if value is None and optional:
            return None
        if not isinstance(value, dict):
            raise WireError("$", f"must be an object, not {_shown(value)}")
        tag = value.get(key)
        member = members.get(tag) if isinstance(tag, str) else None
        if member is None:
            problem = f"must be one of {', '.join(members)}, not {_shown(tag)}"
            raise WireError(f"$.{key}", problem)
        rest = {name: item for name, item in value.items() if name != key}
        return converter.structure(rest, member)

    return structure


def _is_tagged(tags: Mapping[type, str]) -> Callable[[Any], bool]:
    def check(type_: Any) -> bool:
        members = set(get_args(type_)) - {type(None)}
        union = get_origin(type_) is UnionType or isinstance(type_, UnionType)
        return union and len(members) > 1 and members <= tags.keys()

    return check


def _is_literal(type_: Any) -> bool:
    origin: object = get_origin(type_)
    return origin is Literal


def _is_tuple(type_: Any) -> bool:
    return get_origin(type_) is tuple


def _make_converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(str, _strictly(str, "a string"))
    converter.register_structure_hook(int, _strictly(int, "an integer"))
    converter.register_structure_hook(bool, _strictly(bool, "true or false"))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_factory(has, lambda t: _object(converter, t))
    converter.register_unstructure_hook_factory(has, lambda t: _plain(converter, t))
    converter.register_structure_hook_factory(
        _is_tuple, lambda t: _list_of(converter, get_args(t)[0])
    )
    converter.register_unstructure_hook_factory(_is_tuple, lambda _: _each(converter))
    converter.register_structure_hook_factory(_is_literal, _literal)
    converter.register_structure_hook_func(
        lambda t: t == JsonObject, _strictly(dict, "an object")
    )
    # JSON values are JSON already; walking them would only find its limits.
    for free in (JsonObject, Any):
        converter.register_unstructure_hook_func(
            partial(operator.eq, free), lambda value: value
        )
    for key, tags in (("type", BLOCK_TAGS), ("kind", CHOICE_TAGS)):
        converter.register_structure_hook_factory(
            _is_tagged(tags), partial(_tagged, converter, key, tags)
        )
    _register_media(converter)
    _register_requests(converter)
    return converter


def _register_media(converter: Converter) -> None:
    """Images and documents are checked where their bytes come in."""
    image, document = _object(converter, Image), _object(converter, Document)

    def structure_image(value: Any, type_: Any) -> Any:
        found = image(value, type_)
        _check_media(found.format, found.data, IMAGE_FORMATS)
        return found

    def structure_document(value: Any, type_: Any) -> Any:
        found = document(value, type_)
        _check_media(found.format, found.data, DOCUMENT_FORMATS)
        if not 0 < len(found.name) <= 200:
            raise WireError("$.name", "must have 1 to 200 characters")
        return found

    converter.register_structure_hook(Image, structure_image)
    converter.register_structure_hook(Document, structure_document)


def _check_media(format_: str, data: str, formats: tuple[str, ...]) -> None:
    if format_ not in formats:
        known = ", ".join(formats)
        raise WireError("$.format", f"must be one of {known}, not {_shown(format_)}")
    if not data or len(data) % 4 or not _BASE64.fullmatch(data):
        raise WireError("$.data", "must be base64")


def _register_requests(converter: Converter) -> None:
    def payload(value: Any, _: Any) -> Payload:
        if not isinstance(value, dict):
            raise WireError("$", f"must be an object, not {_shown(value)}")
        kind = value.get("kind")
        rest = {name: item for name, item in value.items() if name != "kind"}
        if kind == "user_message":
            return _user_message(converter, rest)
        if kind == "tool_outputs":
            return _tool_outputs(converter, rest)
        known = "user_message, tool_outputs"
        raise WireError("$.kind", f"must be one of {known}, not {_shown(kind)}")

    def changes(value: Any, _: Any) -> Override:
        if not isinstance(value, dict):
            raise WireError("$", f"must be an object, not {_shown(value)}")
        return Override({name: _change(converter, name, value[name]) for name in value})

    converter.register_structure_hook_func(lambda t: t == Payload, payload)
    converter.register_structure_hook(Override, changes)
    converter.register_unstructure_hook(
        Override,
        lambda v: {
            name: converter.unstructure(item) for name, item in v.changes.items()
        },
    )
    converter.register_unstructure_hook(
        UserMessage,
        lambda v: {"kind": "user_message", "content_blocks": _out(v.content)},
    )
    converter.register_unstructure_hook(
        ToolOutputs,
        lambda v: {
            "kind": "tool_outputs",
            "outputs": [
                {name: item for name, item in block.items() if name != "type"}
                for block in _out(v.outputs)
            ],
        },
    )
    converter.register_structure_hook(NewConversation, _new_conversation(converter))
    converter.register_unstructure_hook(
        NewConversation,
        lambda new: {
            "defaults": converter.unstructure(new.defaults),
            "name": new.name,
            "system_prompt": new.system_prompt,
        },
    )


def _out(values: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [CONVERTER.unstructure(value) for value in _listed(values)]


def _change(converter: Converter, name: str, value: Any) -> Any:
    attribute = fields_dict(Config).get(name)
    if attribute is None:
        raise WireError(f"${_unknown([name])}", "unknown key")
    if value is None:
        return None
    return _at(f".{name}", converter.structure, value, attribute.type)


def _user_message(converter: Converter, value: dict[str, Any]) -> UserMessage:
    _only(value, {"text", "content_blocks"})
    if len(value) != 1:
        raise WireError("$", "needs either text or content_blocks")
    if "text" in value:
        return UserMessage(
            (Text(_at(".text", converter.structure, value["text"], str)),)
        )
    blocks = value["content_blocks"]
    return UserMessage(
        _at(".content_blocks", converter.structure, blocks, tuple[UserContent, ...])
    )


def _tool_outputs(converter: Converter, value: dict[str, Any]) -> ToolOutputs:
    _only(value, {"outputs"})
    outputs = value.get("outputs")
    if not isinstance(outputs, list | tuple):
        raise WireError("$.outputs", f"must be a list, not {_shown(outputs)}")
    return ToolOutputs(
        tuple(
            _at(f".outputs[{i}]", _tool_output, converter, item)
            for i, item in enumerate(outputs)
        )
    )


def _tool_output(converter: Converter, value: Any) -> ToolResult:
    """`content` is text or any JSON value; `content_blocks` says it exactly."""
    if not isinstance(value, dict):
        raise WireError("$", f"must be an object, not {_shown(value)}")
    _only(value, {"tool_use_id", "is_error", "content", "content_blocks"})
    if ("content" in value) == ("content_blocks" in value):
        raise WireError("$", "needs either content or content_blocks")
    rest = {name: item for name, item in value.items() if name != "content"}
    if "content" in value:
        content = value["content"]
        rest["content_blocks"] = [
            {"type": "text", "text": content}
            if isinstance(content, str)
            else {"type": "json", "json": content}
        ]
    _check_answers(rest["content_blocks"])
    result: ToolResult = converter.structure(rest, ToolResult)
    return result


def _check_answers(blocks: Any) -> None:
    """That a caller answers with blocks that are no provider's own."""
    for i, block in enumerate(blocks if isinstance(blocks, list | tuple) else ()):
        if isinstance(block, dict) and block.get("type") not in _ANSWERS:
            known, given = ", ".join(_ANSWERS), _shown(block.get("type"))
            problem = f"must be one of {known}, not {given}"
            raise WireError(f"$.content_blocks[{i}].type", problem)


def _new_conversation(converter: Converter) -> Callable[[Any, Any], NewConversation]:
    inner = _object(converter, NewConversation)

    def structure(value: Any, type_: Any) -> NewConversation:
        found: NewConversation = inner(value, type_)
        defaults = _at(".defaults", converter.structure, found.defaults, Config)
        return NewConversation(
            defaults=defaults, name=found.name, system_prompt=found.system_prompt
        )

    return structure


def _only(value: dict[str, Any], names: set[str]) -> None:
    if strange := value.keys() - names:
        raise WireError(f"${_unknown(strange)}", "unknown key")


CONVERTER: Final = _make_converter()


def usage_json(usage: Usage) -> dict[str, int]:
    """The JSON form of a usage; the total is told, too (contract section 7)."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "attempts_without_usage": usage.attempts_without_usage,
    }


CONVERTER.register_unstructure_hook(Usage, usage_json)
_USAGE_IN = CONVERTER.get_structure_hook(Usage)
CONVERTER.register_structure_hook(
    Usage,
    lambda value, type_: _USAGE_IN(
        {name: item for name, item in value.items() if name != "total_tokens"}
        if isinstance(value, dict)
        else value,
        type_,
    ),
)
CONVERTER.register_unstructure_hook(
    RunEvent, lambda event: {"id": event.id, "kind": event.kind, "data": event.data}
)
