"""Queries that outlive their connections: submitted, running, done, failed, cancelled.

The room holds the registry of queries and what becomes of them over time. It must not
read SQL or speak HTTP.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Literal, TypeAlias

from attrs import define, field, frozen

from agentloop.testing.fake_snowflake.clock import Clock, Gate
from agentloop.testing.fake_snowflake.shapes import Doc, Json


@frozen
class Rows:
    """A result: column names and rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Json, ...], ...]


@frozen
class Failed:
    """A failed statement."""

    errno: int
    sqlstate: str
    message: str


Result: TypeAlias = Rows | Failed
State: TypeAlias = Literal["RUNNING", "SUCCESS", "FAILED_WITH_ERROR"]

CANCELED = Failed(604, "57014", "SQL execution canceled")


@define(eq=False)
class Query:
    """One query, however often it was submitted.

    Attributes:
        id: The query id.
        request_id: The connector's id of the submission, the same when it retries.
        result: What it comes to unless cancelled or out of time.
        submitted: When, on the server's clock.
        seconds: How long it runs.
        gate: What it waits for, if anything.
        polls: How many more times it is reported as running.
        timeout: Its statement timeout in seconds; infinite when none.
        canceled: When it was cancelled.
    """

    id: str
    request_id: str
    sql: str = field(repr=False)
    parameters: dict[str, Json]
    result: Result
    submitted: float
    seconds: float = 0.0
    gate: Gate | None = None
    polls: int = 0
    timeout: float = math.inf
    canceled: float = math.inf

    @property
    def due(self) -> float:
        """When it ends, as far as is known now."""
        return min(self._finished, self.submitted + self.timeout, self.canceled)

    def outcome(self, now: float) -> Result | None:
        """What it has come to, or None while it runs."""
        if now < self.due or self.polls > 0:
            return None
        if self.canceled <= self.due:
            return CANCELED
        if self._finished > self.submitted + self.timeout:
            why = (
                f"Statement reached its statement timeout of {self.timeout:g} second(s)"
            )
            return Failed(630, "57014", f"{why} and was canceled.")
        return self.result

    @property
    def _finished(self) -> float:
        opened = self.gate.opened if self.gate else -math.inf
        return max(self.submitted + self.seconds, opened)


@define(eq=False)
class Queries:
    """All queries of one server, by query id and by request id."""

    clock: Clock
    submissions: dict[str, int] = field(factory=dict)
    _by_id: dict[str, Query] = field(factory=dict)
    _by_request: dict[str, Query] = field(factory=dict)
    _lock: threading.RLock = field(factory=threading.RLock)

    @property
    def all(self) -> tuple[Query, ...]:
        """Every query so far, in order."""
        with self._lock:
            return tuple(self._by_id.values())

    def count(self, request_id: str) -> None:
        """Count one physical submission."""
        with self._lock:
            self.submissions[request_id] = self.submissions.get(request_id, 0) + 1

    def submitted_as(self, request_id: str) -> Query | None:
        """The query this request id has already started, if any."""
        with self._lock:
            return self._by_request.get(request_id)

    def start(self, query: Query) -> Query:
        """Register a query."""
        with self._lock:
            self._by_id[query.id] = query
            self._by_request[query.request_id] = query
            return query

    def find(self, query_id: str) -> Query | None:
        """The query of this id."""
        with self._lock:
            return self._by_id.get(query_id)

    def peek(self, query: Query) -> Result | None:
        """What the query has come to now."""
        outcome = query.outcome(self.clock.now())
        # A server that closes ends what runs, so that no client waits on.
        return CANCELED if self.clock.closed and outcome is None else outcome

    def look(self, query: Query) -> Result | None:
        """What the query has come to now; being looked at counts as a poll."""
        with self._lock:
            if query.polls > 0:
                query.polls -= 1
                return None
            return self.peek(query)

    def wait(self, query: Query, patience: float) -> Result | None:
        """What the query has come to within so many real seconds."""
        if query.polls == 0:
            self.clock.wait(lambda: query.due, patience)
        return self.look(query)

    def cancel(self, query: Query) -> bool:
        """Cancel the query; False when it was done already."""
        with self._lock:
            if query.outcome(self.clock.now()) is not None:
                return False
            query.canceled = self.clock.now()
            query.polls = 0
        self.clock.notify()
        return True

    def cancel_where(self, chosen: Callable[[Query], bool]) -> bool:
        """Cancel every chosen query; whether any was still running."""
        canceled = [self.cancel(query) for query in self.all if chosen(query)]
        return any(canceled)


