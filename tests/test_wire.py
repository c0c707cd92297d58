"""Values to JSON and back: round trips, refusals by path, and the contract's form."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from agentloop.core.catalog import BY_TYPE, DOCS_BASE, FAILURES
from agentloop.core.catalog import Failure as Fault
from agentloop.core.config import Auto, Config, Override, SpecificTool, ToolChoice
from agentloop.core.content import (
    Block,
    Image,
    Json,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.core.request import (
    NewConversation,
    Payload,
    StartRequest,
    ToolOutputs,
    UserMessage,
)
from agentloop.core.run import (
    Conversation,
    MessageDelta,
    Page,
    PendingToolCall,
    Run,
    RunError,
    RunEvent,
    StoredMessage,
    Usage,
)
from agentloop.wire import (
    WireError,
    clean_blocks,
    clean_message,
    dump,
    instant,
    is_uuid,
    load,
    message_from,
    message_text,
    to_json,
    undump,
)
from tests import strategies as some

# ---------------------------------------------------------------- round trips

FIXED = {
    "id": "r1",
    "conversation_id": "c1",
    "company_id": 1,
    "user_id": 2,
    "client_op_id": "o1",
    "started_at": "2026-06-01T08:00:00.000000Z",
}
CALLS = st.builds(PendingToolCall, some.ids(), some.texts(1), some.json_objects())
ERRORS = st.builds(RunError, some.texts(1), some.texts(), st.none() | some.texts())
RUNS = st.builds(
    Run,
    **{name: st.just(value) for name, value in FIXED.items()},
    status=st.sampled_from(["pending", "running", "completed", "failed"]),
    tool_choice=st.none() | some.tool_choices(),
    effective_config=some.configs(),
    iterations_used=st.none() | st.integers(0, 9),
    usage=st.none() | some.usages(),
    submitted_inference_job_ids=st.lists(some.texts(1), max_size=2).map(tuple),
    pending_tool_calls=st.lists(CALLS, max_size=2).map(tuple),
    final_text=st.none() | some.texts(),
    final_structured_output=some.json_values(),
    error=st.none() | ERRORS,
    completed_at=st.none() | st.just("2026-06-01T08:00:09.000000Z"),
)
CONVERSATIONS = st.builds(
    Conversation,
    id=some.texts(1),
    company_id=st.integers(0),
    user_id=st.integers(0),
    defaults=some.configs(),
    version=st.integers(0),
    created_at=some.texts(1),
    updated_at=some.texts(1),
    name=st.none() | some.texts(),
    system_prompt=st.none() | some.texts(),
)
STORED = st.builds(
    StoredMessage,
    id=some.texts(1),
    sequence_no=st.integers(1),
    role=st.sampled_from(["user", "assistant", "tool"]),
    content_blocks=st.lists(some.blocks(), max_size=2).map(tuple),
    run_id=some.texts(1),
    created_at=some.texts(1),
)
STARTS = st.builds(
    StartRequest,
    client_op_id=some.texts(1),
    expected_version=st.integers(0),
    payload=some.payloads(),
    tool_choice=st.none() | some.tool_choices(),
    config_override=st.none() | some.overrides(),
)
KINDS: dict[str, tuple[Any, st.SearchStrategy]] = {
    "block": (Block, some.blocks()),
    "message": (Message, some.messages()),
    "config": (Config, some.configs()),
    "override": (Override, some.overrides()),
    "tool choice": (ToolChoice, some.tool_choices()),
    "payload": (Payload, some.payloads()),
    "start request": (StartRequest, STARTS),
    "new conversation": (
        NewConversation,
        st.builds(NewConversation, defaults=some.configs(), name=some.texts()),
    ),
    "usage": (Usage, some.usages()),
    "failure": (Fault, some.failures()),
    "run": (Run, RUNS),
    "conversation": (Conversation, CONVERSATIONS),
    "stored message": (StoredMessage, STORED),
    "delta": (
        MessageDelta,
        st.builds(
            MessageDelta, current_version=st.integers(0), messages=st.tuples(STORED)
        ),
    ),
    "page": (
        Page,
        st.builds(
            Page,
            current_page=st.integers(1),
            total_records=st.integers(0),
            total_pages=st.integers(0),
            records=st.tuples(CONVERSATIONS),
            next_page=st.none() | st.integers(1),
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(data=st.data())
def test_every_value_survives_json(kind, data):
    """What is written is read as the same value, and writes the same bytes."""
    type_, values = KINDS[kind]
    value = data.draw(values)
    text = dump(to_json(value))
    again = load(undump(text), type_)
    assert again == value
    assert dump(to_json(again)) == text


@given(some.messages())
def test_a_message_is_one_line_of_ascii(message):
    """The form in which stores keep it, byte for byte."""
    line = message_text(message)
    assert line.isascii()
    assert "\n" not in line
    assert message_from(line) == message
    assert message_text(message_from(line)) == line


@given(some.messages())
def test_a_line_put_together_is_the_line_the_encoder_would_write(message):
    """Joining the parts of a message gives the text of its value, to the letter."""
    assert message_text(message) == dump(to_json(message))


@pytest.mark.parametrize(
    "message",
    [
        Message("user", (Text(7),)),  # type: ignore[arg-type] # what a host may pass
        Message("user", (Text(None),)),  # type: ignore[arg-type] # the same
        Message("assistant", (ToolUse("t", "n", {"x": float("nan")}),)),
        Message("assistant", (ToolUse(3, "n", {}),)),  # type: ignore[arg-type] # too
        Message("tool", (ToolResult("t", (Json({1, 2}),)),)),
    ],
)
def test_a_line_holds_nothing_that_json_has_no_form_for(message):
    """What is no JSON is refused with a path, whichever way it is written."""
    with pytest.raises(WireError, match=r"^\$"):
        message_text(message)


def test_reasoning_stays_byte_exact():
    """White space and empty texts are covered by the signature, too."""
    for block in (
        Reasoning(" \n\tthought \u200b", "c2lnbg=="),
        Reasoning("", "c2lnbg=="),
        Reasoning(redacted="AAECAw=="),
    ):
        assert load(undump(dump(to_json(block))), Block) == block
    assert to_json(Reasoning("", "s")) == {
        "type": "reasoning",
        "text": "",
        "signature": "s",
    }


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"role":"user"}', '{"role":"x"}'])
def test_a_damaged_line_is_a_wire_error(line):
    """A store that gives back something else is told so."""
    with pytest.raises(WireError):
        message_from(line)


# ---------------------------------------------------------------- refusals by path

URL = "https://x.example.com/mcp"
TOOL = {"name": "t", "description": "d", "input_schema": {"any": 1}, "strict": True}
START = {
    "client_op_id": "o",
    "expected_version": 0,
    "payload": {
        "kind": "user_message",
        "content_blocks": [{"type": "text", "text": "x"}],
    },
    "tool_choice": {"kind": "specific_tool", "name": "t", "mcp_alias": "docs"},
    "config_override": {
        "model": "m",
        "data_plane_id": "p",
        "execution_cluster": "shared",
        "compute_pool_id": "c",
        "max_iterations": 3,
        "max_tokens": 9,
        "temperature": 0.5,
        "output_format_schema": {"type": "object"},
        "mcp_servers": [
            {"alias": "docs", "url": URL, "tools": [TOOL], "description": "d"}
        ],
        "client_tools": [{"alias": "user", "tools": [TOOL], "description": "d"}],
        "tools": [TOOL],
    },
}
OUTPUTS = {
    **START,
    "payload": {
        "kind": "tool_outputs",
        "outputs": [
            {"tool_use_id": "a", "content": {"free": True}, "is_error": False},
            {
                "tool_use_id": "b",
                "content_blocks": [
                    {"type": "json", "json": {"any": 1}},
                    {"type": "image", "format": "png", "data": "AAEC"},
                    {"type": "document", "format": "pdf", "name": "n", "data": "AAEC"},
                ],
            },
        ],
    },
}
CREATE = {
    "defaults": START["config_override"],
    "name": "n",
    "system_prompt": "s",
}
BODIES = {"start": (START, StartRequest), "outputs": (OUTPUTS, StartRequest)}
BODIES["create"] = (CREATE, NewConversation)
FREE = {"input_schema", "output_format_schema", "json", "content"}
"""Keys whose values are any JSON."""


def places(node: Any, path: str = "$") -> list[tuple[str, Any]]:
    """Every value of a body whose shape is fixed, with its path."""
    found = [(path, node)]
    if isinstance(node, dict):
        for name, item in node.items():
            inner = [] if name in FREE else places(item, f"{path}.{name}")
            found += inner or [(f"{path}.{name}", item)]
    if isinstance(node, list):
        for index, item in enumerate(node):
            found += places(item, f"{path}[{index}]")
    return found


def at(body: Any, path: str) -> Any:
    """The value at a path of a body."""
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        body = body[int(index) if index else name]
    return body


def replace(body: Any, path: str, new: Any) -> None:
    """Put another value at a path of a body."""
    holder, name, index = re.fullmatch(r"(.*?)(?:\.(\w+)|\[(\d+)\])", path).groups()
    at(body, holder)[int(index) if index else name] = new


def fresh(body: Any) -> Any:
    """A copy in which nothing is shared."""
    return undump(dump(body))


def refused(body: Any, type_: Any) -> WireError:
    """The error with which a body is refused."""
    with pytest.raises(WireError) as caught:
        load(body, type_)
    return caught.value


OBJECTS = [
    (name, path)
    for name, (body, _) in BODIES.items()
    for path, node in places(body)
    if isinstance(node, dict) and path.rpartition(".")[2] not in FREE
]
VALUES = [
    (name, path)
    for name, (body, _) in BODIES.items()
    for path, _ in places(body)
    if path.rpartition(".")[2] not in {"json", "content"}
]


@pytest.mark.parametrize("name", BODIES)
def test_a_whole_body_is_taken(name):
    """Every key that the contract knows, at once."""
    body, type_ = BODIES[name]
    load(body, type_)


@pytest.mark.parametrize(("name", "path"), OBJECTS)
def test_an_unknown_key_is_refused_at_any_depth(name, path):
    """The JSON path leads to the key itself."""
    body, type_ = BODIES[name]
    body = fresh(body)
    at(body, path)["surprise"] = None
    error = refused(body, type_)
    assert (error.path, error.problem) == (f"{path}.surprise", "unknown key")


@pytest.mark.parametrize(("name", "path"), VALUES)
@pytest.mark.parametrize("wrong", [object(), b"x"], ids=["object", "bytes"])
def test_a_value_of_a_wrong_type_is_refused_at_any_depth(name, path, wrong):
    """Whatever stands there, the path leads to it, or to its own discriminator."""
    body, type_ = BODIES[name]
    body = fresh(body)
    if path == "$":
        body = wrong
    else:
        replace(body, path, wrong)
    assert refused(body, type_).path == path


@given(some.messages(), st.data())
def test_an_unknown_key_of_a_stored_message_is_refused(message, data):
    """Blocks inside results inside messages: nothing is ever read past."""
    body = to_json(message)
    objects = [("$", body)]
    for i, block in enumerate(body["content_blocks"]):
        objects.append((f"$.content_blocks[{i}]", block))
        for j, inner in enumerate(block.get("content_blocks", [])):
            objects.append((f"$.content_blocks[{i}].content_blocks[{j}]", inner))
    path, place = data.draw(st.sampled_from(objects))
    place["surprise"] = 1
    error = refused(fresh(body), Message)
    assert (error.path, error.problem) == (f"{path}.surprise", "unknown key")


REQUIRED_KEYS = [
    ("start", "$.client_op_id"),
    ("start", "$.expected_version"),
    ("start", "$.payload"),
    ("start", "$.config_override.mcp_servers[0].alias"),
    ("start", "$.config_override.client_tools[0].alias"),
    ("start", "$.config_override.client_tools[0].tools"),
    ("start", "$.config_override.tools[0].name"),
    ("start", "$.config_override.tools[0].input_schema"),
    ("start", "$.tool_choice.name"),
    ("start", "$.payload.content_blocks[0].text"),
    ("outputs", "$.payload.outputs[0].tool_use_id"),
    ("outputs", "$.payload.outputs[1].content_blocks[0].json"),
    ("outputs", "$.payload.outputs[1].content_blocks[1].format"),
    ("outputs", "$.payload.outputs[1].content_blocks[2].name"),
    ("create", "$.defaults"),
    ("create", "$.defaults.model"),
]


@pytest.mark.parametrize(("name", "path"), REQUIRED_KEYS)
def test_a_missing_key_is_named(name, path):
    """The path is that of the key that should be there."""
    body, type_ = BODIES[name]
    body = fresh(body)
    holder, _, key = path.rpartition(".")
    del at(body, holder)[key]
    error = refused(body, type_)
    assert (error.path, error.problem) == (path, "required")


@pytest.mark.parametrize(
    ("path", "wrong", "problem"),
    [
        ("$.model", None, "must be a string, not None"),
        ("$.model", 5, "must be a string, not 5"),
        ("$.max_iterations", True, "must be an integer, not True"),
        ("$.max_iterations", 3.5, "must be an integer, not 3.5"),
        ("$.max_tokens", 1e300, "must be an integer, not 1e+300"),
        ("$.max_iterations", "3", "must be an integer, not '3'"),
        ("$.max_iterations", None, "must be an integer, not None"),
        ("$.max_tokens", None, "must be an integer, not None"),
        ("$.temperature", "0", "must be a number, not '0'"),
        ("$.temperature", False, "must be a number, not False"),
        (
            "$.execution_cluster",
            "mine",
            "must be one of shared, dedicated, not 'mine'",
        ),
        ("$.execution_cluster", [], "must be one of shared, dedicated, not []"),
        ("$.output_format_schema", "{}", "must be an object, not '{}'"),
        ("$.mcp_servers", {}, "must be a list, not {}"),
        ("$.mcp_servers", "docs", "must be a list, not 'docs'"),
        ("$.mcp_servers[0]", "docs", "must be an object, not 'docs'"),
        ("$.mcp_servers[0].tools[0].strict", 1, "must be true or false, not 1"),
        ("$.tools[0].input_schema", [], "must be an object, not []"),
        ("$.tools[0].name", "x" * 99, None),
    ],
)
def test_a_field_of_a_config_says_what_it_must_be(path, wrong, problem):
    """No text is read as a number, no number as a truth."""
    body = fresh(START["config_override"])
    replace(body, path, wrong)
    if problem is None:
        load(body, Config)
        return
    error = refused(body, Config)
    assert (error.path, error.problem) == (path, problem)


def test_a_number_without_a_fraction_is_an_integer():
    """As JSON Schema has it, and with it the document that describes the surface."""
    read = load({"model": "m", "max_tokens": 100.0, "max_iterations": 3.0}, Config)
    assert (read.max_tokens, read.max_iterations) == (100, 3)
    assert (type(read.max_tokens), type(read.max_iterations)) == (int, int)


@pytest.mark.parametrize(
    ("tag", "shown"), [("video", "'video'"), (None, "None"), ([], "[]"), ({}, "{}")]
)
def test_an_unknown_tag_is_told_with_those_that_are_known(tag, shown):
    """Blocks by type, tool choices and payloads by kind; any value may stand there."""
    every = "text, json, image, document, opaque, tool_use, tool_result, reasoning"
    body = {"role": "user", "content_blocks": [{"type": tag}]}
    error = refused(body, Message)
    assert error.path == "$.content_blocks[0].type"
    assert error.problem == f"must be one of {every}, not {shown}"
    error = refused({"kind": tag}, ToolChoice)
    assert error.problem == f"must be one of auto, any, specific_tool, not {shown}"
    error = refused({"kind": tag}, Payload)
    assert error.problem == f"must be one of user_message, tool_outputs, not {shown}"


def test_a_tag_must_be_there():
    """Without a tag a block is nothing in particular."""
    assert refused({"text": "x"}, Block).path == "$.type"
    assert refused({}, ToolChoice).path == "$.kind"


@pytest.mark.parametrize("value", [None, 5, "auto", []])
def test_a_tagged_value_is_an_object(value):
    """Only an optional one may be null."""
    shown = f"must be an object, not {value!r}"
    assert refused(value, Block).problem == shown
    assert refused(value, Payload).problem == shown
    if value is None:
        assert load(None, ToolChoice | None) is None
    else:
        assert refused(value, ToolChoice | None).problem == shown


def test_an_error_shows_no_more_than_it_must():
    """Long values and long keys are cut."""
    assert len(str(refused({"model": ["x" * 10_000]}, Config))) < 120
    assert len(str(refused({"model": "m", "k" * 10_000: 1}, Config))) < 120


def test_python_objects_with_odd_keys_are_refused_alike():
    """A dict from Python may hold any key; it is unknown, not a crash."""
    assert refused({"model": "m", 5: 1, None: 2}, Config).problem == "unknown key"


# ---------------------------------------------------------------- convenience


@pytest.mark.parametrize(
    ("content", "block"),
    [
        ("done", Text("done")),
        ("", Text("")),
        (None, Json(None)),
        (0, Json(0)),
        (False, Json(False)),
        ([], Json([])),
        ({"type": "text", "text": "x"}, Json({"type": "text", "text": "x"})),
    ],
)
def test_an_output_may_be_any_value(content, block):
    """A string is text, everything else is JSON, and nothing is guessed."""
    body = {
        "kind": "tool_outputs",
        "outputs": [{"tool_use_id": "a", "content": content}],
    }
    assert load(body, Payload) == ToolOutputs((ToolResult("a", (block,), False),))


@pytest.mark.parametrize(
    ("output", "path", "problem"),
    [
        ({}, "", "needs either content or content_blocks"),
        (
            {"content": 1, "content_blocks": []},
            "",
            "needs either content or content_blocks",
        ),
        ({"content": 1, "is_error": 0}, ".is_error", "must be true or false, not 0"),
        (
            {"content_blocks": [{"type": "opaque", "provider": "p", "value": {}}]},
            ".content_blocks[0].type",
            "must be one of text, json, image, document, not 'opaque'",
        ),
        (
            {"content_blocks": [{"type": "text", "text": "a"}, {"type": "txt"}]},
            ".content_blocks[1].type",
            "must be one of text, json, image, document, not 'txt'",
        ),
        ({"content_blocks": "a"}, ".content_blocks", "must be a list, not 'a'"),
        ({"content": 1, "name": "x"}, ".name", "unknown key"),
    ],
)
def test_an_output_is_one_thing(output, path, problem):
    """Two contents, none, or a block that only a provider may send."""
    body = {"kind": "tool_outputs", "outputs": [{"tool_use_id": "a", **output}]}
    error = refused(body, Payload)
    assert (error.path, error.problem) == (f"$.outputs[0]{path}", problem)


@pytest.mark.parametrize(
    ("body", "path", "problem"),
    [
        ({}, "$", "needs either text or content_blocks"),
        (
            {"text": "a", "content_blocks": []},
            "$",
            "needs either text or content_blocks",
        ),
        ({"text": 5}, "$.text", "must be a string, not 5"),
        ({"text": "a", "outputs": []}, "$.outputs", "unknown key"),
        (
            {"content_blocks": [{"type": "json", "json": 1}]},
            "$.content_blocks[0].type",
            "must be one of text, image, document, not 'json'",
        ),
    ],
)
def test_a_user_message_is_text_or_blocks(body, path, problem):
    """One of the two, and only what a person can send."""
    error = refused({"kind": "user_message", **body}, Payload)
    assert (error.path, error.problem) == (path, problem)
    text = load({"kind": "user_message", "text": "hi"}, Payload)
    assert text == UserMessage((Text("hi"),))


@pytest.mark.parametrize("value", [None, {}, "x"])
def test_outputs_are_a_list(value):
    """Also when there is only one."""
    body = {"kind": "tool_outputs", "outputs": value}
    assert refused(body, Payload).path == "$.outputs"
    assert refused({"kind": "tool_outputs"}, Payload).path == "$.outputs"


def test_null_in_an_override_is_kept_apart_from_absence():
    """Clearing a field is not the same as leaving it."""
    found = load({"temperature": None, "tools": []}, Override)
    assert found.changes == {"temperature": None, "tools": ()}
    assert to_json(found) == {"temperature": None, "tools": []}
    assert refused([], Override).problem == "must be an object, not []"


# ---------------------------------------------------------------- media


@pytest.mark.parametrize(
    "data", ["", "A", "AAA", "AA=A", "A===", "AAE-", "AA E", "é==="]
)
def test_media_are_base64(data):
    """What no provider could decode is refused where it comes in."""
    body = {"type": "image", "format": "png", "data": data}
    error = refused(body, Block)
    assert (error.path, error.problem) == ("$.data", "must be base64")


@pytest.mark.parametrize(
    ("kind", "formats"),
    [
        ("image", "png, jpeg, gif, webp"),
        ("document", "pdf, csv, doc, docx, xls, xlsx, html, txt, md"),
    ],
)
def test_media_have_a_known_format(kind, formats):
    """Lower-case names of the formats that every provider knows."""
    extra = {"name": "n"} if kind == "document" else {}
    body = {"type": kind, "data": "AAEC", **extra}
    for good in formats.split(", "):
        load({**body, "format": good}, Block)
    for bad in ("PNG", "jpg", "", "svg"):
        error = refused({**body, "format": bad}, Block)
        assert error.path == "$.format"
        assert error.problem == f"must be one of {formats}, not {bad!r}"


@pytest.mark.parametrize(("length", "fits"), [(0, False), (1, True), (200, True)])
def test_a_document_has_a_name(length, fits):
    """One to two hundred characters, as the model sees it."""
    body = {"type": "document", "format": "pdf", "data": "AAEC", "name": "n" * length}
    if fits:
        load(body, Block)
    else:
        assert refused(body, Block).path == "$.name"
    assert refused({**body, "name": "n" * 201}, Block).path == "$.name"


# ---------------------------------------------------------------- the contract's form


def test_absent_fields_of_a_config_stay_absent():
    """What was not said is not echoed as null or as a list."""
    written = to_json(load({"model": "m"}, Config))
    assert written == {"model": "m", "max_iterations": 8, "max_tokens": 4096}
    assert to_json(load({"model": "m", "tools": []}, Config))["tools"] == []


def test_nulls_inside_schemas_are_values():
    """Only our own fields can be absent."""
    schema = {"default": None, "enum": [None]}
    config = load({"model": "m", "output_format_schema": schema}, Config)
    assert to_json(config)["output_format_schema"] == schema


def test_an_unknown_error_type_has_no_title():
    """Both presentation fields are left out together."""
    assert to_json(RunError("NewError", "m")) == {"type": "NewError", "message": "m"}


def test_a_page_names_neighbours_only_where_there_are_some():
    """Absent, not null."""
    page = Page(current_page=1, total_records=0, total_pages=0, records=())
    first = {"current_page": 1, "total_records": 0, "total_pages": 0, "records": []}
    assert to_json(page) == first
    assert to_json(evolve(page, next_page=2)) == {**first, "next_page": 2}


def test_a_tool_choice_names_an_alias_only_where_there_is_one():
    """The documented shapes, no more."""
    assert to_json(Auto()) == {"kind": "auto"}
    assert to_json(SpecificTool("t")) == {"kind": "specific_tool", "name": "t"}
    assert to_json(SpecificTool("t", "docs")) == {
        "kind": "specific_tool",
        "name": "t",
        "mcp_alias": "docs",
    }


def test_usage_shows_its_total_and_reads_it_as_said():
    """The total is derived, so a stored one is not believed."""
    written = to_json(Usage(prompt_tokens=5, completion_tokens=2))
    assert written["total_tokens"] == 7
    assert load({**written, "total_tokens": 99}, Usage).total_tokens == 7
    assert refused([], Usage).problem == "must be an object, not []"


def test_an_event_is_slim():
    """A text delta has no id."""
    assert to_json(RunEvent("text_delta", {"text": "a"})) == {
        "id": None,
        "kind": "text_delta",
        "data": {"text": "a"},
    }


def test_every_kind_of_failure_can_be_stored():
    """A staged result may be any of them."""
    for kind in FAILURES:
        fault = Fault(kind=kind, message="m", code="c", retry_after=1.5)
        assert load(to_json(fault), Fault) == fault


# The three samples of the run page: field names and nullness are the page's, the
# values are ours.
COMPLETED = {
    "id": "1d7f0f3e-54cf-4d0b-8a41-0d5d7a1c9e01",
    "conversation_id": "2d7f0f3e-54cf-4d0b-8a41-0d5d7a1c9e02",
    "company_id": 12,
    "user_id": 90,
    "client_op_id": "3d7f0f3e-54cf-4d0b-8a41-0d5d7a1c9e03",
    "status": "completed",
    "tool_choice": None,
    "effective_config": {"model": "m", "max_iterations": 3, "max_tokens": 64},
    "iterations_used": 1,
    "usage": {"prompt_tokens": 160, "completion_tokens": 9, "total_tokens": 169},
    "submitted_inference_job_ids": ["4d7f0f3e-54cf-4d0b-8a41-0d5d7a1c9e04"],
    "pending_tool_calls": [],
    "final_text": "Room 3 is free.",
    "error": None,
    "started_at": "2026-06-01T08:00:05.000000Z",
    "completed_at": "2026-06-01T08:00:21.000000Z",
}
PAUSED = {
    "id": "5d7f0f3e-54cf-4d0b-8a41-0d5d7a1c9e05",
    "status": "requires_action",
    "iterations_used": 1,
    "pending_tool_calls": [
        {
            "tool_use_id": "tooluse_Zm9v",
            "name": "user-approve",
            "arguments": {"slot": "Friday, ten"},
        }
    ],
    "final_text": None,
}
BROKEN = {
    "id": "6d7f0f3e-54cf-4d0b-8a41-0d5d7a1c9e06",
    "status": "failed",
    "iterations_used": None,
    "usage": None,
    "final_text": None,
    "error": {
        "type": "AgentLoopMaxIterationsExceeded",
        "message": "max iterations exceeded after 4 iterations",
        "title": "Max Iterations Exceeded",
        "docs_url": f"{DOCS_BASE}max-iterations-exceeded",
    },
}


@pytest.mark.parametrize(
    "sample", [COMPLETED, PAUSED, BROKEN], ids=lambda s: s["status"]
)
def test_the_documented_samples_are_runs_of_ours(sample):
    """Each of their fields is one of ours, null where theirs is null."""
    run = load({**COMPLETED, **sample}, Run)
    written = to_json(run)
    for name, value in sample.items():
        if name == "usage" and value:
            assert value.items() <= written[name].items()
        else:
            assert written[name] == value
    assert set(written) == {*COMPLETED, "final_structured_output"}
    assert list(written)[: list(written).index("final_text")] == list(COMPLETED)[:-4]


def test_a_title_and_a_page_come_from_the_catalog():
    """The sample's presentation is what our table says of its type."""
    error = BROKEN["error"]
    row = BY_TYPE[error["type"]]
    assert (error["title"], error["docs_url"]) == (row.title, DOCS_BASE + row.slug)


