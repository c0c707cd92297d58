"""Claiming and driving runs on an event loop; performing effects without blocking it.

Backends and tool servers that can be awaited are; the others run on bounded pools of
threads: one for inferences, one for tools, because one alone would deadlock when
every slot holds a run that waits for a tool, and one for what else servers are asked,
because a silent one must not hold up the calls of others.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from attrs import Factory, field, frozen

from agentloop.core.catalog import Failure
from agentloop.core.phases import Call, CancelRequested, Discover, Infer
from agentloop.core.routing import Offer
from agentloop.ports import (
    Claim,
    ClaimRequest,
    Clock,
    Inference,
    LeaseLostError,
    RunRow,
    StoreUnavailableError,
    ToolServer,
)
from agentloop.runtime.adrive import AsyncMailbox, StoreCall, adrive
from agentloop.runtime.apulse import AsyncPulse
from agentloop.runtime.desk import Desk
from agentloop.runtime.hub import Hub
from agentloop.runtime.narrate import Effect
from agentloop.runtime.perform import ASKED_AT_ONCE, Performed, Performer, catalog
from agentloop.runtime.prepare import (
    DRIVER,
    Drive,
    Resources,
    close_servers,
    prepare,
)
from agentloop.runtime.runner import desk_for, finish_broken, later

log = logging.getLogger("agentloop")
T = TypeVar("T")


def _pulse_of(runner: "AsyncRunner") -> AsyncPulse:
    lease = runner.resources.options.lease
    return AsyncPulse(runner.resources.store, lease, runner.call)


@frozen
class Threads:
    """Where what may block is done."""

    inferences: Executor
    tools: Executor
    errands: Executor


@frozen
class StoreThreads:
    """Calls the store: here when it never blocks, else on one of these threads.

    Starting and cancelling runs may also wait for an engine.
    """

    resources: Resources
    pool: Executor

    async def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """The function's result."""
        if not (self.resources.store.blocking or self.resources.engine):
            return function(*args)
        loop = asyncio.get_running_loop()
        try:
            work = loop.run_in_executor(self.pool, _contained, function, *args)
        except RuntimeError:  # closed already; what is stored can still be read
            work = loop.run_in_executor(None, _contained, function, *args)
        return await work


