"""What the Cortex codecs make of histories: each wire's rules, each repair."""

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from agentloop.backends.common.names import Names
from agentloop.backends.cortex import CachePoints, Capabilities, ModelOptions, Thinking
from agentloop.backends.cortex.codec.encode import Conversation
from agentloop.backends.cortex.codec.names import LEGAL
from agentloop.core.config import AnyTool, Auto, SpecificTool, ToolSpec
from agentloop.core.content import Document, Image, Json, Opaque, Reasoning
from agentloop.core.phases import Infer, Log
from agentloop.testing.fake_snowflake import violations
from tests import bedrock_cases as cases
from tests.bedrock_cases import (
    ASK,
    PDF,
    PNG,
    ROOMS,
    infer,
    result,
    results,
    said,
    use,
    user,
)
from tests.cortex_cases import CLAUDE, GPT, LLAMA, OPUS, body_of, model, setup

NOTE = "Tm90ZXMu"  # "Notes."
TALKS = evolve(model("messages"), can=Capabilities(family="talks"))


def kinds(body: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The roles of a body's messages with the kinds of what they hold."""
    return [(m["role"], _kinds(m)) for m in body.get("messages", body.get("prompt"))]


def _kinds(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    parts = [p["type"] for p in content] if isinstance(content, list) else []
    if isinstance(content, str):
        parts = ["text"]
    return parts + ["call" for _ in message.get("tool_calls", ())]


# ---------------------------------------------------------------- turns

OPENED = ("user", ["text"])
SPOKE = ("assistant", ["text"])
LOGS = {
    "the first turn is the user's": [said("hello"), user("hi")],
    "neighbours of one role are merged": [
        user("a"),
        user("b"),
        said("c"),
        said("d"),
        user("e"),
    ],
    "the last turn is never the assistant's": [user("a"), said("b")],
    "no turn is empty": [user(), said(), user()],
    "no text is blank": [user(" "), said("\n"), user("")],
    "results come first, in call order, then text": [
        user("a"),
        said(use("t1"), use("t2")),
        results(result("t2")),
        user("by the way", result("t1")),
    ],
    "a call without a result gets one": [user("a"), said(use("t1")), user("b")],
    "a result without a call goes": [
        user("a"),
        said(use("t1")),
        results(result("t1"), result("t9"), result("t1", "again")),
    ],
    "an id may come again in a later turn": [
        user("a"),
        said(use("t1")),
        results(result("t1")),
        said(use("t1")),
        results(result("t1")),
    ],
    "no id comes twice in one turn": [
        user("a"),
        said(use("t1")),
        said(use("t1")),
        results(result("t1")),
    ],
}
PAUSED = ("assistant", ["tool_use"])
ANSWERED = ("user", ["tool_result"])
CLAUDES = {
    "the first turn is the user's": [OPENED, SPOKE, OPENED],
    "neighbours of one role are merged": [
        ("user", ["text"] * 2),
        ("assistant", ["text"] * 2),
        OPENED,
    ],
    "the last turn is never the assistant's": [OPENED, SPOKE, OPENED],
    "no turn is empty": [OPENED, SPOKE, OPENED],
    "no text is blank": [OPENED, SPOKE, OPENED],
    "results come first, in call order, then text": [
        OPENED,
        ("assistant", ["tool_use"] * 2),
        ("user", ["tool_result", "tool_result", "text"]),
    ],
    "a call without a result gets one": [
        OPENED,
        PAUSED,
        ("user", ["tool_result", "text"]),
    ],
    "a result without a call goes": [OPENED, PAUSED, ANSWERED],
    "an id may come again in a later turn": [
        OPENED,
        PAUSED,
        ANSWERED,
        PAUSED,
        ANSWERED,
    ],
    "no id comes twice in one turn": [OPENED, PAUSED, ANSWERED],
}
CALLED = ("assistant", ["call"])
TOLD = ("tool", ["text"])
CHATS = {
    "neighbours of one role are merged": [OPENED, SPOKE, OPENED],
    "results come first, in call order, then text": [
        OPENED,
        ("assistant", ["call"] * 2),
        TOLD,
        TOLD,
        OPENED,
    ],
    "a call without a result gets one": [OPENED, CALLED, TOLD, OPENED],
    "a result without a call goes": [OPENED, CALLED, TOLD],
    "an id may come again in a later turn": [OPENED, CALLED, TOLD, CALLED, TOLD],
    "no id comes twice in one turn": [OPENED, CALLED, TOLD],
}
QUIET = {"system": None}


@pytest.mark.parametrize("case", LOGS)
def test_claude_turns(case: str) -> None:
    """For Claude, every history becomes turns that Bedrock's rules allow."""
    body, _ = body_of(*LOGS[case], given=setup(**QUIET))
    assert kinds(body) == CLAUDES[case]
    assert violations("messages", body) is None


@pytest.mark.parametrize("case", LOGS)
def test_chat_turns(case: str) -> None:
    """On OpenAI's wire, each result is a message of its own right after its calls."""
    body, _ = body_of(*LOGS[case], to=model("chat"), given=setup("chat", **QUIET))
    assert kinds(body) == CHATS.get(case, CLAUDES[case])
    assert violations("chat", body) is None


@pytest.mark.parametrize("emulated", [False, True], ids=["in words", "in JSON"])
@pytest.mark.parametrize("case", LOGS)
def test_sql_turns(case: str, emulated: bool) -> None:
    """Over SQL, every turn is one message of text, and roles alternate."""
    to = model("sql", emulated=emulated)
    body, _ = body_of(*LOGS[case], to=to, given=setup("sql", **QUIET))
    roles = [m["role"] for m in body["prompt"] if m["role"] != "system"]
    assert roles == [role for role, _ in CLAUDES[case]]
    assert violations("sql", body) is None


def test_results_stand_in_call_order() -> None:
    """Results are written in the order of their calls, whoever came first."""
    log = LOGS["results come first, in call order, then text"]
    claude, _ = body_of(*log)
    chat, _ = body_of(*log, to=model("chat"))
    last = claude["messages"][-1]["content"]
    assert [p.get("tool_use_id") for p in last] == ["t1", "t2", None]
    told = [m["tool_call_id"] for m in chat["messages"] if m["role"] == "tool"]
    assert told == ["t1", "t2"]


@pytest.mark.parametrize("dialect", ["messages", "chat"])
def test_an_id_comes_once(dialect: str) -> None:
    """Turns of several providers may share ids; on the wire each call has its own."""
    turn = (said(use("t1"), use("t2")), results(result("t2", "b"), result("t1", "a")))
    log = (user("go"), *turn, said(use("t1_2")), results(result("t1_2")), *turn)
    body, notes = body_of(*log, to=model(dialect))
    assert violations(dialect, body) is None
    text = json.dumps(body)
    for id_ in ("t1", "t2", "t1_2", "t1_3", "t2_2"):
        assert text.count(f'"{id_}"') == 2  # a call and its result
    assert "the id 't1' of an earlier call became 't1_3'" in notes


ALL = st.sampled_from(
    [
        ("messages", CLAUDE, False),
        ("messages", OPUS, False),
        ("chat", GPT, False),
        ("chat", LLAMA, False),
        ("sql", CLAUDE, False),
        ("sql", CLAUDE, True),
        ("sql", GPT, True),
    ]
)


@settings(max_examples=150)
@given(
    wire=ALL,
    given_=cases.setups(),
    log=cases.messages(),
    choice=cases.tool_choices(),
    streamed=st.booleans(),
    cached=st.booleans(),
)
def test_any_history_is_legal(
    wire: Any, given_: Any, log: Any, choice: Any, streamed: bool, cached: bool
) -> None:
    """Whatever the history, the request breaks no rule of its wire that we know."""
    dialect, name, emulated = wire
    cache = CachePoints() if cached and dialect == "messages" else None
    to = model(dialect, name, ModelOptions(cache=cache), emulated=emulated)
    given_ = evolve(given_, config=evolve(given_.config, model=name))
    body, notes = body_of(*log, to=to, given=given_, choice=choice, streamed=streamed)
    assert violations(dialect, body) is None
    json.dumps(body, ensure_ascii=False).encode()
    "".join(notes).encode()


@settings(max_examples=50)
@given(wire=ALL, given_=cases.setups(), log=cases.messages(8))
def test_turns_are_encoded_once(wire: Any, given_: Any, log: Any) -> None:
    """A session that saw the log grow sends what a fresh one would send."""
    dialect, name, emulated = wire
    to = model(dialect, name, emulated=emulated)
    grown = Conversation(given_, to)
    for length in range(1, len(log) + 1):
        if log[length - 1].role != "assistant":  # nobody is asked to go on from there
            command = infer(*log[:length])
            fresh = Conversation(given_, to).request(command, streamed=False)
            assert grown.request(command, streamed=False) == fresh


def test_closed_turns_are_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a request is the cost of what is new since the last."""
    conversation = Conversation(setup(), model())
    log = Log(user("a"), said(use("t1")), results(result("t1")))
    command = Infer(1, 1, 0.0, 0.0, Auto(), log)
    conversation.request(command, streamed=False)
    seen: list[object] = []
    turns = conversation._turns
    assert turns is not None
    writer = turns._writer
    for name in ("said", "heard"):
        real = getattr(writer, name)
        monkeypatch.setattr(
            writer, name, lambda *a, _real=real: seen.append(a) or _real(*a)
        )
    conversation.request(command, streamed=False)
    assert seen == []
    longer = log.append(said(use("t2")), results(result("t2")))
    conversation.request(Infer(2, 1, 0.0, 0.0, Auto(), longer), streamed=False)
    assert len(seen) == 2


def test_an_older_log_starts_afresh() -> None:
    """A request rebuilt for an earlier iteration is the one that was sent then."""
    conversation = Conversation(setup(), model())
    log = Log(user("a"))
    first = conversation.request(Infer(1, 1, 0.0, 0.0, Auto(), log), streamed=False)
    longer = log.append(said("b"), user("c"))
    conversation.request(Infer(2, 1, 0.0, 0.0, Auto(), longer), streamed=False)
    again = conversation.request(Infer(1, 1, 0.0, 0.0, Auto(), log), streamed=False)
    assert again == first


# ---------------------------------------------------------------- blocks

THOUGHT = Reasoning(text="hm", signature="sig")
SEARCH = {"type": "search_result", "source": "a", "title": "b", "content": []}
WRITTEN: dict[str, tuple[Any, Any, Any]] = {
    # what the user sent, for Claude, for GPT
    "text": (user("hi"), {"type": "text", "text": "hi"}, "hi"),
    "json": (user(Json({"a": 1})), {"type": "text", "text": '{"a":1}'}, '{"a":1}'),
    "image": (
        user(Image("png", PNG)),
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": PNG},
        },
        [
            {
                "type": "image_url",
                "image_url": {"url": f"data:image/png;base64,{PNG}"},
            }
        ],
    ),
    "an image of another format": (
        user(Image("svg", PNG)),
        {"type": "text", "text": "(image of format svg left out)"},
        "(image of format svg left out)",
    ),
    "a PDF": (
        user(Document("pdf", "plan.pdf", PDF)),
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
            "title": "plan.pdf",
        },
        "(document of format pdf left out)",
    ),
    "a text document": (
        user(Document("md", "no\x00tes", NOTE)),
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "Notes."},
            "title": "no tes",
        },
        "Document no tes:\nNotes.",
    ),
    "a block of ours": (
        user(Opaque("cortex", SEARCH)),
        SEARCH,
        "(the conversation begins)",
    ),
    "a block of somebody else's": (
        user("a", Opaque("bedrock", {"video": {}})),
        {"type": "text", "text": "a"},
        "a",
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_user_blocks(case: str) -> None:
    """What the user sends arrives in each wire's words, or is told of in words."""
    message, claude, chat = WRITTEN[case]
    body, _ = body_of(message, given=setup(**QUIET))
    assert body["messages"][0]["content"] == [claude]
    body, _ = body_of(message, to=model("chat"), given=setup("chat", **QUIET))
    assert body["messages"][0]["content"] == chat


@pytest.mark.parametrize("dialect", ["messages", "chat", "sql"])
def test_strangers(dialect: str) -> None:
    """A block that cannot stand in a turn is left out, and the note says whose."""
    log = [
        user("a", use("t1"), THOUGHT),
        said("b", Image("png", PNG), Json(1), Opaque("x", {"type": "y"})),
        user("c"),
    ]
    body, notes = body_of(*log, to=model(dialect), given=setup(dialect, **QUIET))
    assert {
        "a tooluse of the user's was left out",
        "a reasoning of the user's was left out",
        "a image of the assistant's was left out",
        "a json of the assistant's was left out",
        "a block of kind 'y' from 'x' of the assistant's was left out",
    } <= set(notes)
    assert violations(dialect, body) is None


def test_media_in_results_where_they_are_not_taken() -> None:
    """A model that takes no media in results is told of them in words."""
    to = evolve(model(), can=evolve(model().can, result_media=False))
    pictured = evolve(result(), content=(Image("png", PNG),))
    body, _ = body_of(user("a"), said(use("t1")), results(pictured), to=to)
    told = {"type": "text", "text": "(image of format png left out)"}
    assert body["messages"][-1]["content"][0]["content"] == [told]


RESULTS: dict[str, tuple[Any, Any, str]] = {
    "text": (result(text="9:00"), [{"type": "text", "text": "9:00"}], "9:00"),
    "nothing": (
        evolve(result(), content=()),
        [{"type": "text", "text": "(no output)"}],
        "(no output)",
    ),
    "blank": (
        result(text=" "),
        [{"type": "text", "text": "(no output)"}],
        "(no output)",
    ),
    "json": (
        evolve(result(), content=(Json([1]),)),
        [{"type": "text", "text": "[1]"}],
        "[1]",
    ),
    "an image": (
        evolve(result(), content=(Image("jpg", PNG),)),
        [
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG},
            }
        ],
        "(image of format jpg left out)",
    ),
}


