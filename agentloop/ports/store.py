"""The port to storage: about twenty calls, each of them one transaction.

A store keeps rows whose bodies are JSON text in ASCII. It never reads a body: all
it must understand are ids, numbers, statuses and instants. Every call is atomic:
it happens wholly or not at all, and what it returned stays true after a crash.

Three rules hold the design together.

* A run is driven under a lease. `claim` hands out a token that rises with every
  claim; `checkpoint`, `finalize`, `heartbeat` and `release` carry it and fail with
  `LeaseLostError` when it is no longer the newest. Leases are judged by the store's
  clock. `revision` rises with every checkpoint, so that a repeated one is noticed.
* A checkpoint's messages are staged under their run and seen by nobody. `finalize`
  makes them part of the conversation with one row that says which run they came
  from, so its cost does not depend on their number.
* A reader sees rows of its own company only, and of its own user where `user_id`
  is set. What it may not see does not exist for it.

Any call may raise `StoreUnavailableError`. Whether the call took effect is then
unknown; the caller reads again before it decides.
"""

from typing import Protocol

from attrs import field

from agentloop.core.run import Scope, Status
from agentloop.core.values import value
from agentloop.ports.engine import RunRef


class StoreUnavailableError(Exception):
    """The store could not answer; whether the call took effect is unknown."""


class LeaseLostError(Exception):
    """Somebody else drives the run, or it has ended; stop and write nothing."""


class VersionMovedError(Exception):
    """The conversation is not at the version that was expected."""

    def __init__(self, expected: int, current: int) -> None:
        self.expected = expected
        self.current = current
        super().__init__(f"expected version {expected}, current {current}")


@value
class Reader:
    """Whose rows may be seen: a company's, or one user's of it."""

    company_id: int
    user_id: int | None = None

    def sees(self, company_id: int, user_id: int) -> bool:
        """Whether a row of this company and user may be seen."""
        return self.company_id == company_id and self.user_id in {None, user_id}


@value(kw_only=True)
class NewConversationRow:
    """A conversation to store; `body` holds name, system prompt and defaults."""

    id: str
    company_id: int
    user_id: int
    body: str


@value(kw_only=True)
class ConversationRow:
    """A stored conversation; instants are RFC 3339 in UTC with microseconds."""

    id: str
    company_id: int
    user_id: int
    body: str
    version: int
    created_at: str
    updated_at: str


@value(kw_only=True)
class NewRunRow:
    """A run to store; `driver` names what may drive it (`embedded`, an engine)."""

    id: str
    conversation_id: str
    company_id: int
    user_id: int
    client_op_id: str
    driver: str
    expected_version: int
    config: str
    payload: str
    tool_choice: str | None


@value(kw_only=True)
class RunRow:
    """A stored run; `result` is set with its terminal status and never changes."""

    id: str
    conversation_id: str
    company_id: int
    user_id: int
    client_op_id: str
    driver: str
    status: Status
    base_version: int
    config: str
    payload: str
    tool_choice: str | None
    iterations: int
    result: str | None
    cancel_requested: bool
    started_at: str
    completed_at: str | None

    @property
    def scope(self) -> Scope:
        """Who started it."""
        return Scope(self.company_id, self.user_id)


@value
class Lease:
    """The right to drive a run: the run and the token of the newest claim."""

    run_id: str
    token: int


@value(kw_only=True)
class ClaimRequest:
    """Who wants to drive what, for how many seconds until the next heartbeat.

    Without `run_id` any run that is due will do, the oldest first. `run_timeout`
    sets the run's deadline when it has none yet.
    """

    driver: str
    lease_seconds: float
    run_id: str | None = None
    run_timeout: float | None = None


@value(kw_only=True)
class Claim:
    """A run to drive, with everything that was checkpointed.

    Attributes:
        lease: to be carried by every write.
        run: the row, now `running`.
        revision: of the last checkpoint, 0 when there is none.
        setup: what the first checkpoints stored once, None when not yet.
        header: the last checkpoint's header, None when there is none.
        messages: the staged messages in order.
        results: staged tool results by call key.
        last_event: id of the last stored event, 0 when there is none.
        seconds_left: until the run's deadline, None without one.
        in_a_row: claims of this run, this one among them, since its last commit or
            release; 1 from a store that does not count them. A run that kills
            whoever takes it is known by it.
    """

    lease: Lease
    run: RunRow
    revision: int
    setup: str | None = None
    header: str | None = None
    messages: tuple[str, ...] = ()
    results: tuple[tuple[str, str], ...] = ()
    last_event: int = 0
    seconds_left: float | None = None
    in_a_row: int = 1


@value
class JobRow:
    """An inference job as it begins."""

    id: str
    run_id: str
    iteration: int
    body: str


