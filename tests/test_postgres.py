"""What only the Postgres store has: a server, a pool, processes, and a network."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from agentloop.ports import (
    EventRow,
    LeaseLostError,
    MissingExtraError,
    NewConversationRow,
    Reader,
    StoreUnavailableError,
)
from agentloop.stores.clock import MachineClock, instant, moment
from agentloop.stores.postgres import PostgresStore
from agentloop.stores.postgres_pool import Direct, Session, Transactions
from agentloop.stores.postgres_schema import MIGRATIONS, migrate
from agentloop.stores.versions import SchemaVersionError
from tests import postgres_server as server
from tests import postgres_workers as workers
from tests.servers.cutting_proxy import CuttingProxy, When
from tests.store_bench import LEASE, OURS, Bench, at_once, change, open_bench
from tests.test_stores_model import Twins

KILLS = int(os.environ.get("AGENTLOOP_TEST_PG_KILLS", "20"))
"""How many workers are killed; a release asks for a thousand."""
SCRIPT = str(Path(workers.__file__))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A bench for a store that is empty."""
    yield from open_bench("postgres", tmp_path)


@pytest.fixture
def schema() -> Iterator[str]:
    """The name of a schema that is not there."""
    name = "agentloop_own"
    _execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
    yield name
    _execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@pytest.fixture
def proxy(bench: Bench) -> Iterator[CuttingProxy]:
    """A proxy before the server."""
    with CuttingProxy(server.address()) as made:
        yield made


def _execute(statement: str) -> list[tuple[object, ...]]:
    with server.pool().connection() as db:
        cursor = db.execute(statement)
        return cursor.fetchall() if cursor.description else []


# ---------------------------------------------------------------- opening


def test_an_address_is_enough(bench: Bench) -> None:
    """A store made from an address opens a pool of its own, and closes it."""
    run = bench.run()
    with PostgresStore(server.address(), schema=server.SCHEMA) as store:
        assert store.get_run(OURS, run.id) == run
    with pytest.raises(StoreUnavailableError, match="closed"):
        store.get_run(OURS, run.id)


def test_the_hosts_pool_stays_the_hosts(bench: Bench) -> None:
    """Closing a store leaves the host's pool open."""
    bench.store.ping()
    bench.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        bench.store.ping()
    assert _execute("SELECT 1") == [(1,)]


def test_nothing_connects_before_the_first_call() -> None:
    """A store of a server that is not there is made, and fails when used."""
    pool = ConnectionPool(
        "host=127.0.0.1 port=1", min_size=0, max_size=1, timeout=0.2, open=True
    )
    store = PostgresStore(pool)
    with pytest.raises(StoreUnavailableError, match="Postgres store"):
        store.get_run(OURS, "run")
    pool.close()


@pytest.mark.parametrize("name", ["", "a b", 'a"b', "1a", "a" * 64, "é"])
def test_schemas_are_plain_names(name: str) -> None:
    """A schema that would need quoting is refused and named."""
    with pytest.raises(ValueError, match="schema"):
        PostgresStore(server.address(), schema=name)


def test_a_malformed_address_is_not_repeated() -> None:
    """An address that cannot be read is refused without showing its password."""
    with pytest.raises(ValueError, match="conninfo") as caught:
        PostgresStore("postgresql//me:hunter2@host/db")
    assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg the error says what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises((MissingExtraError, ImportError), match="psycopg"):
        PostgresStore("host=nowhere")


def _host_pool(**settings: object) -> ConnectionPool:
    def configure(db: psycopg.Connection) -> None:
        for name, value in settings.items():
            setattr(db, name, value)

    return ConnectionPool(
        server.address(), min_size=1, max_size=1, configure=configure, open=True
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"autocommit": True},
        {"row_factory": dict_row},
        {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE},
        {"prepare_threshold": 0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_any_pool_will_do(bench: Bench, settings: dict[str, object]) -> None:
    """However a host set up its connections, calls work and leave them so."""
    with _host_pool(**settings) as pool:
        store = PostgresStore(pool, schema=server.SCHEMA, clock=bench.clock)
        bench.store = store
        where = bench.conversation().id
        bench.finished(where, '"a"')
        assert store.messages(OURS, where).version == 1
        with pool.connection() as db:
            for name, value in settings.items():
                assert getattr(db, name) == value
            cursor = db.cursor(row_factory=psycopg.rows.tuple_row)
            cursor.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False)
            assert cursor.fetchone() == (0,)