@pytest.mark.parametrize("case", RESULTS)
@pytest.mark.parametrize("failed", [False, True], ids=["well", "failed"])
def test_results(case: str, failed: bool) -> None:
    """A result is never empty; a failure is flagged, or said where flags lack."""
    given_, claude, chat = RESULTS[case]
    log = user("a"), said(use("t1")), results(evolve(given_, is_error=failed))
    body, _ = body_of(*log)
    wire = body["messages"][-1]["content"][0]
    assert wire["content"] == claude
    assert wire.get("is_error", False) is failed
    body, _ = body_of(*log, to=model("chat"))
    assert body["messages"][-1]["content"] == ("The call failed.\n" * failed) + chat


def test_reasoning_goes_back_to_claude_signed_and_unchanged() -> None:
    """Signed and redacted reasoning goes back byte for byte, the rest stays here."""
    blocks = (
        THOUGHT,
        Reasoning(text="", signature="only"),
        Reasoning(redacted="AAA="),
        Reasoning(text="unsigned"),
    )
    body, notes = body_of(user("a"), said(*blocks, "b"), user("c"))
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "thinking", "thinking": "", "signature": "only"},
        {"type": "redacted_thinking", "data": "AAA="},
        {"type": "text", "text": "b"},
    ]
    assert notes == ("reasoning without a signature was left out",)


