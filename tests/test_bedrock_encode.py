"""What the Bedrock codec makes of histories: each rule of Bedrock, each repair."""

import gc
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentloop.backends.bedrock import (
    CachePoints,
    Guardrail,
    ModelOptions,
    Thinking,
)
from agentloop.backends.bedrock.codec import Conversation
from agentloop.backends.bedrock.codec.names import TOOL_NAME, Names
from agentloop.core.config import AnyTool, Auto, SpecificTool, ToolSpec
from agentloop.core.content import (
    Document,
    Image,
    Json,
    Message,
    Opaque,
    Reasoning,
    ToolUse,
)
from agentloop.core.phases import Infer, Log
from agentloop.testing.fake_bedrock import first_violation
from tests import bedrock_cases as cases
from tests.bedrock_cases import (
    CLAUDE,
    LLAMA,
    MISTRAL,
    NOVA,
    PDF,
    PNG,
    R1,
    TITAN,
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

SEARCH = {"searchResult": {"source": "a", "title": "b", "content": [{"text": "c"}]}}


def turns(body: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The roles of a body's turns with the kinds of their blocks."""
    return [
        (turn["role"], [next(iter(block)) for block in turn["content"]])
        for turn in body["messages"]
    ]


def legal(body: dict[str, Any], model_id: str) -> dict[str, Any]:
    """The body, once every rule we know was checked."""
    assert first_violation(model_id, body) is None
    return body


# ---------------------------------------------------------------- turns

TURNS = {
    "the first turn is the user's": (
        CLAUDE,
        [said("hello"), user("hi")],
        [("user", ["text"]), ("assistant", ["text"]), ("user", ["text"])],
    ),
    "neighbours of one role are merged": (
        CLAUDE,
        [user("a"), user("b"), said("c"), said("d"), user("e")],
        [("user", ["text"] * 2), ("assistant", ["text"] * 2), ("user", ["text"])],
    ),
    "the last turn is never the assistant's": (
        CLAUDE,
        [user("a"), said("b")],
        [("user", ["text"]), ("assistant", ["text"]), ("user", ["text"])],
    ),
    "no turn is empty": (
        CLAUDE,
        [user(), said(), user()],
        [("user", ["text"]), ("assistant", ["text"]), ("user", ["text"])],
    ),
    "results come first, in call order, then text": (
        CLAUDE,
        [
            user("a"),
            said(use("t1"), use("t2")),
            results(result("t2")),
            user("by the way", result("t1")),
        ],
        [
            ("user", ["text"]),
            ("assistant", ["toolUse"] * 2),
            ("user", ["toolResult", "toolResult", "text"]),
        ],
    ),
    "a call without a result gets one": (
        CLAUDE,
        [user("a"), said(use("t1")), user("b")],
        [
            ("user", ["text"]),
            ("assistant", ["toolUse"]),
            ("user", ["toolResult", "text"]),
        ],
    ),
    "a result without a call goes": (
        CLAUDE,
        [user("a"), said(use("t1")), results(result("t1"), result("t9"))],
        [("user", ["text"]), ("assistant", ["toolUse"]), ("user", ["toolResult"])],
    ),
    "a second result for a call goes": (
        CLAUDE,
        [user("a"), said(use("t1")), results(result("t1")), user(result("t1"), "b")],
        [
            ("user", ["text"]),
            ("assistant", ["toolUse"]),
            ("user", ["toolResult", "text"]),
        ],
    ),
    "calls of two messages are answered one after another": (
        CLAUDE,
        [user("a"), said(use("t1")), said(use("t1")), results(result("t1"))],
        [
            ("user", ["text"]),
            ("assistant", ["toolUse"]),
            ("user", ["toolResult"]),
            ("assistant", ["toolUse"]),
            ("user", ["toolResult"]),
        ],
    ),
    "text beside results gets a turn of its own where it must": (
        NOVA,
        [user("a"), said(use("t1")), results(result("t1")), user("b")],
        [
            ("user", ["text"]),
            ("assistant", ["toolUse"]),
            ("user", ["toolResult"]),
            ("assistant", ["text"]),
            ("user", ["text"]),
        ],
    ),
    "a document has a text beside it": (
        CLAUDE,
        [user(Document("pdf", "plan", PDF))],
        [("user", ["document", "text"])],
    ),
    "reasoning leads its turn": (
        CLAUDE,
        [user("a"), said("b", Reasoning("hm", "sig")), user("c")],
        [
            ("user", ["text"]),
            ("assistant", ["reasoningContent", "text"]),
            ("user", ["text"]),
        ],
    ),
    "a model without tools is told of calls in words": (
        R1,
        [user("a"), said(use("t1")), results(result("t1")), user("b")],
        [("user", ["text"]), ("assistant", ["text"]), ("user", ["text", "text"])],
    ),
    "media and results of the assistant's go": (
        CLAUDE,
        [user("a"), said("b", Image("png", PNG), result("t1"), Json(1)), user("c")],
        [("user", ["text"]), ("assistant", ["text"]), ("user", ["text"])],
    ),
    "calls and reasoning of the user's go": (
        CLAUDE,
        [user("a", use("t1"), Reasoning("hm", "sig"))],
        [("user", ["text"])],
    ),
}


@pytest.mark.parametrize("name", TURNS)
def test_turns(name: str) -> None:
    """Each rule on turns holds for a history that breaks it, and the repair is told."""
    model_id, messages, expected = TURNS[name]
    body, notes = body_of(*messages, to=model(model_id))
    assert turns(legal(body, model_id)) == expected
    assert notes or name.startswith(("neighbours", "results come"))


def test_joined_results() -> None:
    """Server and client results of a turn stand in call order whatever their order."""
    call_turn = said(use("t1"), use("t2", "ask_user"), use("t3"))
    log = [
        user("a"),
        call_turn,
        results(result("t3"), result("t1")),
        user(result("t2")),
    ]
    body, notes = body_of(*log)
    found = [part["toolResult"]["toolUseId"] for part in body["messages"][2]["content"]]
    assert (found, notes) == (["t1", "t2", "t3"], ())


def test_reused_ids() -> None:
    """An id that an earlier turn used is matched in its own turn, and sent as new."""
    log = [user("a")]
    for id_, text in (("t1", "one"), ("t1_2", "two"), ("t1", "three")):
        log += [said(use(id_)), results(result(id_, text))]
    body, notes = body_of(*log)
    turns = legal(body, CLAUDE)["messages"]
    heard = [turn["content"][0]["toolResult"] for turn in turns[2::2]]
    told = [turn["content"][0]["toolUse"]["toolUseId"] for turn in turns[1::2]]
    assert [each["content"][0]["text"] for each in heard] == ["one", "two", "three"]
    assert [each["toolUseId"] for each in heard] == told == ["t1", "t1_2", "t1_3"]
    assert notes == ("the id 't1' of an earlier call became 't1_3'",)


# ---------------------------------------------------------------- blocks

BLOCKS = {
    "text": (CLAUDE, user("é 😀"), {"text": "é 😀"}),
    "json of the user": (CLAUDE, user(Json({"a": [1]})), {"text": '{"a":[1]}'}),
    "image": (
        CLAUDE,
        user(Image("png", PNG)),
        {"image": {"format": "png", "source": {"bytes": PNG}}},
    ),
    "image format in capitals": (
        CLAUDE,
        user(Image("JPG", PNG)),
        {"image": {"format": "jpeg", "source": {"bytes": PNG}}},
    ),
    "image of another format": (
        CLAUDE,
        user(Image("svg", PNG)),
        {"text": "(image of format svg left out)"},
    ),
    "image that is no base64": (
        CLAUDE,
        user(Image("png", "no base64")),
        {"text": "(image of format png left out)"},
    ),
    "base64 that is not canonical": (
        CLAUDE,
        user(Image("png", "YR==")),
        {"image": {"format": "png", "source": {"bytes": "YQ=="}}},
    ),
    "document name": (
        CLAUDE,
        user(Document("pdf", "a  plan.pdf", PDF), "read"),
        {"document": {"format": "pdf", "name": "a plan pdf", "source": {"bytes": PDF}}},
    ),
    "document of another format": (
        CLAUDE,
        user(Document("exe", "a", PDF)),
        {"text": "(document of format exe left out)"},
    ),
    "opaque of bedrock": (CLAUDE, user(Opaque("bedrock", SEARCH)), SEARCH),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_user_block(name: str) -> None:
    """Each kind of block of the user's has its form."""
    model_id, message, expected = BLOCKS[name]
    body, _ = body_of(message, to=model(model_id))
    assert legal(body, model_id)["messages"][0]["content"][0] == expected


ASSISTANT_BLOCKS = {
    "text": (said("b"), {"text": "b"}),
    "call": (
        said(use("t1", day="Mon", n=[1, None, 2.5])),
        {
            "toolUse": {
                "toolUseId": "t1",
                "name": "rooms-free_slots",
                "input": {"day": "Mon", "n": [1, None, 2.5]},
            }
        },
    ),
    "reasoning": (
        said(Reasoning("hm ", "sig=")),
        {"reasoningContent": {"reasoningText": {"text": "hm ", "signature": "sig="}}},
    ),
    "reasoning of a signature alone": (
        said(Reasoning("", "sig=")),
        {"reasoningContent": {"reasoningText": {"text": "", "signature": "sig="}}},
    ),
    "redacted reasoning": (
        said(Reasoning(redacted="c2VjcmV0")),
        {"reasoningContent": {"redactedContent": "c2VjcmV0"}},
    ),
    "opaque of bedrock": (
        said(Opaque("bedrock", {"citationsContent": {"content": []}})),
        {"citationsContent": {"content": []}},
    ),
}


@pytest.mark.parametrize("name", ASSISTANT_BLOCKS)
def test_assistant_block(name: str) -> None:
    """Each kind of block of the assistant's goes back as it came."""
    message, expected = ASSISTANT_BLOCKS[name]
    answer = results(result("t1")) if "toolUse" in expected else user("c")
    body, notes = body_of(user("a"), message, answer)
    assert (body["messages"][1]["content"][0], notes) == (expected, ())


LEFT_OUT = {
    "a blank text": (" \n", CLAUDE),
    "reasoning without a signature": (Reasoning("hm"), CLAUDE),
    "reasoning whose text is damaged": (Reasoning("h\ud800", "sig"), CLAUDE),
    "reasoning of a model that takes none": (Reasoning("hm", "sig"), R1),
    "redacted reasoning that is no base64": (Reasoning(redacted="?"), CLAUDE),
    "a block of another provider": (Opaque("cortex", {"x": 1}), CLAUDE),
    "a block nobody knew": (
        Opaque("bedrock", {"SDK_UNKNOWN_MEMBER": {"name": "x"}}),
        CLAUDE,
    ),
    "a block with two kinds": (Opaque("bedrock", {"text": "x", "image": {}}), CLAUDE),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_left_out(name: str) -> None:
    """What Bedrock would refuse is left out, told, and left as it was in the store."""
    block, model_id = LEFT_OUT[name]
    message = said("b", block)
    body, notes = body_of(user("a"), message, user("c"), to=model(model_id))
    assert turns(legal(body, model_id))[1] == ("assistant", ["text"])
    assert len(notes) >= 1
    assert message == said("b", block)


RESULTS = {
    "text": (CLAUDE, result("t1"), {"content": [{"text": "9:00"}]}),
    "an error where it has a status": (
        CLAUDE,
        result("t1", "no", error=True),
        {"content": [{"text": "no"}], "status": "error"},
    ),
    "an error where it has none": (
        LLAMA,
        result("t1", "no", error=True),
        {"content": [{"text": "The call failed."}, {"text": "no"}]},
    ),
    "nothing": (
        CLAUDE,
        cases.ToolResult("t1", ()),
        {"content": [{"text": "(no output)"}]},
    ),
    "an error that says nothing": (
        CLAUDE,
        cases.ToolResult("t1", (), is_error=True),
        {"content": [{"text": "(no output)"}], "status": "error"},
    ),
    "a blank text": (CLAUDE, result("t1", " "), {"content": [{"text": "(no output)"}]}),
    "an object": (
        CLAUDE,
        cases.ToolResult("t1", (Json({"a": 1}),)),
        {"content": [{"json": {"a": 1}}]},
    ),
    "a list": (
        CLAUDE,
        cases.ToolResult("t1", (Json([1, 2]),)),
        {"content": [{"text": "[1,2]"}]},
    ),
    "a list where only objects go": (
        MISTRAL,
        cases.ToolResult("t1", (Json([1, 2]),)),
        {"content": [{"json": {"result": [1, 2]}}]},
    ),
    "a text where only objects go": (
        MISTRAL,
        result("t1"),
        {"content": [{"json": {"result": "9:00"}}]},
    ),
    "a value that is no JSON": (
        CLAUDE,
        cases.ToolResult("t1", (Json(float("nan")),)),
        {"content": [{"text": '"(left out: $: nan is no JSON number)"'}]},
    ),
    "an image": (
        CLAUDE,
        cases.ToolResult("t1", (Image("png", PNG),)),
        {"content": [{"image": {"format": "png", "source": {"bytes": PNG}}}]},
    ),
    "an image where none goes": (
        LLAMA,
        cases.ToolResult("t1", (Image("png", PNG),)),
        {"content": [{"text": "(image left out)"}]},
    ),
    "a search result": (
        CLAUDE,
        cases.ToolResult("t1", (Opaque("bedrock", SEARCH),)),
        {"content": [SEARCH]},
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_result(name: str) -> None:
    """Each kind of tool result has the form its model takes."""
    model_id, answer, expected = RESULTS[name]
    log = [user("a"), said(use("t1")), results(answer)]
    body, _ = body_of(*log, to=model(model_id))
    found = legal(body, model_id)["messages"][2]["content"][0]["toolResult"]
    assert found == {"toolUseId": "t1", **expected}


def test_document_names() -> None:
    """No two documents of a request share a name, and a second encoding agrees."""
    papers = [Document("pdf", name, PDF) for name in ("a", "a", "a (2)", "é")]
    log = [user("read", *papers), said("b"), user(Document("pdf", "a", PDF), "c")]
    body, _ = body_of(*log)
    found = [
        part["document"]["name"]
        for turn in legal(body, CLAUDE)["messages"]
        for part in turn["content"]
        if "document" in part
    ]
    assert found == ["a", "a (2)", "a (2) (2)", "document", "a (3)"]


def test_document_name_of_a_growing_turn() -> None:
    """A turn that is encoded again because it grew keeps its documents' names."""
    conversation = Conversation(setup(), model())
    log = Log(user("read", Document("pdf", "a", PDF)))
    conversation.body(Infer(1, 1, 0, 0, Auto(), log), "j")
    log = log.append(user("and", Document("pdf", "b", PDF)))
    body = json.loads(conversation.body(Infer(1, 1, 0, 0, Auto(), log), "j"))
    parts = body["messages"][0]["content"]
    assert [p["document"]["name"] for p in parts if "document" in p] == ["a", "b"]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["functions.rooms", "x" * 65, "", "ü", "a b", "\ud800"]
)
def test_illegal_name(name: str) -> None:
    """A name a model made up is mapped on the wire and read back as it was."""
    conversation = Conversation(setup(), model())
    log = [user("a"), said(ToolUse("ü" * 70, name, {})), results(result("ü" * 70))]
    body = legal(json.loads(conversation.body(infer(*log), "j")), CLAUDE)
    sent = body["messages"][1]["content"][0]["toolUse"]
    answered = body["messages"][2]["content"][0]["toolResult"]
    assert conversation.tool_name(sent["name"]) == name
    assert answered["toolUseId"] == sent["toolUseId"]
    assert len(conversation.take_notes()) == 2


@given(st.lists(st.text(max_size=80), max_size=5, unique=True))
def test_names_are_kept_apart(texts: list[str]) -> None:
    """Different names stay different on the wire, and each finds its way back."""
    names = Names(TOOL_NAME)
    wires = [names.out(text) for text in texts]
    assert len(set(wires)) == len(texts)
    assert [names.back(wire) for wire in wires] == texts
    assert all(TOOL_NAME.fullmatch(wire) for wire in wires)


def test_offered_name_means_itself() -> None:
    """A name on offer is never read as another, whatever was mapped to it."""
    wire = Names(TOOL_NAME).out("ü")
    names = Names(TOOL_NAME, {wire})
    assert names.out("ü") == wire
    assert names.back(wire) == wire


# ---------------------------------------------------------------- tools


def test_placeholder_tools() -> None:
    """A history with calls has tools on offer even when the config has none."""
    log = [
        user("a"),
        said(use("t1"), use("t2", "a.b")),
        results(result("t1"), result("t2")),
    ]
    body, notes = body_of(*log, given=setup(specs=()))
    offered = [tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"]]
    called = [part["toolUse"]["name"] for part in body["messages"][1]["content"]]
    assert offered == called
    assert legal(body, CLAUDE)
    assert any("placeholders" in note for note in notes)


def test_placeholders_of_a_growing_log() -> None:
    """A tool that is called for the first time joins the placeholders."""
    conversation, log = Conversation(setup(specs=()), model()), Log(user("a"))
    for id_ in ("x", "y"):
        log = log.append(said(use(id_, id_)), results(result(id_)))
        body = json.loads(conversation.body(Infer(1, 1, 0, 0, Auto(), log), "j"))
        offered = [tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"]]
        assert offered[-1] == id_
    assert offered == ["x", "y"]


def test_blank_description() -> None:
    """A blank description is not sent: Bedrock refuses it."""
    spec = ToolSpec(name="a", description=" ", input_schema={"type": "object"})
    body, _ = body_of(user("a"), given=setup(specs=(spec,)))
    assert "description" not in body["toolConfig"]["tools"][0]["toolSpec"]


def test_any_job_id() -> None:
    """A job's id is written in the characters that metadata may hold."""
    raw = Conversation(setup(), model()).body(infer(user("a")), "jöb;1" + "x" * 300)
    sent = legal(json.loads(raw), CLAUDE)["requestMetadata"]["agentloop_job"]
    assert sent.startswith("j_b_1xx")
    assert len(sent) == 256


def test_no_tools_no_config() -> None:
    """Without tools and calls there is no tool configuration: it may not be empty."""
    body, _ = body_of(user("a"), given=setup(specs=()))
    assert "toolConfig" not in body


CHOICES = {
    "auto": (Auto(), CLAUDE, None),
    "any": (AnyTool(), CLAUDE, {"any": {}}),
    "one": (
        SpecificTool("rooms-free_slots"),
        NOVA,
        {"tool": {"name": "rooms-free_slots"}},
    ),
    "any where it is refused": (AnyTool(), LLAMA, None),
    "one where it is refused": (SpecificTool("rooms-free_slots"), MISTRAL, None),
}


@pytest.mark.parametrize("name", CHOICES)
def test_tool_choice(name: str) -> None:
    """A choice is sent in Bedrock's form, and only to models that take it."""
    choice, model_id, expected = CHOICES[name]
    body, notes = body_of(user("a"), to=model(model_id), choice=choice)
    assert legal(body, model_id)["toolConfig"].get("toolChoice") == expected
    assert bool(notes) == (expected is None and choice != Auto())


def test_choice_without_tools() -> None:
    """Placeholders are never forced on the model."""
    log = [user("a"), said(use("t1")), results(result("t1"))]
    body, _ = body_of(*log, given=setup(specs=()), choice=AnyTool())
    assert "toolChoice" not in body["toolConfig"]


def test_no_tools_for_a_model_without() -> None:
    """Tools are not offered to a model that takes none, and it is told."""
    body, notes = body_of(user("a"), to=model(R1))
    assert "toolConfig" not in body
    assert any("takes none" in note for note in notes)


# ---------------------------------------------------------------- the frame


def test_frame() -> None:
    """Limits, system and the job's id are always sent, options where they are set."""
    options = ModelOptions(
        top_p=0.5,
        stop_sequences=("END",),
        guardrail=Guardrail(identifier="abc1", version="2", trace="enabled"),
        service_tier="flex",
        latency="optimized",
        effort="low",
        request_fields={"top_k": 5},
        response_field_paths=("/stop_sequence",),
        metadata={"tenant": "a"},
    )
    body, notes = body_of(user("a"), to=model(CLAUDE, options))
    del body["messages"], body["toolConfig"]
    assert body == {
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 4096, "topP": 0.5, "stopSequences": ["END"]},
        "additionalModelRequestFields": {"top_k": 5},
        "guardrailConfig": {
            "guardrailIdentifier": "abc1",
            "guardrailVersion": "2",
            "trace": "enabled",
        },
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
        "performanceConfig": {"latency": "optimized"},
        "serviceTier": {"type": "flex"},
        "outputConfig": {"effort": "low"},
        "requestMetadata": {"agentloop_job": "job-1", "tenant": "a"},
    }
    assert notes == ()


@pytest.mark.parametrize("temperature", [0, 1, 0.25])
def test_temperature(temperature: float) -> None:
    """A temperature goes out as it was given; without one, none does."""
    body, _ = body_of(user("a"), given=setup(temperature=temperature))
    assert body["inferenceConfig"]["temperature"] == temperature
    assert "temperature" not in body_of(user("a"))[0]["inferenceConfig"]


@pytest.mark.parametrize("system", [None, "", " \n"])
def test_blank_system(system: str | None) -> None:
    """A blank system text is not sent."""
    body, _ = body_of(user("a"), given=setup(system=system))
    assert "system" not in body


def test_system_without_a_place() -> None:
    """A model without a system text gets it in the first user turn."""
    body, notes = body_of(user("a"), to=model(TITAN), given=setup(specs=()))
    texts = [part["text"] for part in body["messages"][0]["content"]]
    assert texts == ["Be brief.", "a"]
    assert "system" not in body
    assert any("system" in note for note in notes)


CACHES = {
    CLAUDE: (CachePoints(ttl="1h"), {"tools", "system", "messages"}),
    NOVA: (CachePoints(tools=False), {"system", "messages"}),
    LLAMA: (CachePoints(), set()),
}


@pytest.mark.parametrize("model_id", CACHES)
def test_cache_points(model_id: str) -> None:
    """Cache points stand where they are wanted and taken, the last in the last turn."""
    points, places = CACHES[model_id]
    to = model(model_id, ModelOptions(cache=points))
    conversation = Conversation(setup(), to)
    log = Log(user("a"))
    for number in range(4):
        body = json.loads(conversation.body(Infer(1, 1, 0, 0, Auto(), log), "j"))
        found = {
            "tools": body["toolConfig"]["tools"][1:],
            "system": body["system"][1:],
            "messages": [
                part
                for turn in legal(body, model_id)["messages"]
                for part in turn["content"]
                if "cachePoint" in part
            ],
        }
        assert {place for place, seen in found.items() if seen} == places
        assert all(len(seen) <= 1 for seen in found.values())
        log = log.append(said(use(f"t{number}")), results(result(f"t{number}")))


def test_thinking() -> None:
    """Thinking is asked for, but not while calls are answered that began without."""
    to = model(CLAUDE, ModelOptions(thinking=Thinking(2048)))
    wanted = {"thinking": {"type": "enabled", "budget_tokens": 2048}}
    first, _ = body_of(user("a"), to=to)
    thought = said(Reasoning("hm", "sig"), use("t1"))
    second, _ = body_of(user("a"), thought, results(result()), to=to)
    third, notes = body_of(user("a"), said(use("t1")), results(result()), to=to)
    assert legal(first, CLAUDE)["additionalModelRequestFields"] == wanted
    assert legal(second, CLAUDE)["additionalModelRequestFields"] == wanted
    assert "additionalModelRequestFields" not in legal(third, CLAUDE)
    assert any("thinking" in note for note in notes)


@pytest.mark.parametrize("first", [True, False])
def test_thinking_within_a_loop(first: bool) -> None:
    """Whether a loop of calls may think is settled by the turn it began with."""
    to = model(CLAUDE, ModelOptions(thinking=Thinking(2048)))
    log = [user("a")]
    for number, thinks in enumerate((first, not first)):
        thought = [Reasoning("hm", "sig")] if thinks else []
        log += [said(*thought, use(f"t{number}")), results(result(f"t{number}"))]
    body, _ = body_of(*log, to=to)
    assert ("additionalModelRequestFields" in legal(body, CLAUDE)) == first


def test_adaptive_thinking() -> None:
    """Thinking without a budget is adaptive."""
    to = model("anthropic.claude-opus-4-6-v1", ModelOptions(thinking=Thinking()))
    body, _ = body_of(user("a"), to=to)
    assert body["additionalModelRequestFields"] == {"thinking": {"type": "adaptive"}}


# ---------------------------------------------------------------- output

ANSWER = {"type": "object", "properties": {"a": {"type": "string"}}}


def test_native_output() -> None:
    """A schema of the subset is Bedrock's to enforce, in every iteration."""
    body, notes = body_of(user("a"), given=setup(output_format_schema=ANSWER))
    told = legal(body, CLAUDE)["outputConfig"]["textFormat"]
    assert told["type"] == "json_schema"
    sent = json.loads(told["structure"]["jsonSchema"]["schema"])
    assert sent == {**ANSWER, "additionalProperties": False}
    assert body["system"] == [{"text": "Be brief."}]
    assert notes == ()


@pytest.mark.parametrize(
    ("model_id", "schema"),
    [(LLAMA, ANSWER), (CLAUDE, {**ANSWER, "minProperties": 1})],
    ids=["no native output", "outside of the subset"],
)
def test_prompted_output(model_id: str, schema: dict[str, Any]) -> None:
    """Anywhere else the schema stands in the system text and nothing is forced."""
    given_setup = setup(output_format_schema=schema)
    body, _ = body_of(user("a"), to=model(model_id), given=given_setup)
    assert "outputConfig" not in legal(body, model_id)
    assert json.dumps(schema, separators=(",", ":")) in body["system"][1]["text"]
    assert "toolChoice" not in body["toolConfig"]


# ---------------------------------------------------------------- growth


@settings(max_examples=60)
@given(messages=cases.messages(8), history=cases.messages(3))
def test_growing(messages: list[Message], history: list[Message]) -> None:
    """A session that grows with its log sends what a fresh one would send."""
    given_setup, to = setup(*history), model(NOVA)
    growing = Conversation(given_setup, to)
    log = Log()
    for message in messages:
        log = log.append(message)
        command = Infer(1, 1, 0.0, 0.0, Auto(), log)
        fresh = Conversation(given_setup, to).body(command, "j")
        assert growing.body(command, "j") == growing.body(command, "j") == fresh


def test_another_log() -> None:
    """A log that does not continue the last is encoded from its start."""
    conversation = Conversation(setup(), model())
    long = infer(user("a"), said("b"), user("c"))
    other = infer(user("x"), said("y"), user("z"))
    first = conversation.body(long, "j")
    assert b'"x"' in conversation.body(other, "j")
    assert conversation.body(infer(user("a")), "j").count(b"role") == 1
    assert conversation.body(long, "j") == first


def test_notes_are_told_once() -> None:
    """A repair is reported with the attempt that made it and not again."""
    conversation = Conversation(setup(user(" ")), model())
    log = Log(user("a"))
    conversation.body(Infer(1, 1, 0, 0, Auto(), log), "j")
    assert conversation.take_notes() == ("a blank text was left out",)
    log = log.append(said("b"), user("c"))
    conversation.body(Infer(2, 1, 0, 0, Auto(), log), "j")
    assert conversation.take_notes() == ()


def test_many_notes() -> None:
    """However much is repaired, the report stays short."""
    log = [user(*(Opaque(f"p{n}", {}) for n in range(500)), "a")]
    assert len(body_of(*log)[1]) == 50


def test_spec_is_verbatim() -> None:
    """A tool that Bedrock takes goes out as it is, strict where that is known."""
    spec = ToolSpec(
        name="a",
        description="does é",
        input_schema={"type": "object", "properties": {"x": {"enum": [1, None]}}},
        strict=True,
    )
    body, notes = body_of(user("a"), given=setup(specs=(spec,)))
    assert legal(body, CLAUDE)["toolConfig"]["tools"] == [
        {
            "toolSpec": {
                "name": "a",
                "description": "does é",
                "inputSchema": {
                    "json": {**spec.input_schema, "additionalProperties": False}
                },
                "strict": True,
            }
        }
    ]
    loose, told = body_of(user("a"), given=setup(specs=(spec,)), to=model(NOVA))
    sent = legal(loose, NOVA)["toolConfig"]["tools"][0]["toolSpec"]
    assert sent["inputSchema"]["json"] == spec.input_schema
    assert "strict" not in sent
    assert notes == ()
    assert len(told) == 1


@pytest.mark.parametrize(
    "schema",
    [{"type": "object", "minProperties": 1}, {"type": "object", "x": float("nan")}],
    ids=["beyond the subset", "no JSON"],
)
def test_odd_schema(schema: dict[str, Any]) -> None:
    """A strict tool with a schema that cannot be strict is offered all the same."""
    spec = ToolSpec(name="a", input_schema=schema, strict=True)
    body, notes = body_of(user("a"), given=setup(specs=(spec,)))
    [tool] = legal(body, CLAUDE)["toolConfig"]["tools"]
    assert "strict" not in tool["toolSpec"]
    assert any("not strict" in note for note in notes)


def test_server_tools_of_the_history() -> None:
    """Calls that Bedrock made itself need a tool configuration too."""
    call = {"toolUseId": "s1", "name": "grounding", "input": {}, "type": "x"}
    log = [user("a"), said("b", Opaque("bedrock", {"toolUse": call})), user("c")]
    body, _ = body_of(*log, given=setup(specs=()))
    [tool] = body["toolConfig"]["tools"]
    assert tool["toolSpec"]["name"] == "grounding"


def calls_of(work: Callable[[], object]) -> int:
    """How many functions of Python's and C's a piece of work calls.

    A collection calls back whoever asked to hear of it, so none may fall into it.
    """
    count = 0

    def tick(frame: object, event: str, _: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    gc.disable()
    sys.setprofile(tick)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def test_work_does_not_grow() -> None:
    """The next request costs as many calls after 512 turns as after 8."""
    found = {}
    for length in (8, 512):
        conversation = Conversation(setup(), model())
        log = Log(user("a"))
        for number in range(length):
            conversation.body(Infer(1, 1, 0, 0, Auto(), log), "j")
            id_ = f"t{number}"
            log = log.append(said("so", use(id_, day="Mon")), results(result(id_)))
        command = Infer(1, 1, 0, 0, Auto(), log)
        found[length] = calls_of(partial(conversation.body, command, "j"))
    assert found[512] == found[8]
