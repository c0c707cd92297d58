"""From what a function returned, or raised, to the content of a tool result.

Whatever the value is, an answer comes out: content that every store and provider
takes, or an error result that says what is wrong with the value. Text without a
place in JSON (lone surrogates, NUL) is replaced and the result says so; anything
else without a JSON form is refused, because a model must not read a guess.

The order matters for hostile values: size, depth and self-reference are bounded by
a walk that stops early, and only then is anything copied.
"""

import functools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Set
from types import MappingProxyType
from typing import Final, TypeAlias, get_args

from attrs import frozen

from agentloop.core.content import (
    Content,
    Document,
    Image,
    Json,
    Opaque,
    Text,
    ToolResult,
)
from agentloop.ports import ToolAnswer, require
from agentloop.wire import (
    WireError,
    clean,
    clean_text,
    dump,
    load,
    quoted,
    to_json,
)

MAX_BYTES: Final = 1024 * 1024
NOTHING: Final = "The tool returned nothing."

_MAX_MESSAGE: Final = 2000
_MAX_DEPTH: Final = 100
_LONGEST: Final = 6
"""What a character in ASCII may take in JSON: `\\u001f`."""
_BLOCKS: Final = get_args(Content)
_Prepared: TypeAlias = tuple[Content, int, int]
"""A block, how many characters were replaced in it, and its size as JSON text."""


@frozen
class Renderer:
    """Makes answers of one tool's values."""

    name: str
    max_bytes: int = MAX_BYTES

    def returned(self, value: object) -> ToolAnswer:
        """The answer for a value that the function returned. Never raises."""
        if type(value) is str and self._is_plain(value):
            return ToolAnswer((Text(value),))
        try:
            return self._answer(value)
        except WireError as error:
            reason = str(error).removeprefix("$: ")
        except RecursionError:
            reason = _TOO_DEEP
        except Exception as error:  # the value's own code runs when it is read
            reason = _described(error)
        return failed(f"the result of '{self.name}' cannot be passed on: {reason}")

    def _is_plain(self, text: str) -> bool:
        """Whether a text is clean and short however JSON writes it, as most are."""
        fits = len(text) * _LONGEST + 2 <= self.max_bytes
        return fits and text.isascii() and "\x00" not in text

    def _answer(self, value: object) -> ToolAnswer:
        content: list[Content] = []
        replaced = size = 0
        whole = value if isinstance(value, ToolAnswer | ToolResult) else None
        for item in self._items(value if whole is None else whole.content, whole):
            block, changed, length = self._block(item)
            content.append(block)
            replaced += changed
            size += length
            self._check(size)
        if replaced:
            plural = "s" if replaced > 1 else ""
            note = f"({replaced} character{plural} without a place in JSON replaced)"
            content.append(Text(note))
        is_error = whole is not None and bool(whole.is_error)
        return ToolAnswer(tuple(content), is_error)

    def _items(
        self, value: object, whole: ToolAnswer | ToolResult | None
    ) -> list[object] | tuple[object, ...]:
        """The parts of a value: several where it is a list with blocks in it.

        What is the content of a `whole` result is such a list whatever is in it.
        """
        if not isinstance(value, list | tuple) or len(value) > self.max_bytes:
            return [value]  # a longer list is refused unread
        if whole is not None:
            return value or [None]
        return value if any(isinstance(v, _BLOCKS) for v in value) else [value]

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            raise WireError(
                "$",
                f"its JSON text of {size} bytes or more exceeds the cap of "
                f"{self.max_bytes}; return less, or raise max_bytes",
            )

    def _block(self, value: object) -> _Prepared:
        match value:
            case None:
                return Text(NOTHING), 0, len(NOTHING) + 2
            case str() | Text():
                return self._text(value if isinstance(value, str) else value.text)
            case Image() | Document():
                size = len(value.data) + 2
                self._check(size)
                load(to_json(value), Content)  # format and base64 are checked
                return value, 0, size
            case Opaque(provider, inner):
                plain, changed, size = self._value(inner)
                return Opaque(provider, _object(plain)), changed, size
            case _:
                whole = value.json if isinstance(value, Json) else value
                plain, changed, size = self._value(whole)
                return Json(plain), changed, size

    def _text(self, text: str) -> _Prepared:
        self._check(len(text))
        found, changed = clean_text(str.__str__(text))  # a subclass may lie
        size = len(quoted(found))
        self._check(size)
        return Text(found), changed, size

    def _value(self, value: object) -> tuple[object, int, int]:
        seen_all = self._weigh(value)
        plain = _builtins(value)
        if not seen_all:
            self._weigh(plain)
        plain, changed = clean(plain)
        size = len(dump(plain))
        self._check(size)
        return plain, changed, size

    def _weigh(self, value: object) -> bool:
        """Refuse early what is too large, too deep, or holds itself.

        Counts a lower bound of the JSON text, shared parts as often as they appear,
        so that small values which unfold into huge ones are seen as what they are.

        Returns:
            Whether everything was seen; an object of a class is not looked into.
        """
        weight, seen_all = 0, True
        todo = [(value, 0)]
        while todo:
            node, depth = todo.pop()
            if isinstance(node, str):
                weight += 2 + len(node)
            elif isinstance(node, _HOLDERS):
                if depth > _MAX_DEPTH:
                    raise WireError("$", _TOO_DEEP)
                _check_keys(node)
                inside = _inside(node)
                weight += 1 + len(inside)  # brackets, commas and colons
                self._check(weight + len(inside))  # before the parts are listed
                todo += [(part, depth + 1) for part in inside]
            else:
                weight += 1
                seen_all = seen_all and (node is None or isinstance(node, _NUMBERS))
            if weight > self.max_bytes:
                self._check(weight)
        return seen_all


