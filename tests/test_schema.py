"""JSON Schema: what compiles, what fits, and how a final answer is read."""

import json
import re
import socket
import subprocess
import sys
import threading
from types import MappingProxyType

import pytest

from agentloop.core.catalog import Failure
from agentloop.core.content import Image, Message, Reasoning, Text
from agentloop.core.phases import Answer
from agentloop.schema import compile_schema, decode_answer
from agentloop.wire import WireError

BOOKING = {
    "type": "object",
    "properties": {
        "room": {"type": "string"},
        "slots": {"type": "array", "items": {"type": "integer"}},
        "text": {"type": ["string", "integer"]},
        "odd key.": {"type": "boolean"},
    },
    "required": ["room"],
    "additionalProperties": False,
}


def said(*texts: str) -> Message:
    """An assistant's message with these text blocks."""
    return Message("assistant", tuple(Text(text) for text in texts))


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"room": 1}, "$.room"),
        ({"room": "a", "slots": [1, "x"]}, "$.slots[1]"),
        ({"room": "a", "odd key.": 1}, "$['odd key.']"),
        ({}, "$"),
        ({"room": "a", "more": 1}, "$"),
        ([], "$"),
        (None, "$"),
    ],
)
def test_a_misfit_is_refused_with_its_path(value: object, path: str) -> None:
    """The JSON path of the first misfit is told."""
    with pytest.raises(WireError) as caught:
        compile_schema(BOOKING).check(value)
    assert caught.value.path == path
    assert caught.value.problem


def test_a_missing_and_a_strange_key_are_named() -> None:
    """The path of an object's own misfit is the object, so the message names it."""
    check = compile_schema(BOOKING).check
    with pytest.raises(WireError, match="room"):
        check({})
    with pytest.raises(WireError, match="more"):
        check({"room": "a", "more": 1})


def test_a_huge_misfit_makes_a_short_message() -> None:
    """The library quotes the value whole, we do not."""
    with pytest.raises(WireError) as caught:
        compile_schema(BOOKING).check({"room": ["x" * 1_000_000]})
    assert len(str(caught.value)) < 400
    assert "string" in caught.value.problem


def test_what_is_no_json_value_is_refused_clearly() -> None:
    """Values outside of JSON are errors of the same kind, not of the library."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, object(), "\ud800"):
        with pytest.raises(WireError):
            compile_schema({"enum": [[1]]}).check(value)


@pytest.mark.parametrize(
    ("schema", "path", "problem"),
    [
        ({"type": "strin"}, "$.type", "strin"),
        ({"properties": {"a": {"type": 7}}}, "$.properties.a.type", "7"),
        ({"properties": []}, "$.properties", "object"),
        ({"pattern": "("}, "$.pattern", "regex"),
        ({"$ref": "#/nowhere"}, "$", "nowhere"),
        ({"$schema": "http://127.0.0.1:1/own"}, "$", "127.0.0.1"),
        ({"minimum": float("nan")}, "$.minimum", "nan"),
        ({"default": b"x"}, "$.default", "bytes"),
    ],
)
def test_a_broken_schema_is_refused_with_its_path(
    schema: dict[str, object], path: str, problem: str
) -> None:
    """What is no JSON Schema does not compile, and the path leads to the place."""
    with pytest.raises(WireError) as caught:
        compile_schema(schema)
    assert caught.value.path == path
    assert problem in caught.value.problem


def test_a_schema_nested_without_end_is_refused() -> None:
    """Depth is bounded before anything walks the schema."""
    schema: dict[str, object] = {}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(WireError, match="nested"):
        compile_schema(schema)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"$ref": "file:///etc/passwd"}, "$.$ref"),
        ({"$ref": "other.json"}, "$.$ref"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "$.$ref"),
        ({"$dynamicRef": "http://127.0.0.1:1/x"}, "$.$dynamicRef"),
        ({"items": {"$ref": "http://127.0.0.1:1/"}}, "$.items.$ref"),
        ({"allOf": [{}, {"$ref": "//h/x"}]}, "$.allOf[1].$ref"),
        ({"properties": {"a b": {"$ref": "x"}}}, "$.properties['a b'].$ref"),
    ],
)
def test_a_reference_to_elsewhere_is_refused(
    schema: dict[str, object], path: str
) -> None:
    """A schema refers to itself or to nothing."""
    with pytest.raises(WireError, match="must stay inside") as caught:
        compile_schema(schema)
    assert caught.value.path == path


def test_nothing_is_fetched() -> None:
    """A reference hidden where our walk does not look meets a refusing retriever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        hidden = {"properties": {"default": {"$ref": url}}}
        with pytest.raises(WireError, match="not fetched"):
            compile_schema(hidden)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}, {}, []),
        ({"properties": {"kids": {"$ref": "#"}}, "type": "object"}, {}, {"kids": 1}),
        ({"allOf": [{"$ref": "#"}], "type": "object"}, {}, 1),
        ({"properties": {"$ref": {"type": "string"}}}, {"$ref": "x"}, {"$ref": 1}),
        ({"const": {"$ref": "http://h/x"}}, {"$ref": "http://h/x"}, {}),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "type": "null"},
            None,
            1,
        ),
        (MappingProxyType({"type": "object"}), {}, 1),
    ],
)
def test_what_stays_inside_compiles(
    schema: dict[str, object], good: object, bad: object
) -> None:
    """Local references, data that looks like one, and older drafts are fine."""
    validator = compile_schema(schema)
    validator.check(good)
    with pytest.raises(WireError):
        validator.check(bad)


