"""Driving a run in a SQLite file: claim, checkpoint, finalize and the lease.

Every function runs inside a write transaction that its caller opened and commits,
so it may read, decide and write as if it were alone. Nothing here knows a clock or
a thread.

A checkpoint is the hot path. It rewrites the run's one slim row and adds rows; no
row with a message, response or event is ever rewritten. Nearly always a run stands
as its driver believes, so the statement that rewrites the row asks for just that
standing. Where it finds another one, the run is read and the rules decide.
"""

import sqlite3
from datetime import datetime
from typing import Final as Constant

from attrs import define, field

from agentloop.core.run import TERMINAL
from agentloop.core.values import value
from agentloop.ports.store import (
    Checkpoint,
    Claim,
    ClaimRequest,
    Final,
    Lease,
    RunRow,
)
from agentloop.stores import sqlite_rows as rows
from agentloop.stores.clock import instant
from agentloop.stores.rules import (
    NEXT_TOKEN,
    VOID_TOKEN,
    Ending,
    StoredStanding,
    check_change,
    check_revision,
    check_rows,
    claims_in_a_row,
    ending,
    fence,
    repeated,
)
from agentloop.stores.sqlite_places import attempt_place, job_place, place

_STANDING: Constant = (
    "SELECT n, open_results, cancel_requested,"
    " status, token, revision, claimed_revision, staged, last_event"
    " FROM runs WHERE id = ?"
)
_ADVANCE: Constant = (
    "UPDATE runs SET revision = revision + 1, header = ?, iterations = ?, staged = ?,"
    " open_results = ?, last_event = ?, lease_until = ? WHERE n = ?"
)
_ADVANCE_AS_BELIEVED: Constant = (
    "UPDATE runs SET revision = revision + 1, header = ?, iterations = ?,"
    " staged = staged + ?, open_results = open_results + ?, last_event = ?,"
    " lease_until = ?"
    " WHERE n = ? AND id = ? AND token = ? AND revision = ? AND completed_at IS NULL"
    " AND NOT cancel_requested AND staged = ? AND NOT (? AND open_results)"
    " AND last_event < ?"
)
_MESSAGE: Constant = "INSERT INTO messages (place, created_at, body) VALUES (?, ?, ?)"
_JOB: Constant = "INSERT INTO jobs (place, id, body) VALUES (?, ?, ?)"
_ATTEMPT: Constant = "INSERT INTO attempts (place, body, response) VALUES (?, ?, ?)"
_EVENT: Constant = "INSERT INTO events (place, body) VALUES (?, ?)"
_DUE: Constant = (
    "SELECT n, deadline FROM runs"
    " WHERE driver = ? AND completed_at IS NULL AND lease_until <= ?"
)


@value
class _Held:
    """A run whose newest lease the caller holds."""

    n: int
    open_results: int
    cancel_requested: bool
    standing: StoredStanding


def _find(db: sqlite3.Connection, lease: Lease) -> _Held | None:
    row = db.execute(_STANDING, (lease.run_id,)).fetchone()
    return (
        _Held(row[0], row[1], bool(row[2]), StoredStanding(*row[3:])) if row else None
    )


def _held(db: sqlite3.Connection, lease: Lease) -> _Held:
    found = _find(db, lease)
    fence(lease, found.standing if found else None)
    if found is None:
        raise AssertionError("unreachable: the fence refuses a run that is gone")
    return found


# ---------------------------------------------------------------- the lease


def claim(
    db: sqlite3.Connection, request: ClaimRequest, now: float, judged: float
) -> Claim | None:
    """Take the lease of a run that is due by an instant near to now."""
    due = _due(db, request, judged)
    if due is None:
        return None
    n, deadline = due
    left = request.run_timeout if deadline is None else deadline - judged
    deadline = None if left is None else now + left
    db.execute(
        f"UPDATE runs SET token = {NEXT_TOKEN},"  # noqa: S608 - a term of our own
        " status = 'running', lease_until = ?, deadline = ?,"
        " claimed_revision = revision WHERE n = ?",
        (now + request.lease_seconds, deadline, n),
    )
    return _claimed(db, n, left)


