"""The error catalog, row by row, through HTTP; and the order of the checks.

Every slug and every type of the catalog is produced here, most of them by real
requests and runs. What only a fault can cause is caused by a faulty store.
"""

import ast
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from attrs import evolve

from agentloop.core.catalog import BY_SLUG, BY_TYPE, CATALOG, Failure
from agentloop.core.config import Config, ToolSpec
from agentloop.core.content import Text
from agentloop.core.phases import Failed
from agentloop.core.routing import Offer
from agentloop.core.run import Usage
from agentloop.ports import (
    Backend,
    EngineUnavailableError,
    MissingExtraError,
    RunRef,
    StoreUnavailableError,
    ToolAnswer,
)
from agentloop.runtime import configs
from agentloop.runtime.rounds import RunNotFoundError
from agentloop.stores.memory import MemoryStore
from agentloop.testing.fixed import HandClock
from agentloop.testing.scripted import calls, content, fails, says
from agentloop.wire.checkpoint import outcome_text
from tests.http_world import (
    SERVER,
    TEXT_SCHEMA,
    TOKENS,
    UNKNOWN,
    USER_TOOLS,
    FaultyStore,
    World,
    outputs,
    problem,
    run_body,
    slug,
    spec,
    world,
)

PAGES = "https://docs.narrative.io/reference/architecture/agent-conversations/errors/"


class Server:
    """A tool server that answers, or fails, as it is told."""

    def __init__(self, answer: Any = None, discovered: Any = None) -> None:
        self._answer = answer or ToolAnswer((Text("10:00"),))
        self._discovered = discovered

    def declared(self) -> Any:
        return None if self._discovered else self._offers()

    def discover(self, timeout: float) -> Any:
        return self._discovered or self._offers()

    def call(self, call: Any) -> Any:
        return self._answer

    def close(self) -> None:
        return None

    def _offers(self) -> Any:
        return (Offer(ToolSpec(name="free", input_schema={"type": "object"})),)


@pytest.fixture
def idle() -> Iterator[World]:
    """A world in which nobody drives."""
    with world(workers=0) as opened:
        yield opened


def refused(response: Any, slug_: str, detail: str) -> None:
    """Check a refusal against its row of the catalog, field by field."""
    row = BY_SLUG[slug_]
    body = problem(response)
    assert (body["type"], body["title"]) == (f"{PAGES}{slug_}", row.title)
    assert (response.status_code, body["detail"]) == (row.status, detail)


# ------------------------------------------------ 8.1: refused at creation

LONG = "x" * 60
CREATION = [
    (
        {"client_tools": [{"alias": "no-dash", "tools": []}], "mcp_servers": []},
        "invalid-tool-alias",
        "invalid tool aliases (must match ^[a-zA-Z][a-zA-Z0-9]{0,7}$): no-dash",
    ),
    (
        {"mcp_servers": [{**SERVER, "alias": "verylongalias"}]},
        "invalid-tool-alias",
        "invalid tool aliases (must match ^[a-zA-Z][a-zA-Z0-9]{0,7}$): verylongalias",
    ),
    (
        {
            "mcp_servers": [SERVER],
            "client_tools": [{"alias": "rooms", "tools": [spec("a")]}],
        },
        "duplicate-tool-alias",
        "duplicate tool aliases (must be unique across mcp_servers + client_tools): "
        "rooms",
    ),
    (
        {"client_tools": [{"alias": "user", "tools": [spec(LONG)]}]},
        "tool-name-too-long",
        f"tool wire names exceed Bedrock's 64-char limit: user-{LONG}",
    ),
    (
        {"tools": [spec("a-b"), spec("ok"), spec("")]},
        "invalid-caller-tool-name",
        "invalid caller-declared tool names "
        "(must be non-empty, dash-free, and ≤ 64 chars): a-b, ''",
    ),
    (
        {"tools": [spec("ask"), spec("ask")]},
        "duplicate-caller-tool-name",
        "duplicate caller-declared tool names (must be unique within tools[]): ask",
    ),
    (
        {"max_iterations": 0},
        "invalid-config",
        "$.max_iterations must be between 1 and 10000, not 0",
    ),
    (
        {"max_tokens": 0},
        "invalid-config",
        "$.max_tokens must be at least 1, not 0",
    ),
    (
        {"temperature": 1.5},
        "invalid-config",
        "$.temperature must be between 0 and 1, not 1.5",
    ),
    (
        {"output_format_schema": {"$ref": "https://x.example/s"}},
        "invalid-config",
        "$.output_format_schema.$ref must stay inside the schema, "
        "not 'https://x.example/s'",
    ),
    (
        {"tools": [{"name": "a", "input_schema": {"type": "objekt"}}]},
        "invalid-config",
        """$.tools[0].input_schema.type: "objekt" is not valid under any of the """
        "schemas listed in the 'anyOf' keyword",
    ),
    (
        {
            "client_tools": [
                {
                    "alias": "user",
                    "tools": [{"name": "a", "input_schema": {"required": "a"}}],
                }
            ]
        },
        "invalid-config",
        "$.client_tools[0].tools[0].input_schema.required: "
        """"a" is not of type "array\"""",
    ),
]


