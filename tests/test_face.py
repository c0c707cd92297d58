"""The face, end to end: every flow through both faces and both embedded stores."""

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentloop import AgentLoop, RequestError, Scope, Text, ToolResult, ToolUse
from agentloop.core.catalog import Failure
from agentloop.core.config import Auto, SpecificTool
from agentloop.core.content import Json, Message
from agentloop.core.history import problems
from agentloop.core.request import UserMessage
from agentloop.ports import ToolAnswer
from agentloop.testing.fixed import CountedIds, HandClock
from agentloop.testing.scripted import (
    ScriptedBackend,
    ScriptedSession,
    calls,
    content,
    fails,
    says,
    thinks,
    throttles,
)
from agentloop.wire import Limits
from tests.faces import DEFAULTS, FACES, SCOPE, Rooms, opened_store


class Closing(Rooms):
    """Tools whose first call closes the loop it belongs to."""

    loop: AgentLoop

    def call(self, call: Any) -> Any:
        threading.Thread(target=self.loop.close).start()
        pulse = self.loop._pulse
        while not pulse._ending:
            time.sleep(0.001)
        with pulse._changed:  # free once every drive was told to stop
            return super().call(call)


class Bench:
    """A loop with a script, and what happened."""

    def __init__(self, face: str, store: Any, clock: HandClock) -> None:
        self.backend = ScriptedBackend()
        self.rooms = Rooms()
        self.events: list[Any] = []
        self.waits: list[float] = []
        self.clock = clock
        self.store = store
        self._face = face
        self.loop: Any = None

    def open(self, **options: Any) -> Any:
        def pause(delay: float, at_least: float) -> float:
            self.waits.append(max(delay, at_least))
            return 0.0

        self.loop = FACES[self._face](
            self.backend,
            self.store,
            {"rooms": self.rooms},
            ids=CountedIds(),
            clock=self.clock,
            observer=lambda _, event: self.events.append(event),
            **{"pause": pause, **options},
        )
        return self.loop

    def converse(self, **defaults: Any) -> str:
        if self.loop is None:
            self.open()
        made = self.loop.create_conversation(
            defaults={**DEFAULTS, **defaults}, system_prompt="Be brief.", scope=SCOPE
        )
        return made.id

    def play(self, id_: str, payload: Any, *script: Any, **start: Any) -> Any:
        self.backend.add(*script)
        run = self.loop.run(id_, payload, scope=SCOPE, **start)
        self.backend.assert_done()
        return run

    def stored(self, id_: str) -> list[tuple[str, Any]]:
        delta = self.loop.messages(id_, scope=SCOPE)
        numbers = [message.sequence_no for message in delta.messages]
        assert numbers == list(range(1, delta.current_version + 1))
        log = [Message(m.role, m.content_blocks) for m in delta.messages]
        assert problems(log) == []
        return [(m.role, m.content_blocks) for m in delta.messages]


