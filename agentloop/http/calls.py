"""Calling either face from an event loop without ever blocking it."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

from agentloop.core.run import Run, Scope
from agentloop.http.auth import Authenticate, Found
from agentloop.runtime.aface import AsyncAgentLoop
from agentloop.runtime.choices import Choices, may_ask
from agentloop.runtime.face import AgentLoop
from agentloop.runtime.service import Service

Face: TypeAlias = AgentLoop | AsyncAgentLoop
T = TypeVar("T")
U = TypeVar("U")


class Calls:
    """A face, the threads for what blocks, and who may call."""

    def __init__(
        self,
        face: Face,
        authenticate: Authenticate,
        executor: Executor,
        choices: Choices,
    ) -> None:
        self.face = face
        self._choices = choices
        self._authenticate = authenticate
        self._executor = executor

    async def on_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Call what may block, or takes long, on one of the app's threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *args)

    @property
    def service(self) -> Service:
        """What reads are made by, for either face; it may block."""
        return self.face.watch.service

    async def of(
        self,
        shape: Callable[[T], U],
        method: Callable[..., T | Awaitable[T]],
        *args: Any,
        **named: Any,
    ) -> U:
        """Call a method of the face, whichever of the two it is.

        `shape` makes the answer of what came back; it may take long as well, so it
        runs on the same thread.
        """
        call = partial(method, *args, **named)
        if isinstance(self.face, AgentLoop):
            return await self.on_thread(lambda: shape(cast("T", call())))
        return await self.on_thread(shape, await cast("Awaitable[T]", call()))

    async def starting(
        self,
        shape: Callable[[tuple[Run, bool]], U],
        submit: Callable[..., Any],
        id_: str,
        body: Any,
        scope: Scope,
    ) -> U:
        """Start a run; who has to wait for a server holds no thread of the others."""
        start = partial(submit, id_, body, scope=scope)
        if isinstance(self.face, AgentLoop) and may_ask(body):
            return await self._choices.start(lambda left: shape(start(patience=left)))
        return await self.of(shape, start)

    async def reading(
        self, shape: Callable[[T], U], read: Callable[..., T], *args: Any
    ) -> U:
        """Read from the store, and shape what was found, on one of our threads.

        `read` is a method of the face's service. The calls of an async face wait
        behind the commits of the runs it drives; a read has nothing to wait for.
        """
        return await self.on_thread(lambda: shape(read(*args)))

    async def caller(self, token: str) -> Found:
        """Whose token this is."""
        if inspect.iscoroutinefunction(self._authenticate):
            return cast("Found", await self._authenticate(token))
        found = await self.on_thread(self._authenticate, token)
        return await found if inspect.isawaitable(found) else found
