"""Transactions on a host's pool of Postgres connections.

A transaction is READ COMMITTED and unprepared, so that it works behind a pooler
that gives each transaction another server connection. What the host set on a
connection is put back afterwards. A transaction that certainly did not happen
(deadlock, or a connection lost before its COMMIT was sent) is done again; one whose
COMMIT was not answered is reported as unknown. This room knows no tables.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from attrs import define, field, frozen

from agentloop.ports.store import StoreUnavailableError
from agentloop.ports.system import Clock, require

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

T = TypeVar("T")

_TRIES: Final = 5
_NOW: Final = "coalesce(%(now)s::timestamptz, clock_timestamp())"
_SCHEMA: Final = re.compile(r"[^\W\d]\w{0,62}", re.ASCII)
_ROLLED_BACK: Final = frozenset({"40001", "40P01"})
_CALLERS_CLASSES: Final = ("22", "23", "54")
"""SQLSTATE classes of data, integrity and program limits (Postgres, appendix A)."""


class HostPool(Protocol):
    """What a host supplies: `psycopg_pool.ConnectionPool`, or something like it."""

    def connection(self) -> AbstractContextManager["Connection[Any]"]:
        """Lend a connection for a while."""
        ...


@frozen
class Session:
    """One transaction: its statements, with schema and time filled in.

    In a statement `@.` is the schema and `@now` the time leases are judged by: the
    server's, unless the store was given a clock.
    """

    cursor: "Cursor[tuple[Any, ...]]"
    schema: str
    clock: Clock | None

    def run(self, statement: str, **values: object) -> int:
        """Execute a statement; returns how many rows it touched."""
        given = {name: _kept(value) for name, value in values.items()}
        if "@now" in statement:
            given["now"] = self.clock.now() if self.clock else None
        text = _text(statement, self.schema)
        self.cursor.execute(text, given or None, prepare=False)
        return self.cursor.rowcount

    def all(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        """All rows that a statement returns."""
        self.run(statement, **values)
        return [tuple(map(_given, row)) for row in self.cursor]

    def one(self, statement: str, **values: object) -> tuple[Any, ...] | None:
        """The first row that a statement returns, None without one."""
        self.run(statement, **values)
        row = self.cursor.fetchone()
        return None if row is None else tuple(map(_given, row))

    def value(self, statement: str, **values: object) -> Any:
        """The first column of the first row, None without one."""
        row = self.one(statement, **values)
        return None if row is None else row[0]

    def now(self) -> datetime:
        """The time leases are judged by."""
        found: datetime = self.value("SELECT @now")
        return found


@lru_cache(maxsize=512)
def _text(statement: str, schema: str) -> bytes:
    text = statement.replace("@now", _NOW).replace("@", f'"{schema}"')
    return text.encode()


def _kept(value: object) -> object:
    """Text as Postgres keeps it, which has no room for NUL: it is escaped."""
    if isinstance(value, list):
        return [_kept(each) for each in value]
    if not isinstance(value, str) or not ("\x00" in value or "\x01" in value):
        return value
    return value.replace("\x01", "\x011").replace("\x00", "\x010")


def _given(value: object) -> object:
    """Text as it was given."""
    if isinstance(value, list):
        return [_given(each) for each in value]
    if isinstance(value, str) and "\x01" in value:
        return value.replace("\x010", "\x00").replace("\x011", "\x01")
    return value


class _AgainError(Exception):
    """A transaction that certainly did not happen."""


@define
class _Progress:
    """How far a transaction came: after `committing` its outcome is unknown."""

    committing: bool = False
    connection: "Connection[Any] | None" = None


class Transactions:
    """Does work in transactions on connections of a pool.

    Args:
        source: the host's pool, or a conninfo for a pool of our own.
        schema: the schema that holds the tables.
        clock: what `@now` means; the server's clock when None.
        max_size: of a pool of our own.
    """

    def __init__(
        self, source: HostPool | str, schema: str, clock: Clock | None, max_size: int
    ) -> None:
        if not _SCHEMA.fullmatch(schema):
            raise ValueError(
                f"the schema {schema!r} must be letters, digits and underscores,"
                " at most 63, not beginning with a digit"
            )
        self._psycopg = require("psycopg", "postgres")
        self._schema = schema
        self._clock = clock
        self._own = _OwnPool(source, max_size) if isinstance(source, str) else None
        self._host = None if isinstance(source, str) else source
        self._closed = False

    def write(self, work: Callable[[Session], T]) -> T:
        """Do work in one transaction, and return after its commit.

        Raises:
            StoreUnavailableError: whether it was committed is unknown.
            ValueError: what was given cannot be stored.
        """
        return self._stubbornly(work, in_transaction)

    def read(self, work: Callable[[Session], T]) -> T:
        """Do work that is one statement, which needs no transaction around it.

        Raises:
            StoreUnavailableError: Postgres could not answer.
            ValueError: what was given cannot be looked up.
        """
        return self._stubbornly(work, alone)

    def close(self) -> None:
        """Close a pool of our own; the host's is left alone."""
        self._closed = True
        if self._own is not None:
            self._own.close()

    def _stubbornly(self, work: Callable[[Session], T], how: "_How[T]") -> T:
        for _ in range(_TRIES - 1):
            try:
                return self._once(work, how)
            except _AgainError:
                continue
        try:
            return self._once(work, how)
        except _AgainError as error:
            cause = error.__cause__ or error
            raise self._unavailable(cause) from cause

    def _once(self, work: Callable[[Session], T], how: "_How[T]") -> T:
        if self._closed:
            raise StoreUnavailableError("Postgres store: the store is closed")
        progress = _Progress()
        try:
            with self._pool().connection() as connection:
                progress.connection = connection
                with self._borrowed(connection) as session:
                    return how(session, work, progress)
        except self._psycopg.Error as error:
            raise self._translated(error, progress) from error
        except (UnicodeEncodeError, OverflowError) as error:
            raise ValueError(f"cannot be stored: {error}") from error

    def _pool(self) -> HostPool:
        if self._own is not None:
            return self._own.opened()
        if self._host is None:
            raise AssertionError("a store has the host's pool or its own")
        return self._host

    @contextmanager
    def _borrowed(self, connection: "Connection[Any]") -> Iterator[Session]:
        """A connection set up as we need it, and put back as the host had it."""
        before = connection.autocommit, connection.isolation_level
        connection.autocommit = True  # a transaction is begun where one is needed
        connection.isolation_level = self._psycopg.IsolationLevel.READ_COMMITTED
        rows = self._psycopg.rows.tuple_row
        try:
            with connection.cursor(row_factory=rows) as cursor:
                yield Session(cursor, self._schema, self._clock)
        finally:
            if not connection.closed:
                connection.autocommit, connection.isolation_level = before

    # ------------------------------------------------------------ when it fails

    def _translated(self, error: Any, progress: _Progress) -> Exception:
        """What a caller, or a further try, makes of an error of Postgres."""
        state = error.sqlstate or ""
        if state in _ROLLED_BACK or self._is_lost(error, progress):
            return _AgainError()
        if state.startswith(_CALLERS_CLASSES) or _is_callers(self._psycopg, error):
            return ValueError(f"cannot be stored: {_told(error)}")
        return self._unavailable(error)

    def _is_lost(self, error: Any, progress: _Progress) -> bool:
        """Whether the connection went away before anything was to be committed."""
        connection = progress.connection
        lost = connection is not None and connection.closed
        return (
            lost
            and not progress.committing
            and isinstance(error, self._psycopg.OperationalError)
        )

    def _unavailable(self, error: BaseException) -> StoreUnavailableError:
        return StoreUnavailableError(f"Postgres store: {_told(error)}")


