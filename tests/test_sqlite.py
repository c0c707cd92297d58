"""What only the SQLite store has: a file, other processes, and a disk that fails."""

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from agentloop.ports import (
    AttemptRow,
    Checkpoint,
    EventRow,
    LeaseLostError,
    StoreUnavailableError,
)
from agentloop.stores.sqlite import SQLiteStore
from agentloop.stores.sqlite_pool import Pool
from agentloop.stores.sqlite_schema import (
    MIGRATIONS,
    SchemaVersionError,
    migrate,
)
from tests.store_bench import (
    LEASE,
    OURS,
    Bench,
    Driven,
    at_once,
    change,
    job,
    open_bench,
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A bench for a store in a file of its own."""
    yield from open_bench("sqlite", tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "own.db"


def opener(path: Path, *pragmas: str) -> Callable[[], sqlite3.Connection]:
    """A host's own way to open connections."""

    def connect() -> sqlite3.Connection:
        db = sqlite3.connect(path, check_same_thread=False)
        for pragma in pragmas:
            db.execute(f"PRAGMA {pragma}")
        return db

    return connect


def rows_of(path: Path, query: str) -> list[tuple[object, ...]]:
    """Rows of a store's file, read past the store."""
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


# ---------------------------------------------------------------- opening


def test_a_file_outlives_its_store(path: Path) -> None:
    """What one store wrote, another one finds under the same path."""
    first = Bench(lambda clock: SQLiteStore(str(path), clock=clock))
    run = first.run()
    first.close()
    with SQLiteStore(path) as second:
        assert second.get_run(OURS, run.id) == run


def test_a_host_may_open_connections(path: Path) -> None:
    """A store takes a function that opens connections, and sets them up."""
    bench = Bench(lambda clock: SQLiteStore(opener(path), clock=clock))
    run = bench.run()
    bench.close()
    assert rows_of(path, "SELECT id FROM runs") == [(run.id,)]
    assert rows_of(path, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("level", ["OFF", "NORMAL", "FULL", "EXTRA"])
def test_synchronous_is_set_on_every_connection(path: Path, level: str) -> None:
    """The level that was asked for holds on each connection of the store."""
    opened = []

    def connect() -> sqlite3.Connection:
        opened.append(opener(path)())
        return opened[-1]

    bench = Bench(lambda clock: SQLiteStore(connect, synchronous=level))
    bench.store.get_run(OURS, bench.run().id)
    number = ["OFF", "NORMAL", "FULL", "EXTRA"].index(level)
    live = opened[1:]  # the first one served the migration and is closed
    assert [db.execute("PRAGMA synchronous").fetchone() for db in live] == [
        (number,),
        (number,),
    ]
    bench.close()


def test_full_is_the_default(path: Path) -> None:
    """Unless a host says otherwise, a commit is on the disk when it returns."""
    with SQLiteStore(path) as store:
        levels = store._pool.read(
            lambda db: db.execute("PRAGMA synchronous").fetchone()
        )
    assert levels == (2,)


def test_unknown_levels_are_refused(path: Path) -> None:
    """A level that SQLite does not know is named and nothing is opened."""
    with pytest.raises(ValueError, match="SOMETIMES"):
        SQLiteStore(path, synchronous="SOMETIMES")
    assert not path.exists()


@pytest.mark.parametrize("name", [":memory:", ""])
def test_memory_is_no_file(name: str) -> None:
    """A database that each connection would have for itself is refused."""
    with pytest.raises(ValueError, match="MemoryStore"):
        SQLiteStore(name)


def test_many_processes_may_open_a_new_file(path: Path) -> None:
    """Stores that open one new file at once all find it migrated."""
    stores = at_once([lambda: SQLiteStore(path)] * 8)
    assert [type(store) for store in stores] == [SQLiteStore] * 8
    for store in stores:
        store.ping()
        store.close()


# ---------------------------------------------------------------- migrations


def test_files_are_migrated_forward_in_order(bench: Bench, tmp_path: Path) -> None:
    """An older file gets every missing step once, in order, and keeps its rows."""
    run = bench.run()
    bench.close()
    steps = (
        *MIGRATIONS,
        ("ALTER TABLE runs ADD COLUMN later TEXT DEFAULT 'one'",),
        ("UPDATE runs SET later = later || ' two'",),
    )
    db = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    before = [migrate(db, steps[:-1]), migrate(db, steps), migrate(db, steps)]
    row = db.execute("SELECT id, later FROM runs").fetchone()
    db.close()
    assert before == [len(MIGRATIONS), len(MIGRATIONS) + 1, len(MIGRATIONS) + 2]
    assert row == (run.id, "one two")


def test_a_failed_migration_changes_nothing(path: Path) -> None:
    """A step that fails takes the whole migration back."""
    db = sqlite3.connect(path, isolation_level=None)
    broken = (*MIGRATIONS, ("CREATE TABLE extra (n)", "CREATE TABLE extra (n)"))
    with pytest.raises(sqlite3.OperationalError, match="extra"):
        migrate(db, broken)
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    db.close()
    assert tables == (0,)


def test_newer_files_are_refused(path: Path) -> None:
    """A file of a newer release is left alone, and both versions are named."""
    SQLiteStore(path).close()
    newer = len(MIGRATIONS) + 1
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE schema_version SET version = ?", (newer,))
    db.close()
    with pytest.raises(SchemaVersionError, match=rf"{newer}.*{len(MIGRATIONS)}"):
        SQLiteStore(path)
    assert rows_of(path, "SELECT version FROM schema_version") == [(newer,)]


# ---------------------------------------------------------------- when it fails


def test_a_missing_folder(tmp_path: Path) -> None:
    """A path that cannot be opened is named."""
    with pytest.raises(StoreUnavailableError, match=r"nowhere.*unable to open"):
        SQLiteStore(tmp_path / "nowhere" / "store.db")


def test_another_kind_of_file(path: Path) -> None:
    """A file that is no database is refused and not overwritten."""
    path.write_bytes(b"dear diary, " * 100)
    with pytest.raises(StoreUnavailableError, match="not a database"):
        SQLiteStore(path)
    assert path.read_bytes().startswith(b"dear diary")


def test_a_read_only_file(path: Path) -> None:
    """A file that may only be read fails each write, and reads go on."""
    bench = Bench(lambda clock: SQLiteStore(path, clock=clock))
    run = bench.run()
    bench.close()
    store = SQLiteStore(opener(path, "query_only = ON"))
    assert store.get_run(OURS, run.id) == run
    with pytest.raises(StoreUnavailableError, match="readonly"):
        store.request_cancel(OURS, run.id)
    assert store.get_run(OURS, run.id) == run
    store.close()


def test_a_file_beside_which_nothing_can_be_written(path: Path) -> None:
    """A file on a read-only disk is refused, saying what reading needs as well."""
    SQLiteStore(path).close()
    path.with_name(f"{path.name}-wal").mkdir()  # so that no log can be there
    with pytest.raises(StoreUnavailableError, match="writable, even for reading"):
        SQLiteStore(path)


def test_a_host_that_cannot_connect(path: Path) -> None:
    """An error of the host's own function is an unavailable store."""

    def connect() -> sqlite3.Connection:
        raise PermissionError("no key for the vault")

    with pytest.raises(StoreUnavailableError, match="vault"):
        SQLiteStore(connect)


def test_a_full_disk_leaves_nothing_half_written(path: Path) -> None:
    """When the disk is full the commit fails whole, and works again with room."""
    room = ["max_page_count = 200"]

    def connect() -> sqlite3.Connection:
        return opener(path, *room)()

    bench = Bench(lambda clock: SQLiteStore(connect, clock=clock))
    driven = bench.say(bench.drive(), '"a"')
    run_id = driven.run_id
    huge = change(
        first_message=1,
        messages=('"b"', "x" * 4_000_000),
        jobs=(job(run_id, 1),),
        events=(EventRow(1, "{}"),),
    )
    with pytest.raises(StoreUnavailableError, match="full"):
        bench.commit(driven, huge)
    with pytest.raises(StoreUnavailableError, match="full"):
        bench.end(driven, last=huge, terminal_event=EventRow(2, "{}"))
    assert bench.store.run_messages(run_id) == ('"a"',)
    assert bench.store.list_jobs(OURS, run_id) == ()
    assert bench.store.events(OURS, run_id) == ()
    assert bench.store.get_run(OURS, run_id).status == "running"
    room[:] = []
    bench.reopen()
    driven = bench.commit(driven, huge)
    assert len(bench.store.run_messages(run_id)) == 3
    bench.close()


def test_a_lock_that_is_never_given_back(path: Path) -> None:
    """A writer that waits too long for another process says for how long."""
    bench = Bench(lambda clock: SQLiteStore(path, clock=clock, busy_timeout=0.05))
    run = bench.run()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match=r"locked.*another process.*0\.05"):
        bench.claim(run.id)
    assert bench.store.get_run(OURS, run.id) == run
    other.execute("ROLLBACK")
    other.close()
    assert bench.claim(run.id) is not None
    bench.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.get_run(OURS, "run"),
        lambda store: store.messages(OURS, "conversation"),
        lambda store: store.prune("2026-05-18T13:21:30Z"),
        lambda store: store.ping(),
    ],
    ids=["get_run", "messages", "prune", "ping"],
)
def test_a_closed_store(path: Path, call: Callable[[SQLiteStore], object]) -> None:
    """Calls to a closed store say so, and closing twice is fine."""
    store = SQLiteStore(path)
    store.ping()
    store.close()
    store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        call(store)


