"""The store in Postgres: durable, shared by processes on any number of machines.

    store = PostgresStore(pool)     # the host's psycopg_pool.ConnectionPool
    store.migrate()                 # once per release, or: agentloop migrate

Needs the extra `postgres` (psycopg 3). Works behind a pooler that lends a server
connection per transaction: nothing is prepared, no session state is kept. Rows
change one at a time under READ COMMITTED; leases and stamps are the server's
clock's. Statements that read are in `postgres_rows`, those that drive a run in
`postgres_driving`, tables and migrations in `postgres_schema`, transactions in
`postgres_pool`.
"""

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Final as Constant
from typing import TypeVar

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
from agentloop.stores import postgres_driving as driving
from agentloop.stores import postgres_rows as rows
from agentloop.stores import postgres_schema as schemas
from agentloop.stores.clock import instant, moment
from agentloop.stores.postgres_pool import HostPool, Session, Transactions
from agentloop.stores.rules import prune_limit

T = TypeVar("T")

_DELETE_RUNS: Constant = (
    "WITH gone AS (DELETE FROM @.runs WHERE {which} RETURNING n, joined),"
    " a AS (DELETE FROM @.run_texts WHERE run IN (SELECT n FROM gone)),"
    " b AS (DELETE FROM @.setups WHERE run IN (SELECT n FROM gone)),"
    " c AS (DELETE FROM @.results WHERE run IN (SELECT n FROM gone)),"
    " d AS (DELETE FROM @.jobs WHERE run IN (SELECT n FROM gone)),"
    " e AS (DELETE FROM @.attempts WHERE run IN (SELECT n FROM gone)),"
    " f AS (DELETE FROM @.events WHERE run IN (SELECT n FROM gone)),"
    " g AS (DELETE FROM @.messages"
    " WHERE run IN (SELECT n FROM gone WHERE NOT joined))"
    " SELECT count(*) FROM gone"
)


