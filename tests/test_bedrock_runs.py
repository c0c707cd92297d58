"""Whole runs over the real boto3 and a real socket: every way a run can go."""

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentloop import AgentLoop, RunEvent, Scope, Text, tool
from agentloop.backends.bedrock import BedrockBackend
from agentloop.core.content import Message, Reasoning
from agentloop.core.history import problems
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.fake_bedrock import (
    FakeBedrock,
    calls,
    content,
    fails,
    intervenes,
    raw_body,
    resets,
    says,
    stalls,
    thinks,
    throttles,
    tokens,
    truncates,
)
from agentloop.testing.fake_bedrock.replies import Partial
from agentloop.testing.fixed import CountedIds, HandClock
from tests.test_contract_examples import new_conversation

SCOPE = Scope(1, 407)
MODEL = "anthropic.claude-sonnet-4-5"
CONFIRM = {
    "name": "confirm",
    "description": "Ask the person.",
    "input_schema": {"type": "object", "properties": {"slot": {"type": "string"}}},
}


@tool
def free_slots(day: str) -> list[str]:
    """Free slots of the room on a day."""
    return [f"{day} 10:00"]


class Room:
    """A fake provider, a file, and a loop between them."""

    def __init__(self, folder: Path, streamed: bool) -> None:
        self.bedrock = FakeBedrock()
        self.clock = HandClock()
        self.store = SQLiteStore(str(folder / "runs.db"), clock=self.clock)
        self.streamed = streamed
        self.waits: list[float] = []
        self.loop = self.open()

    def open(self, tools: Any = None, **options: Any) -> AgentLoop:
        def pause(delay: float, at_least: float) -> float:
            self.waits.append(max(delay, at_least))
            return 0.0

        return AgentLoop(
            BedrockBackend(self.bedrock.client()),
            self.store,
            {"rooms": tools or [free_slots]},
            clock=self.clock,
            pause=pause,
            **options,
        )

    def converse(self, **defaults: Any) -> str:
        made = self.loop.create_conversation(
            system_prompt="Be brief.",
            defaults={"model": MODEL, "tools": [CONFIRM], **defaults},
            scope=SCOPE,
        )
        return made.id

    def play(self, id_: str, payload: Any, *script: Any, **start: Any) -> Any:
        """Drive a run, listening to it or not, and check what it left."""
        self.bedrock.script(*script)
        run = self.loop.start_run(id_, payload, scope=SCOPE, **start)
        if self.streamed:
            list(self.loop.events(run.id, scope=SCOPE))
        run = self.loop.wait(run.id, scope=SCOPE)
        self.bedrock.assert_done()
        assert run.iterations_used == len(run.submitted_inference_job_ids)
        self.log(id_)
        return run

    def log(self, id_: str) -> list[Message]:
        delta = self.loop.messages(id_, scope=SCOPE)
        log = [Message(m.role, m.content_blocks) for m in delta.messages]
        assert problems(log) == []
        return log

    def close(self) -> None:
        self.loop.close()
        self.store.close()
        self.bedrock.close()