def test_transactions_are_read_committed(bench: Bench) -> None:
    """Whatever the server's default is, a transaction reads committed rows."""
    with _host_pool(isolation_level=psycopg.IsolationLevel.SERIALIZABLE) as pool:
        work = Transactions(pool, server.SCHEMA, None, 1)
        level = work.write(lambda db: db.value("SHOW transaction_isolation"))
    assert level == "read committed"


def test_the_servers_clock_is_the_default(bench: Bench) -> None:
    """Without a clock, stamps and leases are by the server's."""
    before = MachineClock().now()
    bench.store = server.store()
    run = bench.run()
    assert before <= moment(run.started_at) <= MachineClock().now()
    claim = bench.claim(run.id, lease_seconds=0.0, run_timeout=60.0)
    assert 59 < claim.seconds_left <= 60
    assert bench.claim(run.id).lease.token > claim.lease.token
    assert bench.claim(run.id) is None


def test_no_repr_shows_a_password(bench: Bench) -> None:
    """Neither a store nor what it is made of shows its address."""
    store = PostgresStore("postgresql://me:hunter2@127.0.0.1:1/x")
    shown = [store, store._transactions, store._transactions._own, Direct("hunter2")]
    assert not [each for each in shown if "hunter2" in repr(each)]


# ---------------------------------------------------------------- migrations


def _migrated(schema: str, steps: tuple[tuple[str, ...], ...]) -> int:
    work = Transactions(server.pool(), schema, None, 1)
    return work.write(lambda db: migrate(db, steps))


def test_an_unmigrated_schema_is_refused(schema: str) -> None:
    """Before a migration every call says what to do, and makes nothing."""
    store = PostgresStore(server.pool(), schema=schema)
    for call in (store.ping, lambda: store.get_run(OURS, "run")):
        with pytest.raises(SchemaVersionError, match=r"migrate"):
            call()
    assert _execute(f"SELECT to_regnamespace('{schema}')") == [(None,)]
    assert store.migrate() == 0
    assert store.migrate() == len(MIGRATIONS)
    assert store.ping() is None


def test_an_older_schema_is_brought_forward(schema: str) -> None:
    """Every missing step is done once, in order, and rows stay."""
    bench = Bench(lambda clock: PostgresStore(server.pool(), schema=schema))
    bench.store.migrate()
    run = bench.run()
    steps = (
        *MIGRATIONS,
        ("ALTER TABLE @.runs ADD COLUMN later TEXT DEFAULT 'one'",),
        ("UPDATE @.runs SET later = later || ' two'",),
    )
    before = [_migrated(schema, steps[:2]), _migrated(schema, steps)]
    assert [*before, _migrated(schema, steps)] == [1, 2, 3]
    assert _execute(f"SELECT id, later FROM {schema}.runs") == [(run.id, "one two")]


def test_a_failed_migration_changes_nothing(schema: str) -> None:
    """A step that fails takes the whole migration back."""
    broken = (*MIGRATIONS, ("CREATE TABLE @.extra (n INT)", "SELECT 1 / 0"))
    with pytest.raises(ValueError, match="zero"):
        _migrated(schema, broken)
    assert _execute(f"SELECT to_regnamespace('{schema}')") == [(None,)]


def test_a_newer_schema_is_refused(schema: str) -> None:
    """A schema of a newer release is left alone by calls and by migrate."""
    PostgresStore(server.pool(), schema=schema).migrate()
    _execute(f"UPDATE {schema}.schema_version SET version = 99")
    store = PostgresStore(server.pool(), schema=schema)
    for call in (store.migrate, store.ping, lambda: store.get_run(OURS, "run")):
        with pytest.raises(SchemaVersionError, match=rf"99.*knows {len(MIGRATIONS)}"):
            call()
    assert _execute(f"SELECT version FROM {schema}.schema_version") == [(99,)]


