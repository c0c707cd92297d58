"""What replies of Cortex say: documents, rows, streams, and bytes cut anywhere."""

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from agentloop.backends.cortex.codec.decode import (
    CHAT_STOPS,
    MESSAGES_STOPS,
    Asked,
    decode_chat,
    decode_complete,
    decode_messages,
)
from agentloop.backends.cortex.codec.replies import MalformedError, Reply
from agentloop.backends.cortex.codec.sse import Event, EventError, events
from agentloop.backends.cortex.codec.stream import (
    BrokenOffError,
    ChatDraft,
    CutOffError,
    MessagesDraft,
)
from agentloop.core.catalog import Failure
from agentloop.core.content import Opaque, Reasoning, Text, ToolUse
from agentloop.core.run import Usage
from agentloop.testing.fake_snowflake import (
    Answer,
    breaks,
    calls,
    content,
    says,
    split,
    spreads,
    thinks,
    thinks_secretly,
    tokens,
    truncates,
    unterminated,
)
from agentloop.testing.fake_snowflake.replies import Call
from agentloop.testing.fake_snowflake.streams import streamed, whole
from agentloop.testing.fake_snowflake.wire_messages import Stamp
from tests.cortex_cases import CLAUDE, GPT

STAMPS = {
    "messages": Stamp(id="1", model=CLAUDE, usage_asked=True),
    "chat": Stamp(id="1", model=GPT, usage_asked=True),
}
DECODE = {"messages": decode_messages, "chat": decode_chat}
DRAFTS = {"messages": MessagesDraft, "chat": ChatDraft}
DIALECTS = pytest.mark.parametrize("dialect", DECODE)
JOB_ID = "0b8a3c5e-5a39-5d0a-9a60-2f8c0d0f3a11"
ASKED = Asked(
    job_id=JOB_ID, max_tokens=100, structured=False, emulated=False, tool_name=str
)


def understood(found: Reply | Failure) -> Reply:
    """A reply that makes sense."""
    assert isinstance(found, Reply), found
    return found


def refused(found: Reply | Failure) -> str:
    """The message of one that makes none."""
    assert isinstance(found, Failure)
    assert found.kind == "malformed_output"
    return found.message


def document(dialect: Any, answer: Answer) -> Any:
    """The answer as the fake would send it in one piece."""
    return json.loads(whole(dialect, answer, STAMPS[dialect]).parts[0])


def stream(dialect: Any, answer: Answer) -> bytes:
    """The answer as the fake would stream it."""
    return b"".join(streamed(dialect, answer, STAMPS[dialect]).parts)


def named(answer: Answer) -> Answer:
    """The answer with an id for its call, as the server gives one."""
    blocks = [evolve(b, id="t1") if isinstance(b, Call) else b for b in answer.blocks]
    return evolve(answer, blocks=tuple(blocks))


def assembled(dialect: str, pieces: list[bytes]) -> tuple[dict[str, Any], list[str]]:
    """A stream put together, and the pieces of text that were told."""
    told: list[str] = []
    return DRAFTS[dialect](told.append).read(events(pieces)), told


# ---------------------------------------------------------------- documents

ANSWERS: dict[str, tuple[Answer, tuple[Any, ...]]] = {
    "text": (says("hello é"), (Text("hello é"),)),
    "calls beside text": (
        calls(("a", {"é": "\\"}), ("b", {}), text="so", ids=["t1", "t2"]),
        (Text("so"), ToolUse("t1", "a", {"é": "\\"}), ToolUse("t2", "b", {})),
    ),
    "reasoning": (
        thinks("hm", signature="s") + says("four"),
        (Reasoning(text="hm", signature="s"), Text("four")),
    ),
    "a signature alone": (
        thinks("", signature="s") + says("four"),
        (Reasoning(text="", signature="s"), Text("four")),
    ),
    "redacted reasoning": (
        thinks_secretly("AAA=") + says("four"),
        (Reasoning(redacted="AAA="), Text("four")),
    ),
    "an unknown block": (
        content([{"type": "hologram", "x": [1]}]),
        (Opaque("cortex", {"type": "hologram", "x": [1]}),),
    ),
    "nothing": (content([]), ()),
    "characters nobody takes": (says("a\x00b"), (Text("a\ufffdb"),)),
    "arguments nobody takes": (
        calls(("a", {"x": "\x00"}), ids=["t1"]),
        (ToolUse("t1", "a", {"x": "\ufffd"}),),
    ),
}