def test_one_validator_serves_many_threads() -> None:
    """16 threads share a validator and each gets its own verdicts."""
    validator = compile_schema(BOOKING)
    wrong: list[object] = []

    def work(number: int) -> None:
        for i in range(300):
            validator.check({"room": str(number), "slots": [i]})
            try:
                validator.check({"room": "a", "slots": [0] * number + ["x"]})
            except WireError as error:
                if error.path != f"$.slots[{number}]":
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---------------------------------------------------------------- text answers


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        (["Room 7 is free."], "Room 7 is free."),
        (["first", "second"], "first"),
        (["  \n", "second"], "second"),
        (['{"text": "inner"}'], "inner"),
        ([' \n{"text": "inner", "more": 1} '], "inner"),
        (['{"text": ""}'], ""),
        (['{"text": 7}'], '{"text": 7}'),
        (['{"text": null}'], '{"text": null}'),
        (['{"answer": "x"}'], '{"answer": "x"}'),
        (['{"a": {"text": "deep"}}'], '{"a": {"text": "deep"}}'),
        (['[{"text": "x"}]'], '[{"text": "x"}]'),
        (['"text"'], '"text"'),
        (['{"text": "cut'], '{"text": "cut'),
        (['{"text": "a"} and more'], '{"text": "a"} and more'),
        (['{"text": "a", "text": "b"}'], '{"text": "a", "text": "b"}'),
        (['{"text": "a", "n": NaN}'], '{"text": "a", "n": NaN}'),
        (['```json\n{"text": "a"}\n```'], '```json\n{"text": "a"}\n```'),
        ([" spaces stay "], " spaces stay "),
    ],
)
def test_text_mode_gives_the_text(texts: list[str], answer: str) -> None:
    """Without a schema the first text block counts, or its top-level text."""
    assert decode_answer(said(*texts), None) == Answer(text=answer)


def test_text_mode_keeps_what_nests_too_deep() -> None:
    """What looks like an object and cannot be parsed is the text itself."""
    text = '{"a":' * 100_000
    assert decode_answer(said(text), None) == Answer(text=text)


def test_only_text_blocks_count() -> None:
    """Reasoning and media are not the answer."""
    blocks = (Reasoning(text="hm"), Image("png", "aGk="), Text("yes"))
    assert decode_answer(Message("assistant", blocks), None) == Answer(text="yes")


