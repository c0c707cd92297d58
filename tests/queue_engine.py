"""A third engine, as a host might bring one: a table of runs that workers poll.

It shows how little the recipe asks for: the table says which runs were started and
which were woken, and any worker plays any run that is not done. Nobody owns a run;
two workers that play the same one are kept apart by the store.
"""

import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve

from agentloop import AgentLoop
from agentloop.core.machine import next_command
from agentloop.core.phases import Finish
from agentloop.ports import LeaseLostError, Reader, RunRef, StoreUnavailableError
from agentloop.runtime.rounds import RunBusyError, RunNotFoundError
from agentloop.stores.sqlite import SQLiteStore

AWAY = (RunBusyError, LeaseLostError, StoreUnavailableError)


class Table:
    """The runs that were started: `started`, `woken` or `done`."""

    def __init__(self, folder: str) -> None:
        self._file = f"{folder}/queue.db"
        # With a write-ahead log: a worker that is stopped while it reads would keep
        # everybody from writing. And a connection stays, for the last one to close
        # locks the file.
        self._kept = sqlite3.connect(self._file, timeout=30, check_same_thread=False)
        weakref.finalize(self, self._kept.close)
        self._kept.execute("PRAGMA journal_mode = WAL").fetchall()
        self.run(
            "CREATE TABLE IF NOT EXISTS queue"
            " (run TEXT PRIMARY KEY, company INT, woken INT, done INT)"
        )

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._file, timeout=30, isolation_level=None)
        try:
            yield db
        finally:
            db.close()

    def run(self, statement: str, *values: Any) -> list[Any]:
        until = time.monotonic() + 30
        while True:
            try:
                with self._opened() as db:
                    return db.execute(statement, values).fetchall()
            except sqlite3.OperationalError as error:
                # Who finds the journal of a killed process is not always let wait.
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)


class QueueEngine:
    """Starts and wakes runs by writing the table."""

    name = "queue"

    def __init__(self, table: Table) -> None:
        self._table = table

    def start(self, run: RunRef) -> None:
        statement = "INSERT OR IGNORE INTO queue VALUES (?, ?, 0, 0)"
        self._table.run(statement, run.run_id, run.company_id)

    def cancel(self, run: RunRef) -> None:
        self._table.run("UPDATE queue SET woken = 1 WHERE run = ?", run.run_id)


class QueuePlayer:
    """Plays the runs of the table on threads of this process."""

    def __init__(self, table: Table, loop: AgentLoop) -> None:
        self._table = table
        self.rounds = loop.rounds("queue")
        self._stopped = threading.Event()
        self._mine: set[str] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._play) for _ in range(6)]
        self._threads.append(threading.Thread(target=self._find_lost_starts))

    def __enter__(self) -> "QueuePlayer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _play(self) -> None:
        while not self._stopped.wait(0.02):
            for run_id, company in self._due():
                if self._taken(run_id):
                    self._one(RunRef(run_id, company))

    def _taken(self, run_id: str) -> bool:
        with self._lock:
            free = run_id not in self._mine
            self._mine.add(run_id)
            return free

    def _one(self, run: RunRef) -> None:
        try:
            self._recipe(run)
        except AWAY:
            self._stopped.wait(0.05)
        except RunNotFoundError:  # there is no such run any more
            self._done(run)
        finally:
            self._mine.discard(run.run_id)

    def _done(self, run: RunRef) -> None:
        self._table.run("UPDATE queue SET done = 1 WHERE run = ?", run.run_id)

    def _find_lost_starts(self) -> None:
        """Now and then: start what the table never heard of; twice is as once."""
        store = self.rounds.runner.resources.store
        while not self._stopped.wait(0.5):
            for run in store.unclaimed("queue", 100):
                QueueEngine(self._table).start(run)

    def _due(self) -> list[Any]:
        return self._table.run("SELECT run, company FROM queue WHERE done = 0")

    def _recipe(self, run: RunRef) -> None:
        standing = self.rounds.begin(run)
        while not isinstance(next_command(standing.state), Finish):
            self._sleep(run, standing.wait)
            if self._stopped.is_set():
                return
            standing = self.rounds.go_on(run, standing)
        self._done(run)

    def _sleep(self, run: RunRef, seconds: float) -> None:
        woken = "SELECT 1 FROM queue WHERE run = ? AND woken = 1"
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopped.wait(0.05):
            if self._table.run(woken, run.run_id):
                return