_TOO_DEEP: Final = f"nested deeper than {_MAX_DEPTH} levels, or holding itself"
_DICTS: Final = (dict, MappingProxyType)
_NUMBERS: Final = (int, float)
_HOLDERS: Final = (*_DICTS, list, tuple, set, frozenset, deque)


def _inside(node: Collection[object]) -> Collection[object]:
    if isinstance(node, _DICTS):
        return (*node.keys(), *node.values())
    return node


def _check_keys(node: Collection[object]) -> None:
    """Refuse keys that are different here and the same text in JSON."""
    if not isinstance(node, _DICTS) or set(map(type, node)) <= {str}:
        return
    if len(_builtins(dict.fromkeys(node))) < len(node):  # type: ignore[arg-type] # a dict
        raise WireError("$", "two of its keys have the same text in JSON")


def _builtins(value: object) -> object:
    """The value in JSON's own types; binary data is left for `clean` to refuse."""
    return _converter()(value)


@functools.cache
def _converter() -> Callable[[object], object]:
    return functools.partial(
        require("msgspec", "tools").to_builtins,
        str_keys=True,
        builtin_types=(bytes, bytearray, memoryview),
        enc_hook=_simpler,
    )


def _simpler(value: object) -> object:
    """One step towards JSON for what the library does not know.

    Pydantic models are recognised by their method, so as not to import pydantic.
    """
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case Mapping():
            return dict(value)
        case deque() | Set():
            return list(value)
    model_dump = getattr(value, "model_dump", None)
    if callable(model_dump) and not isinstance(value, type):
        found: object = model_dump(mode="json")
        return found
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise WireError("$", "an opaque block holds an object")
    return value


# ---------------------------------------------------------------- failures


def failed(message: str) -> ToolAnswer:
    """An error result with one line of text."""
    return ToolAnswer((Text(clean_text(message)[0]),), is_error=True)


def raised(error: BaseException) -> ToolAnswer:
    """The error result for an exception: type and message, never a stack trace."""
    return failed(_described(error))


def _described(error: BaseException) -> str:
    name = type(error).__name__
    try:
        message = str(error)[:_MAX_MESSAGE].strip()
    except Exception:  # an exception's own code may be broken as well
        message = "(its message cannot be read)"
    return f"{name}: {message}" if message else name