@pytest.mark.parametrize("number", [2**63, -(2**64)])
def test_numbers_beyond_sqlite(bench: Bench, number: int) -> None:
    """A number SQLite has no room for is the caller's mistake, and kept nowhere."""
    driven = bench.drive()
    with pytest.raises(ValueError, match="too large"):
        bench.commit(driven, change(iterations=number, messages=('"a"',)))
    with pytest.raises(ValueError, match="surrogates"):
        bench.store.get_run(OURS, "\ud800")
    assert bench.store.run_messages(driven.run_id) == ()


def _tried(run_id: str, iteration: int, number: int) -> dict[str, Any]:
    row = AttemptRow(run_id=run_id, iteration=iteration, number=number, body="{}")
    return {"attempts": (row,)}


BEYOND: dict[str, Callable[[str], dict[str, Any]]] = {
    "high event": lambda _: {"events": (EventRow(2**32, "{}"),)},
    "high job": lambda run_id: {"jobs": (job(run_id, 2**16),)},
    "low job": lambda run_id: {"jobs": (job(run_id, -1),)},
    "high attempt": lambda run_id: _tried(run_id, 1, 2**16),
    "low attempt": lambda run_id: _tried(run_id, 1, -1),
    "attempt of a high job": lambda run_id: _tried(run_id, 2**16, 1),
}