@value(kw_only=True)
class AttemptRow:
    """One attempt of a job, as it ended; `response` is the provider's text."""

    run_id: str
    iteration: int
    number: int
    body: str
    response: str | None = None


@value
class EventRow:
    """A run event; `id` rises within the run."""

    id: int
    body: str


class NewAttempt(Protocol):
    """An attempt to store: an `AttemptRow`, or what has its fields.

    `body` may be made when it is read, here as in a `NewEvent`: a store that writes it
    reads it once, and one that only keeps the row leaves it until it is asked for.
    """

    @property
    def run_id(self) -> str:
        """The run whose job was tried."""
        ...

    @property
    def iteration(self) -> int:
        """Of the job."""
        ...

    @property
    def number(self) -> int:
        """Rises with each attempt of a job."""
        ...

    @property
    def body(self) -> str:
        """What is kept of it, as JSON text."""
        ...

    @property
    def response(self) -> str | None:
        """The provider's answer, verbatim."""
        ...


class NewEvent(Protocol):
    """An event to store: an `EventRow`, or what has its fields."""

    @property
    def id(self) -> int:
        """Rises within the run."""
        ...

    @property
    def body(self) -> str:
        """What is kept of it, as JSON text."""
        ...


@value
class Checkpoint:
    """What one commit adds to a run.

    Attributes:
        header: replaces the last one; small, whatever the run's length.
        iterations: inferences begun so far.
        setup: given once, kept as long as the run.
        first_message: position of the first of `messages` within the run, which
            is the number staged so far; without messages it means nothing.
        messages: to be staged at the end, never rewritten. They end a turn: results
            of earlier checkpoints are dropped.
        results: results of an unfinished turn, by call key.
        jobs: jobs that begin with this commit.
        attempts: attempts that ended.
        events: events to be kept.
    """

    header: str
    iterations: int
    setup: str | None = None
    first_message: int = 0
    messages: tuple[str, ...] = ()
    results: tuple[tuple[str, str], ...] = ()
    jobs: tuple[JobRow, ...] = ()
    attempts: tuple[NewAttempt, ...] = ()
    events: tuple[NewEvent, ...] = ()


@value(kw_only=True)
class Final:
    """How a run ends.

    With `keep` the staged messages join the conversation, if it still is at the
    run's base version. If it is not, nothing joins and the run ends with status
    `failed` and `conflict_result` instead.
    """

    status: Status
    result: str
    conflict_result: str
    keep: bool
    last: Checkpoint
    terminal_event: NewEvent
    conflict_event: NewEvent


@value(kw_only=True)
class MessageRow:
    """A message of a conversation; `position` is its place within its run."""

    run_id: str
    position: int
    sequence_no: int
    body: str
    created_at: str  # when it was staged


@value(kw_only=True)
class MessagePage:
    """Messages of a conversation and the version it had when they were read."""

    version: int
    rows: tuple[MessageRow, ...] = field(default=())


