"""A loop for a process that nobody watches, from its flags: `serve` and `worker`."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from attrs import asdict, astuple, frozen

from agentloop.cli import backends, parts
from agentloop.http.logs import log_run_event
from agentloop.ports import ServerDirectory, Store, StoreUnavailableError
from agentloop.stores.versions import SchemaVersionError

Loop = TypeVar("Loop")
RUN_TIMEOUT, ATTEMPT_TIMEOUT, TOOL_TIMEOUT = 900.0, 300.0, 120.0
"""What holds a worker of a server that nobody watches, unless a flag says otherwise."""
OTHERS = ("uvicorn", "asyncio")
"""Libraries below ours that have something to say when things go wrong."""
PATIENCE = 2.0
"""Seconds for a store to say, before anything is served, which schema it has."""


@frozen
class Model:
    """What the flags say of the backends."""

    backend: str
    endpoint_url: str | None
    region: str | None
    backends_file: str | None
    at_once: int


@frozen
class Bounds:
    """How long runs, attempts and calls may take, and a silent worker holds a run."""

    run_timeout: float
    attempt_timeout: float
    tool_timeout: float
    lease: float


@frozen
class Wanted:
    """What the flags say of a loop."""

    store: str
    model: Model
    tools: list[str] | None
    allow_private_mcp: bool
    bounds: Bounds

    @contextmanager
    def loop(self, face: Callable[..., Loop], **more: Any) -> Iterator[Loop]:
        """A loop with its store and backends, which are closed at the end.

        `face` makes it, and who asked for it closes it.

        Raises:
            SchemaVersionError: the store was not migrated.
        """
        with (
            parts.open_store(self.store) as store,
            backends.choose(*astuple(self.model)) as chosen,
        ):
            _check_schema(store)
            yield parts.make_loop(
                face,
                chosen.default,
                store,
                parts.load_tools(self.tools or []),
                backends=chosen.planes,
                mcp=_directory(self.allow_private_mcp),
                observer=log_run_event,
                **asdict(self.bounds),
                **more,
            )


def _check_schema(store: Store) -> None:
    """Refuse a store whose tables are missing or of another release.

    One that is away now, or slow to say so, may be there later, and is waited for by
    whoever needs it.

    Raises:
        SchemaVersionError: it was not migrated.
    """
    refused: list[SchemaVersionError] = []

    def look() -> None:
        try:
            store.ping()
        except StoreUnavailableError:
            return
        except SchemaVersionError as error:
            refused.append(error)

    looking = threading.Thread(target=look, name="agentloop-schema", daemon=True)
    looking.start()
    looking.join(PATIENCE)
    for error in refused:
        raise error


def _directory(allow_private: bool) -> ServerDirectory | None:
    """How MCP servers are reached; None leaves it to the loop's own way."""
    if not allow_private:
        return None
    from agentloop.tools.mcp import McpDirectory, McpOptions

    return McpDirectory(McpOptions(allow_private=True))