@pytest.mark.parametrize("name", BEYOND)
def test_numbers_without_a_place(bench: Bench, name: str) -> None:
    """A number that would be kept among another run's rows is not kept at all."""
    driven = bench.drive()
    with pytest.raises(ValueError, match="is not within"):
        bench.commit(driven, change(**BEYOND[name](driven.run_id)))
    assert bench.store.events(OURS, driven.run_id) == ()
    assert bench.store.list_jobs(OURS, driven.run_id) == ()
    assert bench.commit(driven, change()).revision == 1


def test_neighbours_keep_apart(bench: Bench) -> None:
    """The last rows of a run and the first of the next are each their own run's."""
    first, second = bench.drive(), bench.drive()
    event, last = EventRow(2**32 - 1, '"last"'), job(first.run_id, 2**16 - 1)
    tried = _tried(first.run_id, 2**16 - 1, 2**16 - 1)
    bench.commit(first, change(events=(event,), jobs=(last,), **tried))
    brought = {"messages": ('"a"',), "events": (EventRow(1, "1"),)}
    bench.commit(second, change(jobs=(job(second.run_id, 0),), **brought))
    assert bench.store.events(OURS, first.run_id) == (event,)
    assert bench.store.events(OURS, first.run_id, 2**40) == ()
    assert bench.store.get_job(OURS, last.id)[:2] == (last, tried["attempts"])
    assert bench.store.list_jobs(OURS, first.run_id) == (last,)
    bench.store.delete_conversation(OURS, first.claim.run.conversation_id)
    assert bench.store.run_messages(second.run_id) == ('"a"',)
    assert bench.store.events(OURS, second.run_id, -1) == (EventRow(1, "1"),)
    assert bench.store.list_jobs(OURS, second.run_id) == (job(second.run_id, 0),)


