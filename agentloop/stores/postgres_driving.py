"""Driving a run in Postgres: claim, checkpoint, finalize and the lease.

Every function runs inside a transaction that its caller opened and commits. It
locks the one row it decides about (`FOR UPDATE`) before it reads what it decides
by; READ COMMITTED then shows the newest version of that row, and nobody changes it
until the commit. Conversations are locked before runs, so that nobody waits in a
circle.
"""

from datetime import datetime
from typing import Final as Constant

from attrs import frozen

from agentloop.core.run import TERMINAL
from agentloop.ports.store import (
    Checkpoint,
    Claim,
    ClaimRequest,
    Final,
    Lease,
    LeaseLostError,
    RunRow,
)
from agentloop.stores import postgres_rows as rows
from agentloop.stores.postgres_pool import Session
from agentloop.stores.rules import (
    NEXT_TOKEN,
    VOID_TOKEN,
    Ending,
    StoredStanding,
    check_change,
    check_revision,
    claims_in_a_row,
    ending,
    fence,
    repeated,
)

_STANDING: Constant = (
    "SELECT n, conversation, base_version, open_results, cancel_requested,"
    " status, token, revision, claimed_revision, staged, last_event"
    " FROM @.runs WHERE id = %(id)s"
)
_DUE: Constant = (
    "SELECT n FROM @.runs WHERE driver = %(driver)s AND completed_at IS NULL"
    " AND lease_until <= (SELECT @now)"
)
_OLDEST: Constant = _DUE + " ORDER BY started_at, n LIMIT 1 FOR UPDATE SKIP LOCKED"
_NAMED: Constant = _DUE + " AND id = %(id)s FOR UPDATE"
# Materialized, for a sub-select in FROM is worked out once for every run whenever
# the planner takes the table to be tiny; each time it locks, and yields, another.
_CLAIM: Constant = (
    "WITH due AS MATERIALIZED ({due})"  # noqa: S608 - terms of our own
    f" UPDATE @.runs SET status = 'running', token = {NEXT_TOKEN},"
    " claimed_revision = revision,"
    " lease_until = @now + make_interval(secs => %(lease)s::float8),"
    " deadline ="
    " coalesce(deadline, @now + make_interval(secs => %(timeout)s::float8))"
    " FROM due WHERE runs.n = due.n"
    " RETURNING runs.n, token, revision, header, last_event,"
    " extract(epoch FROM deadline - @now)::float8"
)
_ADVANCE: Constant = (
    "UPDATE @.runs SET revision = revision + 1, header = %(header)s,"
    " iterations = %(iterations)s, staged = staged + %(messages)s,"
    " open_results = %(open_results)s, last_event = %(last_event)s,"
    " lease_until = @now + make_interval(secs => %(lease)s::float8)"
    " WHERE n = %(n)s"
)


@frozen
class _Held:
    """A run whose newest lease the caller holds, its row locked."""

    n: int
    conversation: int
    base_version: int
    open_results: int
    cancel_requested: bool
    standing: StoredStanding


def _find(db: Session, lease: Lease) -> _Held | None:
    row = db.one(_STANDING + " FOR UPDATE", id=lease.run_id)
    if row is None:
        return None
    return _Held(row[0], row[1], row[2], row[3], row[4], StoredStanding(*row[5:]))


def _fenced(lease: Lease, found: _Held | None) -> _Held:
    fence(lease, found.standing if found else None)
    if found is None:
        raise AssertionError("unreachable: the fence refuses a run that is gone")
    return found


# ---------------------------------------------------------------- the lease