# ---------------------------------------------------------------- cleaning values

MARK = "\ufffd"


@pytest.mark.parametrize(
    ("block", "cleaned", "count"),
    [
        (Text("a\0"), Text(f"a{MARK}"), 1),
        (
            ToolUse("a\0", "b\ud800", {"c\0": ["\0"]}),
            ToolUse(f"a{MARK}", f"b{MARK}", {f"c{MARK}": [MARK]}),
            4,
        ),
        (Json({"a": "\0"}), Json({"a": MARK}), 1),
        (Opaque("p", {"a": "\ud800"}), Opaque("p", {"a": MARK}), 1),
        (
            ToolResult("a", (Text("\0"), Json("\0"))),
            ToolResult("a", (Text(MARK), Json(MARK))),
            2,
        ),
        (Reasoning("\0", "s"), Reasoning("\0", "s"), 0),
        (Image("png", "AAEC"), Image("png", "AAEC"), 0),
        (Text("fine"), Text("fine"), 0),
    ],
)
def test_blocks_are_cleaned_wherever_text_is(block, cleaned, count):
    """Everything but reasoning, whose signature covers its bytes."""
    assert clean_blocks((block,)) == ((cleaned,), count)
    message = Message("assistant", (block,))
    found, changed = clean_message(message)
    assert (found, changed) == (Message("assistant", (cleaned,)), count)
    assert (found is message) == (count == 0)


