"""Values to JSON and back: the one converter.

`load` refuses unknown keys and names the JSON path of what does not fit;
`to_json` writes the contract's form. Tags are written out, so that renaming a
class changes nothing on the wire. Text and bytes are `agentloop.wire.text`'s, what
holds for every class `agentloop.wire.shapes`'.
"""

import operator
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar, get_args

from attrs import fields_dict, has
from cattrs import Converter

from agentloop.core.config import (
    Config,
    Override,
)
from agentloop.core.content import (
    Block,
    Document,
    Image,
    JsonObject,
    Message,
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
from agentloop.core.run import RunEvent, Usage
from agentloop.wire.shapes import (
    BLOCK_TAGS,
    CHOICE_TAGS,
    at,
    each,
    first_problem,
    is_literal,
    is_tagged,
    is_tuple,
    list_of,
    listed,
    literal,
    number,
    object_of,
    plain_of,
    shown,
    strictly,
    tagged,
    unknown,
)
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
        where, problem = first_problem(error)
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
    for block in blocks:
        if not _is_seen_clean(block):
            return _cleaned(blocks)
    return blocks, 0


def _cleaned(blocks: tuple[Any, ...]) -> tuple[tuple[Any, ...], int]:
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
        text = block.text
        return type(text) is str and text.isascii() and "\x00" not in text
    if kind is ToolUse:
        id_, name, arguments = block.tool_use_id, block.name, block.arguments
        if type(id_) is not str or type(name) is not str:
            return False
        if not (id_.isascii() and name.isascii()) or "\x00" in id_ + name:
            return False
        return type(arguments) is dict and is_clean(arguments)
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
        raise WireError("$.text", f"must be a string, not {shown(block.text)}")
    found, count = clean_text(block.text)
    return (Text(found), count) if count else (block, 0)


def _clean_call(block: ToolUse) -> tuple[ToolUse, int]:
    id_, name, arguments = block.tool_use_id, block.name, block.arguments
    if type(id_) is not str or type(name) is not str:
        raise WireError("$.name", "a call needs an id and a name of text")
    if not isinstance(arguments, Mapping):
        problem = f"must be an object, not {shown(arguments)}"
        raise WireError("$.arguments", problem)
    (id_, name, arguments), count = clean([id_, name, arguments])
    return (ToolUse(id_, name, arguments), count) if count else (block, 0)


# ---------------------------------------------------------------- the converter

_ANSWERS: Final = ("text", "json", "image", "document")
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


def _make_converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(str, strictly(str, "a string"))
    converter.register_structure_hook(int, strictly(int, "an integer"))
    converter.register_structure_hook(bool, strictly(bool, "true or false"))
    converter.register_structure_hook(float, number)
    converter.register_structure_hook_factory(has, lambda t: object_of(converter, t))
    converter.register_unstructure_hook_factory(has, lambda t: plain_of(converter, t))
    converter.register_structure_hook_factory(
        is_tuple, lambda t: list_of(converter, get_args(t)[0])
    )
    converter.register_unstructure_hook_factory(is_tuple, lambda _: each(converter))
    converter.register_structure_hook_factory(is_literal, literal)
    converter.register_structure_hook_func(
        lambda t: t == JsonObject, strictly(dict, "an object")
    )
    # JSON values are JSON already; walking them would only find its limits.
    for free in (JsonObject, Any):
        converter.register_unstructure_hook_func(
            partial(operator.eq, free), lambda value: value
        )
    for key, tags in (("type", BLOCK_TAGS), ("kind", CHOICE_TAGS)):
        converter.register_structure_hook_factory(
            is_tagged(tags), partial(tagged, converter, key, tags)
        )
    _register_media(converter)
    _register_requests(converter)
    return converter


def _register_media(converter: Converter) -> None:
    """Images and documents are checked where their bytes come in."""
    image, document = object_of(converter, Image), object_of(converter, Document)

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
        raise WireError("$.format", f"must be one of {known}, not {shown(format_)}")
    if not data or len(data) % 4 or not _BASE64.fullmatch(data):
        raise WireError("$.data", "must be base64")


def _register_requests(converter: Converter) -> None:
    def payload(value: Any, _: Any) -> Payload:
        if not isinstance(value, dict):
            raise WireError("$", f"must be an object, not {shown(value)}")
        kind = value.get("kind")
        rest = {name: item for name, item in value.items() if name != "kind"}
        if kind == "user_message":
            return _user_message(converter, rest)
        if kind == "tool_outputs":
            return _tool_outputs(converter, rest)
        known = "user_message, tool_outputs"
        raise WireError("$.kind", f"must be one of {known}, not {shown(kind)}")

    def changes(value: Any, _: Any) -> Override:
        if not isinstance(value, dict):
            raise WireError("$", f"must be an object, not {shown(value)}")
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
    return [CONVERTER.unstructure(value) for value in listed(values)]


def _change(converter: Converter, name: str, value: Any) -> Any:
    attribute = fields_dict(Config).get(name)
    if attribute is None:
        raise WireError(f"${unknown([name])}", "unknown key")
    if value is None:
        return None
    return at(f".{name}", converter.structure, value, attribute.type)


def _user_message(converter: Converter, value: dict[str, Any]) -> UserMessage:
    _only(value, {"text", "content_blocks"})
    if len(value) != 1:
        raise WireError("$", "needs either text or content_blocks")
    if "text" in value:
        return UserMessage(
            (Text(at(".text", converter.structure, value["text"], str)),)
        )
    blocks = value["content_blocks"]
    return UserMessage(
        at(".content_blocks", converter.structure, blocks, tuple[UserContent, ...])
    )


def _tool_outputs(converter: Converter, value: dict[str, Any]) -> ToolOutputs:
    _only(value, {"outputs"})
    outputs = value.get("outputs")
    if not isinstance(outputs, list | tuple):
        raise WireError("$.outputs", f"must be a list, not {shown(outputs)}")
    return ToolOutputs(
        tuple(
            at(f".outputs[{i}]", _tool_output, converter, item)
            for i, item in enumerate(outputs)
        )
    )


def _tool_output(converter: Converter, value: Any) -> ToolResult:
    """`content` is text or any JSON value; `content_blocks` says it exactly."""
    if not isinstance(value, dict):
        raise WireError("$", f"must be an object, not {shown(value)}")
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
            known, given = ", ".join(_ANSWERS), shown(block.get("type"))
            problem = f"must be one of {known}, not {given}"
            raise WireError(f"$.content_blocks[{i}].type", problem)


def _new_conversation(converter: Converter) -> Callable[[Any, Any], NewConversation]:
    inner = object_of(converter, NewConversation)

    def structure(value: Any, type_: Any) -> NewConversation:
        found: NewConversation = inner(value, type_)
        defaults = at(".defaults", converter.structure, found.defaults, Config)
        return NewConversation(
            defaults=defaults, name=found.name, system_prompt=found.system_prompt
        )

    return structure


def _only(value: dict[str, Any], names: set[str]) -> None:
    if strange := value.keys() - names:
        raise WireError(f"${unknown(strange)}", "unknown key")


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
