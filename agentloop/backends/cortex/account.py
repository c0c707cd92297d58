"""Where Cortex is and with which credentials: the host's connection, or its own way.

The connection stays the host's: it is read, it may run one trivial statement so that
the connector renews an expired session, it may be left for another that the host opens
when its login has run out, and it is never closed. Tokens pass through and are kept
nowhere.
"""

import threading
from collections.abc import Callable, Mapping
from inspect import getattr_static, unwrap
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import quote, urlsplit, urlunsplit

from attrs import field, frozen

from agentloop.backends.cortex.calls import Call, Calls, Patience, whole_seconds

Auth: TypeAlias = Callable[[], tuple[str, Mapping[str, str]]]
"""A host's own way: the account's URL, and the headers that authorise a request.

Called for every request, so that it can hand out fresh tokens (a programmatic access
token, a key-pair JWT, OAuth, the token file of a container service). For example
`("https://org-name.snowflakecomputing.com", {"Authorization": "Bearer ..."})`.
"""


LOGIN_IS_OVER: Final = frozenset({390111, 390114})
"""Numbers of errors that only another login helps against, on both lines."""


class NoTokenError(Exception):
    """The host's connection has no session token: it is closed."""


@frozen
class Ticket:
    """Credentials for one request."""

    base_url: str
    headers: Mapping[str, str] = field(repr=False)


@frozen
class Proxy:
    """The proxy of a connection; hosts in `no_proxy`, by commas, are reached directly.

    The URL may hold a password.
    """

    url: str = field(repr=False)
    no_proxy: str = ""


class Account(Protocol):
    """Gives tickets, and fresh ones when a ticket has expired."""

    def proxy(self) -> Proxy | None:
        """The way to the account that the host has named, None for the usual one."""
        ...

    def ticket(self) -> Ticket:
        """Credentials for a request that is about to be sent."""
        ...

    def renew(self, expired: Ticket, patience: Patience) -> None:
        """See to it that the next ticket is better than this one.

        Raises:
            TimeoutError: it took too long.
        """
        ...


class Link:
    """The connection in use, and the host's way to another one, if it has one.

    A login ends after some hours, and only whoever has the credentials can make
    another. What was connected before stays the host's to close.
    """

    def __init__(
        self, connection: Any, reconnect: Callable[[], Any] | None = None
    ) -> None:
        self.connection = connection
        self._reconnect = reconnect
        self._lock = threading.Lock()

    def can_replace(self, error: BaseException) -> bool:
        """Whether an error is one that another connection helps against."""
        known = getattr(error, "errno", None) in LOGIN_IS_OVER
        return known and self._reconnect is not None

    def replace(self, worn: Any) -> None:
        """Open another connection than this, once for all threads that met its end.

        Raises:
            Exception: what the host's way raised.
        """
        with self._lock:
            if self.connection is worn and self._reconnect is not None:
                self.connection = self._reconnect()


class HostAuth:
    """The host hands out credentials."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth

    def proxy(self) -> Proxy | None:
        """None: who has its own credentials may bring its own pool."""
        return None

    def ticket(self) -> Ticket:
        """What the host says now."""
        base_url, headers = self._auth()
        return Ticket(base_url.rstrip("/"), dict(headers))

    def renew(self, expired: Ticket, patience: Patience) -> None:
        """Nothing to do: the host is asked anew for every request."""


class ConnectionAuth:
    """The session token of a connection of the connector's, either line."""

    def __init__(self, link: Link, calls: Calls) -> None:
        self._link = link
        self._calls = calls
        self._lock = threading.Lock()
        self._renewal: Call[None] | None = None

    def proxy(self) -> Proxy | None:
        """The proxy that the connection was given, if it was given one."""
        return proxy_of(self._link.connection)

    def ticket(self) -> Ticket:
        """The connection's address and its present session token.

        Raises:
            NoTokenError: the connection is closed.
        """
        url, token = address_of(self._link.connection)
        if not token:
            raise NoTokenError("the host's connection is closed")
        return Ticket(url, {"Authorization": f'Snowflake Token="{token}"'})

    def renew(self, expired: Ticket, patience: Patience) -> None:
        """Let the connector renew the session, once for all threads that wait.

        Each waits as long as its own patience lasts; one renewal that hangs is all
        there is, whoever comes and goes.

        Raises:
            TimeoutError: patience ended first.
            Exception: what the connector raises when it cannot.
        """
        renewal = self._renewing(expired, patience)
        if renewal is not None:
            renewal.result(patience)

    def _renewing(self, expired: Ticket, patience: Patience) -> Call[None] | None:
        """The renewal to wait for, or None where another thread has renewed."""
        with self._lock:
            if self.ticket() != expired:
                return None
            if self._renewal is None or self._renewal.is_over:
                limit = whole_seconds(patience.deadline)
                self._renewal = self._calls.begin(lambda: self._select(limit))
            return self._renewal

    def _select(self, limit: int | None) -> None:
        connection = self._link.connection
        try:
            with connection.cursor() as cursor:
                cursor.execute("select 1", timeout=limit)  # ends the tries of 4.x
        except Exception as error:
            if not self._link.can_replace(error):
                raise
            self._link.replace(connection)


def address_of(connection: Any) -> tuple[str, str | None]:
    """URL and session token of a connection, on 4.x and on 5.x.

    `rest` is an attribute that 5.x keeps for compatibility and warns about; the
    warning is for callers that want its methods. Token and address are all we take,
    so the function behind the property is called without the wrapper that warns.
    """
    found = getattr_static(type(connection), "rest", None)
    if isinstance(found, property) and found.fget is not None:
        rest = unwrap(found.fget)(connection)
    else:
        rest = connection.rest
    if rest is None:
        return "", None
    token = rest.token
    return (plain_url(rest.server_url) if token else ""), token


def proxy_of(connection: Any) -> Proxy | None:
    """The proxy of a connection, on 4.x and on 5.x; None leaves it to the environment.

    Read from its public properties, which a wrapper or a stand-in may lack.
    """
    host, port, user, password = (
        getattr(connection, f"proxy_{name}", None)
        for name in ("host", "port", "user", "password")
    )
    direct = getattr(connection, "no_proxy", None) or ""
    if not host:
        return None
    scheme, _, name = host.rpartition("://")
    who = f"{quote(user, '')}:{quote(password or '', '')}@" if user else ""
    where = f"{name}:{port}" if port else name
    return Proxy(
        url=f"{scheme or 'http'}://{who}{where}",
        no_proxy=direct if isinstance(direct, str) else ",".join(map(str, direct)),
    )


def plain_url(url: str) -> str:
    """The URL with the spelling of the host that its certificate knows.

    Account names may hold underscores, host names in certificates do not
    (Snowflake, "Account identifiers").
    """
    parts = urlsplit(url.rstrip("/"))
    host = parts.hostname or ""
    if "_" not in host or not host.endswith((".snowflakecomputing.com", ".cn")):
        return url.rstrip("/")
    spelled = parts.netloc.lower().replace(host, host.replace("_", "-"))
    return urlunsplit(parts._replace(netloc=spelled))