def claim(db: Session, request: ClaimRequest) -> Claim | None:
    """Take the lease of a due run."""
    due = _OLDEST if request.run_id is None else _NAMED
    row = db.one(
        _CLAIM.format(due=due),
        driver=request.driver,
        lease=request.lease_seconds,
        timeout=request.run_timeout,
        **({} if request.run_id is None else {"id": request.run_id}),
    )
    if row is None:
        return None
    n, token, revision, header, last_event, seconds_left = row
    run = rows.run(db, n)
    begun = revision > 0  # else nothing can be there
    return Claim(
        lease=Lease(run.id, token),
        run=run,
        revision=revision,
        setup=rows.setup(db, run.id) if begun else None,
        header=header,
        messages=rows.staged(db, run.id) if begun else (),
        results=rows.results(db, run.id) if begun else (),
        last_event=last_event,
        seconds_left=seconds_left,
        in_a_row=claims_in_a_row(token),
    )


def heartbeat(db: Session, lease: Lease, seconds: float) -> bool:
    """Prolong a lease; returns whether cancel was requested."""
    row = db.one(
        "UPDATE @.runs"
        " SET lease_until = @now + make_interval(secs => %(lease)s::float8)"
        " WHERE id = %(id)s AND token = %(token)s AND completed_at IS NULL"
        " RETURNING cancel_requested",
        id=lease.run_id,
        token=lease.token,
        lease=seconds,
    )
    if row is not None:
        return bool(row[0])
    _fenced(lease, _find(db, lease))
    raise LeaseLostError(f"run {lease.run_id} was lost while it was looked for")


def release(db: Session, lease: Lease) -> None:
    """Give a lease back; its token is void from now on."""
    db.run(
        f"UPDATE @.runs SET token = {VOID_TOKEN}, lease_until = '-infinity'"  # noqa: S608 - a term of our own
        " WHERE id = %(id)s AND token = %(token)s AND completed_at IS NULL",
        id=lease.run_id,
        token=lease.token,
    )


# ---------------------------------------------------------------- commits


@frozen
class Commit:
    """A change that follows a revision, and how long its lease then lasts."""

    revision: int
    change: Checkpoint
    lease_seconds: float


def checkpoint(db: Session, lease: Lease, commit: Commit) -> bool:
    """Add a change to a run; returns whether cancel was requested."""
    held = _fenced(lease, _find(db, lease))
    if not repeated(lease, commit.revision, held.standing):
        check_change(lease, commit.change, held.standing)
        _advance(db, held, commit.change, commit.lease_seconds)
        _add(db, held, commit.change)
    return held.cancel_requested


def _advance(db: Session, held: _Held, change: Checkpoint, seconds: float) -> None:
    """Rewrite the run's slim row; messages end the turn whose results were kept."""
    open_results = held.open_results
    if open_results and change.messages:
        db.run("DELETE FROM @.results WHERE run = %(n)s", n=held.n)
        open_results = 0
    last = change.events[-1].id if change.events else held.standing.last_event
    db.run(
        _ADVANCE,
        header=change.header,
        iterations=change.iterations,
        messages=len(change.messages),
        open_results=open_results + len(change.results),
        last_event=last,
        lease=seconds,
        n=held.n,
    )


def _add(db: Session, held: _Held, change: Checkpoint) -> None:
    """Insert what a change brings; each kind that is there is one statement."""
    n = held.n
    if change.setup is not None:
        db.run(
            "INSERT INTO @.setups (run, body) VALUES (%(n)s, %(body)s)",
            n=n,
            body=change.setup,
        )
    if change.messages:
        db.run(
            "INSERT INTO @.messages (run, position, created_at, body)"
            " SELECT %(n)s, %(first)s + place - 1, (SELECT @now), body"
            " FROM unnest(%(bodies)s::text[]) WITH ORDINALITY AS new (body, place)",
            n=n,
            first=held.standing.staged,
            bodies=list(change.messages),
        )
    if change.results:
        db.run(
            "INSERT INTO @.results (run, key, body) SELECT %(n)s, key, body"
            " FROM unnest(%(keys)s::text[], %(bodies)s::text[]) WITH ORDINALITY"
            " AS new (key, body, place) ORDER BY place",
            n=n,
            keys=[key for key, _ in change.results],
            bodies=[body for _, body in change.results],
        )
    _add_records(db, n, change)


