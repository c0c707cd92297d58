"""The tools of one MCP server behind `ports.ToolServer`, for any transport.

Both faces run on the portal's loop: the sync one waits for it, the async one
awaits it. The deadline lies around everything a call needs, connection included.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from attrs import evolve, field, frozen

from agentloop.core.catalog import Failure, FailureKind
from agentloop.core.content import JsonObject
from agentloop.core.routing import Offer
from agentloop.ports import ToolAnswer, ToolCall
from agentloop.ports.tools import Abandoned
from agentloop.tools.mcp.answers import answer_of
from agentloop.tools.mcp.envelope import (
    SESSION_LOST,
    UNDELIVERED,
    FaultError,
    protocol_fault,
    server_fault,
)
from agentloop.tools.mcp.listing import Listing, list_tools
from agentloop.tools.mcp.options import EFFECT_KEY
from agentloop.tools.mcp.portal import PORTAL, Portal
from agentloop.tools.waiting import ending_of, wait_until
from agentloop.wire import WireError, clean

if TYPE_CHECKING:
    from agentloop.tools.mcp.link import Link

T = TypeVar("T")

_CLOSING: Final = 10.0


@frozen
class Remote:
    """What a server of tools is made from.

    `connect` makes a fresh link, on the loop; `timeout` is for calls without one.
    """

    alias: str
    connect: "Callable[[], Link]"
    timeout: float
    retry: Literal["always", "undelivered"] = "always"
    catalog: tuple[Offer, ...] | None = None
    recall: Callable[[], Listing | None] = field(default=lambda: None)
    remember: Callable[[Listing], None] = field(default=lambda _: None)


class RemoteTools:
    """A `ToolServer` whose tools are reached by MCP."""

    keeps_time = True

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._lock = threading.Lock()
        self._portal: Portal | None = None
        self._closed = False
        self._link: Link | None = None
        self._keepers: set[Future[None]] = set()
        self.reports: tuple[str, ...] = ()
        """What the last discovery left out, a line for each tool."""

    def __repr__(self) -> str:
        return f"RemoteTools({self._remote.alias!r})"

    def declared(self) -> tuple[Offer, ...] | None:
        """The catalog of the config, or None when the server must be asked."""
        return self._remote.catalog

    # ------------------------------------------------------------ both faces

    def discover(self, timeout: float) -> tuple[Offer, ...] | Failure:
        """Ask for the catalog; what was left out of it is in `reports`."""
        if (known := self._recalled()) is not None:
            return known
        return _as_discovery(self._wait(self._discover(timeout)))

    async def adiscover(self, timeout: float) -> tuple[Offer, ...] | Failure:
        """`discover` for async drivers."""
        if (known := self._recalled()) is not None:
            return known
        return _as_discovery(await self._await(self._discover(timeout)))

    def call(self, call: ToolCall) -> ToolAnswer | Failure:
        """Make one call; never a second one for the same `ToolCall`.

        When it is abandoned meanwhile, it is cancelled at the server.
        """
        return self._wait(self._call(call), call.abandoned)

    async def acall(self, call: ToolCall) -> ToolAnswer | Failure:
        """`call` for async drivers; cancelling it cancels it at the server."""
        return await self._await(self._call(call))

    def close(self) -> None:
        """End the session and wait for it; calls in flight fail."""
        with self._lock:
            self._closed = True
            portal, self._portal = self._portal, None
        if portal is None:
            return
        with suppress(TimeoutError):
            portal.submit(self._hang_up()).result(_CLOSING)
        PORTAL.leave(portal)

    async def aclose(self) -> None:
        """`close` for async drivers."""
        await asyncio.to_thread(self.close)

    def _wait(
        self, work: Coroutine[object, object, T], abandoned: Abandoned | None = None
    ) -> T | Failure:
        future = self._submit(work)
        if isinstance(future, Failure):
            return future
        try:
            if wait_until(ending_of(future), None, abandoned) == "over":
                return future.result()
        except BaseException:
            future.cancel()  # an interrupt of the waiting thread is a cancellation
            raise
        future.cancel()
        message = f"nobody waits for the answer of '{self._remote.alias}' any more"
        return Failure(kind="mcp_timeout", message=message)

    async def _await(self, work: Coroutine[object, object, T]) -> T | Failure:
        future = self._submit(work)
        if isinstance(future, Failure):
            return future
        return await asyncio.wrap_future(future)

    def _submit(self, work: Coroutine[object, object, T]) -> Future[T] | Failure:
        with self._lock:
            if not self._closed:
                self._portal = self._portal or PORTAL.join()
                return self._portal.submit(work)
        work.close()
        return server_fault(f"'{self._remote.alias}' was closed", UNDELIVERED).failure

    # ------------------------------------------------------------ on the loop

    def _recalled(self) -> tuple[Offer, ...] | None:
        known = self._remote.recall()
        if known is None:
            return None
        self.reports = known.reports
        return known.offers

    async def _discover(self, timeout: float) -> tuple[Offer, ...] | Failure:
        found = await self._within(
            timeout, lambda: list_tools(self._ask, self._remote.alias)
        )
        if isinstance(found, Failure):
            return found
        self.reports = found.reports
        self._remote.remember(found)
        return found.offers

    async def _call(self, call: ToolCall) -> ToolAnswer | Failure:
        seconds = self._remote.timeout if call.timeout is None else call.timeout
        found = await self._within(seconds, lambda: self._call_tool(call))
        if isinstance(found, Failure) and self._remote.retry == "undelivered":
            return _final_when_delivered(found)
        return found

    async def _call_tool(self, call: ToolCall) -> ToolAnswer:
        try:
            arguments, _ = clean(call.arguments)
        except WireError as error:
            raise protocol_fault(f"the arguments are no JSON: {error}") from None
        params = {
            "name": call.name,
            "arguments": arguments,
            "_meta": {EFFECT_KEY: call.effect_key},
        }
        return answer_of(await self._ask("tools/call", params), self._remote.alias)

    async def _within(
        self, seconds: float, work: Callable[[], Awaitable[T]]
    ) -> T | Failure:
        """The work's outcome; every failure as a value, the deadline included."""
        clock = asyncio.timeout(seconds)
        try:
            async with clock:
                return await work()
        except FaultError as fault:
            return fault.failure
        except Exception as error:
            if not clock.expired():
                problem = f"asking '{self._remote.alias}' failed"
                return protocol_fault(f"{problem}: {type(error).__name__}").failure
        return Failure(
            kind="mcp_timeout",
            message=f"'{self._remote.alias}' did not answer within {seconds:g} s",
        )

    async def _ask(self, method: str, params: JsonObject) -> JsonObject:
        """A result; one new session when the server forgot the old one.

        That a server does not know the session means that it did not look at the
        request, so that sending it again repeats nothing.
        """
        link = self._linked()
        try:
            return await link.request(method, params)
        except FaultError as fault:
            if fault.failure.code != SESSION_LOST:
                raise
        link.retire()
        return await self._linked().request(method, params)

    def _linked(self) -> "Link":
        if self._link is None or not self._link.alive:
            if self._link is not None:
                self._link.retire()
            self._link = self._remote.connect()
            keeper = asyncio.run_coroutine_threadsafe(
                self._link.keep(), asyncio.get_running_loop()
            )
            self._keepers.add(keeper)
            keeper.add_done_callback(self._keepers.discard)
        return self._link

    async def _hang_up(self) -> None:
        if self._link is not None:
            self._link.stop()
        await asyncio.gather(
            *(asyncio.wrap_future(keeper) for keeper in tuple(self._keepers)),
            return_exceptions=True,
        )


def _final_when_delivered(failure: Failure) -> Failure:
    """The failure as one that is not tried again, if the server may have acted."""
    if failure.kind != "mcp_server" or failure.code in {UNDELIVERED, SESSION_LOST}:
        return failure
    return evolve(failure, kind="mcp_delivered")


def _as_discovery(found: tuple[Offer, ...] | Failure) -> tuple[Offer, ...] | Failure:
    """A failure in the words of discovery; what passes may be tried again."""
    if not isinstance(found, Failure):
        return found
    passing = found.retried or found.kind == "mcp_timeout"
    kind: FailureKind = "discovery_unavailable" if passing else "discovery_refused"
    return evolve(found, kind=kind)
