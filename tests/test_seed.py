"""The documented examples of a run, made by real runs and compared field by field.

A real boto3 client asks FakeBedrock, uvicorn answers on a socket, a real MCP server
does the tool calls. Ids and instants are those of the page: the clock and the ids
of the loop hand them out.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agentloop.testing.fake_bedrock import FakeBedrock, answers, calls, says
from tests.http_examples import (
    COMPLETED,
    FAILED,
    POPULATED,
    REQUIRES_ACTION,
    STATUSES,
    differences,
)
from tests.http_sockets import client_of
from tests.http_stage import Stage, stage_at
from tests.http_world import TEXT_SCHEMA, UNKNOWN, World, outputs, run_body, slug, spec
from tests.servers.real_process import RealServer, real_server

MODEL = "anthropic.claude-sonnet-4-5"
STARTED = datetime.fromisoformat(COMPLETED["started_at"])
TOOK = datetime.fromisoformat(COMPLETED["completed_at"]) - STARTED
CONFIRM = {
    "name": "confirm_booking",
    "description": "Ask the person to confirm a slot.",
    "input_schema": {
        "type": "object",
        "required": ["proposed_slot"],
        "properties": {"proposed_slot": {"type": "string"}},
    },
}
DEFAULTS: dict[str, Any] = {
    "model": MODEL,
    "execution_cluster": "shared",
    "max_iterations": 3,
    "max_tokens": 1024,
    "temperature": 0.0,
    "output_format_schema": TEXT_SCHEMA,
    "mcp_servers": [],
    "client_tools": [{"alias": "user", "tools": [CONFIRM]}],
}


@pytest.fixture(scope="module")
def mcp() -> Iterator[RealServer]:
    """A real MCP server for all of these tests."""
    with real_server() as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A stage over each face, at the instant at which the page's run started."""
    with stage_at(COMPLETED["started_at"], tmp_path, request.param) as found:
        yield found


def converse(stage: Stage, id_: str | None = None, **defaults: Any) -> str:
    """A conversation under an id of the page, or any."""
    stage.ids.given.extend([id_] if id_ else [])
    return stage.world.conversation(**{**DEFAULTS, **defaults})


# ------------------------------------------------ the three examples


def test_the_completed_example(stage: Stage) -> None:
    """Every member as documented, ids and instants too; a job id is a uuid."""
    conversation = converse(stage, COMPLETED["conversation_id"])

    def four(_: object) -> Any:
        stage.clock.move(TOOK / timedelta(seconds=1))
        return says('{"text": "4"}', usage=(169, 8))

    stage.ids.given.append(COMPLETED["id"])
    key = COMPLETED["client_op_id"]
    run = stage.run(conversation, answers(four), client_op_id=key)
    assert differences(run, COMPLETED) == []
    (job,) = run["submitted_inference_job_ids"]
    assert str(UUID(job)) == job
    assert run["effective_config"] == DEFAULTS
    assert run["final_structured_output"] == {"text": "4"}


def test_the_example_that_requires_action(stage: Stage) -> None:
    """A call of the caller's tool, by its wire name, and its resume."""
    (call,) = REQUIRES_ACTION["pending_tool_calls"]
    asked = calls((call["name"], call["arguments"]), ids=[call["tool_use_id"]])
    conversation = converse(stage)
    stage.ids.given.append(REQUIRES_ACTION["id"])
    paused = stage.run(conversation, asked, payload="Book it.")
    assert differences(paused, REQUIRES_ACTION) == []
    # The page: resume with a new run that carries the same tool_use_id.
    resumed = stage.run(
        conversation,
        says('{"text": "Booked."}'),
        payload=outputs(**{call["tool_use_id"]: "yes"}),
        expected_version=stage.world.version(conversation),
    )
    assert (resumed["status"], resumed["final_text"]) == ("completed", "Booked.")
    sent = stage.bedrock.requests[-1].tool_results
    assert [result["toolUseId"] for result in sent] == [call["tool_use_id"]]
    assert stage.world.get(f"/agents/runs/{paused['id']}").json() == paused


def test_the_failed_example(stage: Stage, mcp: RealServer) -> None:
    """Five iterations that all ask for a tool, with the error to the letter."""
    server = {"alias": "docs", "url": mcp.url, "tools": [spec("echo")]}
    conversation = converse(stage, max_iterations=5, mcp_servers=[server])
    run = stage.run(conversation, *[calls(("docs-echo", {"text": "again"}))] * 5)
    assert differences(run, FAILED) == []
    assert run["iterations_used"] == 5 == len(run["submitted_inference_job_ids"])
    results = [m for m in stage.world.messages(conversation) if m["role"] == "tool"]
    executed = [m["content_blocks"][0]["is_error"] for m in results]
    assert executed == [False] * 4 + [True]  # the last call is not made any more


