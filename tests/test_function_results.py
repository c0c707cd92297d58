"""Results: whatever a function returns or raises, a safe answer comes out."""

import base64
import collections
import datetime
import decimal
import itertools
import threading
import tracemalloc
import types
import uuid
from collections.abc import Callable, Iterator

import pytest

from agentloop.core.content import Document, Image, Json, Opaque, Text, ToolResult
from agentloop.ports import ToolAnswer
from agentloop.tools.functions import FunctionTools, tool
from agentloop.tools.results import NOTHING
from tests.function_samples import (
    Color,
    Model,
    MuteError,
    Pair,
    Room,
    Seats,
    Share,
    Slot,
    Tree,
    Word,
    ask,
    call_of,
    only_text,
)

# ---------------------------------------------------------------- results

PNG = Image("png", base64.b64encode(b"pixels").decode())
NOTE = Text("note")


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", (Text("text"),)),
        ("", (Text(""),)),
        (Word("true"), (Text("true"),)),
        (None, (Text(NOTHING),)),
        (7, (Json(7),)),
        (True, (Json(True),)),
        (0.5, (Json(0.5),)),
        (2**70, (Json(2**70),)),
        ([], (Json([]),)),
        ([1, "a", None], (Json([1, "a", None]),)),
        ((1, 2), (Json([1, 2]),)),
        ({"a": {"b": [1]}}, (Json({"a": {"b": [1]}}),)),
        ({1: "a"}, (Json({"1": "a"}),)),
        ({7}, (Json([7]),)),
        (collections.Counter("aab"), (Json({"a": 2, "b": 1}),)),
        (collections.deque([1]), (Json([1]),)),
        (types.MappingProxyType({"a": 1}), (Json({"a": 1}),)),
        ({"a": 1}.keys(), (Json(["a"]),)),
        ([Word("x")], (Json(["x"]),)),
        ([Seats(3), Share(0.5)], (Json([3, 0.5]),)),
        (Color.RED, (Json("red"),)),
        (Room("a"), (Json({"name": "a", "seats": 4}),)),
        (
            Slot(datetime.date(2024, 1, 2)),
            (Json({"day": "2024-01-02", "tags": []}),),
        ),
        (Pair(1), (Json([1, "x"]),)),
        (Model(size=1, when="2024-01-02"), (Json({"size": 1, "when": "2024-01-02"}),)),
        (decimal.Decimal("1.50"), (Json("1.50"),)),
        (uuid.UUID(int=7), (Json("00000000-0000-0000-0000-000000000007"),)),
        (datetime.timedelta(days=1), (Json("P1D"),)),
        (NOTE, (NOTE,)),
        (PNG, (PNG,)),
        (Json({"a": Room("b")}), (Json({"a": {"name": "b", "seats": 4}}),)),
        (Opaque("bedrock", {"a": 1}), (Opaque("bedrock", {"a": 1}),)),
        ([NOTE, PNG], (NOTE, PNG)),
        (
            ("caption", PNG, {"a": 1}, None),
            (Text("caption"), PNG, Json({"a": 1}), Text(NOTHING)),
        ),
        ([Document("txt", "notes", "aGk=")], (Document("txt", "notes", "aGk="),)),
    ],
    ids=repr,
)
def test_a_return_value_becomes_content(
    value: object, content: tuple[object, ...]
) -> None:
    """Text is text, blocks pass through, and everything else is JSON."""

    def give() -> object:
        return value

    assert ask(give) == ToolAnswer(content)