def test_reasoning_leads_its_turn() -> None:
    """Reasoning that came after a text is moved to the front."""
    body, notes = body_of(user("a"), said("b", THOUGHT), user("c"))
    assert [p["type"] for p in body["messages"][1]["content"]] == ["thinking", "text"]
    assert notes == ("reasoning was moved to the start of its turn",)


@pytest.mark.parametrize(("rule", "kept"), [("drop", 0), ("signed", 2), ("echo", 3)])
def test_reasoning_on_the_chat_wire(rule: Any, kept: int) -> None:
    """Other families get reasoning back only as far as their record says."""
    to = evolve(model("chat"), can=evolve(model("chat").can, reasoning=rule))
    blocks = (THOUGHT, Reasoning(redacted="AAA="), Reasoning(text="unsigned"))
    body, notes = body_of(user("a"), said(*blocks, "b"), user("c"), to=to)
    details = body["messages"][2].get("reasoning_details", [])
    expected = [
        {"type": "reasoning.text", "text": "hm", "signature": "sig"},
        {"type": "reasoning.encrypted", "data": "AAA="},
        {"type": "reasoning.text", "text": "unsigned"},
    ]
    assert details == expected[:kept]
    assert bool(notes) is (kept < 3)


@pytest.mark.parametrize("dialect", ["messages", "chat"])
def test_illegal_names_are_mapped_and_read_back(dialect: str) -> None:
    """A name that no wire takes goes out as a legal one and comes back as itself."""
    bad = "functions.rooms free"
    conversation = Conversation(setup(dialect), model(dialect))
    log = user("a"), said(use("t/1", bad)), results(result("t/1"))
    body = json.loads(conversation.request(infer(*log), streamed=False))
    assert violations(dialect, body) is None
    text = json.dumps(body)
    assert bad not in text
    wire = Names(LEGAL).out(bad)
    assert wire in text
    assert conversation.tool_name(wire) == bad
    assert len(conversation.take_notes()) == 2


