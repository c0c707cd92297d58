"""The portal: one thread with one event loop, shared by every MCP server.

The SDK is async only. The first server that needs the loop starts the thread,
the last one that leaves stops it; a forked child starts its own. Knows no MCP.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Portal:
    """A running event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, name="agentloop-mcp", daemon=True
        )
        self._thread.start()

    def submit(self, work: Coroutine[object, object, T]) -> Future[T]:
        """Run a coroutine on the loop; cancelling the future cancels it there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """Cancel what still runs, then end the loop and the thread."""
        self.submit(_cancel_all()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            # Does not wait for a resolver that hangs in its own thread.
            self._loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class SharedPortal:
    """Counts who uses the portal; the thread lives while anyone does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._portal: Portal | None = None
        self._users = 0
        self._pid = os.getpid()

    def join(self) -> Portal:
        """The running portal; every `join` is matched by one `leave`."""
        with self._lock:
            if self._portal is None or self._pid != os.getpid():
                self._portal, self._users, self._pid = Portal(), 0, os.getpid()
            self._users += 1
            return self._portal

    def leave(self, portal: Portal) -> None:
        """Give up one use; the last one stops the thread."""
        with self._lock:
            if portal is not self._portal or self._pid != os.getpid():
                return  # a parent process's portal: its thread is not in this one
            self._users -= 1
            if self._users:
                return
            self._portal = None
        portal.stop()


PORTAL = SharedPortal()