@pytest.mark.parametrize("is_error", [False, True])
@pytest.mark.parametrize(
    ("inside", "content"),
    [
        ((NOTE, PNG), (NOTE, PNG)),
        ([NOTE], (NOTE,)),
        ("text", (Text("text"),)),
        ({"a": 1}, (Json({"a": 1}),)),
        ((7, "x"), (Json(7), Text("x"))),
        ((), (Text(NOTHING),)),
        (None, (Text(NOTHING),)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("made", ["answer", "result"])
def test_a_whole_result_is_taken_for_what_it_is(
    made: str, inside: object, content: tuple[object, ...], is_error: bool
) -> None:
    """A `ToolResult` is unwrapped: its content is the content, its error an error."""

    def give() -> object:
        """The id of its own is nobody's: an answer belongs to its call."""
        if made == "answer":
            return ToolAnswer(inside, is_error=is_error)  # type: ignore[arg-type] # careless host
        return ToolResult("another", inside, is_error=is_error)  # type: ignore[arg-type] # careless host

    assert ask(give) == ToolAnswer(content, is_error=is_error)


def test_a_whole_result_is_within_the_cap() -> None:
    """Wrapping a value does not make room for it."""

    def give() -> object:
        return ToolResult("t1", (Text("x" * 2_000_000),))

    answer = ask(give)
    assert isinstance(answer, ToolAnswer)
    assert answer.is_error
    assert "exceeds the cap" in only_text(answer)


def _cycle() -> object:
    knot: list[object] = []
    knot.append({"again": knot})
    return knot


def _knot() -> object:
    knot = Tree([])
    knot.kids.append(knot)
    return knot


def _deep() -> object:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _laughs() -> object:
    value: object = "ha"
    for _ in range(40):
        value = [value] * 10
    return value


class _Hostile:
    @property
    def model_dump(self) -> object:
        raise RuntimeError("hands off")


class _Sneaky(collections.abc.Mapping):  # type: ignore[type-arg] # hostile on purpose
    def __getitem__(self, key: str) -> object:
        raise ZeroDivisionError("gone")

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


def _endless() -> Iterator[int]:
    while True:
        threading.Event().wait()
        yield 1


async def _coroutine() -> None: ...


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: float("nan"), "nan is no JSON number"),
        (lambda: {"a": [1, float("-inf")]}, "$.a[1]: -inf is no JSON number"),
        (lambda: b"raw", "bytes has no JSON form"),
        (lambda: {"a": bytearray(b"raw")}, "$.a: bytearray has no JSON form"),
        (lambda: 10**5000, "bits is too large"),
        (lambda: {"a": [10**4300]}, "$.a[0]: an integer of"),
        (_cycle, "nested deeper than 100 levels, or holding itself"),
        (_knot, "nested deeper than 100 levels, or holding itself"),
        (_deep, "nested deeper than 100 levels, or holding itself"),
        (_laughs, "exceeds the cap of 1048576"),
        (lambda: range(3), "range has no JSON form"),
        (object, "object has no JSON form"),
        (lambda: Room, "type has no JSON form"),
        (lambda: ValueError("x"), "ValueError has no JSON form"),
        (lambda: {(1, 2): 3}, "keys"),
        (lambda: {"a": 1, 1: 2, "1": 3}, "two of its keys have the same text"),
        (lambda: [{uuid.UUID(int=1): 1, str(uuid.UUID(int=1)): 2}], "same text"),
        (_Hostile, "RuntimeError: hands off"),
        (_Sneaky, "ZeroDivisionError: gone"),
        (_endless, "generator has no JSON form"),
        (_coroutine, "gave a coroutine; declare it with async def"),
        (lambda: Image("png", "no base64!"), "$.data: must be base64"),
        (lambda: Image("svg", "aGk="), "$.format: must be one of"),
        (lambda: [NOTE, Image("png", "")], "$.data"),
        (lambda: Json(float("nan")), "nan is no JSON number"),
        (lambda: Opaque("p", {"a": b""}), "bytes has no JSON form"),
        (lambda: Opaque("p", [1]), "an opaque block holds an object"),
    ],
    ids=map(str, itertools.count()),
)
def test_a_hostile_return_value_is_an_error_result(
    make: Callable[[], object], says: str
) -> None:
    """What has no JSON form is told to the model, without a trace of our insides."""

    def give() -> object:
        return make()

    answer = ask(give)
    assert isinstance(answer, ToolAnswer)
    assert answer.is_error
    text = only_text(answer)
    assert any(part in text for part in says.split("|")), text
    assert "give" in text
    assert "Traceback" not in text
    assert "File" not in text


