"""A store under examination: a corner of it that is ours alone, and short verbs.

Every check gets a company, a driver and ids that nobody used before, so that checks
do not meet each other's rows, nor the host's. Nothing in here judges.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from inspect import signature
from threading import Barrier, Thread
from typing import Any
from uuid import UUID, uuid5

from attrs import define, evolve, field, frozen

from agentloop.ports import (
    Checkpoint,
    Claim,
    ClaimRequest,
    ConversationRow,
    EventRow,
    Final,
    JobRow,
    Lease,
    NewConversationRow,
    NewRunRow,
    Reader,
    RunRow,
    Store,
)
from agentloop.runtime.system import RandomIds, SystemClock

Factory = Callable[..., Store]
LONG = 600.0
"""Seconds of a lease that outlives any check; one of 0 s is due at once."""


@define
class MovableClock:
    """A clock that stands still until it is moved."""

    instant: datetime = field(factory=lambda: SystemClock().now())

    def now(self) -> datetime:
        """The present instant."""
        return self.instant

    def monotonic(self) -> float:
        """Seconds that rise as the clock is moved."""
        return self.instant.timestamp()

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.instant += timedelta(seconds=seconds)


def takes_clock(factory: Factory) -> bool:
    """Whether a factory has a parameter called `clock`."""
    return "clock" in signature(factory).parameters


@frozen
class Driven:
    """A run under a lease, with the revision its next commit follows."""

    claim: Claim
    revision: int

    @property
    def lease(self) -> Lease:
        """The lease every write carries."""
        return self.claim.lease

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.claim.lease.run_id

    @property
    def conversation_id(self) -> str:
        """The conversation's id."""
        return self.claim.run.conversation_id