@DIALECTS
@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_blocks(case: str, dialect: str, streams: bool) -> None:
    """Every kind of block is read alike from both wires, streamed or not."""
    answer, expected = ANSWERS[case]
    found = document(dialect, answer)
    if streams:
        found, _ = assembled(dialect, [stream(dialect, split(answer, 1))])
    reply = understood(DECODE[dialect](found, str))
    assert reply.message.content == expected
    assert reply.usage == Usage(prompt_tokens=10, completion_tokens=5)
    assert bool(reply.notes) is ("nobody" in case)


@DIALECTS
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("at", [0, 5])
def test_a_call_cut_in_half_is_dropped(dialect: str, streams: bool, at: int) -> None:
    """A call that the token limit cut off is left out, and a note says so."""
    answer = named(truncates(("a", {"day": "Monday"}), at=at, text="so"))
    found = document(dialect, answer)
    if streams:
        found, _ = assembled(dialect, [stream(dialect, answer)])
    reply = understood(DECODE[dialect](found, str))
    assert (reply.message.content, reply.stop) == ((Text("so"),), "max_tokens")
    assert reply.notes == ("a call of 'a' that was cut off was dropped",)


@pytest.mark.parametrize(("reason", "stop"), MESSAGES_STOPS.items())
def test_claude_stops(reason: str, stop: str) -> None:
    """Each stop reason of Anthropic's and Bedrock's has its neutral word."""
    found = {"content": [], "stop_reason": reason}
    assert understood(decode_messages(found, str)).stop == stop


@pytest.mark.parametrize(("reason", "stop"), CHAT_STOPS.items())
def test_chat_stops(reason: str, stop: str) -> None:
    """Each finish reason of OpenAI's has its neutral word."""
    choice = {"message": {"content": "a"}, "finish_reason": reason}
    assert understood(decode_chat({"choices": [choice]}, str)).stop == stop


@pytest.mark.parametrize("reason", [None, "", "something_new"])
def test_missing_stops(reason: str | None) -> None:
    """A stop reason that is missing or new is unknown, and content decides."""
    choice = {"message": {"content": "a"}, "finish_reason": reason}
    assert understood(decode_chat({"choices": [choice]}, str)).stop == "unknown"
    found = {"content": [], "stop_reason": reason}
    assert understood(decode_messages(found, str)).stop == "unknown"


def test_refusal_on_the_chat_wire() -> None:
    """A refusal is content that was blocked, and its words are kept."""
    message = {"content": None, "refusal": "I will not."}
    choice = {"message": message, "finish_reason": "stop"}
    reply = understood(decode_chat({"choices": [choice]}, str))
    assert (reply.stop, reply.message.content) == (
        "content_blocked",
        (Text("I will not."),),
    )


def test_reasoning_in_other_forms() -> None:
    """Reasoning without details, summaries and unknown details are all kept."""
    choice = {"message": {"content": "a", "reasoning": "hm"}}
    reply = understood(decode_chat({"choices": [choice]}, str))
    assert reply.message.content[0] == Reasoning(text="hm")
    details = [
        {"type": "reasoning.summary", "summary": "in short"},
        {"type": "reasoning.new", "x": 1},
    ]
    choice = {"message": {"content": "a", "reasoning_details": details}}
    reply = understood(decode_chat({"choices": [choice]}, str))
    assert reply.message.content[:2] == (
        Reasoning(text="in short"),
        Opaque("cortex", details[1]),
    )


def test_parts_and_calls_of_other_kinds() -> None:
    """Texts in parts are texts; calls that are no function's are kept as they are."""
    custom = {"id": "t", "type": "custom", "custom": {"name": "x"}}
    message = {"content": [{"type": "text", "text": "a"}], "tool_calls": [custom]}
    reply = understood(decode_chat({"choices": [{"message": message}]}, str))
    assert reply.message.content == (Text("a"), Opaque("cortex", custom))


