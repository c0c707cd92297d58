"""Stored states: what was committed is what is loaded, byte for byte, for ever."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from agentloop.core.catalog import Failure
from agentloop.core.config import Config, SpecificTool, ToolSpec
from agentloop.core.content import Json, Message, Text, ToolResult, ToolUse
from agentloop.core.machine import next_command
from agentloop.core.phases import (
    Answer,
    CallingTools,
    Completed,
    Failed,
    Finished,
    LoopState,
    Outcome,
    Plan,
    RequiresAction,
)
from agentloop.core.routing import Offer
from agentloop.core.run import PendingToolCall, Usage
from agentloop.wire import WireError, to_json
from agentloop.wire.checkpoint import (
    StoredResult,
    StoredSetup,
    header_text,
    is_idle,
    outcome_text,
    remembered_in,
    result_fields,
    result_from,
    result_text,
    routing_of,
    setup_from,
    setup_text,
    state_from,
    versioned,
)
from tests.strategies import json_objects, json_values, states, texts

GOLDEN = Path(__file__).parent / "golden" / "v1" / "checkpoint"


def staged(state: LoopState) -> dict[str, str]:
    """The results of an open turn as a journal stages them."""
    if not isinstance(state.phase, CallingTools):
        return {}
    pairs = zip(state.phase.calls, state.phase.results, strict=True)
    return {call.key: result_text(found) for call, found in pairs if found}


@given(state=states())
def test_every_state_survives_its_checkpoint(state: LoopState) -> None:
    """Loading gives an equal state, the same command and the same bytes again."""
    if isinstance(state.phase, Finished):
        return
    header = header_text(state)
    again = state_from(
        header, state.plan, state.routing, list(state.log), staged(state)
    )
    assert again == state
    assert next_command(again) == next_command(state)
    assert header_text(again) == header
    assert not is_idle(header)
    assert is_idle(header_text(state, idle=True))


@given(state=states())
def test_a_header_does_not_grow_with_the_history(state: LoopState) -> None:
    """It holds counters and attempts, never a message."""
    calls = state.phase.calls if isinstance(state.phase, CallingTools) else ()
    assert len(header_text(state)) < 300 + 60 * len(calls)


RESULTS = {
    "text": ToolResult("t1", (Text("10:00"),)),
    "error": ToolResult("t1", (Json({"a": [1, None]}),), is_error=True),
    "failure": Failure(kind="mcp_server", message="down", code="503", retry_after=2.0),
}
OUTCOMES = {
    "completed": Completed(Answer("4", {"text": "4"})),
    "requires_action": RequiresAction((ToolUse("t1", "user-ask", {"slot": "9"}),)),
    "failed": Failed("AgentLoopCancelled", "the run was cancelled"),
}
SETUP = StoredSetup(
    plan=Plan(max_iterations=3, tool_choice=SpecificTool("rooms-free")),
    catalogs={
        "rooms": (
            Offer(ToolSpec(name="free", input_schema={"type": "object"}), "fail"),
        )
    },
)
USAGE = Usage(prompt_tokens=7, completion_tokens=2, attempts_without_usage=1)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_staged_and_read(name: str) -> None:
    """A result, or why there is none, comes back as it was."""
    assert result_from(result_text(RESULTS[name])) == RESULTS[name]


@given(said=texts(), value=json_values(), arguments=json_objects())
def test_outcomes_are_what_the_encoder_would_write(said, value, arguments) -> None:
    """The terminal fields are joined by hand, character by character the same."""
    call = PendingToolCall(said, said, arguments)
    ends: list[tuple[Outcome, StoredResult]] = [
        (
            Completed(Answer(said, value)),
            StoredResult(usage=USAGE, final_text=said, final_structured_output=value),
        ),
        (
            Failed(said, said),
            StoredResult(usage=USAGE, error_type=said, error_message=said),
        ),
        (
            RequiresAction((ToolUse(said, said, arguments),)),
            StoredResult(usage=USAGE, pending=(call,)),
        ),
    ]
    for outcome, stored in ends:
        assert outcome_text(outcome, USAGE) == versioned(to_json(stored))


def test_setups_are_stored_and_read() -> None:
    """Plan and catalogs come back as they were."""
    assert setup_from(setup_text(SETUP)) == SETUP


def golden() -> dict[str, str]:
    """Everything of today's version that a store may hold."""
    texts = {f"result-{name}": result_text(value) for name, value in RESULTS.items()}
    texts |= {
        f"outcome-{name}": outcome_text(value, USAGE)
        for name, value in OUTCOMES.items()
    }
    texts["setup"] = setup_text(SETUP)
    return texts


