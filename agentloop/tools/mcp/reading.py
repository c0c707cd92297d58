"""Reading the answer to one request: as JSON or as a stream of events.

Every byte counts against one cap, a resumed stream's included. What the server
starts in between, requests and notifications, is handed on to the session.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Final

import anyio
import httpcore2
from attrs import define, frozen
from mcp_types import RequestId

from agentloop.core.content import JsonObject
from agentloop.tools.mcp.address import Endpoint
from agentloop.tools.mcp.envelope import (
    SESSION_LOST,
    Caller,
    EventReader,
    FaultError,
    Head,
    Message,
    ServerEvent,
    is_reply,
    protocol_fault,
    read_message,
    reply_of,
    scrub_values,
    server_fault,
    status_fault,
)
from agentloop.tools.mcp.pinned import translated
from agentloop.tools.mcp.streams import Sender, foreign_message
from agentloop.wire import Limits

MAX_SERVER_REQUESTS: Final = 100
"""Requests a server may make of us within one answer; each costs a POST."""

LINGER: Final = 0.05
"""Seconds that the end of an event stream is waited for after the answer."""

_SMALL: Final = 64 * 1024
_PARSE_INLINE: Final = 256 * 1024


@define
class Answer:
    """Where the answer to one request stands while its streams are read."""

    caller: Caller
    request_id: RequestId
    bytes_left: int
    last_id: str | None = None
    delay: float = 1.0
    requests: int = 0
    resumptions: int = 0


@frozen
class Reply:
    """An HTTP answer whose body is still to be read."""

    endpoint: Endpoint
    head: Head
    body: httpcore2.Response
    secrets: tuple[str, ...]
    in_session: bool


class AnswerReader:
    """Reads the answers of one server."""

    def __init__(self, alias: str, limits: Limits, inbox: Sender) -> None:
        self._alias = alias
        self._limits = limits
        self._inbox = inbox

    async def read(self, reply: Reply, answer: Answer) -> JsonObject | None:
        """The result in an HTTP answer; None when its stream ended before it."""
        head = reply.head
        if head.status == 404 and reply.in_session:
            raise server_fault(f"'{self._alias}' forgot the session", SESSION_LOST)
        if (fault := status_fault(head, self._alias)) is not None:
            await self._raise_own_error(reply, answer)
            raise fault
        if head.headers.get("content-encoding", "identity").lower() != "identity":
            # Asked not to; unpacking would let a few bytes fill the memory.
            raise protocol_fault(f"'{self._alias}' compressed its answer unasked")
        match head.media_type:
            case "application/json":
                return await self._read_json(reply, answer)
            case "text/event-stream":
                return await self._read_events(reply, answer)
            case _:
                raise protocol_fault(
                    f"'{self._alias}' answered with a content type that is neither "
                    "application/json nor text/event-stream"
                )

    async def _raise_own_error(self, reply: Reply, answer: Answer) -> None:
        """Raise the JSON-RPC error in the body of a lasting refusal, if there is one.

        Servers may send -32601 and -32602 under a 4xx status.
        """
        refused = 400 <= reply.head.status < 500
        spoken_for = reply.head.status in {401, 403, 408, 429}
        if not refused or spoken_for or reply.head.media_type != "application/json":
            return
        try:
            await self._read_json(reply, answer)
        except FaultError as fault:
            if fault.failure.code is not None:
                raise

    async def _read_json(self, reply: Reply, answer: Answer) -> JsonObject:
        async with aclosing(self._chunks(reply, answer)) as chunks:
            parts = [chunk async for chunk in chunks]
        message = await self._parsed(b"".join(parts), reply)
        return reply_of(message, answer.request_id, answer.caller)

    async def _read_events(self, reply: Reply, answer: Answer) -> JsonObject | None:
        """The result in an event stream; None when it broke off but can be resumed."""
        try:
            async with aclosing(self._chunks(reply, answer)) as chunks:
                result = await self._find(chunks, answer, reply)
                if result is not None:
                    await _linger(chunks)
                return result
        except FaultError as fault:
            if fault.failure.kind != "mcp_server" or answer.last_id is None:
                raise
            return None

    async def _find(
        self, chunks: AsyncIterator[bytes], answer: Answer, reply: Reply
    ) -> JsonObject | None:
        reader = EventReader()
        async for chunk in chunks:
            for event in reader.feed(chunk):
                if (result := await self._take(event, answer, reply)) is not None:
                    return result
        return None

    async def _take(
        self, event: ServerEvent, answer: Answer, reply: Reply
    ) -> JsonObject | None:
        answer.last_id = event.id or answer.last_id
        answer.delay = answer.delay if event.retry is None else event.retry
        if event.data is None:
            return None
        message = await self._parsed(event.data, reply)
        if is_reply(message):
            return reply_of(message, answer.request_id, answer.caller)
        answer.requests += "id" in message
        if answer.requests > MAX_SERVER_REQUESTS:
            raise protocol_fault(f"'{self._alias}' makes too many requests of its own")
        await self._inbox.send(foreign_message(message, self._alias))
        return None

    async def _chunks(self, reply: Reply, answer: Answer) -> AsyncGenerator[bytes]:
        """The body, never more of it than the cap leaves."""
        with translated(self._alias):
            async for chunk in reply.body.aiter_stream():
                answer.bytes_left -= len(chunk)
                if answer.bytes_left < 0:
                    cap = self._limits.max_bytes
                    raise protocol_fault(
                        f"the answer of '{self._alias}' exceeds {cap} bytes"
                    )
                yield chunk

    async def _parsed(self, data: bytes, reply: Reply) -> Message:
        def parsed() -> Message:
            message = read_message(data, self._limits, self._alias)
            if reply.secrets:
                message = scrub_values(message, reply.secrets)
            return message

        if len(data) < _PARSE_INLINE:
            return parsed()
        # A big parse must not hold up the other calls of this loop.
        return await asyncio.to_thread(parsed)


async def drain(reply: Reply) -> None:
    """Read what little there is, so that the connection can be used again."""
    size = 0
    async with aclosing(reply.body.aiter_stream()) as chunks:
        async for chunk in chunks:
            size += len(chunk)
            if size > _SMALL:
                return


async def _linger(chunks: AsyncIterator[bytes]) -> None:
    """Let a stream end after its answer, as most do at once.

    A stream left early takes its connection with it, which costs the next request
    a handshake.
    """
    with anyio.move_on_after(LINGER), suppress(FaultError):
        async for _ in chunks:
            pass