def _due(
    db: sqlite3.Connection, request: ClaimRequest, seconds: float
) -> tuple[int, float | None] | None:
    found: tuple[int, float | None] | None
    if request.run_id is None:
        found = db.execute(
            _DUE + " ORDER BY started_at, n LIMIT 1", (request.driver, seconds)
        ).fetchone()
    else:
        found = db.execute(
            _DUE + " AND id = ?", (request.driver, seconds, request.run_id)
        ).fetchone()
    return found


def _claimed(db: sqlite3.Connection, n: int, seconds_left: float | None) -> Claim:
    """Everything that was committed to a run which was just claimed."""
    run = rows.run(db, n)
    token, revision, header, last_event = db.execute(
        "SELECT token, revision, header, last_event FROM runs WHERE n = ?", (n,)
    ).fetchone()
    return Claim(
        lease=Lease(run.id, token),
        run=run,
        revision=revision,
        setup=rows.setup(db, run.id),
        header=header,
        messages=rows.staged(db, run.id),
        results=rows.results(db, run.id),
        last_event=last_event,
        seconds_left=seconds_left,
        in_a_row=claims_in_a_row(token),
    )


def heartbeat(db: sqlite3.Connection, lease: Lease, until: float) -> bool:
    """Prolong a lease; returns whether cancel was requested."""
    held = _held(db, lease)
    db.execute("UPDATE runs SET lease_until = ? WHERE n = ?", (until, held.n))
    return held.cancel_requested


def release(db: sqlite3.Connection, lease: Lease) -> None:
    """Give a lease back; its token is void from now on."""
    db.execute(
        f"UPDATE runs SET token = {VOID_TOKEN}, lease_until = 0"  # noqa: S608 - a term of our own
        " WHERE id = ? AND token = ? AND completed_at IS NULL",
        (lease.run_id, lease.token),
    )


# ---------------------------------------------------------------- commits


@value
class Commit:
    """A change that follows a revision, when it is made, and how long it leases."""

    lease: Lease
    revision: int
    change: Checkpoint
    now: datetime
    lease_until: float


_KNOWN: Constant = 1024
"""How many runs' numbers are remembered."""


@define
class Numbers:
    """The numbers of runs that were driven lately; a forgotten one is looked up."""

    _known: dict[str, int] = field(factory=dict)

    def of(self, run_id: str) -> int | None:
        """The number of a run, None when it is not remembered."""
        return self._known.get(run_id)

    def remember(self, run_id: str, n: int) -> None:
        """Remember a number, and forget the one that was remembered longest ago."""
        self._known[run_id] = n
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]


def checkpoint(db: sqlite3.Connection, commit: Commit, numbers: Numbers) -> bool:
    """Add a change to a run; returns whether cancel was requested."""
    lease, change = commit.lease, commit.change
    n = numbers.of(lease.run_id)
    if n is not None and _advance_as_believed(db, n, commit):
        check_rows(lease, change, 0)  # what they follow was asked of the run
        _add(db, n, change, commit.now)
        return False
    held = _held(db, lease)
    if not repeated(lease, commit.revision, held.standing):
        check_change(lease, change, held.standing)
        _advance(db, held, change, commit.lease_until)
        _add(db, held.n, change, commit.now)
    numbers.remember(lease.run_id, held.n)
    return held.cancel_requested


def _advance_as_believed(db: sqlite3.Connection, n: int, commit: Commit) -> bool:
    """Rewrite the run's slim row, if the run stands as its driver believes."""
    lease, change = commit.lease, commit.change
    if not change.events:
        return False
    row = (
        change.header,
        change.iterations,
        len(change.messages),
        len(change.results),
        change.events[-1].id,
        commit.lease_until,
        n,
        lease.run_id,
        lease.token,
        commit.revision,
        change.first_message,
        len(change.messages),
        change.events[0].id,
    )
    try:
        return db.execute(_ADVANCE_AS_BELIEVED, row).rowcount == 1
    except (OverflowError, UnicodeEncodeError, sqlite3.DataError):
        return False  # nothing was asked: first see whether the lease is lost


