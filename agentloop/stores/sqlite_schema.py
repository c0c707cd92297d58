"""The tables of the SQLite store, and how older files are brought forward.

A file carries its schema version in a table of one row. `migrate` applies what is
missing, in order and in one transaction, and refuses a file that is newer than
this code. Statements only: no row is read or written here but the version's.

Runs, conversations and what hangs on them are joined by small integers, because
uuids as text would be most of a slim row. The integers are never used again
(AUTOINCREMENT): messages outlive the run that a prune removes. `runs` is rewritten
by every checkpoint and therefore holds nothing long; what is long and written once
(`run_texts`, `setups`, `messages`) lives beside it. Tables of slim rows are kept in
the order of their key (WITHOUT ROWID), which SQLite advises against for long ones.

What a run brings all the time is kept by its place, which see in `sqlite_places`.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from agentloop.stores.versions import SchemaVersionError

_FIRST: Final = (
    """CREATE TABLE conversations (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        company_id INTEGER NOT NULL,
        user_id INTEGER NOT NULL,
        version INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        body TEXT NOT NULL)""",
    "CREATE INDEX conversations_of_user"
    " ON conversations (company_id, user_id, created_at)",
    "CREATE INDEX conversations_of_company ON conversations (company_id, created_at)",
    """CREATE TABLE runs (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        conversation_id TEXT NOT NULL,
        client_op_id TEXT NOT NULL,
        company_id INTEGER NOT NULL,
        user_id INTEGER NOT NULL,
        driver TEXT NOT NULL,
        base_version INTEGER NOT NULL,
        tool_choice TEXT,
        started_at TEXT NOT NULL,
        status TEXT NOT NULL,
        token INTEGER NOT NULL DEFAULT 0,
        lease_until REAL NOT NULL DEFAULT 0,
        deadline REAL,
        revision INTEGER NOT NULL DEFAULT 0,
        claimed_revision INTEGER NOT NULL DEFAULT 0,
        iterations INTEGER NOT NULL DEFAULT 0,
        staged INTEGER NOT NULL DEFAULT 0,
        open_results INTEGER NOT NULL DEFAULT 0,
        last_event INTEGER NOT NULL DEFAULT 0,
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        joined INTEGER NOT NULL DEFAULT 0,
        header TEXT,
        completed_at TEXT,
        result TEXT,
        UNIQUE (conversation_id, client_op_id))""",
    "CREATE INDEX runs_open ON runs (driver, started_at, n) WHERE completed_at IS NULL",
    "CREATE INDEX runs_ended ON runs (completed_at) WHERE completed_at IS NOT NULL",
    """CREATE TABLE run_texts (
        run INTEGER PRIMARY KEY,
        config TEXT NOT NULL,
        payload TEXT NOT NULL)""",
    "CREATE TABLE setups (run INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    """CREATE TABLE messages (
        run INTEGER NOT NULL,
        position INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, position))""",
    """CREATE TABLE segments (
        conversation INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        first_seq INTEGER NOT NULL,
        run INTEGER NOT NULL,
        run_id TEXT NOT NULL,
        PRIMARY KEY (conversation, last_seq)) WITHOUT ROWID""",
    """CREATE TABLE results (
        run INTEGER NOT NULL,
        key TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, key))""",
    """CREATE TABLE jobs (
        run INTEGER NOT NULL,
        iteration INTEGER NOT NULL,
        id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL,
        PRIMARY KEY (run, iteration)) WITHOUT ROWID""",
    """CREATE TABLE attempts (
        run INTEGER NOT NULL,
        iteration INTEGER NOT NULL,
        number INTEGER NOT NULL,
        body TEXT NOT NULL,
        response TEXT,
        PRIMARY KEY (run, iteration, number))""",
    """CREATE TABLE events (
        run INTEGER NOT NULL,
        id INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, id)) WITHOUT ROWID""",
    """CREATE TRIGGER runs_deleted AFTER DELETE ON runs BEGIN
        DELETE FROM run_texts WHERE run = old.n;
        DELETE FROM setups WHERE run = old.n;
        DELETE FROM messages WHERE run = old.n AND NOT old.joined;
        DELETE FROM results WHERE run = old.n;
        DELETE FROM jobs WHERE run = old.n;
        DELETE FROM attempts WHERE run = old.n;
        DELETE FROM events WHERE run = old.n;
    END""",
    """CREATE TRIGGER conversations_deleted AFTER DELETE ON conversations BEGIN
        DELETE FROM messages
            WHERE run IN (SELECT run FROM segments WHERE conversation = old.n);
        DELETE FROM segments WHERE conversation = old.n;
        DELETE FROM runs WHERE conversation_id = old.id;
    END""",
)

_PLACES: Final = (
    """CREATE TABLE placed_messages (
        place INTEGER PRIMARY KEY,
        created_at TEXT NOT NULL,
        body TEXT NOT NULL)""",
    """CREATE TABLE placed_jobs (
        place INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL)""",
    """CREATE TABLE placed_attempts (
        place INTEGER PRIMARY KEY,
        body TEXT NOT NULL,
        response TEXT)""",
    "CREATE TABLE placed_events (place INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    """INSERT INTO placed_messages (place, created_at, body)
        SELECT (run << 32) | position, created_at, body
        FROM messages ORDER BY run, position""",
    """INSERT INTO placed_jobs (place, id, body)
        SELECT (run << 32) | (iteration << 16), id, body
        FROM jobs ORDER BY run, iteration""",
    """INSERT INTO placed_attempts (place, body, response)
        SELECT (run << 32) | (iteration << 16) | number, body, response
        FROM attempts ORDER BY run, iteration, number""",
    """INSERT INTO placed_events (place, body)
        SELECT (run << 32) | id, body FROM events ORDER BY run, id""",
    "DROP TRIGGER runs_deleted",
    "DROP TRIGGER conversations_deleted",
    "DROP TABLE messages",
    "DROP TABLE jobs",
    "DROP TABLE attempts",
    "DROP TABLE events",
    "ALTER TABLE placed_messages RENAME TO messages",
    "ALTER TABLE placed_jobs RENAME TO jobs",
    "ALTER TABLE placed_attempts RENAME TO attempts",
    "ALTER TABLE placed_events RENAME TO events",
    """CREATE TRIGGER runs_deleted AFTER DELETE ON runs BEGIN
        DELETE FROM run_texts WHERE run = old.n;
        DELETE FROM setups WHERE run = old.n;
        DELETE FROM messages
            WHERE place >= old.n << 32 AND place < (old.n + 1) << 32
            AND NOT old.joined;
        DELETE FROM results WHERE run = old.n;
        DELETE FROM jobs
            WHERE place >= old.n << 32 AND place < (old.n + 1) << 32;
        DELETE FROM attempts
            WHERE place >= old.n << 32 AND place < (old.n + 1) << 32;
        DELETE FROM events
            WHERE place >= old.n << 32 AND place < (old.n + 1) << 32;
    END""",
    """CREATE TRIGGER conversations_deleted AFTER DELETE ON conversations BEGIN
        DELETE FROM messages WHERE place IN (
            SELECT place FROM segments CROSS JOIN messages
            ON place >= run << 32 AND place < (run + 1) << 32
            WHERE conversation = old.n);
        DELETE FROM segments WHERE conversation = old.n;
        DELETE FROM runs WHERE conversation_id = old.id;
    END""",
)

MIGRATIONS: Final = (_FIRST, _PLACES)
"""What brings a file from each version to the next; never edited, only added to."""


def migrate(
    db: sqlite3.Connection,
    migrations: Sequence[Sequence[str]] = MIGRATIONS,
) -> int:
    """Bring a file to the newest schema; return the version it had before.

    Raises:
        SchemaVersionError: the file is newer; nothing was changed.
    """
    found = _version(db, len(migrations))
    if found == len(migrations):
        return found
    db.execute("BEGIN IMMEDIATE")
    try:
        found = _version(db, len(migrations))  # another process may have been faster
        for statements in migrations[found:]:
            for statement in statements:
                db.execute(statement)
        _record(db, len(migrations))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return found


def _version(db: sqlite3.Connection, known: int) -> int:
    """The version a file has, 0 when it has none; refuses one that is newer."""
    tables = db.execute(
        "SELECT count(*) FROM sqlite_master WHERE name = 'schema_version'"
    ).fetchone()
    if not tables[0]:
        return 0
    found = int(db.execute("SELECT version FROM schema_version").fetchone()[0])
    if found > known:
        raise SchemaVersionError(
            f"the file has schema version {found}, this release knows {known};"
            " upgrade agentloop, or open the file with the release that wrote it"
        )
    return found


def _record(db: sqlite3.Connection, version: int) -> None:
    db.execute(
        "CREATE TABLE IF NOT EXISTS schema_version"
        " (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL)"
    )
    db.execute(
        "INSERT OR REPLACE INTO schema_version (one, version) VALUES (1, ?)",
        (version,),
    )
