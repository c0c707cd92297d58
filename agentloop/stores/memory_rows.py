"""What the memory store keeps: conversations, segments, runs and what they gather.

These records are changed by `MemoryStore` only, under its lock. No rule of the port
is decided here.
"""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import datetime
from itertools import repeat

from attrs import define, evolve, field, frozen

from agentloop.core.run import Status
from agentloop.ports.store import (
    AttemptRow,
    Checkpoint,
    ConversationRow,
    JobRow,
    MessageRow,
    NewAttempt,
    NewEvent,
    NewRunRow,
    RunRow,
)
from agentloop.stores.clock import instant
from agentloop.stores.rules import refuse_known


@define(eq=False)
class Run:
    """A run's row as it was inserted, and everything committed to it since.

    It is also the run's standing, in the words of `rules`.
    """

    inserted: RunRow
    status: Status = "pending"
    token: int = 0
    lease_until: float = 0.0
    deadline: float | None = None
    revision: int = 0
    claimed_revision: int = 0
    setup: str | None = None
    header: str | None = None
    iterations: int = 0
    result: str | None = None
    cancel_requested: bool = False
    completed_at: str | None = None
    messages: list[tuple[str, datetime]] = field(factory=list)
    results: dict[str, str] = field(factory=dict)
    jobs: dict[int, JobRow] = field(factory=dict)
    attempts: dict[tuple[int, int], NewAttempt] = field(factory=dict)
    events: list[NewEvent] = field(factory=list)

    @property
    def last_event(self) -> int:
        """Id of the last event, 0 when there is none."""
        return self.events[-1].id if self.events else 0

    @property
    def staged(self) -> int:
        """How many messages are kept."""
        return len(self.messages)

    def row(self) -> RunRow:
        """The row as it is now; asked for so often that `evolve` would tell."""
        new = self.inserted
        return RunRow(
            id=new.id,
            conversation_id=new.conversation_id,
            company_id=new.company_id,
            user_id=new.user_id,
            client_op_id=new.client_op_id,
            driver=new.driver,
            status=self.status,
            base_version=new.base_version,
            config=new.config,
            payload=new.payload,
            tool_choice=new.tool_choice,
            iterations=self.iterations,
            result=self.result,
            cancel_requested=self.cancel_requested,
            started_at=new.started_at,
            completed_at=self.completed_at,
        )

    def commit(self, change: Checkpoint, now: datetime) -> None:
        """Keep a change; messages end the turn whose results were kept.

        Raises:
            ValueError: a setup, result, job or attempt is there already. Nothing of
                the change is kept then.
        """
        jobs, attempts = change.jobs, change.attempts
        if change.setup is not None or change.results:
            self._refuse_known(change)
        if jobs:
            refuse_known("iteration", self.jobs, [job.iteration for job in jobs])
        if attempts:
            tries = [(each.iteration, each.number) for each in attempts]
            refuse_known("attempt", self.attempts, tries)
            self.attempts.update(zip(tries, attempts, strict=True))
        for job in jobs:
            self.jobs[job.iteration] = job
        self.revision += 1
        self.header = change.header
        self.iterations = change.iterations
        if change.messages:
            self.messages += zip(change.messages, repeat(now))
            self.results.clear()
        self.results.update(change.results)
        self.events += change.events
        if change.setup is not None:
            self.setup = change.setup

    def _refuse_known(self, change: Checkpoint) -> None:
        if change.setup is not None and self.setup is not None:
            raise ValueError(f"run {self.inserted.id} has a setup already")
        results = () if change.messages else self.results
        refuse_known("result", results, [key for key, _ in change.results])

    def attempts_of(self, iteration: int) -> tuple[AttemptRow, ...]:
        """The attempts of one job in order."""
        keys = sorted(key for key in self.attempts if key[0] == iteration)
        return tuple(attempt_row(self.attempts[key]) for key in keys)


@frozen
class Segment:
    """Which messages of a conversation came from which run."""

    first: int
    last: int
    run_id: str
    messages: list[tuple[str, datetime]]

    def rows(self, since: int, until: int) -> Iterator[MessageRow]:
        """Its messages with `since < sequence_no <= until`."""
        low = max(since - self.first + 1, 0)
        high = min(until, self.last) - self.first + 1
        for position in range(low, high):
            body, created_at = self.messages[position]
            yield MessageRow(
                run_id=self.run_id,
                position=position,
                sequence_no=self.first + position,
                body=body,
                created_at=instant(created_at),
            )


@define(eq=False)
class Conversation:
    """A conversation's row, its runs by key, and where its messages come from."""

    row: ConversationRow
    runs: dict[str, Run] = field(factory=dict)
    segments: list[Segment] = field(factory=list)

    def add(self, new: NewRunRow, now: str) -> Run:
        """Insert a run under its key."""
        row = RunRow(
            id=new.id,
            conversation_id=new.conversation_id,
            company_id=new.company_id,
            user_id=new.user_id,
            client_op_id=new.client_op_id,
            driver=new.driver,
            status="pending",
            base_version=new.expected_version,
            config=new.config,
            payload=new.payload,
            tool_choice=new.tool_choice,
            iterations=0,
            result=None,
            cancel_requested=False,
            started_at=now,
            completed_at=None,
        )
        run = self.runs[new.client_op_id] = Run(row)
        return run

    def join(self, run: Run, now: str) -> None:
        """Make a run's messages part of the conversation."""
        first = self.row.version + 1
        last = self.row.version + len(run.messages)
        self.row = evolve(self.row, version=last, updated_at=now)
        if run.messages:
            self.segments.append(Segment(first, last, run.inserted.id, run.messages))

    def visible(self, since: int, until: int | None) -> Iterator[MessageRow]:
        """The messages with `since < sequence_no <= until`, ascending."""
        last = self.row.version if until is None else until
        begin = bisect_right(self.segments, since, key=lambda segment: segment.last)
        for segment in self.segments[begin:]:
            if segment.first > last:
                return
            yield from segment.rows(since, last)


def attempt_row(attempt: NewAttempt) -> AttemptRow:
    """The attempt as it is read, its text made."""
    return AttemptRow(
        run_id=attempt.run_id,
        iteration=attempt.iteration,
        number=attempt.number,
        body=attempt.body,
        response=attempt.response,
    )