# ---------------------------------------------------------------- threads


def test_closing_closes_the_connections_of_dead_threads(path: Path) -> None:
    """No connection is left open, and none is found by the garbage collector."""
    opened = []

    def connect() -> sqlite3.Connection:
        opened.append(opener(path)())
        return opened[-1]

    bench = Bench(lambda clock: SQLiteStore(connect))
    run = bench.run()
    at_once([lambda: bench.store.get_run(OURS, run.id)] * 24)
    bench.close()
    for db in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            db.execute("SELECT 1")


def test_a_forgotten_store_closes_itself(path: Path) -> None:
    """A store that nobody closed leaves no open connection behind."""
    opened = []

    def connect() -> sqlite3.Connection:
        opened.append(opener(path)())
        return opened[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SQLiteStore(connect).prune("2026-05-18T13:21:30Z")
        gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[-1].execute("SELECT 1")


def test_waiting_writers_share_a_commit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one commit is under way, all that wait are written by the next."""
    runs = [bench.drive() for _ in range(8)]
    batches, entered, go = [], threading.Event(), threading.Event()
    commit = Pool._commit

    def slow(pool: Pool, batch: list[object]) -> None:
        batches.append(len(batch))
        if len(batches) == 1:
            entered.set()
            go.wait(10)
        commit(pool, batch)

    monkeypatch.setattr(Pool, "_commit", slow)
    threads = [
        threading.Thread(target=bench.commit, args=(driven, change(messages=('"a"',))))
        for driven in runs
    ]
    threads[0].start()
    entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(bench.store._pool._queue) < 7:
        pass
    go.set()
    for thread in threads:
        thread.join()
    assert batches == [1, 7]
    assert all(bench.store.run_messages(d.run_id) == ('"a"',) for d in runs)


def _led_alone(pool: Pool) -> bool:
    """Whether somebody leads and nobody is queued, seen in one moment."""
    with pool._mutex:
        return pool._led and not pool._queue


def _queue_behind(bench: Bench, works: list[Callable[[], object]]) -> list[object]:
    """Do works that wait for a commit under way, so that they share the next."""
    pool = bench.store._pool
    with pool._turn:
        one_write = partial(bench.store.prune, "2000-01-01T00:00:00.000000Z")
        first = threading.Thread(target=one_write)
        first.start()
        while not _led_alone(pool):
            pass
        answers: list[object] = []
        others = threading.Thread(target=lambda: answers.extend(at_once(works)))
        others.start()
        while len(pool._queue) < len(works):
            pass
    first.join()
    others.join()
    return answers


def test_a_refusal_harms_nobody_in_the_same_commit(bench: Bench) -> None:
    """Works that share a commit succeed and fail each for itself."""
    good, stale, misfit = bench.drive(), bench.drive(), bench.drive()
    bench.say(bench.say(stale, '"newer"'), '"newest"')
    twice = AttemptRow(run_id=misfit.run_id, iteration=1, number=1, body="{}")
    works = [
        lambda: bench.commit(good, change(messages=('"a"',))),
        lambda: bench.commit(stale, change(messages=('"a"',))),
        lambda: bench.commit(
            misfit, change(messages=('"a"',), attempts=(twice, twice))
        ),
    ]
    answers = _queue_behind(bench, works)
    kinds = [type(answer).__name__ for answer in answers]
    assert kinds == ["Driven", "LeaseLostError", "ValueError"]
    staged = [bench.store.run_messages(d.run_id) for d in (good, stale, misfit)]
    assert staged == [('"a"',), ('"newer"', '"newest"'), ()]


def test_a_failed_commit_fails_for_all_of_it(path: Path) -> None:
    """When a shared commit fails, each caller hears that the outcome is unknown."""
    bench = Bench(
        lambda clock: SQLiteStore(opener(path, "max_page_count = 400"), clock=clock)
    )
    small, huge = bench.drive(), bench.drive()
    works = [
        lambda: bench.commit(small, change(messages=('"a"',))),
        lambda: bench.commit(huge, change(messages=("x" * 4_000_000,))),
    ]
    answers = _queue_behind(bench, works)
    assert [type(each) for each in answers] == [StoreUnavailableError] * 2
    assert answers[0] is not answers[1]
    assert bench.store.run_messages(small.run_id) == ()
    assert bench.say(small, '"a"').revision == 1
    bench.close()


def test_an_interrupted_leader_leaves_the_store_usable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a commit rolls back, and the next one works."""
    driven = bench.drive()

    def interrupted(db: object, batch: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("agentloop.stores.sqlite_pool._settle_alone", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.say(driven, '"a"')
    assert bench.store.run_messages(driven.run_id) == ()
    bench.say(driven, '"a"')
    assert bench.store.run_messages(driven.run_id) == ('"a"',)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_waiter_is_not_waited_for(bench: Bench) -> None:
    """Ctrl-C while waiting withdraws the work, and the queue moves on."""
    pool, driven = bench.store._pool, bench.drive()
    main = threading.main_thread().ident
    with pool._turn:
        leader = threading.Thread(target=bench.run)
        leader.start()
        while not _led_alone(pool):
            pass

        def interrupt() -> None:
            while not pool._queue:
                pass
            # A signal just before a thread blocks does not wake it: say it again.
            while pool._queue:
                signal.pthread_kill(main, signal.SIGINT)
                threading.Event().wait(0.5)

        killer = threading.Thread(target=interrupt)
        killer.start()
        with pytest.raises(KeyboardInterrupt):
            bench.commit(driven, change(messages=('"a"',)))
        killer.join()
    leader.join()
    assert bench.store.run_messages(driven.run_id) == ()
    assert bench.say(driven, '"b"').revision == 1


# ---------------------------------------------------------------- what it costs


def _traced(bench: Bench, call: Callable[[], object]) -> tuple[list[str], int]:
    """The statements a call runs on the writer, and the rows it touches."""
    bench.store.ping()
    pool = bench.store._pool
    bench.run()  # opens the writer
    statements: list[str] = []
    pool._writer.set_trace_callback(statements.append)
    before = pool._writer.total_changes
    call()
    pool._writer.set_trace_callback(None)
    return statements, pool._writer.total_changes - before


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_finalize_costs_the_same_for_any_length(bench: Bench, count: int) -> None:
    """However many messages a run has, its end touches the same few rows."""
    driven = bench.say(bench.drive(), *['"m"'] * count)
    statements, rows = _traced(bench, lambda: bench.end(driven))
    assert rows == 5  # the run twice, its event, the conversation, one segment
    assert len(statements) == 12
    page = bench.store.messages(OURS, driven.claim.run.conversation_id)
    assert page.version == len(page.rows) == count


def test_a_checkpoint_rewrites_one_row(bench: Bench) -> None:
    """A checkpoint updates the run's row unread, and all its other rows are new."""
    driven = bench.say(bench.drive(), *['"m"'] * 100)
    run_id = driven.run_id
    brought = change(
        first_message=100,
        messages=('"m"',),
        jobs=(job(run_id, 1),),
        attempts=(AttemptRow(run_id=run_id, iteration=1, number=1, body="{}"),),
        events=(EventRow(1, "{}"), EventRow(2, "{}")),
    )
    statements, rows = _traced(bench, lambda: bench.commit(driven, brought))
    verbs = [statement.split()[0] for statement in statements]
    assert verbs.count("UPDATE") == 1
    assert "DELETE" not in verbs
    assert rows == 1 + 5
    assert len(statements) == 8  # begin, update, five inserts, commit


# ---------------------------------------------------------------- surprises


def _overtaken(bench: Bench, driven: Driven) -> None:
    bench.clock.move(LEASE)
    assert bench.claim(driven.run_id)


def _released(bench: Bench, driven: Driven) -> None:
    bench.store.release(driven.lease)


def _ended(bench: Bench, driven: Driven) -> None:
    bench.end(driven)


def _deleted(bench: Bench, driven: Driven) -> None:
    bench.store.delete_conversation(OURS, driven.claim.run.conversation_id)


def _went_on(bench: Bench, driven: Driven) -> None:
    bench.commit(bench.commit(driven, change()), change())


@pytest.fixture(params=["the same store", "another store"])
def elsewhere(
    request: pytest.FixtureRequest, bench: Bench, tmp_path: Path
) -> Iterator[Bench]:
    """Where something happens to a run: in its driver's store, or past it."""
    if request.param == "the same store":
        yield bench
        return
    other = Bench(lambda _: SQLiteStore(tmp_path / "store.db", clock=bench.clock))
    other.clock = bench.clock
    yield other
    other.close()


def _second(**fields: object) -> Checkpoint:
    """What fits a run whose first commit brought one message and one event."""
    fitting = {"first_message": 1, "messages": ('"b"',), "events": (EventRow(2, "2"),)}
    return change(**{**fitting, **fields})


def _first(bench: Bench, *results: tuple[str, str]) -> Driven:
    """A run that its store has seen a commit of."""
    brought = change(messages=('"a"',), events=(EventRow(1, "1"),), results=results)
    return bench.commit(bench.drive(), brought)


@pytest.mark.parametrize(
    ("surprise", "told"),
    [
        (_overtaken, "newer claim"),
        (_released, "newer claim"),
        (_ended, "has ended"),
        (_deleted, "does not exist"),
        (_went_on, "revision 3, not 1"),
    ],
)
def test_a_run_that_was_lost_meanwhile(
    bench: Bench,
    elsewhere: Bench,
    surprise: Callable[[Bench, Driven], None],
    told: str,
) -> None:
    """A driver that committed before hears what happened to its run since."""
    driven = _first(bench)
    surprise(elsewhere, driven)
    staged = bench.store.run_messages(driven.run_id)
    with pytest.raises(LeaseLostError, match=told):
        bench.commit(driven, _second(header='"late"'))
    assert bench.store.run_messages(driven.run_id) == staged


def test_a_cancel_that_came_meanwhile(bench: Bench, elsewhere: Bench) -> None:
    """A driver's next commit is kept, and tells of the cancel."""
    driven = _first(bench)
    elsewhere.store.request_cancel(OURS, driven.run_id)
    assert bench.store.checkpoint(driven.lease, 1, _second(), LEASE) is True
    assert bench.store.run_messages(driven.run_id) == ('"a"', '"b"')


def test_a_commit_whose_answer_was_lost(bench: Bench, elsewhere: Bench) -> None:
    """A commit that was made already is not made again."""
    driven = _first(bench)
    elsewhere.commit(driven, _second())
    assert bench.store.checkpoint(driven.lease, 1, _second(), LEASE) is False
    assert bench.store.run_messages(driven.run_id) == ('"a"', '"b"')
    assert bench.commit(evolve(driven, revision=2), change()).revision == 3


def test_a_commit_after_the_end(bench: Bench, elsewhere: Bench) -> None:
    """A run that has ended takes no commit, not even one after the end's revision."""
    driven = _first(bench)
    elsewhere.end(driven)
    late = _second(events=(EventRow(3, "3"),))
    with pytest.raises(LeaseLostError, match="has ended"):
        bench.commit(evolve(driven, revision=2), late)
    assert bench.store.run_messages(driven.run_id) == ('"a"',)


@pytest.mark.parametrize("before", [(), (("k", "1"),)])
def test_results_go_with_the_turn_they_belong_to(
    bench: Bench, before: tuple[tuple[str, str], ...]
) -> None:
    """Messages end the turn of kept results, whichever commits brought those."""
    driven = _first(bench, *before)
    another = _second(messages=(), results=(("l", "2"),))
    driven = bench.commit(driven, another)
    bench.commit(driven, _second(events=(EventRow(3, "3"),)))
    bench.store.release(driven.lease)
    assert bench.claim(driven.run_id).results == ()


@pytest.mark.parametrize(
    ("misfit", "told"),
    [
        ({"first_message": 0}, "1 are staged"),
        ({"first_message": 2}, "1 are staged"),
        ({"events": (EventRow(1, "1"),)}, "1 follows 1"),
        ({"events": (EventRow(0, "0"), EventRow(2, "2"))}, "0 follows 1"),
        ({"events": (EventRow(2, "2"), EventRow(2, "2"))}, "2 follows 2"),
        ({"jobs": (job("elsewhere", 1),)}, "rows of elsewhere"),
        ({"header": "\ud800"}, "cannot be stored"),
        ({"iterations": 10**30}, "cannot be stored"),
    ],
)
def test_a_second_commit_that_does_not_fit(
    bench: Bench, misfit: dict[str, object], told: str
) -> None:
    """A misfit is told as at the first commit, and nothing of it is kept."""
    driven = _first(bench)
    with pytest.raises(ValueError, match=told):
        bench.commit(driven, _second(**misfit))
    assert bench.store.run_messages(driven.run_id) == ('"a"',)
    assert len(bench.store.events(OURS, driven.run_id)) == 1
    assert bench.commit(driven, _second()).revision == 2


def test_a_lost_lease_is_told_before_a_misfit(bench: Bench) -> None:
    """Who lost a run hears of that first, whatever else is wrong with a commit."""
    driven = _first(bench)
    bench.store.release(driven.lease)
    with pytest.raises(LeaseLostError):
        bench.commit(driven, _second(header="\ud800", jobs=(job("elsewhere", 1),)))


def test_a_file_that_is_another_one_by_now(path: Path, tmp_path: Path) -> None:
    """What was remembered of a file says nothing about the one put in its place."""
    files = [path, tmp_path / "other.db"]
    bench = Bench(lambda clock: SQLiteStore(lambda: opener(files[0])(), clock=clock))
    other = Bench(lambda clock: SQLiteStore(files[1], clock=clock))
    other.fresh("run")  # so that its runs have other ids, and the same numbers
    ours, theirs = _first(bench), _first(other)
    files.reverse()
    for db in (bench.store._pool._writer, *bench.store._pool._readers):
        db.close()
    with pytest.raises(StoreUnavailableError):
        bench.commit(ours, _second())
    with pytest.raises(LeaseLostError, match="does not exist"):
        bench.commit(ours, _second())
    assert other.store.run_messages(theirs.run_id) == ('"a"',)
    bench.close()
    other.close()


def test_more_runs_than_are_remembered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many runs take turns to commit, each gets its own rows."""
    monkeypatch.setattr("agentloop.stores.sqlite_driving._KNOWN", 2)
    runs = [_first(bench) for _ in range(4)]
    for driven in runs:
        bench.commit(driven, _second(messages=(f'"{driven.run_id}"',)))
    staged = [bench.store.run_messages(driven.run_id) for driven in runs]
    assert staged == [('"a"', f'"{driven.run_id}"') for driven in runs]


# ---------------------------------------------------------------- growth


def test_the_file_grows_with_what_a_run_brings(bench: Bench, tmp_path: Path) -> None:
    """Twice the checkpoints make twice the rows, and about twice the bytes."""

    def grow() -> int:
        driven = bench.drive()
        for number in range(200):
            sent = change(
                first_message=number,
                messages=("x" * 2000,),
                events=(EventRow(number + 1, "{}"),),
            )
            driven = bench.commit(driven, sent)
        bench.reopen()
        return (tmp_path / "store.db").stat().st_size

    first, second, third = grow(), grow(), grow()
    assert 0.9 < (third - second) / (second - first) < 1.1
    counts = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM events)"
    assert rows_of(tmp_path / "store.db", counts) == [(600, 600)]


# ---------------------------------------------------------------- processes

CLAIM_ALL = """
import sys
from agentloop.ports import ClaimRequest
from agentloop.stores.sqlite import SQLiteStore

with SQLiteStore(sys.argv[1], synchronous="OFF") as store:
    print("ready", flush=True)
    sys.stdin.readline()
    request = ClaimRequest(driver="embedded", lease_seconds=600)
    for claim in iter(lambda: store.claim(request), None):
        print(claim.run.id, claim.lease.token, flush=True)
"""

COMMIT_FOREVER = """
import sys
from itertools import count
from agentloop.ports import Checkpoint, ClaimRequest, EventRow
from agentloop.stores.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])
claim = store.claim(ClaimRequest(driver="embedded", lease_seconds=0.0))
for n in count(claim.revision):
    change = Checkpoint(
        header=str(n + 1),
        iterations=n + 1,
        first_message=3 * n,
        messages=(str(n) * 5000, "b", "c"),
        events=(EventRow(n + 1, "{}"),),
    )
    store.checkpoint(claim.lease, n, change, 0.0)
    print(n + 1, flush=True)
"""


def _process(script: str, path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_claim_each_run_once(path: Path) -> None:
    """Processes that race for the runs of one file take each exactly once."""
    bench = Bench(lambda clock: SQLiteStore(path, clock=clock, synchronous="OFF"))
    runs = [bench.run().id for _ in range(200)]
    processes = [_process(CLAIM_ALL, path) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    outputs = at_once(
        [
            lambda process=process: process.communicate("go\n", 60)
            for process in processes
        ]
    )
    bench.close()
    assert [error for _, error in outputs] == [""] * 3
    taken = [line.split()[0] for output, _ in outputs for line in output.splitlines()]
    assert sorted(taken) == sorted(runs)


@pytest.mark.parametrize("commits", [1, 7, 30])
def test_a_killed_process_leaves_a_whole_state(path: Path, commits: int) -> None:
    """After SIGKILL amid checkpoints, revision, messages and events agree."""
    bench = Bench(lambda clock: SQLiteStore(path))
    run = bench.run()
    process = _process(COMMIT_FOREVER, path)
    seen = [process.stdout.readline() for _ in range(commits)]
    process.send_signal(signal.SIGKILL)
    seen += process.stdout.readlines()  # the pipe alone: more may be in its buffer
    process.communicate()
    confirmed = int(seen[-1])
    bench.reopen()
    claim = bench.claim(run.id)
    assert claim.revision in {confirmed, confirmed + 1}
    assert claim.header == str(claim.revision)
    assert claim.run.iterations == claim.last_event == claim.revision
    assert len(claim.messages) == 3 * claim.revision
    assert len(bench.store.events(OURS, run.id)) == claim.revision
    checks = rows_of(path, "PRAGMA integrity_check")
    bench.close()
    assert checks == [("ok",)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("used", [False, True])
def test_forking(path: Path, used: bool) -> None:
    """A store goes through a fork before its first use, and refuses one after."""
    script = f"""
import os, sys
from agentloop.ports import Reader, StoreUnavailableError
from agentloop.stores.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])
if {used}:
    store.ping()
