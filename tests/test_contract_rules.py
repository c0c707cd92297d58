"""Rules of contract sections 2 to 7 and 11 that take a whole run to be seen.

Each is told by what the surface answers; how the machine comes to it is tested in
its own room.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import evolve

from agentloop import AgentLoop, RequestError, Scope
from agentloop.core.config import ToolSpec
from agentloop.core.content import Text
from agentloop.core.routing import Offer
from agentloop.ports import ToolAnswer
from agentloop.testing.fake_bedrock import answers
from agentloop.testing.fake_bedrock import calls as bedrock_calls
from agentloop.testing.fake_bedrock import fails as refuses
from agentloop.testing.fake_bedrock import says as bedrock_says
from agentloop.testing.scripted import ScriptedBackend, calls, content, fails, says
from agentloop.tools.mcp import McpDirectory, McpOptions
from tests.http_stage import stage_at
from tests.http_world import (
    SERVER,
    TEXT_SCHEMA,
    USER_TOOLS,
    World,
    outputs,
    problem,
    slug,
    spec,
    world,
)
from tests.servers.hostile_mcp import HostileServer, hostile_server


class Desk:
    """A host's tool server whose one tool, `free`, keeps a count of its calls."""

    def __init__(self) -> None:
        self.called = 0

    def declared(self) -> Any:
        return (Offer(ToolSpec(name="free", input_schema={"type": "object"})),)

    def discover(self, timeout: float) -> Any:
        return self.declared()

    def call(self, call: Any) -> Any:
        self.called += 1
        return ToolAnswer((Text("10:00"),))

    def close(self) -> None:
        return None


@pytest.fixture
def desk() -> Desk:
    """The tool server of the `served` world."""
    return Desk()


@pytest.fixture
def served(desk: Desk) -> Iterator[World]:
    """A world with a tool server `rooms`; tests add to its script."""
    with world(tools={"rooms": desk}) as opened:
        yield opened


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    """A server whose catalogs a test writes."""
    with hostile_server() as server:
        yield server


def roles(served: World, conversation: str) -> list[str]:
    """Who said what is stored, in order."""
    return [message["role"] for message in served.messages(conversation)]


def blocks(served: World, conversation: str, number: int) -> list[dict[str, Any]]:
    """The blocks of one stored message."""
    found: list[dict[str, Any]] = served.messages(conversation)[number - 1][
        "content_blocks"
    ]
    return found


# ------------------------------------------------ 2.3: pages


def test_a_page_holds_fifty_records_unless_asked_otherwise() -> None:
    """`per_page` is 50 by default and may be up to 200."""
    with world(workers=0) as idle:
        made = [idle.conversation() for _ in range(51)]
        first = idle.get("/agents/conversations").json()
        assert (len(first["records"]), first["total_pages"]) == (50, 2)
        full = idle.get("/agents/conversations?per_page=200").json()
        assert [r["id"] for r in full["records"]] == made[::-1]


# ------------------------------------------------ 4: names and choices


ALIASES = {
    **dict.fromkeys(["a", "Z", "a1", "abcdefgh", "Abc12345"], 201),
    **dict.fromkeys(["", "1a", "abcdefghi", "a_b", "a-b", "a b", "ä", "a\n"], 400),
}


@pytest.mark.parametrize(("alias", "status"), ALIASES.items())
@pytest.mark.parametrize("field", ["mcp_servers", "client_tools"])
def test_an_alias_is_one_to_eight_letters_and_digits(
    field: str, alias: str, status: int
) -> None:
    """A letter first; the same for servers and for the caller's groups of tools."""
    entry: dict[str, Any] = {"alias": alias, "tools": [spec("t")]}
    if field == "mcp_servers":
        entry["url"] = "https://rooms.example.com/mcp"
    with world(workers=0) as idle:
        body = {"defaults": {"model": "m", field: [entry]}}
        made = idle.post("/agents/conversations", body)
        assert made.status_code == status
        assert status == 201 or slug(made) == "invalid-tool-alias"


