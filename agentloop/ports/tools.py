"""The port to servers of tools: host functions, MCP servers, anything else."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from agentloop.core.catalog import Failure
from agentloop.core.config import McpServer
from agentloop.core.content import Content, JsonObject
from agentloop.core.routing import Offer
from agentloop.core.run import Scope
from agentloop.core.values import value
from agentloop.ports.system import derived_id

Abandoned: TypeAlias = Callable[[], bool]
"""Whether nobody waits for an answer any more."""


def effect_key(run_id: str, call_key: str) -> str:
    """The idempotency key of one call of a run's, the same for all its attempts."""
    return derived_id(run_id, f"call/{call_key}")


@value
class ToolCall:
    """One call to make.

    Attributes:
        run_id: the run whose model asked for the call.
        scope: who started that run, and for whom the tool therefore acts.
        key: which of the run's calls it is, such as `3.0`: iteration and place.
        tool_use_id: what the model calls the call.
        name: the tool's own name, without the alias.
        arguments: what the model passes.
        timeout: seconds the call may take; None leaves it to the server.
        abandoned: whether nobody waits for the answer any more, because the run was
            cancelled or is driven elsewhere; may be asked often, from any thread.
            A blocking `call` that can should then stop the work and return: the
            answer is read by nobody. A call that is awaited is cancelled instead.
    """

    run_id: str
    scope: Scope
    key: str
    tool_use_id: str
    name: str
    arguments: JsonObject
    timeout: float | None = None
    abandoned: Abandoned | None = None

    @property
    def effect_key(self) -> str:
        """The same uuid for every attempt of the same call, and for no other.

        An idempotency key for whatever the tool does; made when it is asked for,
        because few tools do.
        """
        return effect_key(self.run_id, self.key)


@value
class ToolAnswer:
    """What a tool returned; its own failure is `is_error`, not an exception."""

    content: tuple[Content, ...]
    is_error: bool = False


class ToolServer(Protocol):
    """The tools under one alias. Shared by all threads.

    A server with `async def acall`, with the signature of `call`, is awaited by
    the async driver instead of using a thread; so is `async def adiscover`. One with
    `reports`, a tuple of lines about what its last discovery left out, has them told
    in an event of the run.
    One with `keeps_time` true promises that `call` ends soon after its time-out and
    once it is abandoned; it is called on the thread of the run where a call of any
    other takes a thread of its own, so that a run can end without it. One with
    `quick`, a set of tools' names, has them called right where a run is driven, on
    an event loop as well: nothing else goes on meanwhile.
    """

    def declared(self) -> tuple[Offer, ...] | None:
        """The catalog when it is known without I/O, None when it must be asked."""
        ...

    def discover(self, timeout: float) -> tuple[Offer, ...] | Failure:
        """Ask for the catalog, within `timeout` seconds.

        Must not raise; a failure is `discovery_unavailable` when another attempt
        may help, else `discovery_refused`.
        """
        ...

    def call(self, call: ToolCall) -> ToolAnswer | Failure:
        """Make the call and wait for its answer, at most `call.timeout` seconds.

        Waits no longer than `call.abandoned` lets it, where it can stop at all.

        Must not retry and must not raise. What the tool itself reports as wrong
        is an answer with `is_error`. A `Failure` is of a kind that the catalog's
        failure table lists for tools; its `retried` column decides the rest.
        """
        ...

    def close(self) -> None:
        """Give back what the server holds; called when its loop is closed."""
        ...


class ServerDirectory(Protocol):
    """Reaches the servers that a config names by URL.

    A directory with `check`, which takes a server and raises as `open` does, is asked
    when a run is started, so that the caller hears of it; it must not connect.
    """

    def open(self, server: McpServer, scope: Scope) -> ToolServer:
        """The server's tools for one run; `close` is called when it ends.

        `scope` is who started the run: what the host shows the server to be let in
        may be another for each of them.

        Raises:
            RequestError: `invalid-config`, when policy forbids the address.
        """
        ...
