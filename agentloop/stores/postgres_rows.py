"""Rows of the Postgres store as the port's values: every statement that reads.

Each function is one statement, so that what it returns is of one moment without a
transaction around it. A reader's scope is part of the statement: what it may not
see is not found.
"""

from datetime import datetime
from typing import Any, Final

from agentloop.ports.engine import RunRef
from agentloop.ports.store import (
    AttemptRow,
    ConversationRow,
    EventRow,
    JobRow,
    MessagePage,
    MessageRow,
    Reader,
    RunRow,
)
from agentloop.stores.clock import instant
from agentloop.stores.postgres_pool import Session

MAX_INT: Final = 2**63 - 1
"""The largest BIGINT; no row has a greater number, so bounds stop here."""

_CONVERSATION: Final = (
    "SELECT id, company_id, user_id, body, version, created_at, updated_at"
    " FROM @.conversations WHERE id = %(id)s"
    " AND company_id = %(company)s AND user_id = coalesce(%(user)s, user_id)"
)
_CONVERSATIONS: Final = (
    "SELECT p.id, p.company_id, p.user_id, p.body, p.version, p.created_at,"
    " p.updated_at, whole.number"
    " FROM (SELECT count(*) AS number FROM @.conversations"
    " WHERE company_id = %(company)s AND user_id = coalesce(%(user)s, user_id)) whole"
    " LEFT JOIN LATERAL (SELECT * FROM @.conversations"
    " WHERE company_id = %(company)s AND user_id = coalesce(%(user)s, user_id)"
    " ORDER BY created_at DESC, n DESC LIMIT %(limit)s OFFSET %(offset)s) p ON TRUE"
    " ORDER BY p.created_at DESC, p.n DESC"
)
_RUNS: Final = (
    "SELECT {more} r.id, c.id, r.company_id, r.user_id, r.client_op_id, r.driver,"
    " r.status, r.base_version, t.config, t.payload, r.tool_choice, r.iterations,"
    " r.result, r.cancel_requested, r.started_at, r.completed_at"
    " FROM @.runs r JOIN @.conversations c ON c.n = r.conversation"
    " JOIN @.run_texts t ON t.run = r.n"
)
_RUN: Final = _RUNS.format(more="")
_R_SEEN: Final = (
    " AND r.company_id = %(company)s AND r.user_id = coalesce(%(user)s, r.user_id)"
)
_PAGE: Final = (
    "SELECT c.version, s.run_id, m.position, s.first_seq + m.position, m.body,"
    " m.created_at FROM @.conversations c"
    " LEFT JOIN @.segments s ON s.conversation = c.n"
    " AND s.last_seq > %(low)s AND s.first_seq <= %(high)s"
    " LEFT JOIN @.messages m ON m.run = s.run"
    " AND m.position > %(low)s - s.first_seq AND m.position <= %(high)s - s.first_seq"
    " WHERE c.id = %(id)s"
    " AND c.company_id = %(company)s AND c.user_id = coalesce(%(user)s, c.user_id)"
    " ORDER BY s.last_seq, m.position"
)
_ATTEMPTS: Final = (
    " ARRAY(SELECT number {of}), ARRAY(SELECT body {of}), ARRAY(SELECT response {of}),"
).format(
    of="FROM @.attempts a WHERE a.run = j.run AND a.iteration = j.iteration"
    " ORDER BY number"
)
_JOB: Final = (
    _RUNS.format(more="j.iteration, j.body," + _ATTEMPTS)
    + " JOIN @.jobs j ON j.run = r.n WHERE j.id = %(id)s"
    + _R_SEEN
)
_JOBS: Final = (
    "SELECT j.id, j.iteration, j.body FROM @.jobs j JOIN @.runs r ON r.n = j.run"
    " WHERE r.id = %(id)s"
    " AND r.company_id = %(company)s AND r.user_id = coalesce(%(user)s, r.user_id)"
    " ORDER BY j.iteration"
)
_EVENTS: Final = (
    "SELECT e.id, e.body FROM @.events e JOIN @.runs r ON r.n = e.run"
    " WHERE r.id = %(id)s AND e.id > %(after)s"
    " AND r.company_id = %(company)s AND r.user_id = coalesce(%(user)s, r.user_id)"
    " ORDER BY e.id"
)


def _of(reader: Reader) -> dict[str, object]:
    """The values that a statement's scope needs."""
    return {"company": reader.company_id, "user": reader.user_id}


def bounded(number: int) -> int:
    """A bound as a BIGINT that is not negative."""
    return min(max(number, 0), MAX_INT)


# ---------------------------------------------------------------- conversations


def conversation(
    db: Session, reader: Reader, conversation_id: str
) -> ConversationRow | None:
    """The conversation the reader sees under this id."""
    row = db.one(
        _CONVERSATION,
        id=conversation_id,
        **_of(reader),
    )
    return _conversation(row) if row else None


def conversations(
    db: Session, reader: Reader, offset: int, limit: int
) -> tuple[tuple[ConversationRow, ...], int]:
    """A slice of what the reader sees, newest first, and the whole number."""
    rows = db.all(
        _CONVERSATIONS,
        limit=bounded(limit),
        offset=bounded(offset),
        **_of(reader),
    )
    shown = tuple(_conversation(row) for row in rows if row[0] is not None)
    return shown, rows[0][7]


def _conversation(row: tuple[Any, ...]) -> ConversationRow:
    return ConversationRow(
        id=row[0],
        company_id=row[1],
        user_id=row[2],
        body=row[3],
        version=row[4],
        created_at=instant(row[5]),
        updated_at=instant(row[6]),
    )


