"""The little SQL the server understands: expressions, COMPLETE, a few statements.

The room holds a reader for literals, bindings and function calls, and what a statement
means. It must not run anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from attrs import define, frozen

from agentloop.testing.fake_snowflake.shapes import Doc, Json, doc, kind, loads


class StatementError(ValueError):
    """A statement that cannot be read or evaluated.

    Attributes:
        errno: The provider's number for it.
        sqlstate: Its SQL state.
    """

    def __init__(
        self, message: str, errno: int = 1003, sqlstate: str = "42000"
    ) -> None:
        super().__init__(message)
        self.errno = errno
        self.sqlstate = sqlstate


# -- meanings --------------------------------------------------------------------------
@frozen
class Complete:
    """An inference: the arguments of COMPLETE and the name of its column."""

    body: Doc
    column: str
    null_on_error: bool = False


@frozen
class Values:
    """Plain values, one row."""

    columns: tuple[str, ...]
    row: tuple[Json, ...]


@frozen
class ResultScan:
    """The result of another query."""

    query_id: str


@frozen
class Cancel:
    """Another query's end."""

    query_id: str


@frozen
class SetParameters:
    """Session parameters to set, upper-case names."""

    values: Mapping[str, Json]


@frozen
class Use:
    """Another role, warehouse, database or schema."""

    what: str
    name: str


@frozen
class ShowParameters:
    """Session parameters like a pattern."""

    like: str


Meaning: TypeAlias = (
    Complete | Values | ResultScan | Cancel | SetParameters | Use | ShowParameters
)

_SCAN: Final = re.compile(
    r"select\s+\*\s+from\s+table\s*\(\s*result_scan\s*\(\s*'([^']+)'\s*\)\s*\)", re.I
)
_CANCEL: Final = re.compile(
    r"select\s+system\$cancel_query\s*\(\s*'([^']+)'\s*\)", re.I
)
_ALTER: Final = re.compile(r"alter\s+session\s+set\s+(.+)", re.I | re.S)
_USE: Final = re.compile(
    r"use\s+(role|warehouse|database|schema)\s+\"?([\w.]+)\"?", re.I
)
_SHOW: Final = re.compile(r"show\s+parameters(?:\s+like\s+'([^']*)')?.*", re.I | re.S)
_COMPLETE: Final = re.compile(
    r"select\s+snowflake\s*\.\s*cortex\s*\.\s*(try_)?complete\s*\((.*)", re.I | re.S
)


def read(sql: str, bindings: Json, facts: Mapping[str, str]) -> Meaning:
    """What the statement means.

    Args:
        sql: The text.
        bindings: The connector's `bindings` document, for `?` and `:1`.
        facts: Values of `current_role()` and its like, by function name.

    Raises:
        StatementError: If this server does not understand it.
    """
    statement = sql.strip().rstrip(";").strip()
    for pattern, build in _SHAPES:
        if match := pattern.fullmatch(statement):
            return build(match)
    if match := _COMPLETE.fullmatch(statement):
        return _complete(match, bindings, facts)
    if match := re.match(r"select\s", statement, re.I):
        return _values(statement[match.end() :], bindings, facts)
    raise StatementError(
        f"unknown to FakeSnowflake, teach it with on_sql: {sql[:120]!r}"
    )


def _alter(match: re.Match[str]) -> SetParameters:
    pairs = re.findall(r"(\w+)\s*=\s*('(?:[^']|'')*'|[\w.-]+)", match[1])
    return SetParameters({name.upper(): _setting(value) for name, value in pairs})


def _setting(text: str) -> Json:
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    return int(text) if text.isdigit() else text


_SHAPES: Final[
    tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Meaning]], ...]
] = (
    (_SCAN, lambda m: ResultScan(m[1])),
    (_CANCEL, lambda m: Cancel(m[1])),
    (_ALTER, _alter),
    (_USE, lambda m: Use(m[1].lower(), m[2].upper())),
    (_SHOW, lambda m: ShowParameters(m[1] or "%")),
)


def _complete(
    match: re.Match[str], bindings: Json, facts: Mapping[str, str]
) -> Complete:
    reader = _Reader(match[2], doc(bindings), facts)
    arguments = reader.arguments()
    column = reader.alias() or "COMPLETE"
    reader.end()
    if not 2 <= len(arguments) <= 3:
        raise StatementError(
            f"not enough or too many arguments for COMPLETE: {len(arguments)}",
            938,
            "22023",
        )
    body: Doc = {"model": arguments[0], "prompt": arguments[1]}
    if len(arguments) == 3:
        body["options"] = arguments[2]
    return Complete(body, column, null_on_error=bool(match[1]))


def _values(text: str, bindings: Json, facts: Mapping[str, str]) -> Values:
    reader = _Reader(text, doc(bindings), facts)
    columns: list[str] = []
    row: list[Json] = []
    while True:
        start = reader.at
        row.append(reader.value())
        written = text[start : reader.at].strip()
        columns.append(reader.alias() or written.upper())
        if not reader.accept(","):
            reader.end()
            return Values(tuple(columns), tuple(row))


