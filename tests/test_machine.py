"""The machine: every phase with every event, and each rule it is made of."""

import pytest
from attrs import evolve

from agentloop.core.config import AnyTool, Auto, SpecificTool
from agentloop.core.content import Image, Message, Text, ToolResult, ToolUse
from agentloop.core.machine import give_up, next_command, open_turn, start, step
from agentloop.core.phases import (
    Answer,
    CallTools,
    CancelRequested,
    Completed,
    DeadlinePassed,
    Discover,
    Discovered,
    Discovering,
    DiscoveryFailed,
    Failed,
    Finish,
    Finished,
    Infer,
    ModelFailed,
    Recovered,
    RequiresAction,
    ToolFailed,
    ToolReturned,
)
from agentloop.core.routing import Routing
from agentloop.core.run import Usage
from tests.diagram import EVENTS, LEGAL, PHASES, STARTS, render
from tests.samples import (
    APPROVE,
    ASK,
    HELLO,
    LOST,
    PAY,
    READ,
    ROUTING,
    SEARCH,
    USER,
    answers,
    begin,
    begin_asking,
    calls,
    failed_as,
    failure,
    model_fails,
    plan,
    replied,
    reply,
    returned,
    tool_fails,
    uses,
    window,
)

# ---------------------------------------------------------------- the whole product

SPENT = {"attempts": 1}
STATES = {
    "Discovering": [
        begin_asking(),
        begin_asking(**SPENT),
        begin_asking(tool_choice=SpecificTool("web-get")),
    ],
    "Inferring": [begin(), begin(**SPENT), begin(on_unresolved_call="tell_model")],
    "CallingTools": [
        calls(begin(), SEARCH),
        calls(begin(), READ, PAY),
        calls(begin(**SPENT), PAY),
        calls(begin(), SEARCH, APPROVE),
        calls(begin(on_invalid_arguments="tell_model"), SEARCH),
    ],
    "Finished": [
        reply(begin(), HELLO),
        calls(begin(), APPROVE),
        step(begin(), CancelRequested()),
    ],
}
SAMPLES = {
    "Discovered": [Discovered(ROUTING), Discovered(Routing({}))],
    "DiscoveryFailed": [
        DiscoveryFailed(1, failure("discovery_unavailable")),
        DiscoveryFailed(1, failure("discovery_refused")),
        DiscoveryFailed(2, failure("discovery_refused")),
    ],
    "ModelReplied": [
        replied(begin(), content)
        for content in ((HELLO,), uses(SEARCH), uses(ASK), uses(LOST), ())
    ],
    "ModelFailed": [
        ModelFailed(iteration=1, attempt=attempt, failure=failure(kind))
        for attempt in (1, 2)
        for kind in ("throttled", "denied")
    ],
    "ToolReturned": [ToolReturned("1.0", (HELLO,)), ToolReturned("7.0", (HELLO,))],
    "ToolFailed": [
        ToolFailed("1.0", attempt, failure(kind))
        for attempt in (1, 2)
        for kind in ("mcp_server", "tool_validation", "mcp_protocol")
    ],
    "CancelRequested": [CancelRequested()],
    "DeadlinePassed": [DeadlinePassed()],
    "Recovered": [Recovered()],
}


def name_of(value: object) -> str:
    """The name under which the table knows a phase or an event."""
    return type(value).__name__


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("phase", PHASES)
def test_every_event_moves_every_phase_as_the_table_allows(phase, event):
    """From each phase each event reaches exactly the phases of the table."""
    reached = set()
    for state in STATES[phase]:
        for sample in SAMPLES[event]:
            assert (name_of(state.phase), name_of(sample)) == (phase, event)
            after = step(state, sample)
            if after is not state:
                reached.add(name_of(after.phase))
    assert reached == LEGAL[phase, event]


def test_the_table_covers_the_product():
    """Every phase and every event of the vocabulary has its cells."""
    assert set(LEGAL) == {(phase, event) for phase in PHASES for event in EVENTS}
    assert set(STATES) == set(PHASES)
    assert set(SAMPLES) == set(EVENTS)


