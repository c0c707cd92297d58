"""`CortexBackend`: one Snowflake connection, shared by all threads, as a backend.

Holds what is fixed for a host: the connection, the transport, the names of models,
what they can do and what is asked of them. Importing and constructing cost nothing;
the connection is first touched when a request goes out, and never closed.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, TypeAlias, get_args

from agentloop.backends.common.doors import (
    check_capabilities,
    check_found,
    check_model_ids,
    check_options,
    refuse,
)
from agentloop.backends.cortex.account import (
    Account,
    Auth,
    ConnectionAuth,
    HostAuth,
    Link,
)
from agentloop.backends.cortex.calls import Calls
from agentloop.backends.cortex.capabilities import (
    Capabilities,
    Override,
    Transport,
    capabilities_of,
    dialect_of,
)
from agentloop.backends.cortex.http import Http
from agentloop.backends.cortex.options import (
    FIELD_KINDS,
    Model,
    ModelOptions,
    first_problem,
)
from agentloop.backends.cortex.rest import Doors, RestSession
from agentloop.backends.cortex.sql import SqlSession
from agentloop.core.catalog import RequestError
from agentloop.core.config import Config, ToolChoice
from agentloop.ports import MissingExtraError, SessionSetup

ModelIds: TypeAlias = Mapping[str, str] | Callable[[str], str] | None
"""From the model names of configs to Cortex's; what is left out is Cortex's own."""


class CortexBackend:
    """Inference by Snowflake Cortex, over REST or over SQL.

    The transport is chosen here and never changed in silence: cost, role and what a
    model can do differ between the two. REST speaks Anthropic's wire to `claude-`
    models and OpenAI's to all others, with tools and streams, and needs no
    warehouse. SQL runs `SNOWFLAKE.CORTEX.COMPLETE` in the session's own role and
    warehouse; a query outlives a crash, but there are no tools and no streams.

    Args:
        connection: a connection of snowflake-connector-python, 4.8 or later. It may
            be left out when `auth` is given.
        transport: `rest` or `sql`.
        reconnect: opens another connection when the login of this one has run out,
            which its master token does after some hours; without it, the host sees
            refusals until it gives a fresh connection. The old one stays the host's.
        auth: the host's own credentials for REST, instead of the session token: a
            function that returns the account's URL and the headers to send.
        emulate_tools: over SQL, put tools into words and a JSON Schema.
        model_ids: Cortex's name for the model of a config, as a mapping or a
            function; without an entry the name is taken as it is.
        capabilities: the host's own records, by model name.
        options: what requests carry beyond the config, by model name.
        pool: a urllib3 pool manager with the host's proxies and TLS; without one, the
            connection's proxy is used, or else the environment's, and the system's
            certificates.
        max_in_flight: how many connections a pool of our own keeps.

    Raises:
        TypeError: no connection, or a choice of the wrong kind.
        ValueError: a transport that does not exist, nothing to authorise with, or
            what belongs to the other transport.
    """

    def __init__(  # noqa: PLR0913 - the public face names every choice
        self,
        connection: Any = None,
        *,
        transport: Transport = "rest",
        reconnect: Callable[[], Any] | None = None,
        auth: Auth | None = None,
        emulate_tools: bool = False,
        model_ids: ModelIds = None,
        capabilities: Override = None,
        options: Mapping[str, ModelOptions] | None = None,
        pool: Any = None,
        max_in_flight: int = 32,
    ) -> None:
        _check_choices(connection, transport, auth, emulates=emulate_tools)
        check_model_ids(model_ids)
        check_capabilities(capabilities, Capabilities)
        check_options(options, ModelOptions, FIELD_KINDS)
        self._link = Link(connection, reconnect)
        self._transport: Transport = transport
        self._emulates = emulate_tools
        self._model_ids = model_ids
        self._capabilities = capabilities
        self._options = dict(options or {})
        self._has_pool = pool is not None
        self._calls = Calls()
        account: Account = ConnectionAuth(self._link, self._calls)
        if auth is not None:
            account = HostAuth(auth)
        self._doors = Doors(account, Http(pool, max_in_flight, account.proxy))

    def __repr__(self) -> str:
        return f"<CortexBackend over {self._transport}>"

    @property
    def name(self) -> str:
        """How job records call this backend."""
        return "cortex"

    @property
    def transport(self) -> Transport:
        """How it reaches Cortex."""
        return self._transport

    @property
    def hanging(self) -> int:
        """How many calls of the connector were given up and have not come back."""
        return self._calls.hanging

    def check(self, config: Config, tool_choice: ToolChoice) -> None:
        """Refuse what Cortex would refuse for this config, before it costs.

        Raises:
            RequestError: `invalid-config`, naming the combination.
            MissingExtraError: urllib3 is not installed and REST needs it.
        """
        needs_client = self._transport == "rest" and not self._has_pool
        if needs_client and find_spec("urllib3") is None:
            raise MissingExtraError("urllib3", "cortex")
        problem = first_problem(config, tool_choice, self._model(config.model))
        if problem is not None:
            raise RequestError("invalid-config", problem=problem)

    def session(self, setup: SessionSetup) -> RestSession | SqlSession:
        """A session for one drive of one run; encodes no message yet."""
        model = self._model(setup.config.model)
        if model.dialect == "sql":
            return SqlSession(setup, model, self._link, self._calls)
        return RestSession(setup, model, self._doors)

    def close(self) -> None:
        """Close idle HTTP connections of our own; the host's things stay as they are.

        The backend may be used again afterwards.
        """
        self._doors.http.close()

    # ------------------------------------------------------------ models

    def _model(self, name: str) -> Model:
        id_ = self._model_id(name)
        return Model(
            id=id_,
            dialect=dialect_of(id_, self._transport),
            can=self._record(name, id_),
            options=self._options.get(name) or ModelOptions(),
            emulated=self._emulates,
        )

    def _model_id(self, name: str) -> str:
        match self._model_ids:
            case None:
                return name
            case Mapping():
                return self._model_ids.get(name, name)
            case _:
                return str(check_found("model_ids", self._model_ids(name), str))

    def _record(self, name: str, id_: str) -> Capabilities:
        own = self._capabilities
        if isinstance(own, Mapping):
            found = own.get(name)
        else:
            found = own(name) if own is not None else None
            if found is not None:
                check_found("capabilities", found, Capabilities)
        return found or capabilities_of(id_)


def _check_choices(
    connection: Any, transport: str, auth: Auth | None, *, emulates: bool
) -> None:
    if transport not in get_args(Transport):
        known = " or ".join(get_args(Transport))
        raise ValueError(f"transport must be {known}, not {transport!r}")
    if connection is None and (transport == "sql" or auth is None):
        way_out = "" if transport == "sql" else ", or auth"
        raise ValueError(f"the {transport} transport needs a connection{way_out}")
    if isinstance(connection, str | int | Mapping | type):  # others stay untouched
        raise refuse(
            "connection", "a connection of the Snowflake connector", connection
        )
    if auth is not None and not callable(auth):
        raise refuse("auth", "a function", auth)
    if auth is not None and transport == "sql":
        raise ValueError("auth is for the rest transport; sql uses the connection")
    if emulates and transport == "rest":
        raise ValueError("emulate_tools is for the sql transport; rest has tools")
