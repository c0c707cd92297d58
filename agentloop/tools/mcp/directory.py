"""The doors of the package: servers by URL, and servers by command."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeAlias

from agentloop.core.catalog import Failure, RequestError
from agentloop.core.config import McpServer
from agentloop.core.routing import Offer
from agentloop.core.run import Scope
from agentloop.ports import MissingExtraError, ToolAnswer, ToolCall, ToolServer
from agentloop.tools.mcp.address import (
    Endpoint,
    ForbiddenAddressError,
    Policy,
    read_url,
)
from agentloop.tools.mcp.listing import Listing
from agentloop.tools.mcp.options import McpOptions, StdioOptions
from agentloop.tools.mcp.server import Remote, RemoteTools

if TYPE_CHECKING:
    from agentloop.tools.mcp.link import Link

MAX_REMEMBERED = 1000
_Known: TypeAlias = tuple[str, str, Scope | None]
"""An alias, a URL, and for whom the catalog was listed, where that may matter."""


class McpDirectory:
    """Opens the servers that configs name by URL, over streamable HTTP.

    Every opened server is one MCP session with a pool of its own; nothing is
    shared between runs but the thread they use and, by option, catalogs.

    Raises:
        MissingExtraError: the extra `mcp` is not installed.
    """

    def __init__(self, options: McpOptions | None = None) -> None:
        _require_sdk()
        self._options = options or McpOptions()
        self._catalogs: dict[_Known, tuple[float, Listing]] = {}

    def open(self, server: McpServer, scope: Scope) -> RemoteTools:
        """The server's tools for one run; nothing is connected yet.

        Raises:
            RequestError: `invalid-config`, when policy forbids the address.
        """
        return RemoteTools(self._remote(server, scope, self._endpoint(server)))

    def check(self, server: McpServer) -> None:
        """Judge the URL of a server; a name is judged when it is resolved.

        Raises:
            RequestError: `invalid-config`, when policy forbids the address.
        """
        self._endpoint(server)

    def _endpoint(self, server: McpServer) -> Endpoint:
        policy = Policy(allow_private=self._options.allow_private)
        try:
            return read_url(server.url or "", policy)
        except ForbiddenAddressError as error:
            problem = f"the MCP server '{server.alias}' may not be reached: {error}"
            raise RequestError("invalid-config", problem=problem) from None

    def _remote(self, server: McpServer, scope: Scope, endpoint: Endpoint) -> Remote:
        def connect() -> "Link":
            from agentloop.tools.mcp.http import HttpTarget, HttpTransport
            from agentloop.tools.mcp.link import Link

            target = HttpTarget(server, scope, endpoint, self._options)
            return Link(HttpTransport(target), server.alias)

        # What a server shows may depend on who is let in, and so on the credentials.
        seen_by = None if self._options.credentials is None else scope
        key = (server.alias, str(endpoint), seen_by)
        return Remote(
            alias=server.alias,
            connect=connect,
            timeout=self._options.timeout,
            retry=self._options.retry,
            catalog=None if server.tools is None else tuple(map(Offer, server.tools)),
            recall=lambda: self._recall(key),
            remember=lambda listing: self._remember(key, listing),
        )

    def _recall(self, key: _Known) -> Listing | None:
        expires, listing = self._catalogs.get(key, (0.0, None))
        if listing is None or expires <= self._options.monotonic():
            return None
        return listing

    def _remember(self, key: _Known, listing: Listing) -> None:
        if self._options.cache_ttl is None:
            return
        while len(self._catalogs) >= MAX_REMEMBERED:
            self._catalogs.pop(next(iter(self._catalogs)), None)
        expires = self._options.monotonic() + self._options.cache_ttl
        self._catalogs[key] = (expires, listing)


class StdioServer:
    """A server process, started at the first use and again after it ended.

    A host registers it under an alias; the process is shared by all runs. Only
    the variables of `env`, and those without which programs do not run (PATH, HOME
    and the like), reach the process.

    Raises:
        MissingExtraError: the extra `mcp` is not installed.
    """

    keeps_time = True

    def __init__(
        self,
        command: str,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        options: StdioOptions | None = None,
    ) -> None:
        _require_sdk()
        self._name = name = PurePath(command).name
        settings = options or StdioOptions()

        def connect() -> "Link":
            from agentloop.tools.mcp.link import Link
            from agentloop.tools.mcp.stdio import StdioTarget, StdioTransport

            target = StdioTarget(name, command, tuple(args), dict(env or {}), settings)
            return Link(StdioTransport(target), name)

        self._tools = RemoteTools(Remote(name, connect, settings.timeout))

    def __repr__(self) -> str:
        return f"StdioServer({self._name!r})"

    @property
    def reports(self) -> tuple[str, ...]:
        """What the last discovery left out, a line for each tool."""
        return self._tools.reports

    def declared(self) -> tuple[Offer, ...] | None:
        """None: the process must be asked."""
        return self._tools.declared()

    def discover(self, timeout: float) -> tuple[Offer, ...] | Failure:
        """Ask for the catalog; what was left out of it is in `reports`."""
        return self._tools.discover(timeout)

    async def adiscover(self, timeout: float) -> tuple[Offer, ...] | Failure:
        """`discover` for async drivers."""
        return await self._tools.adiscover(timeout)

    def call(self, call: ToolCall) -> ToolAnswer | Failure:
        """Make one call; never a second one for the same `ToolCall`."""
        return self._tools.call(call)

    async def acall(self, call: ToolCall) -> ToolAnswer | Failure:
        """`call` for async drivers; cancelling it cancels it at the server."""
        return await self._tools.acall(call)

    def close(self) -> None:
        """Stop the process; the server is of no further use."""
        self._tools.close()

    async def aclose(self) -> None:
        """`close` for async drivers."""
        await self._tools.aclose()


def _require_sdk() -> None:
    """Fail early when the SDK is missing, without the cost of importing it."""
    for module in ("mcp", "jsonschema_rs"):
        if find_spec(module) is None:
            raise MissingExtraError(module, "mcp")


if TYPE_CHECKING:  # the ports hold, checked by the type checkers

    def _ports(tools: RemoteTools, server: StdioServer) -> tuple[ToolServer, ...]:
        return (tools, server)