def test_many_migrate_at_once(schema: str) -> None:
    """Stores that migrate one schema at once do it once, and all can work."""
    stores = [PostgresStore(server.pool(), schema=schema) for _ in range(8)]
    before = at_once([store.migrate for store in stores])
    assert sorted(before) == [0, *[len(MIGRATIONS)] * 7]


# ---------------------------------------------------------------- a bad network


def _proxied(proxy: CuttingProxy, bench: Bench) -> tuple[Bench, ConnectionPool]:
    """A bench whose store reaches the server through the proxy."""
    pool = ConnectionPool(proxy.conninfo, min_size=1, max_size=2, open=True)
    far = Bench(
        lambda clock: PostgresStore(pool, schema=server.SCHEMA, clock=bench.clock)
    )
    far.store.ping()
    return far, pool


@pytest.mark.parametrize("word", [b"BEGIN", b"messages", b"events"])
def test_a_loss_before_the_commit_is_made_good(
    bench: Bench, proxy: CuttingProxy, word: bytes
) -> None:
    """A connection lost before its COMMIT was sent costs the caller nothing."""
    far, pool = _proxied(proxy, bench)
    with pool:
        driven = far.drive()
        proxy.trap(word, "after")
        sent = change(messages=('"a"',), events=(EventRow(1, "{}"),))
        driven = far.commit(driven, sent)
        assert proxy.cuts == 1
        assert bench.store.run_messages(driven.run_id) == ('"a"',)
        assert bench.store.events(OURS, driven.run_id) == sent.events


@pytest.mark.parametrize("call", ["checkpoint", "finalize", "insert"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_commit_is_unknown(
    bench: Bench, proxy: CuttingProxy, when: When, call: str
) -> None:
    """When COMMIT is not answered the caller is told so, and may repeat the call."""
    far, pool = _proxied(proxy, bench)
    with pool:
        driven = far.drive()
        new = far.new_run(driven.claim.run.conversation_id)
        repeated = {
            "checkpoint": lambda: far.store.checkpoint(
                driven.lease, 0, change(messages=('"a"',)), LEASE
            ),
            "finalize": lambda: far.end(
                driven, last=change(messages=('"a"',)), terminal_event=EventRow(1, "{}")
            ),
            "insert": lambda: far.store.insert_run(new),
        }[call]
        proxy.trap(b"COMMIT\x00", when)  # BEGIN names READ COMMITTED
        with pytest.raises(StoreUnavailableError):
            repeated()
        assert proxy.cuts == 1
        _repeat_and_check(call, repeated, far, driven.run_id)


def _repeat_and_check(
    call: str, repeated: Callable[[], object], far: Bench, run_id: str
) -> None:
    repeated()
    where = far.store.get_run(OURS, run_id).conversation_id
    if call == "insert":
        assert len(far.store.list_runs(OURS, where)) == 2
        return
    assert far.store.run_messages(run_id) == ('"a"',)
    version = far.store.messages(OURS, where).version
    assert version == (1 if call == "finalize" else 0)


def test_dropped_idle_connections_are_replaced(
    bench: Bench, proxy: CuttingProxy
) -> None:
    """After every idle connection was cut, the next calls just work."""
    far, pool = _proxied(proxy, bench)
    with pool:
        run = far.run()
        for _ in range(3):
            proxy.cut_all()
            assert far.store.get_run(OURS, run.id) == run
            proxy.cut_all()
            assert far.store.request_cancel(OURS, far.run().id)


def test_a_loss_that_never_ends_is_told(bench: Bench) -> None:
    """A connection that is lost at every try ends in an unavailable store."""

    def die(db: Session) -> None:
        db.run("SELECT pg_terminate_backend(pg_backend_pid())")

    work = Transactions(server.pool(), server.SCHEMA, None, 1)
    with pytest.raises(StoreUnavailableError, match="terminat"):
        work.write(die)
    assert bench.store.ping() is None


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_rolled_back_transactions_are_done_again(bench: Bench, state: str) -> None:
    """A deadlock's victim certainly did not happen, and is done again."""
    tries = []

    def unlucky(db: Session) -> int:
        tries.append(db.value("SELECT 1"))
        if len(tries) < 3:
            db.run(f"DO $$ BEGIN RAISE 'no' USING ERRCODE = '{state}'; END $$")
        return len(tries)

    work = Transactions(server.pool(), server.SCHEMA, None, 1)
    assert work.write(unlucky) == 3


def test_errors_quote_no_values(bench: Bench) -> None:
    """What Postgres refuses is told without the row it was part of."""
    new = NewConversationRow(id="x", company_id=1, user_id=1, body='"hunter2"')
    bench.store.create_conversation(new)
    with pytest.raises(ValueError, match="stored") as caught:
        bench.store.create_conversation(new)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ValueError, match="stored"):
        bench.store.get_run(OURS, "\ud800")


@pytest.mark.parametrize("number", [2**63, -(2**64)])
def test_numbers_beyond_postgres(bench: Bench, number: int) -> None:
    """A number Postgres has no room for is the caller's mistake, and kept nowhere."""
    driven = bench.drive()
    with pytest.raises(ValueError, match="stored"):
        bench.commit(driven, change(iterations=number, messages=('"a"',)))
    assert bench.store.run_messages(driven.run_id) == ()
    assert bench.store.get_run(Reader(number), driven.run_id) is None


@pytest.mark.parametrize("text", ["\x00", "\x01", "\x000", "\x011", "a\x01\x00\x010"])
def test_control_characters_come_back(bench: Bench, text: str) -> None:
    """Ids and bodies with characters Postgres cannot hold come back as given."""
    row = bench.store.create_conversation(
        NewConversationRow(id=text, company_id=12, user_id=1, body=text)
    )
    assert bench.store.get_conversation(OURS, text) == row
    assert (row.id, row.body) == (text, text)


# ---------------------------------------------------------------- costs


def _statements(bench: Bench, call: Callable[[], object]) -> list[str]:
    seen: list[str] = []
    run = Session.run

    def noted(db: Session, statement: str, **values: object) -> int:
        seen.append(statement)
        return run(db, statement, **values)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Session, "run", noted)
        call()
    return seen


