"""The contract, section by section, through HTTP: what each answer says.

Errors have a module of their own, `test_contract_errors`.
"""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest

from agentloop.core.config import ToolSpec
from agentloop.core.content import Text
from agentloop.core.routing import Offer
from agentloop.http.operations import OPERATIONS
from agentloop.ports import ToolAnswer
from agentloop.testing.scripted import calls, says
from tests.http_world import (
    TEXT_SCHEMA,
    UNKNOWN,
    USER_TOOLS,
    World,
    outputs,
    problem,
    run_body,
    slug,
    spec,
    world,
)

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
RUN_FIELDS = {
    "id",
    "conversation_id",
    "company_id",
    "user_id",
    "client_op_id",
    "status",
    "tool_choice",
    "effective_config",
    "iterations_used",
    "usage",
    "submitted_inference_job_ids",
    "pending_tool_calls",
    "final_text",
    "final_structured_output",
    "error",
    "started_at",
    "completed_at",
}


class Rooms:
    """A host's tool server: one tool, `free`."""

    def declared(self) -> Any:
        return (Offer(ToolSpec(name="free", input_schema={"type": "object"})),)

    def discover(self, timeout: float) -> Any:
        return self.declared()

    def call(self, call: Any) -> Any:
        return ToolAnswer((Text("10:00, 14:00"),))

    def close(self) -> None:
        return None


