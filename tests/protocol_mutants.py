"""Breakages of the protocol, each applied by patching and known by its name.

Every one of them drops or bends a single rule of the machine, the journal, the
preparation or the store. `python -m tests.protocol_mutants --seeds 20000` hunts each
and prints the first seed that kills it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from typing import Any

import pytest
from attrs import evolve

from agentloop.core import machine
from agentloop.core.catalog import Failure
from agentloop.core.phases import CallingTools, DeadlinePassed, Inferring
from agentloop.core.run import Usage
from agentloop.ports import Final, LeaseLostError, StoreUnavailableError
from agentloop.runtime import desk, drive, perform, prepare
from agentloop.runtime.desk import Desk
from agentloop.runtime.journal import Journal
from agentloop.runtime.options import Options
from agentloop.stores import memory, memory_rows, rules
from agentloop.stores.memory import MemoryStore
from agentloop.testing.simulate import simulate

Patch = pytest.MonkeyPatch
MUTANTS: dict[str, Callable[[Patch], None]] = {}


def mutant(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Register a breakage under its name."""
    MUTANTS[apply.__name__] = apply
    return apply


# ---------------------------------------------------------------- the store


@mutant
def finalize_without_comparing_versions(patch: Patch) -> None:
    """Finalize without comparing versions."""
    right = rules.ending
    patch.setattr(
        memory, "ending", lambda final, *, in_time: right(final, in_time=True)
    )


@mutant
def fence_ignores_the_token(patch: Patch) -> None:
    """Fence ignores the token."""
    right = rules.fence

    def fence(lease: Any, standing: Any) -> Any:
        right(evolve(lease, token=standing.token), standing)
        return standing

    patch.setattr(memory, "fence", fence)


@mutant
def fence_takes_the_last_two_tokens(patch: Patch) -> None:
    """Fence takes the last two tokens."""
    right = rules.fence

    def fence(lease: Any, standing: Any) -> Any:
        near = standing.token - 1 <= lease.token
        return right(evolve(lease, token=standing.token) if near else lease, standing)

    patch.setattr(memory, "fence", fence)


@mutant
def token_does_not_rise(patch: Patch) -> None:
    """Token does not rise."""
    right = MemoryStore.claim

    def claim(self: Any, request: Any) -> Any:
        found = right(self, request)
        if found is None or found.lease.token == 1:
            return found
        run = self._runs[found.lease.run_id]
        run.token -= 1
        return evolve(found, lease=evolve(found.lease, token=run.token))

    patch.setattr(MemoryStore, "claim", claim)


@mutant
def release_keeps_the_token(patch: Patch) -> None:
    """Release keeps the token."""

    def release(self: Any, lease: Any) -> None:
        run = self._runs[lease.run_id]
        if run.token == lease.token and run.completed_at is None:
            run.lease_until = 0.0

    patch.setattr(MemoryStore, "release", release)


@mutant
def release_by_anybody(patch: Patch) -> None:
    """Release by anybody."""

    def release(self: Any, lease: Any) -> None:
        run = self._runs[lease.run_id]
        if run.completed_at is None:
            run.token += 1
            run.lease_until = 0.0

    patch.setattr(MemoryStore, "release", release)


@mutant
def claim_before_the_lease_ran_out(patch: Patch) -> None:
    """Claim before the lease ran out."""
    right = MemoryStore._due
    patch.setattr(MemoryStore, "_due", lambda self, r, now: right(self, r, now + 5.0))


@mutant
def claim_long_after_the_lease_ran_out(patch: Patch) -> None:
    """Claim long after the lease ran out."""
    right = MemoryStore._due
    patch.setattr(MemoryStore, "_due", lambda self, r, now: right(self, r, now - 5.0))