@pytest.mark.parametrize("name", ["", "a b", "ä", "a.b"])
@pytest.mark.parametrize("field", ["mcp_servers", "client_tools", "tools"])
def test_a_declared_name_that_no_provider_takes_is_refused(
    field: str, name: str
) -> None:
    """The characters that Bedrock takes, whoever declares the tool."""
    group: dict[str, Any] = {"alias": "rooms", "tools": [spec(name)]}
    entries = {
        "mcp_servers": {**group, "url": "https://rooms.example.com/mcp"},
        "client_tools": group,
        "tools": spec(name),
    }
    with world(workers=0) as idle:
        body = {"defaults": {"model": "m", field: [entries[field]]}}
        assert idle.post("/agents/conversations", body).status_code == 400


@pytest.mark.parametrize(("length", "status"), [(59, 201), (60, 400)])
def test_a_wire_name_has_at_most_64_characters(length: int, status: int) -> None:
    """Alias, dash and tool name together."""
    tools = [{"alias": "user", "tools": [spec("x" * length)]}]
    with world(workers=0) as idle:
        body = {"defaults": {"model": "m", "client_tools": tools}}
        made = idle.post("/agents/conversations", body)
        assert made.status_code == status


def test_a_name_is_split_at_its_first_dash(served: World) -> None:
    """What follows may hold dashes of its own."""
    served.backend.add(calls(("user-ask-twice", {})))
    tools = [{"alias": "user", "tools": [spec("ask-twice")]}]
    run = served.run(served.conversation(client_tools=tools))
    assert [call["name"] for call in run["pending_tool_calls"]] == ["user-ask-twice"]


def test_a_choice_is_checked_against_the_merged_config() -> None:
    """An alias that the override takes away is unknown, one that it brings is not."""
    choice = {"kind": "specific_tool", "mcp_alias": "rooms", "name": "free"}
    with world(workers=0) as idle:
        having = idle.conversation(mcp_servers=[SERVER])
        gone = idle.start(
            having, tool_choice=choice, config_override={"mcp_servers": []}
        )
        assert slug(gone) == "unknown-tool-choice-mcp-alias"
        assert idle.start(having, tool_choice=choice).status_code == 202
        without = idle.conversation(mcp_servers=[])
        brought = idle.start(
            without, tool_choice=choice, config_override={"mcp_servers": [SERVER]}
        )
        assert brought.status_code == 202


def test_a_choice_is_not_inherited_by_the_next_run(served: World) -> None:
    """It belongs to a run; the one after it is free again."""
    served.backend.add(calls(("rooms-free", {})), says("one"), says("two"))
    conversation = served.conversation()
    forced = served.run(conversation, tool_choice={"kind": "any"})
    free = served.run(conversation, expected_version=served.version(conversation))
    assert (forced["tool_choice"], free["tool_choice"]) == ({"kind": "any"}, None)
    kinds = [type(seen.tool_choice).__name__ for seen in served.backend.seen]
    assert kinds == ["AnyTool", "Auto", "Auto"]


def test_every_run_discovers_anew_and_passes_schemas_on(
    hostile: HostileServer,
) -> None:
    """Nothing is kept between runs; the model gets a schema as the server wrote it."""
    schema = {
        "type": "object",
        "properties": {"day": {"type": "string", "x-odd": [1]}},
        "$defs": {"unused": {}},
    }

    def listing(server: HostileServer, reply: Any) -> None:
        reply.result({"tools": [{"name": "t", "inputSchema": schema}]})

    hostile.scripts["list-anew"] = listing
    mcp = McpDirectory(McpOptions(allow_private=True))
    with world(says("one"), says("two"), mcp=mcp) as served:
        server = {"alias": "far", "url": hostile.url("list-anew")}
        conversation = served.conversation(mcp_servers=[server])
        for version in (0, 2):
            served.run(conversation, expected_version=version)
        offered = [seen.specs for seen in served.backend.seen]
    assert [[tool.input_schema for tool in specs] for specs in offered] == [
        [schema]
    ] * 2
    assert len(hostile.seen("list-anew", "tools/list")) == 2