class EscapedError(Exception):
    """What was raised on a thread and would end more than its own effect here."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__(type(cause).__name__)


@frozen
class AsyncRunner:
    """Drives claimed runs on the running event loop."""

    resources: Resources
    hub: Hub
    clock: Clock
    call: StoreCall
    threads: Threads
    pulse: AsyncPulse = field(init=False, default=Factory(_pulse_of, takes_self=True))

    async def claim(self, run_id: str | None = None) -> Claim | None:
        """The lease of a run that is due: this one, or any."""
        options = self.resources.options
        request = ClaimRequest(
            driver=DRIVER,
            lease_seconds=options.lease,
            run_id=run_id,
            run_timeout=options.run_timeout,
        )
        return await self._whole(self._give_back, self.resources.store.claim, request)

    async def run(
        self, claim: Claim, mailbox: AsyncMailbox | None = None
    ) -> RunRow | None:
        """Drive a claimed run to its end, or until it is asked to stop.

        Who gives a mailbox may stop the drive by it at any time.

        Raises:
            LeaseLostError: another worker has the run.
            StoreUnavailableError: the store stayed away.
        """
        mailbox = mailbox or AsyncMailbox()
        began = self.clock.monotonic()
        # From here on, because servers that are opened take their time.
        async with self.pulse.beating(claim.lease, mailbox):
            ready = await self._prepare(claim)
            claim = later(claim, self.clock.monotonic() - began)
            try:
                desk = desk_for(claim, ready, self.resources, self.hub, self.clock)
                desk.performer.abandoned = lambda: desk.finished or mailbox.lost
                desk.journal.stopping = lambda: mailbox.stopped or mailbox.lost
                return await self._drive(desk, mailbox)
            finally:
                await self._close(ready.opened)

    async def _close(self, opened: tuple[ToolServer, ...]) -> None:
        """Say farewell to servers, which wait for those that do not answer."""
        if opened:
            await asyncio.shield(_on(self.threads.errands, close_servers, opened))

    async def _prepare(self, claim: Claim) -> Drive:
        try:
            return await self._whole(_close, prepare, claim, self.resources)
        except asyncio.CancelledError:
            with suppress(StoreUnavailableError):
                await asyncio.shield(self.call(self._give_back, claim))
            raise

    def _give_back(self, claim: Claim | None) -> None:
        if claim is not None:
            self.resources.store.release(claim.lease)

    async def _whole(
        self, undo: Callable[[T], None], function: Callable[..., T], *args: Any
    ) -> T:
        """A store's work that is undone when the task is cancelled meanwhile.

        A thread cannot be cancelled, so what it did would be nobody's.
        """
        if not self.resources.store.blocking:
            return function(*args)
        work = asyncio.ensure_future(self.call(function, *args))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            with suppress(Exception):
                await self.call(undo, await work)
            raise

    async def _drive(self, desk: Desk, mailbox: AsyncMailbox) -> RunRow | None:
        perform = partial(self._perform, desk.performer)
        try:
            return await adrive(desk, mailbox, perform, self.call)
        except (LeaseLostError, StoreUnavailableError):
            raise
        except Exception as error:
            run_id = desk.journal.run_id
            log.exception("driving run %s failed", run_id, extra={"run_id": run_id})
            return await self.call(finish_broken, desk, error)

    async def cancel(self, run_id: str) -> None:
        """End a run that was flagged: by its driver here, or by taking it over."""
        driven = self.pulse.of(run_id)
        for mailbox in driven:
            mailbox.post(CancelRequested())
        if not driven and (claim := await self.claim(run_id)) is not None:
            await self.run(claim)

    # ------------------------------------------------------------ effects

    async def _perform(self, performer: Performer, effect: Effect) -> Performed:
        match effect:
            case Infer():
                return await self._infer(performer, effect)
            case Call():
                return await self._call(performer, effect)
            case Discover():
                return await self._discover(performer, effect)

    async def _infer(self, performer: Performer, command: Infer) -> Performed:
        session = performer.session()
        on_delta = performer.delta_sink(command)
        job = performer.job(command, streamed=on_delta is not None)
        args = command, job, on_delta
        try:
            if (ainfer := getattr(session, "ainfer", None)) is not None:
                return performer.inferred(command, await ainfer(*args))
            # Looking through a large answer takes its time as well.
            infer = partial(_inferred, performer, session.infer)
            return await _on(self.threads.inferences, infer, *args)
        except (LeaseLostError, StoreUnavailableError):
            raise  # of what was to be remembered nothing was kept: the drive ends
        except (Exception, asyncio.CancelledError) as error:
            _pass_on(error)
            return performer.crashed(command, _cause(error))

    async def _call(self, performer: Performer, call: Call) -> Performed:
        server = performer.drive.servers[call.route.alias]
        asked = performer.call_of(call)
        try:
            if (acall := getattr(server, "acall", None)) is not None:
                answer = await acall(asked)
            else:
                answer = await _on(self.threads.tools, server.call, asked)
            return performer.called(call, answer)
        except (Exception, asyncio.CancelledError) as error:
            _pass_on(error)
            return performer.tool_crashed(call, _cause(error))

    async def _discover(self, performer: Performer, command: Discover) -> Performed:
        places = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(alias: str) -> tuple[Offer, ...] | Failure:
            async with places:
                server = performer.drive.servers[alias]
                return await self._ask(server, performer.time_to_list())

        found = await asyncio.gather(*map(ask, command.servers))
        return performer.discovered(
            command, dict(zip(command.servers, found, strict=True))
        )

    async def _ask(
        self, server: ToolServer, limit: float
    ) -> tuple[Offer, ...] | Failure:
        try:
            if (adiscover := getattr(server, "adiscover", None)) is not None:
                return catalog(await adiscover(limit))
            return catalog(await _on(self.threads.errands, server.discover, limit))
        except (Exception, asyncio.CancelledError) as error:
            _pass_on(error)
            message = f"the server raised {type(_cause(error)).__name__}"
            return Failure(kind="discovery_refused", message=message)


def _close(ready: Drive) -> None:
    close_servers(ready.opened)


async def _on(pool: Executor, function: Callable[..., T], *args: Any) -> T:
    """What a function that may block gives, on a thread of the pool."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(pool, _contained, function, *args)


def _contained(function: Callable[..., T], *args: Any) -> T:
    """Call, and let nothing out that a task could not raise.

    On the event loop the first two would end it, whoever they were meant for; a
    `StopIteration` would never arrive, and its task wait for ever.

    Raises:
        EscapedError: one of these was raised.
    """
    try:
        return function(*args)
    except (SystemExit, KeyboardInterrupt, StopIteration) as error:
        raise EscapedError(error) from error


def _cause(error: BaseException) -> BaseException:
    return error.cause if isinstance(error, EscapedError) else error


def _inferred(
    performer: Performer, infer: Callable[..., Inference], command: Infer, *rest: Any
) -> Performed:
    return performer.inferred(command, infer(command, *rest))


def _pass_on(error: BaseException) -> None:
    """Raise a cancellation that was meant for this task.

    One that an effect raises of its own accord, as broken clients do, is an answer
    like any other error; the task would end with it and nobody would hear.
    """
    task = asyncio.current_task()
    meant = task is not None and task.cancelling() > 0
    if meant and isinstance(error, asyncio.CancelledError):
        raise error
