"""Streamable HTTP: one session's requests, each on a POST of its own.

Answers come as JSON or as an event stream; a stream that breaks off after an
event with an id is resumed with `Last-Event-ID`, as the MCP specification says
(2025-11-25, "Resumability and Redelivery"). The optional GET stream for messages
outside of any request is not opened: nothing in a run would read it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import anyio
import httpcore2
from anyio.abc import TaskGroup
from attrs import define, frozen
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest, RequestId

from agentloop.core.config import McpServer
from agentloop.core.content import JsonObject
from agentloop.core.run import Scope
from agentloop.tools.mcp.address import (
    Endpoint,
    ForbiddenAddressError,
    Policy,
    follow,
)
from agentloop.tools.mcp.envelope import (
    UNDELIVERED,
    FaultError,
    Head,
    protocol_fault,
    secrets_in,
    server_fault,
)
from agentloop.tools.mcp.errands import CALLBACKS, CrowdedError
from agentloop.tools.mcp.options import McpOptions
from agentloop.tools.mcp.pinned import Gate, translated, url_of
from agentloop.tools.mcp.reading import Answer, AnswerReader, Reply, drain
from agentloop.tools.mcp.streams import (
    Outbox,
    Streams,
    caller_of,
    failure_message,
    inbox,
    outbox,
    result_message,
)

MAX_REDIRECTS: Final = 5
MAX_RESUMPTIONS: Final = 3
COURTESY: Final = 5.0
"""Seconds for messages nobody waits for: notifications and replies of ours."""

FAREWELL: Final = 1.0
"""Seconds each for last messages and for the DELETE that ends a session."""


@frozen
class HttpTarget:
    """A server and how to reach it."""

    server: McpServer
    scope: Scope
    endpoint: Endpoint
    options: McpOptions


@define
class _Session:
    """What `initialize` agreed on; the id belongs to the origin that gave it."""

    origin: tuple[str, str, int]
    id: str | None
    version: str


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
        limits = self._target.options.limits
        self._reader = AnswerReader(self._alias, limits, self._inbox)
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
                await drain(reply)

    async def _say_farewell(self) -> None:
        if self._session is None or self._session.id is None:
            return
        with anyio.move_on_after(FAREWELL, shield=True), suppress(Exception):
            async with self._open("DELETE") as reply:
                await drain(reply)

    # ------------------------------------------------------------ one request

    async def _ask(self, request: JSONRPCRequest) -> JsonObject:
        answer = Answer(
            caller_of(self._alias, request),
            request.id,
            self._target.options.limits.max_bytes,
        )
        body = request.model_dump_json(by_alias=True, exclude_unset=True).encode()
        async with self._open("POST", body) as reply:
            result = await self._reader.read(reply, answer)
            if result is not None and request.method == "initialize":
                self._adopt(reply, result)
        while result is None:
            result = await self._resume(answer)
        return result

    async def _resume(self, answer: Answer) -> JsonObject | None:
        if answer.last_id is None or answer.resumptions >= MAX_RESUMPTIONS:
            raise server_fault(f"'{self._alias}' ended its stream without an answer")
        answer.resumptions += 1
        await anyio.sleep(answer.delay)
        async with self._open("GET", last_id=answer.last_id) as reply:
            return await self._reader.read(reply, answer)

    def _adopt(self, reply: Reply, result: JsonObject) -> None:
        """From here on the session lives where `initialize` was answered."""
        version = result.get("protocolVersion")
        self._endpoint = reply.endpoint
        self._session = _Session(
            reply.endpoint.origin,
            reply.head.headers.get("mcp-session-id"),
            version if isinstance(version, str) else "",
        )

    # ------------------------------------------------------------ one HTTP request

    @asynccontextmanager
    async def _open(
        self, method: str, body: bytes = b"", last_id: str | None = None
    ) -> AsyncIterator[Reply]:
        """Send a request, following redirects that policy allows."""
        endpoint = self._endpoint
        credentials = await self._credentials()
        secrets = secrets_in(credentials)
        for _ in range(MAX_REDIRECTS + 1):
            headers = self._headers(endpoint, credentials)
            if last_id is not None:
                headers["last-event-id"] = last_id
            async with self._send(method, endpoint, headers, body) as response:
                head = _head_of(response)
                if head.status not in {307, 308}:
                    in_session = "mcp-session-id" in headers
                    yield Reply(endpoint, head, response, secrets, in_session)
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
        target = self._target
        ask = partial(callback, target.server, target.scope)
        try:
            return dict(await CALLBACKS.run(target.endpoint.authority, ask))
        except CrowdedError:
            raise server_fault(
                f"'{self._alias}' was not asked: too many credentials callbacks of "
                "other servers do not end",
                UNDELIVERED,
            ) from None
        except Exception as error:  # its text may hold what it was about to return
            raise protocol_fault(
                f"the credentials callback for '{self._alias}' raised "
                f"{type(error).__name__}",
                "credentials",
            ) from None


def _head_of(response: httpcore2.Response) -> Head:
    return Head(
        response.status,
        {
            name.decode("ascii", "replace").lower(): value.decode("latin-1")
            for name, value in response.headers
        },
    )