def test_a_discovered_name_that_no_provider_takes_is_left_out_and_reported(
    hostile: HostileServer,
) -> None:
    """A run event names it, and the run goes on with the others."""
    names = ["good", "x" * 61, "with space", "ünicode"]

    def listing(server: HostileServer, reply: Any) -> None:
        tools = [{"name": n, "inputSchema": {"type": "object"}} for n in names]
        reply.result({"tools": tools})

    hostile.scripts["list-names"] = listing
    mcp = McpDirectory(McpOptions(allow_private=True))
    with world(says("fine"), mcp=mcp) as served:
        server = {"alias": "far", "url": hostile.url("list-names")}
        run = served.run(served.conversation(mcp_servers=[server]))
        assert run["status"] == "completed"
        (seen,) = served.backend.seen
        assert [tool.name for tool in seen.specs] == ["far-good"]
        events = served.get(f"/agents/runs/{run['id']}/events").text
    assert all(name.encode("ascii", "ignore").decode() in events for name in names[1:])
    assert "dropped_tools" in events


# ------------------------------------------------ 5: tool outputs after the fact


def test_outputs_for_a_turn_that_is_past_are_unknown(served: World) -> None:
    """After the resume, and after a text answer, the old ids mean nothing."""
    served.backend.add(calls(("user-approve", {}), ids=["old"]), says("done"))
    conversation = served.conversation(client_tools=USER_TOOLS)
    served.run(conversation)
    served.run(conversation, outputs(old="yes"), expected_version=2)
    version = served.version(conversation)
    again = served.start(conversation, outputs(old="yes"), expected_version=version)
    assert slug(again) == "unknown-tool-use-id"


def test_a_stale_version_is_told_before_the_outputs_are_looked_at(
    served: World,
) -> None:
    """409 first, so that the caller reads the conversation again."""
    served.backend.add(calls(("user-approve", {}), ids=["a"]))
    conversation = served.conversation(client_tools=USER_TOOLS)
    served.run(conversation)
    assert slug(served.start(conversation, outputs(z="x"))) == "version-conflict"


# ------------------------------------------------ 6: the loop


def test_a_mixed_turn_does_the_servers_part_and_waits_for_the_callers(
    served: World, desk: Desk
) -> None:
    """One `tool` message with the server's result, then the caller's `user` message."""
    mixed = calls(("user-approve", {}), ("rooms-free", {}), ids=["mine", "theirs"])
    served.backend.add(mixed, says("done"))
    conversation = served.conversation(client_tools=USER_TOOLS)
    paused = served.run(conversation)
    assert [call["tool_use_id"] for call in paused["pending_tool_calls"]] == ["mine"]
    assert desk.called == 1
    assert roles(served, conversation) == ["user", "assistant", "tool"]
    (result,) = blocks(served, conversation, 3)
    assert (result["tool_use_id"], result["is_error"]) == ("theirs", False)
    served.run(conversation, outputs(mine="yes"), expected_version=3)
    assert roles(served, conversation)[3:] == ["user", "assistant"]
    assert desk.called == 1


@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "mixed"])
def test_client_calls_of_the_last_iteration_still_pause(
    served: World, desk: Desk, mixed: bool
) -> None:
    """And the resume, being a new run, has its whole allowance again."""
    also = [("rooms-free", {})] if mixed else []
    turn = calls(("user-approve", {}), *also)
    served.backend.add(turn, calls(("user-ask", {}), ids=["second"]))
    conversation = served.conversation(client_tools=USER_TOOLS, max_iterations=1)
    paused = served.run(conversation)
    assert (paused["status"], paused["iterations_used"]) == ("requires_action", 1)
    assert desk.called == mixed
    version = served.version(conversation)
    resumed = served.run(
        conversation, outputs(tooluse_1="yes"), expected_version=version
    )
    assert (resumed["status"], resumed["iterations_used"]) == ("requires_action", 1)