@pytest.mark.parametrize("blocks", [(), (Reasoning(text="hm"),), (Text(" \n"),)])
@pytest.mark.parametrize("schema", [None, BOOKING])
def test_an_answer_without_text_does_not_decode(
    blocks: tuple[Text, ...], schema: dict[str, object] | None
) -> None:
    """No text is no answer, in both modes."""
    validator = compile_schema(schema) if schema else None
    found = decode_answer(Message("assistant", blocks), validator)
    assert isinstance(found, Failure)
    assert found.kind == "schema_decode"


# ---------------------------------------------------------------- structured answers

GOOD = {"room": "a"}


@pytest.mark.parametrize(
    ("texts", "structured", "text"),
    [
        (['{"room": "a"}'], GOOD, None),
        (['\n  {"room":"a"}\n'], GOOD, None),
        (['{"room": "a", "text": "hello"}'], {**GOOD, "text": "hello"}, "hello"),
        (['{"room": "a", "text": 7}'], {**GOOD, "text": 7}, None),
        (['{"room": "a"}', "not looked at"], GOOD, None),
        ([" ", '{"room": "a"}'], GOOD, None),
        (['```json\n{"room": "a"}\n```'], GOOD, None),
        (['```\n{"room": "a"}\n```'], GOOD, None),
        (['  ```JSON \r\n{"room": "a"}\r\n``` \n'], GOOD, None),
        (['```json\n{\n "room": "a```b"\n}\n```'], {"room": "a```b"}, None),
        (['{"room": "a", "slots": [1, 2.0]}'], {**GOOD, "slots": [1, 2]}, None),
        (['{"room": "\\ud83d\\ude00 é"}'], {"room": "😀 é"}, None),
        (['{"room": "\\ud800"}'], {"room": "\ufffd"}, None),
        (['{"room": "a\\u0000"}'], {"room": "a\ufffd"}, None),
    ],
)
def test_structured_mode_gives_the_object(
    texts: list[str], structured: dict[str, object], text: str | None
) -> None:
    """The first text block, parsed and checked, is the structured output."""
    found = decode_answer(said(*texts), compile_schema(BOOKING))
    assert found == Answer(text=text, structured=structured)