if os.fork() == 0:
    try:
        store.get_run(Reader(1), "nowhere")
        store.prune("2026-05-18T13:21:30Z")
        print("works")
    except StoreUnavailableError as error:
        print("refused" if "forked" in str(error) else error)
    sys.exit()
os.wait()
store.ping()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("refused\n" if used else "works\n", "")


def test_no_warning_at_exit(path: Path) -> None:
    """A process that never closes its store ends without a word."""
    script = """
import sys, threading
from agentloop.ports import Reader
from agentloop.stores.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])
threads = [
    threading.Thread(target=store.get_run, args=(Reader(1), "nowhere"))
    for _ in range(4)
]
for thread in threads:
    thread.start()
store.prune("2026-05-18T13:21:30Z")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_second_store_sees_leases(bench: Bench, tmp_path: Path) -> None:
    """Two stores on one file fence each other's drivers."""
    driven = bench.drive()
    other = Bench(lambda clock: SQLiteStore(tmp_path / "store.db", clock=bench.clock))
    assert other.claim(driven.run_id) is None
    bench.clock.move(LEASE)
    newer = other.drive(driven.claim.run)
    with pytest.raises(LeaseLostError):
        bench.say(driven, '"a"')
    other.say(newer, '"b"')
    other.close()
    assert bench.store.run_messages(driven.run_id) == ('"b"',)
