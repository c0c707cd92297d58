"""Calls of one turn side by side: order, windows, failures, hangs and cancels."""

from itertools import combinations, permutations, product

import pytest

from agentloop.core.content import Text
from agentloop.core.history import problems
from agentloop.core.machine import step
from agentloop.core.phases import (
    CancelRequested,
    DeadlinePassed,
    Finished,
    Inferring,
    LoopState,
    Recovered,
    RequiresAction,
    ToolFailed,
    ToolReturned,
)
from agentloop.wire import message_text
from tests.samples import (
    APPROVE,
    ASK,
    PAY,
    READ,
    SEARCH,
    answers,
    begin,
    calls,
    failed_as,
    failure,
    returned,
    tool_fails,
    window,
)


def stored(state: LoopState) -> list[str]:
    """The log as a store would keep it, byte for byte."""
    return [message_text(message) for message in state.log]


@pytest.mark.parametrize("order", list(permutations(range(4))))
@pytest.mark.parametrize("extra", [(), (ASK,)])
def test_any_order_of_completion_gives_the_same_bytes(order, extra):
    """Four calls answered in any order leave one and the same log."""
    begun = calls(begin(), SEARCH, READ, PAY, SEARCH, *extra)
    mixed, straight = begun, begun
    for position in order:
        mixed = returned(mixed, position)
    for position in range(4):
        straight = returned(straight, position)
    assert stored(mixed) == stored(straight)
    assert mixed == straight
    assert isinstance(mixed.phase, Finished if extra else Inferring)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_retries_in_between_do_not_change_the_bytes(order):
    """A call that needed three attempts leaves what one attempt would have left."""
    begun = calls(begin(), SEARCH, READ, PAY)
    straight = returned(returned(returned(begun, 0), 1), 2)
    troubled = begun
    for position in order:
        troubled = tool_fails(tool_fails(troubled, position), position)
        troubled = returned(troubled, position)
    assert stored(troubled) == stored(straight)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("failing", range(3))
def test_one_failure_keeps_what_its_siblings_brought(order, failing):
    """Whichever call fails, and whenever, the others' results are kept."""
    state = calls(begin(), SEARCH, READ, PAY)
    for position in order:
        fails = position == failing
        state = (
            tool_fails(state, position, "mcp_protocol")
            if fails
            else returned(state, position)
        )
    assert failed_as(state) == "McpProtocol"
    assert [error for _, error, _ in answers(state)] == [i == failing for i in range(3)]


@pytest.mark.parametrize("failing", list(combinations(range(3), 2)))
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_of_two_failures_the_first_in_call_order_is_told(order, failing):
    """What the run fails as does not depend on which failure came first."""
    kinds = ["mcp_protocol", "mcp_timeout", "unknown_tool"]
    types = ["McpProtocol", "McpTimeout", "UnknownTool"]
    state = calls(begin(), SEARCH, READ, PAY)
    for position in order:
        state = (
            tool_fails(state, position, kinds[position])
            if position in failing
            else returned(state, position)
        )
    assert failed_as(state) == types[failing[0]]


END = {
    "cancel": (CancelRequested(), "AgentLoopCancelled"),
    "deadline": (DeadlinePassed(), "AgentLoopDeadlineExceeded"),
}