def test_arguments_that_are_no_json_are_refused():
    """A value no store can keep does not get into a message."""
    with pytest.raises(WireError):
        clean_blocks((ToolUse("a", "b", {"x": float("nan")}),))


# ---------------------------------------------------------------- small things


@pytest.mark.parametrize(
    ("text", "uuid"),
    [
        ("82eb9cb7-619e-46bb-ac1c-8a32b0112c1c", True),
        ("82EB9CB7-619E-46BB-AC1C-8A32B0112C1C", True),
        ("00000000-0000-0000-0000-000000000000", True),
        ("82eb9cb7619e46bbac1c8a32b0112c1c", False),
        ("82eb9cb7-619e-46bb-ac1c-8a32b0112c1", False),
        ("82eb9cb7-619e-46bb-ac1c-8a32b0112c1g", False),
        ("82eb9cb7-619e-46bb-ac1c-8a32b0112c1c\n", False),
        ("{82eb9cb7-619e-46bb-ac1c-8a32b0112c1c}", False),
        ("", False),
        ("٨2eb9cb7-619e-46bb-ac1c-8a32b0112c1c", False),
    ],
)
def test_a_uuid_is_told_by_its_form(text, uuid):
    """Five groups of hexadecimal digits, nothing around them."""
    assert is_uuid(text) is uuid


def test_instants_are_utc_with_microseconds():
    """Whatever zone a moment was read in."""
    moment = datetime(2026, 5, 18, 13, 21, 30, 355180, UTC)
    assert instant(moment) == "2026-05-18T13:21:30.355180Z"
    elsewhere = moment.astimezone(timezone(timedelta(hours=9, minutes=30)))
    assert instant(elsewhere) == instant(moment)
    assert instant(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000000Z"
