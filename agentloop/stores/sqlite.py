"""The store in one SQLite file: durable, shared by threads and by processes.

    store = SQLiteStore("agents.db")

Write-ahead log, `synchronous = FULL`: what a call returned survives a crash and a
power cut. Only the standard library is needed. Statements that read are in
`sqlite_rows`, those that drive a run in `sqlite_driving`, tables and migrations in
`sqlite_schema`, connections in `sqlite_pool`.
"""

import os
import sqlite3
import weakref
from types import TracebackType
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
from agentloop.stores import sqlite_driving as driving
from agentloop.stores import sqlite_rows as rows
from agentloop.stores.clock import MachineClock, instant
from agentloop.stores.rules import prune_limit
from agentloop.stores.sqlite_leases import Judge
from agentloop.stores.sqlite_pool import Opener, Pool, Source, Synchronous, checked_path
from agentloop.stores.sqlite_schema import migrate

T = TypeVar("T")


class SQLiteStore:
    """A `Store` in a SQLite file.

    Args:
        path: the file, made when it is missing; or a function that opens a
            connection to it, called once per connection with nothing, whose
            connections must be allowed to change threads
            (`check_same_thread=False`).
        clock: what instants and leases are judged by; the machine's by default.
        synchronous: SQLite's pragma. `FULL` survives a power cut; `NORMAL` may
            then lose the last commits, `OFF` may lose the file.
        busy_timeout: seconds to wait for other processes that write.

    Raises:
        StoreUnavailableError: the file cannot be opened or written.
        SchemaVersionError: the file was written by a newer release.
        ValueError: the path is none.
    """

    blocking = True
    """Calls wait for the disk, so an async driver needs a thread for them."""

    def __init__(
        self,
        path: str | os.PathLike[str] | Opener,
        *,
        clock: Clock | None = None,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 10.0,
    ) -> None:
        self._clock = clock or MachineClock()
        self._judge = Judge(self._clock)
        self._numbers = driving.Numbers()
        name, opener = _opener(path)
        self._name = name
        self._pool = Pool(Source(name, opener, synchronous, busy_timeout))
        self._pool.prepare(migrate)
        self._closer = weakref.finalize(self, self._pool.close)

    def close(self) -> None:
        """Close all connections; every later call raises `StoreUnavailableError`."""
        self._pool.close()

    def __repr__(self) -> str:
        return f"<SQLiteStore {self._name!r}>"

    def __enter__(self) -> "SQLiteStore":
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

        def insert(db: sqlite3.Connection) -> ConversationRow:
            now = self._instant()
            db.execute(
                "INSERT INTO conversations (id, company_id, user_id, version,"
                " created_at, updated_at, body) VALUES (?, ?, ?, 0, ?, ?, ?)",
                (new.id, new.company_id, new.user_id, now, now, new.body),
            )
            return ConversationRow(
                id=new.id,
                company_id=new.company_id,
                user_id=new.user_id,
                body=new.body,
                version=0,
                created_at=now,
                updated_at=now,
            )

        return self._pool.write(insert)

    def get_conversation(
        self, reader: Reader, conversation_id: str
    ) -> ConversationRow | None:
        """See `Store.get_conversation`."""
        return self._pool.read(
            lambda db: rows.conversation(db, reader, conversation_id)
        )

    def list_conversations(
        self, reader: Reader, offset: int, limit: int
    ) -> tuple[tuple[ConversationRow, ...], int]:
        """See `Store.list_conversations`."""
        return self._pool.snapshot(
            lambda db: rows.conversations(db, reader, offset, limit)
        )

    def delete_conversation(self, reader: Reader, conversation_id: str) -> bool:
        """See `Store.delete_conversation`."""

        def delete(db: sqlite3.Connection) -> bool:
            if rows.conversation(db, reader, conversation_id) is None:
                return False
            # Triggers take its runs along, and what hangs on them.
            db.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))
            return True

        return self._pool.write(delete)

    def messages(
        self,
        reader: Reader,
        conversation_id: str,
        since: int = 0,
        until: int | None = None,
    ) -> MessagePage | None:
        """See `Store.messages`."""

        def read(db: sqlite3.Connection) -> MessagePage | None:
            found = rows.conversation(db, reader, conversation_id)
            if found is None:
                return None
            last = found.version if until is None else until
            visible = rows.messages(db, conversation_id, since, last)
            return MessagePage(version=found.version, rows=visible)

        return self._pool.snapshot(read)

    # ------------------------------------------------------------ runs

    def insert_run(self, new: NewRunRow) -> tuple[RunRow, bool]:
        """See `Store.insert_run`."""
        return self._pool.write(lambda db: _insert_run(db, new, self._instant()))

    def find_run(self, conversation_id: str, client_op_id: str) -> RunRow | None:
        """See `Store.find_run`."""
        return self._pool.read(
            lambda db: rows.keyed_run(db, conversation_id, client_op_id)
        )

    def get_run(self, reader: Reader, run_id: str) -> RunRow | None:
        """See `Store.get_run`."""
        return self._pool.read(lambda db: rows.seen_run(db, reader, run_id))

    def list_runs(self, reader: Reader, conversation_id: str) -> tuple[RunRow, ...]:
        """See `Store.list_runs`."""
        return self._pool.read(lambda db: rows.runs(db, reader, conversation_id))

    def request_cancel(self, reader: Reader, run_id: str) -> RunRow | None:
        """See `Store.request_cancel`."""

        def flag(db: sqlite3.Connection) -> RunRow | None:
            if rows.seen_run(db, reader, run_id) is not None:
                db.execute(
                    "UPDATE runs SET cancel_requested = 1"
                    " WHERE id = ? AND completed_at IS NULL",
                    (run_id,),
                )
            return rows.seen_run(db, reader, run_id)

        return self._pool.write(flag)

    # ------------------------------------------------------------ driving

    def claim(self, request: ClaimRequest) -> Claim | None:
        """See `Store.claim`."""

        def take(db: sqlite3.Connection) -> Claim | None:
            self._judge.free_strays(db, request)
            judged = self._judge.now(request.lease_seconds)
            now = self._clock.now().timestamp()
            return driving.claim(db, request, now, judged)

        return self._pool.write(take)

    def unclaimed(self, driver: str, limit: int) -> tuple[RunRef, ...]:
        """See `Store.unclaimed`."""
        return self._pool.read(lambda db: rows.unclaimed(db, driver, limit))

    def heartbeat(self, lease: Lease, lease_seconds: float) -> bool:
        """See `Store.heartbeat`."""
        return self._pool.write(
            lambda db: driving.heartbeat(
                db, lease, self._clock.now().timestamp() + lease_seconds
            )
        )

    def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        self._pool.write(lambda db: driving.release(db, lease))

    def checkpoint(
        self, lease: Lease, revision: int, change: Checkpoint, lease_seconds: float
    ) -> bool:
        """See `Store.checkpoint`."""

        def commit(db: sqlite3.Connection) -> bool:
            now = self._clock.now()
            until = now.timestamp() + lease_seconds
            made = driving.Commit(lease, revision, change, now, until)
            return driving.checkpoint(db, made, self._numbers)

        return self._pool.write(commit)

    def finalize(self, lease: Lease, revision: int, final: Final) -> RunRow:
        """See `Store.finalize`."""
        return self._pool.write(
            lambda db: driving.finalize(db, lease, revision, final, self._clock.now())
        )

    # ------------------------------------------------------------ looking closer

    def get_job(
        self, reader: Reader, job_id: str
    ) -> tuple[JobRow, tuple[AttemptRow, ...], RunRow] | None:
        """See `Store.get_job`."""
        return self._pool.snapshot(lambda db: rows.job(db, reader, job_id))

    def run_messages(self, run_id: str) -> tuple[str, ...]:
        """See `Store.run_messages`."""
        return self._pool.read(lambda db: rows.staged(db, run_id))

    def run_setup(self, run_id: str) -> str | None:
        """See `Store.run_setup`."""
        return self._pool.read(lambda db: rows.setup(db, run_id))

    def list_jobs(self, reader: Reader, run_id: str) -> tuple[JobRow, ...]:
        """See `Store.list_jobs`."""
        return self._pool.read(lambda db: rows.jobs(db, reader, run_id))

    def events(
        self, reader: Reader, run_id: str, after: int = 0
    ) -> tuple[EventRow, ...]:
        """See `Store.events`."""
        return self._pool.read(lambda db: rows.events(db, reader, run_id, after))

    # ------------------------------------------------------------ house-keeping

    def prune(self, before: str) -> int:
        """See `Store.prune`."""

        def delete(db: sqlite3.Connection) -> int:
            limit = prune_limit(self._clock.now(), before)
            # A trigger takes along what only these runs need.
            return db.execute(
                "DELETE FROM runs WHERE completed_at < ?", (limit,)
            ).rowcount

        return self._pool.write(delete)

    def ping(self) -> None:
        """See `Store.ping`; reads one row of the file."""
        self._pool.read(
            lambda db: db.execute("SELECT version FROM schema_version").fetchone()
        )

    def _instant(self) -> str:
        return instant(self._clock.now())