class PostgresStore:
    """A `Store` in a schema of a Postgres database.

    Nothing is connected before the first call. That call checks the schema's
    version, and fails with `SchemaVersionError` unless `migrate` brought it to this
    release's. Ids may have up to about 2,600 bytes, the limit of Postgres' indexes.

    Args:
        pool: the host's `psycopg_pool.ConnectionPool`, which stays the host's; or a
            conninfo, from which a pool is made that `close` closes.
        schema: the schema that holds the tables; others of the database are left
            alone.
        clock: what instants and leases are judged by. None is the server's clock,
            which is the one that several machines agree on.
        max_size: the greatest number of connections of a pool made from a conninfo.

    Raises:
        ValueError: the schema is no plain name, or the conninfo cannot be read.
        MissingExtraError: psycopg is not installed.
    """

    blocking = True
    """Calls wait for the network, so an async driver needs a thread for them."""

    def __init__(
        self,
        pool: HostPool | str,
        *,
        schema: str = "agentloop",
        clock: Clock | None = None,
        max_size: int = 10,
    ) -> None:
        self._transactions = Transactions(pool, schema, clock, max_size)
        self._schema = schema
        self._checked = False
        self._closer = weakref.finalize(self, self._transactions.close)

    def migrate(self) -> int:
        """Bring the schema to this release's version; return the one it had.

        May be called by many processes at once, and again.

        Raises:
            SchemaVersionError: the schema is newer than this release.
            StoreUnavailableError: Postgres could not answer.
        """
        before = self._transactions.write(schemas.migrate)
        self._checked = True
        return before

    def close(self) -> None:
        """End the store; a host's pool is not closed."""
        self._closer()

    def __repr__(self) -> str:
        return f"<PostgresStore in schema {self._schema!r}>"  # no address, no secret

    def __enter__(self) -> "PostgresStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------ conversations

    def create_conversation(self, new: NewConversationRow) -> ConversationRow:
        """See `Store.create_conversation`."""

        def insert(db: Session) -> ConversationRow:
            made = db.value(
                "INSERT INTO @.conversations (id, company_id, user_id, version,"
                " created_at, updated_at, body) SELECT %(id)s, %(company)s, %(user)s,"
                " 0, now, now, %(body)s FROM (SELECT @now AS now) clock"
                " RETURNING created_at",
                id=new.id,
                company=new.company_id,
                user=new.user_id,
                body=new.body,
            )
            return ConversationRow(
                id=new.id,
                company_id=new.company_id,
                user_id=new.user_id,
                body=new.body,
                version=0,
                created_at=instant(made),
                updated_at=instant(made),
            )

        return self._write(insert)

    def get_conversation(
        self, reader: Reader, conversation_id: str
    ) -> ConversationRow | None:
        """See `Store.get_conversation`."""
        return self._read(lambda db: rows.conversation(db, reader, conversation_id))

    def list_conversations(
        self, reader: Reader, offset: int, limit: int
    ) -> tuple[tuple[ConversationRow, ...], int]:
        """See `Store.list_conversations`."""
        return self._read(lambda db: rows.conversations(db, reader, offset, limit))

    def delete_conversation(self, reader: Reader, conversation_id: str) -> bool:
        """See `Store.delete_conversation`."""
        return self._write(lambda db: _delete(db, reader, conversation_id))

    def messages(
        self,
        reader: Reader,
        conversation_id: str,
        since: int = 0,
        until: int | None = None,
    ) -> MessagePage | None:
        """See `Store.messages`."""
        bounds = since, rows.MAX_INT if until is None else until
        return self._read(lambda db: rows.page(db, reader, conversation_id, bounds))

    # ------------------------------------------------------------ runs

    def insert_run(self, new: NewRunRow) -> tuple[RunRow, bool]:
        """See `Store.insert_run`."""
        return self._write(lambda db: _insert_run(db, new))

    def find_run(self, conversation_id: str, client_op_id: str) -> RunRow | None:
        """See `Store.find_run`."""
        return self._read(lambda db: rows.keyed_run(db, conversation_id, client_op_id))

    def get_run(self, reader: Reader, run_id: str) -> RunRow | None:
        """See `Store.get_run`."""
        return self._read(lambda db: rows.seen_run(db, reader, run_id))

    def list_runs(self, reader: Reader, conversation_id: str) -> tuple[RunRow, ...]:
        """See `Store.list_runs`."""
        return self._read(lambda db: rows.runs(db, reader, conversation_id))

    def request_cancel(self, reader: Reader, run_id: str) -> RunRow | None:
        """See `Store.request_cancel`."""

        def flag(db: Session) -> RunRow | None:
            if rows.seen_run(db, reader, run_id) is not None:
                db.run(
                    "UPDATE @.runs SET cancel_requested = TRUE WHERE id = %(id)s"
                    " AND completed_at IS NULL AND NOT cancel_requested",
                    id=run_id,
                )
            return rows.seen_run(db, reader, run_id)

        return self._write(flag)

    # ------------------------------------------------------------ driving

    def claim(self, request: ClaimRequest) -> Claim | None:
        """See `Store.claim`."""
        return self._write(lambda db: driving.claim(db, request))

    def unclaimed(self, driver: str, limit: int) -> tuple[RunRef, ...]:
        """See `Store.unclaimed`."""
        return self._read(lambda db: rows.unclaimed(db, driver, limit))

    def heartbeat(self, lease: Lease, lease_seconds: float) -> bool:
        """See `Store.heartbeat`."""
        return self._write(lambda db: driving.heartbeat(db, lease, lease_seconds))

    def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        self._write(lambda db: driving.release(db, lease))

    def checkpoint(
        self, lease: Lease, revision: int, change: Checkpoint, lease_seconds: float
    ) -> bool:
        """See `Store.checkpoint`."""
        commit = driving.Commit(revision, change, lease_seconds)
        return self._write(lambda db: driving.checkpoint(db, lease, commit))

    def finalize(self, lease: Lease, revision: int, final: Final) -> RunRow:
        """See `Store.finalize`."""
        return self._write(lambda db: driving.finalize(db, lease, revision, final))

    # ------------------------------------------------------------ looking closer

    def get_job(
        self, reader: Reader, job_id: str
    ) -> tuple[JobRow, tuple[AttemptRow, ...], RunRow] | None:
        """See `Store.get_job`."""
        return self._read(lambda db: rows.job(db, reader, job_id))

    def run_messages(self, run_id: str) -> tuple[str, ...]:
        """See `Store.run_messages`."""
        return self._read(lambda db: rows.staged(db, run_id))

    def run_setup(self, run_id: str) -> str | None:
        """See `Store.run_setup`."""
        return self._read(lambda db: rows.setup(db, run_id))

    def list_jobs(self, reader: Reader, run_id: str) -> tuple[JobRow, ...]:
        """See `Store.list_jobs`."""
        return self._read(lambda db: rows.jobs(db, reader, run_id))

    def events(
        self, reader: Reader, run_id: str, after: int = 0
    ) -> tuple[EventRow, ...]:
        """See `Store.events`."""
        return self._read(lambda db: rows.events(db, reader, run_id, after))

    # ------------------------------------------------------------ house-keeping

    def prune(self, before: str) -> int:
        """See `Store.prune`."""

        def delete(db: Session) -> int:
            limit = moment(prune_limit(db.now(), before))
            which = "completed_at < %(limit)s"
            return int(db.value(_DELETE_RUNS.format(which=which), limit=limit))

        return self._write(delete)

    def ping(self) -> None:
        """See `Store.ping`; reads the schema's version."""
        self._transactions.read(schemas.check)

    # ------------------------------------------------------------ transactions

    def _write(self, work: Callable[[Session], T]) -> T:
        self._check_schema()
        return self._transactions.write(work)

    def _read(self, work: Callable[[Session], T]) -> T:
        self._check_schema()
        return self._transactions.read(work)

    def _check_schema(self) -> None:
        """Refuse, once per store, a schema of another version."""
        if not self._checked:
            self._transactions.read(schemas.check)
            self._checked = True