@pytest.mark.parametrize(
    ("value", "block", "count"),
    [
        ("a\ud800b\x00", Text("a\ufffdb\ufffd"), "2 characters"),
        (["x\x00"], Json(["x\ufffd"]), "1 character "),
        ({"k\udfff": "é"}, Json({"k\ufffd": "é"}), "1 character "),
    ],
)
def test_what_no_store_takes_is_replaced_and_said(
    value: object, block: object, count: str
) -> None:
    """Lone surrogates and NUL become U+FFFD, and the result counts them."""

    def give() -> object:
        return value

    answer = ask(give)
    assert isinstance(answer, ToolAnswer)
    assert not answer.is_error
    first, note = answer.content
    assert first == block
    assert isinstance(note, Text)
    assert count in note.text


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("x" * 100, 102),
        ("é" * 10, 62),
        ("😀" * 10, 122),
        ('"' * 10, 22),
        ([0] * 50, 101),
        ({"k": "v"}, 9),
        ([Text("ab"), Text("cd")], 8),
        ([Text("")] * 10, 20),
        (Image("png", "aGk="), 6),
    ],
)
def test_the_cap_is_on_json_text(value: object, size: int) -> None:
    """A result of exactly the cap passes, one byte more does not."""

    def give() -> object:
        return value

    fits = FunctionTools([give], max_bytes=size)
    assert not fits.call(call_of("give")).is_error  # type: ignore[union-attr]
    over = FunctionTools([tool(max_bytes=size - 1)(give)], max_bytes=10**6)
    text = only_text(over.call(call_of("give")))
    assert "exceeds the cap of" in text
    assert str(size - 1) in text


def _huge_text() -> object:
    return "x" * 50_000_000


def _huge_list() -> object:
    return [1] * 10_000_000


def _huge_inside() -> object:
    return Room("x" * 50_000_000)


@pytest.mark.parametrize(
    ("give", "size"),
    [(_huge_text, "50000000"), (_huge_list, "20000001"), (_huge_inside, "500000")],
)
def test_a_huge_result_is_refused_without_copies(
    give: Callable[[], object], size: str
) -> None:
    """Fifty megabytes are refused by size and cap, and nothing is copied."""
    value = give()

    def huge() -> object:
        return value

    tools = FunctionTools([huge])
    tools.call(call_of("huge"))  # compiles before the memory is watched
    tracemalloc.start()
    try:
        text = only_text(tools.call(call_of("huge")))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "exceeds the cap of 1048576" in text
    assert f"JSON text of {size}" in text
    assert peak < 2_000_000


# ---------------------------------------------------------------- exceptions


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such room"), "ValueError: no such room"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (MuteError(), "MuteError: (its message cannot be read)"),
        (RuntimeError("a\ud800"), "RuntimeError: a\ufffd"),
        (RuntimeError("x" * 10**6), "RuntimeError: " + "x" * 2000),
        (TimeoutError("its own"), "TimeoutError: its own"),
        (StopIteration(3), None),
        (
            ExceptionGroup("both", [ValueError()]),
            "ExceptionGroup: both (1 sub-exception)",
        ),
        (RecursionError("deep"), "RecursionError: deep"),
        (MemoryError(), "MemoryError"),
    ],
    ids=map(str, itertools.count()),
)
@pytest.mark.parametrize("timeout", [None, 30.0])
def test_an_exception_is_an_error_result(
    error: Exception, text: str | None, timeout: float | None
) -> None:
    """Type and message reach the model, sync or async, here or on the pool."""

    def fail() -> None:
        raise error

    async def afail() -> None:
        raise error

    tools = FunctionTools([fail, afail])
    try:
        for name in ("fail", "afail"):
            answer = tools.call(call_of(name, timeout))
            assert isinstance(answer, ToolAnswer)
            assert answer.is_error
            expected = text or only_text(answer)
            assert only_text(answer) == expected
            assert "Traceback" not in expected
    finally:
        tools.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_process_passes_on_the_main_thread(
    error: type[BaseException],
) -> None:
    """An interrupt or an exit on the main thread is not the tool's to report."""

    def leave() -> None:
        raise error

    with pytest.raises(error):
        ask(leave)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["leave", "aleave"])
def test_an_exit_elsewhere_is_the_functions_own_failure(
    error: type[BaseException], name: str
) -> None:
    """On a pool or loop thread nobody else can have raised it, and both live on."""

    def leave() -> None:
        raise error("bye")

    async def aleave() -> None:
        raise error("bye")

    tools = FunctionTools([leave, aleave], threads=1)
    try:
        for _ in range(3):
            text = only_text(tools.call(call_of(name, 30.0)))
            assert text == f"{error.__name__}: bye"
    finally:
        tools.close()


@pytest.mark.parametrize("name", ["stop", "astop"])
def test_other_base_exceptions_cross_threads(name: str) -> None:
    """What we do not understand is not swallowed, wherever it was raised."""

    class StopTheWorldError(BaseException):
        pass

    def stop() -> None:
        raise StopTheWorldError

    async def astop() -> None:
        raise StopTheWorldError

    tools = FunctionTools([stop, astop])
    try:
        with pytest.raises(StopTheWorldError):
            tools.call(call_of(name, 30.0))
    finally:
        tools.close()
