"""One session with a server, kept by one task, used by many callers.

The SDK's session must be entered and left in the same task, so a keeper holds it
open while calls come from anywhere on the loop. The session does the handshake,
answers what the server asks of us (pings; sampling and the like are declined) and
pairs replies with requests; results come back as the server sent them, because
one tool or block that the SDK's models refuse must not sink its neighbours.
"""

from importlib.metadata import version

import anyio
import mcp_types
from attrs import frozen
from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from pydantic import ValidationError

from agentloop.core.catalog import Failure
from agentloop.core.content import JsonObject
from agentloop.tools.mcp.envelope import (
    UNDELIVERED,
    FaultError,
    protocol_fault,
    server_fault,
)
from agentloop.tools.mcp.streams import Transport

HANDSHAKE_TIMEOUT = 30.0
"""Seconds for a connection to be of use; callers give up by their own deadline."""


@frozen
class _Open:
    dispatcher: JSONRPCDispatcher


class Link:
    """A session that is opening, open or over."""

    def __init__(self, transport: Transport, alias: str) -> None:
        self._transport = transport
        self._alias = alias
        self._settled = anyio.Event()
        self._stopped = anyio.Event()
        self._opening = anyio.CancelScope()
        self._state: _Open | Failure | None = None
        self._retired = False
        self._in_flight = 0

    @property
    def alive(self) -> bool:
        """Whether a new request may go through it."""
        return (
            not isinstance(self._state, Failure)
            and not self._retired
            and not self._stopped.is_set()
            and self._transport.alive
        )

    def stop(self) -> None:
        """Let the keeper close the session; calls in flight fail."""
        self._stopped.set()
        self._opening.cancel()

    def retire(self) -> None:
        """Take no new requests; stop when those in flight have ended by themselves."""
        self._retired = True
        if not self._in_flight:
            self.stop()

    async def keep(self) -> None:
        """Hold the session until it is stopped; never raises but cancellation."""
        try:
            await self._keep()
        except Exception as error:
            self._state = _failure_in(error, self._alias)
        finally:
            self._stopped.set()
            self._settled.set()

    async def _keep(self) -> None:
        async with self._transport.streams() as (received, sent):
            dispatcher: JSONRPCDispatcher = JSONRPCDispatcher(received, sent)
            me = mcp_types.Implementation(
                name="agentloop", version=version("agentloop")
            )
            async with ClientSession(dispatcher=dispatcher, client_info=me) as session:
                with self._opening, anyio.fail_after(HANDSHAKE_TIMEOUT):
                    await session.initialize()
                    self._state = _Open(dispatcher)
                    self._settled.set()
                await self._stopped.wait()

    async def request(self, method: str, params: JsonObject) -> JsonObject:
        """The result of a request, as the server sent it.

        Raises:
            FaultError: what the transport or the server had against it.
        """
        self._in_flight += 1
        try:
            return await self._request(method, params)
        finally:
            self._in_flight -= 1
            if self._retired and not self._in_flight:
                self.stop()

    async def _request(self, method: str, params: JsonObject) -> JsonObject:
        await self._settled.wait()
        match self._state:
            case _Open(dispatcher):
                pass
            case Failure() as failure:
                raise FaultError(failure)
            case None:
                raise server_fault(f"'{self._alias}' was closed", UNDELIVERED)
        try:
            return await dispatcher.send_raw_request(method, params)
        except MCPError as error:
            raise FaultError(_failure_in(error, self._alias)) from None


def _failure_in(error: BaseException, alias: str) -> Failure:
    """The failure that an exception of the SDK carries or amounts to."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case FaultError():
            return error.failure
        case MCPError() if isinstance(error.data, Failure):
            return error.data
        case MCPError():  # ours carry a Failure: this one is the SDK's, on closing
            return server_fault(f"'{alias}' ended the connection").failure
        case TimeoutError():
            return Failure(
                kind="mcp_timeout",
                message=f"'{alias}' did not finish the handshake within "
                f"{HANDSHAKE_TIMEOUT:g} s",
            )
        case ValidationError():
            return protocol_fault(
                f"the answer of '{alias}' to initialize is broken"
            ).failure
        case _:
            return protocol_fault(
                f"no session with '{alias}': {type(error).__name__}"
            ).failure