@mutant
def checkpoint_does_not_prolong(patch: Patch) -> None:
    """Checkpoint does not prolong."""
    right = MemoryStore.checkpoint

    def checkpoint(self: Any, lease: Any, *args: Any) -> Any:
        run = self._runs[lease.run_id]
        until = run.lease_until
        flagged = right(self, lease, *args)
        run.lease_until = until
        return flagged

    patch.setattr(MemoryStore, "checkpoint", checkpoint)


@mutant
def heartbeat_of_a_lost_lease(patch: Patch) -> None:
    """Heartbeat of a lost lease."""

    def heartbeat(self: Any, lease: Any, seconds: float) -> bool:
        run = self._runs[lease.run_id]
        run.lease_until = self._seconds() + seconds
        return run.cancel_requested

    patch.setattr(MemoryStore, "heartbeat", heartbeat)


@mutant
def repeated_checkpoint_is_kept_again(patch: Patch) -> None:
    """Repeated checkpoint is kept again."""
    patch.setattr(memory, "repeated", lambda lease, revision, standing: False)


@mutant
def repeated_checkpoint_is_refused(patch: Patch) -> None:
    """Repeated checkpoint is refused."""

    def repeated(lease: Any, revision: int, standing: Any) -> bool:
        rules.check_revision(lease, revision, standing)
        return False

    patch.setattr(memory, "repeated", repeated)


@mutant
def repeated_finalize_is_refused(patch: Patch) -> None:
    """Repeated finalize is refused."""
    right = MemoryStore.finalize

    def finalize(self: Any, lease: Any, *args: Any) -> Any:
        rules.fence(lease, self._runs[lease.run_id])
        return right(self, lease, *args)

    patch.setattr(MemoryStore, "finalize", finalize)


@mutant
def cancel_is_not_kept(patch: Patch) -> None:
    """Cancel is not kept."""
    patch.setattr(MemoryStore, "request_cancel", MemoryStore.get_run)


@mutant
def checkpoint_does_not_tell_of_a_cancel(patch: Patch) -> None:
    """Checkpoint does not tell of a cancel."""
    right = MemoryStore.checkpoint

    def checkpoint(self: Any, *args: Any) -> bool:
        right(self, *args)
        return False

    patch.setattr(MemoryStore, "checkpoint", checkpoint)


@mutant
def key_is_not_unique(patch: Patch) -> None:
    """Key is not unique."""
    right = MemoryStore.insert_run

    def insert_run(self: Any, new: Any) -> Any:
        runs = self._conversations[new.conversation_id].runs
        hidden = runs.pop(new.client_op_id, None)
        row, created = right(self, new)
        if hidden is not None:
            runs[hidden.inserted.id] = hidden
        return row, created

    patch.setattr(MemoryStore, "insert_run", insert_run)
    patch.setattr(MemoryStore, "find_run", lambda *_: None)


@mutant
def results_outlive_their_turn(patch: Patch) -> None:
    """Results outlive their turn."""
    right = memory_rows.Run.commit

    def commit(self: Any, change: Any, now: str) -> None:
        kept = dict(self.results)
        right(self, change, now)
        self.results.update(kept)

    patch.setattr(memory_rows.Run, "commit", commit)


@mutant
def staged_messages_are_seen(patch: Patch) -> None:
    """Staged messages are seen."""
    right = MemoryStore.checkpoint

    def checkpoint(self: Any, lease: Any, *args: Any) -> Any:
        flagged = right(self, lease, *args)
        run = self._runs[lease.run_id]
        conversation = self._conversations[run.inserted.conversation_id]
        if run.messages and not any(
            s.run_id == lease.run_id for s in conversation.segments
        ):
            conversation.join(run, self._now())
        return flagged

    patch.setattr(MemoryStore, "checkpoint", checkpoint)


# ---------------------------------------------------------------- the machine


def _on_recovery_as(patch: Patch, in_doubt: str) -> None:
    right = machine._recover_calls

    def recover(state: Any, phase: Any) -> Any:
        calls = tuple(
            evolve(call, route=evolve(call.route, in_doubt=in_doubt))
            for call in phase.calls
        )
        return right(state, evolve(phase, calls=calls))

    patch.setattr(machine, "_recover_calls", recover)


