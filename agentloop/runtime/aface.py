"""The asynchronous face of the library: `AsyncAgentLoop`.

The same methods as `agentloop.runtime.face.AgentLoop`, with `await`; what they
take, return and raise is described there. One loop belongs to one event loop.
Store calls that may block run on threads, so the event loop never waits for them.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any

from agentloop.core.request import NewConversation
from agentloop.core.run import (
    Conversation,
    InferenceJob,
    MessageDelta,
    Page,
    Run,
    RunEvent,
    Scope,
)
from agentloop.ports import (
    Backend,
    Clock,
    Engine,
    Ids,
    LeaseLostError,
    Observer,
    RunRow,
    ServerDirectory,
    Store,
)
from agentloop.runtime import checks, requests
from agentloop.runtime.arunner import AsyncRunner, StoreThreads, Threads
from agentloop.runtime.assembly import (
    Backends,
    Tools,
    chooser,
    clock_of,
    directory_of,
    engine_of,
    hub_of,
    ids_of,
    in_words,
    options_of,
    store_of,
    tool_servers,
)
from agentloop.runtime.aworker import AsyncWorker
from agentloop.runtime.choices import Choices, may_ask
from agentloop.runtime.follow import Cursor
from agentloop.runtime.prepare import Resources, close_servers
from agentloop.runtime.requests import Said
from agentloop.runtime.service import Service
from agentloop.runtime.watch import Watch

log = logging.getLogger("agentloop")
POLL = 0.25
"""Seconds between looks at a run that another process drives."""
STORE_THREADS = 16
"""How many store calls of the runs that are driven may be under way at once, and as
many of the callers': who starts a run must not wait behind commits that wait for a
store to come back."""


class AsyncAgentLoop:
    """Runs agent loops on an event loop; takes what `AgentLoop` takes.

    `in_flight` bounds the inferences of backends that cannot be awaited, and
    `tool_slots` the calls of tools that cannot.
    """

    def __init__(
        self,
        backend: Backend | None = None,
        store: Store | None = None,
        tools: Tools | None = None,
        *,
        backends: Backends | None = None,
        mcp: ServerDirectory | None = None,
        engine: Engine | None = None,
        observer: Observer | None = None,
        ids: Ids | None = None,
        clock: Clock | None = None,
        **choices: Any,
    ) -> None:
        options = options_of(choices)
        clock = clock_of(clock)
        resources = Resources(
            store=store_of(store),
            choose_backend=chooser(backend, backends),
            servers=tool_servers(tools),
            directory=directory_of(mcp),
            options=options,
            engine=engine_of(engine),
        )
        self._ids = ids_of(ids)
        self._service = Service(resources, self._ids)
        self._hub = hub_of(observer)
        self._pools: list[ThreadPoolExecutor] = []
        pool = self._pool
        threads = Threads(
            inferences=pool(options.in_flight, "inference"),
            tools=pool(options.tool_slots, "tool"),
            errands=pool(options.in_flight, "errand"),
        )
        self._call = StoreThreads(resources, pool(STORE_THREADS, "call"))
        driving = StoreThreads(resources, pool(STORE_THREADS, "store"))
        self._choices = Choices()
        self._runner = AsyncRunner(resources, self._hub, clock, driving, threads)
        self._workers: list[AsyncWorker] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    # ------------------------------------------------------------ conversations

    async def create_conversation(
        self,
        request: NewConversation | Mapping[str, Any] | None = None,
        *,
        scope: Scope,
        **fields: Any,
    ) -> Conversation:
        """Create a conversation; see `AgentLoop.create_conversation`."""
        body = requests.conversation_body(request, fields)
        return await self._call(self._service.create_conversation, body, scope)

    async def get_conversation(
        self, conversation_id: str, *, scope: Scope
    ) -> Conversation:
        """A conversation by id; see `AgentLoop.get_conversation`."""
        get = self._service.get_conversation
        return await self._call(get, conversation_id, scope)

    async def list_conversations(
        self, *, scope: Scope, page: int = 1, per_page: int = 50
    ) -> Page:
        """The caller's own conversations; see `AgentLoop.list_conversations`."""
        list_ = self._service.list_conversations
        return await self._call(list_, scope, page, per_page)

    async def delete_conversation(self, conversation_id: str, *, scope: Scope) -> None:
        """Remove a conversation; see `AgentLoop.delete_conversation`."""
        delete = self._service.delete_conversation
        await self._call(delete, conversation_id, scope)

    async def prune(self, before: datetime) -> int:
        """Remove old runs; see `AgentLoop.prune`."""
        return await self._call(self._service.store.prune, before.isoformat())

    async def messages(
        self, conversation_id: str, *, scope: Scope, since: int = 0
    ) -> MessageDelta:
        """The messages after a version; see `AgentLoop.messages`."""
        messages = self._service.messages
        return await self._call(messages, conversation_id, since, scope)

    # ------------------------------------------------------------ runs

    async def start_run(
        self,
        conversation_id: str,
        payload: Said,
        *,
        scope: Scope,
        client_op_id: str | None = None,
        expected_version: int | None = None,
        tool_choice: Any = None,
        config_override: Any = None,
    ) -> Run:
        """Start a run and return it `pending`; see `AgentLoop.start_run`."""
        if expected_version is None:
            version = self._service.version
            expected_version = await self._call(version, conversation_id, scope)
        key = self._ids.new() if client_op_id is None else client_op_id
        body = requests.run_body(
            payload, key, expected_version, tool_choice, config_override
        )
        return (await self.submit_run(conversation_id, body, scope=scope))[0]

    async def submit_run(
        self,
        conversation_id: str,
        body: Mapping[str, Any],
        *,
        scope: Scope,
        replaced: int = 0,
    ) -> tuple[Run, bool]:
        """Start a run from a request body; see `AgentLoop.submit_run`."""
        self._check_open()
        start = partial(
            self._service.start_run, conversation_id, body, scope, replaced=replaced
        )
        if may_ask(body):
            run, created = await self._choices.start(lambda left: start(patience=left))
        else:
            run, created = await self._call(start)
        if not run.terminal:
            for worker in self._workers:
                worker.hint()
        return run, created

    async def run(
        self,
        conversation_id: str,
        payload: Said,
        *,
        scope: Scope,
        client_op_id: str | None = None,
        expected_version: int | None = None,
        tool_choice: Any = None,
        config_override: Any = None,
    ) -> Run:
        """Start a run, drive it here, and return it ended; see `AgentLoop.run`."""
        run = await self.start_run(
            conversation_id,
            payload,
            scope=scope,
            client_op_id=client_op_id,
            expected_version=expected_version,
            tool_choice=tool_choice,
            config_override=config_override,
        )
        return await self.wait(run.id, scope=scope)

    async def resume(
        self, run: Run | str, outputs: Mapping[str, Any], *, scope: Scope, **start: Any
    ) -> Run:
        """Answer the calls a run paused on; see `AgentLoop.resume`."""
        paused = run if isinstance(run, Run) else await self.get_run(run, scope=scope)
        payload = requests.tool_outputs(paused, outputs)
        return await self.run(paused.conversation_id, payload, scope=scope, **start)

    async def rebase_and_retry(self, run: Run | str, *, scope: Scope) -> Run:
        """Ask again on the conversation as it is; see `AgentLoop.rebase_and_retry`."""
        run_id = run.id if isinstance(run, Run) else run
        again = await self._call(self._service.request_of, run_id, scope)
        return await self.run(again.conversation_id, scope=scope, **again.start)

    async def wait(
        self, run_id: str, *, scope: Scope, timeout: float | None = None
    ) -> Run:
        """The run once it has ended; see `AgentLoop.wait`."""
        self._check_open()
        if timeout is not None:
            checks.number("timeout", timeout)
        elif (row := await self._drive_here(run_id, scope)) is not None:
            return await self._call(self._service.shown, row)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._ended(run_id, scope)
        except TimeoutError:
            if not limit.expired():
                raise
            late = f"run {run_id} has not ended in {timeout} s"
            raise TimeoutError(late) from None

    async def get_run(self, run_id: str, *, scope: Scope) -> Run:
        """A run as it stands; see `AgentLoop.get_run`."""
        return await self._call(self._service.get_run, run_id, scope)

    async def list_runs(self, conversation_id: str, *, scope: Scope) -> tuple[Run, ...]:
        """The runs of a conversation; see `AgentLoop.list_runs`."""
        list_ = self._service.list_runs
        return await self._call(list_, conversation_id, scope)

    async def cancel_run(self, run_id: str, *, scope: Scope) -> Run:
        """Ask a run to end as cancelled; see `AgentLoop.cancel_run`.

        A run that this loop drives ends at once, also inside an inference.
        """
        cancel = self._service.request_cancel
        row = await self._call(cancel, run_id, scope)
        if row.result is None:
            await self._runner.cancel(run_id)
        return await self.get_run(run_id, scope=scope)

    # ------------------------------------------------------------ looking closer

    async def inference_job(self, job_id: str, *, scope: Scope) -> InferenceJob:
        """An inference job; see `AgentLoop.inference_job`."""
        return await self._call(self._service.inference_job, job_id, scope)

    async def list_jobs(self, run_id: str, *, scope: Scope) -> tuple[InferenceJob, ...]:
        """The inference jobs of a run; see `AgentLoop.list_jobs`."""
        return await self._call(self._service.list_jobs, run_id, scope)

    async def events(
        self, run_id: str, *, scope: Scope, after: int = 0
    ) -> AsyncGenerator[RunEvent, None]:
        """The events of a run after an id, live; see `AgentLoop.events`."""
        await self._call(self._service.row, run_id, scope)
        cursor = Cursor(after)
        live: asyncio.Queue[RunEvent] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def listen(event: RunEvent) -> None:
            loop.call_soon_threadsafe(live.put_nowait, event)

        with self._hub.listening(run_id, listen):
            async for batch in self._batches(run_id, scope, cursor, live):
                for event in cursor.fresh(batch):
                    yield event

    async def stream(
        self, conversation_id: str, payload: Said, *, scope: Scope, **start: Any
    ) -> AsyncGenerator[RunEvent, None]:
        """Start a run and yield its events; see `AgentLoop.stream`.

        Unlike there, nothing is started before the first event is asked for: this
        is an asynchronous generator, and what was refused is raised there as well.
        """
        run = await self.start_run(conversation_id, payload, scope=scope, **start)
        async for event in self.events(run.id, scope=scope):
            yield event

    @property
    def watch(self) -> Watch:
        """The outside view of this loop, for whoever serves it to others."""
        return Watch(self._service, self._hub, self._workers)

    # ------------------------------------------------------------ background

    @asynccontextmanager
    async def worker(
        self, n: int = 64, *, poll: float = 0.25
    ) -> AsyncIterator[AsyncWorker]:
        """Drive started runs, up to `n` at once; see `AgentLoop.worker`."""
        self._check_open()
        worker = AsyncWorker(self._runner, n, poll)
        worker.start()
        self._workers.append(worker)
        try:
            yield worker
        finally:
            self._workers.remove(worker)
            await worker.stop()

    async def close(self) -> None:
        """Stop every task and thread of this loop; see `AgentLoop.close`."""
        self._closed = True
        try:
            for worker in tuple(self._workers):
                await worker.stop(0.0)  # it must not claim again what is given back
            await self._runner.pulse.end()
            for worker in tuple(self._workers):
                await worker.stop()
            tasks = set(self._tasks.values()) - {asyncio.current_task()}
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            close_servers(self._service.resources.servers.values())
            for pool in self._pools:
                pool.shutdown(wait=False)
            self._choices.close()

    async def __aenter__(self) -> "AsyncAgentLoop":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return in_words("AsyncAgentLoop", self._service.resources, state)

    # ------------------------------------------------------------ inside

    def _pool(self, size: int, what: str) -> ThreadPoolExecutor:
        """Threads that end when the loop is closed."""
        self._pools.append(ThreadPoolExecutor(size, f"agentloop-{what}"))
        return self._pools[-1]

    async def _ended(self, run_id: str, scope: Scope) -> Run:
        """The run once it has ended; drives it when nobody else does."""
        while not (run := await self.get_run(run_id, scope=scope)).terminal:
            self._check_open()
            await self._drive_in_background(run_id)
            if (task := self._tasks.get(run_id)) is None:
                await asyncio.sleep(POLL)
            else:
                await asyncio.wait([task], timeout=POLL)
        return run

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the loop is closed; make a new one over its store")

    async def _batches(
        self, run_id: str, scope: Scope, cursor: Cursor, live: "asyncio.Queue[RunEvent]"
    ) -> AsyncIterator[Iterable[RunEvent]]:
        """What is stored, then what comes live, by turns."""
        over = False
        while cursor.more() and not over:
            row = await self._call(self._service.row, run_id, scope)
            over = row.result is not None
            yield await self._call(self._service.events, run_id, cursor.after, scope)
            if cursor.more() and not over:
                self._check_open()
                await self._drive_in_background(run_id)
            while not over and cursor.more() and (batch := await _next(live)):
                if any(map(cursor.misses, batch)):
                    break  # what is missing is in the store, and so is this
                yield batch

    async def _drive_here(self, run_id: str, scope: Scope) -> RunRow | None:
        """The run once it was driven here to its end, if it was."""
        row = await self._call(self._service.row, run_id, scope)
        if row.result is None and (claim := await self._runner.claim(run_id)):
            with suppress(LeaseLostError):  # then another worker is waited for
                return await self._runner.run(claim)
        return None

    async def _drive_in_background(self, run_id: str) -> None:
        """Have a task of this loop drive a run that nobody drives."""
        if self._closed or run_id in self._tasks:
            return
        claim = await self._runner.claim(run_id)
        if claim is None:
            return

        async def work() -> None:
            try:
                with suppress(LeaseLostError):
                    await self._runner.run(claim)
            except Exception:
                about = {"run_id": run_id}
                told = "driving run %s ended; it is due again"
                log.exception(told, run_id, extra=about)
            finally:
                del self._tasks[run_id]

        self._tasks[run_id] = asyncio.create_task(work())


async def _next(live: "asyncio.Queue[RunEvent]") -> list[RunEvent]:
    """What comes within a while; empty when nothing does."""
    try:
        async with asyncio.timeout(POLL):
            return [await live.get()]
    except TimeoutError:
        return []
