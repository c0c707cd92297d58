"""Reading rows of a SQLite file: the statements, and the values made of them.

Every function takes a connection and only reads. What a reader may not see is left
out by the statement itself. Nothing is written here and no transaction is opened.
"""

import sqlite3
from typing import Any, Final

from agentloop.ports.engine import RunRef
from agentloop.ports.store import (
    AttemptRow,
    ConversationRow,
    EventRow,
    JobRow,
    MessageRow,
    Reader,
    RunRow,
)
from agentloop.stores.sqlite_places import LAST, LAST_ATTEMPT

MAX_INT: Final = 2**63 - 1
"""SQLite's largest integer; no row has a greater number, so bounds stop here."""

_CONVERSATIONS: Final = (
    "SELECT id, company_id, user_id, body, version, created_at, updated_at"
    " FROM conversations"
)
_COUNT: Final = "SELECT count(*) FROM conversations"
_RUNS: Final = (
    "SELECT id, conversation_id, company_id, user_id, client_op_id, driver, status,"
    " base_version, config, payload, tool_choice, iterations, result,"
    " cancel_requested, started_at, completed_at"
    " FROM runs JOIN run_texts ON run_texts.run = runs.n"
)
_MESSAGES: Final = (
    "SELECT segments.run_id, place - (run << 32), first_seq + place - (run << 32),"
    " body, created_at FROM segments CROSS JOIN messages"
    " ON place >= (run << 32) + max(first_seq, ?) - first_seq"
    " AND place <= (run << 32) + min(last_seq, ?) - first_seq"
    " WHERE conversation = (SELECT n FROM conversations WHERE id = ?)"
    " AND last_seq >= ? AND first_seq <= ?"
    " ORDER BY last_seq, place"
)
_STAGED: Final = (
    "SELECT body FROM runs CROSS JOIN messages"
    " ON place >= n << 32 AND place < (n + 1) << 32"
    " WHERE id = ? ORDER BY place"
)
_JOB: Final = (
    "SELECT runs.id, place, (place >> 16) - (n << 16), body FROM jobs"
    " CROSS JOIN runs ON n = place >> 32 WHERE jobs.id = ?"
)
_JOBS: Final = (
    "SELECT jobs.id, (place >> 16) - (n << 16), body FROM runs CROSS JOIN jobs"
    " ON place >= n << 32 AND place < (n + 1) << 32"
    " WHERE runs.id = ? AND"
)
_ATTEMPTS: Final = (
    "SELECT place - ?, body, response FROM attempts"
    " WHERE place >= ? AND place <= ? ORDER BY place"
)
_EVENTS: Final = (
    "SELECT place - (n << 32), body FROM runs CROSS JOIN events"
    " ON place > (n << 32) + ? AND place < (n + 1) << 32"
    " WHERE id = ? AND"
)


def _where(reader: Reader) -> str:
    """What a row must fulfil to be seen; goes with `_scope`."""
    return " company_id = ?" + ("" if reader.user_id is None else " AND user_id = ?")


def _scope(reader: Reader) -> tuple[int, ...]:
    if reader.user_id is None:
        return (reader.company_id,)
    return (reader.company_id, reader.user_id)


# ---------------------------------------------------------------- conversations


def conversation(
    db: sqlite3.Connection, reader: Reader, conversation_id: str
) -> ConversationRow | None:
    """The conversation the reader sees under this id."""
    row = db.execute(
        _CONVERSATIONS + " WHERE id = ? AND" + _where(reader),
        (conversation_id, *_scope(reader)),
    ).fetchone()
    return _conversation(row) if row else None


def conversations(
    db: sqlite3.Connection, reader: Reader, offset: int, limit: int
) -> tuple[tuple[ConversationRow, ...], int]:
    """A slice of what the reader sees, newest first, and the whole number."""
    rows = db.execute(
        _CONVERSATIONS
        + " WHERE"
        + _where(reader)
        + " ORDER BY created_at DESC, n DESC LIMIT ? OFFSET ?",
        (*_scope(reader), min(limit, MAX_INT), min(offset, MAX_INT)),
    )
    count = db.execute(_COUNT + " WHERE" + _where(reader), _scope(reader))
    return tuple(map(_conversation, rows)), count.fetchone()[0]


def _conversation(row: tuple[Any, ...]) -> ConversationRow:
    return ConversationRow(
        id=row[0],
        company_id=row[1],
        user_id=row[2],
        body=row[3],
        version=row[4],
        created_at=row[5],
        updated_at=row[6],
    )


def messages(
    db: sqlite3.Connection, conversation_id: str, since: int, until: int
) -> tuple[MessageRow, ...]:
    """A conversation's messages with `since < sequence_no <= until`."""
    first, last = min(max(since + 1, 0), MAX_INT), min(max(until, 0), MAX_INT)
    rows = db.execute(_MESSAGES, (first, last, conversation_id, first, last))
    return tuple(
        MessageRow(
            run_id=run_id,
            position=position,
            sequence_no=number,
            body=body,
            created_at=created_at,
        )
        for run_id, position, number, body, created_at in rows
    )


