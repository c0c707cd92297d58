"""JSON Schema: compiled validation, and the decoding of a final answer.

Schemas are compiled once by whoever keeps them, with `compile_schema`; nothing is
ever fetched for one. Where schemas come from (a config, a function's signature) is
not this room's business, and what a failed check leads to is not either.

How a final answer is read (contract section 11, "Final answer"):

- Only the first text block that is not blank counts; later ones are ignored.
- Without a schema the answer is that text. If it is, as a whole, a JSON object with
  a top-level string `text`, it is that string. Nothing is refused, a fence is text.
- With a schema the block must be one JSON text and nothing else: prose around it, a
  second value, truncation, NaN, numbers too large, repeated keys and nesting beyond
  100 levels are refused. One Markdown fence (three backticks, with or without
  `json`) around the whole text is taken off first, since models add it unasked.
- Formats such as `date` are annotations, as JSON Schema 2020-12 has it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NoReturn, Protocol

from attrs import frozen

from agentloop.core.catalog import Failure, describe
from agentloop.core.content import JsonObject, Message, texts
from agentloop.core.phases import Answer
from agentloop.ports import require
from agentloop.wire import WireError, clean, parse

_SHOWN: Final = 300
"""How much of a validator's message is passed on: it quotes the value whole."""

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]{0,79}")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_LITERALS: Final = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are data: a `$ref` inside of them refers to nothing."""


class _Compiled(Protocol):
    def validate(self, instance: object) -> None: ...


@frozen(eq=False)
class Validator:
    """A compiled schema, shared by all threads."""

    _compiled: _Compiled

    def check(self, value: object) -> None:
        """Check a JSON value made of plain dicts and lists, as `wire` gives them.

        Raises:
            WireError: with the JSON path of the first thing that does not fit.
        """
        try:
            self._compiled.validate(value)
        except ValueError as error:
            raise _explained(error) from None


def compile_schema(schema: JsonObject) -> Validator:
    """The validator of a schema; slow (some 50 us), so keep it.

    Raises:
        MissingExtraError: the extra `tools` is not installed.
        WireError: it is no JSON Schema, or refers to something outside of itself;
            the path leads into the schema.
    """
    library = require("jsonschema_rs", "tools")
    plain, _ = clean(schema)
    for path, target in _references(plain, "$"):
        if not target.startswith("#"):
            problem = f"must stay inside the schema, not '{target[:_SHOWN]}'"
            raise WireError(path, problem)
    try:
        return Validator(library.validator_for(plain, retriever=_refuse_to_fetch))
    except ValueError as error:
        raise _explained(error) from None


def _refuse_to_fetch(uri: str) -> NoReturn:
    """The validator's way to documents elsewhere: there is none."""
    raise ValueError(f"'{uri[:_SHOWN]}' is outside the schema and is not fetched")


def _references(node: object, path: str) -> Iterator[tuple[str, str]]:
    """Every reference in a schema with its path; `clean` has bounded the depth."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            yield from _references(item, f"{path}[{i}]")
    elif isinstance(node, dict):
        for key, item in node.items():
            if key in _REFERENCES and isinstance(item, str):
                yield f"{path}.{key}", item
            elif key not in _LITERALS:
                yield from _references(item, path + _step(key))


def _explained(error: ValueError) -> WireError:
    """The library's error in our words: a path, and a message of bounded length."""
    steps: Sequence[str | int] = getattr(error, "instance_path", ())
    problem = str(getattr(error, "message", error))
    if len(problem) > _SHOWN:
        problem = f"{problem[: _SHOWN // 2]} ... {problem[-_SHOWN // 2 :]}"
    return WireError("$" + "".join(_step(step) for step in steps), problem)


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _PLAIN_NAME.fullmatch(step) else f"[{step[:80]!r}]"


# ---------------------------------------------------------------- final answers


def decode_answer(message: Message, validator: Validator | None) -> Answer | Failure:
    """The final answer that a message holds.

    Args:
        message: the model's last message, without calls.
        validator: of the schema that the answer must follow; None for text.

    Returns:
        The answer, or a `schema_decode` failure that names the JSON path.
    """
    text = next((text for text in texts(message) if text.strip()), None)
    if text is None:
        return _undecoded(WireError("$", "the answer holds no text"))
    if validator is None:
        return Answer(text=_inner_text(text))
    try:
        value, _ = parse(_unfenced(text))
        validator.check(value)
    except WireError as error:
        return _undecoded(error)
    return Answer(text=_text_of(value), structured=value)


def _inner_text(text: str) -> str:
    """The `text` of an answer in the platform's default shape, else the text."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        value, _ = parse(text)
    except WireError:
        return text
    inner = _text_of(value)
    return text if inner is None else inner


def _text_of(value: object) -> str | None:
    inner = value.get("text") if isinstance(value, Mapping) else None
    return inner if isinstance(inner, str) else None


def _unfenced(text: str) -> str:
    """The text without the one fence that may enclose all of it."""
    bare = text.strip()
    opening, _, rest = bare.partition("\n")
    fenced = opening.rstrip().lower() in {"```", "```json"} and rest.endswith("\n```")
    return rest.removesuffix("\n```") if fenced else text


def _undecoded(error: WireError) -> Failure:
    message = describe("AgentLoopSchemaDecodeFailed", problem=str(error))
    return Failure(kind="schema_decode", message=message)
