"""Runs on DBOS: the kit for engines over a real Postgres, and what is DBOS' own."""

import base64
import pickle
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from attrs import define
from dbos import DBOS

from agentloop import AgentLoop, Run
from agentloop.core.catalog import RequestError
from agentloop.engines.dbos import DbosDatabase, DbosEngine, DbosWorker
from agentloop.engines.dbos_watch import BEAT, Watch, executor_of
from agentloop.ports import EngineUnavailableError, RunRef
from agentloop.runtime.system import RandomIds
from agentloop.stores.postgres import PostgresStore
from agentloop.testing.engines import (
    CHECKS,
    PARITY,
    SERVER_CHECKS,
    Stage,
    death,
    opened,
    parity,
)
from agentloop.testing.engines.left import SCOPE
from agentloop.testing.engines.stage import Line, reference
from agentloop.testing.engines.waiting import until
from agentloop.testing.scripted import ScriptedBackend
from tests.dbos_place import fresh_database
from tests.postgres_mortal import mortal_postgres

A_HANDFUL = ("after an inference", "before the calls are answered", "after finalize")
"""The other places where a worker can die are for the release command."""
NOBODY = "postgresql://secretuser:secretword@127.0.0.1:1/nothing"


@define
class Engine:
    """A stage on DBOS, and the database underneath."""

    stage: Stage
    address: str

    def rows(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.address, autocommit=True) as db:
            found = db.execute(statement, values)
            return found.fetchall() if found.description else []

    def status(self, run_id: str) -> str | None:
        found = self.rows(
            "SELECT status FROM dbos.workflow_status WHERE workflow_uuid = %s", run_id
        )
        return found[0][0] if found else None


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """DBOS and a store in a fresh database on a server of its own."""
    with mortal_postgres() as server:
        address = fresh_database(server.address, "engine")
        with opened("tests.dbos_place:place", address, server=server) as stage:
            yield Engine(stage, address)


# ---------------------------------------------------------------- the kit


@pytest.mark.parametrize("flow", PARITY)
def test_parity(engine: Engine, flow: str) -> None:
    """A flow leaves the same run and messages as without an engine."""
    parity(engine.stage, flow)


@pytest.mark.parametrize("where", A_HANDFUL)
def test_death(engine: Engine, where: str) -> None:
    """A worker that dies at an exact place leaves no trace but a lost attempt."""
    death(engine.stage, where)


@pytest.mark.parametrize("check", CHECKS)
def test_check(engine: Engine, check: str) -> None:
    """What the kit claims holds of DBOS."""
    CHECKS[check](engine.stage)


# ---------------------------------------------------------------- what DBOS keeps


def pickles(texts: list[str]) -> list[str]:
    """The texts that hold a pickle, as DBOS' own serializer writes one."""
    return [text for text in texts if _decoded(text).startswith(b"\x80")]


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def kept(engine: Engine) -> list[str]:
    """Every text in every table of DBOS."""
    tables = engine.rows(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'dbos'"
    )
    assert len(tables) > 5
    found = [
        cell
        for (table,) in tables
        for (row,) in engine.rows(f"SELECT to_jsonb(t) FROM dbos.{table} t")
        for cell in row.values()
    ]
    return [cell for cell in found if isinstance(cell, str)]


def test_nothing_is_pickled(engine: Engine) -> None:
    """Whatever DBOS has kept by now is portable JSON, in every table."""
    parity(engine.stage, "cancelled while waiting")  # so that there are messages
    assert engine.rows("SELECT 1 FROM dbos.notifications LIMIT 1")
    for table in ("workflow_status", "operation_outputs", "notifications"):
        (kinds,) = engine.rows(
            f"SELECT array_agg(DISTINCT serialization) FROM dbos.{table}"
            f" WHERE serialization IS NOT NULL"
        )
        assert kinds == (["portable_json"],), table
    assert pickles(kept(engine)) == []
    pickled = base64.b64encode(pickle.dumps({"state": 1})).decode()
    assert pickles(["portable_json", "completed", pickled]) == [pickled]


