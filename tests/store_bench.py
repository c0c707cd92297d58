"""A bench for stores: one store, a clock that moves when told, and short verbs.

The contract tests take a `Bench` and nothing else, so that a host can run them on a
store of its own: a bench needs only a function that makes a store with a clock.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from threading import Barrier, Thread

from attrs import define, evolve, field, frozen

from agentloop.core.run import Status
from agentloop.ports import (
    Checkpoint,
    Claim,
    ClaimRequest,
    Clock,
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
from agentloop.stores.memory import MemoryStore
from agentloop.stores.sqlite import SQLiteStore
from tests import postgres_server

START = datetime(2026, 5, 18, 13, 21, 30, 355180, tzinfo=UTC)
START_TEXT = "2026-05-18T13:21:30.355180Z"
COMPANY, USER = 12, 407
OURS = Reader(COMPANY)
MINE = Reader(COMPANY, USER)
BLIND = (Reader(COMPANY + 1), Reader(COMPANY + 1, USER), Reader(COMPANY, USER + 1))
"""Readers of another company, and of another user; they see nothing of ours."""
LEASE = 30.0


@define
class MovableClock:
    """A clock that stands still until it is moved."""

    instant: datetime = START
    passed: float = 1000.0

    def now(self) -> datetime:
        return self.instant

    def monotonic(self) -> float:
        return self.passed

    def move(self, seconds: float) -> None:
        """Let time pass; a negative number sets the clock back."""
        self.set(seconds)
        self.passed += max(seconds, 0.0)

    def set(self, seconds: float) -> None:
        """Have the clock show another time, while none passes."""
        self.instant += timedelta(seconds=seconds)


@frozen
class Driven:
    """A run under a lease, with the revision its next commit follows."""

    claim: Claim
    revision: int

    @property
    def lease(self) -> Lease:
        return self.claim.lease

    @property
    def run_id(self) -> str:
        return self.claim.lease.run_id


@define
class Bench:
    """A store, its clock, and verbs with defaults that rarely matter."""

    make: Callable[[Clock], Store]
    clock: MovableClock = field(factory=MovableClock)
    store: Store = field(init=False)
    _numbers: Iterator[int] = field(factory=lambda: count(1))

    def __attrs_post_init__(self) -> None:
        self.store = self.make(self.clock)

    def reopen(self) -> None:
        """Come back after a restart, where the store outlives one."""
        if isinstance(self.store, MemoryStore):
            return
        self.close()
        self.store = self.make(self.clock)

    def outlive(self, run_id: str, seconds: float = LEASE) -> None:
        """Come back after a restart, and see a dead worker's run stand still."""
        self.reopen()
        assert self.claim(run_id) is None
        self.clock.move(seconds)

    def close(self) -> None:
        """Close a store that needs closing."""
        getattr(self.store, "close", lambda: None)()

    def fresh(self, kind: str) -> str:
        """An id that was not used before."""
        return f"{kind}-{next(self._numbers)}"

    # ------------------------------------------------------------ rows

    def conversation(self, *, user: int = USER, body: str = "{}") -> ConversationRow:
        """A new conversation."""
        return self.store.create_conversation(
            NewConversationRow(
                id=self.fresh("conversation"),
                company_id=COMPANY,
                user_id=user,
                body=body,
            )
        )

    def new_run(self, conversation_id: str, **fields: object) -> NewRunRow:
        """A run to insert."""
        row = NewRunRow(
            id=self.fresh("run"),
            conversation_id=conversation_id,
            company_id=COMPANY,
            user_id=USER,
            client_op_id=self.fresh("key"),
            driver="embedded",
            expected_version=0,
            config='{"model":"m"}',
            payload='{"user_message":"hi"}',
            tool_choice=None,
        )
        return evolve(row, **fields)

    def run(self, conversation_id: str | None = None, **fields: object) -> RunRow:
        """A pending run, in a new conversation unless one is named."""
        where = conversation_id or self.conversation().id
        return self.store.insert_run(self.new_run(where, **fields))[0]

    # ------------------------------------------------------------ driving

    def claim(self, run_id: str | None = None, **fields: object) -> Claim | None:
        """Try to take a lease."""
        request = ClaimRequest(driver="embedded", lease_seconds=LEASE, run_id=run_id)
        return self.store.claim(evolve(request, **fields))

    def drive(self, run: RunRow | None = None) -> Driven:
        """A run under a lease, a new one unless one is given."""
        claim = self.claim((run or self.run()).id)
        assert claim is not None
        return Driven(claim, claim.revision)

    def commit(self, driven: Driven, change: Checkpoint) -> Driven:
        """Checkpoint a change."""
        self.store.checkpoint(driven.lease, driven.revision, change, LEASE)
        return evolve(driven, revision=driven.revision + 1)

    def say(self, driven: Driven, *bodies: str) -> Driven:
        """Checkpoint messages after those that are staged."""
        staged = len(self.store.run_messages(driven.run_id))
        return self.commit(driven, change(messages=bodies, first_message=staged))

    def end(self, driven: Driven, **fields: object) -> RunRow:
        """Finalize a run, completed and kept unless told otherwise."""
        known = self.store.events(OURS, driven.run_id)
        number = known[-1].id + 1 if known else 1
        return self.store.finalize(
            driven.lease, driven.revision, final(number, **fields)
        )

    def finished(self, conversation_id: str, *bodies: str) -> RunRow:
        """A completed run with these messages at the conversation's version."""
        page = self.store.messages(OURS, conversation_id)
        assert page is not None
        run = self.run(conversation_id, expected_version=page.version)
        return self.end(self.say(self.drive(run), *bodies))


def change(**fields: object) -> Checkpoint:
    """A checkpoint with a header and nothing else."""
    return evolve(Checkpoint(header="{}", iterations=1), **fields)


def final(number: int = 1, **fields: object) -> Final:
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
    """A job whose id says where it belongs."""
    name = f"job-{run_id}-{iteration}"
    return JobRow(id=name, run_id=run_id, iteration=iteration, body=body)


def at_once(works: list[Callable[[], object]]) -> list[object]:
    """Do works in as many threads at the same moment; their answers or errors."""
    barrier = Barrier(len(works))
    answers: list[object] = [None] * len(works)

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


STATUSES: tuple[Status, ...] = ("completed", "requires_action", "failed")


KINDS = ("memory", "sqlite", "postgres", "dynamodb")


def open_bench(kind: str, folder: Path) -> Iterator[Bench]:
    """The body of a fixture: a bench for a shipped store, closed afterwards."""
    file = folder / "store.db"
    if kind == "postgres":
        postgres_server.emptied()
    if kind == "dynamodb":
        from tests import dynamodb_server  # brings moto, which takes a second

        dynamodb_server.emptied()
    makers: dict[str, Callable[[Clock], Store]] = {
        "memory": MemoryStore,
        "sqlite": lambda clock: SQLiteStore(file, clock=clock),
        "postgres": postgres_server.store,
        "dynamodb": lambda clock: dynamodb_server.store(clock),
    }
    made = Bench(makers[kind])
    yield made
    made.close()
