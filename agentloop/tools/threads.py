"""Threads for host functions: a bounded pool that can lose a thread, and a portal.

Python cannot stop a thread. A function that outlives its time keeps its thread, the
pool counts it as lost and goes on with the rest; a pool that has lost all of them
says so instead of queueing. Threads are daemons: a function that never returns must
not keep the process from ending, as the standard executor's would. What the work is
and how its answer came about is not this room's business.
"""

import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Final, Literal, TypeAlias, TypeVar

from agentloop.ports import ToolAnswer
from agentloop.ports.tools import Abandoned
from agentloop.tools.waiting import ending_of, wait_until

T = TypeVar("T")
Work: TypeAlias = Callable[[], ToolAnswer]
State: TypeAlias = Literal["queued", "running", "lost", "over"]

_CLOSED: Final = "was not started: the tools were closed"
_STOP_WAIT: Final = 5.0
"""Seconds that `Portal.close` waits for its thread, which a coroutine may block."""


class RefusedError(RuntimeError):
    """Work that has no result; the message says whether it began, and why."""


class AbandonedError(Exception):
    """Work whose result nobody waits for any more."""


class Job:
    """One piece of work given to a pool; one thread may wait for it."""

    def __init__(self, work: Work, notify: Callable[[], object]) -> None:
        self.work = work
        self.notify = notify
        self.state: State = "queued"
        self.answer: ToolAnswer | None = None
        self.error: BaseException | None = None
        self._over = threading.Lock()  # held until the work is over
        self._over.acquire()

    def wait(self, timeout: float | None) -> bool:
        """Wait until the work is over; whether it was in time."""
        return self._over.acquire(timeout=_seconds(timeout))

    def wake(self) -> None:
        """Tell who waits. The pool calls it once, when the work is over."""
        self._over.release()
        self.notify()

    def result(self) -> ToolAnswer:
        """What the work returned, once it is over.

        Raises:
            RefusedError: the work was not started.
            BaseException: whatever the work raised.
        """
        if self.answer is None:
            raise self.error or RefusedError("the work is not over yet")
        return self.answer