@pytest.mark.parametrize(
    ("first", "path"),
    [
        # not JSON, or not JSON alone
        ("Room a is free.", "$"),
        ('Here it is: {"room": "a"}', "$"),
        ('{"room": "a"} I hope this helps!', "$"),
        ('{"room": "a"}{"room": "b"}', "$"),
        ('{"room": "a"}\n{"room": "b"}', "$"),
        ("{'room': 'a'}", "$"),
        ('{room: "a"}', "$"),
        ('{"room": "a",}', "$"),
        ('{"room": "a" "text": "b"}', "$"),
        ('{"room": a}', "$"),
        ('{"room": "a"} // done', "$"),
        ('/* room */ {"room": "a"}', "$"),
        ('\ufeff{"room": "a"}', "$"),
        ('{"room": "line\nbreak"}', "$"),
        ('{"room": "bad \\x escape"}', "$"),
        ('{"room": True}', "$"),
        ('{"room": undefined}', "$"),
        ("<json>{}</json>", "$"),
        ("room: a", "$"),
        ('"{\\"room\\": \\"a\\"}"', "$"),
        # cut off
        ("{", "$"),
        ('{"room', "$"),
        ('{"room":', "$"),
        ('{"room": "a', "$"),
        ('{"room": "a"', "$"),
        ('{"room": "a", "slots": [1, 2', "$"),
        ('{"room": "a", "slots": [1, 2]', "$"),
        # fences that do not enclose one JSON text
        ('```json\n{"room": "a"}', "$"),
        ('{"room": "a"}\n```', "$"),
        ('```json\n{"room": "a"}```', "$"),
        ('```json {"room": "a"} ```', "$"),
        ('```python\n{"room": "a"}\n```', "$"),
        ('Sure:\n```json\n{"room": "a"}\n```', "$"),
        ('```json\n{"room": "a"}\n```\nDone.', "$"),
        ('```json\n{"room": "a"}\n```\n```json\n{"room": "b"}\n```', "$"),
        ('```\n```json\n{"room": "a"}\n```\n```', "$"),
        ('~~~\n{"room": "a"}\n~~~', "$"),
        ("```json\n\n```", "$"),
        # numbers, keys, depth
        ('{"room": "a", "slots": [NaN]}', "$"),
        ('{"room": "a", "slots": [Infinity]}', "$"),
        ('{"room": "a", "slots": [-Infinity]}', "$"),
        ('{"room": "a", "slots": [1e999]}', "$"),
        ('{"room": "a", "slots": [01]}', "$"),
        ('{"room": "a", "slots": [+1]}', "$"),
        ('{"room": "a", "slots": [' + "9" * 5000 + "]}", "$"),
        ('{"room": "a", "room": "b"}', "$"),
        ('{"room": ' + "[" * 101 + "]" * 101 + "}", "$"),
        ('{"room": ' + "[" * 100_000, "$"),
        ("[" * 100_000 + "]" * 100_000, "$"),
        # JSON that the schema refuses
        ("null", "$"),
        ("[]", "$"),
        ('[{"room": "a"}]', "$"),
        ('"a"', "$"),
        ("7", "$"),
        ("{}", "$"),
        ('{"text": "no room"}', "$"),
        ('{"room": null}', "$.room"),
        ('{"room": 7}', "$.room"),
        ('{"Room": "a"}', "$"),
        ('{"room": "a", "slots": "1"}', "$.slots"),
        ('{"room": "a", "slots": [1, "2"]}', "$.slots[1]"),
        ('{"room": "a", "slots": [1.5]}', "$.slots[0]"),
        ('{"room": "a", "slots": [true]}', "$.slots[0]"),
        ('{"room": "a", "odd key.": 1}', "$['odd key.']"),
        ('{"room": "a", "text": []}', "$.text"),
        ('{"room": "a", "extra": 1}', "$"),
        ('{"answer": {"room": "a"}}', "$"),
    ],
)
def test_a_malformed_answer_is_refused_with_its_path(first: str, path: str) -> None:
    """Each malformed answer is a failed decode, even if a later block is good."""
    found = decode_answer(said(first, '{"room": "a"}'), compile_schema(BOOKING))
    assert isinstance(found, Failure)
    assert found.kind == "schema_decode"
    assert found.type == "AgentLoopSchemaDecodeFailed"
    assert re.search(rf"does not decode: {re.escape(path)}: \S", found.message)
    assert len(found.message) < 500


def test_any_top_level_value_may_be_asked_for() -> None:
    """A schema need not ask for an object, and then the answer has no text."""
    validator = compile_schema({"type": "array", "items": {"type": "integer"}})
    assert decode_answer(said("[1, 2]"), validator) == Answer(structured=[1, 2])


def test_formats_are_annotations() -> None:
    """A format describes a string and refuses none, as 2020-12 has it."""
    schema = {"properties": {"day": {"type": "string", "format": "date"}}}
    found = decode_answer(said('{"day": "soon"}'), compile_schema(schema))
    assert found == Answer(structured={"day": "soon"})


def test_a_large_answer_keeps_its_bytes() -> None:
    """A long text in a structured answer comes through unchanged."""
    body = {"room": "é" * 500_000}
    found = decode_answer(said(json.dumps(body)), compile_schema(BOOKING))
    assert found == Answer(structured=body)


def test_text_mode_needs_no_validator_library() -> None:
    """Importing the module and decoding text load no schema library."""
    code = """
import sys
sys.modules["jsonschema_rs"] = None  # as if it were not installed
from agentloop.core.content import Message, Text
from agentloop.schema import compile_schema, decode_answer
print(decode_answer(Message("assistant", (Text("hello"),)), None).text)
try:
    compile_schema({})
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "hello",
        "jsonschema_rs is not installed; run: pip install 'agentloop[tools]'",
    ]
