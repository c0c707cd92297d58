"""What stores of this schema version held when workers died: recorded, and put back.

    python -m tests.golden_stores

plays every flow of `tests.test_crashes` on SQLite, Postgres and DynamoDB, lets its
worker die at every place in turn and leaves the run lying there; then it writes down
the tables as they are, statements that made them included, and how each run ends when
today's code takes it up. A file is recorded once for a version and never again: what
it holds is what users of that version have on their disks.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from agentloop.stores.postgres_schema import MIGRATIONS
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.fixed import HandClock
from agentloop.wire import to_json
from tests import dynamodb_server, postgres_server
from tests.faces import DEFAULTS, SCOPE
from tests.mortal import LEASE, Died, Life, Record, World
from tests.test_crashes import FLOWS

HOME = Path(__file__).parent / "golden" / "v1" / "stores"
STEADY = [name for name, flow in FLOWS.items() if not flow.side_by_side]
"""Flows whose places do not depend on threads."""


@frozen
class Left:
    """A run that was left lying, and the flow it belongs to."""

    flow: str
    place: str
    run_id: str
    conversation_id: str


def leave_everywhere(world: World) -> Iterator[Left]:
    """Begin runs of every flow, each with a death at another place."""
    for name in STEADY:
        places = world.play(FLOWS[name])[1]
        for number, place in enumerate(places, start=1):
            yield _left(world, name, place, number)


def _left(world: World, name: str, place: str, number: int) -> Left:
    flow = FLOWS[name]
    world.record = Record()
    with world.loop(flow, Life()) as loop:
        defaults = {**DEFAULTS, "max_iterations": 3, **flow.config}
        made = loop.create_conversation(defaults=defaults, scope=SCOPE)
        run = loop.start_run(made.id, "go", scope=SCOPE)
    with world.loop(flow, Life(number)) as loop:
        try:
            loop.wait(run.id, scope=SCOPE)
        except Died:
            return Left(name, place, run.id, made.id)
    raise AssertionError(f"the worker of {name!r} outlived {place!r}")


def end_of(world: World, left: Left) -> dict[str, Any]:
    """How a run ends that another worker takes up: the run and its messages."""
    world.record = Record()
    with world.loop(FLOWS[left.flow], Life()) as loop:
        run = loop.wait(left.run_id, scope=SCOPE)
        delta = loop.messages(left.conversation_id, scope=SCOPE)
    return {"run": to_json(run), "messages": to_json(delta.messages)}


# ---------------------------------------------------------------- SQLite


def dump_sqlite(path: Path) -> str:
    """A file as the statements that make it."""
    with sqlite3.connect(path) as db:
        return "\n".join(db.iterdump())


def load_sqlite(script: str, path: Path) -> None:
    """The file that the statements make."""
    with sqlite3.connect(path) as db:
        db.executescript(script)
    db.close()


# ---------------------------------------------------------------- Postgres


def dump_postgres(schema: str) -> dict[str, Any]:
    """A schema as the statements that made it and its rows as texts."""
    with postgres_server.pool().connection() as db:
        found = db.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1",
            [schema],
        ).fetchall()
        tables = {name: _rows(db, f"{schema}.{name}") for (name,) in found}
    return {"made_by": [list(each) for each in MIGRATIONS], "rows": tables}


def _rows(db: Any, table: str) -> list[str]:
    return [row for (row,) in db.execute(f"SELECT t::text FROM {table} t")]


def load_postgres(dump: dict[str, Any], schema: str) -> None:
    """The schema that was written down."""
    with postgres_server.pool().connection() as db:
        db.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        db.execute(f"CREATE SCHEMA {schema}")
        for statement in (each for step in dump["made_by"] for each in step):
            db.execute(statement.replace("@", schema))
        db.execute(
            f"CREATE TABLE {schema}.schema_version"
            " (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL)"
        )
        for table, rows in dump["rows"].items():
            _load_rows(db, f"{schema}.{table}", rows)


def _load_rows(db: Any, table: str, rows: list[str]) -> None:
    for row in rows:
        db.execute(
            f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT (%s::text::{table}).*",
            [row],
        )
    numbered = db.execute(
        f"SELECT pg_get_serial_sequence('{table}', 'n')"
        f" FROM pg_attribute WHERE attrelid = '{table}'::regclass"
        " AND attname = 'n' AND attidentity <> ''"
    ).fetchone()
    if numbered is not None and rows:
        db.execute(f"SELECT setval('{numbered[0]}', (SELECT max(n) FROM {table}))")


# ---------------------------------------------------------------- DynamoDB


def dump_dynamodb() -> str:
    """The rows of the tests' table, each a line of DynamoDB's JSON."""
    rows = sorted(dynamodb_server.rows().items())
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for _, row in rows)


def load_dynamodb(dump: str) -> None:
    """The tests' table as it was written down, past the store."""
    dynamodb_server.emptied()
    for row in map(json.loads, dump.splitlines()):
        dynamodb_server.placed(row)


# ---------------------------------------------------------------- recording


def record() -> None:
    """Write down what this version has no file of yet, and check that all agree."""
    HOME.mkdir(parents=True, exist_ok=True)
    stores = (_of_sqlite, _of_postgres, _of_dynamodb)
    ends = [found for store in stores for found in store()]
    if any(each != ends[0] for each in ends):
        raise SystemExit("the stores do not end their runs alike")
    if ends:
        lines = "\n".join(json.dumps(end) for end in ends[0]) + "\n"
        _write_once(HOME / "ends.jsonl", lines)


def _write_once(file: Path, text: str) -> None:
    """Write a file, or see that what was recorded says the same."""
    if not file.exists():
        file.write_text(text)
    elif file.read_text() != text:
        raise SystemExit(f"{file} says something else; what was recorded stays")


def _of_sqlite() -> Iterator[list[dict[str, Any]]]:
    if (file := HOME / "sqlite.sql").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agents.db"
        store = SQLiteStore(str(path), clock=(clock := HandClock()))
        world = World("sync", store, clock)
        lefts = list(leave_everywhere(world))
        file.write_text(dump_sqlite(path) + "\n")
        yield _ends(world, lefts)
        store.close()


def _of_postgres() -> Iterator[list[dict[str, Any]]]:
    if (file := HOME / "postgres.json").exists():
        return
    world = World("sync", postgres_server.store(clock := HandClock()), clock)
    postgres_server.emptied()
    lefts = list(leave_everywhere(world))
    dump = dump_postgres(postgres_server.SCHEMA)
    file.write_text(json.dumps(dump, indent=0) + "\n")
    yield _ends(world, lefts)


def _of_dynamodb() -> Iterator[list[dict[str, Any]]]:
    if (file := HOME / "dynamodb.jsonl").exists():
        return
    dynamodb_server.emptied()
    world = World("sync", dynamodb_server.store(clock := HandClock()), clock)
    lefts = list(leave_everywhere(world))
    file.write_text(dump_dynamodb())
    yield _ends(world, lefts)


def _ends(world: World, lefts: list[Left]) -> list[dict[str, Any]]:
    world.clock.move(2 * LEASE)
    return [{"left": to_json(left), **end_of(world, left)} for left in lefts]


if __name__ == "__main__":
    record()
