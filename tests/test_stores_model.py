"""The SQLite store against the memory store, over random calls."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from agentloop.ports import (
    AttemptRow,
    Checkpoint,
    ClaimRequest,
    EventRow,
    JobRow,
    Lease,
    NewConversationRow,
    NewRunRow,
    Reader,
    Store,
)
from agentloop.stores.clock import instant
from agentloop.stores.memory import MemoryStore
from agentloop.stores.sqlite import SQLiteStore
from tests.store_bench import STATUSES, MovableClock, final

READERS = st.sampled_from(
    [Reader(1), Reader(1, 1), Reader(1, 2), Reader(2), Reader(2, 1)]
)
SMALL = st.integers(0, 3)
NUMBERS = st.integers(-1, 12)
SECONDS = st.sampled_from([0.0, 5.0, 10.0, 1e6])
BODIES = st.lists(st.sampled_from(['"a"', '"b"', '"\\ud800"']), max_size=3).map(tuple)


class Twins(RuleBasedStateMachine):
    """Every call goes to both stores; answers, errors and all reads agree."""

    conversations = Bundle("conversations")
    runs = Bundle("runs")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = MovableClock()
        self.model = MemoryStore(self.clock)
        self.file = self.open()
        self.known: list[str] = []
        self.made = 0

    def open(self) -> SQLiteStore:
        path = Path(self.folder.name) / "store.db"
        return SQLiteStore(path, clock=self.clock, synchronous="OFF")

    def teardown(self) -> None:
        self.file.close()
        self.folder.cleanup()

    def both(self, call: Callable[[Store], object]) -> object:
        """Make a call on both stores; its answer, or the type of its error."""
        mine, theirs = _answer(call, self.model), _answer(call, self.file)
        assert theirs == mine
        return mine

    def fresh(self, kind: str) -> str:
        self.made += 1
        return f"{kind}{self.made}"

    # ------------------------------------------------------------ rows

    @initialize(target=conversations)
    def first_conversation(self) -> str:
        return self.create(company=1, user=1)

    @rule(target=conversations, company=st.integers(1, 2), user=st.integers(1, 2))
    def create(self, company: int, user: int) -> str:
        name = self.fresh("c")
        new = NewConversationRow(id=name, company_id=company, user_id=user, body="{}")
        self.both(lambda store: store.create_conversation(new))
        self.known.append(name)
        return name

    @rule(
        target=runs,
        conversation=conversations,
        key=st.sampled_from("xyz"),
        expected=st.sampled_from([None, None, None, 0, 1]),
        user=st.integers(1, 2),
        driver=st.sampled_from(["embedded", "embedded", "dbos"]),
    )
    def insert(
        self, conversation: str, key: str, expected: int | None, user: int, driver: str
    ) -> str:
        page = self.model.messages(Reader(1), conversation)
        current = page.version if page else 0
        name = self.fresh("r")
        new = NewRunRow(
            id=name,
            conversation_id=conversation,
            company_id=1,
            user_id=user,
            client_op_id=key,
            driver=driver,
            expected_version=current if expected is None else expected,
            config="{}",
            payload="{}",
            tool_choice=None,
        )
        self.both(lambda store: store.insert_run(new))
        self.both(lambda store: store.find_run(conversation, key))
        return name

    @rule(reader=READERS, run=runs)
    def cancel(self, reader: Reader, run: str) -> None:
        self.both(lambda store: store.request_cancel(reader, run))

    @rule(reader=READERS, conversation=consumes(conversations))
    def delete(self, reader: Reader, conversation: str) -> None:
        self.both(lambda store: store.delete_conversation(reader, conversation))

    @rule(ago=st.sampled_from([0.0, 1.0, 2e5, 1e6]))
    def prune(self, ago: float) -> None:
        now = evolve(self.clock)
        now.move(-ago)
        self.both(lambda store: store.prune(instant(now.instant)))

    # ------------------------------------------------------------ driving

    @rule(
        target=leases,
        run=st.none() | runs,
        timeout=st.none() | SECONDS,
        driver=st.sampled_from(["embedded", "embedded", "dbos"]),
    )
    def claim(self, run: str | None, timeout: float | None, driver: str) -> object:
        request = ClaimRequest(
            driver=driver, lease_seconds=8, run_id=run, run_timeout=timeout
        )
        claim = self.both(lambda store: store.claim(request))
        return multiple() if claim is None else claim.lease

    @rule(lease=leases)
    def heartbeat(self, lease: Lease) -> None:
        self.both(lambda store: store.heartbeat(lease, 8))

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        self.both(lambda store: store.release(lease))

    @rule(
        lease=leases,
        bodies=BODIES,
        keys=st.lists(st.sampled_from("kl"), max_size=2),
        setup=st.sampled_from([None, None, None, '"setup"']),
        wrong=st.sampled_from([0, 0, 0, 0, 1, -1]),
        numbers=st.lists(SMALL, max_size=2),
        end=st.none() | st.none() | st.sampled_from(STATUSES),
        keep=st.booleans(),
        repeat=st.booleans(),
    )
    def commit(self, lease, bodies, keys, setup, wrong, numbers, end, keep, repeat):
        """A checkpoint or the end, sometimes wrong in one place, perhaps twice."""
        revision, staged, event = self.place(lease)
        change = Checkpoint(
            header=f'"{revision}"',
            iterations=len(numbers),
            setup=setup,
            first_message=staged + (wrong if wrong < 0 else 0),
            messages=bodies,
            results=tuple((key, '"result"') for key in keys),
            jobs=tuple(_job(lease.run_id, number) for number in numbers),
            attempts=tuple(_attempt(lease.run_id, number) for number in numbers),
            events=tuple(EventRow(event + n, '"e"') for n in numbers if n),
        )
        at = revision + max(wrong, 0)
        ending = final(event + 9, status=end or "failed", keep=keep, last=change)
        calls = {
            True: lambda store: store.finalize(lease, at, ending),
            False: lambda store: store.checkpoint(lease, at, change, 8),
        }
        for _ in range(1 + repeat):
            self.both(calls[end is not None])

    def place(self, lease: Lease) -> tuple[int, int, int]:
        """What the next commit follows: revision, staged messages, last event."""
        run = self.model._runs.get(lease.run_id)
        return (run.revision, len(run.messages), run.last_event) if run else (0, 0, 0)

    # ------------------------------------------------------------ time, restarts

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.move(seconds)

    @rule()
    def restart(self) -> None:
        self.file.close()
        self.file = self.open()

    # ------------------------------------------------------------ reading

    @rule(reader=READERS, offset=SMALL, limit=SMALL)
    def list(self, reader: Reader, offset: int, limit: int) -> None:
        self.both(lambda store: store.list_conversations(reader, offset, limit))

    @rule(reader=READERS, run=runs, after=NUMBERS)
    def look(self, reader: Reader, run: str, after: int) -> None:
        self.both(lambda store: store.get_run(reader, run))
        self.both(lambda store: store.events(reader, run, after))
        self.both(lambda store: store.run_messages(run))
        self.both(lambda store: store.run_setup(run))
        for job in self.both(lambda store: store.list_jobs(reader, run)):
            self.both(lambda store, job=job: store.get_job(reader, job.id))

    @rule(
        reader=READERS,
        conversation=conversations,
        since=NUMBERS,
        until=st.none() | NUMBERS,
    )
    def page(
        self, reader: Reader, conversation: str, since: int, until: int | None
    ) -> None:
        self.both(lambda store: store.messages(reader, conversation, since, until))
        self.both(lambda store: store.list_runs(reader, conversation))

    @invariant()
    def versions_count_messages(self) -> None:
        """The version is the number of the last message, and none is missing."""
        for name in self.known:
            page = self.both(lambda store, name=name: store.messages(Reader(1), name))
            if page is not None:
                numbers = [row.sequence_no for row in page.rows]
                assert numbers == list(range(1, page.version + 1))


def _answer(call: Callable[[Store], object], store: Store) -> object:
    try:
        return call(store)
    except (ValueError, LookupError) as error:
        return type(error)
    except Exception as error:
        return type(error), str(error)


def _job(run_id: str, iteration: int) -> JobRow:
    name = f"j-{run_id}-{iteration}"
    return JobRow(id=name, run_id=run_id, iteration=iteration, body="{}")


def _attempt(run_id: str, iteration: int) -> AttemptRow:
    return AttemptRow(run_id=run_id, iteration=iteration, number=1, body="{}")


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=60, stateful_step_count=40)
