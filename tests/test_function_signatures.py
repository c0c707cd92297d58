"""Signatures: schemas from hints, what is refused, and checked arguments."""

import asyncio
import dataclasses
import datetime
import decimal
import functools
import subprocess
import sys
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Optional

import pydantic
import pytest
from msgspec import Meta

from agentloop.core.catalog import Failure
from agentloop.ports import ToolAnswer
from agentloop.tools.functions import FunctionTools, Tool, ToolContext, tool
from tests.faces import SCOPE
from tests.function_samples import (
    KEY,
    Color,
    Guest,
    Model,
    Pair,
    Room,
    Slot,
    Tree,
    ask,
    call_of,
    only_text,
    schema_of,
    taking,
)

# ---------------------------------------------------------------- schemas

TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
ROOM = {
    "title": "Room",
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "seats": {"type": "integer", "default": 4},
    },
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, TEXT),
        (int, WHOLE),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Any, {}),
        (list, {"type": "array"}),
        (dict, {"type": "object"}),
        (int | None, {"anyOf": [WHOLE, {"type": "null"}]}),
        (Optional[str], {"anyOf": [TEXT, {"type": "null"}]}),  # noqa: UP045 # old form
        (int | str, {"anyOf": [WHOLE, TEXT]}),
        (Literal["a", "b"], {"enum": ["a", "b"]}),
        (
            list[list[int]],
            {"type": "array", "items": {"type": "array", "items": WHOLE}},
        ),
        (dict[str, int], {"type": "object", "additionalProperties": WHOLE}),
        (tuple[int, ...], {"type": "array", "items": WHOLE}),
        (set[str], {"type": "array", "items": TEXT, "uniqueItems": True}),
        (datetime.datetime, {**TEXT, "format": "date-time"}),
        (datetime.date, {**TEXT, "format": "date"}),
        (datetime.timedelta, {**TEXT, "format": "duration"}),
        (uuid.UUID, {**TEXT, "format": "uuid"}),
        (decimal.Decimal, {**TEXT, "format": "decimal"}),
        (bytes, {**TEXT, "contentEncoding": "base64"}),
        (Annotated[int, "how many"], {**WHOLE, "description": "how many"}),
        (Annotated[int, Meta(ge=1, le=9)], {**WHOLE, "minimum": 1, "maximum": 9}),
        (Annotated[str, Meta(pattern="^a")], {**TEXT, "pattern": "^a"}),
        (Annotated[str, Meta(description="d")], {**TEXT, "description": "d"}),
        (
            list[Annotated[str, Meta(max_length=3)]],
            {"type": "array", "items": {**TEXT, "maxLength": 3}},
        ),
    ],
    ids=str,
)
def test_a_hint_becomes_a_schema(hint: object, schema: dict[str, object]) -> None:
    """Each hint has the JSON Schema that a model is shown."""
    assert schema_of(taking(hint)) == {
        "type": "object",
        "properties": {"x": schema},
        "required": ["x"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("hint", "name", "shared"),
    [
        (Color, "Color", {"title": "Color", "enum": ["blue", "red"]}),
        (Room, "Room", ROOM),
        (
            Guest,
            "Guest",
            {
                "title": "Guest",
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                "required": ["name"],
            },
        ),
        (
            Pair,
            "Pair",
            {
                "title": "Pair",
                "type": "array",
                "prefixItems": [
                    {"type": "integer"},
                    {"type": "string", "default": "x"},
                ],
                "minItems": 1,
                "maxItems": 2,
            },
        ),
    ],
)
def test_a_class_becomes_a_shared_definition(
    hint: object, name: str, shared: dict[str, object]
) -> None:
    """Classes are described once, under `$defs`."""
    schema = schema_of(taking(hint))
    assert schema["properties"] == {"x": {"$ref": f"#/$defs/{name}"}}
    assert schema["$defs"] == {name: shared}


@pytest.mark.parametrize(
    "hint",
    [
        datetime.datetime | None,
        Optional[datetime.datetime],  # noqa: UP045 # what is tested
        list[datetime.datetime],
        dict[str, datetime.datetime],
        tuple[datetime.datetime, ...],
        Annotated[datetime.datetime, Meta(tz=True)],
        list[Annotated[datetime.datetime | None, "when"]],
    ],
    ids=str,
)
def test_a_datetime_has_its_format_wherever_it_stands(hint: object) -> None:
    """The model is told that a text is a date and time, also inside of other hints."""
    assert "'format': 'date-time'" in str(schema_of(taking(hint)))


@pytest.mark.parametrize("hint", [str, list[int], Annotated[str, "a name"], Room])
def test_a_default_of_none_lets_none_in(hint: object) -> None:
    """`x: str = None` says that None will do; the model may send it, or nothing."""
    for arguments in ({}, {"x": None}):
        function = taking(hint, None)
        assert only_text(ask(function, **arguments)) == "None"


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        (3, {"default": 3}),
        (Color.RED, {"default": "red"}),
        ([1], {"default": [1]}),
        (None, {}),
        (float("nan"), {}),
        (object(), {}),
        (b"x", {"default": "eA=="}),
    ],
)
def test_a_default_makes_a_parameter_optional(
    default: object, shown: dict[str, object]
) -> None:
    """A default is shown where it has a JSON form, and the parameter may be absent."""
    schema = schema_of(taking(Any, default))
    assert schema["required"] == []
    assert schema["properties"]["x"] == shown