@mutant
def recovery_runs_every_call_again(patch: Patch) -> None:
    """Recovery runs every call again."""
    _on_recovery_as(patch, "repeat")


@mutant
def recovery_forgets_the_attempt(patch: Patch) -> None:
    """Recovery forgets the attempt."""
    right = machine._on_recovery

    def recover(state: Any, phase: Any) -> Any:
        return state if isinstance(phase, Inferring) else right(state, phase)

    patch.setattr(machine, "_on_recovery", recover)


@mutant
def recovery_leaves_calls_open(patch: Patch) -> None:
    """Recovery leaves calls open."""
    right = machine._on_recovery

    def recover(state: Any, phase: Any) -> Any:
        return state if isinstance(phase, CallingTools) else right(state, phase)

    patch.setattr(machine, "_on_recovery", recover)


@mutant
def recovery_drops_the_unknown_usage(patch: Patch) -> None:
    """Recovery drops the unknown usage."""
    right = machine._on_recovery

    def recover(state: Any, phase: Any) -> Any:
        return evolve(right(state, phase), usage=state.usage)

    patch.setattr(machine, "_on_recovery", recover)


@mutant
def attempts_are_not_capped(patch: Patch) -> None:
    """Attempts are not capped."""
    right = machine._on_recovery

    def recover(state: Any, phase: Any) -> Any:
        plan = evolve(state.plan, attempts=10**6)
        return evolve(right(evolve(state, plan=plan), phase), plan=state.plan)

    patch.setattr(machine, "_on_recovery", recover)


@mutant
def late_answers_of_the_model_are_taken(patch: Patch) -> None:
    """Late answers of the model are taken."""
    right = machine._on_model

    def on_model(state: Any, event: Any) -> Any:
        if not isinstance(state.phase, Inferring):
            return state
        current = evolve(event, iteration=state.iterations, attempt=state.phase.attempt)
        return right(state, current)

    patch.setattr(machine, "_on_model", on_model)


@mutant
def late_failures_of_calls_are_taken(patch: Patch) -> None:
    """Late failures of calls are taken."""
    right = machine._on_tool

    def on_tool(state: Any, event: Any) -> Any:
        if isinstance(event, machine.ToolFailed) and isinstance(
            state.phase, CallingTools
        ):
            for call in state.phase.calls:
                if call.key == event.key:
                    event = evolve(event, attempt=call.attempt)
        return right(state, event)

    patch.setattr(machine, "_on_tool", on_tool)


@mutant
def iterations_are_counted_twice(patch: Patch) -> None:
    """Iterations are counted twice."""
    right = machine._begin

    def begin(*args: Any) -> Any:
        after = right(*args)
        return evolve(after, iterations=after.iterations + (after.iterations == 2))

    patch.setattr(machine, "_begin", begin)


@mutant
def usage_of_failures_is_dropped(patch: Patch) -> None:
    """Usage of failures is dropped."""
    right = machine._retry_inference

    def retry(state: Any, attempt: int, failure: Any) -> Any:
        return evolve(right(state, attempt, failure), usage=Usage())

    patch.setattr(machine, "_retry_inference", retry)


@mutant
def iterations_are_not_limited(patch: Patch) -> None:
    """Iterations are not limited."""
    right = machine._plan_calls

    def plan_calls(state: Any, *said: Any) -> Any:
        plan = evolve(state.plan, max_iterations=99)
        return evolve(right(evolve(state, plan=plan), *said), plan=state.plan)

    patch.setattr(machine, "_plan_calls", plan_calls)


@mutant
def calls_stay_open_when_a_run_fails(patch: Patch) -> None:
    """Calls stay open when a run fails."""

    def fail(state: Any, type_: str, message: str) -> Any:
        return machine._finish(state, machine.Failed(type_, message))

    patch.setattr(machine, "_fail", fail)