@pytest.fixture(params=["sync", "async"])
def served(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world over each face; tests add to its script."""
    with world(face=request.param, tools={"rooms": Rooms()}) as opened:
        yield opened


@pytest.fixture
def idle() -> Iterator[World]:
    """A world in which nobody drives, so that runs stay pending."""
    with world(workers=0) as opened:
        yield opened


def is_uuid(text: str) -> bool:
    """Whether a text is a uuid as we write them."""
    return str(UUID(text)) == text


# ------------------------------------------------ 1.1, 2.1, 2.2: conversations


DEFAULTS = {
    "model": "anthropic.claude-opus-4.6",
    "data_plane_id": "0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a11",
    "execution_cluster": "shared",
    "compute_pool_id": "0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a12",
    "max_iterations": 6,
    "max_tokens": 1500,
    "temperature": 0.0,
    "output_format_schema": TEXT_SCHEMA,
    "mcp_servers": [
        {
            "alias": "rooms",
            "url": "https://rooms.example.com/mcp",
            "description": "Room calendar",
            "tools": [
                {
                    "name": "free_slots",
                    "description": "List free slots of a room.",
                    "input_schema": {
                        "type": "object",
                        "required": ["day"],
                        "properties": {"day": {"type": "string"}},
                    },
                    "strict": True,
                }
            ],
        }
    ],
    "client_tools": [{"alias": "user", "tools": [spec("approve")]}],
    "tools": [spec("confirm")],
}


def test_creating_a_conversation_echoes_what_is_stored(served: World) -> None:
    """201 with every field of the resource, version 0 and the token's scope."""
    body = {"name": "rooms", "system_prompt": "Ask first.", "defaults": DEFAULTS}
    made = served.post("/agents/conversations", body)
    assert made.status_code == 201
    conversation = made.json()
    assert conversation == {
        **body,
        "id": conversation["id"],
        "company_id": 1,
        "user_id": 407,
        "version": 0,
        "created_at": conversation["created_at"],
        "updated_at": conversation["updated_at"],
    }
    assert is_uuid(conversation["id"])
    assert INSTANT.fullmatch(conversation["created_at"])
    assert conversation["updated_at"] == conversation["created_at"]
    again = served.get(f"/agents/conversations/{conversation['id']}")
    assert (again.status_code, again.json()) == (200, conversation)


def test_creating_a_conversation_fills_the_two_defaults(idle: World) -> None:
    """Only the model is mandatory; what was left out is not echoed as empty."""
    made = idle.post("/agents/conversations", {"defaults": {"model": "m"}}).json()
    filled = {"model": "m", "max_iterations": 8, "max_tokens": 4096}
    assert made["defaults"] == filled
    assert (made["name"], made["system_prompt"]) == (None, None)


def test_a_refused_conversation_leaves_no_row(idle: World) -> None:
    """A 400 at creation writes nothing."""
    refused = idle.post("/agents/conversations", {"defaults": {"model": " "}})
    assert slug(refused) == "invalid-config"
    assert idle.get("/agents/conversations").json()["total_records"] == 0


def test_the_version_moves_with_a_paused_run(served: World) -> None:
    """After `requires_action` the assistant turn is stored and has moved it."""
    served.backend.add(calls(("user-approve", {"slot": "Fri"})))
    conversation = served.conversation(client_tools=USER_TOOLS)
    served.run(conversation)
    found = served.get(f"/agents/conversations/{conversation}").json()
    assert found["version"] == 2
    assert found["updated_at"] > found["created_at"]


def test_a_deleted_conversation_is_gone_with_all_it_had(served: World) -> None:
    """204 once, and then nothing of it is known any more."""
    served.backend.add(says("hello"))
    conversation = served.conversation()
    run = served.run(conversation)
    path = f"/agents/conversations/{conversation}"
    gone = served.call("DELETE", path)
    assert (gone.status_code, gone.content) == (204, b"")
    assert slug(served.call("DELETE", path)) == "conversation-not-found"
    assert slug(served.get(path)) == "conversation-not-found"
    assert slug(served.get(f"/agents/runs/{run['id']}")) == "agent-run-not-found"
    job = run["submitted_inference_job_ids"][0]
    found = served.get(f"/agents/inference-jobs/{job}")
    assert slug(found) == "inference-job-not-found"


# ------------------------------------------------ 1.7, 2.3: the list


def test_the_list_is_a_page_of_the_callers_own_newest_first(served: World) -> None:
    """The envelope names its neighbours only where they exist."""
    made = [served.conversation() for _ in range(3)]
    served.conversation("bob")
    first = served.get("/agents/conversations?page=1&per_page=2").json()
    assert [record["id"] for record in first["records"]] == [made[2], made[1]]
    del first["records"]
    neighbours = {"current_page": 1, "next_page": 2}
    assert first == {**neighbours, "total_records": 3, "total_pages": 2}
    second = served.get("/agents/conversations?page=2&per_page=2").json()
    assert (second["prev_page"], "next_page" in second) == (1, False)
    assert [record["id"] for record in second["records"]] == [made[0]]


def test_an_empty_list_is_no_error(idle: World) -> None:
    """No conversations: an empty page, without neighbours."""
    empty = {"current_page": 1, "total_records": 0, "total_pages": 0, "records": []}
    assert idle.get("/agents/conversations").json() == empty


def test_a_page_beyond_the_end_points_back_to_the_last(idle: World) -> None:
    """`prev_page` names a page that exists."""
    idle.conversation()
    found = idle.get("/agents/conversations?page=9&per_page=1").json()
    assert (found["records"], found["prev_page"], found["current_page"]) == ([], 1, 9)


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=-1",
        "page=x",
        "page=",
        "page=1.0",
        "page=%D9%A1",
        "page=99999999999999999",
        "page=1&page=2",
        "per_page=0",
        "per_page=201",
        "per_page=-5",
    ],
)
def test_an_odd_page_is_refused(idle: World, query: str) -> None:
    """A number that is none, or outside its bounds, is a 400."""
    refused = idle.get(f"/agents/conversations?{query}")
    assert (refused.status_code, slug(refused)) == (400, "invalid-request")


# ------------------------------------------------ 1.6, 2.4: messages


