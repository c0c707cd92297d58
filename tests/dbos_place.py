"""DBOS and a store in one Postgres database, for the kit's processes."""

from contextlib import suppress

import dbos  # once, before the kit forks its workers
import psycopg
from psycopg.conninfo import conninfo_to_dict

from agentloop import AgentLoop
from agentloop.engines.dbos import DbosDatabase, DbosEngine, DbosWorker
from agentloop.stores.postgres import PostgresStore

assert dbos


class DbosPlace:
    """One database: DBOS in one schema, the store in another."""

    def __init__(self, address: str, lease: float) -> None:
        self.lease = lease
        self._address = address
        self.database = DbosDatabase(address, poll=0.1, silence=3.0)
        self._engine = DbosEngine(self.database)

    def store(self) -> PostgresStore:
        store = PostgresStore(self._address)
        store.migrate()
        return store

    def engine(self) -> DbosEngine:
        self._engine.migrate()
        return self._engine

    def work(self, loop: AgentLoop) -> DbosWorker:
        return DbosWorker(loop, self.database, grace=5.0)

    def kept(self) -> list[str]:
        """Every row of every table of DBOS."""
        with psycopg.connect(self._address) as db:
            tables = db.execute(
                "SELECT table_name FROM information_schema.tables"
                " WHERE table_schema = 'dbos'"
            ).fetchall()
            found = [
                db.execute(f"SELECT to_jsonb(t)::text FROM dbos.{table} t").fetchall()
                for (table,) in tables
            ]
        return [text for rows in found for (text,) in rows]

    def close(self) -> None:
        self._engine.close()


def place(address: str) -> DbosPlace:
    """The factory that the kit imports: an address, and a lease if it is not 1 s."""
    url, _, lease = address.partition(" ")
    return DbosPlace(url, float(lease or 1.0))


def fresh_database(server: str, name: str) -> str:
    """The address of a new database on a server."""
    with psycopg.connect(server, autocommit=True) as db:
        db.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        db.execute(f"CREATE DATABASE {name}")
    parts = conninfo_to_dict(server)
    user = parts.get("user", "")
    password = f":{parts['password']}" if parts.get("password") else ""
    with suppress(KeyError):
        return (
            f"postgresql://{user}{password}@/{name}?host={parts['host']}"
            f"&port={parts.get('port', 5432)}"
        )
    return f"postgresql://{user}{password}@/{name}"