@mutant
def results_stand_in_no_order(patch: Patch) -> None:
    """Results stand in no order."""
    right = machine._answered

    def answered(phase: Any, index: int, result: Any) -> Any:
        last = max(i for i, known in enumerate(phase.results) if known is None)
        return right(phase, last, result)

    patch.setattr(machine, "_answered", answered)


# ---------------------------------------------------------------- the runtime


@mutant
def effects_begin_before_the_commit(patch: Patch) -> None:
    """Effects begin before the commit."""
    right = Desk.commit
    patch.setattr(Desk, "commit", lambda self: right(self) if self.finished else None)


@mutant
def desk_does_not_hear_of_a_cancel(patch: Patch) -> None:
    """Desk does not hear of a cancel."""
    right = Journal.commit

    def commit(self: Any, *args: Any, **named: Any) -> bool:
        right(self, *args, **named)
        return False

    patch.setattr(Journal, "commit", commit)


@mutant
def desk_begins_effects_twice(patch: Patch) -> None:
    """Desk begins effects twice."""
    right = Desk.ready

    def ready(self: Any) -> Any:
        found = right(self)
        return [*found, *found[:1]]

    patch.setattr(Desk, "ready", ready)


@mutant
def journal_stages_messages_again(patch: Patch) -> None:
    """Journal stages messages again."""
    right = Journal._committed

    def committed(self: Any, change: Any) -> None:
        before = self._messages
        right(self, change)
        self._messages = before

    patch.setattr(Journal, "_committed", committed)


@mutant
def journal_forgets_results(patch: Patch) -> None:
    """Journal forgets results."""
    patch.setattr(Journal, "_new_results", lambda self, state: ())


@mutant
def journal_stores_results_again(patch: Patch) -> None:
    """Journal stores results again."""
    right = Journal._committed

    def committed(self: Any, change: Any) -> None:
        right(self, change)
        self._results.clear()

    patch.setattr(Journal, "_committed", committed)


@mutant
def journal_drops_attempts(patch: Patch) -> None:
    """Journal drops attempts."""
    patch.setattr(Journal, "keep", lambda self, attempt: None)


@mutant
def journal_repeats_attempts(patch: Patch) -> None:
    """Journal repeats attempts."""
    right = Journal._committed

    def committed(self: Any, change: Any) -> None:
        kept = list(self._attempts)
        right(self, change)
        self._attempts.extend(kept[-1:])

    patch.setattr(Journal, "_committed", committed)


@mutant
def journal_keeps_its_revision(patch: Patch) -> None:
    """Journal keeps its revision."""
    right = Journal._checkpoint

    def checkpoint(self: Any, change: Any) -> bool:
        flagged = right(self, change)
        self._revision = max(self._revision - 1, 1)
        return flagged

    patch.setattr(Journal, "_checkpoint", checkpoint)


@mutant
def journal_does_not_try_again(patch: Patch) -> None:
    """Journal does not try again."""

    def once(self: Any, call: Any, *args: Any, **named: Any) -> Any:
        try:
            return call(*args, **named)
        except StoreUnavailableError:
            if isinstance(args[-1], Final):
                raise  # an end has an answer that nobody could make up
            return False

    patch.setattr(Journal, "_stubbornly", once)


@mutant
def a_lost_race_is_told_as_success(patch: Patch) -> None:
    """A lost race is told as success."""
    patch.setattr(Journal, "_lost_race", lambda self, command: command)


@mutant
def resuming_forgets_what_was_lost(patch: Patch) -> None:
    """Resuming forgets what was lost."""
    patch.setattr(prepare, "_lost_attempt", lambda *args: None)


@mutant
def resuming_recovers_nothing(patch: Patch) -> None:
    """Resuming recovers nothing."""
    patch.setattr(prepare, "Recovered", prepare.CancelRequested)