def test_the_docstring_describes_tool_and_parameters() -> None:
    """The text before the first section is the description, `Args` the parameters."""

    def book(room: str, day: Annotated[str, "an ISO day"], seats: int = 2) -> str:
        """Book a room.

        The booking is final: there is
        no way back.

        Args:
            room (str): which one,
                by its name: "blue" say
            day: not shown, the hint says it
            seats: how many
            ghost: not a parameter

        Returns:
            day: not a parameter either
        """
        return room + day + str(seats)

    (offer,) = FunctionTools([book]).declared()
    described = "Book a room.\n\nThe booking is final: there is\nno way back."
    assert offer.spec.description == described
    properties = offer.spec.input_schema["properties"]
    assert {name: p.get("description") for name, p in properties.items()} == {
        "room": 'which one, by its name: "blue" say',
        "day": "an ISO day",
        "seats": "how many",
    }


@pytest.mark.parametrize(
    ("doc", "description"),
    [
        (None, None),
        ("", None),
        ("One line.", "One line."),
        ("\n    One line.\n    ", "One line."),
        ("Args:\n    x: only this", None),
        ("Text.\n\nNote: this colon is text", "Text.\n\nNote: this colon is text"),
        ("Text.\n\nExamples:\n    f(1)", "Text."),
    ],
)
def test_odd_docstrings_are_read(doc: str | None, description: str | None) -> None:
    """A docstring of any shape gives a description or none."""
    function = taking(int)
    function.__doc__ = doc
    (offer,) = FunctionTools([function]).declared()
    assert offer.spec.description == description


def test_options_override_what_the_function_says() -> None:
    """Name, description and policy of `@tool` reach the offer."""

    @tool(name="book-now", description="Books.", repeatable=True)
    def book() -> None:
        """Not shown."""

    @tool(in_doubt="fail")
    def pay() -> None: ...

    offers = FunctionTools([book, pay]).declared()
    found = [(o.spec.name, o.spec.description, o.in_doubt) for o in offers]
    assert found == [("book-now", "Books.", "repeat"), ("pay", None, "fail")]


def test_string_annotations_are_resolved() -> None:
    """Hints written as strings, as under postponed evaluation, work the same."""
    assert schema_of(taking("Room"))["$defs"] == {"Room": ROOM}


def test_a_recursive_class_has_a_schema() -> None:
    """A class that holds itself is described and checked."""
    function = taking(Tree)
    answer = ask(function, x={"kids": [{"kids": []}]})
    assert not answer.is_error  # type: ignore[union-attr] # a failure would fail too
    refused = ask(function, x={"kids": [{"kids": 1}]})
    assert isinstance(refused, Failure)
    assert "$.x.kids[0].kids" in refused.message


# ---------------------------------------------------------------- refusals


def _generator(x: int) -> Iterator[int]:
    yield x


def _variadic(*values: int) -> None: ...


def _keywords(**values: int) -> None: ...


def _positional(x: int, /) -> None: ...


def _unhinted(x) -> None: ...


