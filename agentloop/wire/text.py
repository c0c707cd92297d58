"""JSON text: parsed under caps, written in ASCII, cleaned of what nobody takes.

Bytes from outside go through `parse`, which caps size, depth and the number of
values before it parses, and refuses what JSON does not allow. Values that arrive
already parsed (a tool's return value, an SDK's reply) go through `clean`. This room
knows no classes.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn

from attrs import frozen

MAX_BYTES: Final = 8 * 1024 * 1024
MAX_DEPTH: Final = 100
MAX_VALUES: Final = 200_000
"""What a body may hold of values: parsed they take up to a hundred times the bytes they
are written in, so that the cap on bytes alone would let eight megabytes become eight
hundred."""
MAX_INT_BITS: Final = 14_000
"""About 4 200 digits, just below what Python turns into text by default."""
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
    """JSON that was refused for a cap, before it was parsed."""

    def __reduce__(self) -> tuple[object, ...]:
        return (TooLargeError, (self.path, self.problem))


@frozen
class Limits:
    """Caps on JSON from outside.

    Attributes:
        max_bytes: bytes of the text.
        max_depth: levels of nesting.
        max_values: commas and opening brackets outside of strings, of which there are
            as many as there are values; an empty array counts twice.
    """

    max_bytes: int = MAX_BYTES
    max_depth: int = MAX_DEPTH
    max_values: int = MAX_VALUES


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
    _check_shape(raw, limits)
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
    except RecursionError:  # only where a host allows more levels than Python
        raise TooLargeError("$", "nested too deep to be parsed") from None
    except ValueError as error:  # an integer of more than 4 300 digits
        raise WireError("$", f"no usable JSON: {error}") from None
    plain = text.isascii() and "\\u" not in text  # quickly seen, and nearly always so
    return (value, 0) if plain or not _SUSPECT.search(text) else clean(value)


_SUSPECT = re.compile(r"\\u[dD][89a-fA-F]|\\u0000|[\x00\ud800-\udfff]")
# Possessive, and content with a string that never ends: backtracking would make
# the scan quadratic, and hold a gigabyte for one string of eight megabytes. What lies
# between two marks is skipped within one match, whatever there is of it; without the
# end as a last mark the search would begin anew in the middle of a string.
_STRING = rb'"(?:[^"\\]++|\\.)*+"?'
_BRACKETS = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+([\[\]{}]|\Z)", re.DOTALL)
_MARKS = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+([\[\]{},]|\Z)", re.DOTALL)


def _check_shape(raw: bytes, limits: Limits) -> None:
    """Refuse too many levels or values; linear, and without parsing.

    What cannot be too many, since there are no more such bytes in all, is not
    looked for; the search ends where a cap is exceeded.

    Raises:
        TooLargeError: too deep, or too many.
    """
    brackets = raw.count(b"[") + raw.count(b"{")
    many = brackets + raw.count(b",") > limits.max_values
    if brackets <= limits.max_depth and not many:
        return
    depth = values = 0
    for token in (_MARKS if many else _BRACKETS).finditer(raw):
        mark = token[1]
        if mark in b"]}":
            depth -= 1
            continue
        values += 1
        if values > limits.max_values:
            raise TooLargeError("$", f"more than {limits.max_values} values")
        if mark != b",":
            depth += 1
            if depth > limits.max_depth:
                raise TooLargeError(
                    "$", f"nested deeper than {limits.max_depth} levels"
                )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
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


def encoder(item: str, key: str) -> Callable[[Any], str]:
    """What `json.dumps` does with these separators, by an encoder made once.

    The standard one makes another for each text, which costs as much as a small
    text does, and a run writes about ten of them per iteration. Elsewhere than in
    CPython there is none to be made. NaN is refused, as JSON has no form for it.
    """
    whole = json.JSONEncoder(allow_nan=False, separators=(item, key))
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return whole.encode
    quote = json.encoder.encode_basestring_ascii
    chunks = make(None, whole.default, quote, None, key, item, False, False, False)
    return lambda value: "".join(chunks(value, 0))


_encoded: Final = encoder(",", ":")


def dump(value: Any) -> str:
    """JSON text in ASCII, the form that every store keeps unharmed.

    Raises:
        WireError: the value holds something JSON has no form for.
    """
    try:
        return _encoded(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError("$", f"no JSON value: {error}") from None


def undump(text: str) -> Any:
    """The value of JSON text that this library wrote.

    Raises:
        WireError: the text is damaged.
    """
    try:
        value, end = _decode(text)
        if end == len(text):
            return value
    except (ValueError, TypeError, RecursionError):
        pass  # it is told below, in the standard words
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("$", f"damaged: {error}") from None


_decode: Final = json.JSONDecoder().raw_decode
"""`json.loads` without its looks for white space, of which nothing is written."""


# ---------------------------------------------------------------- hostile values


def clean_text(text: str) -> tuple[str, int]:
    """The text with lone surrogates and NUL replaced, and how many there were."""
    if text.isascii():
        nuls = text.count("\x00")
        return (text.replace("\x00", REPLACEMENT), nuls) if nuls else (text, 0)
    return _CONTROL.subn(REPLACEMENT, text)


_CONTROL = re.compile("[\x00\ud800-\udfff]")


def is_clean(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether `clean` would give an equal value, if that is quickly seen.

    Nearly all values are, and to see it costs a fraction of making another. False
    says nothing: only `clean` tells what is wrong, and where.
    """
    kind: type = type(value)
    if kind is str:
        return str.isascii(value) and "\x00" not in value
    if kind is int:
        return int.bit_length(value) <= MAX_INT_BITS
    if kind is dict:
        return depth > 0 and _is_clean_object(value, depth - 1)
    if kind is list:
        return depth > 0 and _are_clean(value, depth - 1)
    return value is None or kind is bool or (kind is float and value - value == 0)


