"""JSON text from outside: caps before parsing, and values nobody else takes."""

import json
import math
import pickle
from enum import IntEnum, StrEnum
from types import MappingProxyType

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from agentloop.wire import (
    Limits,
    TooLargeError,
    WireError,
    clean,
    clean_text,
    dump,
    encoder,
    parse,
    text,
    undump,
)
from tests import strategies as some

MARK = "\ufffd"
MARKS = text._MARKS


def refusal(data: bytes | str, **limits: int) -> WireError:
    """The error with which some JSON is refused."""
    with pytest.raises(WireError) as caught:
        parse(data, Limits(**limits))
    return caught.value


# ---------------------------------------------------------------- round trips


@given(some.json_values())
def test_what_is_dumped_is_read_back(value):
    """Any JSON value survives, in ASCII, from text and from bytes."""
    text = dump(value)
    assert text.isascii()
    assert undump(text) == value
    assert parse(text) == (value, 0)
    assert parse(text.encode()) == (value, 0)
    assert dump(undump(text)) == text


@given(some.json_values())
def test_what_is_dumped_is_the_standard_encoders_text(value):
    """The encoder that is made once writes what one made for each text would."""
    assert dump(value) == json.dumps(value, separators=(",", ":"))


def test_without_an_encoder_to_be_made_the_standard_one_serves(monkeypatch):
    """An interpreter without CPython's encoder writes the same text."""
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    assert encoder(",", ":")({"a": [1, None]}) == '{"a":[1,null]}'


@given(some.json_values())
def test_an_encoder_writes_the_separators_it_was_made_with(value):
    """With the standard separators it is the standard text."""
    assert encoder(", ", ": ")(value) == json.dumps(value)


@given(some.json_values())
def test_text_that_others_wrote_is_read_alike(value):
    """Spaces and raw Unicode make no difference."""
    spaced = json.dumps(value, ensure_ascii=False, indent=1)
    assert parse(spaced) == (value, 0)
    assert parse(spaced.encode()) == (value, 0)


# ---------------------------------------------------------------- caps


@pytest.mark.parametrize("size", [0, 1, 7])
def test_bytes_are_counted_before_anything_else(size):
    """One byte more than the cap is too large, whatever it holds."""
    refused = refusal(b"x" * (size + 1), max_bytes=size)
    assert isinstance(refused, TooLargeError)
    assert str(refused) == f"$: {size + 1} bytes exceed the {size}"


def test_a_text_is_measured_in_bytes():
    """Four characters may be eight bytes."""
    assert parse('"éé"', Limits(max_bytes=6)) == ("éé", 0)
    assert isinstance(refusal('"éé"', max_bytes=5), TooLargeError)


