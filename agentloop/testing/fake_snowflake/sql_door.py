"""The SQL door: statements in, queries out, COMPLETE answered from the script.

The room turns one submission into one query. It must not touch sockets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final, TypeAlias, assert_never

from attrs import evolve, field, frozen

from agentloop.testing.fake_snowflake.queries import (
    Failed,
    Queries,
    Query,
    Result,
    Rows,
    failed_body,
    rows_body,
    running_body,
)
from agentloop.testing.fake_snowflake.records import Request
from agentloop.testing.fake_snowflake.replies import (
    Answer,
    Computed,
    Expired,
    Failure,
    Fault,
    Null,
    Page,
    Reset,
    SqlFailure,
)
from agentloop.testing.fake_snowflake.rules import Judge, violations
from agentloop.testing.fake_snowflake.script import Script
from agentloop.testing.fake_snowflake.sessions import Session, expired_body
from agentloop.testing.fake_snowflake.shapes import Doc, Json, doc, dumps, text
from agentloop.testing.fake_snowflake.statements import (
    Cancel,
    Complete,
    Meaning,
    ResultScan,
    SetParameters,
    ShowParameters,
    StatementError,
    Use,
    Values,
    read,
)
from agentloop.testing.fake_snowflake.streams import (
    Drop,
    Response,
    body_response,
    json_response,
)
from agentloop.testing.fake_snowflake.wire_sql import (
    Emulate,
    MisfitError,
    UnservableError,
    completed,
    obey,
)

#: Largest statement with its bindings ("Query size limits").
MAX_STATEMENT: Final = 1024 * 1024

#: What a test teaches the server to answer to statements it does not know.
Taught: TypeAlias = Rows | Failed | Callable[[str], Rows | Failed]

# Errors of compiling, authorising or authenticating are known at submission, even of a
# detached query; all others show when it is looked at.
_AT_ONCE: Final = frozenset({606, 938, 904, 1003, 2049, 2141, 3001, 100069})


@frozen(kw_only=True)
class SqlDoor:
    """All statements of one server.

    Attributes:
        patience: Real seconds a reply is held back for a query to finish.
        details: Whether structured output comes with model and usage around it.
        emulate: Puts scripted answers in the words of a JSON schema.
        statements: The text of every statement, in order.
    """

    script: Script
    queries: Queries
    judge: Judge = violations
    patience: float = 1.0
    details: bool = True
    emulate: Emulate = obey
    statements: list[str] = field(factory=list)
    taught: list[tuple[re.Pattern[str], Taught]] = field(factory=list)

    def submit(self, request_id: str, body: Doc, session: Session) -> Response | Drop:
        """Answer one query request."""
        self.queries.count(request_id)
        detached = body.get("asyncExec") is True
        if query := self.queries.submitted_as(request_id):
            return self._report(query, detached=detached)
        sql = text(body.get("sqlText"))
        self.statements.append(sql)
        query = self._query(request_id, sql, body, session)
        try:
            started = self._start(query, body, session)
        except StatementError as error:
            failed = Failed(error.errno, error.sqlstate, str(error))
            started = self.queries.start(evolve(query, result=failed))
        if isinstance(started, Query):
            return self._report(started, detached=detached)
        return started

    def result(self, query_id: str) -> Response:
        """Answer a request for a query's result."""
        query = self.queries.find(query_id)
        if query is None:
            missing = Failed(709, "02000", f"Statement {query_id} not found")
            return json_response(200, failed_body(query_id, missing))
        return self._told(query, self.queries.wait(query, self.patience), False)

    def _report(self, query: Query, *, detached: bool) -> Response:
        if detached and not _known_at_once(query.result):
            return json_response(200, running_body(query.id, detached=True))
        return self._told(query, self.queries.wait(query, self.patience), detached)

    def _told(self, query: Query, result: Result | None, detached: bool) -> Response:
        match result:
            case Rows():
                return json_response(200, rows_body(query.id, result))
            case Failed():
                return json_response(200, failed_body(query.id, result))
            case None:
                return json_response(200, running_body(query.id, detached=detached))
            case _:
                assert_never(result)

    # -- statements --------------------------------------------------------------------
    def _query(self, request_id: str, sql: str, body: Doc, session: Session) -> Query:
        given = {k.upper(): v for k, v in doc(body.get("parameters")).items()}
        parameters = {**session.parameters, **given}
        return Query(
            id=f"01b00000-0000-4000-8000-{self.script.next_id('query'):012d}",
            request_id=request_id,
            sql=sql,
            parameters=parameters,
            result=Rows((), ()),
            submitted=self.queries.clock.now(),
            timeout=_seconds(parameters.get("STATEMENT_TIMEOUT_IN_SECONDS")),
        )

    def _start(
        self, query: Query, body: Doc, session: Session
    ) -> Query | Response | Drop:
        bindings = body.get("bindings")
        size = len(query.sql.encode()) + len(dumps(bindings).encode())
        if size > MAX_STATEMENT:
            raise StatementError(f"statement and bindings of {size} bytes are too long")
        for pattern, taught in self.taught:
            if pattern.search(query.sql):
                result = taught(query.sql) if callable(taught) else taught
                return self.queries.start(evolve(query, result=result))
        meaning = read(query.sql, bindings, session.facts)
        if isinstance(meaning, Complete):
            return self._infer(meaning, query, session)
        result = self._executed(meaning, session)
        return self.queries.start(evolve(query, result=result))

    def _executed(self, meaning: Meaning, session: Session) -> Result:
        match meaning:
            case Values(columns, row):
                return Rows(columns, (tuple(_scalar(value) for value in row),))
            case ResultScan(query_id):
                return self._scanned(query_id)
            case Cancel(query_id):
                self.queries.cancel_where(lambda query: query.id == query_id)
                return _done(f"query [{query_id}] terminated.")
            case SetParameters(values):
                session.parameters.update(values)
                return _done()
            case Use(what, name):
                session.facts[f"current_{what}"] = name
                return _done()
            case ShowParameters(like):
                return _shown(like, session.parameters)
            case Complete():
                raise AssertionError("inferences are scripted, not executed")
            case _:
                assert_never(meaning)

    def _scanned(self, query_id: str) -> Result:
        query = self.queries.find(query_id)
        outcome = query and query.outcome(self.queries.clock.now())
        if isinstance(outcome, Rows):
            return outcome
        raise StatementError(f"Statement {query_id} not found", 709, "02000")

    # -- inference ---------------------------------------------------------------------
    def _infer(
        self, meaning: Complete, query: Query, session: Session
    ) -> Query | Response | Drop:
        request = Request(
            number=self.script.next_id("request"),
            door="sql",
            body=meaning.body,
            request_id=query.request_id,
            query_id=query.id,
            parameters=query.parameters,
        )
        self.script.receive(request)
        if broken := self.judge("sql", meaning.body, self.script.known()):
            self.script.settle(request.number, "refused", broken)
            return self._failed(query, _remote(400, broken), meaning)
        reply = self.script.take(request)
        if reply is None:
            why = "the script has no reply for it"
            self.script.settle(request.number, "unscripted", why)
            return self._failed(query, _remote(400, why), meaning)
        ran = isinstance(reply, Answer | Null)
        self.script.settle(request.number, "answered" if ran else "failed")
        if isinstance(reply, Answer):
            return self._answered(reply, meaning, query)
        if isinstance(reply, Expired):
            session.live = False
        return self._fault(reply, meaning, query)

    def _fault(
        self, reply: Fault, meaning: Complete, query: Query
    ) -> Query | Response | Drop:
        match reply:
            case Failure():
                remote = _remote(reply.status, reply.message)
                return self._failed(query, remote, meaning)
            case SqlFailure(errno=errno, sqlstate=sqlstate, message=message):
                return self._failed(query, Failed(errno, sqlstate, message), meaning)
            case Null():
                rows = Rows((meaning.column,), ((None,),))
                return self.queries.start(evolve(query, result=rows))
            case Page():
                return body_response(reply.status, reply.body, reply.content_type)
            case Reset():
                return Drop()
            case Expired():
                # The connectors read `code` as a string here and nothing else.
                return json_response(200, expired_body(Expired()))
            case Computed():
                raise AssertionError("the script decides computed replies")
            case _:
                assert_never(reply)

    def _failed(self, query: Query, failed: Failed, meaning: Complete) -> Query:
        nulled = meaning.null_on_error and failed.errno == 100351
        result = Rows((meaning.column,), ((None,),)) if nulled else failed
        return self.queries.start(evolve(query, result=result))

    def _answered(
        self, answer: Answer, meaning: Complete, query: Query
    ) -> Query | Drop:
        travel = answer.delivery
        timed = evolve(
            query,
            result=self._value(answer, meaning),
            seconds=travel.seconds,
            gate=travel.gate,
            polls=travel.polls,
        )
        started = self.queries.start(timed)
        lost = travel.ending is not None and travel.ending.how == "reset"
        return Drop() if lost else started

    def _value(self, answer: Answer, meaning: Complete) -> Result:
        if (broken := answer.delivery.broken) is not None:
            return _remote(500, broken.message)
        try:
            value = completed(answer, meaning.body, self.emulate, details=self.details)
        except MisfitError as misfit:
            return _remote(422, str(misfit))
        except UnservableError as error:
            self.script.complain(str(error))
            return _remote(400, str(error))
        return Rows((meaning.column,), ((value,),))


def _remote(status: int, message: str) -> Failed:
    """How SQL tells what its remote service said."""
    told = f"{status} '{dumps(message)}'"
    why = "Request failed for external function COMPLETE$V6 with remote service error"
    return Failed(100351, "P0000", f"{why}: {told}")


def _known_at_once(result: Result) -> bool:
    if isinstance(result, Rows):
        return False
    return result.errno in _AT_ONCE or 390000 <= result.errno < 400000


def _seconds(value: Json) -> float:
    """A statement timeout; zero and nothing mean none that matters here."""
    try:
        seconds = float(str(value))
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf


def _scalar(value: Json) -> Json:
    return dumps(value) if isinstance(value, list | dict) else value


def _done(message: str = "Statement executed successfully.") -> Rows:
    return Rows(("status",), ((message,),))


def _shown(like: str, parameters: dict[str, Json]) -> Rows:
    wanted = re.compile(re.escape(like).replace("%", ".*").replace("_", "."), re.I)
    rows = tuple(
        (name, str(value), "", "SESSION", "", "STRING")
        for name, value in sorted(parameters.items())
        if wanted.fullmatch(name)
    )
    return Rows(("key", "value", "default", "level", "description", "type"), rows)