@mutant
def resuming_ignores_that_nothing_began(patch: Patch) -> None:
    """Resuming ignores that nothing began."""
    patch.setattr(prepare, "is_idle", lambda header: True)


@mutant
def giving_back_says_nothing_of_it(patch: Patch) -> None:
    """Giving back says nothing of it."""
    patch.setattr(desk.Desk, "idle", property(lambda self: True))


@mutant
def resuming_a_discovery_forgets_the_options(patch: Patch) -> None:
    """Resuming a discovery forgets the options."""
    right = prepare._stored_plan

    def stored_plan(drive: Any, claim: Any, options: Any) -> Any:
        return right(drive, claim, Options())

    patch.setattr(prepare, "_stored_plan", stored_plan)


@mutant
def claim_hands_out_another_revision(patch: Patch) -> None:
    """Claim hands out another revision."""
    right = MemoryStore.claim

    def claim(self: Any, request: Any) -> Any:
        found = right(self, request)
        return found and evolve(found, revision=max(found.revision - 1, 0))

    patch.setattr(MemoryStore, "claim", claim)


@mutant
def claim_leaves_out_results(patch: Patch) -> None:
    """Claim leaves out results."""
    right = MemoryStore.claim

    def claim(self: Any, request: Any) -> Any:
        found = right(self, request)
        return found and evolve(found, results=())

    patch.setattr(MemoryStore, "claim", claim)


@mutant
def claim_leaves_out_the_setup(patch: Patch) -> None:
    """Claim leaves out the setup."""
    right = MemoryStore.claim

    def claim(self: Any, request: Any) -> Any:
        found = right(self, request)
        return found and evolve(found, setup=None)

    patch.setattr(MemoryStore, "claim", claim)


@mutant
def claim_does_not_take_the_lease(patch: Patch) -> None:
    """Claim does not take the lease."""
    right = MemoryStore.claim

    def claim(self: Any, request: Any) -> Any:
        return right(self, evolve(request, lease_seconds=0.0))

    patch.setattr(MemoryStore, "claim", claim)


@mutant
def heartbeat_does_not_tell_of_a_cancel(patch: Patch) -> None:
    """Heartbeat does not tell of a cancel."""
    right = MemoryStore.heartbeat

    def heartbeat(self: Any, lease: Any, seconds: float) -> bool:
        right(self, lease, seconds)
        return False

    patch.setattr(MemoryStore, "heartbeat", heartbeat)


@mutant
def heartbeat_does_not_prolong(patch: Patch) -> None:
    """Heartbeat does not prolong."""
    right = MemoryStore.heartbeat
    patch.setattr(
        MemoryStore, "heartbeat", lambda self, lease, _: right(self, lease, 1)
    )


@mutant
def ended_run_can_be_claimed(patch: Patch) -> None:
    """Ended run can be claimed."""
    right = MemoryStore.finalize

    def finalize(self: Any, lease: Any, *args: Any) -> Any:
        row = right(self, lease, *args)
        self._open[row.driver][row.id] = self._runs[row.id]
        return row

    patch.setattr(MemoryStore, "finalize", finalize)


@mutant
def base_version_is_not_compared(patch: Patch) -> None:
    """Base version is not compared."""
    right = MemoryStore.insert_run

    def insert_run(self: Any, new: Any) -> Any:
        conversation = self._conversations[new.conversation_id]
        return right(self, evolve(new, expected_version=conversation.row.version))

    patch.setattr(MemoryStore, "insert_run", insert_run)


@mutant
def cancel_marks_ended_runs(patch: Patch) -> None:
    """Cancel marks ended runs."""

    def request_cancel(self: Any, reader: Any, run_id: str) -> Any:
        run = self._seen_run(reader, run_id)
        if run is None:
            return None
        run.cancel_requested = True
        return run.row()

    patch.setattr(MemoryStore, "request_cancel", request_cancel)


