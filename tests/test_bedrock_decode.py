"""What Bedrock's replies mean: blocks, stop reasons, usage, streams, garbage."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentloop.backends.bedrock.codec import (
    Conversation,
    Reply,
    decode,
    reply_text,
    usage_of,
)
from agentloop.backends.bedrock.stream import CutOffError, assemble
from agentloop.core.catalog import Failure
from agentloop.core.content import (
    Block,
    Image,
    Opaque,
    Reasoning,
    Text,
    ToolUse,
    tool_uses,
)
from agentloop.core.run import Usage
from tests import strategies as some
from tests.bedrock_cases import (
    PNG,
    body_of,
    infer,
    model,
    result,
    results,
    said,
    setup,
    use,
    user,
)

USAGE = {"inputTokens": 10, "outputTokens": 2, "totalTokens": 12}


def reply(*blocks: Any, stop: Any = "end_turn", **more: Any) -> dict[str, Any]:
    """A parsed Converse reply."""
    message = {"role": "assistant", "content": list(blocks)}
    return {
        "output": {"message": message},
        "stopReason": stop,
        "usage": USAGE,
        "metrics": {"latencyMs": 1},
        **more,
    }


def meaning(document: Any) -> Reply:
    """What a reply means, when it means anything."""
    found = decode(document, str)
    assert isinstance(found, Reply)
    return found


def call(arguments: Any, name: str = "a", id_: str = "t1") -> dict[str, Any]:
    """A tool use block."""
    return {"toolUse": {"toolUseId": id_, "name": name, "input": arguments}}


# ---------------------------------------------------------------- blocks

REASONED = {"reasoningContent": {"reasoningText": {"text": " hm\n", "signature": "s="}}}
SIGNED = {"reasoningContent": {"reasoningText": {"text": "", "signature": "s="}}}
CITED = {
    "citationsContent": {
        "content": [{"text": "so "}, {"text": "it says"}],
        "citations": [{"title": "t"}],
    }
}
SERVER_USE = {
    "toolUse": {
        "toolUseId": "s1",
        "name": "nova_grounding",
        "input": {},
        "type": "server_tool_use",
    }
}
BLOCKS: dict[str, tuple[Any, Block]] = {
    "text": ({"text": "é"}, Text("é")),
    "blank text, which the machine drops": ({"text": " "}, Text(" ")),
    "damaged text": ({"text": "a\ud800\x00"}, Text("a\ufffd\ufffd")),
    "call": (call({"x": [1, None]}), ToolUse("t1", "a", {"x": [1, None]})),
    "call without arguments": (call({}), ToolUse("t1", "a", {})),
    "call with null": (call(None), ToolUse("t1", "a", {})),
    "call with an object in a text": (call('{"x": 1}'), ToolUse("t1", "a", {"x": 1})),
    "call with a blank text": (call(" "), ToolUse("t1", "a", {})),
    "call with an illegal name": (
        call({}, "functions.a b"),
        ToolUse("t1", "functions.a b", {}),
    ),
    "reasoning": (REASONED, Reasoning(" hm\n", "s=")),
    "a signature alone": (SIGNED, Reasoning("", "s=")),
    "reasoning without a signature": (
        {"reasoningContent": {"reasoningText": {"text": "hm"}}},
        Reasoning("hm"),
    ),
    "damaged reasoning, whose signature is worth nothing": (
        {"reasoningContent": {"reasoningText": {"text": "h\x00", "signature": "s"}}},
        Reasoning("h\ufffd"),
    ),
    "redacted reasoning": (
        {"reasoningContent": {"redactedContent": b"secret"}},
        Reasoning(redacted="c2VjcmV0"),
    ),
    "reasoning of another form": (
        {"reasoningContent": {"SDK_UNKNOWN_MEMBER": {"name": "x"}}},
        Opaque("bedrock", {"reasoningContent": {"SDK_UNKNOWN_MEMBER": {"name": "x"}}}),
    ),
    "image": (
        {"image": {"format": "png", "source": {"bytes": b"\x89PNG\r\n\x1a\n"}}},
        Image("png", PNG),
    ),
    "cited text": (CITED, Text("so it says")),
    "server tool": (SERVER_USE, Opaque("bedrock", SERVER_USE)),
    "video": (
        {"video": {"format": "mp4", "source": {"bytes": b"\x00"}}},
        Opaque("bedrock", {"video": {"format": "mp4", "source": {"bytes": "AA=="}}}),
    ),
    "unknown": (
        {"SDK_UNKNOWN_MEMBER": {"name": "audio2"}},
        Opaque("bedrock", {"SDK_UNKNOWN_MEMBER": {"name": "audio2"}}),
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block(name: str) -> None:
    """Each kind of block has its neutral form."""
    raw, expected = BLOCKS[name]
    assert meaning(reply(raw)).message.content == (expected,)


GOES_BACK = [
    {"text": "é"},
    call({"x": {"y": [1.5, "é"]}}),
    REASONED,
    SIGNED,
    {"reasoningContent": {"redactedContent": "c2VjcmV0"}},
    {"citationsContent": {"content": [], "citations": []}},
]


@pytest.mark.parametrize("raw", GOES_BACK, ids=repr)
def test_round_trip(raw: dict[str, Any]) -> None:
    """What a model said goes back exactly as it came."""
    message = meaning(reply(raw, {"text": "and"})).message
    answers = [result(one.tool_use_id) for one in tool_uses(message)]
    body, _ = body_of(user("a"), message, results(*answers))
    assert body["messages"][1]["content"][0] == raw


@settings(max_examples=100)
@given(
    texts=st.lists(some.said(), min_size=1, max_size=3),
    arguments=some.json_objects(),
    signature=some.texts(1),
)
def test_stable(texts: list[str], arguments: dict[str, Any], signature: str) -> None:
    """Decoding what was encoded gives the same message, however often."""
    message = said(
        Reasoning(texts[0], signature), *texts, use("t1"), ToolUse("t2", "b", arguments)
    )
    log = [user("a"), message, results(result("t1"), result("t2"))]
    body, _ = body_of(*log)
    again = meaning(reply(*body["messages"][1]["content"])).message
    assert again == message


def test_illegal_names_come_back() -> None:
    """A model that repeats a mapped name means the one it stands for."""
    conversation = Conversation(setup(), model())
    log = [user("a"), said(use("t1", "a.b")), results(result("t1"))]
    body = json.loads(conversation.body(infer(*log), "j"))
    wire = body["messages"][1]["content"][0]["toolUse"]["name"]
    found = decode(reply(call({}, wire)), conversation.tool_name)
    assert isinstance(found, Reply)
    assert found.message.content == (ToolUse("t1", "a.b", {}),)


# ---------------------------------------------------------------- calls cut in half


@pytest.mark.parametrize("stop", ["tool_use", "max_tokens", "end_turn"])
def test_cut_call(stop: str) -> None:
    """A call whose arguments break off is dropped from the turn and told."""
    document = reply(
        {"text": "so"}, call({"x": 1}), call('{"x": [1, "b', "b"), stop=stop
    )
    found = meaning(document)
    assert found.message.content == (Text("so"), ToolUse("t1", "a", {"x": 1}))
    assert any("cut off" in note for note in found.notes)
    assert '[1, \\"b' in reply_text(document)


def test_unfinished_call() -> None:
    """At max_tokens a call without arguments is one that never got any."""
    assert meaning(reply(call({}), stop="max_tokens")).message.content == ()


@pytest.mark.parametrize("raw", [[1], 3, True, "[1]", '"{}"', {"x": float("nan")}])
def test_arguments_that_are_no_object(raw: Any) -> None:
    """Arguments that are whole and no JSON object make the reply malformed."""
    found = decode(reply(call(raw)), str)
    assert isinstance(found, Failure)
    assert found.kind == "malformed_output"


# ---------------------------------------------------------------- garbage


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"ResponseMetadata": {}},
        {"output": {}},
        {"output": {"message": None}},
        {"output": None},
        {"output": {"message": {"content": "text"}}, "stopReason": "end_turn"},
        reply("text"),
        reply({}),
        reply(None),
        reply({"text": "a", "image": {}}),
        reply({"text": 1}),
        reply({"toolUse": {"name": "a"}}),
        reply({"toolUse": {"name": 1, "toolUseId": "t1"}}),
        reply({"toolUse": "a"}),
        reply({"reasoningContent": {"reasoningText": {"text": 1}}}),
        reply({"text": "a"}, stop=None),
        None,
        [],
    ],
    ids=repr,
)
def test_garbage(document: Any) -> None:
    """A reply that is none is a failure of its own kind and never an exception."""
    found = decode(document, str)
    assert isinstance(found, Failure)
    assert found.kind == "malformed_output"
    assert not found.retried


@settings(max_examples=200)
@given(
    content=st.lists(some.json_values(), max_size=2) | some.json_values(),
    stop=some.json_values(),
)
def test_any_garbage(content: Any, stop: Any) -> None:
    """Whatever JSON comes in the place of a reply, the answer is a value."""
    document = {"output": {"message": {"content": content}}, "stopReason": stop}
    assert isinstance(decode(document, str), Reply | Failure)


# ---------------------------------------------------------------- stop, usage

STOPS = {
    "end_turn": "end_turn",
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "stop_sequence": "stop_sequence",
    "guardrail_intervened": "content_blocked",
    "content_filtered": "content_blocked",
    "refusal": "content_blocked",
    "malformed_model_output": "malformed",
    "malformed_tool_use": "malformed",
    "model_context_window_exceeded": "context_window",
    "pause_turn": "pause",
    "something_new": "unknown",
}


@pytest.mark.parametrize(("vendor", "stop"), STOPS.items())
def test_stop(vendor: str, stop: str) -> None:
    """Each stop reason of Bedrock has its neutral word, new ones are unknown."""
    assert meaning(reply({"text": "a"}, stop=vendor)).stop == stop


CACHED = {"cacheReadInputTokens": 100, "cacheWriteInputTokens": 30}
USAGES = {
    "plain": (USAGE, Usage(prompt_tokens=10, completion_tokens=2)),
    "cached": (
        {**USAGE, **CACHED, "cacheDetails": [{"ttl": "5m", "inputTokens": 30}]},
        Usage(
            prompt_tokens=140,
            completion_tokens=2,
            cache_read_tokens=100,
            cache_write_tokens=30,
        ),
    ),
    "nulls": (
        {**USAGE, "cacheReadInputTokens": None},
        Usage(prompt_tokens=10, completion_tokens=2),
    ),
    "unknown": (None, None),
    "half known": ({"inputTokens": 3}, None),
    "no numbers": ({"inputTokens": "3", "outputTokens": "4"}, None),
    "below zero": ({"inputTokens": 3, "outputTokens": -1}, None),
    "a cache below zero": ({**USAGE, "cacheReadInputTokens": -100}, None),
    "a cache without number": ({**USAGE, "cacheWriteInputTokens": "30"}, None),
}


@pytest.mark.parametrize("name", USAGES)
def test_usage(name: str) -> None:
    """Prompt tokens count what was cached too, and unknown stays unknown."""
    raw, expected = USAGES[name]
    assert usage_of({"usage": raw}) == expected


def test_reply_text() -> None:
    """The stored response is JSON with blobs as base64 and no transport headers."""
    secret = {"HTTPHeaders": {"set-cookie": "secret"}}
    document = reply({"reasoningContent": {"redactedContent": b"x"}})
    text = reply_text({**document, "ResponseMetadata": secret})
    assert json.loads(text) == reply({"reasoningContent": {"redactedContent": "eA=="}})


@pytest.mark.parametrize(("blob", "told"), [("x", '"x"'), (b"x", '"eA=="')])
def test_reply_text_is_written_one_way(blob: Any, told: str) -> None:
    """Whether a response holds a blob changes nothing about how the rest is written."""
    text = reply_text({"a": ["é", 1.5, None], "b": blob})
    assert text == '{"a":["\\u00e9",1.5,null],"b":' + told + "}"


# ---------------------------------------------------------------- streams


def events(*deltas: tuple[int, dict[str, Any]], start: Any = None) -> list[Any]:
    """A stream of deltas by block index, whole."""
    begun = [] if start is None else [{"contentBlockStart": start}]
    middle = [
        {"contentBlockDelta": {"contentBlockIndex": i, "delta": d}} for i, d in deltas
    ]
    return [
        {"messageStart": {"role": "assistant"}},
        *begun,
        *middle,
        {"contentBlockStop": {"contentBlockIndex": 0}},
        {"messageStop": {"stopReason": "end_turn"}},
        {"metadata": {"usage": USAGE, "metrics": {"latencyMs": 1}}},
    ]


def whole(found: list[Any], heard: list[str] | None = None) -> dict[str, Any]:
    """The reply a stream adds up to."""
    listener = [] if heard is None else heard
    return assemble(found, listener.append, lambda: None)


def reasoning(**piece: Any) -> dict[str, Any]:
    """A delta of reasoning."""
    return {"reasoningContent": piece}


STREAMS = {
    "text": (
        events((0, {"text": "a"}), (1, {"text": "c"}), (0, {"text": "b"})),
        [{"text": "ab"}, {"text": "c"}],
    ),
    "blocks out of order": (
        events((1, {"text": "b"}), (0, {"text": "a"}))[:3] + events()[1:],
        [{"text": "a"}, {"text": "b"}],
    ),
    "nothing in a block": (events(), [{"text": ""}]),
    "reasoning": (
        events(
            (0, reasoning(text="h")),
            (0, reasoning(text="m")),
            (0, reasoning(signature="s")),
            (0, reasoning(signature="=")),
        ),
        [{"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s="}}}],
    ),
    "a signature alone": (
        events((0, reasoning(signature="s"))),
        [{"reasoningContent": {"reasoningText": {"text": "", "signature": "s"}}}],
    ),
    "redacted": (
        events(
            (0, reasoning(redactedContent=b"ab")), (0, reasoning(redactedContent=b"c"))
        ),
        [{"reasoningContent": {"redactedContent": b"abc"}}],
    ),
    "reasoning of another form": (
        events((0, reasoning(SDK_UNKNOWN_MEMBER={"name": "x"}))),
        [{"reasoningContent": {"SDK_UNKNOWN_MEMBER": {"name": "x"}}}],
    ),
    "citations": (
        events(
            (0, {"text": "a"}), (0, {"citation": {"title": "t"}}), (0, {"text": "b"})
        ),
        [
            {
                "citationsContent": {
                    "content": [{"text": "ab"}],
                    "citations": [{"title": "t"}],
                }
            }
        ],
    ),
    "image": (
        events(
            (0, {"image": {"source": {"bytes": b"x"}}}),
            start={"contentBlockIndex": 0, "start": {"image": {"format": "png"}}},
        ),
        [{"image": {"format": "png", "source": {"bytes": b"x"}}}],
    ),
    "server tool result": (
        events(
            (0, {"toolResult": [{"text": "a"}]}),
            (0, {"toolResult": [{"json": {}}]}),
            start={
                "contentBlockIndex": 0,
                "start": {"toolResult": {"toolUseId": "s1", "type": "x"}},
            },
        ),
        [
            {
                "toolResult": {
                    "toolUseId": "s1",
                    "type": "x",
                    "content": [{"text": "a"}, {"json": {}}],
                }
            }
        ],
    ),
    "unknown delta": (
        events((0, {"SDK_UNKNOWN_MEMBER": {"name": "x"}})),
        [{"SDK_UNKNOWN_MEMBER": {"name": "x"}}],
    ),
    "unknown event": (
        [{"SDK_UNKNOWN_MEMBER": {"name": "x"}}, *events((0, {"text": "a"}))],
        [{"text": "a"}],
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_stream(name: str) -> None:
    """A stream adds up to the very document Converse would have sent."""
    found, expected = STREAMS[name]
    assert whole(found)["output"]["message"]["content"] == expected


INPUTS = {
    '{"x": "é"}': {"x": "é"},
    "": {},
    '{"x": [1, 2': '{"x": [1, 2',
    '"{}"': "{}",
}


@pytest.mark.parametrize("text", INPUTS)
@pytest.mark.parametrize("piece", [1, 2, 100])
def test_streamed_arguments(text: str, piece: int) -> None:
    """Arguments may be cut anywhere between two pieces."""
    pieces = [text[i : i + piece] for i in range(0, len(text), piece)]
    deltas = [(0, {"toolUse": {"input": part}}) for part in pieces]
    start = {
        "contentBlockIndex": 0,
        "start": {"toolUse": {"toolUseId": "t", "name": "a"}},
    }
    [block] = whole(events(*deltas, start=start))["output"]["message"]["content"]
    assert block == call(INPUTS[text], id_="t")


def test_listener_hears_text_only() -> None:
    """Text goes out piece by piece; arguments and reasoning do not."""
    heard: list[str] = []
    deltas = [{"text": "a"}, reasoning(text="hm"), {"text": ""}, {"text": "b"}]
    whole(events(*enumerate(deltas)), heard)
    assert heard == ["a", "b"]


@pytest.mark.parametrize("length", range(5))
def test_cut_stream(length: int) -> None:
    """A stream that ends before its last event is no reply, wherever it ends."""
    with pytest.raises(CutOffError, match="metadata"):
        whole(events((0, {"text": "a"}))[:length])


def test_stream_without_a_stop() -> None:
    """A stream that counts tokens and never said why it stopped is no reply."""
    found = [
        event for event in events((0, {"text": "a"})) if "messageStop" not in event
    ]
    with pytest.raises(CutOffError, match="without messageStop"):
        whole(found)