def test_the_comparison_finds_every_kind_of_difference() -> None:
    """A value, a missing member, an unknown one and another order are all told."""
    right = {**COMPLETED, "effective_config": {}, "final_structured_output": None}
    assert differences(right, COMPLETED) == []
    for name in COMPLETED.keys() - {"effective_config"}:
        assert differences({**right, name: "other"}, COMPLETED), name
    for name in right:
        lacking = {key: value for key, value in right.items() if key != name}
        assert differences(lacking, COMPLETED), name
    assert differences({**right, "extra": 1}, COMPLETED)
    assert differences(dict(reversed(right.items())), COMPLETED)


# ------------------------------------------------ what the page says of them


def populated(run: dict[str, Any]) -> set[str]:
    """The members that hold something."""
    return {name for name, value in run.items() if value not in (None, [])}


def test_each_status_fills_in_what_the_page_lists(
    tmp_path: Path, mcp: RealServer
) -> None:
    """From `pending` on members are added, and none is taken away."""
    seen: dict[str, dict[str, Any]] = {}
    with stage_at(COMPLETED["started_at"], tmp_path, workers=0) as stage:
        pending = converse(stage)
        seen["pending"] = stage.world.start(pending).json()
        run_id = seen["pending"]["id"]

        def look(_: object) -> Any:
            seen["running"] = stage.world.get(f"/agents/runs/{run_id}").json()
            return says('{"text": "4"}')

        stage.bedrock.script(answers(look))
        with stage.world.loop.worker(1, poll=0.05):
            seen["completed"] = stage.world.ended(run_id)
            asked = calls(("user-confirm_booking", {"proposed_slot": "9"}))
            seen["requires_action"] = stage.run(converse(stage), asked)
            seen["failed"] = stage.run(converse(stage), calls(("nowhere-x", {})))
    assert tuple(seen) == STATUSES
    always = POPULATED["pending"]
    for status, run in seen.items():
        assert run["status"] == status
        listed = always | POPULATED[status]
        if status != "pending":
            listed |= POPULATED["running"]
        scope = {"company_id", "user_id", "status"}
        ours = {"final_structured_output", "usage", "iterations_used"}
        assert listed <= populated(run)
        assert populated(run) <= listed | scope | ours


def test_a_known_run_is_always_a_200(stage: Stage) -> None:
    """Also one that failed; an unknown and a foreign one give the same 404."""
    failed = stage.run(converse(stage), calls(("nowhere-x", {})))
    path = f"/agents/runs/{failed['id']}"
    assert (failed["status"], stage.world.get(path).status_code) == ("failed", 200)
    foreign = stage.world.get(path, "eve")
    unknown = stage.world.get(f"/agents/runs/{UNKNOWN}", "eve")
    assert slug(foreign) == slug(unknown) == "agent-run-not-found"
    assert stage.world.get(path, "").status_code == 401
    assert stage.world.get(path, "writer").status_code == 403  # lacks the read verb


def test_the_effective_config_is_merged_and_is_what_the_model_saw(
    stage: Stage,
) -> None:
    """The conversation's defaults with this run's override applied."""
    override = {"max_tokens": 77, "temperature": 0.5, "client_tools": []}
    conversation = converse(stage)
    answer = says('{"text": "4"}')
    run = stage.run(conversation, answer, config_override=override)
    assert run["effective_config"] == {**DEFAULTS, **override}
    sent = stage.bedrock.requests[-1].body
    assert sent["inferenceConfig"] == {"maxTokens": 77, "temperature": 0.5}
    assert "toolConfig" not in sent
    found = stage.world.get(f"/agents/conversations/{conversation}").json()
    assert found["defaults"] == DEFAULTS


def test_each_iteration_is_a_job_that_can_be_looked_into(
    stage: Stage, mcp: RealServer
) -> None:
    """As many ids as iterations; each leads to the raw request and response."""
    server = {"alias": "docs", "url": mcp.url}  # its catalog is discovered
    conversation = converse(stage, mcp_servers=[server])
    run = stage.run(
        conversation,
        calls(("docs-echo", {"text": "hi"}), usage=(100, 3)),
        says('{"text": "4"}', usage=(140, 5)),
    )
    assert run["iterations_used"] == len(run["submitted_inference_job_ids"]) == 2
    usage = (run["usage"]["prompt_tokens"], run["usage"]["completion_tokens"])
    assert usage == (240, 8)  # every round re-sends the history
    for number, job_id in enumerate(run["submitted_inference_job_ids"]):
        job = stage.world.get(f"/agents/inference-jobs/{job_id}").json()
        sent = stage.bedrock.requests[number]
        assert (job["id"], job["iteration"]) == (job_id, number + 1)
        assert (job["request"], job["request_verified"]) == (sent.body, True)
        assert job["attempts"][0]["provider_request_id"] == sent.request_id
        assert job_id in sent.body["requestMetadata"].values()
    first, second = stage.bedrock.requests
    assert second.messages[: len(first.messages)] == first.messages