def test_server_calls_of_the_last_iteration_are_closed_unmade(
    served: World, desk: Desk
) -> None:
    """The run fails, and every call left open has a result that says why."""
    served.backend.add(calls(("rooms-free", {}), ("rooms-free", {})))
    conversation = served.conversation(max_iterations=1)
    run = served.run(conversation)
    assert run["error"]["type"] == "AgentLoopMaxIterationsExceeded"
    assert desk.called == 0
    closed = blocks(served, conversation, 3)
    assert [result["is_error"] for result in closed] == [True, True]
    assert "not executed" in closed[0]["content_blocks"][0]["text"]


@pytest.mark.parametrize(
    "reply", [fails("denied", "no rights"), fails("context_window", "too long")]
)
def test_a_run_that_fails_before_any_turn_leaves_no_trace(
    served: World, reply: Any
) -> None:
    """The same prompt at the same version is not doubled."""
    served.backend.add(reply, says("fine"))
    conversation = served.conversation()
    assert served.run(conversation)["status"] == "failed"
    assert (served.version(conversation), served.messages(conversation)) == (0, [])
    assert served.run(conversation)["status"] == "completed"
    assert roles(served, conversation) == ["user", "assistant"]


def test_content_decides_and_the_stop_reason_is_a_hint(
    served: World, desk: Desk
) -> None:
    """Calls that end a turn are run; a turn that says `tool_use` without is broken."""
    served.backend.add(calls(("rooms-free", {}), stop="end_turn"), says("done"))
    assert served.run(served.conversation())["status"] == "completed"
    assert desk.called == 1
    served.backend.add(says("calling...", stop="tool_use"))
    error = served.run(served.conversation())["error"]
    assert error["type"] == "AgentLoopMalformedModelOutput"


# ------------------------------------------------ 6.1: the final answer

ANSWERS: list[tuple[Any, dict[str, Any], Any, Any]] = [
    (says("plain"), {}, "plain", None),
    (says('{"text": "inner", "more": 1}'), {}, "inner", None),
    (says('{"text": 4}'), {}, '{"text": 4}', None),
    (says("[1]"), {}, "[1]", None),
    (content(Text("first"), Text("second")), {}, "first", None),
    (
        content(Text('{"text": "a"}'), Text('{"text": "b"}')),
        {"output_format_schema": TEXT_SCHEMA},
        "a",
        {"text": "a"},
    ),
]


@pytest.mark.parametrize(("reply", "defaults", "text", "structured"), ANSWERS)
def test_the_answer_is_read_from_the_first_text_block(
    served: World, reply: Any, defaults: dict[str, Any], text: Any, structured: Any
) -> None:
    """Text, or the `text` of an object; with a schema the whole object as well."""
    served.backend.add(reply)
    run = served.run(served.conversation(**defaults))
    assert run["status"] == "completed"
    assert (run["final_text"], run["final_structured_output"]) == (text, structured)


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("prose", "$"),
        ('{"text": "cut', "$"),
        ("{}", '$: "text"'),
        ('{"text": 4}', "$.text"),
        ('{"text": "a", "b": 1}', "$"),
    ],
)
def test_an_answer_that_does_not_fit_is_kept_as_it_was_said(
    served: World, said: str, path: str
) -> None:
    """The error names the path; the raw text stands in the message stream."""
    served.backend.add(says(said))
    conversation = served.conversation(output_format_schema=TEXT_SCHEMA)
    error = served.run(conversation)["error"]
    assert error["type"] == "AgentLoopSchemaDecodeFailed"
    assert path in error["message"]
    assert blocks(served, conversation, 2) == [{"type": "text", "text": said}]


# ------------------------------------------------ 7: usage and jobs