@pytest.fixture(params=[(f, k) for f in FACES for k in ("memory", "sqlite")], ids=str)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A loop over one face and one store."""
    face, kind = request.param
    clock = HandClock()
    with opened_store(kind, tmp_path, clock) as store:
        made = Bench(face, store, clock)
        yield made
        if made.loop is not None:
            with made.loop:
                pass


def test_an_answer_completes_the_run(bench: Bench) -> None:
    """One text makes one iteration, two messages and version two."""
    id_ = bench.converse()
    run = bench.play(id_, "What is 2 + 2?", says("4", usage=(169, 8)))
    assert (run.status, run.final_text, run.iterations_used) == ("completed", "4", 1)
    assert run.usage.total_tokens == 177
    assert len(run.submitted_inference_job_ids) == 1
    assert bench.stored(id_) == [
        ("user", (Text("What is 2 + 2?"),)),
        ("assistant", (Text("4"),)),
    ]
    assert bench.backend.seen[0].system == "Be brief."


def test_server_tools_run_inline_and_in_call_order(bench: Bench) -> None:
    """Parallel server calls answer in one tool message, in the order of the calls."""
    id_ = bench.converse()
    bench.rooms._answers = lambda call: ToolAnswer((Text(call.arguments["day"]),))
    uses = [("rooms-free", {"day": day}) for day in ("Mon", "Tue", "Wed")]
    run = bench.play(id_, "When?", calls(*uses), says("Monday"))
    assert run.status == "completed"
    role, blocks = bench.stored(id_)[2]
    assert role == "tool"
    assert [block.content for block in blocks] == [
        (Text("Mon"),),
        (Text("Tue"),),
        (Text("Wed"),),
    ]
    keys = {call.effect_key for call in bench.rooms.calls}
    assert len(keys) == 3


def test_client_tools_pause_and_a_resume_goes_on(bench: Bench) -> None:
    """A client call ends the run; its answer opens the next one."""
    id_ = bench.converse()
    paused = bench.play(id_, "Book", calls(("user-confirm", {"slot": "10"})))
    assert paused.status == "requires_action"
    (pending,) = paused.pending_tool_calls
    assert (pending.name, pending.arguments) == ("user-confirm", {"slot": "10"})
    bench.backend.add(says("Booked"))
    run = bench.loop.resume(paused, {"user-confirm": {"ok": True}}, scope=SCOPE)
    assert run.final_text == "Booked"
    assert bench.stored(id_)[2] == (
        "user",
        (ToolResult(pending.tool_use_id, (Json({"ok": True}),)),),
    )


def test_a_mixed_turn_keeps_server_results_and_asks_the_caller(bench: Bench) -> None:
    """Server calls are carried out before the run pauses on the caller's."""
    id_ = bench.converse()
    turn = calls(("user-confirm", {}), ("rooms-free", {}))
    paused = bench.play(id_, "Both", turn)
    assert [call.name for call in paused.pending_tool_calls] == ["user-confirm"]
    assert bench.stored(id_)[2] == (
        "tool",
        (ToolResult("tooluse_2", (Text("10:00"),)),),
    )


def test_structured_answers_are_decoded(bench: Bench) -> None:
    """With a schema the answer is the object, and its text where it has one."""
    schema = {
        "type": "object",
        "required": ["text", "room"],
        "properties": {"text": {"type": "string"}, "room": {"type": "integer"}},
    }
    id_ = bench.converse(output_format_schema=schema)
    run = bench.play(id_, "Which?", says('{"text": "Room 3", "room": 3}'))
    assert run.final_structured_output == {"text": "Room 3", "room": 3}
    assert run.final_text == "Room 3"
    failed = bench.play(id_, "And now?", says('{"text": "Room 3", "room": "x"}'))
    assert failed.error.type == "AgentLoopSchemaDecodeFailed"
    assert "$.room" in failed.error.message


def test_throttling_is_waited_out_and_recorded(bench: Bench) -> None:
    """Two throttled attempts and one good one are one iteration with three attempts."""
    id_ = bench.converse()
    run = bench.play(id_, "Hi", throttles(), throttles(3.0), says("Hello"))
    assert (run.status, run.iterations_used) == ("completed", 1)
    assert bench.waits == [1.0, 3.0]
    (job,) = bench.loop.list_jobs(run.id, scope=SCOPE)
    assert [a.outcome for a in job.attempts] == ["throttled", "throttled", "ok"]
    assert run.usage.attempts_without_usage == 2