@mutant
def strangers_may_read(patch: Patch) -> None:
    """Strangers may read."""
    patch.setattr(memory, "_may", lambda reader, row: True)


@mutant
def first_message_is_dropped(patch: Patch) -> None:
    """First message is dropped."""
    right = memory_rows.Run.commit

    def commit(self: Any, change: Any, now: str) -> None:
        right(self, evolve(change, messages=change.messages[1:]), now)

    patch.setattr(memory_rows.Run, "commit", commit)


@mutant
def version_rises_by_one_per_run(patch: Patch) -> None:
    """Version rises by one per run."""
    right = memory_rows.Conversation.join

    def join(self: Any, run: Any, now: str) -> None:
        before = self.row.version
        right(self, run, now)
        self.row = evolve(self.row, version=before + 1)

    patch.setattr(memory_rows.Conversation, "join", join)


@mutant
def terminal_event_is_dropped(patch: Patch) -> None:
    """Terminal event is dropped."""
    right = rules.ending

    def ending(final: Any, *, in_time: bool) -> Any:
        return evolve(right(final, in_time=in_time), change=final.last)

    patch.setattr(memory, "ending", ending)


@mutant
def jobs_are_not_stored(patch: Patch) -> None:
    """Jobs are not stored."""
    patch.setattr(Journal, "_new_jobs", lambda self, state: ())


@mutant
def event_ids_begin_anew(patch: Patch) -> None:
    """Event ids begin anew."""
    right = Journal._committed

    def committed(self: Any, change: Any) -> None:
        right(self, change)
        self._last_event = 0

    patch.setattr(Journal, "_committed", committed)


@mutant
def setup_is_not_stored(patch: Patch) -> None:
    """Setup is not stored."""
    patch.setattr(Journal, "keep_setup_once", lambda self, drive: None)


@mutant
def what_was_remembered_is_not_handed_on(patch: Patch) -> None:
    """What was remembered is not handed on."""
    patch.setattr(prepare, "remembered_in", lambda header: None)


@mutant
def a_failed_memory_is_the_fault_of_the_backend(patch: Patch) -> None:
    """A failed memory is the fault of the backend."""
    right = perform._infer

    def infer(performer: Any, command: Any) -> Any:
        try:
            return right(performer, command)
        except (LeaseLostError, StoreUnavailableError) as error:
            return performer.crashed(command, error)

    patch.setattr(perform, "_infer", infer)


@mutant
def effects_put_back_stay_under_way(patch: Patch) -> None:
    """Effects put back stay under way."""
    patch.setattr(Desk, "put_back", lambda self, effect: None)


@mutant
def queued_effects_begin_after_the_end(patch: Patch) -> None:
    """Queued effects begin after the end."""

    def elsewhere(desk: Any, effect: Any, mailbox: Any) -> None:
        mailbox.post(perform.perform(desk.performer, effect))

    patch.setattr(drive, "_perform_elsewhere", elsewhere)


@mutant
def usage_loses_completion_tokens(patch: Patch) -> None:
    """Usage loses completion tokens."""
    right = Usage.plus

    def plus(self: Any, other: Any) -> Any:
        return evolve(right(self, other), completion_tokens=self.completion_tokens)

    patch.setattr(Usage, "plus", plus)


@mutant
def strangers_see_events(patch: Patch) -> None:
    """Strangers see events."""

    def events(self: Any, reader: Any, run_id: str, after: int = 0) -> Any:
        run = self._runs.get(run_id)
        return tuple(each for each in run.events if each.id > after) if run else ()

    patch.setattr(MemoryStore, "events", events)


@mutant
def strangers_are_told_the_number(patch: Patch) -> None:
    """Strangers are told the number."""
    right = MemoryStore.list_conversations

    def listed(self: Any, reader: Any, offset: int, limit: int) -> Any:
        return right(self, reader, offset, limit)[0], len(self._conversations)

    patch.setattr(MemoryStore, "list_conversations", listed)