def test_a_run_begins_in_the_phases_of_the_drawing():
    """Discovering, inferring, or finished when the forced tool is gone."""
    forced = plan(tool_choice=SpecificTool("docs-gone"))
    begun = [begin_asking(), begin(), start(forced, USER, ROUTING)]
    assert [name_of(state.phase) for state in begun] == list(STARTS)


def test_the_drawing_has_an_arrow_for_each_legal_move():
    """The diagram is made of the table and of nothing else."""
    drawn = set()
    for line in render().splitlines()[1 + len(STARTS) : -1]:
        arrow, events = line.strip().split(": ")
        phase, after = arrow.split(" --> ")
        drawn |= {(phase, event, after) for event in events.split(", ")}
    legal = {(*cell, after) for cell, allowed in LEGAL.items() for after in allowed}
    assert drawn == legal


# ---------------------------------------------------------------- commands


def test_each_phase_has_its_command():
    """The command follows from the phase alone and carries what it needs."""
    asking = begin_asking()
    assert next_command(asking) == Discover(("web",), 1, 0.0, 0.0)
    waiting = begin(tool_choice=AnyTool())
    infer = Infer(1, 1, 0.0, 0.0, AnyTool(), waiting.log)
    assert next_command(waiting) == infer
    calling = calls(begin(), SEARCH)
    assert next_command(calling) == CallTools(calling.phase.calls)
    done = reply(begin(), HELLO)
    assert next_command(done) == Finish(Completed(Answer(HELLO.text)), keep=True)


def test_a_tool_choice_holds_for_the_first_iteration_and_its_retries():
    """The second iteration is on auto whatever the plan says."""
    state = model_fails(begin(tool_choice=SpecificTool(SEARCH)))
    assert next_command(state).tool_choice == SpecificTool(SEARCH)
    assert next_command(returned(calls(state, SEARCH), 0)).tool_choice == Auto()


@pytest.mark.parametrize(
    ("choice", "routing", "named"),
    [
        (SpecificTool("docs-gone"), ROUTING, "'docs-gone'"),
        (AnyTool(), Routing({}), "'any'"),
    ],
)
@pytest.mark.parametrize("discovers", [True, False])
def test_a_forced_tool_that_is_gone_ends_the_run_before_it_costs(
    choice, routing, named, discovers
):
    """Nothing is inferred, nothing is kept, and the message names the choice."""
    made = plan(tool_choice=choice)
    if discovers:
        state = step(start(made, USER, None), Discovered(routing))
    else:
        state = start(made, USER, routing)
    assert failed_as(state) == "AgentLoopMcpDiscoveryFailed"
    assert named in state.phase.outcome.message
    assert state.iterations == 0
    assert not next_command(state).keep


# ---------------------------------------------------------------- discovery


def test_discovery_is_tried_again_while_attempts_remain():
    """A server out of reach is asked again, later, and at last given up."""
    state = begin_asking(attempts=3, delays=(1.0, 2.0))
    unreachable = failure("discovery_unavailable", retry_after=7.0)
    state = step(state, DiscoveryFailed(1, unreachable))
    assert next_command(state) == Discover(("web",), 2, 1.0, 7.0)
    state = step(state, DiscoveryFailed(2, failure("discovery_unavailable")))
    assert next_command(state) == Discover(("web",), 3, 2.0, 0.0)
    state = step(state, DiscoveryFailed(3, failure("discovery_unavailable")))
    assert failed_as(state) == "AgentLoopMcpDiscoveryFailed"


def test_what_was_discovered_late_is_still_taken():
    """An answer to an earlier attempt says the same as one to the newest."""
    state = step(begin_asking(), DiscoveryFailed(1, failure("discovery_unavailable")))
    assert step(state, Discovered(ROUTING)).routing is ROUTING


# ---------------------------------------------------------------- inference