def test_usage_sums_every_billed_attempt(served: World) -> None:
    """A retried attempt that was billed counts; one that told nothing is counted."""
    billed = evolve(fails("overloaded", "busy"), usage=says("x", usage=(7, 1)).usage)
    served.backend.add(billed, fails("throttled", "slow"), says("4", usage=(100, 8)))
    run = served.run(served.conversation())
    assert (run["status"], run["iterations_used"]) == ("completed", 1)
    assert run["usage"] == {
        "prompt_tokens": 107,
        "completion_tokens": 9,
        "total_tokens": 116,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "attempts_without_usage": 1,
    }
    (job,) = served.get(f"/agents/runs/{run['id']}/inference-jobs").json()[
        "inference_jobs"
    ]
    outcomes = [attempt["outcome"] for attempt in job["attempts"]]
    assert outcomes == ["overloaded", "throttled", "ok"]
    assert [a["usage"] is None for a in job["attempts"]] == [False, True, False]


def test_a_refusal_of_the_provider_is_told_with_its_code(tmp_path: Any) -> None:
    """`JobFailed` names what Bedrock answered; nothing is stored of the run."""
    with stage_at("2026-06-01T08:00:00Z", tmp_path) as stage:
        conversation = stage.world.conversation(model="anthropic.claude-sonnet-4-5")
        said = refuses("AccessDeniedException", 403, "not for you")
        run = stage.run(conversation, said)
        assert run["error"]["type"] == "JobFailed"
        assert "AccessDeniedException" in run["error"]["message"]
        assert run["iterations_used"] == 1 == len(run["submitted_inference_job_ids"])
        assert stage.world.version(conversation) == 0


def test_a_running_run_names_the_job_that_was_submitted(tmp_path: Any) -> None:
    """Its id is known, and can be looked up, before the model has answered."""
    seen: list[dict[str, Any]] = []
    with stage_at("2026-06-01T08:00:00Z", tmp_path) as stage:
        conversation = stage.world.conversation(model="anthropic.claude-sonnet-4-5")
        path = f"/agents/conversations/{conversation}/runs"

        def look(_: object) -> Any:
            (run,) = stage.world.get(path).json()["runs"]
            (job_id,) = run["submitted_inference_job_ids"]
            seen.append(stage.world.get(f"/agents/inference-jobs/{job_id}").json())
            return bedrock_says("4")

        run = stage.run(conversation, answers(look))
    (job,) = seen
    assert (job["run_id"], job["status"]) == (run["id"], "running")
    assert [job["id"]] == run["submitted_inference_job_ids"]


# ------------------------------------------------ 11: what the host decides


def test_a_data_plane_is_the_backend_that_the_host_registered() -> None:
    """Without one a run goes to the default; an override may change it."""
    plane = "0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a11"
    other = ScriptedBackend(says("of the plane"))
    with world(says("of the default"), backends={plane: other}) as served:
        conversation = served.conversation()
        first = served.run(conversation)
        second = served.run(
            conversation,
            expected_version=2,
            config_override={"data_plane_id": plane},
        )
    assert first["final_text"] == "of the default"
    assert second["final_text"] == "of the plane"


def test_with_one_backend_a_data_plane_is_a_label() -> None:
    """The contract's examples name one; a host without a table serves it."""
    plane = "0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a11"
    with world(says("served")) as served:
        run = served.run(served.conversation(data_plane_id=plane))
    assert run["final_text"] == "served"
    assert run["effective_config"]["data_plane_id"] == plane


def test_an_empty_data_plane_is_none_of_the_table() -> None:
    """An id that is there counts, also one without characters."""
    with world(workers=0, backends={"plane": ScriptedBackend()}) as idle:
        refused = idle.start(idle.conversation(data_plane_id=""))
    assert slug(refused) == "unknown-data-plane"


def test_a_host_without_a_default_wants_a_data_plane() -> None:
    """What is missing is said by its path; there is no plane called None."""
    loop = AgentLoop(backends={"plane": ScriptedBackend()})
    made = loop.create_conversation(defaults={"model": "m"}, scope=Scope(1, 1))
    with pytest.raises(RequestError, match=r"\$\.data_plane_id: required") as caught:
        loop.start_run(made.id, "Hi", scope=Scope(1, 1))
    loop.close()
    assert caught.value.slug == "invalid-config"