@pytest.mark.parametrize("count", [1, 500])
def test_finalize_costs_the_same_for_any_length(bench: Bench, count: int) -> None:
    """However many messages a run has, its end takes the same statements."""
    driven = bench.say(bench.drive(), *['"m"'] * count)
    event = EventRow(1, "{}")
    statements = _statements(
        bench, lambda: bench.store.finalize(driven.lease, 1, _final(event))
    )
    assert len(statements) == 9
    assert not [each for each in statements if "@.messages" in each]


def _final(event: EventRow) -> "workers.Final":
    return workers.Final(
        status="completed",
        result="1",
        conflict_result="2",
        keep=True,
        last=change(),
        terminal_event=event,
        conflict_event=event,
    )


def test_a_checkpoint_is_one_statement_per_kind(bench: Bench) -> None:
    """A checkpoint locks and rewrites one row, and adds each kind at once."""
    driven = bench.drive()
    sent = change(
        messages=('"a"', '"b"'), events=(EventRow(1, "{}"), EventRow(2, "{}"))
    )
    statements = _statements(bench, lambda: bench.commit(driven, sent))
    verbs = [each.split()[0] for each in statements]
    assert verbs == ["SELECT", "UPDATE", "INSERT", "INSERT"]


# ---------------------------------------------------------------- processes


