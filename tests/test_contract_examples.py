"""Contract section 10, one conversation from its creation to a conflict.

Every request is sent as it is written there and every answer compared whole, over
a socket, with boto3 on FakeBedrock and a real MCP server. Only the address of that
server and ids that nobody can choose are the test's own.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from agentloop.testing.fake_bedrock import answers, calls, says
from tests.http_stage import Stage, stage_at
from tests.http_world import TEXT_SCHEMA, run_body
from tests.servers.real_process import RealServer, real_server

CREATED = "2026-06-01T08:00:00.000000Z"
POSTED = "2026-06-01T08:00:05.000000Z"
ENDED = "2026-06-01T08:00:21.000000Z"
QUESTION = "Is room 3 free on Friday? Book it if so."
KEY, SECOND_KEY = (
    "5f0c1f9e-74a9-4a0d-9f3b-0d8f6a1f2c77",
    "c0ffee00-1111-4222-8333-444455556666",
)
CONVERSATION = "0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a10"
RUN = "a2b4c6d8-0000-4000-8000-000000000001"
APPROVE = {
    "name": "approve",
    "description": "Ask the person to approve a slot.",
    "input_schema": {
        "type": "object",
        "required": ["slot"],
        "properties": {"slot": {"type": "string"}},
    },
    "strict": True,
}
FREE_SLOTS = {
    "name": "free_slots",
    "description": "List free slots of a room.",
    "input_schema": {
        "type": "object",
        "additionalProperties": False,
        "required": ["day"],
        "properties": {"day": {"type": "string"}},
    },
    "strict": True,
}
USED = {"prompt_tokens": 950, "completion_tokens": 61, "total_tokens": 1011}
SPLIT = {"cache_read_tokens": 0, "cache_write_tokens": 0, "attempts_without_usage": 0}
IDS = {"id": RUN, "conversation_id": CONVERSATION, "company_id": 1, "user_id": 407}
PROBLEMS = (
    "https://docs.narrative.io/reference/architecture/agent-conversations/errors/"
)


def new_conversation(url: str) -> dict[str, Any]:
    """Section 10.1: the body that creates the conversation."""
    return {
        "name": "room booking",
        "system_prompt": "Help people book rooms. Ask before you book.",
        "defaults": {
            "model": "anthropic.claude-opus-4.6",
            "data_plane_id": "0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a11",
            "execution_cluster": "shared",
            "max_iterations": 6,
            "max_tokens": 1500,
            "temperature": 0.0,
            "output_format_schema": TEXT_SCHEMA,
            "mcp_servers": [
                {
                    "alias": "rooms",
                    "url": url,
                    "description": "Room calendar",
                    "tools": [FREE_SLOTS],
                }
            ],
            "client_tools": [{"alias": "user", "tools": [APPROVE]}],
        },
    }


def later_vintage(url: str) -> dict[str, Any]:
    """Section 10.2: the same tools, discovered and bare."""
    body = new_conversation(url)
    defaults = body["defaults"]
    del defaults["client_tools"], defaults["output_format_schema"]
    defaults["mcp_servers"] = [{"alias": "rooms", "url": url}]
    defaults["tools"] = [{k: v for k, v in APPROVE.items() if k != "strict"}]
    return body


FIRST_RUN: dict[str, Any] = {
    "client_op_id": KEY,
    "expected_version": 0,
    "payload": {"kind": "user_message", "text": QUESTION},
    "tool_choice": {"kind": "any"},
    "config_override": {"max_iterations": 4},
}
ANSWER: dict[str, Any] = {
    "client_op_id": SECOND_KEY,
    "expected_version": 4,
    "payload": {
        "kind": "tool_outputs",
        "outputs": [
            {"tool_use_id": "tooluse_abc123", "is_error": False, "content": "approved"}
        ],
    },
}


@pytest.fixture(scope="module")
def mcp() -> Iterator[RealServer]:
    """The room calendar."""
    with real_server() as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A stage over each face, at the instant of the first request."""
    with stage_at(CREATED, tmp_path, request.param) as found:
        yield found


def create(stage: Stage, body: dict[str, Any]) -> dict[str, Any]:
    """The conversation, under its id."""
    stage.ids.given.append(CONVERSATION)
    made = stage.world.post("/agents/conversations", body)
    assert made.status_code == 201, made.text
    found: dict[str, Any] = made.json()
    return found


def post_run(stage: Stage, body: dict[str, Any]) -> Any:
    """The answer to starting a run of it."""
    return stage.world.post(f"/agents/conversations/{CONVERSATION}/runs", body)


