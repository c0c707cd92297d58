"""From what a host hands over to what drives and services share."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any, TypeAlias, cast

from attrs import fields_dict

from agentloop.core.catalog import RequestError
from agentloop.core.config import Config, McpServer, is_alias
from agentloop.core.run import Scope
from agentloop.ports import (
    Backend,
    Clock,
    Engine,
    Ids,
    MissingExtraError,
    Observer,
    ServerDirectory,
    Store,
    ToolServer,
)
from agentloop.runtime import checks
from agentloop.runtime.hub import Hub
from agentloop.runtime.options import Options
from agentloop.runtime.prepare import Resources
from agentloop.runtime.system import RandomIds, SystemClock

Tools: TypeAlias = Mapping[str, ToolServer | Iterable[Callable[..., Any]]]
Backends: TypeAlias = Mapping[str, Backend] | Callable[[Config], Backend | None]
"""By data_plane_id, or a function of a config, which has None for no such plane."""


def options_of(choices: Mapping[str, Any]) -> Options:
    """The options that keyword arguments of a face name.

    Raises:
        TypeError: one does not exist.
        ValueError: a value that it cannot have.
    """
    checks.check_names("option", choices, tuple(fields_dict(Options)))
    return Options(**choices)


def store_of(store: Store | None) -> Store:
    """The host's store, or one in memory.

    Raises:
        TypeError: it is no store.
    """
    if store is None:
        return memory_store()
    checks.check_store(store)
    return store


def directory_of(mcp: ServerDirectory | None) -> ServerDirectory:
    """The host's way to servers that are named by URL, or ours.

    Raises:
        TypeError: it is no directory.
    """
    if mcp is None:
        return LateDirectory()
    checks.check_directory(mcp)
    return mcp


def clock_of(clock: Clock | None) -> Clock:
    """The host's clock, or the machine's.

    Raises:
        TypeError: it is no clock.
    """
    if clock is None:
        return SystemClock()
    checks.check_calls("clock=", clock, "now", "monotonic")
    return clock


def ids_of(ids: Ids | None) -> Ids:
    """The host's ids, or random ones.

    Raises:
        TypeError: they are none.
    """
    if ids is None:
        return RandomIds()
    checks.check_calls("ids=", ids, "new")
    return ids


def hub_of(observer: Observer | None) -> Hub:
    """A hub that tells the host's observer.

    Raises:
        TypeError: it cannot be called, or what it returns would have to be awaited.
    """
    if observer is not None:
        checks.check_calls("observer=", observer)
        call = getattr(observer, "__call__", None)  # noqa: B004 # an object's method
        if iscoroutinefunction(observer) or iscoroutinefunction(call):
            raise TypeError(
                "observer= must be a plain function; an async one is never awaited: "
                "have it hand events to a queue or to call_soon_threadsafe"
            )
    return Hub(observer)


def engine_of(engine: Engine | None) -> Engine | None:
    """The host's engine, if there is one.

    Raises:
        TypeError: it is none.
    """
    if engine is not None:
        checks.check_calls("engine=", engine, "start", "cancel")
    return engine


def in_words(face: str, parts: Resources, state: str) -> str:
    """What a face prints as: parts by their kind, whose own text may tell more."""
    tools = ", ".join(parts.servers) or "none"
    store = type(parts.store).__name__
    driver = f", driven by {parts.driver}" if parts.engine is not None else ""
    return f"<{face} over {store}, tools: {tools}{driver}, {state}>"


def memory_store() -> Store:
    """A store in memory, for trying things out."""
    # By name, because the runtime knows no adapter.
    store: Store = import_module("agentloop.stores.memory").MemoryStore()
    return store


class LateDirectory:
    """Reaches MCP servers by the shipped client, loaded when a config names one."""

    def __init__(self) -> None:
        self._found: Any = None

    def open(self, server: McpServer, scope: Scope) -> ToolServer:
        """The server's tools for one run.

        Raises:
            RequestError: `invalid-config`, when policy forbids the address or the
                extra is not installed.
        """
        found: ToolServer = self._directory(server).open(server, scope)
        return found

    def check(self, server: McpServer) -> None:
        """Judge the URL of a server before a run is started.

        Raises:
            RequestError: as `open` does.
        """
        self._directory(server).check(server)

    def _directory(self, server: McpServer) -> Any:
        found = self._found
        if found is None:
            try:
                found = import_module("agentloop.tools.mcp").McpDirectory()
            except MissingExtraError as error:
                problem = f"mcp_servers entry '{server.alias}' has a url: {error}"
                raise RequestError("invalid-config", problem=problem) from None
            self._found = found
        return found


def tool_servers(tools: Tools | None) -> dict[str, ToolServer]:
    """The host's tools by alias; lists of functions become servers.

    Raises:
        TypeError: something that is neither functions nor a server.
        ValueError: an alias breaks the alias rule.
    """
    if tools is None:
        return {}
    if not isinstance(tools, Mapping):
        raise TypeError(
            f"tools= must be by alias, tools={{'host': [function]}}, not "
            f"{checks.given(tools)}"
        )
    return {alias: _server(alias, some) for alias, some in tools.items()}


def _server(
    alias: object, tools: ToolServer | Iterable[Callable[..., Any]]
) -> ToolServer:
    if not isinstance(alias, str) or not is_alias(alias):
        raise ValueError(
            f"{alias!r} is no alias: 1 to 8 letters and digits, a letter first"
        )
    listed = isinstance(tools, Iterable) and not isinstance(tools, str | Mapping)
    if not listed or not checks.lacks(tools, ToolServer):
        checks.check_server(f"tools[{alias!r}]", tools)
        return cast("ToolServer", tools)
    found: ToolServer = import_module("agentloop.tools.functions").FunctionTools(tools)
    return found


def chooser(
    backend: Backend | None, backends: Backends | None
) -> Callable[[Config], Backend]:
    """What picks the backend of a run.

    Raises:
        TypeError: something that is no backend.
        ValueError: there is no backend at all.
    """
    if backend is not None:
        checks.check_backend("backend=", backend)
    if backends is not None and not isinstance(backends, Mapping):
        return _asking(backends, backend)
    by_plane = dict(backends or {})
    for plane, one in by_plane.items():
        if not isinstance(plane, str):
            raise TypeError(
                f"backends= is by data_plane_id, which is text, not {plane!r:.60}"
            )
        checks.check_backend(f"backends[{plane!r}]", one)
    if backend is None and not by_plane:
        raise ValueError("a loop needs a backend=, or backends= by data_plane_id")
    return partial(_of_plane, by_plane, backend)


def _of_plane(
    by_plane: Mapping[str, Backend], default: Backend | None, config: Config
) -> Backend:
    """The backend of a config's data plane.

    Without a table there is one data plane, whatever a config calls it.
    """
    plane = config.data_plane_id
    named = plane is not None and by_plane
    found = by_plane.get(plane or "") if named else default
    if found is not None:
        return found
    if plane is None:
        problem = "$.data_plane_id: required, as the host has no default backend"
        raise RequestError("invalid-config", problem=problem)
    raise RequestError("unknown-data-plane", id=plane)


def _asking(
    function: Callable[[Config], Backend | None], default: Backend | None
) -> Callable[[Config], Backend]:
    """The host's own function, whose answer is looked at.

    A `backend=` beside it is for configs that name no data plane, as it is beside a
    table; without one the function is asked for those as well.
    """
    if not checks.lacks(function, Backend):
        raise TypeError("backends= is a backend itself; give it as backend=")
    if not callable(function):
        raise TypeError(
            "backends= must be backends by data_plane_id, or a function of a config, "
            f"not {checks.given(function)}"
        )

    def choose(config: Config) -> Backend:
        if not config.data_plane_id and default is not None:
            return default
        try:
            found = function(config)
        except LookupError:  # as a table raises it
            found = None
        if found is None:
            raise RequestError("unknown-data-plane", id=config.data_plane_id)
        checks.check_backend("what backends= returns", found)
        return found

    return choose