@given(st.text(), st.text())
def test_names_stay_apart(one: str, other: str) -> None:
    """Mapped names are legal, and two names never share one."""
    names = Names(LEGAL)
    assert LEGAL.fullmatch(names.out(one))
    assert names.back(names.out(one)) == one
    assert (names.out(one) == names.out(other)) is (one == other)


def test_tools_in_words_for_a_model_without_any() -> None:
    """A model that takes no tools is told of calls and results in words."""
    log = user("a"), said(use("t1", day="Mon")), results(result("t1"))
    told = '(called rooms-free_slots with {"day":"Mon"})'
    for to in (TALKS, model("chat", LLAMA), model("sql")):
        body, notes = body_of(*log, to=to, given=setup(to.dialect, name=to.id))
        assert told in json.loads(json.dumps(json.dumps(body))).replace("\\", "")
        assert "tools" not in body
        assert violations(to.dialect, body) is None
        assert "a tool call was told in words: the model takes no tools" in notes


# ---------------------------------------------------------------- the frame

EXPECTED_FRAMES: dict[str, dict[str, Any]] = {
    "messages": {
        "model": CLAUDE,
        "max_tokens": 4096,
        "system": "Be brief.",
        "tools": [
            {
                "name": ROOMS.name,
                "description": ROOMS.description,
                "input_schema": ROOMS.input_schema,
            }
        ],
    },
    "chat": {
        "model": GPT,
        "max_completion_tokens": 4096,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": ROOMS.name,
                    "description": ROOMS.description,
                    "parameters": ROOMS.input_schema,
                },
            }
        ],
    },
    "sql": {"model": CLAUDE, "options": {"max_tokens": 4096}},
}


