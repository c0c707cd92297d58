"""JSON text: parsed under caps, written in ASCII, cleaned of what nobody takes.

Bytes from outside go through `parse`, which caps size and depth before it parses
and refuses what JSON does not allow. Values that arrive already parsed (a tool's
return value, an SDK's reply) go through `clean`. This room knows no classes.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from attrs import frozen

MAX_BYTES: Final = 8 * 1024 * 1024
MAX_DEPTH: Final = 100
REPLACEMENT: Final = "\ufffd"


class WireError(ValueError):
    """JSON that is not what it should be; `path` says where."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        return (WireError, (self.path, self.problem))


class TooLargeError(WireError):
    """JSON that was refused for its size or depth, before it was parsed."""

    def __reduce__(self) -> tuple[object, ...]:
        return (TooLargeError, (self.path, self.problem))


@frozen
class Limits:
    """Caps on JSON from outside: bytes, and levels of nesting."""

    max_bytes: int = MAX_BYTES
    max_depth: int = MAX_DEPTH


# ---------------------------------------------------------------- bytes


def parse(data: bytes | str, limits: Limits = Limits()) -> tuple[Any, int]:
    """Parse JSON from outside.

    Returns:
        The value, and how many characters were replaced by U+FFFD because no
        store or provider takes them (lone surrogates and NUL).

    Raises:
        TooLargeError: over the caps; nothing was parsed.
        WireError: not JSON, NaN or infinite numbers, a repeated key.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(raw) > limits.max_bytes:
        raise TooLargeError("$", f"{len(raw)} bytes exceed the {limits.max_bytes}")
    if _too_deep(raw, limits.max_depth):
        raise TooLargeError("$", f"nested deeper than {limits.max_depth} levels")
    try:
        text = raw.decode(
            "utf-8", "surrogatepass" if isinstance(data, str) else "strict"
        )
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise WireError("$", f"no UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise WireError("$", f"no JSON: {error.msg} at {error.pos}") from None
    except WireError:
        raise
    except ValueError as error:  # an integer of more than 4 300 digits
        raise WireError("$", f"no usable JSON: {error}") from None
    return clean(value) if _SUSPECT.search(text) else (value, 0)


_SUSPECT = re.compile(r"\\u[dD][89a-fA-F]|\\u0000|[\x00\ud800-\udfff]")
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def _too_deep(raw: bytes, limit: int) -> bool:
    """Whether brackets nest deeper than `limit`; linear, and without parsing."""
    if raw.count(b"[") + raw.count(b"{") <= limit:
        return False
    depth = 0
    for token in _BRACKETS.finditer(raw):
        mark = raw[token.start()]
        if mark in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif mark in b"]}":
            depth -= 1
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise WireError("$", f"the key {twice[:80]!r} appears twice in one object")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise WireError("$", f"the number {text[:40]} is too large")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise WireError("$", f"{text} is no JSON number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant
)
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def dump(value: Any) -> str:
    """JSON text in ASCII, the form that every store keeps unharmed.

    Raises:
        WireError: the value holds something JSON has no form for.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError("$", f"no JSON value: {error}") from None


def undump(text: str) -> Any:
    """The value of JSON text that this library wrote.

    Raises:
        WireError: the text is damaged.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("$", f"damaged: {error}") from None


# ---------------------------------------------------------------- hostile values


def clean_text(text: str) -> tuple[str, int]:
    """The text with lone surrogates and NUL replaced, and how many there were."""
    if text.isascii():
        nuls = text.count("\x00")
        return (text.replace("\x00", REPLACEMENT), nuls) if nuls else (text, 0)
    return _CONTROL.subn(REPLACEMENT, text)


_CONTROL = re.compile("[\x00\ud800-\udfff]")


def clean(value: Any, limits: Limits = Limits()) -> tuple[Any, int]:
    """A JSON value with every text cleaned, and how many characters changed.

    Raises:
        WireError: a value that is not JSON: NaN, bytes, a key that is no string,
            a cycle or nesting beyond the limit. The path says where.
    """
    cleaner = _Cleaner(limits.max_depth)
    return cleaner.walk(value, "$", 0), cleaner.count


class _Cleaner:
    """One pass over a value; counts the characters it replaces."""

    def __init__(self, max_depth: int) -> None:
        self.max_depth = max_depth
        self.count = 0

    def walk(self, node: Any, path: str, depth: int) -> Any:
        if isinstance(node, str):
            text, changed = clean_text(node)
            self.count += changed
            return text
        if node is None or isinstance(node, bool | int):
            return node
        if isinstance(node, float):
            if node - node != 0:  # NaN and both infinities
                raise WireError(path, f"{node} is no JSON number")
            return node
        return self.container(node, path, depth)

    def container(self, node: Any, path: str, depth: int) -> Any:
        if depth >= self.max_depth:
            problem = f"nested deeper than {self.max_depth} levels"
            raise WireError(f"{path[:200]}", problem)
        if isinstance(node, Mapping):
            return {
                self.walk(_key(key, path), path, depth): self.walk(
                    item, f"{path}.{key}", depth + 1
                )
                for key, item in node.items()
            }
        if isinstance(node, list | tuple):
            return [self.walk(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(node)]
        raise WireError(path, f"{type(node).__name__} has no JSON form")


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise WireError(path, f"the key {key!r} is no string")
    return key