def test_citations_in_a_stream() -> None:
    """Citations of a stream are put together in the response."""
    block = {"type": "text", "text": ""}
    deltas = [
        {"type": "text_delta", "text": "a"},
        {"type": "citations_delta", "citation": {"x": 1}},
        {"type": "citations_delta", "citation": {"x": 2}},
    ]
    sent = [
        {"type": "message_start", "message": {"role": "assistant"}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": d} for d in deltas),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    raw = "".join(f"data: {json.dumps(event)}\n\n" for event in sent).encode()
    found, _ = assembled("messages", [raw])
    cited = {"type": "text", "text": "a", "citations": [{"x": 1}, {"x": 2}]}
    assert found["content"] == [cited]


def test_changed_reasoning_loses_its_signature() -> None:
    """A text that had to change is no longer what its signature covers."""
    block = {"type": "thinking", "thinking": "\x00", "signature": "s"}
    reply = understood(decode_messages({"content": [block]}, str))
    assert reply.message.content == (Reasoning(text="\ufffd"),)


def test_citations_stay_in_the_response() -> None:
    """A cited text is a text; that it had citations is noted."""
    block = {"type": "text", "text": "a", "citations": [{"x": 1}]}
    reply = understood(decode_messages({"content": [block]}, str))
    assert reply.message.content == (Text("a"),)
    assert reply.notes == ("citations are kept in the job's response only",)


def test_names_are_read_back() -> None:
    """A name that had been mapped for the wire comes back as itself."""
    block = {"type": "tool_use", "id": "t", "name": "wire", "input": '{"a": 1}'}
    reply = understood(decode_messages({"content": [block]}, {"wire": "real"}.get))
    assert reply.message.content == (ToolUse("t", "real", {"a": 1}),)


MALFORMED = {
    "messages": [
        None,
        [],
        {},
        {"content": None},
        {"content": [1]},
        {"content": [{}]},
        {"content": [{"type": "text", "text": None}]},
        {"content": [{"type": "tool_use", "id": 1, "name": "a", "input": {}}]},
        {"content": [{"type": "tool_use", "id": "t", "name": "a", "input": [1]}]},
        {"content": [{"type": "redacted_thinking", "data": None}]},
        {"content": [{"type": "new", "x": float("nan")}]},
    ],
    "chat": [
        None,
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 1}}]},
        {"choices": [{"message": {"tool_calls": [{"function": {}}]}}]},
        {
            "choices": [
                {
                    "message": {
                        "tool_calls": [
                            {"id": "t", "function": {"name": "a", "arguments": "[1]"}}
                        ]
                    }
                }
            ]
        },
        {"choices": [{"message": {"content": [{"text": "a"}]}}]},
        {"choices": [{"message": {"tool_calls": [1.5]}}]},
        {"choices": [{"message": {"reasoning_details": [[]]}}]},
    ],
}


@DIALECTS
def test_malformed_documents(dialect: str) -> None:
    """A document of another shape is malformed output, never an exception."""
    for found in MALFORMED[dialect]:
        refused(DECODE[dialect](found, str))


@DIALECTS
@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x)))
def test_any_document(dialect: str, found: Any) -> None:
    """Whatever a reply is, reading it raises nothing."""
    refused(DECODE[dialect](found, str))


# ---------------------------------------------------------------- usage

USAGES = [
    ("messages", tokens(7, 2), Usage(prompt_tokens=7, completion_tokens=2)),
    (
        "messages",
        tokens(7, 2, read=20, written=30),
        Usage(
            prompt_tokens=57,
            completion_tokens=2,
            cache_read_tokens=20,
            cache_write_tokens=30,
        ),
    ),
    (
        "chat",
        tokens(7, 2, read=20),
        Usage(prompt_tokens=27, completion_tokens=2, cache_read_tokens=20),
    ),
]


@pytest.mark.parametrize(("dialect", "billed", "expected"), USAGES)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_usage(dialect: str, billed: Any, expected: Usage, streams: bool) -> None:
    """Prompt tokens count what was read from and written to a cache, on every wire."""
    answer = says("a", usage=billed)
    found = document(dialect, answer)
    if streams:
        found, _ = assembled(dialect, [stream(dialect, answer)])
    assert understood(DECODE[dialect](found, str)).usage == expected


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"input_tokens": 1},
        {"prompt_tokens": 1},
        {"input_tokens": 1, "output_tokens": -1},
        {"prompt_tokens": -1, "completion_tokens": 1},
    ],
)
def test_unknown_usage(usage: Any) -> None:
    """Usage that is not told, or half told, is unknown and not zero."""
    found = {"content": [], "usage": usage}
    assert understood(decode_messages(found, str)).usage is None
    found = {"choices": [{"message": {"content": "a"}}], "usage": usage}
    assert understood(decode_chat(found, str)).usage is None