# Loops below, because `all` over a generator costs thrice as much.


def _are_clean(values: Iterable[Any], depth: int) -> bool:
    for value in values:
        if type(value) is str:  # nearly all are, and need no call
            if not value.isascii() or "\x00" in value:
                return False
        elif not is_clean(value, depth):
            return False
    return True


def _is_clean_object(value: dict[Any, Any], depth: int) -> bool:
    """Whether keys are identifiers, which hold nothing that is replaced, and so on."""
    for key, item in value.items():
        if type(key) is not str or not key.isidentifier():
            return False
        if type(item) is str:
            if not item.isascii() or "\x00" in item:
                return False
        elif not is_clean(item, depth):
            return False
    return True


def clean(value: Any, limits: Limits = Limits()) -> tuple[Any, int]:
    """A JSON value of its own with every text cleaned, and how many changed.

    Raises:
        WireError: a value that is not JSON: NaN, bytes, a key that is no string,
            a cycle or nesting beyond the limit. The path says where.
    """
    cleaner = _Cleaner(limits.max_depth)
    try:
        return cleaner.walk(value, 0), cleaner.count
    except WireError as error:
        raise WireError(error.path[:200], error.problem) from None


def cleaned(value: Any) -> tuple[Any, int]:
    """What `clean` gives, but the very value where that is seen to be clean.

    For who changes nothing in it.

    Raises:
        WireError: as for `clean`.
    """
    return (value, 0) if is_clean(value) else clean(value)


class _Cleaner:
    """One pass over a value; counts the characters it replaces.

    Paths are put together only when something is wrong: made on the way down they
    would copy a long key once for each of its descendants.
    """

    __slots__ = ("count", "max_depth")

    def __init__(self, max_depth: int) -> None:
        self.max_depth = max_depth
        self.count = 0

    def walk(self, node: Any, depth: int) -> Any:
        if isinstance(node, str):
            # Nearly every text is clean, which costs less to see than to be told.
            clean_ascii = node.isascii() and "\x00" not in node
            return node if clean_ascii else self.text(node)
        if node is None or isinstance(node, bool):
            return node
        if isinstance(node, _NUMBERS):
            return _number(node)
        if depth >= self.max_depth:
            raise WireError("$", f"nested deeper than {self.max_depth} levels")
        if isinstance(node, _ARRAYS):
            return self.array(node, depth + 1)
        if isinstance(node, _OBJECTS):
            return self.object(node, depth + 1)
        raise WireError("$", f"{type(node).__name__} has no JSON form")

    def text(self, node: str) -> str:
        text, changed = clean_text(node)
        self.count += changed
        return text

    def array(self, node: Any, depth: int) -> list[Any]:
        cleaned: list[Any] = []
        for item in node:
            try:
                cleaned.append(self.walk(item, depth))
            except WireError as error:
                raise _inside(f"[{len(cleaned)}]", error) from None
        return cleaned

    def object(self, node: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        for key, item in node.items():
            if not isinstance(key, str):
                raise WireError("$", f"the key {repr(key)[:80]} is no string")
            # Most keys are identifiers, which hold nothing that is replaced.
            name = key if key.isidentifier() else self.text(key)
            if name in cleaned:
                problem = f"the key {name[:80]!r} appears twice in one object"
                raise WireError("$", problem)
            try:
                cleaned[name] = self.walk(item, depth)
            except WireError as error:
                raise _inside(f".{name[:80]}", error) from None
        return cleaned


_NUMBERS: Final = (int, float)
_ARRAYS: Final = (list, tuple)
_OBJECTS: Final = (dict, Mapping)  # dicts first: asking the abstract class is dear


def _inside(step: str, error: WireError) -> WireError:
    return WireError(f"${step}{error.path[1:]}", error.problem)


def _number(node: float) -> float:
    if isinstance(node, int):
        if node.bit_length() > MAX_INT_BITS:
            raise WireError("$", f"an integer of {node.bit_length()} bits is too large")
    elif node - node != 0:  # NaN and both infinities
        raise WireError("$", f"{node} is no JSON number")
    return node