def test_a_host_without_validators_takes_the_callers_schemas(
    idle: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra `tools` is not needed for tools that the caller answers."""

    def missing(schema: Any) -> None:
        raise MissingExtraError("jsonschema_rs", "tools")

    monkeypatch.setattr(configs, "compile_schema", missing)
    tools = [{"name": "a", "input_schema": {"type": "objekt"}}]
    body = {"defaults": {"model": "m", "tools": tools}}
    assert idle.post("/agents/conversations", body).status_code == 201


@pytest.mark.parametrize(("defaults", "slug_", "detail"), CREATION)
def test_a_config_is_refused_at_creation_and_after_a_merge(
    idle: World, defaults: dict[str, Any], slug_: str, detail: str
) -> None:
    """The same rules, with the same words, on defaults and on what is merged.

    A path leads from the top of the body; what is merged is a config of its own.
    """
    body = {"defaults": {"model": "m", **defaults}}
    created = detail.replace("$.", "$.defaults.", 1) if detail[0] == "$" else detail
    refused(idle.post("/agents/conversations", body), slug_, created)
    overridden = idle.start(idle.conversation(), config_override=defaults)
    refused(overridden, slug_, detail)


SHAPES = [
    ({}, "$.defaults: required"),
    ({"defaults": {}}, "$.defaults.model: required"),
    ({"defaults": {"model": 1}}, "$.defaults.model: must be a string, not 1"),
    ({"defaults": {"model": "m", "x": 1}}, "$.defaults.x: unknown key"),
    ({"defaults": {"model": "m"}, "id": 1}, "$.id: unknown key"),
    (
        {"defaults": {"model": "m", "max_tokens": True}},
        "$.defaults.max_tokens: must be an integer, not True",
    ),
    (
        {"defaults": {"model": "m", "execution_cluster": "mine"}},
        "$.defaults.execution_cluster: must be one of shared, dedicated, not 'mine'",
    ),
    (
        {"defaults": {"model": "m", "tools": [{"name": "a"}]}},
        "$.defaults.tools[0].input_schema: required",
    ),
    ([], "$: must be an object"),
    ("x", "$: must be an object"),
    (None, "$: must be an object"),
]


@pytest.mark.parametrize(("body", "detail"), SHAPES)
def test_a_shape_that_does_not_fit_is_named_by_its_path(
    idle: World, body: Any, detail: str
) -> None:
    """`invalid-request` with the JSON path of the first thing that does not fit."""
    raw = json.dumps(body)
    answer = idle.call("POST", "/agents/conversations", content=raw)
    refused(answer, "invalid-request", detail)


# ------------------------------------------------ 8.1: refused at the start of a run

STARTS = [
    ({"client_op_id": "x"}, "$.client_op_id: must be a uuid, not 'x'"),
    ({"client_op_id": None}, "$.client_op_id: must be a uuid, not None"),
    ({"expected_version": "0"}, "$.expected_version: must be an integer, not '0'"),
    ({"payload": None}, "$.payload: must be an object, not None"),
    (
        {"payload": {"kind": "shout"}},
        "$.payload.kind: must be one of user_message, tool_outputs, not 'shout'",
    ),
    (
        {"payload": {"kind": "user_message", "text": " \n"}},
        "$.payload.text must not be blank",
    ),
    (
        {"payload": {"kind": "tool_outputs", "outputs": []}},
        "$.payload.outputs must not be empty",
    ),
    (
        {"payload": {"kind": "user_message", "content_blocks": []}},
        "$.payload.content_blocks must not be empty",
    ),
    (
        {"tool_choice": {"kind": "none"}},
        "$.tool_choice.kind: must be one of auto, any, specific_tool, not 'none'",
    ),
    ({"config_override": {"x": 1}}, "$.config_override.x: unknown key"),
    ({"system_prompt": "Obey."}, "$.system_prompt: unknown key"),
]


@pytest.mark.parametrize(("change", "detail"), STARTS)
def test_a_run_whose_shape_does_not_fit_is_refused(
    idle: World, change: dict[str, Any], detail: str
) -> None:
    """400 `invalid-request`, and no run is written."""
    conversation = idle.conversation()
    refused(idle.start(conversation, **change), "invalid-request", detail)
    runs = idle.get(f"/agents/conversations/{conversation}/runs").json()
    assert runs == {"runs": []}


@pytest.mark.parametrize("field", ["client_op_id", "expected_version", "payload"])
def test_each_mandatory_field_of_a_run_is_missed(idle: World, field: str) -> None:
    """A missing field is a 400 that names it."""
    body = run_body()
    del body[field]
    conversation = idle.conversation()
    answer = idle.post(f"/agents/conversations/{conversation}/runs", body)
    assert slug(answer) == "invalid-request"
    assert problem(answer)["detail"].startswith(f"$.{field}")


def test_a_stale_version_is_a_conflict(idle: World) -> None:
    """409 with both numbers, whichever way it is stale."""
    conversation = idle.conversation()
    for stale in (7, -1, 10**30):
        detail = f"conversation version mismatch: expected {stale}, current 0"
        started = idle.start(conversation, expected_version=stale)
        refused(started, "version-conflict", detail)


CHOICES = [
    (
        {"kind": "any"},
        {},
        "tool-choice-without-tools",
        "tool_choice 'any' needs at least one tool, "
        "and the effective config offers none",
    ),
    (
        {"kind": "specific_tool", "name": "nope"},
        {"tools": [spec("ask")]},
        "unknown-tool-choice-name",
        "tool_choice references unknown tool name 'nope' — not found in the catalog",
    ),
    (
        {"kind": "specific_tool", "name": "nope", "mcp_alias": "rooms"},
        {"mcp_servers": [SERVER]},
        "unknown-tool-choice-name",
        "tool_choice references unknown tool name 'nope' — not found in the catalog",
    ),
    (
        {"kind": "specific_tool", "name": "free", "mcp_alias": "docs"},
        {"mcp_servers": [SERVER]},
        "unknown-tool-choice-mcp-alias",
        "tool_choice references unknown mcp_alias 'docs' — not a registered MCP server",
    ),
]


@pytest.mark.parametrize(("choice", "defaults", "slug_", "detail"), CHOICES)
def test_a_tool_choice_that_names_nothing_is_refused(
    idle: World, choice: Any, defaults: Any, slug_: str, detail: str
) -> None:
    """All of it is checked before the run is written."""
    conversation = idle.conversation(**defaults)
    refused(idle.start(conversation, tool_choice=choice), slug_, detail)


@pytest.mark.parametrize(
    "choice",
    [
        {"kind": "auto"},
        {"kind": "any"},
        {"kind": "specific_tool", "name": "ask"},
        {"kind": "specific_tool", "name": "user-approve"},
        {"kind": "specific_tool", "name": "rooms-free"},
        {"kind": "specific_tool", "name": "free", "mcp_alias": "rooms"},
    ],
)
def test_a_tool_choice_that_names_a_tool_is_echoed(idle: World, choice: Any) -> None:
    """By wire name, bare name, or alias and name."""
    conversation = idle.conversation(
        tools=[spec("ask")], client_tools=USER_TOOLS, mcp_servers=[SERVER]
    )
    started = idle.start(conversation, tool_choice=choice)
    assert (started.status_code, started.json()["tool_choice"]) == (202, choice)


def test_a_server_that_cannot_be_asked_refuses_the_choice() -> None:
    """`mcp-discovery-failed` is a 400, because the caller can act on it."""
    gone = Failure(kind="discovery_refused", message="no route to it")
    with world(workers=0, tools={"rooms": Server(discovered=gone)}) as idle:
        choice = {"kind": "specific_tool", "name": "free", "mcp_alias": "rooms"}
        started = idle.start(idle.conversation(), tool_choice=choice)
        detail = "tool discovery failed for rooms: no route to it"
        refused(started, "mcp-discovery-failed", detail)


def test_an_unknown_data_plane_is_refused_when_a_run_starts() -> None:
    """The conversation may name it; a run needs a backend for it."""
    with world(workers=0) as plain:
        backend = plain.backend
    with world(workers=0, backends={UNKNOWN: backend}) as idle:
        plane = str(uuid4())
        conversation = idle.conversation(data_plane_id=plane)
        detail = f"no backend is registered for data_plane_id '{plane}'"
        refused(idle.start(conversation), "unknown-data-plane", detail)


def raises(config: Config) -> Backend:
    """A table that is asked without a default."""
    found: Backend = {}[config.data_plane_id]
    return found


@pytest.mark.parametrize("choose", [lambda _: None, raises], ids=["None", "KeyError"])
def test_a_function_that_knows_no_such_data_plane(choose: Any) -> None:
    """A host's function says so by None or by what a table raises: 400, and no 500."""
    with world(workers=0, backends=choose) as idle:
        plane = str(uuid4())
        conversation = idle.conversation(data_plane_id=plane)
        detail = f"no backend is registered for data_plane_id '{plane}'"
        refused(idle.start(conversation), "unknown-data-plane", detail)


def test_a_default_beside_a_function() -> None:
    """A run that names no data plane is the default backend's, function or table."""
    with world(says("of the default"), backends=lambda _: None) as served:
        ended = served.run(served.conversation())
        assert ended["final_text"] == "of the default"


# ------------------------------------------------ 5: tool outputs


@pytest.fixture
def paused() -> Iterator[tuple[World, str]]:
    """A conversation that waits for two client calls beside a server call."""
    turn = calls(
        ("user-approve", {}), ("rooms-free", {}), ("user-ask", {}), ids=["a", "s", "b"]
    )
    with world(turn, says("ok"), tools={"rooms": Server()}) as served:
        conversation = served.conversation(client_tools=USER_TOOLS)
        run = served.run(conversation)
        pending = [call["tool_use_id"] for call in run["pending_tool_calls"]]
        assert pending == ["a", "b"]
        yield served, conversation


OUTPUTS = [
    (["z"], "unknown-tool-use-id", "not found on latest assistant turn: z"),
    (["a", "z", "y"], "unknown-tool-use-id", "on latest assistant turn: z, y"),
    (["s"], "not-a-client-tool-call", "(no caller output expected): s"),
    (["a", "b", "s"], "not-a-client-tool-call", "(no caller output expected): s"),
    (["b"], "incomplete-tool-outputs", "client tool calls — missing: a"),
    (["a", "b", "a"], "incomplete-tool-outputs", "tool calls — unexpected: a"),
    (["b", "b"], "incomplete-tool-outputs", "— missing: a; unexpected: b"),
    (["z", "s"], "unknown-tool-use-id", "assistant turn: z"),
]


@pytest.mark.parametrize(("ids", "slug_", "detail"), OUTPUTS)
def test_outputs_must_answer_exactly_the_pending_calls(
    paused: tuple[World, str], ids: list[str], slug_: str, detail: str
) -> None:
    """Unknown before server-resolved before incomplete, ids joined in order."""
    served, conversation = paused
    answers = [{"tool_use_id": id_, "content": "x"} for id_ in ids]
    payload = {"kind": "tool_outputs", "outputs": answers}
    answer = served.start(conversation, payload, expected_version=3)
    assert slug(answer) == slug_
    assert problem(answer)["detail"].endswith(detail)
    assert answer.status_code == 400


def test_exact_outputs_go_on(paused: tuple[World, str]) -> None:
    """In any order."""
    served, conversation = paused
    run = served.run(conversation, outputs(b="1", a="2"), expected_version=3)
    assert run["status"] == "completed"


def test_a_user_message_does_not_pass_pending_calls(
    paused: tuple[World, str],
) -> None:
    """`pending-tool-calls` lists what is waited for."""
    served, conversation = paused
    detail = (
        "the conversation waits for tool_outputs, "
        "a user_message cannot be sent before: a, b"
    )
    started = served.start(conversation, expected_version=3)
    refused(started, "pending-tool-calls", detail)


def test_outputs_need_an_assistant_turn(idle: World) -> None:
    """`no-assistant-turn` on a conversation in which the model said nothing yet."""
    conversation = idle.conversation()
    detail = (
        f"cannot submit tool_outputs: conversation {conversation} "
        "has no assistant turn yet"
    )
    refused(idle.start(conversation, outputs(a="x")), "no-assistant-turn", detail)


# ------------------------------------------------ the order of the checks


def test_checks_come_in_the_documented_order(paused: tuple[World, str]) -> None:
    """A request that is wrong in every way is mended fault by fault."""
    served, conversation = paused
    path = f"/agents/conversations/{conversation}/runs"
    elsewhere = f"/agents/conversations/{UNKNOWN}/runs"
    body: dict[str, Any] = {
        "client_op_id": "x",
        "expected_version": 99,
        "payload": {"kind": "nonsense"},
        "tool_choice": {"kind": "specific_tool", "name": "nope"},
        "config_override": {"max_tokens": 0},
    }
    raw = b'{"a":'
    seen = [slug(served.call("POST", elsewhere, "nobody", content=raw))]
    seen.append(slug(served.call("POST", elsewhere, "reader", content=raw)))
    seen.append(slug(served.call("POST", elsewhere, content=raw)))
    seen.append(slug(served.post(elsewhere, body)))
    for mended in (
        {},
        {"client_op_id": str(uuid4())},
        {"payload": outputs(z="x")},
        {"expected_version": 3},
        {"config_override": {}},
        {"tool_choice": {"kind": "auto"}},
    ):
        body |= mended
        seen.append(slug(served.post(path, body)))
    assert seen == [
        "unauthenticated",
        "forbidden",
        "invalid-request",  # no JSON, before the scope
        "conversation-not-found",
        "invalid-request",  # the key
        "invalid-request",  # the payload
        "version-conflict",
        "invalid-config",
        "unknown-tool-choice-name",
        "unknown-tool-use-id",
    ]


# ------------------------------------------------ 8.2: how runs fail

ALIASED = {"client_tools": USER_TOOLS}
ROOMS = calls(("rooms-free", {}))


ENDS: list[tuple[str, list[Any], dict[str, Any], Any, str]] = [
    (
        "AgentLoopMaxIterationsExceeded",
        [ROOMS],
        {"max_iterations": 1},
        Server(),
        "max iterations exceeded after 1 iterations",
    ),
    ("AgentLoopUnknownToolAlias", [calls(("nowhere-x", {}))], {}, None, "nowhere-x"),
    ("AgentLoopMalformedToolName", [calls(("bare", {}))], ALIASED, None, "bare"),
    ("AgentLoopMalformedToolName", [calls(("1x-y", {}))], {}, None, "1x-y"),
    (
        "AgentLoopUnknownToolAlias",
        [calls(("bare", {}))],
        {"tools": [spec("ask")]},
        None,
        "bare",
    ),
    ("UnknownTool", [calls(("user-nope", {}))], ALIASED, None, "user-nope"),
    (
        "AgentLoopSchemaDecodeFailed",
        [says("no object")],
        {"output_format_schema": TEXT_SCHEMA},
        None,
        "$",
    ),
    ("JobFailed", [fails("denied", "no rights")], {}, None, "no rights"),
    ("JobFailed", [fails("throttled", "slow")] * 5, {}, None, "slow"),
    ("AgentLoopOutputTruncated", [says("x", stop="max_tokens")], {}, None, "max_tok"),
    ("AgentLoopContentBlocked", [fails("content_blocked", "no")], {}, None, "no"),
    (
        "AgentLoopContextWindowExceeded",
        [fails("context_window", "2 M")],
        {},
        None,
        "2 M",
    ),
    ("AgentLoopMalformedModelOutput", [content()], {}, None, "cannot be used"),
]


@pytest.mark.parametrize(
    ("type_", "script", "defaults", "server", "message"),
    ENDS,
    ids=[f"{row[0]}-{number}" for number, row in enumerate(ENDS)],
)
def test_a_run_fails_as_its_row_says(
    type_: str, script: list[Any], defaults: Any, server: Any, message: str
) -> None:
    """Status, type, title and page, and as many jobs as iterations."""
    tools = {"rooms": server} if server else None
    with world(*script, tools=tools) as served:
        conversation = served.conversation(**defaults)
        run = served.run(conversation)
        assert run["status"] == "failed"
        error = run["error"]
        row = BY_TYPE[type_]
        assert (error["type"], error["title"]) == (type_, row.title)
        assert error["docs_url"] == f"{PAGES}{row.slug}"
        assert message in error["message"]
        assert run["iterations_used"] == len(run["submitted_inference_job_ids"])
        assert run["usage"]["total_tokens"] >= 0
        assert (run["final_text"], run["pending_tool_calls"]) == (None, [])
        # What is stored is legal: the next run goes on from it.
        served.backend.add(says("fine"))
        version = served.version(conversation)
        plain = {"output_format_schema": None, "mcp_servers": []}
        again = served.run(
            conversation, expected_version=version, config_override=plain
        )
        assert again["status"] == "completed"
        served.backend.assert_done()


def test_a_run_out_of_time_fails() -> None:
    """`AgentLoopDeadlineExceeded` instead of calling the tool that was asked for."""
    clock = HandClock()

    def late(_: Any) -> Any:
        clock.move(10.0)
        return ROOMS

    parts = {"store": MemoryStore(clock=clock), "clock": clock, "run_timeout": 5.0}
    with world(late, tools={"rooms": Server()}, **parts) as served:
        run = served.run(served.conversation())
        assert run["error"]["type"] == "AgentLoopDeadlineExceeded"
        assert (run["iterations_used"], run["usage"]["total_tokens"]) == (1, 15)


def test_a_run_whose_driver_breaks_fails() -> None:
    """`AgentLoopWorkerLost`, so that it does not break the next worker as well."""

    def checkpoint(real: Any, *args: Any) -> Any:
        raise ZeroDivisionError

    with world(store=FaultyStore(checkpoint=checkpoint)) as served:
        error = served.run(served.conversation())["error"]
        assert error["type"] == "AgentLoopWorkerLost"
        assert error["title"] == BY_TYPE["AgentLoopWorkerLost"].title
        assert "its driver raised ZeroDivisionError" in error["message"]


def claimed_with(**changes: Any) -> FaultyStore:
    """A store whose claims bring a damaged run."""

    def claim(real: Any, request: Any) -> Any:
        found = real(request)
        return found and evolve(found, run=evolve(found.run, **changes))

    return FaultyStore(claim=claim)


FUTURE = '{"kind":"from the future"}'
DAMAGE = [
    ("AgentLoopInvalidEffectiveConfig", {"config": '{"max_tokens":"x"}'}),
    ("AgentLoopInvalidEffectiveConfig", {"tool_choice": FUTURE}),
    ("AgentLoopInvalidRequestPayload", {"payload": FUTURE}),
]


@pytest.mark.parametrize(("type_", "changes"), DAMAGE)
def test_a_damaged_row_fails_its_run_with_the_path(
    type_: str, changes: dict[str, str]
) -> None:
    """A stored field that does not decode is named by its JSON path."""
    with world(store=claimed_with(**changes)) as served:
        run = served.run(served.conversation())
        assert run["error"]["type"] == type_
        assert "$." in run["error"]["message"]


def test_a_run_whose_conversation_is_gone_fails() -> None:
    """`AgentLoopConversationNotFound`: rows that contradict each other."""
    store = FaultyStore()
    with world(store=store, workers=0) as served:
        conversation = served.conversation()
        run = served.start(conversation).json()["id"]
        store.faults["get_conversation"] = lambda real, reader, id_: None
        with served.loop.worker(1):
            error = served.ended(run)["error"]
        assert error["type"] == "AgentLoopConversationNotFound"


@pytest.mark.parametrize("face", ["sync", "async"])
def test_an_end_that_the_store_refuses_is_a_violated_invariant(face: str) -> None:
    """The run ends with it instead of being driven for ever; a fresh one works."""
    refusals = ["the status 'completed' does not go with an error"]

    def finalize(real: Any, *args: Any, **named: Any) -> Any:
        if refusals:
            raise ValueError(refusals.pop())
        return real(*args, **named)

    script = [says("one"), says("two")]
    with world(*script, face=face, store=FaultyStore(finalize=finalize)) as served:
        conversation = served.conversation()
        run = served.run(conversation)
        row = BY_TYPE["AgentLoopFinalizeInvariantViolated"]
        assert (run["status"], run["final_text"]) == ("failed", None)
        assert run["error"] == {
            "type": row.type,
            "message": "finalize was called with fields that do not fit: "
            "the status 'completed' does not go with an error",
            "title": row.title,
            "docs_url": f"{PAGES}{row.slug}",
        }
        assert run["iterations_used"] == 1 == len(run["submitted_inference_job_ids"])
        version = served.version(conversation)
        again = served.run(conversation, expected_version=version)
        assert again["final_text"] == "two"


class Late:
    """An engine that comes to what it was given when a test says so."""

    name = "late"

    def __init__(self) -> None:
        self.given: list[RunRef] = []

    def start(self, run: RunRef) -> None:
        """Keep it for later."""
        self.given.append(run)

    def cancel(self, run: RunRef) -> None:
        """There is nothing to wake."""


def test_a_run_that_is_gone_when_its_workflow_loads_it_is_not_found() -> None:
    """`AgentLoopAgentRunNotFound`: its conversation was deleted before it began.

    The engine is told by the catalog's name; to its caller it is as unknown as any.
    """
    engine = Late()
    with world(says("never"), workers=0, engine=engine) as served:
        conversation = served.conversation()
        run = served.start(conversation).json()["id"]
        served.loop.delete_conversation(conversation, scope=TOKENS["alice"])
        with pytest.raises(
            RunNotFoundError, match=f"^AgentLoopAgentRunNotFound.*{run}"
        ):
            served.loop.rounds("late").begin(engine.given[0])
        unknown = served.get(f"/agents/runs/{UNKNOWN}")
        assert slug(served.get(f"/agents/runs/{run}")) == slug(unknown)
        assert served.backend.seen == []
    assert BY_TYPE["AgentLoopAgentRunNotFound"].slug == "agent-run-not-found"


STORED_ENDS = [
    "AgentLoopTokenBudgetExceeded",
    "AgentLoopWorkflowStartFailed",
]


def ended_as(type_: str) -> FaultyStore:
    """A store whose runs all ended with one error."""
    result = outcome_text(Failed(type_, "it happened"), Usage())

    def get_run(real: Any, reader: Any, run_id: str) -> Any:
        row = real(reader, run_id)
        ended = {"status": "failed", "result": result, "completed_at": row.started_at}
        return evolve(row, **ended)

    return FaultyStore(get_run=get_run)


@pytest.mark.parametrize("type_", STORED_ENDS)
def test_an_error_that_only_a_fault_causes_is_shown_by_its_row(type_: str) -> None:
    """Types that other workers write are looked up in the same catalog."""
    with world(store=ended_as(type_), workers=0) as idle:
        run = idle.start(idle.conversation()).json()["id"]
        error = idle.get(f"/agents/runs/{run}").json()["error"]
        row = BY_TYPE[type_]
        assert error == {
            "type": type_,
            "message": "it happened",
            "title": row.title,
            "docs_url": f"{PAGES}{row.slug}",
        }


def test_an_error_of_a_newer_worker_has_neither_title_nor_page() -> None:
    """Unknown types are shown as they are; the two looked-up fields are absent."""
    with world(store=ended_as("NewInTwoYears"), workers=0) as idle:
        run = idle.start(idle.conversation()).json()["id"]
        error = idle.get(f"/agents/runs/{run}").json()["error"]
        assert error == {"type": "NewInTwoYears", "message": "it happened"}


# ------------------------------------------------ 8.1: our own faults


def broken(error: Exception) -> Any:
    """A fault that raises."""

    def fault(real: Any, *args: Any, **named: Any) -> Any:
        raise error

    return fault


@pytest.mark.parametrize("face", ["sync", "async"])
def test_what_is_stored_and_does_not_decode_is_a_500(
    face: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets a log id, the log gets the path under that id."""

    def damaged(real: Any, reader: Any, id_: str) -> Any:
        return evolve(real(reader, id_), body='{"v":1,"defaults":{"max_tokens":"?"}}')

    store = FaultyStore()
    with world(store=store, face=face, workers=0) as idle:
        conversation = idle.conversation()
        store.faults["get_conversation"] = damaged
        answer = idle.get(f"/agents/conversations/{conversation}")
    detail = "a stored field could not be read; quote the log_id to support"
    refused(answer, "invalid-stored-field", detail)
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.__dict__["log_id"] == problem(answer)["log_id"]
    assert "conversation $" in record.getMessage()


@pytest.mark.parametrize("face", ["sync", "async"])
def test_an_unexpected_error_is_told_to_the_log_only(
    face: str, caplog: pytest.LogCaptureFixture
) -> None:
    """500 `internal-error`; the traceback stands in the log under the log id."""
    store = FaultyStore(list_conversations=broken(ZeroDivisionError("s3cret")))
    with world(store=store, face=face, workers=0) as idle:
        answer = idle.get("/agents/conversations")
    detail = "the request failed for a reason of our own; quote the log_id"
    refused(answer, "internal-error", detail)
    assert "s3cret" not in answer.text
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.__dict__["log_id"] == problem(answer)["log_id"]
    assert record.exc_info is not None


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_store_that_is_away_is_a_503(face: str) -> None:
    """With `Retry-After`; nothing of the store's own words is told."""
    store = FaultyStore(get_run=broken(StoreUnavailableError("host=db password=x")))
    with world(store=store, face=face, workers=0, http={"retry_after": 7}) as idle:
        answer = idle.get(f"/agents/runs/{UNKNOWN}")
    assert (answer.status_code, slug(answer)) == (503, "store-unavailable")
    assert answer.headers["retry-after"] == "7"
    assert "password" not in answer.text


class Away:
    """An engine that acknowledges nothing until it is there."""

    name = "away"

    def __init__(self) -> None:
        self.there = False
        self.started: list[str] = []

    def start(self, run: RunRef) -> None:
        if not self.there:
            raise EngineUnavailableError("host=engine password=x")
        self.started.append(run.run_id)

    def cancel(self, run: RunRef) -> None:
        return None


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_start_that_is_not_acknowledged_is_sent_again_under_its_key(
    face: str,
) -> None:
    """`workflow-start-failed` leaves the row pending, and the same key starts it."""
    engine = Away()
    with world(face=face, workers=0, engine=engine) as idle:
        body = run_body()
        conversation = idle.conversation()
        path = f"/agents/conversations/{conversation}/runs"
        for _ in range(2):
            answer = idle.post(path, body)
            refused(
                answer,
                "workflow-start-failed",
                "the run was recorded but could not be handed to a worker; "
                "send the same client_op_id again",
            )
            assert "password" not in answer.text
        (row,) = idle.get(path).json()["runs"]
        assert (row["status"], engine.started) == ("pending", [])
        engine.there = True
        again = idle.post(path, body)
        assert (again.status_code, again.json()) == (200, row)
        assert engine.started == [row["id"]]


# ------------------------------------------------ the catalog is complete

SURFACE = (
    "test_contract.py",
    "test_contract_errors.py",
    "test_contract_mcp.py",
    "test_http.py",
    "test_http_bodies.py",
)


def words_of_tests(file: str) -> set[str]:
    """Every text in the tests of a module, and in the tables that they are fed from."""
    tree = ast.parse((Path(__file__).parent / file).read_text())
    parts = {name: node for node in tree.body for name in names_of(node)}
    todo = {name for name in parts if name.startswith("test_") and name != ME}
    used: set[str] = set()
    while todo:
        used.add(name := todo.pop())
        fed = {n.id for n in ast.walk(parts[name]) if isinstance(n, ast.Name)}
        todo |= (fed & parts.keys()) - used
    return set[str]().union(*(texts_in(parts[name]) for name in used))


def names_of(node: ast.stmt) -> list[str]:
    """What a statement of a module names: a function, or a table."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [t.id for t in targets if isinstance(t, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []


def texts_in(node: ast.stmt) -> set[str]:
    """The text constants of a statement."""
    constants = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {text for text in constants if isinstance(text, str)}


ME = "test_every_row_of_the_catalog_is_produced_through_http"


def test_every_row_of_the_catalog_is_produced_through_http() -> None:
    """No row without a test that gets it from the surface: delete one, and it fails."""
    said = set[str]().union(*map(words_of_tests, SURFACE))
    assert {row.slug for row in CATALOG if row.status} - said == set()
    assert {row.type for row in CATALOG if row.type} - said == set()
