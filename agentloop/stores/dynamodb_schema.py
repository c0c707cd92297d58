"""The table of the DynamoDB store, and how an older one is brought forward.

The table carries its version in a row of its own. `migrate` makes the table where
there is none, and takes what is missing step by step; a table that is newer than
this code is refused. Nothing in here knows what the other rows hold.
"""

from collections.abc import Callable, Sequence
from threading import Event
from typing import Final

from agentloop.ports.store import StoreUnavailableError
from agentloop.stores.dynamodb_table import ConditionError, Table, put
from agentloop.stores.versions import SchemaVersionError

VERSION_KEY: Final = ("schema", "schema")
STEPS: Final[tuple[Callable[[Table], None], ...]] = (lambda _table: None,)
"""What brings a table from each version to the next; the first one needs nothing.

Never edited, only added to. A step may be done by several processes at once, and
again after one of them died amid it.
"""
_LOOKS: Final = 240


def migrate(
    table: Table, steps: Sequence[Callable[[Table], None]] = STEPS, pause: float = 0.25
) -> int:
    """Bring a table to the newest version; return the one it had before.

    Raises:
        SchemaVersionError: the table is newer; nothing was changed.
    """
    _make(table, pause)
    found = version(table) or 0
    _refuse_newer(table, found, len(steps))
    for number in range(found, len(steps)):
        steps[number](table)
        _record(table, number + 1)
    return found


def check_version(table: Table, known: int = len(STEPS)) -> None:
    """Refuse a table whose version is not the one this code works with.

    Raises:
        SchemaVersionError: it is newer, older, or not there.
    """
    found = version(table)
    if found == known:
        return
    _refuse_newer(table, found or 0, known)
    state = f"has version {found}" if found else "was not migrated"
    raise SchemaVersionError(
        f"DynamoDB table {table.name!r} {state}, this release needs {known}; call"
        f" store.migrate(), or run: agentloop migrate --store dynamodb://{table.name}"
    )


def version(table: Table) -> int | None:
    """The version a table has, None when it has none."""
    row = table.get(VERSION_KEY)
    return None if row is None else int(row["version"])


def _refuse_newer(table: Table, found: int, known: int) -> None:
    if found > known:
        raise SchemaVersionError(
            f"DynamoDB table {table.name!r} has version {found}, this release knows"
            f" {known}; upgrade agentloop, or use the release that wrote it"
        )


def _record(table: Table, number: int) -> None:
    """Note a version, unless another process has come further."""
    row = {"version": number}
    newer = "attribute_not_exists(@pk) OR @version < :number"
    try:
        table.transact([put(VERSION_KEY, row, newer, number=number)])
    except ConditionError:
        return


def _make(table: Table, pause: float) -> None:
    """Make the table, unless it is there, and wait until it can be used.

    Raises:
        StoreUnavailableError: it is not usable after a minute.
    """
    if _status(table) is None:
        _create(table)
    waiting = Event()
    for _ in range(_LOOKS):
        if _status(table) in {"ACTIVE", "UPDATING"}:
            return
        waiting.wait(pause)
    raise StoreUnavailableError(f"DynamoDB table {table.name!r} does not get active")


def _status(table: Table) -> str | None:
    try:
        described = table.call("describe_table")
    except SchemaVersionError:
        return None
    return str(described["Table"]["TableStatus"])


def _create(table: Table) -> None:
    try:
        table.call(
            "create_table",
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
            ],
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
    except StoreUnavailableError:
        if _status(table) is None:  # else another process was faster
            raise