def _advance(
    db: sqlite3.Connection, held: _Held, change: Checkpoint, until: float
) -> None:
    """Rewrite the run's slim row; messages end the turn whose results were kept."""
    open_results = held.open_results
    if open_results and change.messages:
        db.execute("DELETE FROM results WHERE run = ?", (held.n,))
        open_results = 0
    db.execute(
        _ADVANCE,
        (
            change.header,
            change.iterations,
            held.standing.staged + len(change.messages),
            open_results + len(change.results),
            change.events[-1].id if change.events else held.standing.last_event,
            until,
            held.n,
        ),
    )


def _add(db: sqlite3.Connection, n: int, change: Checkpoint, now: datetime) -> None:
    """Insert what a change brings: mostly a row or two of a kind, if any."""
    execute = db.cursor().execute  # one cursor for all, where `db` makes one for each
    if change.setup is not None:
        execute("INSERT INTO setups (run, body) VALUES (?, ?)", (n, change.setup))
    if change.messages:
        staged_at = instant(now)
        first = place(n, change.first_message)
        for at, body in enumerate(change.messages, first):
            execute(_MESSAGE, (at, staged_at, body))
    for key, body in change.results:
        execute("INSERT INTO results (run, key, body) VALUES (?, ?, ?)", (n, key, body))
    for job in change.jobs:
        execute(_JOB, (job_place(n, job.iteration), job.id, job.body))
    for each in change.attempts:
        where = attempt_place(n, each.iteration, each.number)
        execute(_ATTEMPT, (where, each.body, each.response))
    for event in change.events:
        execute(_EVENT, (place(n, event.id), event.body))


# ---------------------------------------------------------------- the end


def finalize(
    db: sqlite3.Connection, lease: Lease, revision: int, final: Final, now: datetime
) -> RunRow:
    """End a run; its messages join the conversation if they may."""
    found = _find(db, lease)
    if found is not None and _ended_by(lease, found.standing):
        return rows.run(db, found.n)
    held = _held(db, lease)
    check_revision(lease, revision, held.standing)
    _finalize(db, lease, held, final, now)
    return rows.run(db, held.n)


def _ended_by(lease: Lease, standing: StoredStanding) -> bool:
    return standing.token == lease.token and standing.status in TERMINAL


def _finalize(
    db: sqlite3.Connection, lease: Lease, held: _Held, final: Final, now: datetime
) -> None:
    conversation, version, base_version = db.execute(
        "SELECT conversations.n, version, base_version FROM runs"
        " JOIN conversations ON conversations.id = conversation_id WHERE runs.n = ?",
        (held.n,),
    ).fetchone()
    end = ending(final, in_time=version == base_version)
    check_change(lease, end.change, held.standing)
    _advance(db, held, end.change, 0.0)
    _add(db, held.n, end.change, now)
    _close(db, held.n, end, instant(now))
    if end.joins:
        count = held.standing.staged + len(end.change.messages)
        place = _Place(conversation, version + 1, version + count)
        _join(db, place, lease.run_id, held.n, instant(now))


@value
class _Place:
    """Where in a conversation a run's messages go."""

    conversation: int
    first: int
    last: int


def _close(db: sqlite3.Connection, n: int, end: Ending, now: str) -> None:
    """Write the terminal fields; nobody can claim the run any more."""
    db.execute(
        "UPDATE runs SET status = ?, result = ?, joined = ?, completed_at = ?,"
        " header = NULL, open_results = 0 WHERE n = ?",
        (end.status, end.result, end.joins, now, n),
    )
    db.execute("DELETE FROM results WHERE run = ?", (n,))


def _join(db: sqlite3.Connection, place: _Place, run_id: str, n: int, now: str) -> None:
    """One row that says which messages are the run's, however many they are."""
    db.execute(
        "UPDATE conversations SET version = ?, updated_at = ? WHERE n = ?",
        (place.last, now, place.conversation),
    )
    if place.last >= place.first:
        db.execute(
            "INSERT INTO segments (conversation, last_seq, first_seq, run, run_id)"
            " VALUES (?, ?, ?, ?, ?)",
            (place.conversation, place.last, place.first, n, run_id),
        )