@mutant
def errors_of_tools_are_told_whole(patch: Patch) -> None:
    """Errors of tools are told whole."""

    def crashed(self: Any, call: Any, error: BaseException) -> Any:
        return perform._told_the_model(call, str(error))

    patch.setattr(perform.Performer, "tool_crashed", crashed)


@mutant
def claims_in_vain_are_not_counted(patch: Patch) -> None:
    """Claims in vain are not counted."""
    patch.setattr(memory, "claims_in_a_row", lambda token: 1)


@mutant
def leases_go_by_the_wall_clock(patch: Patch) -> None:
    """Leases go by the wall clock."""
    patch.setattr(MemoryStore, "_seconds", lambda self: self._clock.now().timestamp())


# ---------------------------------------------------------------- bounds


@mutant
def a_late_success_wins_over_a_cancel(patch: Patch) -> None:
    """A late success wins over a cancel."""
    patch.setattr(Desk, "_would_succeed", lambda self, event: False)


@mutant
def a_cancel_heard_while_remembering_is_lost(patch: Patch) -> None:
    """A cancel that a backend's own commit hears of is lost."""
    patch.setattr(
        Journal, "cancelled", property(lambda _: False, lambda *_: None), raising=False
    )


@mutant
def deadlines_are_not_looked_at(patch: Patch) -> None:
    """Deadlines are not looked at."""
    right = Desk._give_up

    def give_up(self: Any, why: Any) -> None:
        if not isinstance(why, DeadlinePassed):
            right(self, why)

    patch.setattr(Desk, "_give_up", give_up)


@mutant
def effects_may_outlast_their_run(patch: Patch) -> None:
    """Effects may outlast their run."""
    patch.setattr(perform.Performer, "within", lambda self, limit: limit)


@mutant
def calls_may_take_for_ever(patch: Patch) -> None:
    """Calls may take for ever."""
    right = perform.Performer.call_of

    def call_of(self: Any, call: Any) -> Any:
        return evolve(right(self, call), timeout=None)

    patch.setattr(perform.Performer, "call_of", call_of)


@mutant
def failures_for_good_are_tried_again(patch: Patch) -> None:
    """Failures for good are tried again."""
    patch.setattr(Failure, "retried", property(lambda self: True))


@mutant
def retries_follow_at_once(patch: Patch) -> None:
    """Retries follow at once."""
    right = machine._next_try

    def next_try(*args: Any) -> Any:
        attempt, _, at_least = right(*args)
        return attempt, 0.0, at_least

    patch.setattr(machine, "_next_try", next_try)


@mutant
def hints_of_providers_are_ignored(patch: Patch) -> None:
    """Hints of providers are ignored."""
    right = machine._next_try
    patch.setattr(machine, "_next_try", lambda *args: (*right(*args)[:2], 0.0))


# ---------------------------------------------------------------- removals, reads


@mutant
def deleted_runs_stay(patch: Patch) -> None:
    """Deleted runs stay."""

    def forget(self: Any, run: Any) -> None:
        row = run.inserted
        del self._conversations[row.conversation_id].runs[row.client_op_id]

    patch.setattr(MemoryStore, "_forget", forget)


@mutant
def deleted_jobs_stay(patch: Patch) -> None:
    """Deleted jobs stay."""
    right = MemoryStore._forget

    def forget(self: Any, run: Any) -> None:
        kept = dict(self._jobs)
        right(self, run)
        self._jobs = kept

    patch.setattr(MemoryStore, "_forget", forget)


@mutant
def strangers_may_delete(patch: Patch) -> None:
    """Strangers may delete."""
    right = MemoryStore.delete_conversation

    def delete(self: Any, reader: Any, id_: str) -> bool:
        found = self._conversations.get(id_)
        company = found.row.company_id if found else 0
        return right(self, evolve(reader, company_id=company), id_)

    patch.setattr(MemoryStore, "delete_conversation", delete)