def test_messages_are_read_as_a_delta(served: World) -> None:
    """A tool run stores four numbered messages, and `since` leaves out the old."""
    served.backend.add(calls(("rooms-free", {"day": "Fri"})), says("At 10."))
    conversation = served.conversation()
    run = served.run(conversation, "Is room 3 free?")
    path = f"/agents/conversations/{conversation}/messages"
    delta = served.get(path).json()
    assert delta.keys() == {"current_version", "messages"}
    assert delta["current_version"] == 4
    assert [m["sequence_no"] for m in delta["messages"]] == [1, 2, 3, 4]
    roles = [m["role"] for m in delta["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]
    text = {"type": "text", "text": "10:00, 14:00"}
    assert [m["content_blocks"] for m in delta["messages"]] == [
        [{"type": "text", "text": "Is room 3 free?"}],
        [
            {
                "type": "tool_use",
                "tool_use_id": "tooluse_1",
                "name": "rooms-free",
                "arguments": {"day": "Fri"},
            }
        ],
        [
            {
                "type": "tool_result",
                "tool_use_id": "tooluse_1",
                "is_error": False,
                "content_blocks": [text],
            }
        ],
        [{"type": "text", "text": "At 10."}],
    ]
    fields = {"id", "sequence_no", "role", "content_blocks", "run_id", "created_at"}
    for message in delta["messages"]:
        assert message.keys() == fields
        assert message["run_id"] == run["id"]
        assert is_uuid(message["id"])
        assert INSTANT.fullmatch(message["created_at"])
    for since in range(6):
        found = served.get(f"{path}?since={since}").json()
        assert found["messages"] == delta["messages"][since:]
        assert found["current_version"] == 4


def gated(inside: threading.Event, go_on: threading.Event, then: Any) -> Any:
    """A model that says when it is asked, and answers when it may."""

    def answer(_: Any) -> Any:
        inside.set()
        assert go_on.wait(10)
        return then

    return answer


def test_messages_of_a_run_under_way_are_not_visible() -> None:
    """`running` shows its jobs; messages come at the end, all at once."""
    inside, go_on = threading.Event(), threading.Event()
    with world(gated(inside, go_on, says("done"))) as served:
        conversation = served.conversation()
        run = served.start(conversation).json()
        assert inside.wait(10)
        now = served.get(f"/agents/runs/{run['id']}").json()
        assert (now["status"], now["completed_at"]) == ("running", None)
        assert len(now["submitted_inference_job_ids"]) == 1
        assert served.messages(conversation) == []
        go_on.set()
        assert served.ended(run["id"])["status"] == "completed"
        assert len(served.messages(conversation)) == 2


def test_a_run_cancelled_inside_an_inference_calls_no_tool_after_it() -> None:
    """202 with the run still running; it ends with the answer, which is counted."""
    inside, go_on = threading.Event(), threading.Event()
    model = gated(inside, go_on, calls(("rooms-free", {})))
    with world(model, tools={"rooms": Rooms()}) as served:
        conversation = served.conversation()
        run = served.start(conversation).json()
        assert inside.wait(10)
        cancelled = served.post(f"/agents/runs/{run['id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (202, "running")
        go_on.set()
        ended = served.ended(run["id"])
        assert ended["error"]["type"] == "AgentLoopCancelled"
        assert (ended["iterations_used"], ended["usage"]["total_tokens"]) == (1, 15)
        (result,) = served.messages(conversation)[2]["content_blocks"]
        assert result["is_error"] is True


@pytest.mark.parametrize("since", ["-1", "x", "1e3", "", "18446744073709551616"])
def test_an_odd_since_is_refused(idle: World, since: str) -> None:
    """`since` is a whole number of at least 0."""
    path = f"/agents/conversations/{idle.conversation()}/messages?since={since}"
    refused = idle.get(path)
    assert (refused.status_code, slug(refused)) == (400, "invalid-request")
    unknown = idle.get(f"/agents/conversations/{UNKNOWN}/messages?since={since}")
    assert slug(unknown) == "conversation-not-found"


# ------------------------------------------------ 1.5, 2.5, 2.6, 2.8: runs


def test_a_started_run_is_pending(idle: World) -> None:
    """202 with every field present, null or empty where nothing is known yet."""
    conversation = idle.conversation()
    body = run_body(tool_choice={"kind": "auto"}, config_override={"max_tokens": 9})
    started = idle.post(f"/agents/conversations/{conversation}/runs", body)
    assert started.status_code == 202
    run = started.json()
    assert run == {
        "id": run["id"],
        "conversation_id": conversation,
        "company_id": 1,
        "user_id": 407,
        "client_op_id": body["client_op_id"],
        "status": "pending",
        "tool_choice": {"kind": "auto"},
        "effective_config": {"model": "m", "max_iterations": 8, "max_tokens": 9},
        "iterations_used": None,
        "usage": None,
        "submitted_inference_job_ids": [],
        "pending_tool_calls": [],
        "final_text": None,
        "final_structured_output": None,
        "error": None,
        "started_at": run["started_at"],
        "completed_at": None,
    }
    assert is_uuid(run["id"])
    assert INSTANT.fullmatch(run["started_at"])
    assert idle.get(f"/agents/runs/{run['id']}").json() == run
    assert idle.messages(conversation) == []


def test_a_completed_run_has_its_answer(served: World) -> None:
    """`completed`: text, usage, one job for each iteration, and an instant."""
    served.backend.add(
        calls(("rooms-free", {}), usage=(100, 3)), says("4", usage=(69, 5))
    )
    run = served.run(served.conversation())
    assert run.keys() == RUN_FIELDS
    assert run["status"] == "completed"
    assert (run["final_text"], run["final_structured_output"]) == ("4", None)
    assert (run["error"], run["pending_tool_calls"]) == (None, [])
    usage = run["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (169, 8)
    assert usage["total_tokens"] == 177
    assert run["iterations_used"] == 2 == len(run["submitted_inference_job_ids"])
    assert all(map(is_uuid, run["submitted_inference_job_ids"]))
    assert INSTANT.fullmatch(run["completed_at"])
    assert run["tool_choice"] is None


def test_a_paused_run_waits_for_the_caller(served: World) -> None:
    """`requires_action`: the calls by wire name, and no answer."""
    served.backend.add(
        calls(("user-approve", {"slot": "Fri 10:00"}), ids=["tooluse_a"])
    )
    run = served.run(served.conversation(client_tools=USER_TOOLS))
    assert run["status"] == "requires_action"
    assert run["pending_tool_calls"] == [
        {
            "tool_use_id": "tooluse_a",
            "name": "user-approve",
            "arguments": {"slot": "Fri 10:00"},
        }
    ]
    assert (run["final_text"], run["error"]) == (None, None)
    assert run["iterations_used"] == 1
    assert run["usage"]["total_tokens"] == 15
    assert run["completed_at"] is not None


def test_a_bare_tool_is_called_by_its_bare_name(served: World) -> None:
    """`tools[]` of the later vintages: no alias and no dash."""
    served.backend.add(calls(("confirm", {})))
    run = served.run(served.conversation(tools=[spec("confirm")]))
    assert [call["name"] for call in run["pending_tool_calls"]] == ["confirm"]


def test_a_failed_run_is_a_200_with_its_error(served: World) -> None:
    """`failed`: type, message, title and page; what was used is told."""
    served.backend.add(calls(("rooms-free", {})))
    run = served.run(served.conversation(max_iterations=1))
    page = "https://docs.narrative.io/reference/architecture/agent-conversations/errors"
    assert run["status"] == "failed"
    assert run["error"] == {
        "type": "AgentLoopMaxIterationsExceeded",
        "message": "max iterations exceeded after 1 iterations",
        "title": "Max Iterations Exceeded",
        "docs_url": f"{page}/max-iterations-exceeded",
    }
    assert run["iterations_used"] == 1 == len(run["submitted_inference_job_ids"])
    assert (run["final_text"], run["usage"]["total_tokens"]) == (None, 15)


def test_a_structured_answer_is_the_object(served: World) -> None:
    """With a schema the object is the answer, its `text` the final text."""
    served.backend.add(says('{"text": "Booked."}'))
    run = served.run(served.conversation(output_format_schema=TEXT_SCHEMA))
    assert run["final_structured_output"] == {"text": "Booked."}
    assert run["final_text"] == "Booked."


def test_a_run_is_resumed_by_a_new_run(served: World) -> None:
    """Section 10, from the prompt over the approval to the last message."""
    served.backend.add(
        calls(("rooms-free", {"day": "Fri"}), ids=["tooluse_x1"]),
        calls(("user-approve", {"slot": "Fri 10:00"}), ids=["tooluse_abc123"]),
        says("Room 3 is booked for Friday 10:00."),
    )
    conversation = served.conversation(client_tools=USER_TOOLS)
    paused = served.run(conversation, tool_choice={"kind": "any"})
    assert (paused["status"], paused["iterations_used"]) == ("requires_action", 2)
    version = served.version(conversation)
    assert version == 4
    resumed = served.run(
        conversation, outputs(tooluse_abc123="approved"), expected_version=version
    )
    assert resumed["id"] != paused["id"]
    assert resumed["final_text"] == "Room 3 is booked for Friday 10:00."
    assert served.get(f"/agents/runs/{paused['id']}").json() == paused
    fifth = served.messages(conversation)[4]
    assert (fifth["sequence_no"], fifth["role"]) == (5, "user")
    assert fifth["content_blocks"] == [
        {
            "type": "tool_result",
            "tool_use_id": "tooluse_abc123",
            "is_error": False,
            "content_blocks": [{"type": "text", "text": "approved"}],
        }
    ]
    served.backend.assert_done()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"content": "yes"}, {"type": "text", "text": "yes"}),
        ({"content": {"ok": [1]}}, {"type": "json", "json": {"ok": [1]}}),
        ({"content": None}, {"type": "json", "json": None}),
        (
            {"content_blocks": [{"type": "text", "text": "no"}], "is_error": True},
            {"type": "text", "text": "no"},
        ),
    ],
)
def test_an_output_is_text_json_or_blocks(
    served: World, said: dict[str, Any], kept: dict[str, Any]
) -> None:
    """Any JSON value that is no text becomes a `json` block."""
    served.backend.add(calls(("user-approve", {})), says("ok"))
    conversation = served.conversation(client_tools=USER_TOOLS)
    served.run(conversation)
    answer = {"tool_use_id": "tooluse_1", **said}
    payload = {"kind": "tool_outputs", "outputs": [answer]}
    served.run(conversation, payload, expected_version=2)
    result = served.messages(conversation)[2]["content_blocks"][0]
    assert result["content_blocks"] == [kept]
    assert result["is_error"] == said.get("is_error", False)


