"""Python functions as tools: the server of what `@tool` decorates.

A call goes through four steps: its arguments are checked against the schema and
converted to the hinted types; the function runs, on the calling thread, on a thread
of the pool, or on an event loop; what it returned becomes content; what it raised
becomes an error result. This room decides where a function runs and waits for it;
one call is `binding`'s, schemas are `signatures`', values are `results`'. Nothing
here knows a store, a provider or a run's state.

Where a function runs, and what its time-out can do there:

=================  =============================  ==============================
function           `call` (threads)               `acall` (event loop)
=================  =============================  ==============================
def                calling thread; with a limit   a pool thread
                   a pool thread
def, inline=True   calling thread, no time-out    the loop's thread, no time-out
async def          the portal's loop, cancelled   the running loop, cancelled
                   when late                      when late
=================  =============================  ==============================

A call that nobody waits for any more (`ToolCall.abandoned`) ends like a late one
wherever there is a limit, and under `call` on the portal: the coroutine is cancelled,
the thread is given up.

A limit is the tool's own `timeout` or the call's, whichever ends first. The tool's
own is an error result, which the model can act on; the call's is an `mcp_timeout`
failure, since it is the host's or the run's time that is up. An async tool must not
block: under `call` all async tools of one `FunctionTools` share one loop.

An exception of the function is a result. What is raised to end the process is not
(`KeyboardInterrupt`, and `SystemExit` on the main thread, where signal handlers run):
it passes through, and the run is taken up again by the next worker.
"""

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentloop.core.catalog import Failure, describe
from agentloop.core.routing import Offer
from agentloop.ports import ToolAnswer, ToolCall
from agentloop.tools.binding import Bound, Prepared, prepare
from agentloop.tools.decorator import Tool, ToolOptions, tool
from agentloop.tools.results import MAX_BYTES
from agentloop.tools.signatures import Function, ToolContext
from agentloop.tools.threads import (
    AbandonedError,
    Job,
    Pool,
    RefusedError,
    Workers,
)
from agentloop.tools.waiting import Waited, wait_until
from agentloop.wire import WireError

if TYPE_CHECKING:
    import asyncio

__all__ = ["FunctionTools", "Tool", "ToolContext", "ToolOptions", "tool"]


