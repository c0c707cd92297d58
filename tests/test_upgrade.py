"""Runs that an older version left lying end as they would have, for ever after."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentloop.ports import ClaimRequest, Reader
from agentloop.stores.postgres import PostgresStore
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.fixed import HandClock
from agentloop.wire import load
from tests import dynamodb_server, postgres_server
from tests import golden_stores as golden
from tests.mortal import LEASE, World

SCHEMA = "agentloop_golden"
VERSIONS = sorted(Path(__file__).parent.glob("golden/*/stores"))
ENDS = [
    pytest.param(home, end, id=f"{home.parent.name}-{end['left']['run_id'][-3:]}")
    for home in VERSIONS
    for end in map(json.loads, (home / "ends.jsonl").read_text().splitlines())
]


def opened(store: Any, clock: HandClock) -> World:
    """The world in which every worker of the record has been dead for a while."""
    clock.move(2 * LEASE)
    return World("sync", store, clock)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, World]]:
    """Files as each version left them."""
    worlds = {}
    for home in VERSIONS:
        path = tmp_path_factory.mktemp("golden") / "agents.db"
        golden.load_sqlite((home / "sqlite.sql").read_text(), path)
        clock = HandClock()
        store = SQLiteStore(str(path), clock=clock, synchronous="OFF")
        worlds[home] = opened(store, clock)
    yield worlds
    for world in worlds.values():
        world.store.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[dict[Path, World]]:
    """Schemas as each version left them, brought forward."""
    worlds = {}
    for home in VERSIONS:
        name = f"{SCHEMA}_{home.parent.name}"
        dump = json.loads((home / "postgres.json").read_text())
        golden.load_postgres(dump, name)
        clock = HandClock()
        store = PostgresStore(postgres_server.pool(), schema=name, clock=clock)
        store.migrate()
        worlds[home] = opened(store, clock)
    yield worlds
    with postgres_server.pool().connection() as db:
        for home in VERSIONS:
            db.execute(f"DROP SCHEMA {SCHEMA}_{home.parent.name} CASCADE")


@pytest.fixture(scope="module")
def dynamodb() -> dict[Path, World]:
    """The table as the newest version left it; its server holds one at a time.

    What lease is over tells who has watched it for that long, so it is looked at
    before the time passes.
    """
    home = VERSIONS[-1]
    golden.load_dynamodb((home / "dynamodb.jsonl").read_text())
    store = dynamodb_server.store(clock := HandClock())
    found = store.claim(ClaimRequest(driver="embedded", lease_seconds=LEASE))
    if found is not None:
        store.release(found.lease)
    return {home: opened(store, clock)}


@pytest.mark.parametrize("store", ["sqlite", "postgres", "dynamodb"])
@pytest.mark.parametrize(("home", "end"), ENDS)
def test_a_run_left_by_an_older_version_ends_as_it_would_have(
    store: str, home: Path, end: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Whatever its worker died of, another one of today takes it up from the rows."""
    worlds: dict[Path, World] = request.getfixturevalue(store)
    left = load(end["left"], golden.Left)
    found = golden.end_of(worlds[home], left)
    assert found == {"run": end["run"], "messages": end["messages"]}


def test_the_record_holds_every_kind_of_place() -> None:
    """Deaths before and after commits and effects, in phases of every kind."""
    places = {end.values[1]["left"]["place"] for end in ENDS}
    assert {
        f"{when} {what}"
        for when in ("before", "after")
        for what in ("checkpoint", "finalize", "model", "tool", "discovery")
    } <= places


# ---------------------------------------------------------------- rows of SQLite


def _messages(store: SQLiteStore, _: Reader, run_id: str) -> Iterable[tuple[Any, ...]]:
    return [(body,) for body in store.run_messages(run_id)]


def _events(store: SQLiteStore, of: Reader, run_id: str) -> Iterable[tuple[Any, ...]]:
    return [(event.id, event.body) for event in store.events(of, run_id)]


def _jobs(store: SQLiteStore, of: Reader, run_id: str) -> Iterable[tuple[Any, ...]]:
    jobs = store.list_jobs(of, run_id)
    return [(each.id, each.iteration, each.body) for each in jobs]


def _attempts(store: SQLiteStore, of: Reader, run_id: str) -> Iterable[tuple[Any, ...]]:
    jobs = [store.get_job(of, each.id) for each in store.list_jobs(of, run_id)]
    return [
        (each.iteration, each.number, each.body, each.response)
        for _, attempts, _ in filter(None, jobs)
        for each in attempts
    ]


HELD = {
    "body FROM messages JOIN runs ON n = run ORDER BY n, position": _messages,
    "events.id, body FROM events JOIN runs ON n = run ORDER BY n, 2": _events,
    "jobs.id, iteration, body FROM jobs JOIN runs ON n = run"
    " ORDER BY n, iteration": _jobs,
    "iteration, number, body, response FROM attempts JOIN runs ON n = run"
    " ORDER BY n, iteration, number": _attempts,
}
"""What the first schema version held of each run, and how it is read today."""


@pytest.fixture
def first_version(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A file that the first schema version left, read past any store."""
    path = tmp_path / "agents.db"
    golden.load_sqlite((golden.HOME / "sqlite.sql").read_text(), path)
    db = sqlite3.connect(path)
    yield db
    db.close()


@pytest.mark.parametrize("query", HELD)
def test_rows_of_the_first_version_are_kept(
    first_version: sqlite3.Connection, tmp_path: Path, query: str
) -> None:
    """What was held of each run is found where it is kept today."""
    held = first_version.execute(f"SELECT runs.id, {query}").fetchall()
    runs = first_version.execute("SELECT id, company_id FROM runs ORDER BY n")
    owners = runs.fetchall()
    with SQLiteStore(tmp_path / "agents.db") as store:
        found = [
            (run_id, *row)
            for run_id, company in owners
            for row in HELD[query](store, Reader(company), run_id)
        ]
    assert found == held != []


def test_pages_of_the_first_version_are_kept(
    first_version: sqlite3.Connection, tmp_path: Path
) -> None:
    """What joined a conversation is shown as it was, until that is deleted."""
    held = first_version.execute(
        "SELECT conversations.id, company_id, first_seq + position, messages.body"
        " FROM segments JOIN messages ON messages.run = segments.run"
        " JOIN conversations ON conversations.n = conversation ORDER BY 1, 3"
    ).fetchall()
    names = sorted({(name, company) for name, company, *_ in held})
    with SQLiteStore(tmp_path / "agents.db") as store:
        found = [
            (name, company, row.sequence_no, row.body)
            for name, company in names
            for row in store.messages(Reader(company), name).rows
        ]
        for name, company in names:
            assert store.delete_conversation(Reader(company), name)
    assert found == held != []
    left = "SELECT (SELECT count(*) FROM messages), (SELECT sum(staged) FROM runs)"
    assert len(set(first_version.execute(left).fetchone())) == 1