def _method(self, x: int) -> None: ...


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (_generator, "yields; a tool returns, so return a list"),
        (_variadic, "'values' takes any number of values; declare one list"),
        (_keywords, "'values' takes any keyword; declare one dict"),
        (_positional, "'x' is positional-only; arguments have names, so drop the '/'"),
        (_unhinted, "'x' has no type hint; add one"),
        (_method, "'self' is not bound; register the bound method"),
        (functools.partial(_positional, 1), "is no function; wrap it in a def"),
        ("name", "is no function"),
        (max, "has no signature; wrap it in a def"),
        (dict.fromkeys, "wrap it in a def|positional-only"),
    ],
)
def test_an_unsupported_signature_is_refused_when_decorated(
    given: Callable[..., object], says: str
) -> None:
    """Decoration itself names the parameter and the way out."""
    with pytest.raises(TypeError, match=says):
        tool(given)


@pytest.mark.parametrize(
    ("hint", "says"),
    [
        (object, "'x' has a hint without JSON Schema .*object.*; use str"),
        (complex, "complex"),
        (Callable[[], int], "Callable"),
        (Room | dict[str, int], "more than one dict-like"),
        (str | datetime.date, "more than one str-like"),
        (Model, "Model"),
        ("Nowhere", "cannot be resolved .*Nowhere"),
        (Annotated[int, pydantic.Field(ge=1)], "'x' is constrained by .*msgspec.Meta"),
        (list[Annotated[int, pydantic.Field(ge=1)]], "write it as msgspec.Meta"),
    ],
)
def test_an_unsupported_hint_is_refused_when_registered(
    hint: object, says: str
) -> None:
    """A server refuses a hint without schema, with parameter and way out."""
    with pytest.raises(TypeError, match=says):
        FunctionTools([taking(hint)])


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 56, "ends-", "<lambda>"])
def test_a_name_that_providers_refuse_is_refused(name: str) -> None:
    """The name under an alias must fit the 64 characters of every provider."""
    function = taking(int)
    function.__name__ = name
    with pytest.raises(ValueError, match="give another with @tool"):
        FunctionTools([function])


def test_two_tools_cannot_share_a_name() -> None:
    """A duplicate is refused by name, decorated or plain."""
    with pytest.raises(ValueError, match="two tools are named 'echo'"):
        FunctionTools([taking(int), tool(taking(str))])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"timeout": 0}, ValueError, "timeout must be above 0, not 0"),
        ({"timeout": -1.0}, ValueError, "timeout must be above 0, not -1.0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be above 0, not nan"),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds, not '5'"),
        ({"timeout": True}, TypeError, "timeout must be a number of seconds, not True"),
        ({"max_bytes": 0}, ValueError, "max_bytes must be above 0, not 0"),
        ({"max_bytes": 0.5}, TypeError, "max_bytes must be a whole number, not 0.5"),
        (
            {"in_doubt": "maybe"},
            ValueError,
            "in_doubt must be one of tell, repeat, fail, not 'maybe'$",
        ),
        ({"in_doubt": ["tell"]}, TypeError, "in_doubt must be a word, not "),
        ({"inline": True, "timeout": 1.0}, ValueError, "exclude each other"),
        ({"repeatable": True, "in_doubt": "tell"}, ValueError, "means in_doubt="),
        ({"repeatable": "no"}, TypeError, "repeatable must be True or False, not 'no'"),
        ({"name": 5}, TypeError, "name must be a text, not 5"),
        ({"colour": "red"}, TypeError, "no option named 'colour'; it has name, "),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Wrong options are refused where they are written, and the way out is told."""
    with pytest.raises(error, match=words):
        tool(**options)


def test_an_async_tool_cannot_be_inline() -> None:
    """A coroutine needs a loop to run on."""

    async def wait() -> None: ...

    with pytest.raises(TypeError, match="drop inline"):
        tool(inline=True)(wait)


# ---------------------------------------------------------------- decoration


def test_a_decorated_function_is_still_the_function() -> None:
    """Calling the decorated object calls the plain function, unchecked."""

    @tool
    def double(x: int) -> int:
        """Twice as much."""
        return x * 2

    @tool(timeout=1.0)
    async def later(x: int) -> int:
        return x + 1

    assert double(4) == 8
    assert double("ab") == "abab"
    assert asyncio.run(later(1)) == 2
    assert isinstance(double, Tool)
    assert (double.__name__, double.__doc__) == ("double", "Twice as much.")
    assert repr(double) == "Tool(double)"


def test_bound_methods_and_one_function_twice_are_tools() -> None:
    """Options belong to the tool and not to the function."""

    class Desk:
        def book(self, day: str) -> str:
            return f"desk {day}"

    one, two = tool(name="one")(Desk().book), tool(name="two")(Desk().book)
    tools = FunctionTools([one, two])
    assert [o.spec.name for o in tools.declared()] == ["one", "two"]
    assert only_text(tools.call(call_of("two", day="x"))) == "desk x"


def test_decorating_loads_no_schema_library() -> None:
    """`@tool` works without msgspec, and registering says what is missing."""
    code = """
