"""What both transports share: the pair of streams the SDK reads and writes.

A transport puts every failure into the reply of the request it belongs to, as a
`Failure` object in the error's data. JSON cannot make such an object, so no server
can forge one, and the SDK's own codes are never read.
"""

import math
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from pydantic import ValidationError

from agentloop.core.catalog import Failure
from agentloop.core.content import JsonObject
from agentloop.tools.mcp.envelope import Caller, Message, protocol_fault

Sender: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]
Receiver: TypeAlias = MemoryObjectReceiveStream[SessionMessage | Exception]
Outbox: TypeAlias = MemoryObjectReceiveStream[SessionMessage]
Sending: TypeAlias = MemoryObjectSendStream[SessionMessage]
Streams: TypeAlias = tuple[Receiver, Sending]


class Transport(Protocol):
    """One connection to a server, good for one session."""

    @property
    def alive(self) -> bool:
        """Whether a new request may go through it."""
        ...

    def streams(self) -> AbstractAsyncContextManager[Streams]:
        """Connect; on leaving everything it holds is given back."""
        ...


def inbox() -> tuple[Sender, Receiver]:
    """Messages for the session. Unbounded: the caps are on what is read."""
    return anyio.create_memory_object_stream[SessionMessage | Exception](math.inf)


def outbox() -> tuple[Sending, Outbox]:
    """Messages of the session. Unbounded, so that giving up never waits."""
    return anyio.create_memory_object_stream[SessionMessage](math.inf)


def result_message(request_id: RequestId, result: JsonObject) -> SessionMessage:
    """The reply with a result."""
    return SessionMessage(
        JSONRPCResponse(jsonrpc="2.0", id=request_id, result=dict(result))
    )


def failure_message(request_id: RequestId, failure: Failure) -> SessionMessage:
    """The reply that carries a failure; the code is ours and never read."""
    error = ErrorData(code=-32000, message=failure.message, data=failure)
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=request_id, error=error))


def foreign_message(message: Message, alias: str) -> SessionMessage:
    """A request or notification that the server started.

    Raises:
        FaultError: it is not well formed.
    """
    form = JSONRPCRequest if "id" in message else JSONRPCNotification
    try:
        return SessionMessage(form.model_validate(message, by_name=False))
    except ValidationError:
        raise protocol_fault(f"'{alias}' sent a message that is broken") from None


def caller_of(alias: str, request: JSONRPCRequest) -> Caller:
    """Whom a request goes to, for the words of a failure."""
    name = (request.params or {}).get("name")
    return Caller(alias, request.method, name if isinstance(name, str) else None)
