"""`agentloop migrate`: bring a store's schema to this release's version."""

from typing import Annotated

import typer

from agentloop.cli import parts
from agentloop.ports import MissingExtraError, StoreUnavailableError
from agentloop.stores.versions import SchemaVersionError

HELP = (
    "What to migrate: postgresql://USER@HOST/DATABASE, dynamodb://TABLE,"
    " or a SQLite file: FILE or sqlite:///FILE"
)


def migrate(
    store: Annotated[
        str, typer.Option(help=HELP, envvar="AGENTLOOP_STORE", show_envvar=True)
    ],
    schema: Annotated[
        str, typer.Option(help="The Postgres schema that holds the tables.")
    ] = "agentloop",
) -> None:
    """Make missing tables, and bring older ones forward. May be repeated."""
    try:
        told = _migrated(store, schema)
    except (
        SchemaVersionError,
        StoreUnavailableError,
        MissingExtraError,
        ValueError,
    ) as error:
        parts.stop(str(error))
    typer.echo(told)


def _migrated(store: str, schema: str) -> str:
    if store.startswith("dynamodb://"):
        from agentloop.stores.dynamodb_address import opened_at, parsed

        with opened_at(store) as dynamodb:
            before = dynamodb.migrate()
        table = parsed(store).table
        return f"table {table}: was at version {before}, is at this release's now"
    if not store.startswith(("postgresql://", "postgres://")):
        return _opened(store)
    from agentloop.stores.postgres import PostgresStore
    from agentloop.stores.postgres_pool import Direct

    with PostgresStore(Direct(store), schema=schema) as postgres:
        before = postgres.migrate()
    return f"schema {schema}: was at version {before}, is at this release's now"


def _opened(store: str) -> str:
    """What became of a file, which is migrated, and made, when it is opened."""
    file = parts.file_of(store)
    made = file is not None and not file.exists()
    with parts.open_store(store) as opened:
        opened.ping()
    if file is None:
        return "what is kept in memory needs no migration"
    told = "was not there; made it, at" if made else "is at"
    return f"the file {file} {told} this release's schema version"