@mutant
def pruning_takes_fresh_keys(patch: Patch) -> None:
    """Pruning takes fresh keys."""
    patch.setattr(
        memory, "prune_limit", lambda now, before: min(before, memory.instant(now))
    )


@mutant
def pruning_takes_open_runs(patch: Patch) -> None:
    """Pruning takes open runs."""
    right = MemoryStore.prune

    def prune(self: Any, before: str) -> int:
        number = right(self, before)
        for run in [run for run in self._runs.values() if run.status == "pending"]:
            self._forget(run)
        return number

    patch.setattr(MemoryStore, "prune", prune)


@mutant
def pruning_keeps_keys(patch: Patch) -> None:
    """Pruning keeps keys."""
    right = MemoryStore._forget

    def forget(self: Any, run: Any) -> None:
        runs = self._conversations[run.inserted.conversation_id].runs
        right(self, run)
        runs[run.inserted.client_op_id] = run

    patch.setattr(MemoryStore, "_forget", forget)


@mutant
def pruning_takes_messages(patch: Patch) -> None:
    """Pruning takes messages."""
    right = MemoryStore._forget

    def forget(self: Any, run: Any) -> None:
        conversation = self._conversations[run.inserted.conversation_id]
        right(self, run)
        conversation.segments = [
            each for each in conversation.segments if each.run_id != run.inserted.id
        ]

    patch.setattr(MemoryStore, "_forget", forget)


@mutant
def events_are_told_again(patch: Patch) -> None:
    """Events are told again."""
    right = MemoryStore.events

    def events(self: Any, reader: Any, run_id: str, after: int = 0) -> Any:
        return right(self, reader, run_id, max(after - 1, 0))

    patch.setattr(MemoryStore, "events", events)


@mutant
def jobs_show_the_attempts_of_others(patch: Patch) -> None:
    """Jobs show the attempts of others."""

    def attempts_of(self: Any, iteration: int) -> Any:
        keys = sorted(key for key in self.attempts if key[0] <= iteration)
        return tuple(self.attempts[key] for key in keys)

    patch.setattr(memory_rows.Run, "attempts_of", attempts_of)


@mutant
def ended_runs_are_not_listed(patch: Patch) -> None:
    """Ended runs are not listed."""
    right = MemoryStore.list_runs

    def listed(self: Any, *args: Any) -> Any:
        return tuple(row for row in right(self, *args) if row.result is None)

    patch.setattr(MemoryStore, "list_runs", listed)


_UNFIT = ("TypeError(", "AttributeError(", "NameError(")


def kills(name: str, seed: int) -> str | None:
    """What a seed says of a mutant; None when it does not notice.

    Raises:
        AssertionError: the mutant does not fit the code any more, so that it breaks
            Python's rules instead of the protocol's.
    """
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[name](patch)
        violation = simulate(seed).violation
    unfit = [word for word in _UNFIT if word in (violation or "")]
    assert not unfit, f"{name} does not fit the code any more: {violation}"
    return violation


def first_killer(name: str, seeds: int) -> int | None:
    """The first seed that kills a mutant."""
    return next((seed for seed in range(seeds) if kills(name, seed)), None)


def hunt(seeds: int, jobs: int) -> Iterator[tuple[str, int | None]]:
    """The first killing seed of each mutant, in the order of the table."""
    # Fresh processes, which patch nothing but their own copy of the library.
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        found = pool.map(first_killer, MUTANTS, repeat(seeds))
        yield from zip(MUTANTS, found, strict=True)


def main() -> int:
    """The command: print each mutant's killer; how many survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.protocol_mutants")
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    survivors = 0
    for name, found in hunt(given.seeds, given.jobs):
        why = "SURVIVED" if found is None else kills(name, found)
        print(f'    "{name}": {found},  # {why}'[:150], flush=True)
        survivors += found is None
    return survivors


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