@pytest.mark.parametrize("dialect", EXPECTED_FRAMES)
def test_frame(dialect: str) -> None:
    """A plain request holds model, limit, system and tools, and nothing else."""
    body, _ = body_of(user("hi"), to=model(dialect))
    turns = body.pop("messages", None) or body.pop("prompt")
    assert body == EXPECTED_FRAMES[dialect]
    first = {"role": "system", "content": "Be brief."}
    assert (turns[0] == first) is (dialect != "messages")


def test_a_stream_is_asked_for_in_the_body() -> None:
    """A streamed request differs by the words that ask for the stream alone."""
    for dialect, extra in (
        ("messages", {"stream": True}),
        ("chat", {"stream": True, "stream_options": {"include_usage": True}}),
    ):
        plain, _ = body_of(user("hi"), to=model(dialect))
        streamed, _ = body_of(user("hi"), to=model(dialect), streamed=True)
        assert streamed == {**plain, **extra}


CHOICES = [
    (Auto(), None, None),
    (AnyTool(), {"type": "any"}, "required"),
    (
        SpecificTool("rooms-free_slots"),
        {"type": "tool", "name": "rooms-free_slots"},
        {"type": "function", "function": {"name": "rooms-free_slots"}},
    ),
]


@pytest.mark.parametrize(("choice", "claude", "chat"), CHOICES)
def test_tool_choice(choice: Any, claude: Any, chat: Any) -> None:
    """A tool choice is written in each wire's words; auto is not written at all."""
    body, _ = body_of(user("hi"), choice=choice)
    assert body.get("tool_choice") == claude
    body, _ = body_of(user("hi"), to=model("chat"), choice=choice)
    assert body.get("tool_choice") == chat


@pytest.mark.parametrize("dialect", ["messages", "chat", "sql"])
def test_choice_that_cannot_be_forced(dialect: str) -> None:
    """A choice beyond the model is left to it and noted; `check` refuses it first."""
    to = evolve(model(dialect), can=Capabilities(family="own", tools=True))
    body, notes = body_of(user("hi"), to=to, choice=AnyTool())
    assert "tool_choice" not in body
    assert "the tool choice was left to the model" in notes


def test_placeholders_for_tools_that_are_gone() -> None:
    """A history with calls offers placeholders to Claude when nothing is on offer."""
    log = user("a"), said(use("t1")), results(result("t1"))
    body, notes = body_of(*log, given=setup(specs=()), choice=AnyTool())
    assert [tool["name"] for tool in body["tools"]] == ["rooms-free_slots"]
    assert "tool_choice" not in body
    assert len(notes) == 2
    body, _ = body_of(user("a"), given=setup(specs=()))
    assert "tools" not in body


