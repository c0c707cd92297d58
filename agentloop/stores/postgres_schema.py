"""The tables of the Postgres store, and how older schemas are brought forward.

A schema carries its version in a table of one row. `migrate` applies what is
missing, in order and in one transaction, under an advisory lock; a schema that is
newer than this code is refused. `@.` stands for the schema's name.

Runs, conversations and what hangs on them are joined by identities that are never
used again: messages outlive the run that a prune removes. `runs` is rewritten by
every checkpoint, so what is long and written once lives beside it, and no index
holds a column that a checkpoint changes: Postgres then updates the row in place
(HOT). Bodies are TEXT: `jsonb` refuses escaped NULs, lone surrogates, large numbers
and deep nesting. Ids sort by code point (`COLLATE "C"`).
"""

from collections.abc import Sequence
from typing import Final

from agentloop.stores.postgres_pool import Session
from agentloop.stores.versions import SchemaVersionError

_FIRST: Final = (
    """CREATE TABLE @.conversations (
        n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT COLLATE "C" NOT NULL UNIQUE,
        company_id BIGINT NOT NULL,
        user_id BIGINT NOT NULL,
        version BIGINT NOT NULL,
        created_at TIMESTAMPTZ NOT NULL,
        updated_at TIMESTAMPTZ NOT NULL,
        body TEXT NOT NULL)""",
    "CREATE INDEX conversations_of_user"
    " ON @.conversations (company_id, user_id, created_at, n)",
    "CREATE INDEX conversations_of_company"
    " ON @.conversations (company_id, created_at, n)",
    """CREATE TABLE @.runs (
        n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT COLLATE "C" NOT NULL UNIQUE,
        conversation BIGINT NOT NULL,
        client_op_id TEXT COLLATE "C" NOT NULL,
        company_id BIGINT NOT NULL,
        user_id BIGINT NOT NULL,
        driver TEXT COLLATE "C" NOT NULL,
        base_version BIGINT NOT NULL,
        tool_choice TEXT,
        started_at TIMESTAMPTZ NOT NULL,
        status TEXT NOT NULL,
        token BIGINT NOT NULL DEFAULT 0,
        lease_until TIMESTAMPTZ NOT NULL DEFAULT '-infinity',
        deadline TIMESTAMPTZ,
        revision BIGINT NOT NULL DEFAULT 0,
        claimed_revision BIGINT NOT NULL DEFAULT 0,
        iterations BIGINT NOT NULL DEFAULT 0,
        staged BIGINT NOT NULL DEFAULT 0,
        open_results BIGINT NOT NULL DEFAULT 0,
        last_event BIGINT NOT NULL DEFAULT 0,
        cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
        joined BOOLEAN NOT NULL DEFAULT FALSE,
        header TEXT,
        completed_at TIMESTAMPTZ,
        result TEXT,
        UNIQUE (conversation, client_op_id)) WITH (fillfactor = 70)""",
    "CREATE INDEX runs_open ON @.runs (driver, started_at, n)"
    " WHERE completed_at IS NULL",
    "CREATE INDEX runs_ended ON @.runs (completed_at) WHERE completed_at IS NOT NULL",
    """CREATE TABLE @.run_texts (
        run BIGINT PRIMARY KEY,
        config TEXT NOT NULL,
        payload TEXT NOT NULL)""",
    "CREATE TABLE @.setups (run BIGINT PRIMARY KEY, body TEXT NOT NULL)",
    """CREATE TABLE @.messages (
        run BIGINT NOT NULL,
        position BIGINT NOT NULL,
        created_at TIMESTAMPTZ NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, position))""",
    """CREATE TABLE @.segments (
        conversation BIGINT NOT NULL,
        last_seq BIGINT NOT NULL,
        first_seq BIGINT NOT NULL,
        run BIGINT NOT NULL,
        run_id TEXT NOT NULL,
        PRIMARY KEY (conversation, last_seq))""",
    """CREATE TABLE @.results (
        n BIGINT GENERATED ALWAYS AS IDENTITY,
        run BIGINT NOT NULL,
        key TEXT COLLATE "C" NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, key))""",
    """CREATE TABLE @.jobs (
        run BIGINT NOT NULL,
        iteration BIGINT NOT NULL,
        id TEXT COLLATE "C" NOT NULL UNIQUE,
        body TEXT NOT NULL,
        PRIMARY KEY (run, iteration))""",
    """CREATE TABLE @.attempts (
        run BIGINT NOT NULL,
        iteration BIGINT NOT NULL,
        number BIGINT NOT NULL,
        body TEXT NOT NULL,
        response TEXT,
        PRIMARY KEY (run, iteration, number))""",
    """CREATE TABLE @.events (
        run BIGINT NOT NULL,
        id BIGINT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, id))""",
)

MIGRATIONS: Final = (_FIRST,)
"""What brings a schema from each version to the next; never edited, only added to."""


def migrate(
    db: Session,
    migrations: Sequence[Sequence[str]] = MIGRATIONS,
) -> int:
    """Bring a schema to the newest version; return the one it had before.

    Raises:
        SchemaVersionError: the schema is newer; nothing was changed.
    """
    # Whoever else migrates this schema waits here, and then finds it done.
    db.run(
        "SELECT pg_advisory_xact_lock(hashtext('agentloop'), hashtext(%(name)s))",
        name=db.schema,
    )
    found = version(db) or 0
    _refuse_newer(db, found, len(migrations))
    if found == len(migrations):
        return found
    if not _exists(db):
        db.run("CREATE SCHEMA IF NOT EXISTS @")
    for statements in migrations[found:]:
        for statement in statements:
            db.run(statement)
    _record(db, len(migrations))
    return found


def check(db: Session, known: int = len(MIGRATIONS)) -> None:
    """Refuse a schema whose version is not the one this code works with.

    Raises:
        SchemaVersionError: it is newer, older, or not there.
    """
    found = version(db)
    if found == known:
        return
    _refuse_newer(db, found or 0, known)
    state = f"has version {found}" if found else "has no tables of agentloop"
    raise SchemaVersionError(
        f"schema {db.schema!r} {state}, this release needs {known};"
        " call store.migrate(), or run: agentloop migrate --store ADDRESS"
    )


def version(db: Session) -> int | None:
    """The version a schema has, None when it has none."""
    # A scan of the catalog: `to_regclass` may answer from a cache that has not heard
    # yet of what another migration committed while this one waited for its lock.
    tables = db.value(
        "SELECT count(*) FROM pg_tables"
        " WHERE schemaname = %(name)s AND tablename = 'schema_version'",
        name=db.schema,
    )
    if not tables:
        return None
    found = db.value("SELECT version FROM @.schema_version")
    return None if found is None else int(found)


def _refuse_newer(db: Session, found: int, known: int) -> None:
    if found > known:
        raise SchemaVersionError(
            f"schema {db.schema!r} has version {found}, this release knows {known};"
            " upgrade agentloop, or use the release that wrote it"
        )


def _exists(db: Session) -> bool:
    """Whether a host made the schema already; making it needs a right of its own."""
    found = db.value(
        "SELECT count(*) FROM pg_namespace WHERE nspname = %(name)s", name=db.schema
    )
    return bool(found)


def _record(db: Session, known: int) -> None:
    db.run(
        "CREATE TABLE IF NOT EXISTS @.schema_version"
        " (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL)"
    )
    db.run(
        "INSERT INTO @.schema_version (one, version) VALUES (1, %(version)s)"
        " ON CONFLICT (one) DO UPDATE SET version = excluded.version",
        version=known,
    )