import sys
sys.modules["msgspec"] = None  # as if it were not installed
from agentloop.tools.functions import FunctionTools, tool
@tool
def hello(name: str) -> str:
    return "hello " + name
print(hello("you"))
print(sorted({"asyncio", "jsonschema_rs"} & set(sys.modules)))
try:
    FunctionTools([hello])
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "hello you",
        "[]",
        "msgspec is not installed; run: pip install 'agentloop[tools]'",
    ]


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("hint", "given", "taken"),
    [
        (str, "a", "a"),
        (int, 5, 5),
        (int, 5.0, 5),
        (list[int], [1, 2.0], [1, 2]),
        (int, 2**70, 2**70),
        (float, 5, 5.0),
        (bool, True, True),
        (Any, {"a": [1.0]}, {"a": [1.0]}),
        (int | None, None, None),
        (Color, "red", Color.RED),
        (Room, {"name": "a"}, Room("a", 4)),
        (Room, {"name": "a", "seats": 2.0}, Room("a", 2)),
        (Slot, {"day": "2024-02-29"}, Slot(datetime.date(2024, 2, 29))),
        (Guest, {"name": "a"}, {"name": "a"}),
        (Pair, [1], Pair(1)),
        (list[Room], [{"name": "a"}], [Room("a")]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 2], {1, 2}),
        (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
        (uuid.UUID, str(uuid.UUID(int=7)), uuid.UUID(int=7)),
        (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
        (bytes, "aGk=", b"hi"),
        (str, "a\x00\ud800", "a\ufffd\ufffd"),
        (dict, types.MappingProxyType({"a": 1}), {"a": 1}),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (dict[datetime.date, int], {"2024-02-29": 1}, {datetime.date(2024, 2, 29): 1}),
        (list[datetime.datetime | None], [None], [None]),
    ],
    ids=str,
)
def test_arguments_arrive_as_the_hinted_types(
    hint: object, given: object, taken: object
) -> None:
    """What the model sent is converted before the function sees it."""
    function = taking(hint)
    answer = ask(function, x=given)
    assert isinstance(answer, ToolAnswer)
    assert not answer.is_error
    (found,) = function.seen  # type: ignore[attr-defined] # see `taking`
    assert found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    ("hint", "given", "path"),
    [
        (str, 5, "$.x"),
        (str, None, "$.x"),
        (int, "5", "$.x"),
        (int, 5.5, "$.x"),
        (int, True, "$.x"),
        (float, float("nan"), "$.x"),
        (float | None, float("inf"), "$.x"),
        (Any, b"bytes", "$.x"),
        (Any, {1: 2}, "$.x"),
        (list[int], [1, "2"], "$.x[1]"),
        (Literal["a"], "b", "$.x"),
        (Color, "green", "$.x"),
        (Room, {"seats": 1}, "$.x"),
        (Room, {"name": "a", "seats": "2"}, "$.x.seats"),
        (Slot, {"day": "soon"}, "$.x.day"),
        (Slot, {"day": "1999-01-01"}, "$"),
        (dict[str, list[int]], {"k": [1, None]}, "$.x.k[1]"),
        (datetime.date, "2023-02-29", "$.x"),
        (uuid.UUID, "7", "$.x"),
        (decimal.Decimal, 1.5, "$.x"),
        (set[int], [1, 1], "$.x"),
        (Annotated[int, Meta(ge=1)], 0, "$.x"),
        (Annotated[str, Meta(pattern="^a$")], "b", "$.x"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(
    hint: object, given: object, path: str
) -> None:
    """The function does not run, and the failure names the JSON path."""
    function = taking(hint)
    refused = ask(function, x=given)
    assert isinstance(refused, Failure)
    assert (refused.kind, refused.type) == ("tool_validation", "ToolValidation")
    assert f"the arguments of 'echo' were refused: {path}: " in refused.message
    assert function.seen == []  # type: ignore[attr-defined] # see `taking`


def test_missing_and_strange_arguments_are_refused_by_name() -> None:
    """A required argument must be there, and an unknown one must not."""
    for arguments, name in (({}, '"x"'), ({"x": 1, "y": 2}, "'y'")):
        refused = ask(taking(int), **arguments)
        assert isinstance(refused, Failure)
        assert name in refused.message


def test_arguments_nested_without_end_are_refused() -> None:
    """Depth is a refusal and not an overflow."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    refused = ask(taking(Any), x=deep)
    assert isinstance(refused, Failure)
    assert refused.kind == "tool_validation"
    assert "nested deeper" in refused.message


def test_odd_parameter_names_work() -> None:
    """Names that Python mangles or that look private are ordinary arguments."""

    def odd(_a: int, __b: int = 2, *, struct: int = 3) -> str:
        return f"{_a} {__b} {struct}"

    assert only_text(ask(odd, _a=1)) == "1 2 3"
    assert only_text(ask(odd, _a=1, __b=5, struct=6)) == "1 5 6"


def test_an_absent_argument_leaves_the_default_to_the_function() -> None:
    """The function's own default is used, not a copy of it."""
    marker = object()
    function = taking(Any, marker)
    ask(function)
    assert function.seen == [marker]  # type: ignore[attr-defined] # see `taking`


def test_a_tool_cannot_change_the_call() -> None:
    """What a function does to its arguments does not reach the transcript."""

    def spoil(x: Any) -> str:
        x["a"].append(2)
        return "done"

    given = {"a": [1]}
    assert only_text(ask(spoil, x=given)) == "done"
    assert given == {"a": [1]}


def test_an_unknown_tool_is_a_failure_that_names_it() -> None:
    """A name nobody registered is `unknown_tool`, shortened when absurd."""
    found = FunctionTools([]).call(call_of("x" * 9000))
    assert isinstance(found, Failure)
    assert found.type == "UnknownTool"
    assert len(found.message) < 300


def test_the_context_is_filled_in_and_not_shown() -> None:
    """A `ToolContext` parameter gets the effect key, and the model never sees it."""

    def pay(amount: int, context: ToolContext) -> str:
        ids = f"{context.effect_key} {context.run_id} {context.tool_use_id}"
        return f"{amount} {ids} {context.scope.user_id}"

    assert list(schema_of(pay)["properties"]) == ["amount"]
    assert only_text(ask(pay, amount=3)) == f"3 {KEY} run-1 use-1 {SCOPE.user_id}"
    forged = ask(pay, amount=3, context={"effect_key": "mine"})
    assert isinstance(forged, Failure)


@pytest.mark.parametrize(
    "hint",
    [
        Optional[ToolContext],  # noqa: UP045 # what is tested
        ToolContext | None,
        Annotated[ToolContext, "ours"],
        Annotated[ToolContext | None, "ours"],
    ],
    ids=str,
)
def test_an_optional_context_is_filled_in_as_well(hint: object) -> None:
    """Whoever also calls the function without a run gives the context a default."""

    def pay(amount, context=None):
        return f"{amount} {context.effect_key}"

    pay.__annotations__ = {"amount": int, "context": hint}
    assert list(schema_of(pay)["properties"]) == ["amount"]
    assert only_text(ask(pay, amount=3)) == f"3 {KEY}"
    forged = {"run_id": "r", "effect_key": "mine", "tool_use_id": "u"}
    assert isinstance(ask(pay, amount=3, context=forged), Failure)


def test_one_context_is_enough() -> None:
    """Two would both be filled in with the same; a mistake is told early."""

    def pay(one: ToolContext, two: ToolContext | None = None) -> None: ...

    with pytest.raises(TypeError, match="'one', 'two' all take the ToolContext"):
        FunctionTools([pay])


@dataclasses.dataclass
class Wrapped:
    """A class that a model fills in, with a context inside."""

    context: ToolContext


@pytest.mark.parametrize(
    "hint", [list[ToolContext], ToolContext | int, Wrapped, dict[str, Wrapped]], ids=str
)
def test_a_context_within_something_else_is_refused(hint: object) -> None:
    """The model would see it, and could make up an effect key."""
    words = "parameter 'x' has a (ToolContext inside|hint without JSON Schema)"
    with pytest.raises(TypeError, match=words):
        FunctionTools([taking(hint)])