def test_retries_follow_the_schedule_and_then_the_run_fails():
    """Five attempts wait 1, 2, 4 and 8 seconds, never less than the hint says."""
    state, waits = begin(), []
    for _ in range(4):
        state = model_fails(state)
        waits.append(next_command(state).delay)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert failed_as(model_fails(state)) == "JobFailed"
    hinted = ModelFailed(
        iteration=1, attempt=1, failure=failure("throttled", retry_after=30.0)
    )
    assert next_command(step(begin(), hinted)).at_least == 30.0


@pytest.mark.parametrize(
    ("delays", "waits"),
    [((), [0.0, 0.0, 0.0]), ((3.0,), [3.0, 3.0, 3.0]), ((1.0, 9.0), [1.0, 9.0, 9.0])],
)
def test_the_last_delay_repeats(delays, waits):
    """A schedule shorter than the attempts goes on with its last delay."""
    state, found = begin(delays=delays), []
    for _ in waits:
        state = model_fails(state)
        found.append(state.phase.delay)
    assert found == waits


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        (None, "no access", "no access"),
        ("AccessDenied", "no access", "AccessDenied: no access"),
        ("AccessDenied", "AccessDenied for you", "AccessDenied for you"),
    ],
)
def test_a_failed_job_names_the_code_of_the_provider_once(code, message, told):
    """The run's message leads with the provider's code unless it is in there."""
    lost = failure("denied", message=message, code=code)
    state = step(begin(), ModelFailed(iteration=1, attempt=1, failure=lost))
    assert state.phase.outcome == Failed("JobFailed", told)


def test_usage_is_the_sum_over_every_attempt():
    """Failed, lost and answered attempts count, each of them once."""
    state = model_fails(begin(), usage=Usage(prompt_tokens=5))
    state = model_fails(state)
    state = step(state, Recovered())
    state = reply(state, HELLO, usage=Usage(prompt_tokens=7, completion_tokens=3))
    assert state.usage == Usage(
        prompt_tokens=12, completion_tokens=3, attempts_without_usage=2
    )


def test_the_answer_without_a_decoder_is_the_first_text_that_is_kept():
    """Blank texts before it are dropped from the history and from the answer."""
    state = reply(begin(), Text(" \n"), HELLO, Text("More."))
    assert state.phase.outcome == Completed(Answer(HELLO.text))
    assert state.log[-1].content == (HELLO, Text("More."))


def test_a_decoded_answer_is_taken_as_it_is():
    """Text, structure and failures to decode come from outside and are final."""
    structured = Answer("four", {"text": "four"})
    state = reply(begin(), Text('{"text":"four"}'), answer=structured)
    assert state.phase.outcome == Completed(structured)
    state = reply(begin(), HELLO, answer=failure("schema_decode"))
    assert failed_as(state) == "AgentLoopSchemaDecodeFailed"
    assert list(state.log) == [USER, Message("assistant", (HELLO,))]
    assert next_command(state).keep


def test_a_decoded_answer_beside_calls_is_not_read():
    """Whatever a decoder made of the text, calls are carried out first."""
    state = reply(begin(), HELLO, *uses(SEARCH), answer=failure("schema_decode"))
    assert window(state) == ["1.0"]


@pytest.mark.parametrize(
    "content",
    [
        (),
        (Text("\t"),),
        (Image("png", "iVBORw0="),),
        (ToolUse("t", SEARCH, {}), ToolUse("t", READ, {})),
        (HELLO, ToolResult("t", (HELLO,))),
    ],
)
def test_a_turn_that_no_history_could_hold_is_not_kept(content):
    """The run fails as malformed output and its log stays as it was."""
    state = reply(begin(), *content)
    assert failed_as(state) == "AgentLoopMalformedModelOutput"
    assert list(state.log) == [USER]
    assert not next_command(state).keep