class Pool:
    """At most `size` threads, started when work arrives and ended by `close`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = 0
        self._open = 0  # jobs queued or on a thread
        self._lost = 0  # threads whose job nobody waits for any more
        self._closed = False

    @property
    def lost(self) -> int:
        """How many threads are held by work that nobody waits for any more."""
        return self._lost

    def submit(self, work: Work, notify: Callable[[], object] = lambda: None) -> Job:
        """Queue work, to be run in the caller's context variables.

        Args:
            work: what to run.
            notify: called when the work is over, on whatever thread ended it.
        """
        context = copy_context()
        job = Job(lambda: context.run(work), notify)
        with self._lock:
            refusal = self._refusal()
            if refusal is None:
                self._open += 1
                if self._open > self._threads and self._threads < self.size:
                    self._start()
                self._queue.put(job)
        if refusal is not None:
            _refuse(job, refusal)
        return job

    def _refusal(self) -> str | None:
        if self._closed:
            return _CLOSED
        if self._lost >= self.size:
            return (
                f"was not started: all {self.size} threads for tools are held by calls "
                "that did not end in time"
            )
        return None

    def _start(self) -> None:
        self._threads += 1
        name = f"agentloop-tool-{self._threads}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def give_up(self, job: Job) -> State:
        """Wait no longer; returns how far the job was.

        A queued job is never started. A running one holds its thread until it
        ends; when that takes the last thread, the queued jobs are refused.
        """
        stranded: list[Job] = []
        with self._lock:
            found = job.state
            if found == "queued":
                job.state = "over"
                self._open -= 1
            elif found == "running":
                job.state = "lost"
                self._lost += 1
                stranded = self._drain() if self._lost >= self.size else []
            refusal = self._refusal() or ""
        for other in stranded:
            _refuse(other, refusal)
        return found

    def close(self) -> None:
        """Refuse what is queued and let the threads end after their present work."""
        with self._lock:
            self._closed = True
            stranded = self._drain()
            for _ in range(self._threads):
                self._queue.put(None)
        for job in stranded:
            _refuse(job, _CLOSED)

    def _drain(self) -> list[Job]:
        """Take every job out of the queue. Called with the lock held."""
        drained: list[Job] = []
        while True:
            try:
                job = self._queue.get_nowait()
            except Empty:
                return drained
            if job is not None and job.state == "queued":
                job.state = "over"
                self._open -= 1
                drained.append(job)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            self._run(job)
            del job  # an idle thread keeps nothing alive

    def _run(self, job: Job) -> None:
        if not self._begin(job):
            return
        try:
            job.answer = job.work()
        except BaseException as error:  # it belongs to whoever waits for the job
            job.error = error
        self._end(job)
        job.wake()

    def _begin(self, job: Job) -> bool:
        with self._lock:
            queued = job.state == "queued"
            if queued:
                job.state = "running"
        return queued

    def _end(self, job: Job) -> None:
        with self._lock:
            self._lost -= job.state == "lost"
            self._open -= 1
            job.state = "over"


def _seconds(timeout: float | None) -> float:
    """A time-out as locks take it."""
    longest = threading.TIMEOUT_MAX
    return longest if timeout is None else min(max(timeout, 0.0), longest)


def _refuse(job: Job, reason: str) -> None:
    job.state = "over"
    job.error = RefusedError(reason)
    job.wake()


class Portal:
    """An event loop on a thread of its own, on which blocking callers await."""

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(
            target=self._serve, name="agentloop-tools", daemon=True
        )
        self._thread.start()

    def run(
        self,
        work: Callable[[], Coroutine[object, object, T]],
        timeout: float | None,
        abandoned: Abandoned | None = None,
    ) -> T:
        """Run a coroutine on the loop and wait for it.

        Raises:
            TimeoutError: it did not end in time, and was told to cancel.
            AbandonedError: nobody waits any more, and it was told to cancel.
            RefusedError: it was not started, or the portal was closed meanwhile.
        """
        future = self._submit(work)
        try:
            match wait_until(ending_of(future), _seconds(timeout), abandoned):
                case "late":
                    raise TimeoutError
                case "abandoned":
                    raise AbandonedError
                case "over":
                    return future.result()
        except CancelledError:
            raise RefusedError("was cancelled: the tools were closed") from None
        finally:
            future.cancel()

    def _submit(self, work: Callable[[], Coroutine[object, object, T]]) -> Future[T]:
        from asyncio import run_coroutine_threadsafe

        if threading.current_thread() is self._thread:
            raise RefusedError(
                "was not started: an async tool must await other tools, not block"
            )
        with self._lock:  # what is submitted before `close` is cancelled by it
            if self._closed:
                raise RefusedError(_CLOSED)
            return run_coroutine_threadsafe(work(), self._loop)

    def close(self) -> None:
        """Cancel what runs, end the loop, and wait a little for its thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(_STOP_WAIT)

    def _serve(self) -> None:
        from asyncio import Runner

        with Runner(loop_factory=lambda: self._loop):
            self._loop.run_forever()


class Workers:
    """A pool and a portal, made when they are first needed and after a fork."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._portal: Portal | None = None
        self._process = os.getpid()

    def pool(self) -> Pool:
        """The running pool."""
        with self._lock:
            self._forget_parent()
            if self._pool is None:
                self._pool = Pool(self._threads)
            return self._pool

    def portal(self) -> Portal:
        """The running portal."""
        with self._lock:
            self._forget_parent()
            if self._portal is None:
                self._portal = Portal()
            return self._portal

    def _forget_parent(self) -> None:
        """Threads do not survive a fork; the child needs its own."""
        if self._process != os.getpid():
            self._pool = self._portal = None
            self._process = os.getpid()

    def close(self) -> None:
        """End both; what is asked for later starts anew."""
        with self._lock:
            self._forget_parent()
            pool, portal, self._pool, self._portal = (
                self._pool,
                self._portal,
                None,
                None,
            )
        if pool is not None:
            pool.close()
        if portal is not None:
            portal.close()