def test_a_user_message_may_hold_blocks(served: World) -> None:
    """Text, images and documents instead of one text."""
    served.backend.add(says("A cat."))
    blocks = [
        {"type": "text", "text": "What is it?"},
        {"type": "image", "format": "png", "data": "aGk="},
    ]
    conversation = served.conversation()
    served.run(conversation, {"kind": "user_message", "content_blocks": blocks})
    assert served.messages(conversation)[0]["content_blocks"] == blocks


# ------------------------------------------------ 2.5: idempotency and versions


def test_a_replayed_key_returns_the_run_unchanged(served: World) -> None:
    """200 instead of 202, also after the end and with another body."""
    served.backend.add(says("hello"))
    conversation = served.conversation()
    path = f"/agents/conversations/{conversation}/runs"
    body = run_body()
    first = served.post(path, body)
    ended = served.ended(first.json()["id"])
    for again in (
        body,
        {**body, "expected_version": 77, "payload": {"kind": "nonsense"}},
        {"client_op_id": body["client_op_id"].upper()},
    ):
        replay = served.post(path, again)
        assert (replay.status_code, replay.json()) == (200, ended)
    assert served.version(conversation) == 2
    served.backend.assert_done()


def test_a_key_belongs_to_its_conversation(idle: World) -> None:
    """The same key starts another run on another conversation."""
    body = run_body()
    runs = [
        idle.post(f"/agents/conversations/{idle.conversation()}/runs", body)
        for _ in range(2)
    ]
    assert [run.status_code for run in runs] == [202, 202]
    assert runs[0].json()["id"] != runs[1].json()["id"]