class Store(Protocol):
    """Where a host keeps conversations and runs. Shared by all threads."""

    @property
    def blocking(self) -> bool:
        """Whether calls may wait, so that async drivers need a thread for them."""
        ...

    # ------------------------------------------------------------ conversations

    def create_conversation(self, new: NewConversationRow) -> ConversationRow:
        """Insert a conversation at version 0, stamped with the store's time.

        Raises:
            ValueError: there is one with this id.
        """
        ...

    def get_conversation(
        self, reader: Reader, conversation_id: str
    ) -> ConversationRow | None:
        """The conversation, or None when the reader cannot see one."""
        ...

    def list_conversations(
        self, reader: Reader, offset: int, limit: int
    ) -> tuple[tuple[ConversationRow, ...], int]:
        """A slice of what the reader sees, newest first, and the whole number."""
        ...

    def delete_conversation(self, reader: Reader, conversation_id: str) -> bool:
        """Remove a conversation and all of its runs, messages, jobs and events.

        Returns whether there was one. A worker driving one of its runs finds its
        lease lost.
        """
        ...

    def messages(
        self,
        reader: Reader,
        conversation_id: str,
        since: int = 0,
        until: int | None = None,
    ) -> MessagePage | None:
        """Visible messages with `since < sequence_no <= until`, ascending.

        Numbers are gap-free from 1. None when the reader cannot see the
        conversation. Version and rows are of one moment.
        """
        ...

    # ------------------------------------------------------------ runs

    def insert_run(self, new: NewRunRow) -> tuple[RunRow, bool]:
        """Insert a `pending` run, or return the one that has its key.

        `(conversation_id, client_op_id)` is unique. An existing row wins over
        everything else and comes back unchanged with False, whatever the rest of
        `new` says. Otherwise the row is inserted and comes back with True.

        Raises:
            VersionMovedError: the conversation is not at `new.expected_version`.
            LookupError: the conversation does not exist.
            ValueError: another run has this id.
        """
        ...

    def find_run(self, conversation_id: str, client_op_id: str) -> RunRow | None:
        """The run with this key, or None."""
        ...

    def get_run(self, reader: Reader, run_id: str) -> RunRow | None:
        """The run, or None when the reader cannot see one."""
        ...

    def list_runs(self, reader: Reader, conversation_id: str) -> tuple[RunRow, ...]:
        """The runs of a conversation that the reader sees, oldest first."""
        ...

    def request_cancel(self, reader: Reader, run_id: str) -> RunRow | None:
        """Flag a run that has not ended; return the row, None when unseen.

        On a run that has ended nothing changes. Needs no lease: whoever drives
        the run learns of the flag by its next checkpoint or heartbeat.
        """
        ...

    # ------------------------------------------------------------ driving

    def claim(self, request: ClaimRequest) -> Claim | None:
        """Take the lease of a run that is due, and make it `running`.

        Due is a run of the request's driver that has not ended and has no lease,
        or whose lease has run out. Returns None when there is none. The token is
        higher than any before; two claims never succeed for one lease.
        """
        ...

    def unclaimed(self, driver: str, limit: int) -> tuple[RunRef, ...]:
        """Runs of a driver that nobody has claimed yet, the oldest first.

        Those are its `pending` runs, cancelled ones included. For whoever looks for
        starts that an engine never heard of: changes nothing, takes no lease.
        """
        ...

    def heartbeat(self, lease: Lease, lease_seconds: float) -> bool:
        """Prolong a lease from now on; returns whether cancel was requested.

        Raises:
            LeaseLostError: the token is not the newest, or the run has ended.
        """
        ...

    def release(self, lease: Lease) -> None:
        """Give a lease back, so that the run is due at once.

        Its token is void from now on, so that a late heartbeat takes nothing. A
        lease that was lost already is none of the caller's business any more:
        nothing happens.
        """
        ...

    def checkpoint(
        self, lease: Lease, revision: int, change: Checkpoint, lease_seconds: float
    ) -> bool:
        """Commit a change that follows `revision`, and prolong the lease.

        The new revision is `revision + 1`. A repeat of the very last commit (same
        token, revision already one higher) changes nothing and succeeds, because
        its answer may have been lost. Returns whether cancel was requested.

        Raises:
            LeaseLostError: the token is not the newest, the run has ended, or
                the revision is another one.
            ValueError: the change does not fit what is stored: messages leave a gap
                or overlap, event ids do not rise, a setup, result, job or attempt
                is there already, or a row is another run's. Nothing changed.
        """
        ...

    def finalize(self, lease: Lease, revision: int, final: Final) -> RunRow:
        """End a run: last messages, version, terminal fields and event, at once.

        With `final.keep` the conversation's version rises by the number of the
        run's messages; otherwise they stay staged, seen by no conversation, as long
        as the run. A run that has ended under this token already is returned as it
        is.

        Raises:
            LeaseLostError: as for `checkpoint`.
            ValueError: as for `checkpoint`, or the status does not end a run.
        """
        ...

    # ------------------------------------------------------------ looking closer

    def get_job(
        self, reader: Reader, job_id: str
    ) -> tuple[JobRow, tuple[AttemptRow, ...], RunRow] | None:
        """A job with its attempts in order and its run, None when unseen."""
        ...

    def run_messages(self, run_id: str) -> tuple[str, ...]:
        """The messages a run has staged, visible or not; none once it is pruned."""
        ...

    def run_setup(self, run_id: str) -> str | None:
        """The setup a run stored, None when it has none."""
        ...

    def list_jobs(self, reader: Reader, run_id: str) -> tuple[JobRow, ...]:
        """The jobs of a run by iteration; empty when the reader sees no run."""
        ...

    def events(
        self, reader: Reader, run_id: str, after: int = 0
    ) -> tuple[EventRow, ...]:
        """The run's events with a higher id than `after`, ascending."""
        ...

    # ------------------------------------------------------------ house-keeping

    def prune(self, before: str) -> int:
        """Remove runs that ended before an instant, and what only they need.

        Messages that joined a conversation stay. A run and its key go together,
        and never within a day after the run ended, however late `before` is: a
        repeat that comes within that day is still answered with its run. Returns
        how many runs were removed.

        Raises:
            ValueError: `before` is no RFC 3339 instant.
        """
        ...

    def ping(self) -> None:
        """Do something cheap that fails when the store is not usable."""
        ...
