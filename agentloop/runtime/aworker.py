"""Workers on an event loop: tasks that drive whatever run is due.

They find runs as those of `agentloop.runtime.worker` do; the one that looks now and
then is a task of its own, which only wakes the others.
"""

import asyncio
import logging
from contextlib import suppress

from agentloop.ports import Claim, LeaseLostError, StoreUnavailableError
from agentloop.runtime import checks
from agentloop.runtime.adrive import AsyncMailbox
from agentloop.runtime.arunner import AsyncRunner
from agentloop.runtime.worker import MOST_PATIENCE

log = logging.getLogger("agentloop")
_NOT_OURS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
"""What is meant for the task or the process, not for the run that it drives."""


class AsyncWorker:
    """`n` tasks over one runner; made by `AsyncAgentLoop.worker`."""

    def __init__(self, runner: AsyncRunner, n: int, poll: float) -> None:
        checks.whole("n", n, 1)
        checks.span("poll", poll)
        self._runner = runner
        self._n = n
        self._poll = poll
        self._stopping = False
        self._over = asyncio.Event()
        self._hints = 0
        self._due = asyncio.Semaphore(0)
        self._more = False
        self._lookout: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._driving: set[AsyncMailbox] = set()
        self._failing: set[asyncio.Task[None] | None] = set()
        self._cut_off: set[asyncio.Task[None] | None] = set()

    def __repr__(self) -> str:
        state = "stopping" if self._stopping else "at work"
        return f"<AsyncWorker of {self._n} tasks, {state}>"

    def start(self) -> None:
        """Start the tasks on the running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._n)]
        self._lookout = asyncio.create_task(self._look_out())

    @property
    def alive(self) -> bool:
        """Whether every task is there and at work; see `Worker.alive`."""
        tasks = [*self._tasks, self._lookout] if self._lookout else []
        there = bool(tasks) and not any(task.done() for task in tasks)
        return there and not self._failing

    @property
    def cut_off(self) -> bool:
        """Whether a task's last try found the store unavailable; see `Worker`."""
        return bool(self._cut_off)

    def hint(self) -> None:
        """Say that a run has become due."""
        if self._hints < self._n:
            self._hints += 1
            self._due.release()

    async def stop(self, timeout: float | None = None) -> bool:
        """Stop taking runs, give back those under way, and wait for the tasks.

        Returns whether all of them ended within `timeout` seconds; one that waits
        for its model ends when the answer is stored. Runs that others drive go on.
        """
        self._stopping = True
        self._over.set()
        for mailbox in self._driving:
            mailbox.stop()
        for _ in self._tasks:
            self._due.release()
        if self._lookout is not None:
            self._lookout.cancel()
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        if not others:
            return True
        _, left = await asyncio.wait(others, timeout=timeout)
        return not left

    async def _work(self) -> None:
        failures = 0
        me = asyncio.current_task()
        while not self._stopping:
            cut_off = False
            try:
                busy = await self._drive_one()
                failures = 0
            except LeaseLostError as lost:
                about = {"run_id": str(lost)}
                log.warning(
                    "run %s was taken over by another worker", lost, extra=about
                )
                busy, failures = True, 0
            except StoreUnavailableError as error:
                log.warning("the store is unavailable: %s", error)
                busy, cut_off = False, True
            except _NOT_OURS:
                raise
            except BaseException:  # what no store may raise; others may be due
                log.exception("claiming a run failed; the worker tries again")
                failures += 1
                busy = False
            (self._failing.add if failures else self._failing.discard)(me)
            (self._cut_off.add if cut_off else self._cut_off.discard)(me)
            if cut_off or failures:
                await self._recover(failures)
            elif not busy:
                await self._rest()

    async def _drive_one(self) -> bool:
        """Drive a run that is due; whether to look for another one at once."""
        mailbox = AsyncMailbox()
        self._driving.add(mailbox)  # before the claim, so that no stop is too early
        try:
            claim = await self._runner.claim()
            for troubled in (self._cut_off, self._failing):  # the store is there
                troubled.discard(asyncio.current_task())
            if claim is None:
                self._more = False
                return False
            if self._more:
                self.hint()
            return await self._drive(claim, mailbox)
        finally:
            self._driving.discard(mailbox)

    async def _drive(self, claim: Claim, mailbox: AsyncMailbox) -> bool:
        try:
            await self._runner.run(claim, mailbox)
        except (LeaseLostError, StoreUnavailableError):
            raise
        except _NOT_OURS:
            raise
        except BaseException:
            about = {"run_id": claim.run.id}
            told = "run %s ended its driver; the worker goes on"
            log.exception(told, claim.run.id, extra=about)
            return False  # it may be due again, and would end this one as well
        return True

    async def _look_out(self) -> None:
        while True:
            await asyncio.sleep(self._poll)
            if not self._hints:
                self._more = True
                self.hint()

    async def _rest(self) -> None:
        if not self._stopping:
            await self._due.acquire()
            self._hints -= 1

    async def _recover(self, failures: int) -> None:
        """Let a store be that failed, longer and longer when it does so strangely."""
        span = self._poll * min(2**failures, MOST_PATIENCE)
        with suppress(TimeoutError):
            async with asyncio.timeout(span):
                await self._over.wait()