def _add_records(db: Session, n: int, change: Checkpoint) -> None:
    """Insert the jobs, attempts and events of a change."""
    if change.jobs:
        db.run(
            "INSERT INTO @.jobs (run, iteration, id, body) SELECT %(n)s, * FROM"
            " unnest(%(iterations)s::bigint[], %(ids)s::text[], %(bodies)s::text[])",
            n=n,
            iterations=[job.iteration for job in change.jobs],
            ids=[job.id for job in change.jobs],
            bodies=[job.body for job in change.jobs],
        )
    if change.attempts:
        db.run(
            "INSERT INTO @.attempts (run, iteration, number, body, response)"
            " SELECT %(n)s, * FROM unnest(%(iterations)s::bigint[],"
            " %(numbers)s::bigint[], %(bodies)s::text[], %(responses)s::text[])",
            n=n,
            iterations=[attempt.iteration for attempt in change.attempts],
            numbers=[attempt.number for attempt in change.attempts],
            bodies=[attempt.body for attempt in change.attempts],
            responses=[attempt.response for attempt in change.attempts],
        )
    if change.events:
        db.run(
            "INSERT INTO @.events (run, id, body)"
            " SELECT %(n)s, * FROM unnest(%(ids)s::bigint[], %(bodies)s::text[])",
            n=n,
            ids=[event.id for event in change.events],
            bodies=[event.body for event in change.events],
        )


# ---------------------------------------------------------------- the end


def finalize(db: Session, lease: Lease, revision: int, final: Final) -> RunRow:
    """End a run; its messages join the conversation if they may."""
    version = _lock_conversation(db, lease)
    found = _find(db, lease)
    if found is not None and _ended_by(lease, found.standing):
        return rows.run(db, found.n)
    held = _fenced(lease, found)
    check_revision(lease, revision, held.standing)
    end = ending(final, in_time=version == held.base_version)
    check_change(lease, end.change, held.standing)
    _advance(db, held, end.change, 0.0)
    _add(db, held, end.change)
    now = _close(db, held.n, end)
    if end.joins:
        count = held.standing.staged + len(end.change.messages)
        _join(db, held, lease, _Place(held.base_version, count, now))
    return rows.run(db, held.n)


def _lock_conversation(db: Session, lease: Lease) -> int | None:
    """The version of the run's conversation, which stays so until the commit."""
    version: int | None = db.value(
        "SELECT version FROM @.conversations WHERE n ="
        " (SELECT conversation FROM @.runs WHERE id = %(id)s) FOR UPDATE",
        id=lease.run_id,
    )
    return version


def _ended_by(lease: Lease, standing: StoredStanding) -> bool:
    return standing.token == lease.token and standing.status in TERMINAL


def _close(db: Session, n: int, end: Ending) -> datetime:
    """Write the terminal fields; nobody can claim the run any more."""
    now: datetime = db.value(
        "UPDATE @.runs SET status = %(status)s, result = %(result)s,"
        " joined = %(joined)s, completed_at = @now, header = NULL, open_results = 0"
        " WHERE n = %(n)s RETURNING completed_at",
        status=end.status,
        result=end.result,
        joined=end.joins,
        n=n,
    )
    db.run("DELETE FROM @.results WHERE run = %(n)s", n=n)
    return now


@frozen
class _Place:
    """Where in a conversation a run's messages go, and since when."""

    after: int
    count: int
    now: datetime


def _join(db: Session, held: _Held, lease: Lease, place: _Place) -> None:
    """One row that says which messages are the run's, however many they are."""
    db.run(
        "UPDATE @.conversations SET version = %(version)s, updated_at = %(now)s"
        " WHERE n = %(n)s",
        version=place.after + place.count,
        now=place.now,
        n=held.conversation,
    )
    if place.count:
        db.run(
            "INSERT INTO @.segments (conversation, last_seq, first_seq, run, run_id)"
            " VALUES (%(conversation)s, %(last)s, %(first)s, %(run)s, %(run_id)s)",
            conversation=held.conversation,
            last=place.after + place.count,
            first=place.after + 1,
            run=held.n,
            run_id=lease.run_id,
        )
