"""The journal of one drive: what each commit adds to the store.

Bound to a run, its lease and its revision. It remembers what is committed, so
that each message, result, attempt and event is handed to the store once. Commit
the state, then perform its command: the committed state is the intent.
"""

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TypeVar, TypeVarTuple

from agentloop.core.catalog import describe
from agentloop.core.config import Auto
from agentloop.core.machine import next_command
from agentloop.core.phases import (
    CallingTools,
    Completed,
    Failed,
    Finish,
    Inferring,
    LoopState,
    Outcome,
    RequiresAction,
)
from agentloop.core.run import Status
from agentloop.ports import (
    Checkpoint,
    Claim,
    Final,
    JobRow,
    NewAttempt,
    NewEvent,
    RunRow,
    Store,
    StoreUnavailableError,
)
from agentloop.runtime.hub import Hub
from agentloop.runtime.narrate import Told, of_end
from agentloop.runtime.prepare import Drive
from agentloop.runtime.present import event, job_id
from agentloop.runtime.records import Happening
from agentloop.wire import dump, message_text, to_json
from agentloop.wire.checkpoint import (
    header_text,
    outcome_text,
    result_text,
    versioned,
)

T = TypeVar("T")
Args = TypeVarTuple("Args")
COMMIT_TRIES = 4
"""How often a commit is tried at least while the store is away."""
LONGEST_REST = 1.0
"""Seconds between two tries, which is also how late a stop is heard of."""
_AUTO = dump(to_json(Auto()))