def test_nothing_that_was_said_is_kept(engine: Engine) -> None:
    """Neither texts nor arguments nor results pass through DBOS."""
    parity(engine.stage, "mixed turn")
    texts = "".join(kept(engine))
    for said in ("hello", "booked", "at last", '"slot"', "yes to", "pay 1"):
        assert said not in texts
    longest = engine.rows("SELECT max(length(output)) FROM dbos.operation_outputs")
    assert longest[0][0] < 2000


def test_a_step_is_named_after_its_command(engine: Engine) -> None:
    """What an operator sees in DBOS is what the run does."""
    stage = engine.stage
    stage.staff()
    run = stage.ended(stage.start("server tools"))
    until(lambda: engine.status(run.id) == "SUCCESS", "the workflow ends")
    names = engine.rows(
        "SELECT function_name FROM dbos.operation_outputs"
        " WHERE workflow_uuid = %s ORDER BY function_id",
        run.id,
    )
    assert [name for (name,) in names] == [
        "begin",
        *("infer", "call_tools") * 2,
        "infer",
    ]
    version = engine.rows(
        "SELECT application_version FROM dbos.workflow_status WHERE workflow_uuid = %s",
        run.id,
    )
    assert version == [("agentloop-1",)]


# ---------------------------------------------------------------- take-over


def test_a_start_that_nobody_repeats_is_found(engine: Engine) -> None:
    """A run whose start was lost gets its workflow from a worker that looks."""
    stage = engine.stage
    stage.staff(0)
    run = _lost(stage)
    assert engine.status(run.id) is None
    stage.staff(1)
    assert stage.ended(run).final_text == "hello é 😀"


def test_the_lost_starts_of_other_places_are_left_alone(engine: Engine) -> None:
    """A worker of another queue may lack the tools and the model of a run."""
    stage = engine.stage
    stage.staff(0)
    theirs = Line(DbosEngine(DbosDatabase(engine.address, name="elsewhere")), cut=True)
    with (
        PostgresStore(engine.address) as store,
        AgentLoop(ScriptedBackend(), store, engine=theirs) as other,
    ):
        where = other.create_conversation(defaults={"model": "m"}, scope=SCOPE).id
        with pytest.raises(RequestError, match="same client_op_id"):
            other.start_run(where, "go", scope=SCOPE)
        (left,) = other.list_runs(where, scope=SCOPE)
    ours = _lost(stage)
    stage.staff(1)
    assert stage.ended(ours).status == "completed"
    assert stage.loop.get_run(left.id, scope=SCOPE).status == "pending"
    assert engine.status(left.id) is None


def _lost(stage: Stage) -> Run:
    """A run whose start never reached the engine."""
    where = stage.converse("answer")
    stage.line.cut = True
    try:
        with pytest.raises(RequestError, match="same client_op_id"):
            stage.start("answer", where)
    finally:
        stage.line.cut = False
    (run,) = stage.loop.list_runs(where, scope=SCOPE)
    return run


def test_a_worker_that_looks_around_changes_nothing_of_runs(engine: Engine) -> None:
    """What waits for a worker with time stays `pending`, so that repeats heal it."""
    stage = engine.stage
    stage.staff(0)
    database = DbosDatabase(engine.address, silence=3.0)
    run = stage.start("answer")
    with PostgresStore(engine.address) as store:
        watch = Watch(database, "1-nobody", store, set)
        watch.start()
        try:
            watch._alone(watch._adopt)
        finally:
            watch.stop()
    assert stage.loop.get_run(run.id, scope=SCOPE).status == "pending"
    assert engine.status(run.id) == "ENQUEUED"


# ---------------------------------------------------------------- versions


OLDER = "agentloop-0"


def _as_of(engine: Engine, version: str, run: Run) -> None:
    """Have a run's workflow be one that another version left."""
    statement = (
        "UPDATE dbos.workflow_status SET application_version = %s"
        " WHERE workflow_uuid = %s"
    )
    engine.rows(statement, version, run.id)


