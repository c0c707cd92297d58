"""A store in this process's memory: for tests, demos and short-lived tools.

It keeps the same rows as the durable stores under one lock; of attempts and events
it keeps what they came as, so that their texts are made when somebody reads them. It
knows no files and no other process; when the process ends, everything is gone.
"""

from bisect import bisect_right
from datetime import datetime
from threading import Lock

from agentloop.core.run import TERMINAL
from agentloop.ports.engine import RunRef
from agentloop.ports.store import (
    AttemptRow,
    Checkpoint,
    Claim,
    ClaimRequest,
    ConversationRow,
    EventRow,
    Final,
    JobRow,
    Lease,
    MessagePage,
    NewConversationRow,
    NewRunRow,
    Reader,
    RunRow,
    VersionMovedError,
)
from agentloop.ports.system import Clock
from agentloop.stores.clock import MachineClock, instant
from agentloop.stores.memory_rows import Conversation, Run
from agentloop.stores.rules import (
    check_change,
    check_revision,
    claims_in_a_row,
    ending,
    fence,
    next_token,
    prune_limit,
    refuse_known,
    repeated,
    void_token,
)


class MemoryStore:
    """A `Store` whose rows live as long as the object does."""

    blocking = False
    """Calls never wait, so an async driver may make them inline."""

    def __init__(self, clock: Clock | None = None) -> None:
        """Make an empty store; instants and spans are read from `clock`."""
        self._clock = clock or MachineClock()
        self._lock = Lock()
        self._conversations: dict[str, Conversation] = {}
        self._runs: dict[str, Run] = {}
        self._open: dict[str, dict[str, Run]] = {}  # by driver: not yet ended
        self._jobs: dict[str, tuple[JobRow, Run]] = {}

    def __repr__(self) -> str:
        held = len(self._conversations), len(self._runs)
        return "<MemoryStore of {} conversations and {} runs>".format(*held)

    # ------------------------------------------------------------ conversations

    def create_conversation(self, new: NewConversationRow) -> ConversationRow:
        """See `Store.create_conversation`."""
        with self._lock:
            refuse_known("conversation", self._conversations, [new.id])
            now = self._now()
            row = ConversationRow(
                id=new.id,
                company_id=new.company_id,
                user_id=new.user_id,
                body=new.body,
                version=0,
                created_at=now,
                updated_at=now,
            )
            self._conversations[new.id] = Conversation(row)
            return row

    def get_conversation(
        self, reader: Reader, conversation_id: str
    ) -> ConversationRow | None:
        """See `Store.get_conversation`."""
        with self._lock:
            found = self._seen(reader, conversation_id)
            return found.row if found else None

    def list_conversations(
        self, reader: Reader, offset: int, limit: int
    ) -> tuple[tuple[ConversationRow, ...], int]:
        """See `Store.list_conversations`."""
        with self._lock:
            newest = reversed(self._conversations.values())
            seen = [each.row for each in newest if _may(reader, each.row)]
        seen.sort(key=lambda row: row.created_at, reverse=True)
        return tuple(seen[offset : offset + limit]), len(seen)

    def delete_conversation(self, reader: Reader, conversation_id: str) -> bool:
        """See `Store.delete_conversation`."""
        with self._lock:
            found = self._seen(reader, conversation_id)
            if found is None:
                return False
            for run in tuple(found.runs.values()):
                self._forget(run)
            del self._conversations[conversation_id]
            return True

    def messages(
        self,
        reader: Reader,
        conversation_id: str,
        since: int = 0,
        until: int | None = None,
    ) -> MessagePage | None:
        """See `Store.messages`."""
        with self._lock:
            found = self._seen(reader, conversation_id)
            if found is None:
                return None
            rows = tuple(found.visible(since, until))
            return MessagePage(version=found.row.version, rows=rows)

    # ------------------------------------------------------------ runs

    def insert_run(self, new: NewRunRow) -> tuple[RunRow, bool]:
        """See `Store.insert_run`."""
        with self._lock:
            conversation = self._conversations.get(new.conversation_id)
            if conversation is None:
                raise LookupError(f"no conversation {new.conversation_id}")
            existing = conversation.runs.get(new.client_op_id)
            if existing is not None:
                return existing.row(), False
            version = conversation.row.version
            if version != new.expected_version:
                raise VersionMovedError(new.expected_version, version)
            refuse_known("run", self._runs, [new.id])
            run = self._runs[new.id] = conversation.add(new, self._now())
            self._open.setdefault(new.driver, {})[new.id] = run
            return run.row(), True

    def find_run(self, conversation_id: str, client_op_id: str) -> RunRow | None:
        """See `Store.find_run`."""
        with self._lock:
            conversation = self._conversations.get(conversation_id)
            found = conversation.runs.get(client_op_id) if conversation else None
            return found.row() if found else None

    def get_run(self, reader: Reader, run_id: str) -> RunRow | None:
        """See `Store.get_run`."""
        with self._lock:
            run = self._seen_run(reader, run_id)
            return run.row() if run else None

    def list_runs(self, reader: Reader, conversation_id: str) -> tuple[RunRow, ...]:
        """See `Store.list_runs`."""
        with self._lock:
            conversation = self._conversations.get(conversation_id)
            runs = conversation.runs.values() if conversation else ()
            rows = [run.row() for run in runs if _may(reader, run.inserted)]
        return tuple(sorted(rows, key=lambda row: row.started_at))

    def request_cancel(self, reader: Reader, run_id: str) -> RunRow | None:
        """See `Store.request_cancel`."""
        with self._lock:
            run = self._seen_run(reader, run_id)
            if run is None:
                return None
            if run.status not in TERMINAL:
                run.cancel_requested = True
            return run.row()

    # ------------------------------------------------------------ driving

    def claim(self, request: ClaimRequest) -> Claim | None:
        """See `Store.claim`."""
        with self._lock:
            now = self._seconds()
            run = self._due(request, now)
            if run is None:
                return None
            if run.deadline is None and request.run_timeout is not None:
                run.deadline = now + request.run_timeout
            run.status = "running"
            committed = run.claimed_revision < run.revision
            run.token = next_token(run.token, committed=committed)
            run.lease_until = now + request.lease_seconds
            run.claimed_revision = run.revision
            return Claim(
                lease=Lease(run.inserted.id, run.token),
                run=run.row(),
                revision=run.revision,
                setup=run.setup,
                header=run.header,
                messages=tuple(body for body, _ in run.messages),
                results=tuple(run.results.items()),
                last_event=run.last_event,
                seconds_left=None if run.deadline is None else run.deadline - now,
                in_a_row=claims_in_a_row(run.token),
            )

    def unclaimed(self, driver: str, limit: int) -> tuple[RunRef, ...]:
        """See `Store.unclaimed`."""
        with self._lock:
            runs = self._open.get(driver, {}).values()
            rows = [run.inserted for run in runs if run.status == "pending"]
        rows.sort(key=lambda row: row.started_at)
        return tuple(RunRef(row.id, row.company_id) for row in rows[: max(limit, 0)])

    def heartbeat(self, lease: Lease, lease_seconds: float) -> bool:
        """See `Store.heartbeat`."""
        with self._lock:
            run = self._held(lease)
            run.lease_until = self._seconds() + lease_seconds
            return run.cancel_requested

    def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        with self._lock:
            run = self._runs.get(lease.run_id)
            if run and run.token == lease.token and run.status not in TERMINAL:
                run.token = void_token(run.token)
                run.lease_until = 0.0

    def checkpoint(
        self, lease: Lease, revision: int, change: Checkpoint, lease_seconds: float
    ) -> bool:
        """See `Store.checkpoint`."""
        with self._lock:
            run = self._held(lease)
            if not repeated(lease, revision, run):
                check_change(lease, change, run)
                self._commit(run, change, self._clock.now())
                run.lease_until = self._seconds() + lease_seconds
            return run.cancel_requested

    def finalize(self, lease: Lease, revision: int, final: Final) -> RunRow:
        """See `Store.finalize`."""
        with self._lock:
            run = self._runs.get(lease.run_id)
            if run and run.token == lease.token and run.status in TERMINAL:
                return run.row()
            run = self._held(lease)
            check_revision(lease, revision, run)
            conversation = self._conversations[run.inserted.conversation_id]
            current = conversation.row.version
            end = ending(final, in_time=current == run.inserted.base_version)
            check_change(lease, end.change, run)
            moment = self._clock.now()
            self._commit(run, end.change, moment)
            now = instant(moment)
            run.header = None  # nobody can claim the run any more
            run.results.clear()
            run.status = end.status
            run.result = end.result
            run.completed_at = now
            del self._open[run.inserted.driver][lease.run_id]
            if end.joins:
                conversation.join(run, now)
            return run.row()

    # ------------------------------------------------------------ looking closer

    def get_job(
        self, reader: Reader, job_id: str
    ) -> tuple[JobRow, tuple[AttemptRow, ...], RunRow] | None:
        """See `Store.get_job`."""
        with self._lock:
            if job_id not in self._jobs:
                return None
            job, run = self._jobs[job_id]
            if not _may(reader, run.inserted):
                return None
            return job, run.attempts_of(job.iteration), run.row()

    def run_messages(self, run_id: str) -> tuple[str, ...]:
        """See `Store.run_messages`."""
        with self._lock:
            run = self._runs.get(run_id)
            return tuple(body for body, _ in run.messages) if run else ()

    def run_setup(self, run_id: str) -> str | None:
        """See `Store.run_setup`."""
        with self._lock:
            run = self._runs.get(run_id)
            return run.setup if run else None

    def list_jobs(self, reader: Reader, run_id: str) -> tuple[JobRow, ...]:
        """See `Store.list_jobs`."""
        with self._lock:
            run = self._seen_run(reader, run_id)
            return tuple(run.jobs[key] for key in sorted(run.jobs)) if run else ()

    def events(
        self, reader: Reader, run_id: str, after: int = 0
    ) -> tuple[EventRow, ...]:
        """See `Store.events`."""
        with self._lock:
            run = self._seen_run(reader, run_id)
            if run is None:
                return ()
            first = bisect_right(run.events, after, key=lambda event: event.id)
            found = run.events[first:]
        return tuple([EventRow(event.id, event.body) for event in found])

    # ------------------------------------------------------------ house-keeping

    def prune(self, before: str) -> int:
        """See `Store.prune`."""
        with self._lock:
            limit = prune_limit(self._clock.now(), before)
            old = [r for r in self._runs.values() if (r.completed_at or limit) < limit]
            for run in old:
                self._forget(run)
            return len(old)

    def ping(self) -> None:
        """See `Store.ping`; memory is always there."""

    # ------------------------------------------------------------ inside the lock

    def _now(self) -> str:
        return instant(self._clock.now())

    def _seconds(self) -> float:
        """What leases go by: they die with the process, so nobody else's clock."""
        return self._clock.monotonic()

    def _seen(self, reader: Reader, conversation_id: str) -> Conversation | None:
        found = self._conversations.get(conversation_id)
        return found if found and _may(reader, found.row) else None

    def _seen_run(self, reader: Reader, run_id: str) -> Run | None:
        found = self._runs.get(run_id)
        return found if found and _may(reader, found.inserted) else None

    def _due(self, request: ClaimRequest, now: float) -> Run | None:
        """The oldest run that is due; of equally old ones the first inserted."""
        runs = self._open.get(request.driver, {})
        if request.run_id is not None:
            run = runs.get(request.run_id)
            return run if run and run.lease_until <= now else None
        due = (run for run in runs.values() if run.lease_until <= now)
        return min(due, key=lambda run: run.inserted.started_at, default=None)

    def _held(self, lease: Lease) -> Run:
        return fence(lease, self._runs.get(lease.run_id))

    def _commit(self, run: Run, change: Checkpoint, now: datetime) -> None:
        """Keep a change, or refuse it before any of it is kept."""
        jobs = change.jobs
        if jobs:
            refuse_known("job", self._jobs, [job.id for job in jobs])
        run.commit(change, now)
        for job in jobs:
            self._jobs[job.id] = (job, run)

    def _forget(self, run: Run) -> None:
        """Drop a run; a segment keeps the messages that joined a conversation."""
        row = run.inserted
        del self._conversations[row.conversation_id].runs[row.client_op_id]
        del self._runs[row.id]
        self._open[row.driver].pop(row.id, None)
        for job in run.jobs.values():
            del self._jobs[job.id]


def _may(reader: Reader, row: ConversationRow | RunRow) -> bool:
    return reader.sees(row.company_id, row.user_id)