class FunctionTools:
    """A `ToolServer` over Python functions. Shared by all threads.

    Args:
        tools: functions, plain or decorated with `@tool`; names must differ.
        max_bytes: cap on a result as JSON text.
        threads: how many functions with a limit may run at once; threads start
            when they are needed.

    Raises:
        MissingExtraError: the extra `tools` is not installed.
        TypeError: a function that cannot be a tool.
        ValueError: a name that is taken or that providers refuse.
    """

    keeps_time = True

    def __init__(
        self,
        tools: Iterable[Tool[..., object] | Function],
        *,
        max_bytes: int = MAX_BYTES,
        threads: int = 32,
    ) -> None:
        if max_bytes < 1 or threads < 1:
            raise ValueError(f"max_bytes={max_bytes}, threads={threads}: at least 1")
        self._tools: dict[str, Prepared] = {}
        for given in tools:
            prepared = prepare(given, max_bytes)
            if prepared.name in self._tools:
                raise ValueError(f"two tools are named '{prepared.name}'; rename one")
            self._tools[prepared.name] = prepared
        self._offers = tuple(prepared.offer for prepared in self._tools.values())
        self.quick = frozenset(
            name for name, found in self._tools.items() if found.options.inline
        )
        self._workers = Workers(threads)
        # Threads end with the last reference, also when nobody called `close`.
        weakref.finalize(self, self._workers.close).atexit = False
        self._tasks: set[asyncio.Task[ToolAnswer]] = set()

    def __repr__(self) -> str:
        return f"<FunctionTools {', '.join(self._tools) or 'of nothing'}>"

    def declared(self) -> tuple[Offer, ...]:
        """The tools, known without asking anyone."""
        return self._offers

    def discover(self, timeout: float) -> tuple[Offer, ...]:  # noqa: ARG002 # the port's
        """The tools; there is nothing to wait for."""
        return self._offers

    def call(self, call: ToolCall) -> ToolAnswer | Failure:
        """Run the function and wait for its answer; see the module for where."""
        bound = self._bind(call)
        if isinstance(bound, Failure):
            return bound
        if bound.tool.is_async:
            return self._on_portal(bound)
        if bound.tool.options.inline or bound.limit is None:
            return bound.run()
        return self._on_pool(bound, bound.limit)

    async def acall(self, call: ToolCall) -> ToolAnswer | Failure:
        """Run the function without blocking the running loop."""
        bound = self._bind(call)
        if isinstance(bound, Failure):
            return bound
        if bound.tool.options.inline:
            return bound.run()
        if not bound.tool.is_async:
            return await self._off_loop(bound)
        if bound.limit is None:
            return await bound.arun()
        return await self._on_loop(bound)

    @property
    def lost(self) -> int:
        """How many threads are held by functions that nobody waits for any more."""
        return self._workers.pool().lost

    def close(self) -> None:
        """Give back threads and loop; a later call would start them anew."""
        self._workers.close()

    def _bind(self, call: ToolCall) -> Bound | Failure:
        found = self._tools.get(call.name)
        if found is None:
            message = describe("UnknownTool", name=call.name[:200])
            return Failure(kind="unknown_tool", message=message)
        try:
            return found.bind(call)
        except WireError as error:
            message = describe("ToolValidation", name=call.name, problem=str(error))
            return Failure(kind="tool_validation", message=message)

    # ------------------------------------------------------------ where it runs

    def _on_pool(self, bound: Bound, limit: float) -> ToolAnswer | Failure:
        pool = self._workers.pool()
        job = pool.submit(bound.run)
        try:
            waited = wait_until(job.wait, limit, bound.abandoned)
        except BaseException:  # an interrupt while waiting
            pool.give_up(job)
            raise
        return _collect(pool, job, bound, waited)

    async def _off_loop(self, bound: Bound) -> ToolAnswer | Failure:
        import asyncio

        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def notify() -> None:
            try:
                loop.call_soon_threadsafe(over.set)
            except RuntimeError:  # the loop ended first: nobody waits any more
                return

        pool = self._workers.pool()
        job = pool.submit(bound.run, notify)
        try:
            async with asyncio.timeout(bound.limit):
                await over.wait()
        except TimeoutError:
            pass
        except BaseException:  # cancelled
            pool.give_up(job)
            raise
        return _collect(pool, job, bound)

    def _on_portal(self, bound: Bound) -> ToolAnswer | Failure:
        try:
            portal = self._workers.portal()
            return portal.run(bound.arun, bound.limit, bound.abandoned)
        except TimeoutError:
            return bound.late()
        except AbandonedError:
            return bound.given_up(started=True)
        except RefusedError as error:
            return bound.refused(error)

    async def _on_loop(self, bound: Bound) -> ToolAnswer | Failure:
        """Await with a limit that holds even if the function ignores its cancel."""
        import asyncio

        task = asyncio.get_running_loop().create_task(bound.arun())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait((task,), timeout=bound.limit)
        finally:
            over = task.done() or not task.cancel()
        return task.result() if over else bound.late()


def _collect(
    pool: Pool, job: Job, bound: Bound, waited: Waited = "late"
) -> ToolAnswer | Failure:
    """The answer of a job, or that of a job which is waited for no longer."""
    state = pool.give_up(job)
    if waited == "abandoned" and state != "over":
        return bound.given_up(started=state != "queued")
    match state:
        case "queued":
            return bound.unstarted()
        case "running" | "lost":
            return bound.late()
        case "over":
            return _result(job, bound)


def _result(job: Job, bound: Bound) -> ToolAnswer:
    try:
        return job.result()
    except RefusedError as error:
        return bound.refused(error)