# -- documents ------------------------------------------------------------------------
def rows_body(query_id: str, result: Rows) -> Doc:
    """A finished query in the JSON result format both connectors read."""
    rowset: list[Json] = [[_cell(v) for v in row] for row in result.rows]
    first = result.rows[0] if result.rows else (None,) * len(result.columns)
    types: list[Json] = [
        _column(name, v) for name, v in zip(result.columns, first, strict=True)
    ]
    return {
        "success": True,
        "code": None,
        "message": None,
        "data": {
            "parameters": [],
            "rowtype": types,
            "rowset": rowset,
            "total": len(rowset),
            "returned": len(rowset),
            "queryId": query_id,
            "queryResultFormat": "json",
            "finalDatabaseName": None,
            "finalSchemaName": None,
            "finalWarehouseName": "COMPUTE_WH",
            "finalRoleName": "AGENT_ROLE",
            "numberOfBinds": 0,
            "arrayBindSupported": False,
            "statementTypeId": 4096,
            "version": 1,
            "sqlState": None,
            "queryContext": {"entries": []},
        },
    }


def failed_body(query_id: str, failed: Failed) -> Doc:
    """A failed query."""
    code = f"{failed.errno:06d}"
    return {
        "success": False,
        "code": code,
        "message": failed.message,
        "data": {
            "internalError": False,
            "errorCode": code,
            "age": 0,
            "sqlState": failed.sqlstate,
            "queryId": query_id,
            "line": -1,
            "pos": -1,
            "type": "INTERNAL",
        },
    }


def running_body(query_id: str, *, detached: bool) -> Doc:
    """A query in progress, with the address of its result."""
    return {
        "success": True,
        "code": "333334" if detached else "333333",
        "message": "Query execution in progress.",
        "data": {
            "queryId": query_id,
            "getResultUrl": f"/queries/{query_id}/result",
            "queryAbortsAfterSecs": 300,
            "progressDesc": None,
        },
    }


def status_body(query: Query | None, outcome: Result | None) -> Doc:
    """What monitoring says about a query; nothing about an unknown one."""
    if query is None:
        return {"success": True, "code": None, "message": None, "data": {"queries": []}}
    entry: Doc = {
        "id": query.id,
        "status": "RUNNING",
        "state": "RUNNING",
        "sessionId": 1,
    }
    message: str | None = None
    match outcome:
        case Rows():
            entry |= {"status": "SUCCESS", "state": "SUCCEEDED"}
        case Failed(errno, _, message):
            entry |= {"status": "FAILED_WITH_ERROR", "state": "FAILED"}
            entry |= {"errorCode": f"{errno:06d}", "errorMessage": message}
        case None:
            pass
    return {
        "success": True,
        "code": None,
        "message": None,
        "data": {"queries": [entry]},
    }


def _cell(value: Json) -> Json:
    match value:
        case None:
            return None
        case bool():
            return str(value).lower()
        case list() | dict():
            raise TypeError(f"a cell holds a scalar, not {value!r}")
        case _:
            return str(value)


def _column(name: str, value: Json) -> Doc:
    number = isinstance(value, int) and not isinstance(value, bool)
    return {
        "name": name,
        "database": "",
        "schema": "",
        "table": "",
        "type": "fixed" if number else "text",
        "nullable": True,
        "length": None if number else 16777216,
        "byteLength": None if number else 16777216,
        "precision": 38 if number else None,
        "scale": 0 if number else None,
        "collation": None,
    }