@pytest.mark.parametrize("field", ["model", "max_iterations", "max_tokens"])
def test_three_fields_cannot_be_cleared(field: str) -> None:
    """Null is refused with its path, in defaults and in an override."""
    with world(workers=0) as idle:
        body = {"defaults": {"model": "m", field: None}}
        refused = idle.post("/agents/conversations", body)
        assert refused.status_code == 400
        assert field in problem(refused)["detail"]
        started = idle.start(idle.conversation(), config_override={field: None})
        assert started.status_code == 400
        assert field in problem(started)["detail"]


@pytest.mark.parametrize("max_iterations", [1, 10_000])
def test_the_bounds_of_iterations_are_inside(max_iterations: int) -> None:
    """From 1 to 10 000."""
    with world(workers=0) as idle:
        body = {"defaults": {"model": "m", "max_iterations": max_iterations}}
        assert idle.post("/agents/conversations", body).status_code == 201
        body["defaults"]["max_iterations"] = 10_001  # type: ignore[index]  # a JSON object
        assert slug(idle.post("/agents/conversations", body)) == "invalid-config"


def test_a_server_without_a_url_is_one_of_the_hosts(served: World, desk: Desk) -> None:
    """A registered alias is offered, an unknown one is a 400."""
    served.backend.add(calls(("rooms-free", {})), says("done"))
    named = served.conversation(mcp_servers=[{"alias": "rooms"}])
    assert served.run(named)["status"] == "completed"
    assert desk.called == 1
    body = {"defaults": {"model": "m", "mcp_servers": [{"alias": "nobody"}]}}
    refused = served.post("/agents/conversations", body)
    assert refused.status_code == 400
    assert "nobody" in problem(refused)["detail"]


def test_a_host_may_have_the_model_told_of_names_that_resolve_to_nothing() -> None:
    """An error result goes back, within the same allowance of iterations."""
    script = [calls(("nowhere-x", {})), says("Sorry.")]
    with world(*script, on_unresolved_call="tell_model") as served:
        conversation = served.conversation(client_tools=USER_TOOLS)
        run = served.run(conversation)
        assert (run["status"], run["iterations_used"]) == ("completed", 2)
        (result,) = blocks(served, conversation, 3)
        assert result["is_error"] is True
    with world(script[0], on_unresolved_call="tell_model") as served:
        conversation = served.conversation(client_tools=USER_TOOLS, max_iterations=1)
        error = served.run(conversation)["error"]
        assert error["type"] == "AgentLoopMaxIterationsExceeded"


def test_a_host_may_have_the_model_told_of_refused_arguments(
    hostile: HostileServer,
) -> None:
    """What a server answers with -32602 is heard by the model instead."""
    mcp = McpDirectory(McpOptions(allow_private=True))
    script = [calls(("far-t", {})), says("Sorry.")]
    with world(*script, mcp=mcp, on_invalid_arguments="tell_model") as served:
        url = hostile.url("rpc-32602/told")
        server = {"alias": "far", "url": url, "tools": [spec("t")]}
        conversation = served.conversation(mcp_servers=[server])
        assert served.run(conversation)["status"] == "completed"
        (result,) = blocks(served, conversation, 3)
        assert result["is_error"] is True


def test_the_models_view_of_an_error_result_is_an_error(tmp_path: Any) -> None:
    """What the caller sends as `is_error` reaches Bedrock with status `error`."""
    with stage_at("2026-06-01T08:00:00Z", tmp_path) as stage:
        asked = bedrock_calls(("user-approve", {}), ids=["tooluse_1"])
        conversation = stage.world.conversation(
            model="anthropic.claude-sonnet-4-5", client_tools=USER_TOOLS
        )
        stage.run(conversation, asked)
        denied = {"tool_use_id": "tooluse_1", "content": "no", "is_error": True}
        payload = {"kind": "tool_outputs", "outputs": [denied]}
        stage.run(
            conversation, bedrock_says("Pity."), payload=payload, expected_version=2
        )
        (result,) = stage.bedrock.requests[-1].tool_results
        assert result["status"] == "error"
