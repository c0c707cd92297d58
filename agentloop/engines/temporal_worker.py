"""Driving runs on Temporal: the activities, and the worker that performs them.

An activity is a round of the run on a thread; the event loop that waits for it says
meanwhile that it is alive. Whatever goes wrong in a round is told to Temporal without
content, and tried again for ever: the store knows how far the run has come.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Final

from attrs import define, field, frozen
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import Worker

from agentloop.engines.temporal_client import (
    SETTLE,
    TemporalServer,
    connect,
    start,
)
from agentloop.engines.temporal_texts import (
    FOREVER,
    Pace,
    Place,
    order_from,
    place_text,
)
from agentloop.engines.temporal_workflow import GONE, RunWorkflow
from agentloop.ports import (
    EngineUnavailableError,
    LeaseLostError,
    RunRef,
    Store,
    StoreUnavailableError,
)
from agentloop.runtime import checks
from agentloop.runtime.face import AgentLoop
from agentloop.runtime.options import Options
from agentloop.runtime.rounds import Rounds, RunBusyError, RunNotFoundError
from agentloop.wire.standing import Standing, standing_from, standing_text

log = logging.getLogger("agentloop")
STICKY: Final = timedelta(seconds=1)
"""How long a run waits for the worker that remembers it before any other takes it."""
_LATER: Final = timedelta(milliseconds=250)
_MOST: Final = 1000
"""How many runs are looked at in one look for lost starts."""


def pace_of(options: Options) -> Pace:
    """How long commands may take by the host's choices.

    A command of several calls tries each of them as often as the host allows.
    """
    tries = options.attempts
    waits = max(options.delays, default=0.0)
    call = FOREVER if options.tool_timeout is None else options.tool_timeout + waits
    return Pace(
        infer=min(options.attempt_timeout or FOREVER, FOREVER),
        discover=min(options.discovery_timeout, FOREVER),
        call=min(call * tries, FOREVER),
    )


@frozen
class Hands:
    """What performs commands: rounds on a pool of threads."""

    rounds: Rounds
    pool: ThreadPoolExecutor
    pace: Pace

    def activities(self) -> Sequence[Callable[..., object]]:
        """The activities by the names that the workflow calls."""

        @activity.defn(name="begin")
        async def begin(order: str) -> str:
            run = order_from(order).run
            standing = await self._round(lambda: self.rounds.begin(run))
            return place_text(Place(standing, self.pace))

        async def go_on(order: str, seen: str) -> str:
            run, place = order_from(order).run, standing_from(seen)
            standing = await self._round(lambda: self.rounds.go_on(run, place))
            return standing_text(standing)

        @activity.defn(name="discover")
        async def discover(order: str, seen: str) -> str:
            return await go_on(order, seen)

        @activity.defn(name="infer")
        async def infer(order: str, seen: str) -> str:
            return await go_on(order, seen)

        @activity.defn(name="call_tools")
        async def call_tools(order: str, seen: str) -> str:
            return await go_on(order, seen)

        return (begin, discover, infer, call_tools)

    async def _round(self, work: Callable[[], Standing]) -> Standing:
        try:
            return await self._beating(self.pool.submit(work))
        except (RunBusyError, LeaseLostError, StoreUnavailableError) as error:
            raise _later(error) from None
        except RunNotFoundError as error:
            log.warning("a workflow has no run: %s", error)
            raise _gone(error) from None
        except Exception as error:
            log.exception("a round failed; it is tried again")
            told = f"the round raised {type(error).__name__}; the worker's log has it"
            raise ApplicationError(told, type=type(error).__name__) from None

    async def _beating(self, work: "Future[Standing]") -> Standing:
        done = asyncio.wrap_future(work)
        silence = activity.info().heartbeat_timeout
        span = None if silence is None else silence.total_seconds() / 3
        try:
            while not (await asyncio.wait((done,), timeout=span))[0]:
                activity.heartbeat()
            return done.result()
        finally:
            work.cancel()  # one that was not begun is left to others


def _later(error: Exception) -> ApplicationError:
    return ApplicationError(
        str(error),
        type=type(error).__name__,
        next_retry_delay=_LATER,
        category=ApplicationErrorCategory.BENIGN,
    )


def _gone(error: RunNotFoundError) -> ApplicationError:
    return ApplicationError(str(error), type=GONE, non_retryable=True)


@define
class LostStarts:
    """Runs of a place that no workflow has begun, of which some have none.

    Whoever is seen only once has just been started. Most of the others wait for a
    worker that has time for them; started once more, they stay as they are.
    """

    store: Store
    driver: str
    _seen: set[RunRef] = field(factory=set, init=False)

    def look(self) -> list[RunRef]:
        """The runs that are seen for the second time or more, the oldest first."""
        found = self.store.unclaimed(self.driver, _MOST)
        before, self._seen = self._seen, set(found)
        return [run for run in found if run in before]


class TemporalWorker:
    """Drives the runs of a task queue while the block runs.

        with TemporalWorker(loop, server):
            ...

    Args:
        loop: over the store that the runs were started in; a `lease` of a few
            seconds lets the runs of a dead worker go on soon.
        server: where Temporal is.
        concurrency: how many commands are performed at once.
        drain: seconds that stopping may take; what is not done then is done again
            by another worker when the lease has run out.
        sweep: seconds between two looks for runs whose start was lost; such a run
            is started once two of them have seen it.

    Raises:
        TypeError, ValueError: a number that cannot be.
    """

    def __init__(
        self,
        loop: AgentLoop,
        server: TemporalServer | None = None,
        *,
        concurrency: int = 16,
        drain: float = 30.0,
        sweep: float = 30.0,
    ) -> None:
        checks.whole("concurrency", concurrency, 1)
        checks.span("drain", drain)
        checks.span("sweep", sweep)
        self._server = server or TemporalServer()
        self._pace = pace_of(loop.watch.options)
        self._rounds = loop.rounds(self._server.driver)
        self._concurrency = concurrency
        self._drain = timedelta(seconds=drain)
        self._sweep = sweep
        self._stop = threading.Event()
        self._up: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._work, name="agentloop-temporal", daemon=True
        )

    @property
    def alive(self) -> bool:
        """Whether it is there and at work."""
        return self._thread.is_alive() and self._up.done()

    def __enter__(self) -> "TemporalWorker":
        """Begin to drive.

        Raises:
            EngineUnavailableError: Temporal did not answer.
        """
        self._thread.start()
        self._up.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let commands under way come to their end, within the time they may take."""
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Begin no more commands; returns at once."""
        self._stop.set()

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if not self._up.done():
                self._up.set_exception(error)
                return
            log.exception("the worker of task queue %s ended", self._server.task_queue)

    async def _serve(self) -> None:
        pool = ThreadPoolExecutor(self._concurrency, "agentloop-round")
        try:
            client = await connect(self._server)
            await self._drive(client, Hands(self._rounds, pool, self._pace))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            await asyncio.sleep(SETTLE)

    async def _drive(self, client: Client, hands: Hands) -> None:
        worker = self._made(client, hands)
        running = asyncio.ensure_future(worker.run())
        asked = asyncio.ensure_future(asyncio.to_thread(self._stop.wait))
        sweeping = asyncio.ensure_future(self._sweep_for_ever(client))
        self._up.set_result(None)
        try:
            await asyncio.wait((running, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stop.set()
            sweeping.cancel()
            await worker.shutdown()
            await running

    def _made(self, client: Client, hands: Hands) -> Worker:
        """The SDK's worker, which nobody waits for longer than for one that died."""
        return Worker(
            client,
            task_queue=self._server.task_queue,
            workflows=[RunWorkflow],
            activities=hands.activities(),
            max_concurrent_activities=self._concurrency,
            sticky_queue_schedule_to_start_timeout=STICKY,
            max_heartbeat_throttle_interval=timedelta(seconds=self._server.silence / 3),
            graceful_shutdown_timeout=self._drain,
        )

    async def _sweep_for_ever(self, client: Client) -> None:
        """Start what was never started; a start that comes twice is one."""
        store = self._rounds.runner.resources.store
        lost = LostStarts(store, self._server.driver)
        while True:
            await asyncio.sleep(self._sweep)
            try:
                for run in await asyncio.to_thread(lost.look):
                    await start(client, self._server, run)
            except (StoreUnavailableError, EngineUnavailableError) as error:
                log.warning("the sweep for lost starts comes again: %s", error)
            except Exception:
                log.exception("the sweep for lost starts failed; it comes again")
