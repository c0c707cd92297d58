"""Connections to one SQLite file: a writer that threads share, readers in a pool.

SQLite has one writer at a time. Threads of this process therefore queue for one
connection instead of polling for the file's lock, and whoever's turn it is commits
for all that wait: one transaction, a savepoint each, one fsync. Readers see the
last commit and wait for nobody. Other processes are waited for by SQLite's own
busy handler. This room knows no tables.
"""

import os
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import closing
from threading import Event, Lock
from time import monotonic
from typing import Final, Generic, Literal, TypeVar, cast

from attrs import field, frozen
from attrs.validators import in_

from agentloop.ports.store import StoreUnavailableError

Synchronous = Literal["OFF", "NORMAL", "FULL", "EXTRA"]
Opener = Callable[[], sqlite3.Connection]
T = TypeVar("T")

_SYNCHRONOUS: Final = ("OFF", "NORMAL", "FULL", "EXTRA")
_IDLE_READERS: Final = 16
_BATCH: Final = 64
_PAUSE: Final = 0.01
_WAL_LIMIT: Final = 64 * 1024 * 1024
_CLOSED: Final = "the store is closed"
_FORKED: Final = (
    "the store was in use before this process was forked, which SQLite does not"
    " survive; fork first, or make a new store in the child"
)
_CALLERS_FAULT: Final = (
    sqlite3.IntegrityError,  # a row that is there already
    sqlite3.DataError,  # a text beyond SQLite's limit
    OverflowError,  # a number beyond 64 bits
    UnicodeEncodeError,  # a lone surrogate outside of JSON
)


@frozen
class Source:
    """Where connections come from and how they are set up."""

    name: str
    open: Opener
    synchronous: Synchronous = field(validator=in_(_SYNCHRONOUS))
    busy_timeout: float

    def connect(self) -> sqlite3.Connection:
        """A connection in autocommit, write-ahead log on."""
        db = self.open()
        try:
            db.isolation_level = None
            db.execute(f"PRAGMA busy_timeout = {round(self.busy_timeout * 1000)}")
            self._use_wal(db)
            db.execute(f"PRAGMA synchronous = {self.synchronous}")
            db.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        except BaseException:
            db.close()
            raise
        return db

    def _use_wal(self, db: sqlite3.Connection) -> None:
        """Switch to the write-ahead log; SQLite does not wait there, so we do."""
        until = monotonic() + self.busy_timeout
        while True:
            try:
                mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or monotonic() > until:
                    raise
                Event().wait(_PAUSE)
        if mode != "wal":
            raise ValueError(
                f"{self.name} cannot keep a write-ahead log (journal mode {mode!r});"
                " the store needs a file on a local disk, see MemoryStore for memory"
            )

    def unavailable(self, error: Exception | str) -> StoreUnavailableError:
        """What a caller is told when SQLite could not do its work."""
        hint = ""
        if _is_busy(error):
            hint = f"; another process held the file's lock for {self.busy_timeout:g} s"
        elif _code(error) in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            hint = (
                "; the file and its folder must be writable, even for reading: SQLite"
                " keeps its write-ahead log beside the file"
            )
        return StoreUnavailableError(f"SQLite store {self.name}: {error}{hint}")


def checked_path(path: object) -> str:
    """The path of a file, as text.

    Raises:
        ValueError: it is none; SQLite would make a file by whatever name it reads.
    """
    found = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(found, str) or not found:
        told = found is None or isinstance(found, str | int)
        what = repr(found) if told else f"a {type(found).__name__}"
        raise ValueError(
            f"a SQLite store's path must be the path of a file, not {what};"
            " see MemoryStore for a store without one"
        )
    scheme, mark, _ = found.partition("://")
    if mark:
        raise ValueError(
            f"a SQLite store's path beginning with {scheme!r} is a URL;"
            " give the path of the file alone, such as 'agents.db'"
        )
    return found


def _code(error: Exception | str) -> int:
    """The primary code of an error of SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_busy(error: Exception | str) -> bool:
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class _Ticket(Generic[T]):
    """One caller's work in the queue for the writer, and its answer."""

    __slots__ = ("answer", "done", "error", "gate", "leads", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], T]) -> None:
        self.work = work
        self.gate: Lock | None = None  # only who waits has one
        self.leads = False
        self.done = False
        self.error: BaseException | None = None
        self.answer: T | None = None

    def open(self) -> None:
        """Let its caller go on, if that one waits."""
        if self.gate is not None:
            self.gate.release()

    def settle(self, db: sqlite3.Connection) -> None:
        """Do the work; what the caller did wrong is kept for the caller."""
        try:
            self.answer = self.work(db)
        except _CALLERS_FAULT as error:
            self.error = ValueError(f"cannot be stored: {error}")
            self.error.__cause__ = error
        except sqlite3.Error:
            raise
        except Exception as error:
            self.error = error