def test_one_of_many_simultaneous_posts_of_a_key_starts_the_run(
    served: World,
) -> None:
    """Eight posts at once: one 202, seven 200, one run."""
    served.backend.add(says("hello"))
    conversation = served.conversation()
    body = run_body()

    def post(_: int) -> Any:
        return served.post(f"/agents/conversations/{conversation}/runs", body)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert sorted(a.status_code for a in answers) == [200] * 7 + [202]
    assert len({a.json()["id"] for a in answers}) == 1
    assert served.ended(answers[0].json()["id"])["status"] == "completed"
    served.backend.assert_done()


def test_runs_that_race_for_a_version_have_one_winner() -> None:
    """Runs may run side by side; one joins the conversation, the others fail."""
    with world(forever=says("hello"), workers=0) as racing:
        conversation = racing.conversation()
        started = [racing.start(conversation) for _ in range(5)]
        assert [run.status_code for run in started] == [202] * 5
        with racing.loop.worker(4):
            ended = [racing.ended(run.json()["id"]) for run in started]
        by_status = sorted(run["status"] for run in ended)
        assert by_status == ["completed"] + ["failed"] * 4
        losers = [run for run in ended if run["status"] == "failed"]
        lost = "AgentLoopConcurrentConversationAppend"
        assert {run["error"]["type"] for run in losers} == {lost}
        assert all(run["usage"]["total_tokens"] == 15 for run in losers)
        assert racing.version(conversation) == 2 == len(racing.messages(conversation))


