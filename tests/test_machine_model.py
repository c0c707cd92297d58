"""The machine under any sequence of events: what must hold after every one."""

from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from agentloop.core.config import Auto
from agentloop.core.content import Message, Text, ToolResult, tool_results, tool_uses
from agentloop.core.history import problems, turns, unanswered
from agentloop.core.machine import next_command, start, step
from agentloop.core.phases import (
    CallingTools,
    CancelRequested,
    DeadlinePassed,
    Discovered,
    DiscoveryFailed,
    Event,
    Failed,
    Finish,
    Finished,
    Infer,
    Inferring,
    LoopState,
    ModelFailed,
    ModelReplied,
    Recovered,
    RequiresAction,
    ToolFailed,
    ToolReturned,
)
from agentloop.core.run import Usage
from agentloop.wire import message_text
from tests import strategies as some
from tests.samples import ROUTING, USER

ANSWERS = (
    Discovered,
    DiscoveryFailed,
    ModelReplied,
    ModelFailed,
    ToolReturned,
    ToolFailed,
)
"""Events that answer a command, and so can come twice."""


class Runs(RuleBasedStateMachine):
    """One run, driven by whatever may happen to it, in any order."""

    @initialize(plan=some.plans(), known=st.booleans())
    def begin(self, plan, known):
        self.start = start(plan, USER, ROUTING if known else None)
        self.state = self.start
        self.events: list[Event] = []
        self.usage = Usage()
        self.inferences = {self.start.iterations} - {0}

    def happens(self, event: Event) -> LoopState:
        before, self.state = self.state, step(self.state, event)
        if self.state is not before:  # what came too early may be due later on
            self.events.append(event)
        if isinstance(self.state.phase, Inferring):
            self.inferences.add(self.state.iterations)
        return before

    # ------------------------------------------------------------ rules

    @precondition(lambda self: not isinstance(self.state.phase, Finished))
    @rule(data=st.data())
    def answered(self, data):
        event = data.draw(some.due(self.state))
        if isinstance(event, ModelReplied | ModelFailed):
            self.usage = self.usage.plus(event.usage)
        assert self.happens(event) is not self.state

    @rule(data=st.data())
    def strange(self, data):
        event = data.draw(some.foreign(self.state))
        assert self.happens(event) is self.state

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def repeated(self, data):
        taken = [event for event in self.events if isinstance(event, ANSWERS)]
        if not taken:
            return
        event = data.draw(st.sampled_from(taken))
        assert self.happens(event) is self.state

    @precondition(lambda self: isinstance(self.state.phase, CallingTools))
    @rule()
    def tools_return(self):
        for call in next_command(self.state).window:
            self.happens(ToolReturned(call.key, (Text("10:00"),)))

    @precondition(lambda self: not isinstance(self.state.phase, Finished))
    @rule()
    def recovered(self):
        if isinstance(self.state.phase, Inferring):
            self.usage = self.usage.plus(None)
        assert self.happens(Recovered()) is not self.state

    @precondition(lambda self: len(self.events) > 2)
    @rule(event=st.sampled_from([CancelRequested(), DeadlinePassed()]))
    def ended(self, event):
        ended = isinstance(self.state.phase, Finished)
        assert (self.happens(event) is self.state) == ended
        assert isinstance(self.state.phase, Finished)

    # ------------------------------------------------------------ invariants

    @invariant()
    def the_state_is_the_sum_of_its_events(self):
        assert reduce(step, self.events, self.start) == self.state

    @invariant()
    def a_command_follows_from_its_state(self):
        assert next_command(self.state) == next_command(self.state)

    @invariant()
    def iterations_are_counted_and_capped(self):
        assert self.state.iterations <= self.state.plan.max_iterations
        assert self.state.iterations == len(self.inferences)

    @invariant()
    def usage_is_the_sum_over_the_attempts(self):
        assert self.state.usage == self.usage

    @invariant()
    def a_tool_is_forced_in_the_first_iteration_only(self):
        command = next_command(self.state)
        if isinstance(command, Infer):
            first = command.iteration == 1
            wanted = self.state.plan.tool_choice if first else Auto()
            assert command.tool_choice == wanted

    @invariant()
    def attempts_and_windows_stay_in_their_bounds(self):
        phase, plan = self.state.phase, self.state.plan
        if isinstance(phase, CallingTools):
            running = next_command(self.state).window
            assert 1 <= len(running) <= plan.parallel
            assert all(call.attempt <= plan.attempts for call in phase.calls)
        elif not isinstance(phase, Finished):
            assert phase.attempt <= plan.attempts

    @invariant()
    def every_call_is_answered_once_and_in_order(self):
        log = list(self.state.log)
        for said, heard in zip(log, [*log[1:], None], strict=True):
            if said.role != "assistant" or heard is None:
                continue
            asked = [use.tool_use_id for use in tool_uses(said)]
            told = [result.tool_use_id for result in tool_results(heard)]
            assert heard.role == "tool"
            assert told == [id_ for id_ in asked if id_ in set(told)]
            assert len(told) == len(set(told))
            if len(told) < len(asked):
                assert isinstance(self.state.phase.outcome, RequiresAction)

    @invariant()
    def the_log_is_legal(self):
        assert problems(list(self.state.log)) == []

    @invariant()
    def a_finished_run_takes_another(self):
        command = next_command(self.state)
        if not isinstance(command, Finish):
            return
        history = list(self.state.log) if command.keep else []
        pending = unanswered(history)
        outcome = command.outcome
        wanted = outcome.pending if isinstance(outcome, RequiresAction) else ()
        assert pending == wanted
        answers = tuple(ToolResult(use.tool_use_id, ()) for use in pending)
        history.append(Message("user", answers or USER.content))
        assert problems(history) == []
        roles = [turn.role for turn in turns(history)]
        assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))]
        assert roles[-1] == "user"

    @invariant()
    def nothing_is_kept_of_a_failed_run_in_which_the_model_never_spoke(self):
        command = next_command(self.state)
        if isinstance(command, Finish):
            spoke = any(message.role == "assistant" for message in self.state.log)
            assert command.keep == (spoke or not isinstance(command.outcome, Failed))


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestRuns = pytest.mark.timeout(300)(TestRuns)


@given(some.walks())
def test_a_walk_can_be_replayed_from_its_start(walk):
    """The events alone give the state again, and the start is untouched."""
    assert reduce(step, walk.events, walk.start) == walk.state
    assert list(walk.start.log) == [USER]


@given(some.walks(max_events=25), st.data())
def test_two_futures_of_one_state_do_not_meet(walk, data):
    """Stepping a state twice gives two logs that share only what was before."""
    if isinstance(walk.state.phase, Finished):
        return
    before = [message_text(message) for message in walk.state.log]
    one = step(walk.state, data.draw(some.due(walk.state)))
    kept = [message_text(message) for message in one.log]
    step(walk.state, CancelRequested())
    step(walk.state, data.draw(some.due(walk.state)))
    assert [message_text(message) for message in walk.state.log] == before
    assert [message_text(message) for message in one.log] == kept


@given(some.histories())
def test_runs_one_after_another_make_a_legal_conversation(history):
    """Kept logs join to a history without problems, whatever the runs were."""
    assert problems(history) == []