@pytest.mark.parametrize("leave", ["kill", "dismiss"])
def test_a_run_of_an_older_version_is_begun_anew(engine: Engine, leave: str) -> None:
    """What a worker of an older release left, dead or cleanly, goes on as it would."""
    stage = engine.stage
    stage.staff(1)
    run = stage.start("waits")
    until(lambda: stage.tried(run) == 1, "it waits")
    getattr(stage.crew, leave)(stage.crew.alive[0])
    _as_of(engine, OLDER, run)
    stage.staff(1)
    assert stage.ended(run).status == "completed"
    assert stage.left(run) == reference("waits")


def test_workers_of_an_older_version_keep_their_queue(engine: Engine) -> None:
    """What waits for them is taken only when the last one is gone."""
    stage = engine.stage
    stage.staff(0)
    run = stage.start("answer")
    _as_of(engine, OLDER, run)
    database = DbosDatabase(engine.address)
    name = executor_of(database, RandomIds()).replace("1", "0", 1)
    there = {"application_name": f"agentloop {name}"}
    stage.staff(1)
    with psycopg.connect(engine.address, autocommit=True, **there) as older:
        began = time.monotonic()
        while time.monotonic() < began + 3 * BEAT:
            older.execute("SELECT 1")  # it is heard of
            time.sleep(0.1)
        assert engine.status(run.id) == "ENQUEUED"
    assert stage.ended(run).status == "completed"


def test_runs_are_driven_after_a_return_to_an_older_version(engine: Engine) -> None:
    """A newer version that was there once keeps nobody from new runs."""
    stage = engine.stage
    engine.rows(
        "INSERT INTO dbos.application_versions"
        " (version_id, version_name, application_name)"
        " VALUES ('newer', 'agentloop-99', 'agentloop')"
    )
    try:
        stage.staff(1)
        assert stage.ended(stage.start("answer")).status == "completed"
    finally:
        engine.rows("DELETE FROM dbos.application_versions WHERE version_id = 'newer'")


def test_a_run_that_a_newer_version_began_waits_for_it(engine: Engine) -> None:
    """Nobody else can read what its workflow holds, and no other run waits for it."""
    stage = engine.stage
    stage.staff(0)
    run = stage.start("answer")
    _as_of(engine, "agentloop-99", run)
    stage.staff(1)
    assert stage.ended(stage.start("answer")).status == "completed"
    time.sleep(2 * BEAT)
    assert engine.status(run.id) == "ENQUEUED"
    _as_of(engine, "agentloop-1", run)
    assert stage.ended(run).status == "completed"


# ---------------------------------------------------------------- giving back


def test_a_workflow_that_was_cancelled_in_dbos_is_begun_again(engine: Engine) -> None:
    """Its run is not over: only the loop ends runs."""
    stage = engine.stage
    stage.staff(0)
    run = stage.start("server tools")
    client = DbosDatabase(engine.address).client()
    client.cancel_workflow(run.id)
    client.destroy()
    assert engine.status(run.id) == "CANCELLED"
    stage.staff(1)
    assert stage.ended(run).status == "completed"
    assert stage.left(run) == reference("server tools")


def test_a_worker_that_leaves_gives_its_runs_back(engine: Engine) -> None:
    """They are in the queue when it is gone, with nobody having to notice."""
    stage = engine.stage
    stage.staff(1)
    run = stage.start("waits")
    until(lambda: stage.tried(run) == 1, "it waits")
    stage.crew.dismiss(stage.crew.alive[0])
    assert engine.status(run.id) == "ENQUEUED"
    stage.staff(1)
    assert stage.left(stage.ended(run)) == reference("waits")


# ---------------------------------------------------------------- the client