FAILURES = {
    "refused": ([fails("denied", "no access", code="AccessDenied")], "JobFailed"),
    "spent": ([throttles()] * 5, "JobFailed"),
    "truncated": ([says("half", stop="max_tokens")], "AgentLoopOutputTruncated"),
    "blocked": ([says("no", stop="content_blocked")], "AgentLoopContentBlocked"),
    "window": ([fails("context_window")], "AgentLoopContextWindowExceeded"),
    "blank": ([says("  ")], "AgentLoopMalformedModelOutput"),
    "unknown alias": ([calls(("docs-x", {}))], "AgentLoopUnknownToolAlias"),
    "unknown tool": ([calls(("rooms-x", {}))], "UnknownTool"),
    "bare name": ([calls(("x", {}))], "AgentLoopMalformedToolName"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_end_the_run_with_their_type(bench: Bench, case: str) -> None:
    """A failed run carries type, usage and jobs, and leaves a history to go on from."""
    script, type_ = FAILURES[case]
    id_ = bench.converse()
    run = bench.play(id_, "Hi", *script)
    assert (run.status, run.error.type) == ("failed", type_)
    assert run.usage is not None
    assert run.iterations_used == len(run.submitted_inference_job_ids) == 1
    bench.stored(id_)
    assert bench.play(id_, "Go on", says("Fine")).status == "completed"


def test_a_run_that_never_spoke_leaves_nothing(bench: Bench) -> None:
    """Without an assistant turn no message is stored and the version stays."""
    id_ = bench.converse()
    bench.play(id_, "Hi", fails("denied"))
    assert bench.stored(id_) == []


def test_the_iteration_cap_fails_the_run_and_closes_its_calls(bench: Bench) -> None:
    """Server calls of the last allowed iteration are answered as not executed."""
    id_ = bench.converse(max_iterations=2)
    ask = calls(("rooms-free", {}))
    run = bench.play(id_, "Loop", ask, ask)
    assert run.error.message == "max iterations exceeded after 2 iterations"
    assert len(bench.rooms.calls) == 1
    (closing,) = bench.stored(id_)[-1][1]
    assert closing.is_error


def test_a_tool_choice_holds_for_the_first_iteration(bench: Bench) -> None:
    """From the second iteration on the model is free."""
    id_ = bench.converse()
    choice = {"kind": "specific_tool", "mcp_alias": "rooms", "name": "free"}
    run = bench.play(
        id_, "Hi", calls(("rooms-free", {})), says("ok"), tool_choice=choice
    )
    assert [seen.tool_choice for seen in bench.backend.seen] == [
        SpecificTool("rooms-free"),
        Auto(),
    ]
    assert run.tool_choice == SpecificTool("free", "rooms")


def test_the_same_key_returns_the_same_run(bench: Bench) -> None:
    """A replay returns the first row unchanged, whatever its body says."""
    id_ = bench.converse()
    key = str(uuid.uuid4())
    first = bench.play(id_, "Hi", says("Hello"), client_op_id=key)
    again = bench.loop.start_run(
        id_, "Something else", client_op_id=key, expected_version=99, scope=SCOPE
    )
    assert again == first


def test_a_stale_version_is_refused(bench: Bench) -> None:
    """The documented 409 names both versions."""
    id_ = bench.converse()
    bench.play(id_, "Hi", says("Hello"))
    with pytest.raises(RequestError, match="expected 0, current 2") as refused:
        bench.loop.start_run(id_, "Hi", expected_version=0, scope=SCOPE)
    assert (refused.value.slug, refused.value.status) == ("version-conflict", 409)


def test_two_runs_on_one_version_have_one_winner(bench: Bench) -> None:
    """The loser fails, leaves no message, and can be tried again on the new version."""
    id_ = bench.converse()
    first = bench.loop.start_run(id_, "One", scope=SCOPE)
    second = bench.loop.start_run(id_, "Two", scope=SCOPE)
    bench.backend.add(says("1"), says("2"))
    won = bench.loop.wait(first.id, scope=SCOPE)
    lost = bench.loop.wait(second.id, scope=SCOPE)
    assert won.status == "completed"
    assert lost.error.type == "AgentLoopConcurrentConversationAppend"
    assert lost.usage.total_tokens == 15
    assert len(bench.stored(id_)) == 2
    bench.backend.add(says("2"))
    again = bench.loop.rebase_and_retry(lost, scope=SCOPE)
    assert again.status == "completed"
    assert bench.stored(id_)[2] == ("user", (Text("Two"),))


def test_a_pending_run_is_cancelled_at_once(bench: Bench) -> None:
    """Nothing was begun, so nothing is counted; a second cancel changes nothing."""
    id_ = bench.converse()
    run = bench.loop.start_run(id_, "Hi", scope=SCOPE)
    ended = bench.loop.cancel_run(run.id, scope=SCOPE)
    assert (ended.status, ended.error.type) == ("failed", "AgentLoopCancelled")
    assert ended.iterations_used == 0
    assert bench.loop.cancel_run(run.id, scope=SCOPE) == ended


def test_a_cancel_during_a_tool_ends_the_run_after_it(bench: Bench) -> None:
    """What was running is kept or said to be unknown; the history stays legal."""
    id_ = bench.converse()
    run = None

    def cancel(call: Any) -> ToolAnswer:
        bench.store.request_cancel(reader, call.run_id)
        return ToolAnswer((Text("done"),))

    from agentloop.ports import Reader

    reader = Reader(SCOPE.company_id)
    bench.rooms._answers = cancel
    run = bench.play(id_, "Hi", calls(("rooms-free", {})))
    assert run.error.type == "AgentLoopCancelled"
    assert bench.stored(id_)[2] == ("tool", (ToolResult("tooluse_1", (Text("done"),)),))
    assert bench.play(id_, "Go on", says("Fine")).status == "completed"


def test_the_deadline_ends_a_run(bench: Bench) -> None:
    """A run past its time fails as such and does not wait for a retry."""
    bench.open(run_timeout=60.0)
    id_ = bench.converse()

    def late(_: Any) -> Any:
        bench.clock.move(61)
        return throttles()

    run = bench.play(id_, "Hi", late)
    assert run.error.type == "AgentLoopDeadlineExceeded"


@pytest.mark.parametrize("missing", ["company", "unknown"])
def test_foreign_and_unknown_are_the_same(bench: Bench, missing: str) -> None:
    """Whatever is not the caller's does not exist, in the same words."""
    id_ = bench.converse()
    run = bench.play(id_, "Hi", says("Hello"))
    job = run.submitted_inference_job_ids[0]
    scope = Scope(2, 407) if missing == "company" else SCOPE
    conv, run_id, job_id = (
        (id_, run.id, job) if missing == "company" else (str(uuid.uuid4()),) * 3
    )
    loop = bench.loop
    for read in (
        lambda: loop.get_conversation(conv, scope=scope),
        lambda: loop.messages(conv, scope=scope),
        lambda: loop.list_runs(conv, scope=scope),
        lambda: loop.start_run(conv, "Hi", scope=scope),
        lambda: loop.delete_conversation(conv, scope=scope),
        lambda: loop.get_run(run_id, scope=scope),
        lambda: loop.cancel_run(run_id, scope=scope),
        lambda: loop.list_jobs(run_id, scope=scope),
        lambda: loop.wait(run_id, scope=scope),
        lambda: list(loop.events(run_id, scope=scope)),
        lambda: loop.inference_job(job_id, scope=scope),
    ):
        with pytest.raises(RequestError) as refused:
            read()
        assert refused.value.status == 404
        assert str(refused.value) == "Resource not found or not accessible."


def test_visibility_may_be_per_user(bench: Bench) -> None:
    """A colleague reads by id, unless the host says that each user has own rows."""
    bench.open(visibility="user")
    id_ = bench.converse()
    with pytest.raises(RequestError):
        bench.loop.get_conversation(id_, scope=Scope(1, 408))
    page = bench.loop.list_conversations(scope=SCOPE)
    assert [c.id for c in page.records] == [id_]


def test_jobs_rebuild_the_exact_request(bench: Bench) -> None:
    """A request is encoded again on read and has the checksum of what was sent."""
    id_ = bench.converse()
    bench.play(id_, "First", says("One"))
    run = bench.play(id_, "Second", calls(("rooms-free", {})), says("Two"))
    jobs = bench.loop.list_jobs(run.id, scope=SCOPE)
    assert [job.request_verified for job in jobs] == [True, True]
    assert [len(job.request["messages"]) for job in jobs] == [3, 5]
    assert jobs[1].response["message"]["content_blocks"][0]["text"] == "Two"


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"plain words"])
def test_a_request_that_is_no_json_is_left_out_of_its_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """A backend may send what it likes; its job is shown, without the request."""
    monkeypatch.setattr(ScriptedSession, "request", lambda *_: body)
    run = bench.play(bench.converse(), "Hi", says("Hello"))
    (job,) = bench.loop.list_jobs(run.id, scope=SCOPE)
    assert job.request is None
    assert job.request_verified is None
    assert job.response["message"]["content_blocks"][0]["text"] == "Hello"


