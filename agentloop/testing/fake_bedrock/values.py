"""Plain JSON values, read without trusting their shape.

The fake reads what strangers send, so a request stays `object` until looked at. Objects
are dicts and arrays are lists or tuples: asking an abstract class costs more than all
rules together. Nothing here knows Bedrock.
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

Json: TypeAlias = Mapping[str, object]

_EMPTY: Json = {}


def is_list(value: object) -> bool:
    """Whether JSON would call this an array."""
    return isinstance(value, (list, tuple))


def obj(value: object, *keys: str) -> Json:
    """The object found by walking `keys`, or an empty one."""
    found = at(value, *keys)
    return found if isinstance(found, dict) else _EMPTY


def at(value: object, *keys: str) -> object:
    """The value found by walking `keys` through nested objects, or `None`."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def text(value: object, *keys: str) -> str:
    """The string found by walking `keys`, or an empty one."""
    found = at(value, *keys)
    return found if isinstance(found, str) else ""


def items(value: object, *keys: str) -> tuple[object, ...]:
    """The list found by walking `keys`, or an empty one."""
    found = at(value, *keys)
    return tuple(found) if isinstance(found, (list, tuple)) else ()


def only_key(value: object) -> str:
    """The key of a one-key object (a tagged union), or an empty string."""
    if isinstance(value, dict) and len(value) == 1:
        return str(next(iter(value)))
    return ""


def nested(value: object, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every object inside a JSON value, the outer one first, with its dotted path."""
    stack: list[tuple[str, object]] = [(path, value)]
    while stack:
        here, current = stack.pop()
        inner: list[tuple[object, object]] = []
        if isinstance(current, dict):
            yield here, current
            inner = list(current.items())
        elif is_list(current):
            inner = list(enumerate(items(current)))
        stack.extend((f"{here}.{k}".lstrip("."), v) for k, v in reversed(inner))