def test_a_start_is_idempotent(engine: Engine) -> None:
    """However often a run is started, it has one workflow."""
    stage = engine.stage
    stage.staff(0)
    run = stage.start("answer")
    for _ in range(3):
        stage.line.start(RunRef(run.id, run.company_id))
    assert engine.status(run.id) == "ENQUEUED"
    stage.staff(1)
    stage.ended(run)
    until(lambda: engine.status(run.id) == "SUCCESS", "the workflow ends")
    stage.line.start(RunRef(run.id, run.company_id))
    assert engine.status(run.id) == "SUCCESS"


def test_a_run_that_dbos_does_not_know_cannot_be_woken(engine: Engine) -> None:
    """Nothing happens, as the port has it."""
    with DbosEngine(DbosDatabase(engine.address)) as client:
        client.cancel(RunRef("nobody", 1))


def test_an_address_where_nobody_answers_is_told_at_once() -> None:
    """The caller hears that DBOS is away, and no password."""
    database = DbosDatabase(NOBODY)
    assert "secretword" not in repr(database)
    with DbosEngine(database) as client:
        for ask in (client.start, client.cancel):
            with pytest.raises(EngineUnavailableError) as refused:
                ask(RunRef("run", 1))
            assert "secretword" not in str(refused.value)


def test_missing_tables_are_told_with_the_way_out(engine: Engine) -> None:
    """Whoever forgot to migrate reads how."""
    database = DbosDatabase(engine.address, schema="elsewhere")
    with (
        DbosEngine(database) as client,
        pytest.raises(EngineUnavailableError, match=r"call migrate\(\)"),
    ):
        client.start(RunRef("run", 1))


def test_another_database_is_refused() -> None:
    """DBOS knows SQLite as well, where workers could not see each other."""
    with pytest.raises(ValueError, match="postgresql://"):
        DbosDatabase("sqlite:///runs.db")
    for name in ("ab", "a" * 257, "Agents", "a b", "", "agents\n"):
        with pytest.raises(ValueError, match="3 to 256 lowercase letters"):
            DbosDatabase(NOBODY, name=name)
    for spans in ({"poll": 0.0}, {"silence": -1.0}):
        with pytest.raises(ValueError, match="above 0 seconds"):
            DbosDatabase(NOBODY, **spans)


def test_a_process_has_one_worker(engine: Engine) -> None:
    """A second one is refused; after the first has left, another may come."""
    database = DbosDatabase(engine.address, name="single")
    with AgentLoop(ScriptedBackend()) as loop:
        with (
            DbosWorker(loop, database, grace=1.0),
            pytest.raises(RuntimeError, match="already"),
            DbosWorker(loop, database),
        ):
            pass
        with DbosWorker(loop, database, grace=1.0) as worker:
            assert worker.executor
        with pytest.raises(RuntimeError, match="has left; make a new one"), worker:
            pass


def test_a_worker_needs_dbos_for_itself(engine: Engine) -> None:
    """An instance that is there already pickles; it is neither used nor ended."""
    theirs = DBOS(config={"name": "theirs", "system_database_url": "sqlite://"})
    database = DbosDatabase(engine.address, name="single")
    try:
        with (
            AgentLoop(ScriptedBackend()) as loop,
            pytest.raises(RuntimeError, match="process of its own"),
            DbosWorker(loop, database),
        ):
            pass
        assert DBOS(config={"name": "again"}) is theirs
    finally:
        DBOS.destroy()


def test_a_worker_without_postgres_says_so() -> None:
    """Entering fails at once, and leaves the process as it was."""
    with AgentLoop(ScriptedBackend()) as loop:
        for _ in range(2):
            with (
                pytest.raises(EngineUnavailableError) as refused,
                DbosWorker(loop, DbosDatabase(NOBODY)),
            ):
                pass
            assert "secretword" not in str(refused.value)


# ---------------------------------------------------------------- the server


@pytest.mark.parametrize("check", SERVER_CHECKS)
def test_server_check(engine: Engine, check: str) -> None:
    """What the kit claims of a server that dies holds of Postgres under DBOS."""
    SERVER_CHECKS[check](engine.stage)