# ---------------------------------------------------------------- rows


def row(**members: Any) -> str:
    """A row of COMPLETE."""
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return json.dumps({"usage": usage, **members})


def asked(**changes: Any) -> Asked:
    """A question with a schema."""
    members: dict[str, Any] = {
        "job_id": JOB_ID,
        "max_tokens": 100,
        "structured": True,
        "emulated": False,
        "tool_name": str,
    }
    return Asked(**{**members, **changes})


ANSWER = {"n": 1}
DETAILS = row(structured_output=[{"raw_message": ANSWER, "type": "json"}])


def test_plain_row() -> None:
    """A plain row is one text with its usage, and tells no stop reason."""
    reply = understood(
        decode_complete(row(choices=[{"messages": " hi"}]), asked(structured=False))
    )
    assert reply.message.content == (Text(" hi"),)
    assert reply.usage == Usage(prompt_tokens=9, completion_tokens=4)
    assert reply.stop == "unknown"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (DETAILS, '{"n":1}'),
        ('{"n": 1}', '{"n": 1}'),
        (row(choices=[{"messages": '{"n": 1}'}]), '{"n": 1}'),
        ("[1]", "[1]"),
    ],
    ids=["details", "bare", "as a message", "a list"],
)
def test_structured_row(cell: str, text: str) -> None:
    """A structured answer is a text, in each of the forms it is known to come in."""
    assert understood(decode_complete(cell, asked())).message.content == (Text(text),)


def test_a_row_that_took_all_tokens_was_cut() -> None:
    """An answer as long as was allowed counts as cut off, since SQL does not say."""
    reply = understood(
        decode_complete(
            row(choices=[{"messages": "a"}]), asked(structured=False, max_tokens=4)
        )
    )
    assert reply.stop == "max_tokens"


def emulated(**members: Any) -> Reply | Failure:
    """What an emulated answer means."""
    whole_ = {"tool_calls": None, "text": None, **members}
    cell = row(structured_output=[{"raw_message": whole_, "type": "json"}])
    return decode_complete(cell, asked(emulated=True))


def test_emulated_calls() -> None:
    """Emulated calls become calls with ids of our own, in their order."""
    made = [{"name": "a", "arguments": '{"x": 1}'}, {"name": "b", "arguments": ""}]
    reply = understood(emulated(tool_calls=made, text="so"))
    assert reply.message.content == (
        Text("so"),
        ToolUse("call_0b8a3c5e5a395d0a9a602f8c0d0f3a11_1", "a", {"x": 1}),
        ToolUse("call_0b8a3c5e5a395d0a9a602f8c0d0f3a11_2", "b", {}),
    )


def test_emulated_answers_that_say_too_much() -> None:
    """What cannot stand beside calls, or a final answer, is dropped with a note."""
    both = understood(emulated(text="a", final=ANSWER))
    assert both.notes == ("what was said beside the final answer was dropped",)
    made = [{"name": "a", "arguments": "{}"}]
    early = understood(emulated(tool_calls=made, final=ANSWER))
    assert early.notes == ("a final answer beside tool calls was dropped",)
    assert understood(emulated(text="", final=ANSWER)).notes == ()


def test_emulated_answers() -> None:
    """Without calls, the final member is the answer, or else the text."""
    assert understood(emulated(text="a")).message.content == (Text("a"),)
    final = understood(emulated(text="a", final=ANSWER)).message.content
    assert final == (Text('{"n":1}'),)
    assert understood(emulated()).message.content == ()


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "no json",
        "null",
        "[]",
        row(),
        row(choices=[]),
        row(choices=[{"messages": 1}]),
    ],
)
def test_malformed_rows(cell: str) -> None:
    """A row of another shape is malformed output."""
    refused(decode_complete(cell, asked(structured=False)))


@pytest.mark.parametrize("calls_", [1, [1], [{}], [{"name": "a", "arguments": "[]"}]])
def test_malformed_emulation(calls_: Any) -> None:
    """Emulated calls of another shape are malformed output."""
    refused(emulated(tool_calls=calls_))


# ---------------------------------------------------------------- streams

RICH = (
    thinks("let me see, é😀", signature="s")
    + thinks_secretly("AAA=")
    + calls(("a", {"day": 'Mo"n\\day é😀'}), ("b", {}), text="so", ids=["t1", "t2"])
)