_How = Callable[[Session, Callable[[Session], T], _Progress], T]


def in_transaction(
    session: Session, work: Callable[[Session], T], progress: _Progress
) -> T:
    """Work between BEGIN and COMMIT."""
    with session.cursor.connection.transaction():
        answer = work(session)
        progress.committing = True
    return answer


def alone(session: Session, work: Callable[[Session], T], _: _Progress) -> T:
    """Work without a transaction around it."""
    return work(session)


def _is_callers(psycopg: Any, error: Any) -> bool:
    """Whether psycopg refused a value before it was sent."""
    return error.sqlstate is None and isinstance(error, psycopg.DataError)


def _told(error: BaseException) -> str:
    """An error in one line; Postgres' DETAIL stays out, as it quotes values."""
    diagnosis = getattr(error, "diag", None)
    told = getattr(diagnosis, "message_primary", None) or str(error)
    return " ".join(told.split()) or type(error).__name__


@define
class _OwnPool:
    """A pool of our own, opened by its first use."""

    _conninfo: str = field(repr=False)
    _max_size: int
    _lock: Lock = field(factory=Lock, init=False)
    _made: Any = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        require("psycopg_pool", "postgres")
        _parsed(self._conninfo)

    def opened(self) -> HostPool:
        """The pool, opened."""
        with self._lock:
            if self._made is None:
                pool = require("psycopg_pool", "postgres").ConnectionPool
                self._made = pool(
                    self._conninfo, min_size=1, max_size=self._max_size, open=True
                )
            made: HostPool = self._made
            return made

    def close(self) -> None:
        with self._lock:
            if self._made is not None:
                self._made.close()


@frozen
class Direct:
    """A pool that keeps nothing: each use connects, and fails at once if it cannot.

    For commands, which do one thing and end.
    """

    conninfo: str = field(repr=False)

    def connection(self) -> AbstractContextManager["Connection[Any]"]:
        """Connect; the connection is closed when it is given back."""
        _parsed(self.conninfo)
        made: Connection[Any] = require("psycopg", "postgres").connect(self.conninfo)
        return made


def _parsed(conninfo: str) -> Mapping[str, Any]:
    """Refuse a conninfo that cannot be read, without repeating its password."""
    psycopg = require("psycopg", "postgres")
    try:
        found: Mapping[str, Any] = psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.Error:
        raise ValueError(
            "the conninfo cannot be read; give postgresql://user@host/database"
            " or key=value pairs"
        ) from None
    return found