def test_strict_tools() -> None:
    """A strict tool is strict for OpenAI's models where its schema allows, or noted."""
    closed = {**ROOMS.input_schema, "additionalProperties": False}
    spec = evolve(ROOMS, strict=True)
    optional = evolve(spec, name="o", input_schema={**closed, "required": []})
    specs = (spec, optional)
    body, notes = body_of(
        user("a"), to=model("chat"), given=setup("chat", specs=specs, system=None)
    )
    functions = [tool["function"] for tool in body["tools"]]
    assert [f.get("strict", False) for f in functions] == [True, False]
    assert functions[0]["parameters"] == closed
    assert notes == ("the tool 'o' is not strict: the optional property 'day'",)
    body, notes = body_of(user("a"), given=setup(specs=(spec,)))
    assert "strict" not in body["tools"][0]
    assert "'claude' has no strict tools on Cortex" in notes[0]


OPTIONS: dict[str, tuple[str, ModelOptions, dict[str, Any]]] = {
    "sampling": (
        "messages",
        ModelOptions(top_p=0.5, stop_sequences=("END",)),
        {"top_p": 0.5, "stop_sequences": ["END"]},
    ),
    "sampling, chat": (
        "chat",
        ModelOptions(top_p=0.5, stop_sequences=("END",)),
        {"top_p": 0.5, "stop": ["END"]},
    ),
    "effort": (
        "messages",
        ModelOptions(effort="low"),
        {"output_config": {"effort": "low"}},
    ),
    "effort, chat": (
        "chat",
        ModelOptions(effort="low"),
        {"reasoning_effort": "low"},
    ),
    "a thinking budget": (
        "messages",
        ModelOptions(thinking=Thinking(2000)),
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    ),
    "raw fields": (
        "messages",
        ModelOptions(request_fields={"top_k": 3}),
        {"top_k": 3},
    ),
    "raw fields, chat": (
        "chat",
        ModelOptions(request_fields={"verbosity": "low"}),
        {"verbosity": "low"},
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str) -> None:
    """Each option is written where its wire wants it, and takes no other's place."""
    dialect, options, extra = OPTIONS[case]
    plain, _ = body_of(user("hi"), to=model(dialect))
    body, _ = body_of(user("hi"), to=model(dialect, options=options))
    assert body == {**plain, **extra}
    assert violations(dialect, body) is None


def test_sql_options() -> None:
    """Over SQL, options are the third argument."""
    options = ModelOptions(top_p=0.5, request_fields={"guardrails": True})
    given_ = setup("sql", temperature=0.25)
    body, _ = body_of(user("hi"), to=model("sql", options=options), given=given_)
    assert body["options"] == {
        "max_tokens": 4096,
        "temperature": 0.25,
        "top_p": 0.5,
        "guardrails": True,
    }


def test_adaptive_thinking() -> None:
    """A model of the newest kind may think as much as it likes."""
    to = model("messages", OPUS, ModelOptions(thinking=Thinking()))
    body, _ = body_of(user("hi"), to=to)
    assert body["thinking"] == {"type": "adaptive"}


def test_no_thinking_about_calls_made_without_any() -> None:
    """Thinking is not asked for while calls are answered that began without it."""
    to = model(options=ModelOptions(thinking=Thinking(2000)))
    log = [user("a"), said(use("t1")), results(result("t1"))]
    body, notes = body_of(*log, to=to)
    assert "thinking" not in body
    assert "no thinking: the calls were made without any" in notes
    log[1] = said(THOUGHT, use("t1"))
    assert "thinking" in body_of(*log, to=to)[0]
    assert "thinking" in body_of(*log, said("b"), user("c"), to=to)[0]


def test_cache_points() -> None:
    """Cache points stand after the tools, the system and the very last block."""
    to = model(options=ModelOptions(cache=CachePoints()))
    point = {"type": "ephemeral"}
    log = user("a"), said(use("t1")), results(result("t1"))
    body, _ = body_of(*log, to=to)
    assert body["tools"][-1]["cache_control"] == point
    assert body["system"] == [
        {"type": "text", "text": "Be brief.", "cache_control": point}
    ]
    assert body["messages"][-1]["content"][-1]["cache_control"] == point
    assert json.dumps(body).count("cache_control") == 3
    assert violations("messages", body) is None


# ---------------------------------------------------------------- structured output

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
}
SHUT = {**SCHEMA, "additionalProperties": False}
NATIVE = {
    "messages": lambda body: body["output_config"]["format"]["schema"],
    "chat": lambda body: body["response_format"]["json_schema"]["schema"],
    "sql": lambda body: body["options"]["response_format"]["schema"],
}