class Pool:
    """The connections to one file; see the module's docstring."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._mutex = Lock()  # guards the queue
        self._led = False
        self._turn = Lock()  # guards the writer
        self._queue: deque[_Ticket[object]] = deque()
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._owner: int | None = None
        self._closed = False

    def prepare(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Do work on a connection that is closed at once.

        Nothing stays open, so that a process may make a store and then fork.

        Raises:
            StoreUnavailableError: SQLite failed.
        """
        try:
            with closing(self._source.connect()) as db:
                work(db)
        except (sqlite3.Error, OSError) as error:
            raise self._source.unavailable(error) from error

    # ------------------------------------------------------------ writing

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do work inside a write transaction, and return after its commit.

        Raises:
            StoreUnavailableError: SQLite failed; nothing is half-written.
        """
        self._check_usable()  # before any lock, which a fork may have inherited
        ticket = _Ticket(work)
        try:
            self._enqueue(cast("_Ticket[object]", ticket))
            if ticket.gate is not None:
                ticket.gate.acquire()  # released when it leads, or is done
            if not ticket.done:
                self._lead()
        finally:  # also when Ctrl-C ended the waiting: others must not wait for us
            self._leave(cast("_Ticket[object]", ticket))
        if ticket.error is not None:
            raise ticket.error
        return cast("T", ticket.answer)

    def _enqueue(self, ticket: _Ticket[object]) -> None:
        """Queue up, and lead if nobody does."""
        with self._mutex:
            if self._led:
                ticket.gate = Lock()
                ticket.gate.acquire()
            else:
                self._led = ticket.leads = True
            self._queue.append(ticket)

    def _leave(self, ticket: _Ticket[object]) -> None:
        """Be in nobody's way: out of the queue, and the next one leads."""
        with self._mutex:
            if not ticket.done and ticket in self._queue:
                self._queue.remove(ticket)
            if ticket.leads:
                ticket.leads = False
                self._led = bool(self._queue)
                if self._queue:
                    self._queue[0].leads = True
                    self._queue[0].open()

    def _lead(self) -> None:
        """Commit for those who have waited longest, the caller among them."""
        batch: list[_Ticket[object]] = []
        try:
            with self._mutex:
                while self._queue and len(batch) < _BATCH:
                    batch.append(self._queue.popleft())
            with self._turn:
                self._commit(batch)
        except (sqlite3.Error, OSError) as error:
            for ticket in batch:
                ticket.error = self._source.unavailable(error)
        except BaseException as error:
            for ticket in batch:
                ticket.error = StoreUnavailableError(f"the commit broke off: {error!r}")
            raise
        finally:
            for ticket in batch:
                ticket.done = True
                ticket.open()

    def _commit(self, batch: list[_Ticket[object]]) -> None:
        db = self._open_writer()
        try:
            db.execute("BEGIN IMMEDIATE")
            if len(batch) == 1:
                _settle_alone(db, batch[0])
            else:
                _settle_together(db, batch)
        except BaseException:
            self._writer = None  # in an unknown state: closing rolls back
            db.close()
            raise

    def _open_writer(self) -> sqlite3.Connection:
        if self._closed:
            raise sqlite3.ProgrammingError(_CLOSED)
        if self._writer is None:
            self._writer = self._connect()
        return self._writer

    # ------------------------------------------------------------ reading

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do work on a connection that nobody else uses meanwhile.

        Raises:
            StoreUnavailableError: SQLite failed.
        """
        self._check_usable()
        try:
            db = self._borrow()
            try:
                answer = work(db)
            except BaseException:
                db.close()
                raise
        except _CALLERS_FAULT as error:
            raise ValueError(f"cannot be looked up: {error}") from error
        except (sqlite3.Error, OSError) as error:
            raise self._source.unavailable(error) from error
        self._give_back(db)
        return answer

    def snapshot(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Like `read`, for work of several statements that must agree."""

        def of_one_moment(db: sqlite3.Connection) -> T:
            db.execute("BEGIN")
            answer = work(db)
            db.execute("COMMIT")
            return answer

        return self.read(of_one_moment)

    def _borrow(self) -> sqlite3.Connection:
        try:
            return self._readers.pop()
        except IndexError:
            return self._connect()

    def _give_back(self, db: sqlite3.Connection) -> None:
        if len(self._readers) >= _IDLE_READERS:
            db.close()
            return
        self._readers.append(db)
        if self._closed:  # while this one was away
            self._close_readers()

    # ------------------------------------------------------------ opening, closing

    def _connect(self) -> sqlite3.Connection:
        db = self._source.connect()
        self._owner = os.getpid()
        return db

    def _check_usable(self) -> None:
        if self._closed:
            raise self._source.unavailable(_CLOSED)
        if self._is_inherited():
            raise self._source.unavailable(_FORKED)

    def _is_inherited(self) -> bool:
        return self._owner is not None and self._owner != os.getpid()

    def close(self) -> None:
        """Close every connection; work that waits is refused."""
        if self._is_inherited():
            return  # closing would disturb the parent's locks
        with self._turn:
            self._closed = True
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._close_readers()

    def _close_readers(self) -> None:
        while self._readers:
            self._readers.pop().close()


def _settle_alone(db: sqlite3.Connection, ticket: _Ticket[object]) -> None:
    ticket.settle(db)
    db.execute("COMMIT" if ticket.error is None else "ROLLBACK")


def _settle_together(db: sqlite3.Connection, batch: list[_Ticket[object]]) -> None:
    """Each work in a savepoint of its own, so that one refusal harms no other."""
    for ticket in batch:
        db.execute("SAVEPOINT work")
        ticket.settle(db)
        if ticket.error is not None:
            db.execute("ROLLBACK TO work")
        db.execute("RELEASE work")
    db.execute("COMMIT")