def test_fifty_megabytes_are_refused_unparsed():
    """The default cap is 8 MiB, and the body is not even JSON."""
    refused = refusal(b"\x00" * 50_000_000)
    assert isinstance(refused, TooLargeError)
    assert refused.problem == "50000000 bytes exceed the 8388608"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'[{"a":' * 60_000 + b"1" + b"}]" * 60_000,
    ],
    ids=["lists", "objects", "closed lists", "both"],
)
def test_a_hundred_thousand_levels_are_refused_unparsed(data):
    """Depth is found by a scan, so no stack is at risk."""
    refused = refusal(data)
    assert isinstance(refused, TooLargeError)
    assert refused.problem == "nested deeper than 100 levels"


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"a":[', '[{"b":'])
@pytest.mark.parametrize("limit", [1, 2, 10, 100])
def test_depth_is_counted_to_the_level(opening, limit):
    """As many levels as the limit pass, one more does not."""
    closing = {"[": "]", "{": "}"}
    brackets = [mark for mark in opening if mark in closing]

    def nested(levels: int) -> str:
        marks = [brackets[i % len(brackets)] for i in range(levels)]
        parts = ["[" if mark == "[" else '{"a":' for mark in marks]
        return "".join(parts) + "0" + "".join(closing[m] for m in reversed(marks))

    parse(nested(limit), Limits(max_depth=limit))
    assert isinstance(refusal(nested(limit + 1), max_depth=limit), TooLargeError)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(["[" * 500, "{" * 500, '\\"[[[' * 50, "\\" * 9 + "[" * 200]),
        "[" + ",".join(["[]"] * 500) + "]",
        "[" + ",".join(['{"a":[0]}'] * 500) + "]",
    ],
    ids=["strings", "lists", "objects"],
)
def test_brackets_in_strings_and_siblings_are_no_depth(text):
    """Only what is open at one place counts."""
    assert parse(text, Limits(max_depth=3)) == (json.loads(text), 0)


@pytest.mark.parametrize("closed", ["[]", "{}", '{"a":[[]]}', '"[]"'])
def test_what_was_closed_buys_no_depth(closed):
    """Many small values before a deep one do not let it through."""
    before, nested = f"[{closed}," + f"{closed}," * 500, "[" * 4 + "]" * 4
    parse(f"{before}{nested}]", Limits(max_depth=5))
    refused = refusal(f"{before}[{nested}]]", max_depth=5)
    assert isinstance(refused, TooLargeError)


def test_more_levels_than_python_can_parse_are_too_large():
    """A host may lift the cap; what then overflows is still a typed error."""
    refused = refusal(b"[" * 90_000 + b"]" * 90_000, max_depth=100_000)
    assert isinstance(refused, TooLargeError)
    assert refused.problem == "nested too deep to be parsed"


BOMBS = {
    "lists": b"[" + b"[],",
    "objects": b"[" + b"{},",
    "numbers": b"[" + b"1,",
    "strings": b"[" + b'"",',
    "pairs": b"{" + b'"a":1,',
    "spaced": b"[" + b" [ ] , ",
    "lists of lists": b"[" + b"[[[[0]]]],",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_costs_the_same_whatever_its_size(bomb, monkeypatch):
    """A larger one is looked at no longer than to the cap, and never parsed."""
    monkeypatch.setattr(text, "_DECODER", None)
    opening, item = bomb[:1], bomb[1:]

    def steps(size: int) -> int:
        counted = Counting()
        monkeypatch.setattr(text, "_MARKS", counted)
        refused = refusal(opening + item * (size // len(item)))
        assert isinstance(refused, TooLargeError)
        assert refused.problem == "more than 200000 values"
        return counted.steps

    two, three, four = (steps(n * 1024 * 1024 - 100) for n in (2, 3, 4))
    assert two == three == four <= 2 * 200_000


class Counting:
    """The pattern of marks, whose matches are counted."""

    def __init__(self):
        self.steps = 0

    def finditer(self, raw):
        for match in MARKS.finditer(raw):
            self.steps += 1
            yield match


@pytest.mark.parametrize("dull", [b'""', b'"a" ', rb'"\\"', b"1 ", rb'"\"["'])
def test_what_is_no_mark_takes_no_step(dull, monkeypatch):
    """Strings and spaces are skipped within one step, however many there are."""
    counted = Counting()
    monkeypatch.setattr(text, "_MARKS", counted)
    raw = b'["' + b"," * 200_001 + b'"' + dull * 100_000
    assert isinstance(refusal(raw), WireError)
    assert counted.steps <= 3


@pytest.mark.parametrize("limit", [1, 2, 10, 1000])
def test_values_are_counted_to_the_last(limit):
    """As many as the cap pass, one more does not."""
    caps = Limits(max_values=limit)
    assert parse(json.dumps([0] * limit), caps) == ([0] * limit, 0)
    refused = refusal(json.dumps([0] * (limit + 1)), max_values=limit)
    assert isinstance(refused, TooLargeError)
    assert refused.problem == f"more than {limit} values"
    keys = {f"k{n}": n for n in range(limit)}
    assert parse(json.dumps(keys), caps) == (keys, 0)


def test_commas_in_texts_are_no_values():
    """A table with half a million cells may be sent as text, also as many texts."""
    table = "a,b,[c],{d}\n" * 100_000
    assert parse(json.dumps(table)) == (table, 0)
    rows = table.splitlines()
    assert parse(json.dumps(rows)) == (rows, 0)


HUGE = 4_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 101 + b'"' + b'\\"' * HUGE,
        b"[" * 99 + b"[]" * 9 + b'"' + b'\\"' * HUGE + b"\\",
        b"[" * 101 + b'"' * HUGE,
        b'{"a":' * 50 + b'"' + b"a" * HUGE,
    ],
    ids=["quotes", "odd end", "empty strings", "one string"],
)
def test_strings_that_never_end_cost_one_pass(data):
    """A scan that went back for each quote would not end today."""
    with pytest.raises(WireError):
        parse(data)


def test_a_repeated_key_among_many_is_found_in_one_pass():
    """Looking each key up in a list would not end today."""
    many = ",".join(f'"{i}":0' for i in range(199_000))
    assert refusal(f'{{{many},"198999":1}}').problem == (
        "the key '198999' appears twice in one object"
    )


def test_a_long_key_above_many_values_is_not_copied_for_each():
    """Paths are made for errors, not for every value."""
    value = {"k" * 3_000_000 + "\0": [0] * 190_000}
    cleaned, count = parse(dump(value))
    assert (count, len(cleaned.popitem()[1])) == (1, 190_000)


# ---------------------------------------------------------------- no JSON


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no JSON: Expecting value at 0"),
        (b"{", "no JSON: Expecting property name enclosed in double quotes at 1"),
        (b"[1,]", None),
        (b"{'a':1}", None),
        (b"[1] 2", "no JSON: Extra data at 4"),
        (b'"\n"', "no JSON: Invalid control character at at 1"),
        (b"\xef\xbb\xbf{}", None),
        (b"NaN", "NaN is no JSON number"),
        (b"[Infinity]", "Infinity is no JSON number"),
        (b'{"a":-Infinity}', "-Infinity is no JSON number"),
        (b"1e400", "the number 1e400 is too large"),
        (b"[-1e999999]", "the number -1e999999 is too large"),
        (b'{"a":1,"a":2}', "the key 'a' appears twice in one object"),
        (b'[{"b":{"a":1,"c":2,"a":1}}]', "the key 'a' appears twice in one object"),
        (b'{"\\u0061":1,"a":2}', "the key 'a' appears twice in one object"),
        (b'"\xff"', "no UTF-8 at byte 1"),
        (b'"\xed\xa0\x80"', "no UTF-8 at byte 1"),
        (b'"\xc0\x80"', "no UTF-8 at byte 1"),
        (b'"\xf4\x90\x80\x80"', "no UTF-8 at byte 1"),
        ('"é"'.encode("utf-16"), "no UTF-8 at byte 0"),
        (b"9" * 5_000, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_json_is_refused(data, problem):
    """Numbers, keys and bytes that JSON or its readers do not allow."""
    refused = refusal(data)
    assert not isinstance(refused, TooLargeError)
    assert refused.path == "$"
    if problem is not None:
        assert refused.problem == problem
    assert len(str(refused)) < 400


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_a_wire_error(data):
    """No other error comes out, whatever goes in."""
    try:
        value, count = parse(data)
    except WireError:
        return
    assert count >= 0
    dump(value)


@given(st.text(alphabet='[]{}",:\\u0dD8e1-. \n', max_size=40))
def test_any_almost_json_is_a_value_or_a_wire_error(text):
    """Scan and parser never disagree on what is in a string."""
    try:
        value, _ = parse(text, Limits(max_depth=2))
    except WireError:
        return
    assert depth(value) <= 2


def depth(value: object) -> int:
    """How many levels a value nests."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, inner), default=0)


def test_numbers_stay_what_they_are():
    """Integers stay exact and floats stay floats."""
    value = [10**4_000, -0.0, 1e308, 5e-324, 1.0, 1]
    assert repr(parse(dump(value))[0]) == repr(value)


# ---------------------------------------------------------------- what is replaced


@pytest.mark.parametrize(
    ("text", "cleaned", "count"),
    [
        ("plain", "plain", 0),
        ("é😀", "é😀", 0),
        ("a\0b\0", f"a{MARK}b{MARK}", 2),
        ("é\0", f"é{MARK}", 1),
        ("\ud800", MARK, 1),
        ("\udfff\ud83d", MARK * 2, 2),
        ("\u202e\u200b\x01", "\u202e\u200b\x01", 0),
    ],
)
def test_lone_surrogates_and_nul_become_a_mark(text, cleaned, count):
    """They are counted; everything else stays, also right-to-left marks."""
    assert clean_text(text) == (cleaned, count)
    assert clean(text) == (cleaned, count)
    assert parse(json.dumps(text)) == (cleaned, count)
    assert parse(json.dumps([{text + "k": text}])) == (
        [{cleaned + "k": cleaned}],
        2 * count,
    )


def test_a_pair_of_surrogates_is_one_character():
    """Escaped or raw, as JSON writes it."""
    assert parse(rb'"\ud83d\ude00"') == ("😀", 0)
    assert parse(rb'"\\ud800"') == (r"\ud800", 0)


def test_a_python_text_with_raw_surrogates_is_cleaned():
    """Such a text has no bytes of its own, and still no error comes of it."""
    assert parse('"\ud800"') == (MARK, 1)


HOSTILE = st.text(st.characters() | st.sampled_from("\0\ud800\udfff"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | HOSTILE | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(HOSTILE, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_what_was_cleaned_is_json_that_everyone_takes(value):
    """It can be written as strict UTF-8, and cleaning it again changes nothing."""
    try:
        cleaned, count = clean(value)
    except WireError as error:
        reason = error.problem
        event("refused")
        assume(not reason.endswith(("no JSON number", "twice in one object")))
        raise
    raw = json.dumps(cleaned, ensure_ascii=False, allow_nan=False).encode()
    assert b"\0" not in raw
    assert r"\u0000" not in raw.decode() or r"\\u0000" in raw.decode()
    assert clean(cleaned) == (cleaned, 0)
    assert undump(dump(cleaned)) == cleaned
    assert count >= 0


def test_other_mappings_and_sequences_become_plain():
    """Read-only mappings and tuples are JSON as well."""
    value = MappingProxyType({"a": (1, MappingProxyType({"b": ()}))})
    assert clean(value) == ({"a": [1, {"b": []}]}, 0)


def test_enumerations_are_the_values_they_are():
    """A string or an integer by inheritance is one on the wire."""

    class Word(StrEnum):
        A = "a"

    class Number(IntEnum):
        ONE = 1

    assert dump(clean({"w": Word.A, "n": Number.ONE})[0]) == '{"w":"a","n":1}'


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (math.nan, "$: nan is no JSON number"),
        ({"a": [1, math.inf]}, "$.a[1]: inf is no JSON number"),
        ({"a": {"b": (-math.inf,)}}, "$.a.b[0]: -inf is no JSON number"),
        ([b"x"], "$[0]: bytes has no JSON form"),
        ({"a": {1, 2}}, "$.a: set has no JSON form"),
        ({"a": {1: 2}}, "$.a: the key 1 is no string"),
        ({None: 2}, "$: the key None is no string"),
        ({"a\0": 1, "a\ud800": 2}, "$: the key 'a\ufffd' appears twice in one object"),
        ([10**5_000], "$[0]: an integer of 16610 bits is too large"),
        ({"a": -(10**5_000)}, "$.a: an integer of 16610 bits is too large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_json_form_is_refused_by_path(value, told):
    """The path leads to the very value."""
    with pytest.raises(WireError) as caught:
        clean(value)
    assert str(caught.value) == told


def test_a_cycle_is_deeper_than_any_limit():
    """A tool that returns itself gets an error, not a crash."""
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(WireError) as caught:
        clean({"a": loop})
    assert caught.value.problem == "nested deeper than 100 levels"
    assert len(caught.value.path) <= 200


@pytest.mark.parametrize(("levels", "fits"), [(3, True), (4, False)])
def test_cleaning_counts_levels_as_parsing_does(levels, fits):
    """One limit means one thing."""
    value: object = 0
    for _ in range(levels):
        value = [value]
    limits = Limits(max_depth=3)
    if fits:
        assert clean(value, limits) == parse(dump(value), limits)
        return
    for door in (clean, lambda v, lim: parse(dump(v), lim)):
        with pytest.raises(WireError, match="deeper than 3 levels"):
            door(value, limits)


# ---------------------------------------------------------------- our own text


@pytest.mark.parametrize(
    "value",
    [math.nan, {"a": math.inf}, {1, 2}, b"", object(), 10**5_000],
    ids=["nan", "inf", "set", "bytes", "object", "long"],
)
def test_nothing_but_json_is_written(value):
    """What would damage a store is refused before it gets there."""
    with pytest.raises(WireError, match="no JSON value"):
        dump(value)


def test_a_value_too_deep_to_write_is_refused():
    """Recursion ends in a typed error."""
    value: object = 0
    for _ in range(100_000):
        value = [value]
    with pytest.raises(WireError, match="no JSON value"):
        dump(value)
    while isinstance(value, list):  # taken apart here, for deep lists die slowly
        value = value.pop()


@pytest.mark.parametrize(
    "text", ["", "{", "[1", "[" * 100_000], ids=["empty", "cut", "open", "deep"]
)
def test_damaged_text_is_told_as_such(text):
    """What we wrote ourselves and cannot read has been cut or changed."""
    with pytest.raises(WireError, match="damaged"):
        undump(text)


@pytest.mark.parametrize("kind", [WireError, TooLargeError])
def test_errors_survive_another_process(kind):
    """Pickling keeps the class, the path and the problem."""
    again = pickle.loads(pickle.dumps(kind("$.a", "bad")))
    assert (type(again), again.path, again.problem) == (kind, "$.a", "bad")