@pytest.mark.parametrize("dialect", NATIVE)
def test_native_schema(dialect: str) -> None:
    """A schema within the subset is given natively, every object closed."""
    given_ = setup(dialect, output_format_schema=SCHEMA, specs=())
    body, notes = body_of(user("hi"), to=model(dialect), given=given_)
    assert NATIVE[dialect](body) == SHUT
    assert notes == ()
    assert violations(dialect, body) is None


ELSEWHERE = {
    "a family without": ("chat", LLAMA, SCHEMA),
    "an old Claude": ("messages", "claude-4-sonnet", SCHEMA),
    "a keyword": ("messages", CLAUDE, {**SCHEMA, "minProperties": 1}),
    "an optional property": ("chat", GPT, {**SCHEMA, "required": []}),
    "a map": ("messages", CLAUDE, {"type": "object"}),
    "an open object": (
        "messages",
        CLAUDE,
        {**SCHEMA, "additionalProperties": {"type": "string"}},
    ),
    "a property name": (
        "messages",
        CLAUDE,
        {"type": "object", "properties": {"a b": {"type": "null"}}},
    ),
    "a foreign reference": (
        "messages",
        CLAUDE,
        {**SCHEMA, "properties": {"n": {"$ref": "#/properties/m"}}},
    ),
    "recursion": (
        "messages",
        CLAUDE,
        {**SCHEMA, "$defs": {"a": {"$ref": "#/$defs/a"}}},
    ),
    "inner definitions": (
        "messages",
        CLAUDE,
        {**SCHEMA, "properties": {"n": {"$defs": {"a": {"type": "null"}}}}},
    ),
    "no schema": ("messages", CLAUDE, {**SCHEMA, "properties": {"n": 1}}),
    "recursion by a detour": (
        "messages",
        CLAUDE,
        {
            **SCHEMA,
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        },
    ),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_schema_in_the_system_text(case: str) -> None:
    """A schema beyond the model or the subset goes into the system text, verbatim."""
    dialect, name, schema = ELSEWHERE[case]
    given_ = setup(dialect, name=name, output_format_schema=schema, specs=())
    body, notes = body_of(user("hi"), to=model(dialect, name), given=given_)
    system = body.get("system") or body["messages"][0]["content"]
    assert json.dumps(schema, separators=(",", ":")) in system
    assert "output_config" not in body
    assert "response_format" not in body
    assert bool(notes) is (case not in {"a family without", "an old Claude"})


def test_definitions_are_taken() -> None:
    """References to definitions at the top are within the subset."""
    schema = {
        **SCHEMA,
        "properties": {"n": {"type": "array", "items": {"$ref": "#/$defs/a"}}},
        "$defs": {"a": SCHEMA},
    }
    given_ = setup(output_format_schema=schema)
    body, _ = body_of(user("hi"), given=given_)
    assert NATIVE["messages"](body)["$defs"] == {"a": SHUT}


TOOL_SCHEMAS: list[tuple[Any, dict[str, Any], bool]] = [
    ({"type": "object", "properties": {}}, {"type": "object", "properties": {}}, False),
    ({}, {"type": "object", "properties": {}}, True),
    (
        {"anyOf": [SCHEMA, {"type": "object", "properties": {"m": {}}}]},
        {"type": "object", "properties": {"m": {}, "n": {"type": "integer"}}},
        True,
    ),
    (
        {"allOf": [SCHEMA, {"type": "object", "properties": {"m": {}}}]},
        {
            "type": "object",
            "properties": {"m": {}, "n": {"type": "integer"}},
            "required": ["n"],
        },
        True,
    ),
    (
        {"$ref": "#/$defs/a", "$defs": {"a": SCHEMA}},
        {**SCHEMA, "$defs": {"a": SCHEMA}},
        True,
    ),
    (None, {"type": "object", "properties": {}}, True),
    (
        {"type": "object", "properties": {"n": {"const": float("nan")}}},
        {"type": "object", "properties": {}},
        True,
    ),
    (
        {"$ref": "#/$defs/gone", "type": "object", "properties": {}},
        {"$ref": "#/$defs/gone", "type": "object", "properties": {}},
        False,
    ),
    (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "type": "object", "properties": {}},
        True,
    ),
    (
        {"type": "object", "properties": None, "required": "n"},
        {"type": "object", "properties": {}},
        True,
    ),
]


