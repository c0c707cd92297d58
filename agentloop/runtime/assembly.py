"""From what a host hands over to what drives and services share."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

from agentloop.core.catalog import RequestError
from agentloop.core.config import Config, McpServer, is_alias
from agentloop.ports import (
    Backend,
    MissingExtraError,
    ServerDirectory,
    Store,
    ToolServer,
)

Tools: TypeAlias = Mapping[str, ToolServer | Iterable[Callable[..., Any]]]
Backends: TypeAlias = Mapping[str, Backend] | Callable[[Config], Backend]


def memory_store() -> Store:
    """A store in memory, for trying things out."""
    # By name, because the runtime knows no adapter.
    store: Store = import_module("agentloop.stores.memory").MemoryStore()
    return store


class LateDirectory:
    """Reaches MCP servers by the shipped client, loaded when a config names one."""

    def __init__(self) -> None:
        self._found: ServerDirectory | None = None

    def open(self, server: McpServer) -> ToolServer:
        """The server's tools for one run.

        Raises:
            RequestError: `invalid-config`, when policy forbids the address or the
                extra is not installed.
        """
        found = self._found
        if found is None:
            try:
                found = import_module("agentloop.tools.mcp").McpDirectory()
            except MissingExtraError as error:
                problem = f"mcp_servers entry '{server.alias}' has a url: {error}"
                raise RequestError("invalid-config", problem=problem) from None
            self._found = found
        return found.open(server)


def tool_servers(tools: Tools | None) -> dict[str, ToolServer]:
    """The host's tools by alias; lists of functions become servers.

    Raises:
        ValueError: an alias breaks the alias rule.
    """
    return {alias: _server(alias, some) for alias, some in (tools or {}).items()}


def _server(alias: str, tools: ToolServer | Iterable[Callable[..., Any]]) -> ToolServer:
    if not is_alias(alias):
        raise ValueError(
            f"{alias!r} is no alias: 1 to 8 letters and digits, a letter first"
        )
    if isinstance(tools, Iterable):
        found: ToolServer = import_module("agentloop.tools.functions").FunctionTools(
            tools
        )
        return found
    return tools


def chooser(
    backend: Backend | None, backends: Backends | None
) -> Callable[[Config], Backend]:
    """What picks the backend of a run.

    Raises:
        ValueError: there is no backend at all.
    """
    if callable(backends):
        return backends
    by_plane = dict(backends or {})
    if backend is None and not by_plane:
        raise ValueError("a loop needs a backend=, or backends= by data_plane_id")

    def choose(config: Config) -> Backend:
        plane = config.data_plane_id
        # With one backend and no table, a data plane is just a label.
        found = by_plane.get(plane) if plane and by_plane else backend
        if found is None:
            raise RequestError("unknown-data-plane", id=plane)
        return found

    return choose
