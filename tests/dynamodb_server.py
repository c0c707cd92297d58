"""A DynamoDB for tests: moto behind a real socket.

moto keeps the rows and judges conditions; boto3 speaks to it over loopback as it
would to AWS. DynamoDB itself is not reached. What moto does otherwise:

* It has no isolation: a transaction that fails puts back the whole table as it was.
  So requests are let in one by one. Copying that table for every transaction makes
  moto slower the more it holds; here the copy shares the rows, and an update makes
  a row of its own before it changes it. A query is shown its partition only, and
  answers are written as JSON at once: moto would sort the whole table, and walk
  through the model of its answer.
* It counts neither the four megabytes of a transaction nor the sizes of batches.
  So every request is weighed before it is sent, by the rules of the page "Quotas in
  Amazon DynamoDB", and one that is too heavy fails its test.
* It takes values that no expression uses, keys that come twice, bounds the wrong way
  round and transactions without a token. They fail their test as well.
* It answers eventually consistent reads with the newest rows. So a read that does
  not ask for strong consistency fails its test.
* It knows no throttling and no conflicts between transactions. Tests that need them
  hang their own answers into boto3's events.
"""

import copy
import json
import threading
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.core.base_backend import BackendDict
from moto.core.responses import ActionResult
from moto.dynamodb.models import DynamoDBBackend, dynamodb_backends
from moto.dynamodb.models.table import Table
from moto.dynamodb.responses import DynamoHandler
from moto.server import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from agentloop.ports import Clock
from agentloop.stores.dynamodb import DynamoDBStore
from tests.dynamodb_scale import REGION, TABLE, weighed_client

# ---------------------------------------------------------------- the server


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as AWS keeps them

    def log(self, *arguments: object) -> None:
        return


class _OneByOne:
    """moto, which is not made for threads, behind a lock."""

    def __init__(self) -> None:
        self.app = create_backend_app("dynamodb")
        self.lock = threading.Lock()

    def __call__(self, env: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        with self.lock:
            return list(self.app(env, start))


def _shared(table: Table, memo: dict[int, Any]) -> Table:
    """A copy of a table whose rows are the table's own."""
    made = copy.copy(table)
    made.items = defaultdict(dict)
    for partition, rows in table.items.items():
        made.items[partition] = dict(rows)
    return made


def _unshared(backend: DynamoDBBackend, name: str, key: Any, *more: Any, **named: Any):
    """Update a row after making it its own; for moto's `update_item`."""
    found = backend.get_item(name, key)
    if found is not None:
        rows = backend.tables[name].items[found.hash_key]
        rows[found.range_key] = copy.deepcopy(found)
    return _UPDATE(backend, name, key, *more, **named)


def _queried(table: Table, partition: Any, *more: Any, **named: Any) -> Any:
    """Query a table of one partition; for moto's `query`."""
    part = copy.copy(table)
    part.items = {partition: table.items.get(partition, {})}
    return _QUERY(part, partition, *more, **named)


def _serialized(handler: DynamoHandler, action: ActionResult) -> Any:
    """An answer as it goes over the wire; errors and tables are moto's to write."""
    if handler._get_action().endswith("Table") or not isinstance(action.result, dict):
        return _SERIALIZED(handler, action)
    return 200, dict(handler.response_headers), json.dumps(action.result)


_UPDATE = DynamoDBBackend.update_item
_QUERY = Table.query
_SERIALIZED = DynamoHandler.serialized


@cache
def endpoint() -> str:
    """The address of this process's server, started if need be."""
    Table.__deepcopy__ = _shared
    DynamoDBBackend.update_item = _unshared
    Table.query = _queried
    DynamoHandler.serialized = _serialized
    server = make_server(
        "127.0.0.1", 0, _OneByOne(), threaded=True, request_handler=_Quiet
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


@cache
def shared_client() -> Any:
    """The client of a host, shared by this process's tests."""
    return weighed_client(endpoint())


def store(clock: Clock | None = None) -> DynamoDBStore:
    """A store on the shared client, with what other tests left in it."""
    return DynamoDBStore(shared_client(), TABLE, clock=clock)


def rows() -> dict[tuple[str, str], dict[str, Any]]:
    """Every row there is, past the store."""
    table = _backend().tables.get(TABLE)
    if table is None:
        return {}
    items = [item for each in table.items.values() for item in each.values()]
    found = [item.to_json()["Attributes"] for item in items]
    return {(row["pk"]["S"], row["sk"]["S"]): row for row in found}


def placed(row: dict[str, Any]) -> None:
    """Put a row into the table, past the store."""
    _backend().put_item(TABLE, row)


def _backend() -> DynamoDBBackend:
    backends: BackendDict[DynamoDBBackend] = dynamodb_backends
    return backends["123456789012"][REGION]


def emptied() -> None:
    """A migrated table that holds nothing but its version."""
    table = _backend().tables.get(TABLE)
    if table is None:
        store().migrate()
        return
    (version,) = (rows for key, rows in table.items.items() if key.value == "schema")
    (row,) = version.values()
    table.items = defaultdict(dict, {row.hash_key: version})


def dropped(name: str) -> None:
    """Make sure that there is no such table."""
    _backend().tables.pop(name, None)


def forgotten(name: str) -> None:
    """Remove all rows of a table, its version too."""
    _backend().tables[name].items = defaultdict(dict)
