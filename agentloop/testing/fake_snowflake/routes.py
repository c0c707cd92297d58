"""Which request goes where: login, renewal, queries, monitoring, inference.

The room holds the paths both connector lines use. It must not touch sockets.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Final, TypeAlias, assert_never

from attrs import define, field, frozen

from agentloop.testing.fake_snowflake.queries import Queries, status_body
from agentloop.testing.fake_snowflake.rest_door import PATHS, RestDoor
from agentloop.testing.fake_snowflake.script import Script
from agentloop.testing.fake_snowflake.sessions import (
    Bearer,
    Refused,
    Session,
    Sessions,
    error_body,
    ok_body,
)
from agentloop.testing.fake_snowflake.shapes import Doc, text
from agentloop.testing.fake_snowflake.sql_door import SqlDoor
from agentloop.testing.fake_snowflake.streams import Drop, Response, json_response

_ID: Final = r"(?P<id>[0-9a-fA-F-]{36})"


@frozen(kw_only=True)
class Exchange:
    """One HTTP request, its body already unpacked.

    Attributes:
        parameters: The query string, first values only.
        headers: Lower-case names.
    """

    method: str
    path: str
    parameters: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes

    @property
    def authorization(self) -> str:
        """The credentials."""
        return self.headers.get("authorization", "")

    @property
    def body(self) -> Doc:
        """The body as a document, empty when it is none."""
        try:
            value = json.loads(self.raw or b"{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@define
class Breakage:
    """Paths that answer with a bare HTTP status, each so many times or for ever."""

    _faults: list[tuple[re.Pattern[str], int, Iterator[object]]] = field(factory=list)
    _lock: threading.Lock = field(factory=threading.Lock)

    def add(self, pattern: str, status: int, times: int | None) -> None:
        """Break the paths in which a pattern is found."""
        left: Iterator[object] = repeat(None)
        if times is not None:
            left = repeat(None, times)
        with self._lock:
            self._faults.append((re.compile(pattern), status, left))

    def clear(self) -> None:
        """Mend everything."""
        with self._lock:
            self._faults.clear()

    def status_of(self, path: str) -> int | None:
        """What a request to a path gets instead of its answer."""
        with self._lock:
            for pattern, status, left in self._faults:
                if pattern.search(path) and next(left, _USED) is not _USED:
                    return status
        return None


_USED: Final = object()


@frozen(kw_only=True)
class Router:
    """All routes of one server."""

    script: Script
    sessions: Sessions
    queries: Queries
    rest: RestDoor
    sql: SqlDoor
    breakage: Breakage

    def answer(self, asked: Exchange) -> Response | Drop:
        """Answer one request."""
        path = re.sub("/+", "/", asked.path)  # 5.x asks for /monitoring/queries//<id>
        self.script.hit(f"{asked.method} {re.sub(_ID, '<id>', path)}")
        if (broken := self.breakage.status_of(path)) is not None:
            return json_response(broken, {})
        if asked.method == "POST" and path in PATHS:
            return self.rest.post(PATHS[path], asked.raw, asked.headers)
        try:
            return self._connector(asked, path)
        except Exception as error:  # a bug here must fail the test, not only a thread
            why = f"{asked.method} {path} broke the fake: {error!r}"
            self.script.complain(why)
            # HTTP 5xx would be retried, by 4.x without end.
            return json_response(200, error_body("000603", why))

    def _connector(self, asked: Exchange, path: str) -> Response | Drop:
        for pattern, open_route in _OPEN.items():
            if path == pattern:
                return open_route(self, asked)
        for expression, route in _GUARDED:
            if match := expression.fullmatch(path):
                id_ = match.groupdict().get("id", "")
                return self._guarded(route, asked, id_)
        return json_response(404, error_body("390404", f"no such path {path}"))

    def _guarded(self, route: _Guarded, asked: Exchange, id_: str) -> Response | Drop:
        who = self.sessions.judge(asked.authorization, "sql")
        match who:
            case Session():
                return route(self, asked, who, id_)
            case Refused(status, body):
                return json_response(status, body)
            case Bearer():
                raise AssertionError("bearer tokens open the REST doors alone")
            case _:
                assert_never(who)

    # -- without a live session --------------------------------------------------------
    def login(self, asked: Exchange) -> Response:
        """Log in."""
        return json_response(200, self.sessions.login(asked.body))

    def renew(self, asked: Exchange) -> Response:
        """Renew a session token by its master token."""
        return json_response(200, self.sessions.renew(asked.authorization))

    def logout(self, asked: Exchange) -> Response:
        """Log out; queries go on."""
        if asked.parameters.get("delete") == "true":
            self.sessions.close(asked.authorization)
        return json_response(200, ok_body(None))

    def nothing(self, _: Exchange) -> Response:
        """Telemetry and the like: taken and forgotten."""
        return json_response(200, ok_body({}))

    # -- with one ----------------------------------------------------------------------
    def heartbeat(self, _: Exchange, who: Session, __: str) -> Response:
        """Keep a session alive."""
        return json_response(200, ok_body({"sessionId": who.number}))

    def submit(self, asked: Exchange, who: Session, _: str) -> Response | Drop:
        """Start a query."""
        return self.sql.submit(asked.parameters["requestId"], asked.body, who)

    def result(self, _: Exchange, __: Session, id_: str) -> Response:
        """The result of a query."""
        return self.sql.result(id_)

    def status(self, _: Exchange, __: Session, id_: str) -> Response:
        """The status of a query."""
        query = self.queries.find(id_)
        outcome = self.queries.look(query) if query else None
        return json_response(200, status_body(query, outcome))

    def cancel(self, _: Exchange, __: Session, id_: str) -> Response:
        """Cancel a query by its id."""
        self.queries.cancel_where(lambda query: query.id == id_)
        return json_response(200, ok_body(None))

    def cancel_request(self, asked: Exchange, _: Session, __: str) -> Response:
        """Cancel a query by the id of its submission."""
        wanted = text(asked.body.get("requestId"))
        self.queries.cancel_where(lambda query: query.request_id == wanted)
        return json_response(200, ok_body(None))


_Open: TypeAlias = Callable[[Router, Exchange], Response]
_Guarded: TypeAlias = Callable[[Router, Exchange, Session, str], Response | Drop]

_OPEN: Final[Mapping[str, _Open]] = {
    "/session/v1/login-request": Router.login,
    "/session/token-request": Router.renew,
    "/session": Router.logout,
    "/telemetry/send": Router.nothing,
    "/telemetry/send/sessionless": Router.nothing,
}

_GUARDED: Final[tuple[tuple[re.Pattern[str], _Guarded], ...]] = (
    (re.compile("/session/heartbeat"), Router.heartbeat),
    (re.compile("/queries/v1/query-request"), Router.submit),
    (re.compile("/queries/v1/abort-request"), Router.cancel_request),
    (re.compile(f"/queries/{_ID}/result"), Router.result),
    (re.compile(f"/queries/{_ID}/abort-request"), Router.cancel),
    (re.compile(f"/monitoring/queries/{_ID}"), Router.status),
)