@DIALECTS
@pytest.mark.parametrize("spread", [False, True], ids=["lines", "spread"])
def test_streams_cut_anywhere_mean_the_same(dialect: str, spread: bool) -> None:
    """Bytes may be cut at every boundary, through every character, without effect."""
    answer = split(RICH, 9)
    raw = stream(dialect, spreads(answer) if spread else answer)
    expected = understood(DECODE[dialect](document(dialect, RICH), str))
    for at in range(len(raw)):
        found, told = assembled(dialect, [raw[:at], raw[at:]])
        assert understood(DECODE[dialect](found, str)) == expected
        assert "".join(told) == "so"


@DIALECTS
def test_streams_byte_by_byte(dialect: str) -> None:
    """A stream that drips is read like one that pours."""
    raw = stream(dialect, RICH)
    assert assembled(dialect, [raw[i : i + 1] for i in range(len(raw))]) == assembled(
        dialect, [raw]
    )


@DIALECTS
def test_a_stream_is_whole_or_it_is_none(dialect: str) -> None:
    """A stream that ends anywhere before its last event is a failure."""
    raw = stream(dialect, RICH)
    last = raw.index(b"usage", len(raw) // 2) if dialect == "chat" else len(raw) - 9
    for at in range(0, last, 7):
        with pytest.raises(CutOffError):
            assembled(dialect, [raw[:at]])


def test_a_stream_without_its_last_event() -> None:
    """Anthropic's wire says when it is done; OpenAI's may forget it, if all is told."""
    with pytest.raises(CutOffError):
        assembled("messages", [stream("messages", unterminated(RICH))])
    found, _ = assembled("chat", [stream("chat", unterminated(RICH))])
    assert found == assembled("chat", [stream("chat", RICH)])[0]
    for member in ("finish_reason", "usage"):
        raw = stream("chat", unterminated(RICH)).replace(member.encode(), b"other")
        with pytest.raises(CutOffError):
            assembled("chat", [raw])


def test_a_forgotten_blank_line_is_forgiven() -> None:
    """The last event counts even if the blank line after it is missing."""
    raw = stream("chat", says("a"))
    assert assembled("chat", [raw.rstrip(b"\n") + b"\n"])[1] == ["a"]


@DIALECTS
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_error_event_ends_a_stream(dialect: str, after: int) -> None:
    """An `error` event is a failure, wherever it comes."""
    raw = stream(dialect, breaks("overloaded", message=RICH, after=after))
    with pytest.raises(BrokenOffError) as caught:
        assembled(dialect, [raw])
    assert caught.value.event["error"]["message"] == "overloaded"


STRANGE = {
    "messages": [
        "[]",
        "no json",
        '{"type": "message_start"}',
        '{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}}',
        '{"type": "content_block_start", "content_block": {}}',
        '{"type": "message_stop"}',
        '{"type": "content_block_start", "index": 0, "content_block": {}}\n\n'
        'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "new"}}',
    ],
    "chat": [
        "[]",
        "no json",
        "[DONE]",
        '{"choices": [{"index": 1, "delta": {"content": "b"}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"function": 5}]}}]}',
        '{"choices": [7]}',
    ],
}


@DIALECTS
def test_pieces_of_another_shape_do_not_vanish(dialect: str) -> None:
    """A piece that we do not understand fails the stream instead of being lost."""
    for data in STRANGE[dialect]:
        with pytest.raises(MalformedError):
            assembled(dialect, [f"data: {data}\n\n".encode()])


def test_an_unknown_event_is_passed_over_and_noted() -> None:
    """An event of a newer API tells us nothing, and does not spoil a paid answer."""
    new = b'event: new\ndata: {"type": "new_event"}\n\n'
    draft = MessagesDraft(lambda _: None)
    found = draft.read(events([new, stream("messages", RICH)]))
    assert found == assembled("messages", [stream("messages", RICH)])[0]
    assert draft.notes == ["an event of the kind 'new_event' was passed over"]


@DIALECTS
def test_an_error_needs_no_type(dialect: str) -> None:
    """An event with an `error` ends a stream, whatever it is called."""
    raw = stream(dialect, breaks("throttled", message=RICH, after=2, code="429"))
    with pytest.raises(BrokenOffError) as caught:
        assembled(dialect, [raw])
    assert caught.value.event == {"error": {"message": "throttled", "code": "429"}}


def test_a_chunk_with_nothing_in_it() -> None:
    """A chunk without choices, or a choice without a delta, adds nothing."""
    chunks = (
        {"choices": [{"delta": {"content": "a"}}]},
        {"choices": [{"index": 0, "finish_reason": "stop"}]},
        {"choices": None},
        {"usage": {"prompt_tokens": 7, "completion_tokens": 3}},
    )
    raw = "".join(f"data: {json.dumps({'id': 'c', **c})}\n\n" for c in chunks)
    found, told = assembled("chat", [f"{raw}data: [DONE]\n\n".encode()])
    assert told == ["a"]
    assert found["choices"][0]["finish_reason"] == "stop"
    assert understood(decode_chat(found, str)).usage == Usage(
        prompt_tokens=7, completion_tokens=3
    )


def test_unknown_members_of_a_delta_are_kept() -> None:
    """A member of a delta that is new to us is kept in the response."""
    chunk = {"choices": [{"delta": {"content": "a", "audio": {"id": "x"}}}]}
    found, _ = assembled(
        "chat",
        [f"data: {json.dumps({'id': 'c', **chunk})}\n\ndata: [DONE]\n\n".encode()],
    )
    assert found["choices"][0]["message"]["audio"] == {"id": "x"}


def test_calls_without_an_index() -> None:
    """Calls of a stream that counts none are told apart by their ids."""
    pieces: list[Any] = [
        {"id": "t1", "function": {"name": "a", "arguments": ""}},
        {"function": {"arguments": '{"day": '}},
        {"id": "t1", "function": {"arguments": '"Mon"}'}},
        {"id": "t2", "function": {"name": "b", "arguments": ""}},
        {"function": {"arguments": '{"day": "Tue"}'}},
    ]
    chunks = [{"choices": [{"delta": {"tool_calls": [piece]}}]} for piece in pieces]
    raw = "".join(f"data: {json.dumps({'id': 'c', **c})}\n\n" for c in chunks)
    found, _ = assembled("chat", [f"{raw}data: [DONE]\n\n".encode()])
    reply = understood(decode_chat(found, str))
    assert reply.message.content == (
        ToolUse("t1", "a", {"day": "Mon"}),
        ToolUse("t2", "b", {"day": "Tue"}),
    )


# ---------------------------------------------------------------- events


def parse(text: str) -> list[Event]:
    """The events of a text."""
    return list(events([text.encode()]))


EVENTS = {
    "data: a\n\n": [Event("", "a")],
    "data:a\n\ndata:  b\n\n": [Event("", "a"), Event("", " b")],
    "event: x\ndata: a\n\ndata: b\n\n": [Event("x", "a"), Event("", "b")],
    "data: a\ndata: b\ndata\n\n": [Event("", "a\nb\n")],
    ": comment\nid: 7\nretry: 1\ndata: a\n\n": [Event("", "a")],
    "event: x\n\n": [],
    "\n\n\n": [],
    "data: a\r\n\r\ndata: b\r\rdata: c\n\n": [
        Event("", "a"),
        Event("", "b"),
        Event("", "c"),
    ],
    "\ufeffdata: a\n\n": [Event("", "a")],
    "data: a\u2028b\x0b\n\n": [Event("", "a\u2028b\x0b")],
    "data: a\n": [Event("", "a")],
    "data: a": [],
    "data: a\r": [Event("", "a")],
}


@pytest.mark.parametrize("text", EVENTS)
def test_events(text: str) -> None:
    """Lines end in three ways, data lines are joined, all else is skipped."""
    assert parse(text) == EVENTS[text]
    raw = text.encode()
    assert list(events([raw[i : i + 1] for i in range(len(raw))])) == EVENTS[text]


def test_events_that_are_none() -> None:
    """Bytes that are no UTF-8 are refused, wherever the line began."""
    with pytest.raises(EventError, match="no UTF-8 at byte 6"):
        list(events([b"data: \xff\n\n"]))


def test_a_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that never ends is given up before it fills the memory."""
    monkeypatch.setattr("agentloop.backends.cortex.codec.sse.MOST_BYTES", 100)
    with pytest.raises(EventError, match="more than 100 bytes"):
        list(events([b"x" * 60, b"x" * 60]))
