"""Logins, tokens and their ends: who may speak to the server.

The room holds the sessions and decides about credentials. It must not know what is
asked for.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from attrs import define, field, frozen

from agentloop.testing.fake_snowflake.replies import Expired
from agentloop.testing.fake_snowflake.shapes import Doc, Json, doc

_TOKEN: Final = re.compile(r'Snowflake Token="([^"]*)"')

_LOGIN_ERRORS: Final[Mapping[int, str]] = {
    390100: "Incorrect username or password was specified.",
    390144: "JWT token is invalid.",
    390318: "OAuth access token expired.",
}


_FACTS: Final[Mapping[str, str]] = {
    "current_version": "9.40.0",
    "current_account": "LOOPBACK",
    "current_region": "AWS_US_WEST_2",
    "current_user": "AGENT",
    "current_role": "AGENT_ROLE",
    "current_warehouse": "COMPUTE_WH",
}


TOKEN_KINDS: Final = frozenset({"KEYPAIR_JWT", "OAUTH", "PROGRAMMATIC_ACCESS_TOKEN"})
"""What `X-Snowflake-Authorization-Token-Type` may say of a bearer token."""

Bearers: TypeAlias = frozenset[str] | Mapping[str, str]
"""Bearer tokens, or what each of them is."""


@define(eq=False)
class Session:
    """One login.

    Attributes:
        renewals: How often its token was renewed.
        live: Whether the present token is still accepted.
        open: Whether the client has not logged out.
        parameters: Session parameters, upper-case names.
        facts: What `current_role()` and its like answer.
    """

    number: int
    token: str = field(repr=False)
    master: str = field(repr=False)
    renewals: int = 0
    live: bool = True
    open: bool = True
    parameters: dict[str, Json] = field(factory=dict)
    facts: dict[str, str] = field(factory=dict)


@frozen
class Refused:
    """Credentials that are not accepted, and how the server says so."""

    status: int
    body: Doc


@frozen
class Bearer:
    """A request with a token of its own instead of a session."""


@define(eq=False)
class Sessions:
    """All sessions of one server.

    Attributes:
        bearers: The bearer tokens accepted, perhaps by their kind; None accepts any.
        expiry: How an expired session token is told.
        login_error: The error number every login gets, if any.
        rest_expired: Whether the REST doors refuse every session token.
    """

    bearers: Bearers | None = field(default=None, repr=False)
    expiry: Expired = field(factory=Expired)
    login_error: int | None = None
    rest_expired: bool = False
    masters_expired: bool = False
    logins: int = 0
    _all: list[Session] = field(factory=list)
    _lock: threading.RLock = field(factory=threading.RLock)

    # -- what tests do -----------------------------------------------------------------
    def expire(self) -> None:
        """Let every present session token expire; renewal brings a good one."""
        with self._lock:
            for session in self._all:
                session.live = False

    def open(self) -> Session:
        """A new session, as a login makes one."""
        with self._lock:
            number = len(self._all) + 1
            session = Session(
                number=number,
                token=f"session-{number}-0",
                master=f"master-{number}",
                facts={**_FACTS, "current_session": str(number)},
            )
            self._all.append(session)
            return session

    @property
    def renewals(self) -> int:
        """How many tokens were renewed."""
        with self._lock:
            return sum(session.renewals for session in self._all)

    # -- what the server asks ----------------------------------------------------------
    def judge(
        self,
        authorization: str,
        door: Literal["sql", "rest"],
        kind: str | None = None,
    ) -> Session | Bearer | Refused:
        """Who is speaking, or why nobody may; `kind` says what a token is."""
        if match := _TOKEN.fullmatch(authorization):
            return self._by_token(match[1], door)
        if door == "rest" and authorization.startswith("Bearer "):
            token = authorization.removeprefix("Bearer ")
            if self._takes(token, kind):
                return Bearer()
            return _refused(401, "390303", "Invalid OAuth access token.")
        return _refused(401, "390101", "Authorization header not found.")

    def _takes(self, token: str, kind: str | None) -> bool:
        if kind is not None and kind not in TOKEN_KINDS:
            return False
        if self.bearers is None or not isinstance(self.bearers, Mapping):
            return self.bearers is None or token in self.bearers
        # Without the header the server finds out by itself what a token is.
        return token in self.bearers and kind in {None, self.bearers[token]}

    def _by_token(self, token: str, door: Literal["sql", "rest"]) -> Session | Refused:
        with self._lock:
            number = re.match(r"session-(\d+)-", token)
            found = [s for s in self._all if number and s.number == int(number[1])]
            if not found or not found[0].open:
                gone = "Session no longer exists. New login required."
                return _refused(200 if door == "sql" else 401, "390111", gone)
            refused_here = door == "rest" and self.rest_expired
            if found[0].token != token or not found[0].live or refused_here:
                return Refused(200, expired_body(self.expiry))
            return found[0]

    def login(self, request: Doc) -> Doc:
        """Answer a login request."""
        if self.login_error is not None:
            code = str(self.login_error)
            return error_body(
                code, _LOGIN_ERRORS.get(self.login_error, "Login failed.")
            )
        session = self.open()
        given = doc(doc(request.get("data")).get("SESSION_PARAMETERS"))
        session.parameters.update({name.upper(): v for name, v in given.items()})
        with self._lock:
            self.logins += 1
        return ok_body(
            {
                "token": session.token,
                "masterToken": session.master,
                "validityInSeconds": 3600,
                "masterValidityInSeconds": 14400,
                "sessionId": session.number,
                "displayUserName": "AGENT",
                "serverVersion": "9.40.0",
                "healthCheckInterval": 45,
                "parameters": [
                    {"name": "CLIENT_TELEMETRY_ENABLED", "value": False},
                    {"name": "AUTOCOMMIT", "value": True},
                ],
                "sessionInfo": {
                    "databaseName": None,
                    "schemaName": None,
                    "warehouseName": "COMPUTE_WH",
                    "roleName": "AGENT_ROLE",
                },
            }
        )

    def renew(self, authorization: str) -> Doc:
        """Answer a token request, which carries the master token."""
        match = _TOKEN.fullmatch(authorization)
        with self._lock:
            found = [s for s in self._all if match and s.master == match[1] and s.open]
            if not found or self.masters_expired:
                why = "Authentication token has expired. The user must re-login."
                return error_body("390114", why)
            session = found[0]
            session.renewals += 1
            session.token = f"session-{session.number}-{session.renewals}"
            session.live = True
            return ok_body(
                {
                    "sessionToken": session.token,
                    "validityInSecondsST": 3600,
                    "masterToken": session.master,
                    "validityInSecondsMT": 14400,
                    "sessionId": session.number,
                }
            )

    def close(self, authorization: str) -> None:
        """End the session of a logout request."""
        match = _TOKEN.fullmatch(authorization)
        with self._lock:
            for session in self._all:
                if match and session.token == match[1]:
                    session.open = False


def ok_body(data: Json) -> Doc:
    """A success, in the envelope all connector endpoints share."""
    return {"success": True, "code": None, "message": None, "data": data}


def error_body(code: str, message: str) -> Doc:
    """A failure in the same envelope."""
    return {"success": False, "code": code, "message": message, "data": None}


def expired_body(how: Expired) -> Doc:
    """What an expired session token gets, with HTTP 200."""
    body = error_body("390112", "Your session has expired. Please login again.")
    del body["code"]
    return {how.key: 390112 if how.number else "390112", **body}


def _refused(status: int, code: str, message: str) -> Refused:
    return Refused(status, error_body(code, message))
