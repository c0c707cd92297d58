"""The heartbeat of every run that is driven on one event loop; see `pulse`.

A task for each of them that lasts, because a store's answer to one must not hold up
another.
Nothing here knows what a drive does.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentloop.core.phases import CancelRequested
from agentloop.ports import Lease, LeaseLostError, Store, StoreUnavailableError
from agentloop.runtime.adrive import AsyncMailbox, StoreCall

log = logging.getLogger("agentloop")


class AsyncPulse:
    """Keeps leases alive, a third of their length apart."""

    def __init__(self, store: Store, lease_seconds: float, call: StoreCall) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._call = call
        self._beating: dict[Lease, tuple[AsyncMailbox, asyncio.Task[Any] | None]] = {}
        self._gone = asyncio.Event()
        self._ending = False
        self._failing = False

    @asynccontextmanager
    async def beating(self, lease: Lease, mailbox: AsyncMailbox) -> AsyncIterator[None]:
        """Keep a lease alive while the block runs."""
        self._beating[lease] = mailbox, asyncio.current_task()
        if self._ending:
            mailbox.stop()
        beats: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        # A timer first: most runs end before a beat is due, and need no task for it.
        timer = loop.call_later(
            self._lease_seconds / 3,
            lambda: beats.append(loop.create_task(self._beat(lease, mailbox))),
        )
        try:
            yield
        finally:
            del self._beating[lease]
            self._gone.set()
            timer.cancel()
            if beats:
                await _ended(beats)

    def of(self, run_id: str) -> tuple[AsyncMailbox, ...]:
        """The mailboxes of a run's drives; a lost one may still be under way."""
        boxes = self._beating.items()
        return tuple(box for lease, (box, _) in boxes if lease.run_id == run_id)

    async def end(self) -> None:
        """Have every drive give its run back, also those that begin from now on.

        Returns when all have, but for one on the calling task, which would wait
        for itself.
        """
        self._ending = True
        for mailbox, _ in self._beating.values():
            mailbox.stop()
        me = asyncio.current_task()
        while any(driver is not me for _, driver in self._beating.values()):
            self._gone.clear()
            await self._gone.wait()

    async def _beat(self, lease: Lease, mailbox: AsyncMailbox) -> None:
        kept = True
        while kept:
            kept = await self._is_kept(lease, mailbox)
            await asyncio.sleep(self._lease_seconds / 3)

    async def _is_kept(self, lease: Lease, mailbox: AsyncMailbox) -> bool:
        """Prolong a lease; whether it may be prolonged again."""
        try:
            if await self._call(self._store.heartbeat, lease, self._lease_seconds):
                mailbox.post(CancelRequested())
            self._failing = False
        except LeaseLostError:
            mailbox.lose()
            return False
        except StoreUnavailableError:
            pass  # the next beat may get through
        except Exception:
            if not self._failing:  # once is enough, until a beat gets through
                log.exception("a heartbeat failed; the next one may get through")
            self._failing = True
        return True


async def _ended(beats: list[asyncio.Task[None]]) -> None:
    """End what may be waiting for a store."""
    for beat in beats:
        beat.cancel()
    await asyncio.gather(*beats, return_exceptions=True)