@pytest.mark.parametrize("name", golden())
def test_golden_files_are_read_and_written_alike(name: str) -> None:
    """What version 1 stored is read for ever, and version 1 is still what we write."""
    stored = (GOLDEN / f"{name}.json").read_text().strip()
    assert golden()[name] == stored
    if name == "setup":
        assert setup_from(stored) == SETUP
    elif name.startswith("result-"):
        assert result_from(stored) == RESULTS[name.removeprefix("result-")]
    else:
        assert result_fields(stored).usage == USAGE


HEADERS = {
    "inferring": '{"v":1,"iterations":2,"messages":0,"usage":[1,2,3,4,5],'
    '"phase":{"kind":"inferring","try":[2,1.0,0.0]}}',
    "discovering": '{"v":1,"iterations":0,"messages":0,"usage":[0,0,0,0,0],'
    '"phase":{"kind":"discovering","try":[1,0.0,0.0]}}',
    "idle": '{"v":1,"iterations":1,"messages":0,"usage":[1,2,3,4,5],'
    '"phase":{"kind":"inferring","try":[1,0.0,0.0]},"idle":true}',
    "remembered": '{"v":1,"iterations":1,"messages":0,"usage":[1,2,3,4,5],'
    '"phase":{"kind":"inferring","try":[1,0.0,0.0]},"remembered":"query-1"}',
}


@pytest.mark.parametrize("name", HEADERS)
def test_golden_headers_are_resumed(name: str) -> None:
    """Headers of version 1 load, and are written again as they were."""
    stored = HEADERS[name]
    state = state_from(stored, Plan(max_iterations=3), None, [], {})
    idle, remembered = is_idle(stored), remembered_in(stored)
    assert (idle, remembered is not None) == (name == "idle", name == "remembered")
    assert header_text(state, idle=idle, remembered=remembered) == stored


CALLING = (
    '{"v":1,"iterations":1,"messages":1,"usage":[0,0,0,0,0],"phase":{"kind":"calling",'
    '"tries":{"1.1":[2,1.0,0.5]},"barred":1}}'
)
STORED_RESULT = (
    '{"type":"tool_result","tool_use_id":"u0",'
    '"content_blocks":[{"type":"text","text":"10:00"}],"is_error":false}'
)


def test_a_golden_turn_is_resumed() -> None:
    """What version 1 stored of an open turn: tries by call, and results that came."""
    uses = tuple(ToolUse(f"u{i}", "rooms-free", {}) for i in range(2))
    spec = ToolSpec(name="free", input_schema={"type": "object"})
    routing = routing_of(Config(model="m"), {"rooms": (Offer(spec),)})
    kept = result_text(ToolResult("u0", (Text("10:00"),)))
    assert kept == STORED_RESULT
    state = state_from(
        CALLING,
        Plan(max_iterations=3),
        routing,
        [Message("assistant", uses)],
        {"1.0": STORED_RESULT},
    )
    phase = state.phase
    assert isinstance(phase, CallingTools)
    assert [call.key for call in phase.calls] == ["1.0", "1.1"]
    assert phase.results == (ToolResult("u0", (Text("10:00"),)), None)
    assert (phase.calls[1].attempt, phase.calls[1].delay) == (2, 1.0)
    assert header_text(state) == CALLING


def _changed(**fields: Any) -> str:
    return json.dumps({**json.loads(HEADERS["inferring"]), **fields})


DAMAGED = {
    "no JSON": ("{", "damaged"),
    "no object": ("[]", "no object"),
    "no version": (_changed(v=None), "no schema version"),
    "newer": (_changed(v=99), "newer version of agentloop"),
    "messages": (_changed(messages=3), "says 3, 0 stored"),
    "phase": (_changed(phase={"kind": "resting"}), "cannot be resumed"),
    "ended": (_changed(phase={"kind": "finished"}), "cannot be resumed"),
    "no routing": (_changed(phase={"kind": "calling"}), "cannot be resumed"),
    "usage": (_changed(usage=[1]), "damaged checkpoint"),
    "strange": (_changed(later={"x": 1}), r"\$\.later: unknown key"),
    "strange phase": (
        _changed(phase={"kind": "inferring", "try": [1, 0.0, 0.0], "later": 1}),
        r"\$\.phase\.later: unknown key",
    ),
    "try": (_changed(phase={"kind": "inferring", "try": [1, 2, 3, 4]}), "damaged"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_headers_are_typed_errors(case: str) -> None:
    """Whatever a row holds, loading it raises nothing but `WireError`."""
    text, words = DAMAGED[case]
    with pytest.raises(WireError, match=words):
        state_from(text, Plan(max_iterations=3), None, [], {})