@pytest.fixture(params=[False, True], ids=["converse", "converse_stream"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    """A room whose runs are listened to, or not: that decides which call is made."""
    made = Room(tmp_path, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("levels", [150, 900, 2000, 100_000])
def test_a_reply_nested_too_deeply_is_malformed(levels: int, streamed: bool) -> None:
    """Whoever notices it first, botocore, the decoder or the record of the job."""
    deep = "[" * levels + "]" * levels
    use = {"toolUseId": "t1", "name": "confirm", "input": {"x": 0}}
    reply = {
        "output": {"message": {"role": "assistant", "content": [{"toolUse": use}]}},
        "stopReason": "tool_use",
        "usage": {"inputTokens": 5, "outputTokens": 1, "totalTokens": 6},
    }
    body = json.dumps(reply).replace('{"x": 0}', f'{{"x": {deep}}}').encode()
    whole = calls(("confirm", Partial(f'{{"x": {deep}}}')), stop="tool_use")
    with FakeBedrock(whole if streamed else raw_body(body)) as bedrock:
        loop = AgentLoop(BedrockBackend(bedrock.client()))
        defaults = {"model": MODEL, "tools": [CONFIRM]}
        made = loop.create_conversation(defaults=defaults, scope=SCOPE)
        if streamed:
            events = [*loop.stream(made.id, "Hi", scope=SCOPE)]
            assert events[-1].kind == "terminal"
            [run] = loop.list_runs(made.id, scope=SCOPE)
        else:
            run = loop.run(made.id, "Hi", scope=SCOPE)
        loop.close()
    assert run.error is not None
    assert run.error.type == "AgentLoopMalformedModelOutput"


def next_request(order: tuple[int, ...]) -> bytes:
    """The request after parallel calls that ended in this order, as it was sent."""
    ended = [threading.Event() for _ in order]
    turns = iter(order)
    started: list[str] = []

    @tool
    def step(number: int) -> dict[str, int]:
        """Wait to be the next."""
        assert ended[number].wait(30)
        return {"step": number}

    def observe(_: str, event: RunEvent) -> None:
        """Let the next call end once all have begun, and the one before is stored."""
        if event.kind == "tool_started":
            started.append(event.data["key"])
        elif event.kind != "tool_finished":
            return
        if len(started) == len(order) and (turn := next(turns, None)) is not None:
            ended[turn].set()

    uses = [("rooms-step", {"number": number}) for number in range(len(order))]
    with FakeBedrock(calls(*uses), says("done")) as bedrock:
        loop = AgentLoop(
            BedrockBackend(bedrock.client()),
            tools={"rooms": [step]},
            observer=observe,
            ids=CountedIds(),
        )
        made = loop.create_conversation(defaults={"model": MODEL}, scope=SCOPE)
        run = loop.run(made.id, "Go", scope=SCOPE)
        finished = [
            event.data["tool_use_id"]
            for event in loop.events(run.id, scope=SCOPE)
            if event.kind == "tool_finished"
        ]
        loop.close()
    assert run.status == "completed"
    request = bedrock.requests[1]
    asked = [
        use["toolUse"]["toolUseId"] for use in request.body["messages"][1]["content"]
    ]
    assert [asked.index(id_) for id_ in finished] == list(order)
    return request.raw


def test_the_order_in_which_calls_end_changes_no_byte() -> None:
    """Results go back in call order, so a provider's prompt cache always fits."""
    sent = {next_request(order) for order in itertools.permutations(range(3))}
    assert len(sent) == 1


def test_the_contracts_first_example_runs_on_its_model(tmp_path: Path) -> None:
    """Example 10.1 as it is written: a dotted Claude id with a schema and tools."""
    body = new_conversation("https://rooms.example.com/mcp")
    answer = '{"text": "Booked."}'
    approve = calls(("user-approve", {"slot": "Fri 10:00"}), ids=["tooluse_1"])
    with FakeBedrock(approve, says(answer)) as bedrock:
        loop = AgentLoop(BedrockBackend(bedrock.client()))
        made = loop.create_conversation(body, scope=SCOPE)
        paused = loop.run(made.id, "Is room 3 free?", scope=SCOPE)
        ended = loop.resume(paused, {"user-approve": "yes"}, scope=SCOPE)
        loop.close()
    assert ended.error is None
    assert ended.final_structured_output == {"text": "Booked."}
    assert "outputConfig" in bedrock.requests[0].body


def test_an_answer(room: Room) -> None:
    """Usage counts cache reads and writes; the job holds request and response."""
    id_ = room.converse()
    run = room.play(id_, "2 + 2?", says("4", usage=tokens(100, 8, read=60, written=9)))
    assert (run.status, run.final_text) == ("completed", "4")
    assert (run.usage.prompt_tokens, run.usage.total_tokens) == (169, 177)
    (job,) = room.loop.list_jobs(run.id, scope=SCOPE)
    assert job.request_verified is True
    assert list(job.request["requestMetadata"].values()) == [job.id]
    assert job.attempts[0].provider_request_id
    (request,) = room.bedrock.requests
    operation = "converse_stream" if room.streamed else "converse"
    assert request.operation == operation


def test_server_tools_in_parallel(room: Room) -> None:
    """Results go back in one turn, in call order."""
    id_ = room.converse()
    days = [("rooms-free_slots", {"day": day}) for day in ("Mon", "Tue")]
    run = room.play(id_, "When?", calls(*days), says("Monday"))
    assert run.final_text == "Monday"
    sent = room.bedrock.requests[1].body["messages"][-1]["content"]
    results = [str(block["toolResult"]["content"]) for block in sent]
    assert ["Mon 10:00" in results[0], "Tue 10:00" in results[1]] == [True, True]


def test_a_pause_and_its_resume(room: Room) -> None:
    """A caller's tool ends the run; the answer opens the next."""
    id_ = room.converse()
    paused = room.play(id_, "Book", calls(("confirm", {"slot": "9:00"})))
    assert paused.status == "requires_action"
    (call,) = paused.pending_tool_calls
    output = {"tool_use_id": call.tool_use_id, "content": {"ok": True}}
    payload = {"kind": "tool_outputs", "outputs": [output]}
    assert room.play(id_, payload, says("Booked")).final_text == "Booked"


def test_a_mixed_turn_becomes_one_provider_turn(room: Room) -> None:
    """Server and client results of one turn are joined in call order."""
    id_ = room.converse()
    turn = calls(("confirm", {"slot": "9"}), ("rooms-free_slots", {"day": "Fri"}))
    paused = room.play(id_, "Both", turn)
    (call,) = paused.pending_tool_calls
    output = {"tool_use_id": call.tool_use_id, "content": "yes"}
    payload = {"kind": "tool_outputs", "outputs": [output]}
    room.play(id_, payload, says("Done"))
    sent = room.bedrock.requests[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    ids = [block["toolResult"]["toolUseId"] for block in sent[2]["content"]]
    asked = [b["toolUse"]["toolUseId"] for b in sent[1]["content"] if "toolUse" in b]
    assert ids == asked


def test_a_forced_tool_is_forced_once(room: Room) -> None:
    """The first request carries the choice, the second does not."""
    id_ = room.converse()
    choice = {"kind": "specific_tool", "name": "rooms-free_slots"}
    turn = calls(("rooms-free_slots", {"day": "Fri"}))
    room.play(id_, "Look", turn, says("ok"), tool_choice=choice)
    first, second = (request.body["toolConfig"] for request in room.bedrock.requests)
    assert first["toolChoice"] == {"tool": {"name": "rooms-free_slots"}}
    assert second.get("toolChoice", {"auto": {}}) == {"auto": {}}


def test_a_structured_answer(room: Room) -> None:
    """The schema is sent natively and the answer is decoded against it."""
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["room"],
        "properties": {"room": {"type": "integer"}},
    }
    id_ = room.converse(output_format_schema=schema)
    run = room.play(id_, "Which?", says('{"room": 3}'))
    assert run.final_structured_output == {"room": 3}
    assert "outputConfig" in room.bedrock.requests[0].body


def test_reasoning_is_returned_unchanged(room: Room) -> None:
    """Text and signature go back as they came, at the head of their turn."""
    id_ = room.converse()
    turn = thinks("let me see") + calls(("rooms-free_slots", {"day": "Fri"}))
    room.play(id_, "Hm", turn, says("ok"))
    kept = room.log(id_)[1].content[0]
    assert isinstance(kept, Reasoning)
    sent = room.bedrock.requests[1].body["messages"][1]["content"][0]
    text = sent["reasoningContent"]["reasoningText"]
    assert (text["text"], text["signature"]) == (kept.text, kept.signature)


def test_throttled_twice(room: Room) -> None:
    """Three requests, one iteration, two waits by the schedule."""
    id_ = room.converse()
    run = room.play(id_, "Hi", throttles("slow"), throttles("slow"), says("Hello"))
    assert (run.status, run.iterations_used) == ("completed", 1)
    assert room.waits == [1.0, 2.0]
    assert len(room.bedrock.requests) == 3


FAILURES: dict[str, tuple[Any, str]] = {
    "denied": (fails("AccessDeniedException", 403, "no"), "JobFailed"),
    "invalid": (fails("ValidationException", 400, "odd"), "JobFailed"),
    "too long": (
        fails("ValidationException", 400, "Input is too long for requested model"),
        "AgentLoopContextWindowExceeded",
    ),
    "truncated": (says("half", stop="max_tokens"), "AgentLoopOutputTruncated"),
    "cut in a call": (
        truncates(("rooms-free_slots", {"day": "Friday"}), at=5),
        "AgentLoopOutputTruncated",
    ),
    "blocked": (intervenes("I cannot say that"), "AgentLoopContentBlocked"),
    "empty": (content([]), "AgentLoopMalformedModelOutput"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_are_told_by_the_catalog(room: Room, case: str) -> None:
    """One request is made, and the run fails as the catalog says."""
    reply, type_ = FAILURES[case]
    id_ = room.converse()
    run = room.play(id_, "Hi", reply)
    assert run.error.type == type_
    assert len(room.bedrock.requests) == 1
    assert room.play(id_, "Go on", says("Fine")).status == "completed"


def test_a_cut_connection_is_tried_again(room: Room) -> None:
    """A reply that breaks off is a failed attempt, never half an answer."""
    id_ = room.converse()
    run = room.play(id_, "Hi", resets(says("a long answer")), says("whole"))
    assert run.final_text == "whole"
    (job,) = room.loop.list_jobs(run.id, scope=SCOPE)
    assert len(job.attempts) == 2


def test_a_cancel_ends_the_run_with_its_inference(room: Room) -> None:
    """What the model answers to a cancelled run is counted and not carried out."""
    id_ = room.converse()
    turn = calls(("rooms-free_slots", {"day": "Fri"}))
    room.bedrock.script(stalls(0.2, turn))
    run = room.loop.start_run(id_, "Hi", scope=SCOPE)
    driver = threading.Thread(
        target=room.loop.wait, args=(run.id,), kwargs={"scope": SCOPE}
    )
    driver.start()
    while room.bedrock.most_in_flight == 0:
        threading.Event().wait(0.005)
    room.loop.cancel_run(run.id, scope=SCOPE)
    driver.join()
    ended = room.loop.get_run(run.id, scope=SCOPE)
    assert ended.error.type == "AgentLoopCancelled"
    assert ended.usage.total_tokens > 0
    assert [message.role for message in room.log(id_)] == ["user", "assistant", "tool"]


def test_a_cancel_wins_over_a_final_answer(room: Room) -> None:
    """What was accepted happens; the answer is in the job, and paid for."""
    id_ = room.converse()
    room.bedrock.script(stalls(0.2, says("too late")))
    run = room.loop.start_run(id_, "Hi", scope=SCOPE)
    driver = threading.Thread(
        target=room.loop.wait, args=(run.id,), kwargs={"scope": SCOPE}
    )
    driver.start()
    while room.bedrock.most_in_flight == 0:
        threading.Event().wait(0.005)
    assert room.loop.cancel_run(run.id, scope=SCOPE).status == "running"
    driver.join()
    ended = room.loop.get_run(run.id, scope=SCOPE)
    assert ended.error.type == "AgentLoopCancelled"
    assert ended.usage.total_tokens > 0
    (job,) = room.loop.list_jobs(run.id, scope=SCOPE)
    assert "too late" in str(job.response)
    assert room.log(id_) == []


class Died(BaseException):
    """The worker is gone."""


def test_killed_and_resumed(room: Room) -> None:
    """A worker that died in a tool is followed by one that tells the model so."""
    id_ = room.converse()

    class Deadly:
        def declared(self) -> Any:
            return room.loop._service.resources.servers["rooms"].declared()

        def discover(self, timeout: float) -> Any:
            return self.declared()

        def call(self, call: Any) -> Any:
            raise Died

        def close(self) -> None:
            return None

    room.bedrock.script(calls(("rooms-free_slots", {"day": "Fri"})))
    mortal = room.open(Deadly())
    with mortal, pytest.raises(Died):
        mortal.run(id_, "Hi", scope=SCOPE)
    (run,) = room.loop.list_runs(id_, scope=SCOPE)
    assert run.status == "running"
    room.clock.move(60)
    room.bedrock.script(says("I do not know whether it worked."))
    ended = room.loop.wait(run.id, scope=SCOPE)
    assert ended.status == "completed"
    (result,) = room.log(id_)[2].content
    assert result.is_error
    sent = room.bedrock.requests[-1].body["messages"][-1]["content"][0]["toolResult"]
    assert sent["status"] == "error"
    assert "outcome is unknown" in sent["content"][0]["text"]


def test_deltas_arrive_while_somebody_listens(room: Room) -> None:
    """A stream yields the answer in pieces, and they make up the final text."""
    id_ = room.converse()
    room.bedrock.script(says("one two three four"))
    events = list(room.loop.stream(id_, "Hi", scope=SCOPE))
    pieces = [event.data["text"] for event in events if event.kind == "text_delta"]
    assert "".join(pieces) == "one two three four"
    assert room.log(id_)[1] == Message("assistant", (Text("one two three four"),))
