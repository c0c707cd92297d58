"""Driving a run in a SQLite file: claim, checkpoint, finalize and the lease.

Every function runs inside a write transaction that its caller opened and commits,
so it may read, decide and write as if it were alone. Nothing here knows a clock or
a thread.

A checkpoint is the hot path. It reads the run's standing, rewrites its one slim
row, and adds rows; no row with a message, response or event is ever rewritten.
"""

import sqlite3
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
    claims_in_a_row,
    ending,
    fence,
    repeated,
)

_STANDING: Constant = (
    "SELECT n, open_results, cancel_requested,"
    " status, token, revision, claimed_revision, staged, last_event"
    " FROM runs WHERE id = ?"
)
_ADVANCE: Constant = (
    "UPDATE runs SET revision = revision + 1, header = ?, iterations = ?, staged = ?,"
    " open_results = ?, last_event = ?, lease_until = ? WHERE n = ?"
)
_DUE: Constant = (
    "SELECT n, deadline FROM runs"
    " WHERE driver = ? AND completed_at IS NULL AND lease_until <= ?"
)


@frozen
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


@frozen
class Moment:
    """When a commit happens, and until when its lease then lasts."""

    now: datetime
    lease_until: float


def checkpoint(
    db: sqlite3.Connection,
    lease: Lease,
    revision: int,
    change: Checkpoint,
    moment: Moment,
) -> bool:
    """Add a change to a run; returns whether cancel was requested."""
    held = _held(db, lease)
    if not repeated(lease, revision, held.standing):
        check_change(lease, change, held.standing)
        _advance(db, held, change, moment.lease_until)
        _add(db, held, change, moment.now)
    return held.cancel_requested


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


def _add(
    db: sqlite3.Connection, held: _Held, change: Checkpoint, now: datetime
) -> None:
    """Insert what a change brings; each kind that is there is one statement."""
    n = held.n
    if change.setup is not None:
        db.execute("INSERT INTO setups (run, body) VALUES (?, ?)", (n, change.setup))
    if change.messages:
        _add_messages(db, held, change, instant(now))
    if change.results:
        db.executemany(
            "INSERT INTO results (run, key, body) VALUES (?, ?, ?)",
            [(n, key, body) for key, body in change.results],
        )
    if change.jobs:
        db.executemany(
            "INSERT INTO jobs (run, iteration, id, body) VALUES (?, ?, ?, ?)",
            [(n, job.iteration, job.id, job.body) for job in change.jobs],
        )
    if change.attempts:
        db.executemany(
            "INSERT INTO attempts (run, iteration, number, body, response)"
            " VALUES (?, ?, ?, ?, ?)",
            [(n, a.iteration, a.number, a.body, a.response) for a in change.attempts],
        )
    if change.events:
        db.executemany(
            "INSERT INTO events (run, id, body) VALUES (?, ?, ?)",
            [(n, event.id, event.body) for event in change.events],
        )


def _add_messages(
    db: sqlite3.Connection, held: _Held, change: Checkpoint, now: str
) -> None:
    first = held.standing.staged
    db.executemany(
        "INSERT INTO messages (run, position, created_at, body) VALUES (?, ?, ?, ?)",
        [(held.n, first + i, now, body) for i, body in enumerate(change.messages)],
    )


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
    _add(db, held, end.change, now)
    _close(db, held.n, end, instant(now))
    if end.joins:
        count = held.standing.staged + len(end.change.messages)
        place = _Place(conversation, version + 1, version + count)
        _join(db, place, lease.run_id, held.n, instant(now))


@frozen
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