def test_a_run_that_failed_is_not_started_again_by_its_key(served: World) -> None:
    """A terminal row is returned as it is; a new key is needed."""
    served.backend.add(calls(("nowhere-x", {})))
    conversation = served.conversation(client_tools=USER_TOOLS)
    body = run_body()
    path = f"/agents/conversations/{conversation}/runs"
    failed = served.ended(served.post(path, body).json()["id"])
    assert failed["status"] == "failed"
    assert served.post(path, body).json() == failed


def test_the_runs_of_a_conversation_are_listed(served: World) -> None:
    """Oldest first, each as it is by itself."""
    served.backend.add(says("one"), says("two"))
    conversation = served.conversation()
    runs = [served.run(conversation, expected_version=v) for v in (0, 2)]
    found = served.get(f"/agents/conversations/{conversation}/runs")
    assert (found.status_code, found.json()) == (200, {"runs": runs})


# ------------------------------------------------ 3: the merge of configs


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ({"max_iterations": 2}, {"max_iterations": 2}),
        ({"temperature": None}, {"temperature": None}),
        ({"client_tools": []}, {"client_tools": []}),
        ({"client_tools": None}, {"client_tools": None}),
        ({"output_format_schema": {}}, {"output_format_schema": {}}),
        ({"tools": [spec("b")]}, {"tools": [spec("b")]}),
        ({}, {}),
    ],
)
def test_an_override_replaces_fields_whole_for_one_run(
    idle: World, override: dict[str, Any], changed: dict[str, Any]
) -> None:
    """Absent inherits, null clears, lists and schemas are never merged."""
    defaults = {
        "temperature": 0.5,
        "client_tools": USER_TOOLS,
        "output_format_schema": TEXT_SCHEMA,
        "tools": [spec("a")],
    }
    conversation = idle.conversation(**defaults)
    before = idle.get(f"/agents/conversations/{conversation}").json()
    run = idle.start(conversation, config_override=override).json()
    expected = {**before["defaults"], **changed}
    kept = {name: value for name, value in expected.items() if value is not None}
    assert run["effective_config"] == kept
    assert idle.get(f"/agents/conversations/{conversation}").json() == before


def test_host_tools_are_offered_and_recorded(served: World) -> None:
    """A config without servers offers every registered alias, `[]` none."""
    conversation = served.conversation()
    served.backend.add(says("a"), says("b"))
    offered = served.run(conversation)
    assert offered["effective_config"]["mcp_servers"] == [{"alias": "rooms"}]
    none = served.run(
        conversation, expected_version=2, config_override={"mcp_servers": []}
    )
    assert none["effective_config"]["mcp_servers"] == []


# ------------------------------------------------ 12: cancel, jobs, the rest


def test_cancelling_lands_a_run_failed(served: World) -> None:
    """202 while it runs; on an ended run 200 and the run unchanged."""
    with world(workers=0) as idle:
        conversation = idle.conversation()
        run = idle.start(conversation).json()
        cancelled = idle.post(f"/agents/runs/{run['id']}/cancel")
        assert cancelled.status_code == 202
        ended = idle.ended(run["id"])
        assert (ended["status"], ended["error"]["type"]) == (
            "failed",
            "AgentLoopCancelled",
        )
        again = idle.post(f"/agents/runs/{run['id']}/cancel")
        assert (again.status_code, again.json()) == (200, ended)
        assert idle.version(conversation) == 0
    served.backend.add(says("hello"))
    completed = served.run(served.conversation())
    late = served.post(f"/agents/runs/{completed['id']}/cancel")
    assert (late.status_code, late.json()) == (200, completed)


