"""Streamable HTTP: one session's requests, each on a POST of its own.

Answers come as JSON or as an event stream; a stream that breaks off after an
event with an id is resumed with `Last-Event-ID`, as the MCP specification says
(2025-11-25, "Resumability and Redelivery"). The optional GET stream for messages
outside of any request is not opened: nothing in a run would read it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

import anyio
import httpcore2
from anyio.abc import TaskGroup
from attrs import define, frozen
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest, RequestId

from agentloop.core.config import McpServer
from agentloop.core.content import JsonObject
from agentloop.tools.mcp.address import (
    Endpoint,
    ForbiddenAddressError,
    Policy,
    follow,
)
from agentloop.tools.mcp.envelope import (
    SESSION_LOST,
    Caller,
    EventReader,
    FaultError,
    Head,
    ServerEvent,
    is_reply,
    protocol_fault,
    read_message,
    reply_of,
    scrub_values,
    server_fault,
    status_fault,
)
from agentloop.tools.mcp.options import McpOptions
from agentloop.tools.mcp.pinned import Gate, translated, url_of
from agentloop.tools.mcp.streams import (
    Outbox,
    Streams,
    caller_of,
    failure_message,
    foreign_message,
    inbox,
    outbox,
    result_message,
)

MAX_REDIRECTS: Final = 5
MAX_RESUMPTIONS: Final = 3
MAX_SERVER_REQUESTS: Final = 100
"""Requests a server may make of us within one answer; each costs a POST."""

COURTESY: Final = 5.0
"""Seconds for messages nobody waits for: notifications and replies of ours."""

FAREWELL: Final = 1.0
"""Seconds each for last messages and for the DELETE that ends a session."""

LINGER: Final = 0.05
"""Seconds that the end of an event stream is waited for after the answer."""

_SMALL: Final = 64 * 1024
_PARSE_INLINE: Final = 256 * 1024
_MIN_SECRET: Final = 8
"""Shorter values are words, as the scheme names are; scrubbing would garble."""


@frozen
class HttpTarget:
    """A server and how to reach it."""

    server: McpServer
    endpoint: Endpoint
    options: McpOptions


@define
class _Answer:
    """Where the answer to one request stands while its streams are read."""

    caller: Caller
    request_id: RequestId
    bytes_left: int
    last_id: str | None = None
    delay: float = 1.0
    requests: int = 0
    resumptions: int = 0


@define
class _Session:
    """What `initialize` agreed on; the id belongs to the origin that gave it."""

    origin: tuple[str, str, int]
    id: str | None
    version: str


@frozen
class _Reply:
    """An HTTP answer whose body is still to be read."""

    endpoint: Endpoint
    head: Head
    body: httpcore2.Response
    secrets: tuple[str, ...]
    in_session: bool


class HttpTransport:
    """A transport over streamable HTTP."""

    def __init__(self, target: HttpTarget) -> None:
        self._target = target
        self._alias = target.server.alias
        self._endpoint = target.endpoint
        self._session: _Session | None = None
        self._posts: dict[RequestId, anyio.CancelScope] = {}

    @property
    def alive(self) -> bool:
        """Always: every request makes its own way."""
        return True

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[Streams]:
        """Open the pool and the tasks of this session; end the session on leaving."""
        self._gate = Gate(self._target.options)
        self._inbox, received = inbox()
        sent, to_send = outbox()
        async with self._gate.pool, self._inbox, received, sent, to_send:
            try:
                async with self._tasks(to_send):
                    yield received, sent
            finally:
                await self._say_farewell()

    @asynccontextmanager
    async def _tasks(self, to_send: Outbox) -> AsyncIterator[None]:
        """The tasks of a session.

        On leaving, requests are dropped, but messages on their way get a moment to
        arrive: that a call was cancelled is worth telling.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pump, to_send, tasks)
            try:
                yield
            finally:
                for scope in self._posts.values():
                    scope.cancel()
                tasks.cancel_scope.shield = True
                tasks.cancel_scope.deadline = anyio.current_time() + FAREWELL

    async def _pump(self, to_send: Outbox, tasks: TaskGroup) -> None:
        async with to_send:
            async for item in to_send:
                match item.message:
                    case JSONRPCRequest() as request:
                        scope = self._posts[request.id] = anyio.CancelScope()
                        tasks.start_soon(self._exchange, request, scope)
                    case JSONRPCNotification(method="notifications/initialized"):
                        await self._tell(item)  # must arrive before any request
                    case JSONRPCNotification(
                        method="notifications/cancelled", params=params
                    ):
                        self._abandon(params or {})
                        tasks.start_soon(self._tell, item)
                    case _:
                        tasks.start_soon(self._tell, item)

    def _abandon(self, params: JsonObject) -> None:
        if (scope := self._posts.get(params.get("requestId", ""))) is not None:
            scope.cancel()

    async def _exchange(
        self, request: JSONRPCRequest, scope: anyio.CancelScope
    ) -> None:
        """Answer a request, whatever happens, unless its caller gave up."""
        with scope:
            try:
                result = await self._ask(request)
                reply = result_message(request.id, result)
            except FaultError as fault:
                reply = failure_message(request.id, fault.failure)
            except Exception as error:
                # A defect of ours or of a host's callback costs this call only.
                problem = f"asking '{self._alias}' failed: {type(error).__name__}"
                reply = failure_message(request.id, protocol_fault(problem).failure)
            await self._inbox.send(reply)
        self._posts.pop(request.id, None)

    async def _tell(self, item: SessionMessage) -> None:
        """Send what gets no answer; whether it arrives changes nothing for us."""
        body = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        with anyio.move_on_after(COURTESY), suppress(Exception):
            async with self._open("POST", body) as reply:
                await _drain(reply)

    async def _say_farewell(self) -> None:
        if self._session is None or self._session.id is None:
            return
        with anyio.move_on_after(FAREWELL, shield=True), suppress(Exception):
            async with self._open("DELETE") as reply:
                await _drain(reply)

    # ------------------------------------------------------------ one request

    async def _ask(self, request: JSONRPCRequest) -> JsonObject:
        answer = _Answer(
            caller_of(self._alias, request),
            request.id,
            self._target.options.limits.max_bytes,
        )
        body = request.model_dump_json(by_alias=True, exclude_unset=True).encode()
        async with self._open("POST", body) as reply:
            result = await self._read(reply, answer)
            if result is not None and request.method == "initialize":
                self._adopt(reply, result)
        while result is None:
            result = await self._resume(answer)
        return result

    async def _resume(self, answer: _Answer) -> JsonObject | None:
        if answer.last_id is None or answer.resumptions >= MAX_RESUMPTIONS:
            raise server_fault(f"'{self._alias}' ended its stream without an answer")
        answer.resumptions += 1
        await anyio.sleep(answer.delay)
        async with self._open("GET", last_id=answer.last_id) as reply:
            return await self._read(reply, answer)

    def _adopt(self, reply: _Reply, result: JsonObject) -> None:
        """From here on the session lives where `initialize` was answered."""
        version = result.get("protocolVersion")
        self._endpoint = reply.endpoint
        self._session = _Session(
            reply.endpoint.origin,
            reply.head.headers.get("mcp-session-id"),
            version if isinstance(version, str) else "",
        )

    async def _read(self, reply: _Reply, answer: _Answer) -> JsonObject | None:
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

    async def _raise_own_error(self, reply: _Reply, answer: _Answer) -> None:
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

    async def _read_json(self, reply: _Reply, answer: _Answer) -> JsonObject:
        async with aclosing(self._chunks(reply, answer)) as chunks:
            parts = [chunk async for chunk in chunks]
        message = await self._parsed(b"".join(parts), reply)
        return reply_of(message, answer.request_id, answer.caller)

    async def _read_events(self, reply: _Reply, answer: _Answer) -> JsonObject | None:
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
        self, chunks: AsyncIterator[bytes], answer: _Answer, reply: _Reply
    ) -> JsonObject | None:
        reader = EventReader()
        async for chunk in chunks:
            for event in reader.feed(chunk):
                if (result := await self._take(event, answer, reply)) is not None:
                    return result
        return None

    async def _take(
        self, event: ServerEvent, answer: _Answer, reply: _Reply
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

    async def _chunks(self, reply: _Reply, answer: _Answer) -> AsyncGenerator[bytes]:
        """The body, never more of it than the cap leaves."""
        with translated(self._alias):
            async for chunk in reply.body.aiter_stream():
                answer.bytes_left -= len(chunk)
                if answer.bytes_left < 0:
                    cap = self._target.options.limits.max_bytes
                    raise protocol_fault(
                        f"the answer of '{self._alias}' exceeds {cap} bytes"
                    )
                yield chunk

    async def _parsed(self, data: bytes, reply: _Reply) -> dict[str, object]:
        limits = self._target.options.limits
        if len(data) < _PARSE_INLINE:
            message = read_message(data, limits, self._alias)
        else:  # a big parse must not hold up the other calls of this loop
            message = await asyncio.to_thread(read_message, data, limits, self._alias)
        if reply.secrets:
            message = scrub_values(message, reply.secrets)
        return message

    # ------------------------------------------------------------ one HTTP request

    @asynccontextmanager
    async def _open(
        self, method: str, body: bytes = b"", last_id: str | None = None
    ) -> AsyncIterator[_Reply]:
        """Send a request, following redirects that policy allows."""
        endpoint = self._endpoint
        credentials = await self._credentials()
        secrets = _secrets_in(credentials)
        for _ in range(MAX_REDIRECTS + 1):
            headers = self._headers(endpoint, credentials)
            if last_id is not None:
                headers["last-event-id"] = last_id
            async with self._send(method, endpoint, headers, body) as response:
                head = _head_of(response)
                if head.status not in {307, 308}:
                    in_session = "mcp-session-id" in headers
                    yield _Reply(endpoint, head, response, secrets, in_session)
                    return
            endpoint = self._redirected(endpoint, head)
        raise protocol_fault(f"'{self._alias}' redirects without end")

    @asynccontextmanager
    async def _send(
        self, method: str, endpoint: Endpoint, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[httpcore2.Response]:
        seconds = self._target.options.connect_timeout
        with translated(self._alias):
            await self._gate.check(endpoint)
            stream = self._gate.pool.stream(
                method,
                url_of(endpoint),
                headers=list(headers.items()),
                content=body or None,
                extensions={"timeout": {"connect": seconds}},
            )
            async with stream as response:
                yield response

    def _redirected(self, endpoint: Endpoint, head: Head) -> Endpoint:
        policy = Policy(allow_private=self._target.options.allow_private)
        try:
            return follow(endpoint, head.headers.get("location", ""), policy)
        except (ForbiddenAddressError, ValueError) as error:
            problem = (
                str(error)
                if isinstance(error, ForbiddenAddressError)
                else "the location is no URL"
            )
            raise protocol_fault(
                f"'{self._alias}' redirects to where it may not: {problem}",
                "forbidden-address",
            ) from None

    def _headers(
        self, endpoint: Endpoint, credentials: Mapping[str, str]
    ) -> dict[str, str]:
        headers = {
            "host": endpoint.authority,
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "agentloop",
        }
        session = self._session
        if session is not None:
            if session.version:
                headers["mcp-protocol-version"] = session.version
            if session.id is not None and session.origin == endpoint.origin:
                headers["mcp-session-id"] = session.id
        if endpoint.origin != self._target.endpoint.origin:
            return headers
        return {name.lower(): value for name, value in credentials.items()} | headers

    async def _credentials(self) -> Mapping[str, str]:
        callback = self._target.options.credentials
        if callback is None:
            return {}
        try:
            return dict(await asyncio.to_thread(callback, self._target.server))
        except Exception as error:  # its text may hold what it was about to return
            raise protocol_fault(
                f"the credentials callback for '{self._alias}' raised "
                f"{type(error).__name__}",
                "credentials",
            ) from None


async def _drain(reply: _Reply) -> None:
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


def _head_of(response: httpcore2.Response) -> Head:
    return Head(
        response.status,
        {
            name.decode("ascii", "replace").lower(): value.decode("latin-1")
            for name, value in response.headers
        },
    )


def _secrets_in(credentials: Mapping[str, str]) -> tuple[str, ...]:
    """What must not come back: each value, and a token without its scheme."""
    values = (
        part for value in credentials.values() for part in (value, *value.split())
    )
    return tuple(sorted({v for v in values if len(v) >= _MIN_SECRET}, key=len)[::-1])