# -- expressions -----------------------------------------------------------------------
_SPACE: Final = re.compile(r"\s*")
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_NAME: Final = re.compile(r'"?[A-Za-z_][\w$]*"?')
_CAST: Final = re.compile(r"\s*::\s*\w+")
_STRING: Final = re.compile(r"'((?:[^'\\]|\\.|'')*)'", re.S)
_DOLLARS: Final = re.compile(r"\$\$(.*?)\$\$", re.S)
_BINDING: Final = re.compile(r"\?|:(\d+)")
_ESCAPE: Final = re.compile(
    r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([0-7]{3})|(.))|''", re.S
)
_LETTERS: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}


def unquote(inner: str) -> str:
    """The text between two single quotes, its escapes resolved."""

    def resolve(match: re.Match[str]) -> str:
        wide, narrow, octal, letter = match.groups()
        if wide or narrow:
            return chr(int(wide or narrow, 16))
        if octal:
            return chr(int(octal, 8))
        return _LETTERS.get(letter, letter) if letter else "'"

    return _ESCAPE.sub(resolve, inner)


@define
class _Reader:
    """Reads values from left to right; `at` is where the next one begins."""

    text: str
    bindings: Doc
    facts: Mapping[str, str]
    at: int = 0
    bound: int = 0

    def value(self) -> Json:
        """The next expression, evaluated."""
        value = self._bare()
        while cast := _CAST.match(self.text, self.at):
            self.at = cast.end()
        return value

    def arguments(self) -> list[Json]:
        """The rest of an argument list whose parenthesis was already read."""
        found: list[Json] = []
        while not self.accept(")"):
            if found and not self.accept(","):
                raise self._unreadable()
            found.append(self.value())
        return found

    def alias(self) -> str | None:
        """The name of a column, if one is given."""
        match = re.compile(r'\s*as\s+("?)(\w+)\1', re.I).match(self.text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return match[2] if match[1] else match[2].upper()

    def accept(self, mark: str) -> bool:
        """Whether the next thing is this mark, which is then read."""
        self._skip()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def end(self) -> None:
        """Make sure that nothing is left."""
        self._skip()
        if self.at < len(self.text):
            raise self._unreadable()

    def _bare(self) -> Json:
        self._skip()
        if match := self._match(_STRING):
            return unquote(match[1])
        if match := self._match(_DOLLARS):
            return match[1]
        if match := self._match(_NUMBER):
            return float(match[0]) if match[1] else int(match[0])
        if match := self._match(_BINDING):
            return self._binding(match[1])
        if match := self._match(_NAME):
            return self._named(match[0].strip('"').lower())
        raise self._unreadable()

    def _named(self, name: str) -> Json:
        if name in {"null", "true", "false"}:
            return {"null": None, "true": True, "false": False}[name]
        if not self.accept("("):
            raise StatementError(f"invalid identifier {name.upper()!r}", 904)
        arguments = self.arguments()
        if name in self.facts and not arguments:
            return self.facts[name]
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](arguments)
        raise StatementError(f"Unknown function {name.upper()}", 2141, "42601")

    def _binding(self, number: str | None) -> Json:
        self.bound += number is None
        bound = doc(self.bindings.get(number or str(self.bound)))
        if "value" not in bound:
            raise StatementError(
                f"Bind variable {number or '?'} not set", 2049, "42601"
            )
        value = bound["value"]
        if bound.get("type") == "FIXED" and isinstance(value, str):
            return int(value)
        return value

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def _skip(self) -> None:
        if match := _SPACE.match(self.text, self.at):
            self.at = match.end()

    def _unreadable(self) -> StatementError:
        rest = self.text[self.at : self.at + 40]
        return StatementError(f"syntax error at position {self.at} unexpected {rest!r}")


def _parse_json(arguments: list[Json]) -> Json:
    match arguments:
        case [str(text)]:
            try:
                value = loads(text)
            except ValueError as error:
                raise StatementError(
                    f"Error parsing JSON: {error}", 100069, "22P02"
                ) from None
            return value
        case [None]:
            return None
        case _:
            raise StatementError(f"PARSE_JSON takes one text, not {arguments!r}", 938)


def _object(arguments: list[Json]) -> Json:
    names, values = arguments[::2], arguments[1::2]
    if len(names) != len(values) or not all(isinstance(n, str) for n in names):
        found = [kind(a) for a in arguments]
        raise StatementError(
            f"OBJECT_CONSTRUCT takes names and values, not {found}", 938
        )
    return {str(n): v for n, v in zip(names, values, strict=True) if v is not None}


_FUNCTIONS: Final[Mapping[str, Callable[[list[Json]], Json]]] = {
    "parse_json": _parse_json,
    "to_variant": lambda arguments: arguments[0],
    "to_array": lambda arguments: arguments[0],
    "to_object": lambda arguments: arguments[0],
    "array_construct": list,
    "object_construct": _object,
    "sys_context": lambda _: "TRUE",  # the role may do what it is asked about
}