@pytest.mark.parametrize(
    ("stop", "type_", "message"),
    [
        (
            "max_tokens",
            "AgentLoopOutputTruncated",
            "the model stopped at max_tokens; "
            "raise max_tokens or ask for a shorter answer",
        ),
        (
            "content_blocked",
            "AgentLoopContentBlocked",
            "the provider withheld the answer: guard rail, filter or refusal",
        ),
        (
            "context_window",
            "AgentLoopContextWindowExceeded",
            "the conversation no longer fits the model: it ended at the window",
        ),
        (
            "malformed",
            "AgentLoopMalformedModelOutput",
            "the model's answer cannot be used: the provider calls it malformed",
        ),
    ],
)
def test_a_stop_reason_that_voids_a_turn_ends_the_run(stop, type_, message):
    """What was said is kept, what was called is closed and never executed."""
    state = reply(begin(), HELLO, *uses(SEARCH), stop=stop)
    assert state.phase.outcome == Failed(type_, message)
    assert answers(state) == [("t0", True, f"This call was not executed: {message}.")]
    empty = reply(begin(), stop=stop)
    assert empty.phase.outcome == Failed(type_, message)
    assert not next_command(empty).keep


def test_stopping_for_a_tool_without_calling_one_is_malformed():
    """The text is kept, but it is no answer."""
    state = reply(begin(), HELLO, stop="tool_use")
    assert failed_as(state) == "AgentLoopMalformedModelOutput"
    assert state.log[-1].content == (HELLO,)


def test_a_turn_of_another_role_becomes_the_assistants():
    """The role of a reply is the machine's to give."""
    event = evolve(replied(begin(), (HELLO,)), message=Message("user", (HELLO,)))
    assert step(begin(), event).log[-1].role == "assistant"


# ---------------------------------------------------------------- limits and ends


def test_the_last_iteration_does_not_begin_what_it_cannot_end():
    """Server calls alone are not executed and the message counts iterations."""
    state = calls(begin(max_iterations=1), SEARCH)
    assert state.phase.outcome == Failed(
        "AgentLoopMaxIterationsExceeded", "max iterations exceeded after 1 iterations"
    )
    why = "max iterations exceeded after 1 iterations"
    assert answers(state) == [("t0", True, f"This call was not executed: {why}.")]


@pytest.mark.parametrize(
    ("names", "pending"),
    [((APPROVE,), ["t0"]), ((SEARCH, ASK), ["t1"]), ((ASK, SEARCH, APPROVE), None)],
)
def test_the_last_iteration_still_asks_the_caller(names, pending):
    """A resume is a new run, so client calls pause at the cap, alone or mixed."""
    state = calls(begin(max_iterations=1), *names)
    if SEARCH in names:
        state = returned(state, names.index(SEARCH))
    outcome = state.phase.outcome
    assert isinstance(outcome, RequiresAction)
    wanted = pending or ["t0", "t2"]
    assert [use.tool_use_id for use in outcome.pending] == wanted


@pytest.mark.parametrize("event", [CancelRequested(), DeadlinePassed()])
@pytest.mark.parametrize("state", STATES["Discovering"] + STATES["Inferring"])
def test_a_run_that_ends_before_the_model_spoke_leaves_nothing(state, event):
    """There is nothing to keep, and no call to answer."""
    ended = step(state, event)
    assert not next_command(ended).keep
    assert list(ended.log) == [USER]


def test_cancel_and_deadline_have_types_of_their_own():
    """Both fail the run; the type tells them apart."""
    assert failed_as(step(begin(), CancelRequested())) == "AgentLoopCancelled"
    assert failed_as(step(begin(), DeadlinePassed())) == "AgentLoopDeadlineExceeded"


def test_a_cancelled_turn_tells_what_ran_from_what_did_not():
    """Known results stay, running calls are unknown, the others never ran."""
    state = calls(begin(parallel=2), SEARCH, READ, PAY, ASK)
    ended = step(returned(state, 0), CancelRequested())
    why = "the run was cancelled"
    unknown = f"This call was started and its outcome is unknown: {why}."
    assert answers(ended) == [
        ("t0", False, "result 0"),
        ("t1", True, unknown),
        ("t2", True, unknown),
        ("t3", True, f"This call was not executed: {why}."),
    ]


def test_a_cancel_after_the_tools_finds_nothing_to_close():
    """Once its results are in the log, a turn is whole."""
    state = returned(calls(begin(), SEARCH), 0)
    ended = step(state, CancelRequested())
    assert list(ended.log) == list(state.log)
    assert next_command(ended).keep