def test_a_job_tells_the_exact_request_and_response(served: World) -> None:
    """Section 12: every field of a job and of its attempts."""
    served.backend.add(says("hello"))
    run = served.run(served.conversation(), "hi there")
    (job_id,) = run["submitted_inference_job_ids"]
    found = served.get(f"/agents/inference-jobs/{job_id}")
    assert found.status_code == 200
    job = found.json()
    assert (job["id"], job["run_id"], job["iteration"]) == (job_id, run["id"], 1)
    assert (job["backend"], job["model"], job["status"]) == (
        "script",
        "m",
        "completed",
    )
    said = {"type": "text", "text": "hi there"}
    assert job["request"]["messages"] == [{"role": "user", "content_blocks": [said]}]
    assert job["request_verified"] is True
    assert job["response"]["stop"] == "end_turn"
    assert job["usage"] == run["usage"]
    (attempt,) = job["attempts"]
    assert (attempt["outcome"], attempt["usage"]) == ("ok", run["usage"])
    asked = {"provider_request_id", "outcome", "usage", "started_at", "completed_at"}
    assert asked <= attempt.keys()
    listed = served.get(f"/agents/runs/{run['id']}/inference-jobs").json()
    assert listed == {"inference_jobs": [job]}


def test_health_needs_no_token(served: World) -> None:
    """It tells of the store and of this process's workers."""
    well = served.get("/healthz", token="")
    assert well.status_code == 200
    assert well.json() == {"status": "ok", "store": "ok", "worker": "ok"}


def test_the_document_needs_no_token_and_names_every_operation(idle: World) -> None:
    """The OpenAPI document lists exactly what is served."""
    found = idle.get("/openapi.json", token="")
    assert found.status_code == 200
    listed = {
        (method.upper(), path)
        for path, methods in found.json()["paths"].items()
        for method in methods
    }
    assert listed == {(op.method, op.path) for op in OPERATIONS}


# ------------------------------------------------ permissions, isolation, routes

GUARDED = [op for op in OPERATIONS if op.verb]
BY_ID = [op for op in GUARDED if "{" in op.path]


def filled(path: str, ids: dict[str, str]) -> str:
    """A path with the ids that it names."""
    return path.format_map(ids)


def everywhere(id_: str) -> dict[str, str]:
    """One id for whatever a path names."""
    return {"conversation_id": id_, "run_id": id_, "job_id": id_}


@pytest.mark.parametrize("operation", GUARDED, ids=lambda op: op.id)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Basic alice"},
        {"authorization": "alice"},
        {"authorization": "Bearer al ice"},
    ],
    ids=lambda headers: headers.get("authorization", "none"),
)
def test_without_a_valid_token_nothing_is_told(
    idle: World, operation: Any, headers: dict[str, str]
) -> None:
    """401 for every operation, before anything else is looked at."""
    path = filled(operation.path, everywhere("x"))
    refused = idle.client.request(operation.method, path, headers=headers, content=b"{")
    assert (refused.status_code, slug(refused)) == (401, "unauthenticated")
    assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("operation", GUARDED, ids=lambda op: op.id)
def test_each_operation_needs_its_verb(idle: World, operation: Any) -> None:
    """`write` for what changes something, `read` for what does not."""
    lacking = "writer" if operation.verb == "read" else "reader"
    path = filled(operation.path, everywhere(UNKNOWN))
    refused = idle.call(operation.method, path, lacking)
    assert (refused.status_code, slug(refused)) == (403, "forbidden")
    assert operation.verb in problem(refused)["detail"]
    assert operation.verb == ("read" if operation.method == "GET" else "write")


BODIES: dict[str, Any] = {
    "right": run_body(),
    "no key": {},
    "odd key": {"client_op_id": "x"},
    "no object": [],
    "odd payload": run_body({"kind": "nonsense"}),
}
FOREIGN = [
    pytest.param(operation, body, id=f"{operation.id}-{name}")
    for operation in BY_ID
    for name, body in (BODIES.items() if operation.body else [("none", None)])
]


