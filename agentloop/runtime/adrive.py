"""The asynchronous driver: the twin of `agentloop.runtime.drive`, over the same desk.

Every effect is a task whose answer arrives in the mailbox, so that a cancel ends a
wait for the model at once; only a tool that its host calls quick is called right
here. Store calls are never interrupted. When the host cancels the driving task
itself, the run is given back and the cancellation goes on.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Protocol, TypeVar

from agentloop.core.phases import Call
from agentloop.ports import LeaseLostError, RunRow, StoreUnavailableError
from agentloop.runtime.desk import Desk, EffectId, Happened, effect_id
from agentloop.runtime.narrate import Effect
from agentloop.runtime.perform import Performed
from agentloop.runtime.perform import perform as perform_here

T = TypeVar("T")


class StoreCall(Protocol):
    """Calls a function that may block, where blocking is allowed."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """The function's result."""
        ...


class AsyncMailbox:
    """A queue for one driver; posted to from its own event loop only."""

    def __init__(self) -> None:
        self.lost = False
        self.stopped = False
        self.broken: BaseException | None = None
        self._items: deque[Happened] = deque()
        self._changed = asyncio.Event()

    def post(self, *items: Happened) -> None:
        """Add what happened and wake the driver."""
        self._items.extend(items)
        self._changed.set()

    def lose(self) -> None:
        """Tell the driver that its lease is gone."""
        self.lost = True
        self._changed.set()

    def break_off(self, error: BaseException) -> None:
        """Have the driver raise what an effect's task raised."""
        self.broken = error
        self._changed.set()

    def stop(self) -> None:
        """Ask the driver to give the run back."""
        self.stopped = True
        self._changed.set()

    def check(self, run_id: str) -> None:
        """Raise what ends the drive early.

        Raises:
            LeaseLostError: another worker has the run.
            BaseException: whatever an effect raised elsewhere.
        """
        if self.broken is not None:
            raise self.broken
        if self.lost:
            raise LeaseLostError(run_id)

    async def take(self, timeout: float | None) -> list[Happened]:
        """Everything posted so far; waits up to `timeout` for the first item."""
        if not self._items and timeout != 0.0:
            await self._change(timeout)
        self._changed.clear()
        taken = list(self._items)
        self._items.clear()
        return taken

    async def _change(self, timeout: float | None) -> None:
        if timeout is None:
            await self._changed.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()


async def adrive(
    desk: Desk,
    mailbox: AsyncMailbox,
    perform: Callable[[Effect], Awaitable[Performed]],
    call: StoreCall,
) -> RunRow | None:
    """Drive a run to its end.

    Returns:
        The terminal row, or None when the mailbox was stopped: then the run was
        given back between two effects, for another worker to go on.

    Raises:
        LeaseLostError: another worker has the run; nothing more was written.
        StoreUnavailableError: the store stayed away; the run is picked up later.
    """
    tasks: dict[EffectId, asyncio.Task[None]] = {}

    async def answer(effect: Effect) -> None:
        try:
            mailbox.post(await perform(effect))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            mailbox.break_off(error)
        finally:  # here, since a callback costs the loop another turn
            tasks.pop(effect_id(effect), None)

    def begin(effect: Effect) -> None:
        tasks[effect_id(effect)] = asyncio.create_task(answer(effect))

    try:
        return await _until_finished(desk, mailbox, begin, call)
    except Exception:
        raise
    except BaseException:  # a cancellation, or whatever else ends the host's work
        with suppress(StoreUnavailableError):
            await asyncio.shield(_release(desk, call))
        raise
    finally:
        await _end(tuple(tasks.values()))


async def _until_finished(
    desk: Desk,
    mailbox: AsyncMailbox,
    begin: Callable[[Effect], None],
    call: StoreCall,
) -> RunRow | None:
    """Schedule, commit, begin what is due, take what happened, and again."""
    while not desk.finished:
        if mailbox.stopped and desk.idle:
            await call(desk.suspend)
            return None
        if mailbox.stopped:
            desk.hold()
        else:
            desk.plan()
        await call(desk.commit)
        done = [each for effect in desk.ready() for each in _done(desk, effect, begin)]
        desk.take([*done, *await mailbox.take(0.0 if done else desk.patience())])
        mailbox.check(desk.journal.run_id)
    return await call(desk.finish)


def _done(
    desk: Desk, effect: Effect, begin: Callable[[Effect], None]
) -> tuple[Performed, ...]:
    """What came of a call that is quick; any other effect is begun."""
    if not (isinstance(effect, Call) and desk.performer.is_quick(effect)):
        begin(effect)
        return ()
    try:  # in a context of its own, as a task has one
        return (copy_context().run(perform_here, desk.performer, effect),)
    except asyncio.CancelledError as error:  # the tool's own: nothing is awaited here
        return (desk.performer.tool_crashed(effect, error),)


async def _release(desk: Desk, call: StoreCall) -> None:
    await call(desk.journal.release)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel what nobody waits for any more, and see it gone."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