class QueuePlace:
    """The queue and a store in one folder."""

    lease = 1.0

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def store(self) -> SQLiteStore:
        return SQLiteStore(str(Path(self._folder) / "agents.db"), synchronous="OFF")

    def engine(self) -> QueueEngine:
        return QueueEngine(Table(self._folder))

    def work(self, loop: AgentLoop) -> QueuePlayer:
        return QueuePlayer(Table(self._folder), loop)

    def kept(self) -> list[str]:
        return [str(row) for row in Table(self._folder).run("SELECT * FROM queue")]

    def close(self) -> None:
        """Nothing stays open."""


def place(folder: str) -> QueuePlace:
    """The factory that the kit imports."""
    return QueuePlace(folder)


class LyingPlace:
    """A place that breaks promises: every call is made twice, the second time wrong."""

    lease = 1.0

    def __init__(self, folder: str) -> None:
        self._place = QueuePlace(folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    def work(self, loop: AgentLoop) -> QueuePlayer:
        player = self._place.work(loop)
        servers: Any = player.rounds.runner.resources.servers
        for alias, server in list(servers.items()):
            servers[alias] = Twice(server)
        return player


class Twice:
    """A tool server that does everything twice."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def call(self, call: Any) -> Any:
        self._server.call(call)
        return self._server.call(evolve(call, name=f"{call.name} again"))


def lying(folder: str) -> LyingPlace:
    """The factory of a place that breaks promises."""
    return LyingPlace(folder)


class Tired(QueuePlayer):
    """Takes a lease that was lost for the end of the run."""

    def _recipe(self, run: RunRef) -> None:
        try:
            super()._recipe(run)
        except LeaseLostError:
            self._done(run)


class Fragile(QueuePlayer):
    """Tries again, and again, what can be no more."""

    def _done(self, run: RunRef) -> None:
        row = self.rounds.runner.resources.store.get_run(Reader(1), run.run_id)
        if row is not None:
            super()._done(run)


class Blind(QueuePlayer):
    """Never looks for starts that were lost."""

    def _find_lost_starts(self) -> None:
        """Nobody asked for it."""


class Curious(QueuePlayer):
    """Keeps what the user said."""

    def _recipe(self, run: RunRef) -> None:
        row = self.rounds.runner.resources.store.get_run(Reader(1), run.run_id)
        said = row.payload if row else ""
        self._table.run("CREATE TABLE IF NOT EXISTS said (run TEXT, text TEXT)")
        self._table.run("INSERT INTO said VALUES (?, ?)", run.run_id, said)
        super()._recipe(run)


FAULTY = {each.__name__: each for each in (Tired, Fragile, Blind, Curious)}


class FaultyPlace(QueuePlace):
    """A place whose players break one promise."""

    def __init__(self, address: str) -> None:
        fault, _, folder = address.partition(" ")
        super().__init__(folder)
        self._player = FAULTY[fault]

    def work(self, loop: AgentLoop) -> QueuePlayer:
        return self._player(Table(self._folder), loop)

    def kept(self) -> list[str]:
        table = Table(self._folder)
        names = table.run("SELECT name FROM sqlite_master WHERE type = 'table'")
        rows = [row for (name,) in names for row in table.run(f"SELECT * FROM {name}")]
        return list(map(str, rows))


def faulty(address: str) -> FaultyPlace:
    """The factory of places with a fault, `FAULT FOLDER`."""
    return FaultyPlace(address)