def page(
    db: Session, reader: Reader, conversation_id: str, bounds: tuple[int, int]
) -> MessagePage | None:
    """A conversation's messages after the first bound and up to the second."""
    rows = db.all(
        _PAGE,
        id=conversation_id,
        low=bounded(bounds[0]),
        high=bounded(bounds[1]),
        **_of(reader),
    )
    if not rows:
        return None
    shown = tuple(_message(row) for row in rows if row[2] is not None)
    return MessagePage(version=rows[0][0], rows=shown)


def _message(row: tuple[Any, ...]) -> MessageRow:
    return MessageRow(
        run_id=row[1],
        position=row[2],
        sequence_no=row[3],
        body=row[4],
        created_at=instant(row[5]),
    )


# ---------------------------------------------------------------- runs


def run(db: Session, n: int) -> RunRow:
    """The run with this number, which the caller knows to be there."""
    row = db.one(_RUN + " WHERE r.n = %(n)s", n=n)
    if row is None:
        raise AssertionError(f"unreachable: run number {n} is locked")
    return _run_row(row)


def seen_run(db: Session, reader: Reader, run_id: str) -> RunRow | None:
    """The run the reader sees under this id."""
    row = db.one(_RUN + " WHERE r.id = %(id)s" + _R_SEEN, id=run_id, **_of(reader))
    return _run_row(row) if row else None


def keyed_run(db: Session, conversation_id: str, client_op_id: str) -> RunRow | None:
    """The run with this key."""
    row = db.one(
        _RUN + " WHERE c.id = %(id)s AND r.client_op_id = %(key)s",
        id=conversation_id,
        key=client_op_id,
    )
    return _run_row(row) if row else None


def runs(db: Session, reader: Reader, conversation_id: str) -> tuple[RunRow, ...]:
    """The conversation's runs that the reader sees, oldest first."""
    rows = db.all(
        _RUN + " WHERE c.id = %(id)s" + _R_SEEN + " ORDER BY r.started_at, r.n",
        id=conversation_id,
        **_of(reader),
    )
    return tuple(map(_run_row, rows))


def unclaimed(db: Session, driver: str, limit: int) -> tuple[RunRef, ...]:
    """A driver's runs that nobody has claimed yet, the oldest first."""
    found = db.all(
        "SELECT id, company_id FROM @.runs"
        " WHERE driver = %(driver)s AND completed_at IS NULL AND status = 'pending'"
        " ORDER BY started_at, n LIMIT %(limit)s",
        driver=driver,
        limit=max(limit, 0),
    )
    return tuple(RunRef(*row) for row in found)


def _run_row(row: tuple[Any, ...]) -> RunRow:
    """The run row of the columns of `_RUN`."""
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
        cancel_requested=row[13],
        started_at=instant(row[14]),
        completed_at=_optional(row[15]),
    )


def _optional(moment: datetime | None) -> str | None:
    return None if moment is None else instant(moment)


def setup(db: Session, run_id: str) -> str | None:
    """The setup a run stored."""
    body: str | None = db.value(
        "SELECT s.body FROM @.setups s JOIN @.runs r ON r.n = s.run"
        " WHERE r.id = %(id)s",
        id=run_id,
    )
    return body


def staged(db: Session, run_id: str) -> tuple[str, ...]:
    """The messages a run staged, in order."""
    rows = db.all(
        "SELECT m.body FROM @.messages m JOIN @.runs r ON r.n = m.run"
        " WHERE r.id = %(id)s ORDER BY m.position",
        id=run_id,
    )
    return tuple(body for (body,) in rows)


def results(db: Session, run_id: str) -> tuple[tuple[str, str], ...]:
    """The results of a run's unfinished turn, in the order they came."""
    rows = db.all(
        "SELECT x.key, x.body FROM @.results x JOIN @.runs r ON r.n = x.run"
        " WHERE r.id = %(id)s ORDER BY x.n",
        id=run_id,
    )
    return tuple((key, body) for key, body in rows)


# ---------------------------------------------------------------- looking closer


def job(
    db: Session, reader: Reader, job_id: str
) -> tuple[JobRow, tuple[AttemptRow, ...], RunRow] | None:
    """A job with its attempts and its run, if the reader sees the run."""
    row = db.one(
        _JOB,
        id=job_id,
        **_of(reader),
    )
    if row is None:
        return None
    iteration, body, numbers, bodies, responses = row[:5]
    owner = _run_row(row[5:])
    attempts = tuple(
        AttemptRow(
            run_id=owner.id,
            iteration=iteration,
            number=number,
            body=text,
            response=response,
        )
        for number, text, response in zip(numbers, bodies, responses, strict=True)
    )
    found = JobRow(id=job_id, run_id=owner.id, iteration=iteration, body=body)
    return found, attempts, owner


def jobs(db: Session, reader: Reader, run_id: str) -> tuple[JobRow, ...]:
    """The run's jobs by iteration, if the reader sees the run."""
    rows = db.all(
        _JOBS,
        id=run_id,
        **_of(reader),
    )
    return tuple(
        JobRow(id=job_id, run_id=run_id, iteration=iteration, body=body)
        for job_id, iteration, body in rows
    )


def events(
    db: Session, reader: Reader, run_id: str, after: int
) -> tuple[EventRow, ...]:
    """The run's events with a higher id, if the reader sees the run."""
    rows = db.all(
        _EVENTS,
        id=run_id,
        after=min(after, MAX_INT),
        **_of(reader),
    )
    return tuple(EventRow(number, body) for number, body in rows)
