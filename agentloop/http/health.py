"""Whether this process can serve: the store answers and the workers are at work.

The store is only read to find out. That it takes no writes (a full disk, a replica)
is told by those who write: the workers, and the requests that were refused.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

from attrs import frozen

from agentloop.http.logs import LOGGER
from agentloop.runtime.system import SystemClock
from agentloop.runtime.watch import Watch, WorkerHealth

_CLOCK = SystemClock()
State = Literal["ok", "unavailable"]
REMEMBERED: Final = 30.0
"""Seconds for which a write that failed is told, unless another one gets through;
not for ever, because whoever is told sends no more requests that could."""


@frozen(kw_only=True)
class Health:
    """What `/healthz` tells; `worker` is `none` where other processes drive."""

    status: State
    store: State
    worker: WorkerHealth


class Physician:
    """Looks at a loop; however many ask, the store is asked once at a time.

    It has a thread of its own: busy request threads are no illness, and a store
    that hangs holds this one thread only.
    """

    def __init__(self, watch: Watch, timeout: float) -> None:
        self._watch = watch
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, "agentloop-health")
        self._look: asyncio.Future[bool] | None = None
        self._failed: float | None = None

    def note_write(self, *, failed: bool) -> None:
        """What became of a request that writes."""
        self._failed = _CLOCK.monotonic() if failed else None

    async def examine(self) -> Health:
        """The health as it is now."""
        answers = await self._store_answers()
        writable = not (self._watch.cut_off() or self._write_failed())
        store: State = "ok" if answers and writable else "unavailable"
        worker = self._watch.worker()
        well = store == "ok" and worker != "lost"
        return Health(
            status="ok" if well else "unavailable", store=store, worker=worker
        )

    def _write_failed(self) -> bool:
        failed = self._failed
        return failed is not None and _CLOCK.monotonic() - failed < REMEMBERED

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _store_answers(self) -> bool:
        loop = asyncio.get_running_loop()
        look = self._look
        if look is None or look.done() or look.get_loop() is not loop:
            look = self._look = loop.run_in_executor(self._thread, self._ping)
        done, _ = await asyncio.wait([look], timeout=self._timeout)
        return bool(done) and look.result()

    def _ping(self) -> bool:
        try:
            self._watch.ping()
        except Exception as error:  # whatever a host's store raises, it is ill
            LOGGER.warning("the store does not answer: %s", error)
            return False
        return True