def play_the_first_run(stage: Stage, approve: str) -> dict[str, Any]:
    """The run of 10.4, up to its pause."""
    stage.clock.move(5)
    stage.ids.given.append(RUN)

    def ask(_: object) -> Any:
        stage.clock.move(16)
        asked = {"slot": "Fri 10:00"}
        return calls((approve, asked), ids=["tooluse_abc123"], usage=(500, 21))

    stage.bedrock.script(
        calls(
            ("rooms-free_slots", {"day": "Fri"}), ids=["tooluse_x1"], usage=(450, 40)
        ),
        answers(ask),
    )
    started = post_run(stage, FIRST_RUN)
    assert started.status_code == 202, started.text
    return stage.world.ended(RUN)


def whole(run: dict[str, Any]) -> dict[str, Any]:
    """A run without the ids of its jobs, which are counted instead."""
    return {
        **run,
        "submitted_inference_job_ids": len(run["submitted_inference_job_ids"]),
    }


# ------------------------------------------------ the examples, in order


@pytest.mark.parametrize("vintage", [new_conversation, later_vintage])
def test_creation_echoes_the_body_with_five_fields_more(
    stage: Stage, vintage: Any
) -> None:
    """10.1 and 10.2: the same name, prompt and defaults, and what the server adds."""
    body = vintage("https://rooms.example.com/mcp")
    assert create(stage, body) == {
        **body,
        "id": CONVERSATION,
        "company_id": 1,
        "user_id": 407,
        "version": 0,
        "created_at": CREATED,
        "updated_at": CREATED,
    }


def test_the_list_is_an_envelope_of_conversations(stage: Stage) -> None:
    """10.3: two of three records, and the page that follows."""
    body = new_conversation("https://rooms.example.com/mcp")
    made = [stage.world.post("/agents/conversations", body).json() for _ in range(3)]
    page = stage.world.get("/agents/conversations?page=1&per_page=2")
    assert (page.status_code, page.json()) == (
        200,
        {
            "current_page": 1,
            "total_records": 3,
            "total_pages": 2,
            "next_page": 2,
            "records": [made[2], made[1]],
        },
    )


def test_a_posted_run_is_pending_with_nothing_filled(
    tmp_path: Path, mcp: RealServer
) -> None:
    """10.4: 202 with the merged config, nulls and empty lists."""
    with stage_at(CREATED, tmp_path, workers=0) as stage:
        body = new_conversation(mcp.url)
        create(stage, body)
        stage.clock.move(5)
        stage.ids.given.append(RUN)
        started = post_run(stage, FIRST_RUN)
        assert (started.status_code, started.json()) == (
            202,
            {
                **IDS,
                "client_op_id": KEY,
                "status": "pending",
                "tool_choice": {"kind": "any"},
                "effective_config": {**body["defaults"], "max_iterations": 4},
                "iterations_used": None,
                "usage": None,
                "submitted_inference_job_ids": [],
                "pending_tool_calls": [],
                "final_text": None,
                "final_structured_output": None,
                "error": None,
                "started_at": POSTED,
                "completed_at": None,
            },
        )


def paused(config: dict[str, Any], approve: str) -> dict[str, Any]:
    """10.5: the run when it waits for the caller."""
    pending = {
        "tool_use_id": "tooluse_abc123",
        "name": approve,
        "arguments": {"slot": "Fri 10:00"},
    }
    return {
        **IDS,
        "client_op_id": KEY,
        "status": "requires_action",
        "tool_choice": {"kind": "any"},
        "effective_config": {**config, "max_iterations": 4},
        "iterations_used": 2,
        "usage": USED | SPLIT,
        "submitted_inference_job_ids": 2,
        "pending_tool_calls": [pending],
        "final_text": None,
        "final_structured_output": None,
        "error": None,
        "started_at": POSTED,
        "completed_at": ENDED,
    }


def stored(approve: str) -> list[dict[str, Any]]:
    """10.8: the four messages of the run, without their ids."""
    said = {"type": "text", "text": QUESTION}
    slots = {"type": "text", "text": "10:00, 14:00"}
    use = {
        "type": "tool_use",
        "tool_use_id": "tooluse_x1",
        "name": "rooms-free_slots",
        "arguments": {"day": "Fri"},
    }
    result = {
        "type": "tool_result",
        "tool_use_id": "tooluse_x1",
        "is_error": False,
        "content_blocks": [slots],
    }
    asked = {
        "type": "tool_use",
        "tool_use_id": "tooluse_abc123",
        "name": approve,
        "arguments": {"slot": "Fri 10:00"},
    }
    turns = [("user", said), ("assistant", use), ("tool", result), ("assistant", asked)]
    return [
        {
            "sequence_no": number,
            "role": role,
            "run_id": RUN,
            # When it was said; the last turn is what the clock was moved for.
            "created_at": ENDED if number == len(turns) else POSTED,
            "content_blocks": [block],
        }
        for number, (role, block) in enumerate(turns, 1)
    ]


VINTAGES = [
    pytest.param(new_conversation, "user-approve", id="A"),
    pytest.param(later_vintage, "approve", id="B"),
]