@pytest.mark.parametrize("done", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("parallel", [1, 2, 3])
@pytest.mark.parametrize("end", END)
def test_a_hanging_turn_that_is_ended_keeps_what_it_has(done, parallel, end):
    """Results stay, what ran is in doubt, what had no turn was not executed."""
    state = calls(begin(parallel=parallel), SEARCH, READ, PAY, APPROVE)
    for position in done:
        state = returned(state, position)
    have = {i for i in done if answered(state, i)}
    running = {int(key.partition(".")[2]) for key in window(state)}
    event, type_ = END[end]
    ended = step(state, event)
    assert failed_as(ended) == type_
    for position, (id_, error, text) in enumerate(answers(ended)):
        assert id_ == f"t{position}"
        assert error == (position not in have)
        assert ("outcome is unknown" in text) == (position in running)
        assert ("not executed" in text) == (position not in have | running)
    assert problems(list(ended.log)) == []


def answered(state: LoopState, position: int) -> bool:
    """Whether the call at a position has its result."""
    return state.phase.results[position] is not None


@pytest.mark.parametrize("parallel", [1, 2, 3, 8])
def test_a_window_is_the_first_open_calls(parallel):
    """At most `parallel` calls run, in call order, and each end admits the next."""
    state = calls(begin(parallel=parallel), *[SEARCH] * 5)
    for position in range(5):
        assert window(state) == [
            f"1.{i}" for i in range(position, min(5, position + parallel))
        ]
        state = returned(state, position)
    assert state.iterations == 2


def test_a_window_slides_over_a_call_that_hangs():
    """A slow first call does not keep the others from their turn."""
    state = calls(begin(parallel=2), *[SEARCH] * 4)
    for position, following in ((1, "1.2"), (2, "1.3")):
        state = returned(state, position)
        assert window(state) == ["1.0", following]
    assert window(returned(state, 3)) == ["1.0"]


def test_a_call_in_back_off_keeps_its_place():
    """Waiting for another attempt counts as running."""
    state = tool_fails(calls(begin(parallel=2), SEARCH, READ, PAY), 0)
    assert window(state) == ["1.0", "1.1"]


def test_each_call_has_its_own_schedule():
    """Attempts and delays of siblings do not mix."""
    state = calls(begin(attempts=3, delays=(1.0, 5.0)), SEARCH, READ)
    state = tool_fails(tool_fails(tool_fails(state, 0), 1), 1)
    tries = [(call.attempt, call.delay) for call in state.phase.calls]
    assert tries == [(2, 1.0), (3, 5.0)]
    state = tool_fails(state, 1)
    assert state.phase.barred == 2
    assert failed_as(returned(state, 0)) == "McpServerError"


@pytest.mark.parametrize("kind", ["mcp_protocol", "mcp_timeout", "unknown_tool"])
def test_lasting_failures_are_not_tried_again(kind):
    """Only what the table calls passing gets another attempt."""
    state = calls(begin(), SEARCH)
    assert isinstance(tool_fails(state, 0, kind).phase, Finished)


@pytest.mark.parametrize("failing", range(2))
def test_a_bar_holds_whatever_the_siblings_do(failing):
    """Behind a final failure nothing starts, however the started call ends."""
    begun = calls(begin(parallel=2), SEARCH, READ, PAY, SEARCH)
    begun = tool_fails(begun, failing, "mcp_protocol")
    other = 1 - failing
    assert window(begun) == [f"1.{other}"]
    for ended in (
        returned(begun, other),
        tool_fails(begun, other, "mcp_server"),
        step(begun, CancelRequested()),
    ):
        assert all("not executed" in text for _, _, text in answers(ended)[2:])
        assert problems(list(ended.log)) == []


def test_refused_arguments_behind_a_bar_are_still_told():
    """A result for the model is a result, also in a turn that is lost."""
    state = calls(begin(parallel=2, on_invalid_arguments="tell_model"), SEARCH, READ)
    state = tool_fails(state, 0, "mcp_protocol", message="broken")
    state = tool_fails(state, 1, "tool_validation", message="n: too small")
    assert answers(state) == [("t0", True, "broken"), ("t1", True, "n: too small")]


@pytest.mark.parametrize("event", ["returned", "failed"])
def test_an_answer_is_taken_once(event):
    """The second answer to a call, and one to an old attempt, change nothing."""
    state = tool_fails(calls(begin(), SEARCH, READ), 0)
    stale = ToolFailed("1.0", 1, failure())
    assert step(state, stale) is state
    answer = (
        ToolReturned("1.0", (Text("done"),))
        if event == "returned"
        else ToolFailed("1.0", 2, failure("mcp_protocol"))
    )
    after = step(state, answer)
    assert after is not state
    assert step(after, answer) is after


def test_an_answer_of_an_earlier_turn_is_foreign():
    """Keys hold the iteration, so equal positions are told apart."""
    state = returned(calls(begin(), SEARCH), 0)
    state = calls(state, SEARCH)
    assert step(state, ToolReturned("1.0", (Text("late"),))) is state
    assert window(state) == ["2.0"]


# ---------------------------------------------------------------- recovery

POLICIES = {SEARCH: "tell", READ: "repeat", PAY: "fail"}


@pytest.mark.parametrize("names", list(product(POLICIES, repeat=3)))
@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_recovery_follows_each_policy_inside_the_window_only(names, parallel):
    """Told, repeated or failed if it may have run; untouched if it did not."""
    state = step(calls(begin(parallel=parallel), *names), Recovered())
    policies = [POLICIES[name] for name in names]
    inside = policies[:parallel]
    if policies == ["tell"] * parallel:
        assert isinstance(state.phase, Inferring)
        assert all("outcome is unknown" in text for _, _, text in answers(state))
    elif "fail" in inside and "repeat" not in inside:
        assert failed_as(state) == "AgentLoopWorkerLost"
        said = [
            "tell" if "outcome is unknown" in text else "fail"
            for _, _, text in answers(state)[:parallel]
        ]
        assert said == inside
        left = [text for _, _, text in answers(state)[parallel:]]
        assert all("not executed" in text for text in left)
    else:
        expected = [policy == "repeat" for policy in inside]
        assert [call.attempt == 2 for call in state.phase.calls[:parallel]] == expected
        assert [result is None for result in state.phase.results[:parallel]] == expected
        assert [call.attempt for call in state.phase.calls[parallel:]] == [1] * (
            3 - parallel
        )
        assert state.phase.results[parallel:] == (None,) * (3 - parallel)
        assert state.phase.barred == (parallel if "fail" in inside else None)


def test_a_repeated_call_is_repeated_as_often_as_it_may():
    """Every lost worker costs an attempt; the last one fails the run."""
    state = calls(begin(attempts=3), READ)
    for attempt in (2, 3):
        state = step(state, Recovered())
        assert state.phase.calls[0].attempt == attempt
    assert failed_as(step(state, Recovered())) == "AgentLoopWorkerLost"


def test_a_mixed_turn_recovers_and_then_pauses():
    """What is in doubt is told once the caller has answered, too."""
    state = step(calls(begin(), SEARCH, ASK), Recovered())
    assert state.phase.outcome == RequiresAction(
        tuple(use for use in state.log[1].content if use.name == ASK)
    )
    assert [error for _, error, _ in answers(state)] == [True]