def test_a_key_is_idempotent_within_its_conversation(stage: Stage) -> None:
    """Sent again it returns the run unchanged; elsewhere it starts another."""
    body = run_body("2 + 2?")
    paths = [f"/agents/conversations/{converse(stage)}/runs" for _ in range(2)]
    stage.bedrock.script(says('{"text": "4"}'))
    first = stage.world.post(paths[0], body).json()
    ended = stage.world.ended(first["id"])
    again = stage.world.post(paths[0], body)
    assert (again.status_code, again.json()) == (200, ended)
    stage.bedrock.assert_done()
    stage.bedrock.script(says('{"text": "4"}'))
    other = stage.world.post(paths[1], body)
    assert (other.status_code, other.json()["id"] != first["id"]) == (202, True)
    assert stage.world.ended(other.json()["id"])["status"] == "completed"


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, {"auto": {}}),
        ({"kind": "auto"}, {"auto": {}}),
        ({"kind": "any"}, {"any": {}}),
        (
            {"kind": "specific_tool", "name": "docs-echo"},
            {"tool": {"name": "docs-echo"}},
        ),
    ],
)
def test_a_tool_choice_holds_for_the_first_iteration_only(
    tmp_path: Path, mcp: RealServer, choice: Any, sent: Any
) -> None:
    """Echoed on the run, forced once, and from iteration 2 on the model is free."""
    server = {"alias": "docs", "url": mcp.url, "tools": [spec("echo")]}
    with stage_at(COMPLETED["started_at"], tmp_path) as stage:
        conversation = converse(stage, mcp_servers=[server], output_format_schema=None)
        said = [calls(("docs-echo", {"text": "hi"})), says("4")]
        more = {} if choice is None else {"tool_choice": choice}
        run = stage.run(conversation, *said, **more)
        assert run["tool_choice"] == choice
        chosen = [
            request.body["toolConfig"].get("toolChoice", {"auto": {}})
            for request in stage.bedrock.requests
        ]
        assert chosen == [sent, {"auto": {}}]


# ------------------------------------------------ the same through the command


def test_the_command_serves_the_examples(tmp_path: Path, mcp: RealServer) -> None:
    """`agentloop serve` on boto3's own client; ids and instants are its own."""
    with FakeBedrock() as bedrock, command(tmp_path, bedrock) as world:
        bedrock.script(says('{"text": "4"}', usage=(169, 8)))
        completed = world.run(world.conversation(**DEFAULTS), "2 + 2?")
        own = ("id", "conversation_id", "client_op_id", "started_at", "completed_at")
        theirs = {**completed, **{name: COMPLETED[name] for name in own}}
        assert differences(theirs, COMPLETED) == []

        (call,) = REQUIRES_ACTION["pending_tool_calls"]
        asked = calls((call["name"], call["arguments"]), ids=[call["tool_use_id"]])
        bedrock.script(asked)
        paused = world.run(world.conversation(**DEFAULTS), "Book it.")
        assert not differences({**paused, "id": REQUIRES_ACTION["id"]}, REQUIRES_ACTION)

        server = {"alias": "docs", "url": mcp.url, "tools": [spec("echo")]}
        looping = {**DEFAULTS, "max_iterations": 5, "mcp_servers": [server]}
        bedrock.script(*[calls(("docs-echo", {"text": "again"}))] * 5)
        failed = world.run(world.conversation(**looping), "Go on.")
        assert differences(failed, FAILED) == []
        bedrock.assert_done()


@contextmanager
def command(folder: Path, bedrock: FakeBedrock) -> Iterator[World]:
    """A world in another process, started as a user starts it."""
    arguments = ["serve", "--store", str(folder / "served.db"), "--port", "0"]
    arguments += ["--backend", "bedrock", "--endpoint-url", bedrock.url]
    arguments += ["--region", "us-east-1", "--allow-private-mcp"]
    credentials = {
        "AWS_ACCESS_KEY_ID": "fake",
        "AWS_SECRET_ACCESS_KEY": "fake",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AGENTLOOP_TOKENS": "alice=1:407",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "agentloop", *arguments],
        env={**os.environ, **credentials},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            with client_of(url) as client:
                yield World(None, None, client)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
