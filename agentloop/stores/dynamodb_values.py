"""Values and expressions as DynamoDB's JSON protocol writes them, and back.

A row is text, whole numbers, truths and lists of text by name. In an expression
`@name` stands for the attribute `name`, whatever words DynamoDB reserves, and
`:name` for a value that comes along. Nothing in here speaks with anybody.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

Key = tuple[str, str]
"""A partition key and a sort key."""
Row = dict[str, Any]
"""A row's attributes by name; None stands for an attribute that is not there."""

_LARGEST: Final = 10**38
_NAME: Final = re.compile(r"@(\w+)")


def typed_key(key: Key) -> dict[str, Any]:
    """A key as an item has it."""
    return {"pk": typed(key[0]), "sk": typed(key[1])}


def typed_row(row: Row) -> dict[str, Any]:
    """A row's attributes as an item has them."""
    return {name: typed(value) for name, value in row.items() if value is not None}


def typed(value: object) -> dict[str, Any]:
    """A value with its type.

    Raises:
        ValueError: DynamoDB has no room for it.
    """
    match value:
        case bool():
            return {"BOOL": value}
        case int() if -_LARGEST < value < _LARGEST:
            return {"N": str(value)}
        case str():
            demand_utf8(value)
            return {"S": value}
        case list():
            return {"L": [typed(each) for each in value]}
    raise ValueError(f"a {type(value).__name__} as large as this cannot be stored")


def demand_utf8(text: str) -> None:
    """Refuse text that has no UTF-8, which is what DynamoDB keeps.

    Raises:
        ValueError: it holds a lone surrogate.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"cannot be stored: {error.reason}") from None


def plain_row(item: Mapping[str, Any]) -> Row:
    """The row that an item holds."""
    return {name: _plain(value) for name, value in item.items()}


def _plain(value: Mapping[str, Any]) -> Any:
    ((kind, held),) = value.items()
    if kind == "N":
        return int(held)
    return [_plain(each) for each in held] if kind == "L" else held


def filled(given: Mapping[str, object], **texts: str | None) -> dict[str, Any]:
    """Expressions with the names and values they need."""
    request: dict[str, Any] = {
        name: _NAME.sub(r"#\1", text) for name, text in texts.items() if text
    }
    names = {name for text in texts.values() if text for name in _NAME.findall(text)}
    if names:
        request["ExpressionAttributeNames"] = {f"#{name}": name for name in names}
    if given:
        values = {f":{name}": typed(value) for name, value in given.items()}
        request["ExpressionAttributeValues"] = values
    return request
