"""`FakeSnowflake`: one loopback server that the real connectors log in to.

The room holds the face tests use. It must not hold rules, wires or sockets: those are
rooms of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from attrs import field, frozen

from agentloop.testing.fake_snowflake.clock import Clock, Gate
from agentloop.testing.fake_snowflake.connections import snowflake_connection
from agentloop.testing.fake_snowflake.faults import sql_fails
from agentloop.testing.fake_snowflake.http_server import HttpServer
from agentloop.testing.fake_snowflake.known import MODELS
from agentloop.testing.fake_snowflake.queries import Failed, Queries, Query, Rows
from agentloop.testing.fake_snowflake.records import Request, described
from agentloop.testing.fake_snowflake.replies import Expired, Reply
from agentloop.testing.fake_snowflake.rest_door import RestDoor
from agentloop.testing.fake_snowflake.routes import Breakage, Router
from agentloop.testing.fake_snowflake.rules import Judge, violations
from agentloop.testing.fake_snowflake.script import Script
from agentloop.testing.fake_snowflake.sessions import Bearers, Sessions
from agentloop.testing.fake_snowflake.sql_door import SqlDoor, Taught
from agentloop.testing.fake_snowflake.wire_sql import Emulate, obey


class ScriptError(AssertionError):
    """A script and what was asked of it do not fit; the message shows both."""


@frozen(kw_only=True)
class Account:
    """What kind of account the fake is.

    Attributes:
        models: The models it may use; others are unknown to it.
        bearers: The bearer tokens accepted; None accepts any. By token, what kind it
            is: then a header that says another one is refused.
        patience: Real seconds a submission waits before it is told "in progress".
        details: Whether structured output over SQL has model and usage around it.
        emulate: Says a scripted answer in the words of a JSON schema (SQL).
        finish: What Claude's chat replies hold as finish reason; None leaves it out.
    """

    models: tuple[str, ...] = MODELS
    bearers: Bearers | None = field(default=None, repr=False)
    patience: float = 1.0
    details: bool = True
    emulate: Emulate = obey
    finish: str | None = ""


DEFAULT: Final = Account()


class FakeSnowflake:
    """A Snowflake account on loopback: sessions, queries and Cortex inference.

        with FakeSnowflake(calls(("weather", {"city": "Graz"})), says("rain")) as sf:
            connection = sf.connect()
            ...
            assert sf.requests[0].last_user_text == "hi"

    Replies are consumed in order, one per legal request, whichever door it comes
    through. An illegal request is refused like Cortex refuses it and consumes nothing;
    a request without a reply is refused loudly. Leaving the block checks that the
    script was followed.

    Args:
        *replies: The script; `script` adds to it.
        default: The reply when the script is used up, for as long as asked.
        account: What kind of account this is.
        judge: What decides whether a request is legal; `accept_anything` for none.
        keep: How many requests to remember; all of them when left out.
    """

    def __init__(
        self,
        *replies: Reply,
        default: Reply | None = None,
        account: Account = DEFAULT,
        judge: Judge = violations,
        keep: int | None = None,
    ) -> None:
        self._clock = Clock()
        self._script = Script(models=account.models, default=default, keep=keep)
        self._script.add(*replies)
        self._sessions = Sessions(bearers=account.bearers)
        self._queries = Queries(clock=self._clock)
        self._sql = SqlDoor(
            script=self._script,
            queries=self._queries,
            judge=judge,
            patience=account.patience,
            details=account.details,
            emulate=account.emulate,
        )
        rest = RestDoor(
            script=self._script,
            sessions=self._sessions,
            clock=self._clock,
            judge=judge,
            finish=account.finish,
        )
        self._breakage = Breakage()
        router = Router(
            script=self._script,
            sessions=self._sessions,
            queries=self._queries,
            rest=rest,
            sql=self._sql,
            breakage=self._breakage,
        )
        self._connections: list[Any] = []
        self._server = HttpServer(router.answer)

    # -- life --------------------------------------------------------------------------
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None:
            self.assert_done()

    def close(self) -> None:
        """Stop: waits are woken, connections closed, threads joined."""
        self._clock.close()
        self.mend()
        connections, self._connections = self._connections, []
        for connection in connections:
            with suppress(Exception):  # a broken session cannot log out, and need not
                connection.close()
        self._server.stop()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """The address without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self, **options: object) -> Any:
        """A real connection of the installed connector, closed together with the fake.

        Args:
            **options: Options of `snowflake.connector.connect`.
        """
        connection = snowflake_connection(self.port, **options)
        self._connections.append(connection)
        return connection

    def open_session(self) -> str:
        """A session token without a login, for clients that bring their own HTTP."""
        return self._sessions.open().token

    # -- script ------------------------------------------------------------------------
    def script(self, *replies: Reply) -> Self:
        """Add replies to the script."""
        self._script.add(*replies)
        return self

    def always(self, reply: Reply) -> Self:
        """Answer with this whenever the script is used up."""
        self._script.default = reply
        return self

    def gate(self) -> Gate:
        """A gate for `waits`, shut until it is opened."""
        return Gate(self._clock)

    def advance(self, seconds: float) -> None:
        """Let time pass at once for silences and statement timeouts."""
        self._clock.advance(seconds)

    def trust(self, signature: str, thought: str) -> None:
        """Accept a signed thought in histories that this server did not issue."""
        self._script.trust(signature, thought)

    def on_sql(self, pattern: str, answer: Taught) -> None:
        """Teach a statement.

        Args:
            pattern: A regular expression searched in the text, without regard to case.
            answer: A result, or a function from the text to one.
        """
        self._sql.taught.append((re.compile(pattern, re.I | re.S), answer))

    def fail_sql(self, pattern: str, errno: int) -> None:
        """Let statements that match fail with one of the catalogued errors."""
        fault = sql_fails(errno)
        self.on_sql(pattern, Failed(fault.errno, fault.sqlstate, fault.message))

    def break_http(
        self, pattern: str, status: int, *, times: int | None = None
    ) -> None:
        """Let requests be answered with a bare HTTP status, below all else.

        Connectors try such requests again; 4.x does so for as long as it lasts.

        Args:
            pattern: A regular expression searched in the path, for example
                `query-request`, `/monitoring/`, `/result`, `token-request`.
            status: What they get.
            times: How many of them; all until `mend` when left out.
        """
        self._breakage.add(pattern, status, times)

    def mend(self) -> None:
        """End what `break_http` began."""
        self._breakage.clear()

    def assert_done(self) -> None:
        """Check that every reply was used, and fit, and every request had one.

        Raises:
            ScriptError: Replies are left, requests came without one, a computed reply
                failed, or a reply was asked for at a door that cannot serve it.
        """
        faults = list(self._faults())
        if faults:
            seen = [f"  {described(request)}" for request in self.requests]
            raise ScriptError("\n".join([*faults, "requests:", *seen]))

    # -- credentials -------------------------------------------------------------------
    def expire(self, how: Expired | None = None) -> None:
        """Let every present session token expire; renewal brings a good one.

        Args:
            how: In which words the server says so, from `expires(...)`.
        """
        if how is not None:
            self._sessions.expiry = how
        self._sessions.expire()

    def expire_for_ever(self, how: Expired | None = None) -> None:
        """Let the inference doors refuse every session token, renewed ones too.

        SQL keeps working: the 4.x connector renews there without end otherwise.
        """
        self.expire(how)
        self._sessions.rest_expired = True

    def expire_masters(self) -> None:
        """Let session and master tokens expire: nothing but a new login helps."""
        self._sessions.expire()
        self._sessions.masters_expired = True

    def refuse_logins(self, errno: int | None) -> None:
        """Let logins fail with this number (390100, 390144); None accepts again."""
        self._sessions.login_error = errno

    @property
    def logins(self) -> int:
        """How many logins succeeded."""
        return self._sessions.logins

    @property
    def renewals(self) -> int:
        """How many session tokens were renewed."""
        return self._sessions.renewals

    # -- what happened -----------------------------------------------------------------
    @property
    def sockets(self) -> int:
        """How many connections were accepted, the connector's among them."""
        return self._server.accepted

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests at the inference doors, in order of arrival."""
        return self._script.requests

    @property
    def refused(self) -> tuple[Request, ...]:
        """The requests that broke a rule, each with its complaint."""
        return tuple(r for r in self.requests if r.outcome == "refused")

    @property
    def unexpected(self) -> tuple[Request, ...]:
        """The legal requests the script had no reply for."""
        return tuple(r for r in self.requests if r.outcome == "unscripted")

    @property
    def unused(self) -> tuple[Reply, ...]:
        """The replies nobody asked for yet."""
        return self._script.left

    @property
    def inferences(self) -> int:
        """How often a model ran; errors do not count, answers that got lost do."""
        return self._script.outcomes["answered"]

    @property
    def attempts(self) -> int:
        """How many replies of the script were consumed, errors included."""
        outcomes = self._script.outcomes
        return outcomes["answered"] + outcomes["failed"]

    @property
    def hits(self) -> Counter[str]:
        """Physical HTTP requests by method and path, ids written as ``<id>``."""
        return Counter(self._script.hits)

    @property
    def submissions(self) -> Mapping[str, int]:
        """Physical SQL submissions by the connector's request id."""
        return dict(self._queries.submissions)

    @property
    def queries(self) -> tuple[Query, ...]:
        """Every query, in order of submission."""
        return self._queries.all

    @property
    def statements(self) -> tuple[str, ...]:
        """The text of every statement, in order."""
        return tuple(self._sql.statements)

    def query_result(self, query_id: str) -> Rows | Failed | None:
        """What a query has come to, or None while it runs; no poll is counted.

        Raises:
            KeyError: There is no such query.
        """
        query = self._queries.find(query_id)
        if query is None:
            raise KeyError(query_id)
        return self._queries.peek(query)

    def _faults(self) -> Iterator[str]:
        yield from self._script.complaints
        for request in self.unexpected:
            yield f"no reply was left for request {described(request)}"
        for reply in self.unused:
            yield f"nobody asked for {reply!r}"