@pytest.mark.parametrize("dialect", ["messages", "chat"])
@pytest.mark.parametrize(("schema", "expected", "noted"), TOOL_SCHEMAS)
def test_tool_schemas(
    schema: Any, expected: dict[str, Any], noted: bool, dialect: str
) -> None:
    """A tool's schema goes out as an object without a choice at its top."""
    specs = (ToolSpec(name="a", input_schema=schema),)
    given_ = setup(dialect, specs=specs)
    body, notes = body_of(user("hi"), to=model(dialect), given=given_)
    tool = body["tools"][0]
    assert (tool.get("input_schema") or tool["function"]["parameters"]) == expected
    assert bool(notes) is noted
    assert violations(dialect, body) is None


# ---------------------------------------------------------------- emulated tools

EMULATED = model("sql", emulated=True)


def test_emulated_tools_are_told_and_enforced() -> None:
    """Emulated tools stand in the system text, and the schema allows no others."""
    given_ = setup("sql", specs=(ROOMS, ASK))
    body, _ = body_of(user("hi"), to=EMULATED, given=given_)
    system = body["prompt"][0]["content"]
    assert system.startswith("Be brief.\n\n")
    assert '"name":"rooms-free_slots"' in system
    assert '"day"' in system
    schema = body["options"]["response_format"]["schema"]
    call = schema["properties"]["tool_calls"]["items"]["properties"]
    assert call["name"]["enum"] == ["rooms-free_slots", "ask_user"]
    assert schema["required"] == ["tool_calls", "text"]
    assert violations("sql", {**body, "model": GPT}) is None


@pytest.mark.parametrize("choice", [AnyTool(), SpecificTool("ask_user")])
def test_emulated_choice(choice: Any) -> None:
    """A forced call cannot be null, and a named one can be no other."""
    given_ = setup("sql", specs=(ROOMS, ASK))
    body, _ = body_of(user("hi"), to=EMULATED, given=given_, choice=choice)
    schema = body["options"]["response_format"]["schema"]
    calls = schema["properties"]["tool_calls"]
    assert calls["type"] == "array"
    named = isinstance(choice, SpecificTool)
    assert (calls["items"]["properties"]["name"]["enum"] == ["ask_user"]) is named
    assert "You must call" in body["prompt"][0]["content"]


def test_emulated_history() -> None:
    """Earlier calls and results are told in the words the model is asked to use."""
    log = (
        user("a"),
        said("so", use("t1", day="Mon"), use("t2")),
        results(result("t2", "no", error=True), result("t1")),
    )
    body, _ = body_of(*log, to=EMULATED)
    spoke, heard = (json.loads(m["content"]) for m in body["prompt"][2:])
    assert spoke == {
        "tool_calls": [
            {"name": "rooms-free_slots", "arguments": '{"day":"Mon"}'},
            {"name": "rooms-free_slots", "arguments": "{}"},
        ],
        "text": "so",
    }
    first = {"call": 1, "name": "rooms-free_slots", "content": "9:00"}
    second = {"call": 2, "name": "rooms-free_slots", "is_error": True}
    assert heard["tool_results"] == [
        first,
        {**second, "content": "The call failed.\nno"},
    ]


def test_emulated_final_answer() -> None:
    """A schema of the final answer becomes a nullable member beside the calls."""
    schema = {**SCHEMA, "$defs": {"a": {"type": "null"}}}
    given_ = setup("sql", output_format_schema=schema)
    body, _ = body_of(user("hi"), to=EMULATED, given=given_)
    sent = body["options"]["response_format"]["schema"]
    assert sent["properties"]["final"] == {**SHUT, "type": ["object", "null"]}
    assert sent["$defs"] == {"a": {"type": "null"}}
    assert "`final`" in body["prompt"][0]["content"]


def test_emulated_final_answer_of_another_shape() -> None:
    """A schema that cannot be null goes into the system text instead."""
    schema = {"anyOf": [SCHEMA]}
    given_ = setup("sql", output_format_schema=schema)
    body, notes = body_of(user("hi"), to=EMULATED, given=given_)
    sent = body["options"]["response_format"]["schema"]
    assert "final" not in sent["properties"]
    assert '{"anyOf":[' in body["prompt"][0]["content"]
    assert "top level" in notes[0]