# ---------------------------------------------------------------- tools


def test_the_calls_of_a_turn_are_sorted_by_who_answers():
    """Server calls are made, the caller's wait, and keys count positions."""
    state = calls(begin(), ASK, SEARCH, APPROVE, READ)
    assert window(state) == ["1.1", "1.3"]
    assert state.phase.asked == tuple(
        uses(ASK, SEARCH, APPROVE, READ)[i] for i in (0, 2)
    )


def test_a_stored_turn_opens_as_it_did():
    """The phase of a turn follows from its calls and the routing alone."""
    state = calls(begin(on_unresolved_call="tell_model"), ASK, SEARCH, LOST)
    again = open_turn(1, uses(ASK, SEARCH, LOST), ROUTING)
    assert again == state.phase


def test_results_stand_in_call_order():
    """However calls end, the model reads their results in its own order."""
    state = calls(begin(), SEARCH, READ)
    state = returned(returned(state, 1), 0, is_error=True)
    assert answers(state) == [("t0", True, "result 0"), ("t1", False, "result 1")]
    assert next_command(state).iteration == 2


@pytest.mark.parametrize("policy", ["fail", "tell_model"])
def test_a_name_that_resolves_to_nothing_follows_the_plan(policy):
    """Either the run fails and nothing is called, or the model is told."""
    state = calls(begin(on_unresolved_call=policy), SEARCH, LOST)
    if policy == "fail":
        assert failed_as(state) == "AgentLoopUnknownToolAlias"
        assert [error for _, error, _ in answers(state)] == [True, True]
        return
    state = returned(state, 0)
    told = f"the model called '{LOST}', which resolves to no registered tool"
    assert answers(state) == [("t0", False, "result 0"), ("t1", True, told)]


def test_telling_the_model_of_lost_names_costs_an_iteration():
    """A turn of lost names alone goes on at once, within the same cap."""
    state = begin(on_unresolved_call="tell_model", max_iterations=2)
    state = calls(state, LOST)
    assert next_command(state).iteration == 2
    assert failed_as(calls(state, LOST)) == "AgentLoopMaxIterationsExceeded"


@pytest.mark.parametrize("policy", ["fail", "tell_model"])
def test_refused_arguments_follow_the_plan(policy):
    """Either the run fails, or the model is told and may mend them."""
    state = calls(begin(on_invalid_arguments=policy), SEARCH)
    state = tool_fails(state, 0, "tool_validation", message="day: required")
    if policy == "fail":
        assert failed_as(state) == "ToolValidation"
    else:
        assert next_command(state).iteration == 2
    assert answers(state) == [("t0", True, "day: required")]


def test_a_retried_call_waits_alone():
    """One call backs off with its own attempt while its sibling goes on."""
    state = tool_fails(calls(begin(), SEARCH, READ), 0, retry_after=3.0)
    first, second = next_command(state).window
    assert (first.attempt, first.delay, first.at_least) == (2, 1.0, 3.0)
    assert (second.attempt, second.delay) == (1, 0.0)


def test_a_call_that_fails_for_good_starts_no_other():
    """Its started sibling ends, the rest never runs, then the run fails."""
    state = calls(begin(parallel=2), SEARCH, READ, PAY)
    state = tool_fails(state, 0, "mcp_protocol", message="no JSON")
    assert window(state) == ["1.1"]
    state = returned(state, 1)
    assert state.phase.outcome == Failed("McpProtocol", "no JSON")
    assert answers(state) == [
        ("t0", True, "no JSON"),
        ("t1", False, "result 1"),
        ("t2", True, "This call was not executed: no JSON."),
    ]


def test_a_second_failure_is_not_retried_and_the_first_in_call_order_is_told():
    """Once the turn is lost nothing is tried again."""
    state = calls(begin(parallel=2), SEARCH, READ, PAY)
    state = tool_fails(state, 1, "mcp_protocol")
    state = tool_fails(state, 0, "mcp_server")
    assert failed_as(state) == "McpServerError"