def _insert_run(db: Session, new: NewRunRow) -> tuple[RunRow, bool]:
    """The conversation's lock puts inserts and finalizes of it in one order."""
    found = db.one(
        "SELECT n, version FROM @.conversations WHERE id = %(id)s FOR UPDATE",
        id=new.conversation_id,
    )
    if found is None:
        raise LookupError(f"no conversation {new.conversation_id}")
    existing = rows.keyed_run(db, new.conversation_id, new.client_op_id)
    if existing is not None:
        return existing, False
    conversation, version = found
    if version != new.expected_version:
        raise VersionMovedError(new.expected_version, version)
    n = _insert_row(db, new, conversation)
    db.run(
        "INSERT INTO @.run_texts (run, config, payload)"
        " VALUES (%(n)s, %(config)s, %(payload)s)",
        n=n,
        config=new.config,
        payload=new.payload,
    )
    return rows.run(db, n), True


def _insert_row(db: Session, new: NewRunRow, conversation: int) -> int:
    n: int = db.value(
        "INSERT INTO @.runs (id, conversation, client_op_id, company_id, user_id,"
        " driver, base_version, tool_choice, started_at, status)"
        " VALUES (%(id)s, %(conversation)s, %(key)s, %(company)s, %(user)s,"
        " %(driver)s, %(version)s, %(choice)s, @now, 'pending') RETURNING n",
        id=new.id,
        conversation=conversation,
        key=new.client_op_id,
        company=new.company_id,
        user=new.user_id,
        driver=new.driver,
        version=new.expected_version,
        choice=new.tool_choice,
    )
    return n


def _delete(db: Session, reader: Reader, conversation_id: str) -> bool:
    """Conversation and runs are locked first: then nobody adds to them any more."""
    if rows.conversation(db, reader, conversation_id) is None:
        return False
    n = db.value(
        "SELECT n FROM @.conversations WHERE id = %(id)s FOR UPDATE",
        id=conversation_id,
    )
    if n is None:  # somebody else was faster
        return False
    db.all("SELECT n FROM @.runs WHERE conversation = %(n)s ORDER BY n FOR UPDATE", n=n)
    db.run(_DELETE_RUNS.format(which="conversation = %(n)s"), n=n)
    db.run(
        "WITH gone AS (DELETE FROM @.segments WHERE conversation = %(n)s"
        " RETURNING run) DELETE FROM @.messages WHERE run IN (SELECT run FROM gone)",
        n=n,
    )
    db.run("DELETE FROM @.conversations WHERE n = %(n)s", n=n)
    return True
