"""A server process: one JSON-RPC message per line on its pipes.

The process gets a session of its own, so that stopping it reaches what it
started. A line that is no message, or an answer nobody asked for, ends the
connection: after it nothing on the pipe can be trusted to be an answer.
"""

import itertools
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
from anyio.abc import Process
from attrs import field, frozen
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest, RequestId

from agentloop.core.catalog import Failure
from agentloop.tools.mcp.envelope import (
    UNDELIVERED,
    FaultError,
    is_reply,
    protocol_fault,
    read_message,
    reply_of,
    scrub_values,
    secrets_in,
    server_fault,
)
from agentloop.tools.mcp.options import StdioOptions
from agentloop.tools.mcp.streams import (
    Outbox,
    Sending,
    Streams,
    caller_of,
    failure_message,
    foreign_message,
    inbox,
    outbox,
    result_message,
)

_CHUNK: Final = 64 * 1024
_POLL: Final = 0.01
_KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL
_GONE: Final = (anyio.EndOfStream, anyio.ClosedResourceError, OSError)
_BROKEN: Final = (*_GONE, anyio.BrokenResourceError)


@frozen
class StdioTarget:
    """The command of a server; its environment may hold secrets."""

    alias: str
    command: str
    args: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    options: StdioOptions


class StdioTransport:
    """A transport over the pipes of a process, started on entering."""

    def __init__(self, target: StdioTarget) -> None:
        self._target = target
        self._alias = target.alias
        self._secrets = secrets_in(target.env)
        self._alive = True
        self._waiting: dict[RequestId, JSONRPCRequest] = {}
        self._asked = 0
        self._doubted = anyio.Event()
        self._heard = anyio.Event()

    @property
    def alive(self) -> bool:
        """Until the process ends or says something that is no message."""
        return self._alive

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[Streams]:
        """Start the process; on leaving it is stopped, with what it started."""
        process = await self._start()
        self._inbox, received = inbox()
        sent, to_send = outbox()
        async with (
            self._stopping(process),
            self._inbox,
            received,
            sent,
            to_send,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._write, process, to_send)
            tasks.start_soon(self._read, process)
            tasks.start_soon(self._watch, process, sent)
            try:
                yield received, sent
            finally:
                tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _stopping(self, process: Process) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._alive = False
            with anyio.CancelScope(shield=True):
                await _stop(process, self._target.options.grace)

    async def _start(self) -> Process:
        target = self._target
        try:
            return await anyio.open_process(
                [target.command, *target.args],
                env=get_default_environment() | dict(target.env),
                cwd=target.options.cwd,
                stderr=target.options.stderr,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            raise protocol_fault(
                f"the command of '{self._alias}' cannot be run: {type(error).__name__}"
            ) from None
        except OSError as error:
            raise server_fault(
                f"'{self._alias}' cannot be started: {type(error).__name__}",
                UNDELIVERED,
            ) from None

    # ------------------------------------------------------------ to the process

    async def _write(self, process: Process, to_send: Outbox) -> None:
        stdin = process.stdin
        if stdin is None:
            raise AssertionError("the process was opened with pipes")
        async with to_send:
            async for item in to_send:
                match item.message:
                    case JSONRPCRequest() as request:
                        self._waiting[request.id] = request
                        self._asked = max(self._asked, _number(request.id))
                    case JSONRPCNotification(
                        method="notifications/cancelled", params=params
                    ):
                        self._give_up((params or {}).get("requestId", ""))
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    await stdin.send(text.encode() + b"\n")
                except _BROKEN:
                    return  # the reader sees the end too, and tells who waits

    def _give_up(self, request_id: RequestId) -> None:
        if self._waiting.pop(request_id, None) is not None:
            self._doubted.set()

    async def _watch(self, process: Process, outbox: Sending) -> None:
        """Kill a process that, after a call was given up, does not even say pong.

        Else one hung tool would take every later call down with it.
        """
        for n in itertools.count():
            await self._doubted.wait()
            self._doubted, self._heard = anyio.Event(), anyio.Event()
            ping = JSONRPCRequest(jsonrpc="2.0", id=f"probe-{n}", method="ping")
            with suppress(*_BROKEN):
                await outbox.send(SessionMessage(ping))
            with anyio.move_on_after(self._target.options.probe):
                await self._heard.wait()
            if not self._heard.is_set():
                _signal_group(process, _KILL)

    # ------------------------------------------------------------ from the process

    async def _read(self, process: Process) -> None:
        """Hand on messages until the end, then tell everyone who still waits."""
        try:
            await self._read_lines(process)
        except FaultError as fault:
            failure = fault.failure
        except Exception as error:
            problem = f"reading from '{self._alias}' failed: {type(error).__name__}"
            failure = protocol_fault(problem).failure
        else:
            failure = await self._ended(process)
        self._alive = False
        for request_id in tuple(self._waiting):
            await self._inbox.send(failure_message(request_id, failure))
        self._waiting.clear()
        self._inbox.close()

    async def _ended(self, process: Process) -> Failure:
        await _exited(process, self._target.options.grace)
        how = "closed its output" if process.returncode is None else "ended"
        code = None if process.returncode is None else f"exit {process.returncode}"
        return server_fault(
            f"the process of '{self._alias}' {how} before it answered", code
        ).failure

    async def _read_lines(self, process: Process) -> None:
        cap = self._target.options.limits.max_bytes
        parts: list[bytes] = []
        size = 0
        async for chunk in _chunks(process):
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                await self._take(b"".join((*parts, line)))
                parts, size = [], 0
            parts.append(rest)
            size += len(rest)
            if size > cap:
                raise protocol_fault(
                    f"a message of '{self._alias}' exceeds {cap} bytes"
                )

    async def _take(self, line: bytes) -> None:
        self._heard.set()
        if not line.strip():
            return
        message = read_message(line, self._target.options.limits, self._alias)
        if not is_reply(message):
            await self._inbox.send(foreign_message(message, self._alias))
            return
        if self._secrets:
            message = scrub_values(message, self._secrets)
        found = message.get("id")
        if isinstance(found, bool) or not isinstance(found, int | str):
            found = ""  # true would pass for 1
        request = self._waiting.get(found)
        if request is not None:
            await self._answer(request, message)
        elif not 0 < _number(found) <= self._asked:
            raise protocol_fault(f"'{self._alias}' answered a request nobody made")
        # Else it comes too late for its caller, or once more: it harms nobody.

    async def _answer(
        self, request: JSONRPCRequest, message: dict[str, object]
    ) -> None:
        """A wrong result costs its own request; the pipe is still in step."""
        try:
            caller = caller_of(self._alias, request)
            result = reply_of(message, request.id, caller)
            reply = result_message(request.id, result)
        except FaultError as fault:
            reply = failure_message(request.id, fault.failure)
        del self._waiting[request.id]
        await self._inbox.send(reply)


def _number(request_id: RequestId) -> int:
    """The SDK counts its requests; our own pings have names."""
    return request_id if isinstance(request_id, int) else 0


async def _chunks(process: Process) -> AsyncIterator[bytes]:
    stdout = process.stdout
    if stdout is None:
        raise AssertionError("the process was opened with pipes")
    while True:
        try:
            yield await stdout.receive(_CHUNK)
        except _BROKEN:
            return


# ---------------------------------------------------------------- the end


async def _stop(process: Process, grace: float) -> None:
    """Close its input, then ask, then insist (MCP specification, "Shutdown")."""
    if process.stdin is not None:
        with suppress(*_BROKEN):
            await process.stdin.aclose()
    for sign in (signal.SIGTERM, _KILL):
        if await _exited(process, grace):
            break
        _signal_group(process, sign)
    _signal_group(process, _KILL)  # what it started and left behind
    await _exited(process, grace)
    with suppress(*_BROKEN):
        await process.aclose()


async def _exited(process: Process, grace: float) -> bool:
    """Whether the process ends in time; its pipes may outlive it in a child."""
    with anyio.move_on_after(grace):
        # Process.wait() also waits for pipes that a child of it may hold open.
        while process.returncode is None:  # noqa: ASYNC110 - no event for exit alone
            await anyio.sleep(_POLL)
    return process.returncode is not None


def _signal_group(process: Process, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, sign)
        else:
            process.terminate()