def _process(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", SCRIPT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _whole(bench: Bench, run_ids: list[str]) -> None:
    """Every run ended once, with each of its messages in its place."""
    for run_id in run_ids:
        run = bench.store.get_run(OURS, run_id)
        assert run.status == "completed"
        page = bench.store.messages(OURS, run.conversation_id)
        bodies = [f'"{number}"' for number in range(workers.MESSAGES)]
        assert [row.body for row in page.rows] == bodies
        assert page.version == workers.MESSAGES
        ids = [event.id for event in bench.store.events(OURS, run_id)]
        assert ids == list(range(1, workers.MESSAGES + 2))


def test_eight_processes_share_the_work(bench: Bench) -> None:
    """Of eight processes on one server, one at a time drives each run."""
    bench.store = server.store()
    run_ids = [bench.run().id for _ in range(40)]
    _execute(f"CREATE TABLE {server.SCHEMA}.driving (id TEXT PRIMARY KEY)")
    processes = [_process("claim", server.address(), server.SCHEMA) for _ in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    outputs = at_once([lambda p=p: p.communicate("go\n", 100) for p in processes])
    _execute(f"DROP TABLE {server.SCHEMA}.driving")
    assert [error for _, error in outputs] == [""] * 8
    claims = [line for output, _ in outputs for line in output.splitlines()]
    assert len(set(claims)) == len(claims) == len(run_ids) * (workers.MESSAGES + 1)
    _whole(bench, run_ids)


@pytest.mark.parametrize("known", [1, 2, 5])
def test_a_claim_leases_one_run_by_any_plan(bench: Bench, known: int) -> None:
    """However few runs the planner believes in, a claim takes a single lease."""
    for _ in range(known):
        bench.run()
    _execute(f"ANALYZE {server.SCHEMA}.runs")
    for _ in range(10):
        bench.run()
    assert bench.claim() is not None
    leased = f"SELECT count(*) FROM {server.SCHEMA}.runs WHERE token > 0"
    assert _execute(leased) == [(1,)]


def test_killed_workers_lose_nothing(bench: Bench) -> None:
    """Workers die by SIGKILL amid their work, and every run ends whole."""
    bench.store = server.store()
    run_ids = [bench.run().id for _ in range(3 * KILLS)]
    process = _process("nursery", server.address(), server.SCHEMA, str(KILLS), "7")
    try:
        output, errors = process.communicate(timeout=5 * KILLS)
    finally:
        process.kill()
    assert (output.split(), errors) == (["killed"] * KILLS, "")
    statuses = [bench.store.get_run(OURS, run_id).status for run_id in run_ids]
    assert "completed" in statuses
    pause = threading.Event()
    for run_id in run_ids:
        while bench.store.get_run(OURS, run_id).status != "completed":
            claim = bench.claim(run_id)
            if claim is None:
                pause.wait(0.01)  # until the lease of the dead one runs out
                continue
            workers.drive(bench.store, claim, 30.0, lambda: None)
    _whole(bench, run_ids)


def test_a_killed_workers_lease_is_void(bench: Bench) -> None:
    """Who comes back after its run was taken over commits nothing."""
    driven = bench.drive()
    bench.clock.move(LEASE)
    other = Bench(lambda clock: server.store(bench.clock))
    newer = other.drive(driven.claim.run)
    with pytest.raises(LeaseLostError):
        bench.say(driven, '"a"')
    other.say(newer, '"b"')
    assert bench.store.run_messages(driven.run_id) == ('"b"',)


def test_deleting_races_with_driving(bench: Bench) -> None:
    """Deletes, prunes and finalizes at once end without orphans or deadlocks."""
    for _ in range(5):
        where = bench.conversation().id
        runs = [bench.drive(bench.run(where)) for _ in range(4)]
        works = [lambda each=each: bench.say(each, '"a"') for each in runs[:2]]
        works += [lambda each=each: bench.end(each) for each in runs[2:]]
        works.append(lambda where=where: bench.store.delete_conversation(OURS, where))
        works.append(lambda: bench.store.prune(instant(bench.clock.now())))
        for answer in at_once(works):
            assert not isinstance(answer, StoreUnavailableError)
    for table in ("runs", "run_texts", "messages", "segments", "events", "results"):
        count = _execute(f"SELECT count(*) FROM {server.SCHEMA}.{table}")
        assert (table, count) == (table, [(0,)])


# ---------------------------------------------------------------- twins


class PostgresTwins(Twins):
    """The Postgres store against the memory store, over random calls."""

    def __init__(self) -> None:
        server.emptied()
        super().__init__()

    def open(self) -> PostgresStore:
        return server.store(self.clock)


TestPostgresTwins = PostgresTwins.TestCase
TestPostgresTwins.settings = settings(max_examples=20, stateful_step_count=30)