def test_a_stream_tells_everything_in_order(bench: Bench) -> None:
    """Kept events have rising ids, deltas have none, and the last one is terminal."""
    id_ = bench.converse()
    bench.backend.add(throttles(), calls(("rooms-free", {})), says("one\ntwo"))
    events = list(bench.loop.stream(id_, "Hi", scope=SCOPE))
    assert [event.kind for event in events] == [
        "job_submitted",
        "attempt_discarded",
        "retry_wait",
        "job_submitted",
        "tool_started",
        "tool_finished",
        "job_submitted",
        "text_delta",
        "text_delta",
        "terminal",
    ]
    ids = [event.id for event in events if event.id]
    assert ids == list(range(1, 9))
    (run,) = bench.loop.list_runs(id_, scope=SCOPE)
    replay = list(bench.loop.events(run.id, after=5, scope=SCOPE))
    assert [event.id for event in replay] == [6, 7, 8]


def test_a_wait_tells_the_providers_hint(bench: Bench) -> None:
    """What is waited at least is told beside the delay of the schedule."""
    id_ = bench.converse()
    bench.play(id_, "Hi", throttles(), throttles(retry_after=30.0), says("ok"))
    waits = [event.data for event in bench.events if event.kind == "retry_wait"]
    spans = [(wait["delay"], wait["at_least"]) for wait in waits]
    assert spans == [(1.0, 0.0), (2.0, 30.0)]
    assert bench.waits == [1.0, 30.0]