# ---------------------------------------------------------------- runs


def run(db: sqlite3.Connection, n: int) -> RunRow:
    """The run with this number, which the caller knows to be there."""
    return _run(db.execute(_RUNS + " WHERE n = ?", (n,)).fetchone())


def seen_run(db: sqlite3.Connection, reader: Reader, run_id: str) -> RunRow | None:
    """The run the reader sees under this id."""
    row = db.execute(
        _RUNS + " WHERE id = ? AND" + _where(reader), (run_id, *_scope(reader))
    ).fetchone()
    return _run(row) if row else None


def keyed_run(
    db: sqlite3.Connection, conversation_id: str, client_op_id: str
) -> RunRow | None:
    """The run with this key."""
    row = db.execute(
        _RUNS + " WHERE conversation_id = ? AND client_op_id = ?",
        (conversation_id, client_op_id),
    ).fetchone()
    return _run(row) if row else None


def runs(
    db: sqlite3.Connection, reader: Reader, conversation_id: str
) -> tuple[RunRow, ...]:
    """The conversation's runs that the reader sees, oldest first."""
    rows = db.execute(
        _RUNS
        + " WHERE conversation_id = ? AND"
        + _where(reader)
        + " ORDER BY started_at, n",
        (conversation_id, *_scope(reader)),
    )
    return tuple(map(_run, rows))


def unclaimed(db: sqlite3.Connection, driver: str, limit: int) -> tuple[RunRef, ...]:
    """A driver's runs that nobody has claimed yet, the oldest first."""
    found = db.execute(
        "SELECT id, company_id FROM runs"
        " WHERE driver = ? AND completed_at IS NULL AND status = 'pending'"
        " ORDER BY started_at, n LIMIT ?",
        (driver, max(limit, 0)),
    )
    return tuple(RunRef(*row) for row in found)


def _run(row: tuple[Any, ...]) -> RunRow:
    return RunRow(
        id=row[0],
        conversation_id=row[1],
        company_id=row[2],
        user_id=row[3],
        client_op_id=row[4],
        driver=row[5],
        status=row[6],
        base_version=row[7],
        config=row[8],
        payload=row[9],
        tool_choice=row[10],
        iterations=row[11],
        result=row[12],
        cancel_requested=bool(row[13]),
        started_at=row[14],
        completed_at=row[15],
    )


def setup(db: sqlite3.Connection, run_id: str) -> str | None:
    """The setup a run stored."""
    row = db.execute(
        "SELECT body FROM setups WHERE run = (SELECT n FROM runs WHERE id = ?)",
        (run_id,),
    ).fetchone()
    return str(row[0]) if row else None


def staged(db: sqlite3.Connection, run_id: str) -> tuple[str, ...]:
    """The messages a run staged, in order."""
    rows = db.execute(_STAGED, (run_id,))
    return tuple(body for (body,) in rows)


def results(db: sqlite3.Connection, run_id: str) -> tuple[tuple[str, str], ...]:
    """The results of a run's unfinished turn, in the order they came."""
    rows = db.execute(
        "SELECT key, body FROM results"
        " WHERE run = (SELECT n FROM runs WHERE id = ?) ORDER BY rowid",
        (run_id,),
    )
    return tuple((key, body) for key, body in rows)


# ---------------------------------------------------------------- looking closer


def job(
    db: sqlite3.Connection, reader: Reader, job_id: str
) -> tuple[JobRow, tuple[AttemptRow, ...], RunRow] | None:
    """A job with its attempts and its run, if the reader sees the run."""
    row = db.execute(_JOB, (job_id,)).fetchone()
    owner = seen_run(db, reader, row[0]) if row else None
    if owner is None:
        return None
    run_id, place, iteration, body = row
    found = JobRow(id=job_id, run_id=run_id, iteration=iteration, body=body)
    tries = db.execute(_ATTEMPTS, (place, place, place + LAST_ATTEMPT))
    attempts = tuple(
        AttemptRow(
            run_id=run_id,
            iteration=iteration,
            number=number,
            body=body,
            response=response,
        )
        for number, body, response in tries
    )
    return found, attempts, owner


def jobs(db: sqlite3.Connection, reader: Reader, run_id: str) -> tuple[JobRow, ...]:
    """The run's jobs by iteration, if the reader sees the run."""
    rows = db.execute(
        _JOBS + _where(reader) + " ORDER BY place", (run_id, *_scope(reader))
    )
    return tuple(
        JobRow(id=job_id, run_id=run_id, iteration=iteration, body=body)
        for job_id, iteration, body in rows
    )


def events(
    db: sqlite3.Connection, reader: Reader, run_id: str, after: int
) -> tuple[EventRow, ...]:
    """The run's events with a higher id, if the reader sees the run."""
    rows = db.execute(
        _EVENTS + _where(reader) + " ORDER BY place",
        (min(max(after, 0), LAST), run_id, *_scope(reader)),
    )
    return tuple(EventRow(number, body) for number, body in rows)