def _opener(path: str | os.PathLike[str] | Opener) -> tuple[str, Opener]:
    """What to call the file in messages, and how to open it."""
    if callable(path):
        return getattr(path, "__name__", "of the host"), path
    name = checked_path(path)
    return name, lambda: sqlite3.connect(name, check_same_thread=False)


def _insert_run(
    db: sqlite3.Connection, new: NewRunRow, now: str
) -> tuple[RunRow, bool]:
    existing = rows.keyed_run(db, new.conversation_id, new.client_op_id)
    if existing is not None:
        return existing, False
    found = db.execute(
        "SELECT version FROM conversations WHERE id = ?", (new.conversation_id,)
    ).fetchone()
    if found is None:
        raise LookupError(f"no conversation {new.conversation_id}")
    if found[0] != new.expected_version:
        raise VersionMovedError(new.expected_version, found[0])
    n = _insert_row(db, new, now)
    db.execute(
        "INSERT INTO run_texts (run, config, payload) VALUES (?, ?, ?)",
        (n, new.config, new.payload),
    )
    return rows.run(db, n), True


def _insert_row(db: sqlite3.Connection, new: NewRunRow, now: str) -> int:
    row = (
        new.id,
        new.conversation_id,
        new.client_op_id,
        new.company_id,
        new.user_id,
        new.driver,
        new.expected_version,
        new.tool_choice,
        now,
    )
    cursor = db.execute(
        "INSERT INTO runs (id, conversation_id, client_op_id, company_id, user_id,"
        " driver, base_version, tool_choice, started_at, status)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending')",
        row,
    )
    return cursor.lastrowid or 0