class Journal:
    """Commits the states of one drive, and tells what was committed.

    `rest` is how the time between two tries of a commit passes, `passed` tells how
    much did, and `stopping` whether whoever drives is to stop.
    """

    def __init__(
        self, store: Store, claim: Claim, lease_seconds: float, hub: Hub
    ) -> None:
        self.run_id = claim.run.id
        self.base_version = claim.run.base_version
        self.lease = claim.lease
        self._store = store
        self._lease_seconds = lease_seconds
        self._hub = hub
        self._revision = claim.revision
        self._messages = len(claim.messages)
        self._iterations = claim.run.iterations
        self._results = {key for key, _ in claim.results}
        self._last_event = claim.last_event
        self._attempts: list[NewAttempt] = []
        self._setup: str | None = None
        self._has_setup = claim.setup is not None
        self._job_facts = versioned({})[:-1]
        self._state: LoopState | None = None
        self.cancelled = False
        """Whether any commit was told that cancel was requested."""
        self._remembered: str | None = None
        self._remembering = 0  # the iteration it belongs to
        # A backend on another thread may remember something while the driver
        # ends the run; each of the two is one whole commit.
        self._turn = threading.Lock()
        self.rest: Callable[[float], object] = threading.Event().wait
        self.passed: Callable[[], float] = monotonic
        self.stopping: Callable[[], bool] = lambda: False

    def describe_jobs(self, backend: str, model: str) -> None:
        """What every job row of this run says of itself."""
        self._job_facts = versioned({"backend": backend, "model": model})[:-1]

    def carry_on(self, remembered: str | None) -> None:
        """Keep what an earlier drive was told to remember of the inference."""
        self._remembered, self._remembering = remembered, self._iterations

    def keep_setup_once(self, drive: Drive) -> None:
        """Store what the run decided with the next commit, unless it is stored."""
        if not self._has_setup:
            self._has_setup = True
            self._setup = drive.setup()

    def keep(self, attempt: NewAttempt) -> None:
        """Store an attempt with the next commit."""
        self._attempts.append(attempt)

    def commit(
        self, state: LoopState, told: Sequence[Told], *, idle: bool = False
    ) -> bool:
        """Make a state durable; returns whether cancel was requested.

        Raises:
            LeaseLostError: another worker has the run.
            StoreUnavailableError: the store stayed away through every try.
        """
        with self._turn:
            change = self._change(state, told, idle=idle)
            cancelled = self._checkpoint(change)
            self._committed(change)
            self._state = state
        self._publish(change.events)
        return cancelled

    def remember(self, text: str | None) -> None:
        """Keep a backend's text with the command that is under way, at once.

        Every commit carries it on until the inference has its result. Forgetting
        needs no commit of its own: the next one does it.

        Raises:
            LeaseLostError: another worker has the run.
            StoreUnavailableError: the store stayed away through every try.
        """
        with self._turn:
            state, self._remembered = self._state, text
            if text is None or state is None:
                return
            self._remembering = state.iterations
            header = header_text(state, remembered=text)
            self._checkpoint(
                Checkpoint(
                    header=header,
                    iterations=state.iterations,
                    first_message=self._messages,
                )
            )

    def _checkpoint(self, change: Checkpoint) -> bool:
        seconds = self._lease_seconds
        cancelled = self._stubbornly(
            self._store.checkpoint, self.lease, self._revision, change, seconds
        )
        self._revision += 1
        if cancelled:
            self.cancelled = True
        return bool(cancelled)

    def finish(self, state: LoopState, told: Sequence[Told]) -> RunRow:
        """End the run with the state's outcome.

        Raises:
            LeaseLostError: another worker has the run.
            StoreUnavailableError: the store stayed away through every try.
        """
        with self._turn:
            self._state = None
            final = self._final(state, told)
            row = self._stubbornly(
                self._store.finalize, self.lease, self._revision, final
            )
        lost = row.status != final.status
        end = final.conflict_event if lost else final.terminal_event
        self._publish((*final.last.events, end))
        return row

    def release(self) -> None:
        """Give the run back for another worker to take at once."""
        self._store.release(self.lease)

    # ------------------------------------------------------------ what is new

    def _change(
        self, state: LoopState, told: Sequence[Told], *, idle: bool
    ) -> Checkpoint:
        said = state.log.since(self._messages)
        begins = state.iterations != self._iterations
        return Checkpoint(
            header_text(state, idle=idle, remembered=self._still_of(state)),
            state.iterations,
            self._setup,
            self._messages,
            tuple([message_text(message) for message in said]),
            self._new_results(state),
            self._new_jobs(state) if begins else (),
            tuple(self._attempts),
            self._events(told),
        )

    def _still_of(self, state: LoopState) -> str | None:
        """What is remembered of the inference under way, until it has its result."""
        if self._remembered is None or state.iterations != self._remembering:
            return None
        return self._remembered if isinstance(state.phase, Inferring) else None

    def _committed(self, change: Checkpoint) -> None:
        self._messages += len(change.messages)
        self._iterations = change.iterations
        if change.results:
            self._results.update([key for key, _ in change.results])
        self._last_event += len(change.events)
        self._attempts.clear()
        self._setup = None

    def _new_results(self, state: LoopState) -> tuple[tuple[str, str], ...]:
        """Results of a turn that is still open; a full turn is a message."""
        phase = state.phase
        if not isinstance(phase, CallingTools) or len(phase.calls) == 1:
            return ()
        return tuple(
            [
                (call.key, result_text(result))
                for call, result in zip(phase.calls, phase.results, strict=True)
                if result is not None and call.key not in self._results
            ]
        )

    def _new_jobs(self, state: LoopState) -> tuple[JobRow, ...]:
        first = state.iterations == 1
        choice = dump(to_json(state.plan.tool_choice)) if first else _AUTO
        told = f'"messages":{state.log.length},"tool_choice":{choice}'
        return (
            JobRow(
                job_id(self.run_id, state.iterations),
                self.run_id,
                state.iterations,
                f"{self._job_facts},{told}}}",
            ),
        )

    def _events(self, told: Sequence[Told]) -> tuple[NewEvent, ...]:
        n, events = self._last_event, []
        for kind, data in told:
            n += 1
            events.append(Happening(n, kind, data))
        return tuple(events)

    def _final(self, state: LoopState, told: Sequence[Told]) -> Final:
        command = _finish_of(state)
        status = _status(command.outcome)
        lost = self._lost_race(command)
        last = self._change(state, told, idle=False)
        number = self._last_event + len(last.events) + 1
        return Final(
            status=status,
            result=outcome_text(command.outcome, state.usage),
            conflict_result=outcome_text(lost.outcome, state.usage),
            keep=command.keep,
            last=last,
            terminal_event=Happening(number, *of_end(status, command)),
            conflict_event=Happening(number, *of_end("failed", lost)),
        )

    def _lost_race(self, command: Finish) -> Finish:
        """A failure keeps its own type even when the version moved, too."""
        if isinstance(command.outcome, Failed):
            return command
        type_ = "AgentLoopConcurrentConversationAppend"
        message = describe(type_, version=self.base_version)
        return Finish(Failed(type_, message), keep=False)

    # ------------------------------------------------------------ doing it

    def _stubbornly(self, call: Callable[[*Args], T], *args: *Args) -> T:
        """Repeat a commit whose outcome is unknown: repeats change nothing.

        What it holds has been paid for, and the token keeps it harmless, so it is
        tried for a lease's time; after that another worker may well have the run.
        Who is to stop tries a few times only.
        """
        rested, began, attempt = 0.0, self.passed(), 1
        while True:
            try:
                return call(*args)
            except StoreUnavailableError:
                spent = max(rested, self.passed() - began)
                stopping = attempt >= COMMIT_TRIES and self.stopping()
                if stopping or spent >= self._lease_seconds:
                    raise
            pause = min(0.05 * 2**attempt, LONGEST_REST)
            self.rest(pause)
            rested += pause
            attempt += 1

    def _publish(self, rows: Sequence[NewEvent]) -> None:
        if self._hub.silent():
            return
        for row in rows:
            self._hub.publish(self.run_id, event(row))


def _finish_of(state: LoopState) -> Finish:
    match next_command(state):
        case Finish() as command:
            return command
        case command:
            raise AssertionError(f"{command!r} is due, so the run has not ended")


def _status(outcome: Outcome) -> Status:
    match outcome:
        case Completed():
            return "completed"
        case RequiresAction():
            return "requires_action"
        case Failed():
            return "failed"