@define
class Subject:
    """A store, and verbs with defaults that rarely matter."""

    factory: Factory
    clock: MovableClock
    place: str | None = None
    store: Store = field(init=False)
    name: str = field(factory=lambda: RandomIds().new())
    _made: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.store = self.open()

    def open(self) -> Store:
        """A further store on the same rows."""
        if takes_clock(self.factory):
            return self.factory(clock=self.clock)
        return self.factory()

    def reopen(self) -> None:
        """Come back after a restart."""
        self.close()
        self.store = self.open()

    def close(self) -> None:
        """Close a store that needs closing."""
        getattr(self.store, "close", lambda: None)()

    @property
    def company(self) -> int:
        """A company of our own."""
        return int(self.name[:8], 16) % 2**30 + 1

    @property
    def driver(self) -> str:
        """A driver of our own, so that we claim no run but ours."""
        return f"conformance-{self.name}"

    @property
    def ours(self) -> Reader:
        """Who sees all of our rows."""
        return Reader(self.company)

    @property
    def mine(self) -> Reader:
        """The user who owns them."""
        return Reader(self.company, 1)

    @property
    def blind(self) -> tuple[Reader, ...]:
        """Another company's reader, one with the same user id, and another user."""
        other = self.company + 1
        return Reader(other), Reader(other, 1), Reader(self.company, 2)

    def fresh(self, kind: str) -> str:
        """A uuid that was not used before."""
        self._made += 1
        return str(uuid5(UUID(self.name), f"{kind} {self._made}"))

    # ------------------------------------------------------------ rows

    def conversation(self, *, body: str = "{}", user: int = 1) -> ConversationRow:
        """A new conversation."""
        return self.store.create_conversation(
            NewConversationRow(
                id=self.fresh("conversation"),
                company_id=self.company,
                user_id=user,
                body=body,
            )
        )

    def new_run(self, conversation_id: str, **fields: Any) -> NewRunRow:
        """A run to insert."""
        row = NewRunRow(
            id=self.fresh("run"),
            conversation_id=conversation_id,
            company_id=self.company,
            user_id=1,
            client_op_id=self.fresh("key"),
            driver=self.driver,
            expected_version=0,
            config='{"model":"m"}',
            payload='{"user_message":"hi"}',
            tool_choice=None,
        )
        return evolve(row, **fields)

    def run(self, conversation_id: str | None = None, **fields: Any) -> RunRow:
        """A pending run, in a new conversation unless one is named."""
        where = conversation_id or self.conversation().id
        return self.store.insert_run(self.new_run(where, **fields))[0]

    # ------------------------------------------------------------ driving

    def claim(
        self,
        run_id: str | None = None,
        lease: float = LONG,
        timeout: float | None = None,
    ) -> Claim | None:
        """Try to take a lease."""
        return self.store.claim(
            ClaimRequest(
                driver=self.driver,
                lease_seconds=lease,
                run_id=run_id,
                run_timeout=timeout,
            )
        )

    def drive(
        self,
        run: RunRow | None = None,
        lease: float = LONG,
        timeout: float | None = None,
    ) -> Driven:
        """A run under a lease, a new one unless one is given."""
        run_id = (run or self.run()).id
        claim = self.claim(run_id, lease, timeout)
        if claim is None:
            raise AssertionError(f"the run {run_id} is due, and claim answered None")
        return Driven(claim, claim.revision)

    def commit(self, driven: Driven, change: Checkpoint, lease: float = LONG) -> Driven:
        """Checkpoint a change."""
        self.store.checkpoint(driven.lease, driven.revision, change, lease)
        return evolve(driven, revision=driven.revision + 1)

    def say(self, driven: Driven, *bodies: str) -> Driven:
        """Checkpoint messages after those that are staged."""
        staged = len(self.store.run_messages(driven.run_id))
        return self.commit(driven, change(first_message=staged, messages=bodies))

    def end(self, driven: Driven, **fields: Any) -> RunRow:
        """Finalize a run, completed and kept unless told otherwise."""
        known = self.store.events(self.ours, driven.run_id)
        number = known[-1].id + 1 if known else 1
        last = final(number, **fields)
        return self.store.finalize(driven.lease, driven.revision, last)

    def finished(self, conversation_id: str, *bodies: str) -> RunRow:
        """A completed run with these messages at the conversation's version."""
        page = self.store.messages(self.ours, conversation_id)
        version = page.version if page else 0
        run = self.run(conversation_id, expected_version=version)
        return self.end(self.say(self.drive(run), *bodies))

    def all_of(self, run_id: str) -> dict[str, object]:
        """All that can be read of a run, for telling whether anything changed."""
        store, ours = self.store, self.ours
        run = store.get_run(ours, run_id)
        where = run.conversation_id if run else ""
        jobs = store.list_jobs(ours, run_id)
        return {
            "run": run,
            "conversation": store.get_conversation(ours, where),
            "messages": store.messages(ours, where),
            "staged messages": store.run_messages(run_id),
            "setup": store.run_setup(run_id),
            "jobs": [store.get_job(ours, each.id) for each in jobs],
            "events": store.events(ours, run_id),
        }


def change(**fields: Any) -> Checkpoint:
    """A checkpoint with a header and nothing else."""
    return evolve(Checkpoint(header="{}", iterations=1), **fields)


def final(number: int = 1, **fields: Any) -> Final:
    """A completed run that keeps its messages; `number` is its event's id."""
    row = Final(
        status="completed",
        result='"done"',
        conflict_result='"conflict"',
        keep=True,
        last=change(),
        terminal_event=EventRow(number, '"completed"'),
        conflict_event=EventRow(number, '"conflict"'),
    )
    return evolve(row, **fields)


def job(run_id: str, iteration: int, body: str = "{}") -> JobRow:
    """A job whose id follows from where it belongs."""
    name = f"job-{run_id}-{iteration}"
    return JobRow(id=name, run_id=run_id, iteration=iteration, body=body)


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """Do works in as many threads at one moment; their answers or errors."""
    barrier = Barrier(len(works))
    answers: list[Any] = [None] * len(works)

    def do(index: int) -> None:
        barrier.wait()
        try:
            answers[index] = works[index]()
        except Exception as error:
            answers[index] = error

    threads = [Thread(target=do, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def later(clock: MovableClock, days: float) -> datetime:
    """An instant that many days from the clock's."""
    return clock.now().astimezone(UTC) + timedelta(days=days)
