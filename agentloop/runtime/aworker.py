"""Workers on an event loop: tasks that drive whatever run is due."""

import asyncio
import logging
from contextlib import suppress

from agentloop.ports import LeaseLostError, StoreUnavailableError
from agentloop.runtime import checks
from agentloop.runtime.arunner import AsyncRunner

log = logging.getLogger("agentloop")


class AsyncWorker:
    """`n` tasks over one runner; made by `AsyncAgentLoop.worker`."""

    def __init__(self, runner: AsyncRunner, n: int, poll: float) -> None:
        checks.whole("n", n, 1)
        checks.span("poll", poll)
        self._runner = runner
        self._n = n
        self._poll = poll
        self._stopping = False
        self._due = asyncio.Semaphore(0)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the tasks on the running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._n)]

    @property
    def alive(self) -> bool:
        """Whether every task is there and at work."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    def hint(self) -> None:
        """Say that a run has become due."""
        self._due.release()

    async def stop(self) -> None:
        """Stop taking runs and give back those under way.

        A run that waits for its model is given back when the answer is stored.
        """
        self._stopping = True
        for mailbox in self._runner.mailboxes.values():
            mailbox.stop()
        for _ in self._tasks:
            self._due.release()
        await asyncio.gather(*self._tasks)

    async def _work(self) -> None:
        while not self._stopping:
            try:
                busy = await self._drive_one()
            except LeaseLostError as lost:
                log.warning("run %s was taken over by another worker", lost)
                busy = True
            except StoreUnavailableError as error:
                log.warning("the store is unavailable: %s", error)
                busy = False
            if not busy:
                await self._rest()

    async def _drive_one(self) -> bool:
        claim = await self._runner.claim()
        if claim is None:
            return False
        try:
            await self._runner.run(claim)
        except (LeaseLostError, StoreUnavailableError):
            raise
        except Exception:
            log.exception("run %s ended its driver; the worker goes on", claim.run.id)
        return True

    async def _rest(self) -> None:
        if self._stopping:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll):
                await self._due.acquire()