@pytest.mark.parametrize(("vintage", "approve"), VINTAGES)
def test_the_conversation_from_the_question_to_the_booking(
    stage: Stage, mcp: RealServer, vintage: Any, approve: str
) -> None:
    """10.5 to 10.9: the pause, its messages, a stale answer, the right one, the end."""
    body = vintage(mcp.url)
    create(stage, body)
    run = play_the_first_run(stage, approve)
    assert whole(run) == paused(body["defaults"], approve)

    path = f"/agents/conversations/{CONVERSATION}/messages"
    delta = stage.world.get(f"{path}?since=0").json()
    bare = [{k: v for k, v in m.items() if k != "id"} for m in delta["messages"]]
    assert delta["current_version"] == 4
    assert bare == stored(approve)
    nothing_new = {"current_version": 4, "messages": []}
    assert stage.world.get(f"{path}?since=4").json() == nothing_new

    refused = post_run(stage, {**ANSWER, "expected_version": 0})
    log_id = refused.json()["log_id"]
    assert (refused.status_code, refused.json()) == (
        409,
        {
            "type": f"{PROBLEMS}version-conflict",
            "title": "Version Conflict",
            "status": 409,
            "detail": "conversation version mismatch: expected 0, current 4",
            "instance": f"/agents/conversations/{CONVERSATION}/runs",
            "log_id": log_id,
        },
    )

    booked = "Room 3 is booked for Friday 10:00."
    structured = "output_format_schema" in body["defaults"]
    said = f'{{"text": "{booked}"}}' if structured else booked
    stage.bedrock.script(says(said))
    resumed = stage.world.ended(post_run(stage, ANSWER).json()["id"])
    assert (resumed["status"], resumed["final_text"]) == ("completed", booked)
    assert (resumed["pending_tool_calls"], resumed["error"]) == ([], None)
    assert resumed["iterations_used"] == 1
    (fifth, sixth) = stage.world.get(f"{path}?since=4").json()["messages"]
    assert (fifth["sequence_no"], fifth["role"]) == (5, "user")
    assert fifth["content_blocks"] == [
        {
            "type": "tool_result",
            "tool_use_id": "tooluse_abc123",
            "is_error": False,
            "content_blocks": [{"type": "text", "text": "approved"}],
        }
    ]
    assert (sixth["sequence_no"], sixth["role"]) == (6, "assistant")
    stage.bedrock.assert_done()


def test_a_structured_answer_is_the_object_alone(stage: Stage) -> None:
    """10.7 of the latest vintage: no `text` in the schema, so no final text."""
    body = later_vintage("https://rooms.example.com/mcp")
    body["defaults"]["mcp_servers"] = []
    body["defaults"]["output_format_schema"] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["room", "slot"],
        "properties": {"room": {"type": "integer"}, "slot": {"type": "string"}},
    }
    create(stage, body)
    answer = '{"room": 3, "slot": "Fri 10:00"}'
    run = stage.run(CONVERSATION, says(answer), payload=QUESTION)
    assert (run["status"], run["final_text"]) == ("completed", None)
    assert run["final_structured_output"] == {"room": 3, "slot": "Fri 10:00"}


def test_a_run_that_may_not_go_on_fails(stage: Stage, mcp: RealServer) -> None:
    """10.7: four iterations of four, all of which asked for a tool."""
    create(stage, new_conversation(mcp.url))
    asked = [calls(("rooms-free_slots", {"day": "Fri"}))] * 4
    stage.bedrock.script(*asked)
    body = deepcopy(FIRST_RUN)
    run = stage.world.ended(post_run(stage, body).json()["id"])
    assert (run["status"], run["final_text"]) == ("failed", None)
    assert run["error"] == {
        "type": "AgentLoopMaxIterationsExceeded",
        "message": "max iterations exceeded after 4 iterations",
        "title": "Max Iterations Exceeded",
        "docs_url": f"{PROBLEMS}max-iterations-exceeded",
    }


@pytest.mark.parametrize(
    "choice",
    [
        {"kind": "specific_tool", "name": "approve"},
        {"kind": "specific_tool", "mcp_alias": "rooms", "name": "free_slots"},
    ],
)
def test_a_choice_of_the_later_vintages(
    stage: Stage, mcp: RealServer, choice: Any
) -> None:
    """10.4: a bare tool, or a discovered one that its server is asked about."""
    create(stage, later_vintage(mcp.url))
    wire = f"{choice['mcp_alias']}-" if "mcp_alias" in choice else ""
    stage.bedrock.script(says("Fine."))
    started = post_run(stage, run_body(QUESTION, tool_choice=choice))
    assert (started.status_code, started.json()["tool_choice"]) == (202, choice)
    stage.world.ended(started.json()["id"])
    sent = stage.bedrock.requests[0].body["toolConfig"]["toolChoice"]
    assert sent == {"tool": {"name": f"{wire}{choice['name']}"}}