def test_retries_of_tools_follow_the_catalog(bench: Bench) -> None:
    """A server error is tried five times, then fails the run with its type."""
    id_ = bench.converse()
    down = Failure(kind="mcp_server", message="refused")
    bench.rooms._answers = lambda call: down
    run = bench.play(id_, "Hi", calls(("rooms-free", {})))
    assert run.error.type == "McpServerError"
    assert len(bench.rooms.calls) == 5
    assert len({call.effect_key for call in bench.rooms.calls}) == 1
    assert bench.waits == [1.0, 2.0, 4.0, 8.0]


HOSTILE = {
    "surrogate": ToolAnswer((Text("a\ud800b"),)),
    "nul": ToolAnswer((Text("a\x00b"),)),
    "nan": ToolAnswer((Json(float("nan")),)),
    "bytes": ToolAnswer((Json({"x": b"raw"}),)),
    "50 MB": ToolAnswer((Text("x" * 50_000_000),)),
    "deep": ToolAnswer((Json([]),)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_results_never_break_a_run(bench: Bench, case: str) -> None:
    """What no store takes is replaced and reported, or told to the model."""
    answer = HOSTILE[case]
    if case == "deep":
        value: Any = []
        for _ in range(100_000):
            value = [value]
        answer = ToolAnswer((Json(value),))
    id_ = bench.converse()
    bench.rooms._answers = lambda call: answer
    run = bench.play(id_, "Hi", calls(("rooms-free", {})), says("ok"))
    assert run.status == "completed"
    (result,) = bench.stored(id_)[2][1]
    if case in {"surrogate", "nul"}:
        assert result.content == (Text("a\ufffdb"),)
        assert "text_normalised" in [event.kind for event in bench.events]
    else:
        assert result.is_error
        assert "cannot be passed on" in result.content[0].text


PAYLOADS: dict[str, Any] = {
    "a text": "a\ud800b\x00",
    "a value": UserMessage((Text("a\ud800b"), Text("\x00"))),
    "plain": {"kind": "user_message", "text": "a\udfff\udfff"},
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_what_is_replaced_in_a_payload_is_told(bench: Bench, case: str) -> None:
    """The run's first event says how many characters of its request were replaced."""
    id_ = bench.converse()
    run = bench.play(id_, PAYLOADS[case], says("ok"))
    told = bench.loop.events(run.id, scope=SCOPE)
    first = next(iter(told))
    assert (first.id, first.kind) == (1, "text_normalised")
    assert first.data == {"place": "request", "replaced": 2}
    assert "\ufffd" in bench.stored(id_)[0][1][0].text
    again = bench.loop.rebase_and_retry  # what is asked again is clean already
    bench.backend.add(says("ok"))
    assert again(run, scope=SCOPE).status == "completed"
    kinds = [event.kind for event in bench.events]
    assert kinds.count("text_normalised") == 1


def test_what_is_replaced_in_answers_is_told(bench: Bench) -> None:
    """The outputs that open a resumed run count as its request."""
    id_ = bench.converse()
    paused = bench.play(id_, "Book", calls(("user-confirm", {})))
    bench.backend.add(says("ok"))
    run = bench.loop.resume(paused, {"user-confirm": "yes\x00"}, scope=SCOPE)
    first = next(iter(bench.loop.events(run.id, scope=SCOPE)))
    assert (first.kind, first.data["replaced"]) == ("text_normalised", 1)


def test_a_call_is_answered_once(bench: Bench) -> None:
    """An answer by name and one by id for the same call are refused, not merged."""
    id_ = bench.converse()
    paused = bench.play(id_, "Book", calls(("user-confirm", {})))
    twice = {"user-confirm": "by name", "tooluse_1": "by id"}
    with pytest.raises(RequestError, match="'tooluse_1' answers tooluse_1 again"):
        bench.loop.resume(paused, twice, scope=SCOPE)
    bench.backend.add(says("ok"))
    assert bench.loop.resume(paused, {"user-confirm": "x"}, scope=SCOPE).final_text


def test_a_request_that_reads_like_one_before_is_checked_as_itself(
    bench: Bench,
) -> None:
    """Equal requests are looked at once; a key that is no text makes another of it."""
    bench.open()

    def begin(schema: Any) -> Any:
        defaults = {**DEFAULTS, "output_format_schema": schema}
        return bench.loop.create_conversation(defaults=defaults, scope=SCOPE)

    first, second = begin({"enum": [{"1": 1}]}), begin({"enum": [{"1": 1}]})
    assert (first.defaults, first.version) == (second.defaults, second.version)
    assert first.id != second.id
    with pytest.raises(RequestError, match="the key 1 is no string"):
        begin({"enum": [{1: 1}]})
    other = begin({"enum": [{"1": True}]}).defaults.output_format_schema
    assert other["enum"][0]["1"] is True


def nested(levels: int) -> Any:
    """A list that holds a list, and so on."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def unfolding() -> Any:
    """A few small lists that would take gigabytes as JSON."""
    value: Any = ["x" * 100]
    for _ in range(30):
        value = [value, value]
    return value


LARGE: dict[str, tuple[Any, str]] = {
    "a text": ("x" * 3000, "over 2000 bytes"),
    "a payload": ({"kind": "user_message", "text": "x" * 3000}, "over 2000 bytes"),
    "nested": ({"kind": "user_message", "text": nested(20)}, "deeper than 10"),
    "unfolding": (
        {"kind": "user_message", "text": unfolding()},
        "deeper than 10|over 2000",
    ),
    "long": ({"kind": "user_message", "text": [0] * 5000}, "over 2000 bytes"),
    "long by its parts": (
        {"kind": "user_message", "text": [0] * 1500},
        "over 2000 bytes",
    ),
}


@pytest.mark.parametrize("case", LARGE)
def test_what_a_caller_hands_over_is_capped(bench: Bench, case: str) -> None:
    """The caps on JSON hold for values as well, as `payload-too-large`."""
    bench.open(limits=Limits(max_bytes=2000, max_depth=10))
    id_ = bench.converse()
    paused = bench.play(id_, "Book", calls(("user-confirm", {})))
    payload, words = LARGE[case]
    for refused in (
        lambda: bench.loop.run(id_, payload, scope=SCOPE),
        lambda: bench.loop.resume(paused, {"user-confirm": payload}, scope=SCOPE),
        lambda: bench.loop.create_conversation(
            defaults={**DEFAULTS, "output_format_schema": {"enum": [payload]}},
            scope=SCOPE,
        ),
    ):
        with pytest.raises(RequestError, match=words) as caught:
            refused()
        assert (caught.value.slug, caught.value.status) == ("payload-too-large", 413)
    bench.backend.add(says("ok"))
    assert bench.loop.resume(paused, {"user-confirm": "x"}, scope=SCOPE).final_text


@pytest.mark.parametrize("id_", ["x", "", "\ud800", "a\x00b", "9" * 5000])
def test_an_id_that_is_no_uuid_is_unknown(bench: Bench, id_: str) -> None:
    """It is the same 404 as for any other id, whatever a store would say to it."""
    loop = bench.open()
    for read, slug in (
        (loop.get_conversation, "conversation-not-found"),
        (loop.messages, "conversation-not-found"),
        (loop.delete_conversation, "conversation-not-found"),
        (loop.list_runs, "conversation-not-found"),
        (loop.get_run, "agent-run-not-found"),
        (loop.cancel_run, "agent-run-not-found"),
        (loop.wait, "agent-run-not-found"),
        (loop.events, "agent-run-not-found"),
        (loop.inference_job, "inference-job-not-found"),
    ):
        with pytest.raises(RequestError) as caught:
            read(id_, scope=SCOPE)
        assert caught.value.slug == slug


def test_a_scope_beyond_64_bits_is_told(bench: Bench) -> None:
    """No store takes it, and none has to say so."""
    loop = bench.open()
    with pytest.raises(ValueError, match="a scope's ids have 64 bits at most"):
        loop.list_conversations(scope=Scope(1, 10**30))


def test_a_stream_fills_what_another_process_did_in_between(bench: Bench) -> None:
    """No kept event is lost when a run changes hands while somebody follows it."""
    id_ = bench.converse()
    bench.backend.add(calls(("rooms-free", {})), calls(("rooms-free", {})), says("end"))
    run = bench.loop.start_run(id_, "Hi", scope=SCOPE)
    elsewhere = AgentLoop(
        ScriptedBackend(calls(("rooms-free", {}))), bench.store, {"rooms": Closing()}
    )
    Closing.loop = elsewhere
    read, reads = bench.store.events, []

    def read_and_hand_over(reader: Any, run_id: str, after: int) -> Any:
        found = read(reader, run_id, after)
        reads.append(after)
        if len(reads) == 1:  # what was read is old by the time it is told
            with pytest.raises(RuntimeError, match="closed"):
                elsewhere.wait(run.id, scope=SCOPE)
        return found

    bench.store.events = read_and_hand_over
    followed = [e.id for e in bench.loop.events(run.id, scope=SCOPE) if e.id]
    bench.store.events = read
    kept = [e.id for e in bench.loop.events(run.id, scope=SCOPE) if e.id]
    assert followed == kept == list(range(1, len(kept) + 1))
    assert len(kept) > 5


def test_hostile_model_output_is_cleaned(bench: Bench) -> None:
    """Surrogates of a model become U+FFFD; values without JSON form fail the run."""
    id_ = bench.converse()
    run = bench.play(id_, "Hi", says("a\ud800b"))
    assert run.final_text == "a\ufffdb"
    nan = content(ToolUse("t1", "rooms-free", {"x": float("inf")}), stop="tool_use")
    run = bench.play(id_, "Hi", nan)
    assert run.error.type == "AgentLoopMalformedModelOutput"


def test_reasoning_comes_back_byte_exact(bench: Bench) -> None:
    """What the model reasoned is shown to it unchanged on the next iteration."""
    id_ = bench.converse()
    turn = thinks("hm…", "sig==", calls(("rooms-free", {})))
    bench.play(id_, "Hi", turn, says("ok"))
    shown = bench.backend.seen[1].messages[1].content[0]
    assert (shown.text, shown.signature) == ("hm…", "sig==")


BAD_RUNS: dict[str, tuple[dict[str, Any], str]] = {
    "blank text": ({"payload": "  "}, "$.payload.text must not be blank"),
    "bad kind": ({"payload": {"kind": "x"}}, "$.payload.kind"),
    "unknown key": (
        {"payload": {"kind": "user_message", "text": "x", "y": 1}},
        "$.payload.y: unknown key",
    ),
    "no outputs": (
        {"payload": {"kind": "tool_outputs", "outputs": []}},
        "outputs must not be empty",
    ),
    "bad id": ({"client_op_id": "nope"}, "$.client_op_id: must be a uuid"),
    "bad version": ({"expected_version": "0"}, "must be an integer"),
    "override key": ({"config_override": {"x": 1}}, "$.config_override.x: unknown key"),
    "override null": (
        {"config_override": {"model": None}},
        "$.config_override.model cannot be null",
    ),
    "cap": ({"config_override": {"max_iterations": 0}}, "between 1 and 10000"),
    "schema": (
        {"config_override": {"output_format_schema": {"type": "objekt"}}},
        "$.output_format_schema",
    ),
    "alias": (
        {"tool_choice": {"kind": "specific_tool", "mcp_alias": "x", "name": "y"}},
        "unknown mcp_alias 'x'",
    ),
    "tool": (
        {"tool_choice": {"kind": "specific_tool", "name": "y"}},
        "unknown tool name 'y'",
    ),
    "no turn": (
        {
            "payload": {
                "kind": "tool_outputs",
                "outputs": [{"tool_use_id": "x", "content": "y"}],
            }
        },
        "has no assistant turn yet",
    ),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_bad_requests_are_refused_before_anything_is_written(
    bench: Bench, case: str
) -> None:
    """Each refusal names the offending value, and no run row exists afterwards."""
    arguments, words = BAD_RUNS[case]
    id_ = bench.converse()
    arguments = {"payload": "Hi", **arguments}
    with pytest.raises(RequestError) as refused:
        bench.loop.start_run(id_, scope=SCOPE, **arguments)
    assert words in str(refused.value)
    assert bench.loop.list_runs(id_, scope=SCOPE) == ()


def test_a_user_message_waits_for_pending_calls(bench: Bench) -> None:
    """While the caller owes an answer nothing is guessed."""
    id_ = bench.converse()
    bench.play(id_, "Hi", calls(("user-confirm", {})))
    with pytest.raises(RequestError, match="tooluse_1") as refused:
        bench.loop.start_run(id_, "Never mind", scope=SCOPE)
    assert refused.value.slug == "pending-tool-calls"


def test_a_deleted_conversation_is_gone(bench: Bench) -> None:
    """With it go its runs, messages and jobs."""
    id_ = bench.converse()
    run = bench.play(id_, "Hi", says("Hello"))
    bench.loop.delete_conversation(id_, scope=SCOPE)
    for read in (bench.loop.get_conversation, bench.loop.messages):
        with pytest.raises(RequestError):
            read(id_, scope=SCOPE)
    with pytest.raises(RequestError):
        bench.loop.get_run(run.id, scope=SCOPE)


def test_old_runs_are_pruned(bench: Bench) -> None:
    """What they said stays, a run younger than a day as well."""
    id_ = bench.converse()
    old = bench.play(id_, "Hi", says("Hello"))
    bench.clock.move(2 * 86_400)
    young = bench.play(id_, "Still there?", says("Yes"))
    assert bench.loop.prune(bench.clock.now()) == 1
    with pytest.raises(RequestError):
        bench.loop.get_run(old.id, scope=SCOPE)
    assert bench.loop.get_run(young.id, scope=SCOPE) == young
    assert bench.loop.messages(id_, scope=SCOPE).current_version == 4
    with pytest.raises(ValueError, match="offset"):
        bench.loop.prune(bench.clock.now().replace(tzinfo=None))


def test_a_backend_that_raises_fails_the_run_only(bench: Bench) -> None:
    """A bug in a backend is one failed run with the exception's name."""
    id_ = bench.converse()

    def bug(_: Any) -> Any:
        raise ZeroDivisionError("oops")

    run = bench.play(id_, "Hi", bug)
    assert run.error.type == "JobFailed"
    assert "ZeroDivisionError" in run.error.message


def test_a_tool_server_that_raises_costs_one_call(bench: Bench) -> None:
    """The model is told that the tool failed; nothing of the inside leaks."""
    id_ = bench.converse()

    def bug(_: Any) -> Any:
        raise ZeroDivisionError("secret")

    bench.rooms._answers = bug
    run = bench.play(id_, "Hi", calls(("rooms-free", {})), says("ok"))
    assert run.status == "completed"
    (result,) = bench.stored(id_)[2][1]
    assert result.is_error
    assert "secret" not in result.content[0].text
