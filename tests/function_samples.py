"""Classes and helpers for the tests of function tools."""

import dataclasses
import datetime
import enum
from collections.abc import Callable
from typing import Any, NamedTuple, NotRequired, TypedDict

import attrs
import pydantic

from agentloop.core.catalog import Failure
from agentloop.core.content import Text
from agentloop.ports import ToolAnswer, ToolCall, effect_key
from agentloop.tools.functions import FunctionTools
from tests.faces import SCOPE


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Room:
    name: str
    seats: int = 4


@attrs.frozen
class Slot:
    day: datetime.date
    tags: list[str] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        if self.day.year < 2000:
            raise LookupError("long ago")


class Guest(TypedDict):
    name: str
    age: NotRequired[int]


class Pair(NamedTuple):
    left: int
    right: str = "x"


class Model(pydantic.BaseModel):
    size: int
    when: datetime.date


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "a lie"


class Seats(int):
    pass


class Share(float):
    pass


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@dataclasses.dataclass
class Tree:
    kids: "list[Tree]"


KEY = effect_key("run-1", "1.0")


def call_of(name: str, timeout: float | None = None, **arguments: object) -> ToolCall:
    """A call as the loop makes it."""
    return ToolCall(
        run_id="run-1",
        scope=SCOPE,
        key="1.0",
        tool_use_id="use-1",
        name=name,
        arguments=arguments,
        timeout=timeout,
    )


def ask(function: Callable[..., object], **arguments: object) -> ToolAnswer | Failure:
    """The answer of one call to a server of one tool."""
    tools = FunctionTools([function])
    (offer,) = tools.declared()
    try:
        return tools.call(call_of(offer.spec.name, **arguments))
    finally:
        tools.close()


def schema_of(function: Callable[..., object]) -> dict[str, Any]:
    """The schema that a function's tool declares."""
    (offer,) = FunctionTools([function]).declared()
    return dict(offer.spec.input_schema)


def only_text(answer: ToolAnswer | Failure) -> str:
    """The one text of an answer."""
    assert isinstance(answer, ToolAnswer)
    (block,) = answer.content
    assert isinstance(block, Text)
    return block.text


def taking(hint: object, *default: object) -> Callable[..., object]:
    """A function with one parameter `x` of this hint that returns its value."""

    def echo(x):
        return seen.append(x) or repr(x)

    seen: list[object] = []
    echo.__annotations__ = {"x": hint}
    echo.__defaults__ = default or None
    echo.seen = seen  # type: ignore[attr-defined] # read by the tests
    return echo