@pytest.mark.parametrize(("operation", "body"), FOREIGN)
def test_what_is_foreign_looks_like_what_is_unknown(operation: Any, body: Any) -> None:
    """Every operation answers a foreign id, byte by byte, as an unknown one."""
    with world(says("hello")) as shared:
        conversation = shared.conversation()
        run = shared.run(conversation)
        (job,) = run["submitted_inference_job_ids"]
        real = {"conversation_id": conversation, "run_id": run["id"], "job_id": job}
        seen = set()
        for ids in (real, everywhere(UNKNOWN), everywhere("no-uuid")):
            path = filled(operation.path, ids)
            answer = shared.call(operation.method, path, "eve", json=body)
            told = problem(answer)
            told["log_id"], instance = "", told.pop("instance")
            assert instance == path
            assert answer.headers["content-type"] == "application/problem+json"
            seen.add((answer.status_code, *sorted(map(str, told.items()))))
        assert len(seen) == 1
        assert next(iter(seen))[0] == 404
        assert shared.get(f"/agents/conversations/{conversation}").status_code == 200


def test_a_company_shares_by_id_unless_the_host_says_otherwise() -> None:
    """Visibility `company` reads a colleague's rows, `user` does not."""
    for visibility, status in (("company", 200), ("user", 404)):
        with world(workers=0, visibility=visibility) as shared:
            conversation = shared.conversation()
            path = f"/agents/conversations/{conversation}"
            assert shared.get(path, "bob").status_code == status
            run = shared.start(conversation).json()["id"]
            assert shared.get(f"/agents/runs/{run}", "bob").status_code == status
            assert shared.get("/agents/conversations", "bob").json()["records"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/agents",
        "/agents/",
        "/agents/conversations/",
        f"/agents/conversations/{UNKNOWN}/",
        f"/agents/conversations/{UNKNOWN}/nope",
        "/agents/runs",
        f"/agents/runs/{UNKNOWN}/cancel/x",
        "/healthz/x",
        "/agents/%0A",
        "/%2e%2e/etc/passwd",
    ],
)
def test_an_unknown_route_is_a_problem(idle: World, path: str) -> None:
    """404 `not-found`, with or without a token, for every method."""
    for method in ("GET", "POST", "DELETE", "PROPFIND"):
        found = idle.call(method, path, "")
        assert (found.status_code, slug(found)) == (404, "not-found")


@pytest.mark.parametrize("path", sorted({op.path for op in OPERATIONS}))
def test_a_method_that_a_path_lacks_is_a_problem(idle: World, path: str) -> None:
    """405 with the methods that it has."""
    known = {op.method for op in OPERATIONS if op.path == path}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - known:
        refused = idle.call(method, filled(path, everywhere(UNKNOWN)))
        assert (refused.status_code, slug(refused)) == (405, "method-not-allowed")
        assert set(refused.headers["allow"].split(", ")) == known


@pytest.mark.parametrize(
    "operation", [op for op in GUARDED if op.method == "GET"], ids=lambda op: op.id
)
def test_a_query_parameter_that_nobody_documented_is_ignored(operation: Any) -> None:
    """As links are passed on with additions; a body's unknown keys are refused."""
    with world(says("hello")) as served:
        conversation = served.conversation()
        run = served.run(conversation)
        (job,) = run["submitted_inference_job_ids"]
        ids = {"conversation_id": conversation, "run_id": run["id"], "job_id": job}
        path = filled(operation.path, ids)
        plain, more = served.get(path), served.get(f"{path}?trace=1&trace=2&x")
        assert (plain.status_code, more.status_code) == (200, 200)
        assert more.content == plain.content


def test_head_answers_like_get_without_a_body(idle: World) -> None:
    """Except for event streams, which nobody wants without their events."""
    conversation = idle.conversation()
    for path in ("/healthz", f"/agents/conversations/{conversation}"):
        full, head = idle.get(path), idle.call("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == full.headers["content-length"]
    run = idle.start(conversation).json()["id"]
    assert idle.call("HEAD", f"/agents/runs/{run}/events").status_code == 405


def test_the_ids_of_a_host_are_the_ids_of_the_resources() -> None:
    """Log ids and resource ids come from where the host says."""

    class Fixed:
        def __init__(self) -> None:
            self.given: list[str] = []

        def new(self) -> str:
            self.given.append(str(uuid4()))
            return self.given[-1]

    resources, logs = Fixed(), Fixed()
    with world(workers=0, ids=resources, http={"ids": logs}) as idle:
        assert idle.conversation() == resources.given[-1]
        assert problem(idle.get("/nope"))["log_id"] == logs.given[-1]