def test_answers_to_calls_that_were_not_started_are_foreign():
    """Only calls of the window can have an answer; others change nothing."""
    state = calls(begin(parallel=1), SEARCH, READ)
    for event in (ToolReturned("1.1", (HELLO,)), ToolFailed("1.1", 1, failure())):
        assert step(state, event) is state


# ---------------------------------------------------------------- recovery


def test_a_lost_worker_costs_an_attempt():
    """Discovery and inference are tried again at once, as long as they may be."""
    asking = step(begin_asking(attempts=2), Recovered())
    assert next_command(asking) == Discover(("web",), 2, 0.0, 0.0)
    assert failed_as(step(asking, Recovered())) == "AgentLoopWorkerLost"
    waiting = step(begin(attempts=2), Recovered())
    assert (waiting.phase.attempt, waiting.phase.delay) == (2, 0.0)
    assert waiting.usage.attempts_without_usage == 1
    lost = step(waiting, Recovered())
    assert failed_as(lost) == "AgentLoopWorkerLost"
    assert lost.usage.attempts_without_usage == 2


def test_a_lost_worker_leaves_each_call_to_its_policy():
    """Tell, repeat and fail; what was not started is not in doubt."""
    state = step(calls(begin(parallel=2), SEARCH, READ, PAY), Recovered())
    read, pay = next_command(state).window
    assert (read.key, read.attempt, read.delay) == ("1.1", 2, 0.0)
    assert (pay.key, pay.attempt) == ("1.2", 1)
    state = returned(returned(state, 1), 2)
    unknown = (
        "This call was started and its outcome is unknown: "
        "the worker that ran it was lost."
    )
    assert answers(state)[0] == ("t0", True, unknown)


@pytest.mark.parametrize(
    ("name", "attempts", "why"),
    [
        (PAY, 5, f"'{PAY}' was running, and may not be repeated"),
        (READ, 1, f"'{READ}' was running, and its attempts are spent"),
    ],
)
def test_a_call_in_doubt_that_may_not_be_repeated_fails_the_run(name, attempts, why):
    """The message names the tool and says why it was not called again."""
    state = step(calls(begin(attempts=attempts), name, SEARCH), Recovered())
    message = f"the worker driving the run was lost: {why}"
    assert state.phase.outcome == Failed("AgentLoopWorkerLost", message)


def test_a_turn_that_was_lost_already_keeps_its_bar_when_recovered():
    """Calls that were barred before the worker died stay barred."""
    state = calls(begin(parallel=2), SEARCH, PAY, READ)
    state = step(tool_fails(state, 0, "mcp_protocol"), Recovered())
    assert failed_as(state) == "McpProtocol"
    assert answers(state)[2][2].startswith("This call was not executed")


# ---------------------------------------------------------------- size


def test_ten_thousand_iterations_need_no_deeper_stack():
    """The loop is a loop: the longest run allowed stays flat."""
    state = begin(max_iterations=10_000)
    for _ in range(9_999):
        state = returned(calls(state, SEARCH), 0)
    state = reply(state, HELLO)
    assert state.phase == Finished(Completed(Answer(HELLO.text)))
    assert (state.iterations, len(state.log)) == (10_000, 20_000)


def test_inferring_without_routing_is_a_mistake_of_the_host():
    """A state that no run reaches is refused loudly."""
    state = evolve(begin(), routing=None)
    with pytest.raises(AssertionError, match="routing is known"):
        calls(state, SEARCH)


def test_discovering_keeps_no_routing():
    """Until servers answered nothing can be resolved."""
    assert begin_asking().routing is None
    assert isinstance(begin_asking().phase, Discovering)


def test_a_run_that_cannot_be_driven_on_is_given_up() -> None:
    """It fails as told, with its calls answered; what has ended stays as it is."""
    state = calls(begin(), SEARCH, PAY)
    after = give_up(state, "AgentLoopWorkerLost", "it broke")
    assert failed_as(after) == "AgentLoopWorkerLost"
    assert [id_ for id_, _, _ in answers(after)] == ["t0", "t1"]
    assert give_up(after, "JobFailed", "later") is after
