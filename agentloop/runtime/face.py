"""The synchronous face of the library: `AgentLoop`.

Every method takes the caller's scope; values come back as frozen attrs classes
and go in as such or as plain dicts in the contract's JSON shape. Constructing a
loop starts no thread and opens no connection.
"""

import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attrs import evolve

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
    ServerDirectory,
    Store,
)
from agentloop.runtime import checks, requests
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
from agentloop.runtime.prepare import Resources, close_servers
from agentloop.runtime.pulse import Pulse
from agentloop.runtime.requests import Said
from agentloop.runtime.runner import Runner
from agentloop.runtime.service import Service
from agentloop.runtime.starting import CHOICE_CHECK_TIMEOUT

if TYPE_CHECKING:
    from agentloop.runtime.rounds import Rounds
    from agentloop.runtime.watch import Watch
    from agentloop.runtime.worker import Worker

log = logging.getLogger("agentloop")
POLL = 0.25
"""Seconds between looks at a run that another process drives."""


class AgentLoop:
    """Runs agent loops over a backend, a store and tools that the host supplies.

    Args:
        backend: the model provider for every run without a data plane of its own.
        store: where conversations and runs are kept; in memory when left out.
        tools: host tools by alias: a list of functions, or a `ToolServer`, which is
            the loop's from now on: closed with it, and not to be shared with another.
        backends: further backends by `data_plane_id`, or a function that chooses
            one for an effective config and raises `RequestError` to refuse. With a
            table, an id that is not in it is refused when a run starts; without one
            there is a single data plane, and its id in a config is a label.
        mcp: reaches the MCP servers that configs name by URL; when left out, a
            directory that reaches public addresses over https only.
        engine: drives the runs that are started here, by workers of its own; when
            left out, they are driven here.
        observer: called with every event of every run.
        ids: where new ids come from.
        clock: where the time is read.
        choices: the fields of `agentloop.Options`.

    Raises:
        ValueError: no backend, an alias that breaks the alias rule, or a value that
            an option cannot have.
        TypeError: a part of the wrong kind, or an option that does not exist.
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
        self._pool = ThreadPoolExecutor(options.tool_slots, "agentloop-tool")
        self._pulse = Pulse(resources.store, options.lease)
        self._runner = Runner(resources, self._hub, clock, self._pulse, self._pool)
        self._workers: list[Worker] = []
        self._threads: set[threading.Thread] = set()
        self._closed = False

    # ------------------------------------------------------------ conversations

    def create_conversation(
        self,
        request: NewConversation | Mapping[str, Any] | None = None,
        *,
        scope: Scope,
        **fields: Any,
    ) -> Conversation:
        """Create a conversation (contract section 2.1).

        Give the request as one value or its fields by name: `defaults` (needed,
        with at least a `model`), `name`, `system_prompt`.

        Raises:
            RequestError: 400, nothing was written.
        """
        body = requests.conversation_body(request, fields)
        return self._service.create_conversation(body, scope)

    def get_conversation(self, conversation_id: str, *, scope: Scope) -> Conversation:
        """A conversation by id.

        Raises:
            RequestError: 404 `conversation-not-found`.
        """
        return self._service.get_conversation(conversation_id, scope)

    def list_conversations(
        self, *, scope: Scope, page: int = 1, per_page: int = 50
    ) -> Page:
        """The caller's own conversations, newest first.

        Raises:
            RequestError: 400 for a page below 1 or a size outside 1 to 200.
        """
        return self._service.list_conversations(scope, page, per_page)

    def delete_conversation(self, conversation_id: str, *, scope: Scope) -> None:
        """Remove a conversation with its runs, messages, jobs and events.

        Raises:
            RequestError: 404 `conversation-not-found`.
        """
        self._service.delete_conversation(conversation_id, scope)

    def prune(self, before: datetime) -> int:
        """Remove the runs of all scopes that ended before an instant; how many.

        With a run go its jobs, attempts, events and key, which may then be used
        again. What joined a conversation stays. No run goes within a day after its
        end, so that a request that is repeated within the day finds its run.

        Raises:
            ValueError: `before` says nothing of its time zone.
        """
        return self._service.store.prune(before.isoformat())

    def messages(
        self, conversation_id: str, *, scope: Scope, since: int = 0
    ) -> MessageDelta:
        """The messages after version `since`, and the current version.

        Raises:
            RequestError: 404 `conversation-not-found`, 400 for a negative number.
        """
        return self._service.messages(conversation_id, since, scope)

    # ------------------------------------------------------------ runs

    def start_run(
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
        """Start a run and return it `pending`; a worker or `wait` drives it.

        Args:
            conversation_id: the conversation to continue.
            payload: a text, a payload value, or its JSON form.
            scope: whose call this is.
            client_op_id: idempotency key, a uuid; a fresh one when left out. The
                same key on the same conversation returns the first run unchanged.
            expected_version: the version the caller has seen; the current one
                when left out.
            tool_choice: for the first iteration only (contract section 4.3).
            config_override: fields that differ from the conversation's defaults.

        Raises:
            RequestError: the documented refusals, in the documented order.
        """
        if expected_version is None:
            expected_version = self._service.version(conversation_id, scope)
        key = self._ids.new() if client_op_id is None else client_op_id
        body = requests.run_body(
            payload, key, expected_version, tool_choice, config_override
        )
        return self.submit_run(conversation_id, body, scope=scope)[0]

    def submit_run(
        self,
        conversation_id: str,
        body: Mapping[str, Any],
        *,
        scope: Scope,
        replaced: int = 0,
        patience: float = CHOICE_CHECK_TIMEOUT,
    ) -> tuple[Run, bool]:
        """Start a run from a request body as it came over the wire.

        Returns the run, and whether it is new: False for a replayed key. `replaced`
        is how many characters `agentloop.wire.parse` replaced in the body. A server
        that a tool choice depends on is asked for `patience` seconds at most.

        Raises:
            RequestError: the documented refusals, in the documented order.
        """
        self._check_open()
        run, created = self._service.start_run(
            conversation_id, body, scope, replaced=replaced, patience=patience
        )
        if not run.terminal:
            for worker in self._workers:
                worker.hint()
        return run, created

    def run(
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
        """Start a run, drive it here, and return it ended.

        Takes what `start_run` takes. The run may end `completed`,
        `requires_action` or `failed`; none of them raises.

        Raises:
            RequestError: the run was refused and nothing was written.
            StoreUnavailableError: the store stayed away; `wait` goes on later.
        """
        run = self.start_run(
            conversation_id,
            payload,
            scope=scope,
            client_op_id=client_op_id,
            expected_version=expected_version,
            tool_choice=tool_choice,
            config_override=config_override,
        )
        return self.wait(run.id, scope=scope)

    def resume(
        self, run: Run | str, outputs: Mapping[str, Any], *, scope: Scope, **start: Any
    ) -> Run:
        """Answer the calls a run paused on, and drive the run that follows.

        Args:
            run: the run that ended `requires_action`, or its id.
            outputs: by `tool_use_id`, or by tool name where that is unambiguous:
                a text, any JSON value, or a `ToolResult`.
            scope: whose call this is.
            start: further arguments of `start_run`.

        Raises:
            RequestError: the outputs do not answer exactly the pending calls.
        """
        paused = run if isinstance(run, Run) else self.get_run(run, scope=scope)
        payload = requests.tool_outputs(paused, outputs)
        return self.run(paused.conversation_id, payload, scope=scope, **start)

    def rebase_and_retry(self, run: Run | str, *, scope: Scope) -> Run:
        """Run again what a run asked for, on the conversation as it is now.

        For a run that ended `AgentLoopConcurrentConversationAppend`: its payload,
        tool choice and config, under a new key and the current version.

        Raises:
            RequestError: the run is unknown or has not ended, or what it asked
                for no longer fits the conversation.
        """
        run_id = run.id if isinstance(run, Run) else run
        again = self._service.request_of(run_id, scope)
        return self.run(again.conversation_id, scope=scope, **again.start)

    def wait(self, run_id: str, *, scope: Scope, timeout: float | None = None) -> Run:
        """The run once it has ended; drives it here when nobody else does.

        Raises:
            RequestError: 404 `agent-run-not-found`.
            TimeoutError: it has not ended within `timeout` seconds; it goes on.
            RuntimeError: the loop was closed, and the run is given back.
        """
        self._check_open()
        if timeout is not None:
            checks.number("timeout", timeout)
        if timeout is None and (claim := self._claim_if_due(run_id, scope)):
            with suppress(LeaseLostError):  # then another worker is waited for
                if (row := self._runner.run(claim)) is not None:
                    return self._service.shown(row)
        ended = threading.Event()

        def listen(event: RunEvent) -> None:
            if event.kind == "terminal":
                ended.set()

        left = timeout
        with self._hub.listening(run_id, listen):
            while not (run := self.get_run(run_id, scope=scope)).terminal:
                self._check_open()
                if left is not None and left <= 0:
                    raise TimeoutError(f"run {run_id} has not ended in {timeout} s")
                self._drive_in_background(run_id)
                span = POLL if left is None else min(POLL, left)
                ended.wait(span)
                left = None if left is None else left - span
        return run

    def get_run(self, run_id: str, *, scope: Scope) -> Run:
        """A run as it stands.

        Raises:
            RequestError: 404 `agent-run-not-found`.
        """
        return self._service.get_run(run_id, scope)

    def list_runs(self, conversation_id: str, *, scope: Scope) -> tuple[Run, ...]:
        """The runs of a conversation, oldest first.

        Raises:
            RequestError: 404 `conversation-not-found`.
        """
        return self._service.list_runs(conversation_id, scope)

    def cancel_run(self, run_id: str, *, scope: Scope) -> Run:
        """Ask a run to end as `AgentLoopCancelled`; return it as it stands.

        A run that waits, or that nobody drives, ends at once; one inside an
        inference ends with it. A run that has ended is returned unchanged.

        Raises:
            RequestError: 404 `agent-run-not-found`.
        """
        row = self._service.request_cancel(run_id, scope)
        if row.result is None:
            self._runner.cancel(run_id)
        return self._service.get_run(run_id, scope)

    # ------------------------------------------------------------ looking closer

    def inference_job(self, job_id: str, *, scope: Scope) -> InferenceJob:
        """An inference job with its attempts, exact request and response.

        Raises:
            RequestError: 404 `inference-job-not-found`.
        """
        return self._service.inference_job(job_id, scope)

    def list_jobs(self, run_id: str, *, scope: Scope) -> tuple[InferenceJob, ...]:
        """The inference jobs of a run by iteration.

        Raises:
            RequestError: 404 `agent-run-not-found`.
        """
        return self._service.list_jobs(run_id, scope)

    def events(
        self, run_id: str, *, scope: Scope, after: int = 0
    ) -> Iterator[RunEvent]:
        """The events of a run after an id, live until its terminal event.

        Events that happened already come first; text deltas come only while one
        listens. When nobody drives the run, a thread of this loop does. Closing
        the iterator does not end the run.

        Raises:
            RequestError: 404 `agent-run-not-found`.
        """
        self._service.row(run_id, scope)
        return self._follow(run_id, scope, after)

    def stream(
        self, conversation_id: str, payload: Said, *, scope: Scope, **start: Any
    ) -> Iterator[RunEvent]:
        """Start a run and yield its events as they happen.

        Takes what `start_run` takes. The last event is `terminal`; its data hold
        `status`. `agentloop.AgentLoop.events` follows a run by its id instead.

        Raises:
            RequestError: the run was refused and nothing was written.
        """
        run = self.start_run(conversation_id, payload, scope=scope, **start)
        return self._follow(run.id, scope, 0)

    @property
    def watch(self) -> "Watch":
        """The outside view of this loop, for whoever serves it to others."""
        from agentloop.runtime.watch import Watch  # only servers ask for one

        return Watch(self._service, self._hub, self._workers)

    # ------------------------------------------------------------ background

    @contextmanager
    def worker(self, n: int = 4, *, poll: float = 0.25) -> "Iterator[Worker]":
        """Drive started runs on `n` threads while the block runs.

        Also picks up runs of other processes and those whose worker died, looking
        every `poll` seconds. Leaving the block gives runs back cleanly.
        """
        self._check_open()
        from agentloop.runtime.worker import Worker  # only who serves asks for them

        worker = Worker(self._runner, n, poll)
        self._workers.append(worker)
        try:
            with worker:
                yield worker
        finally:
            self._workers.remove(worker)

    def rounds(self, driver: str) -> "Rounds":
        """Takes the runs of an engine forward, for the workers of that engine.

        `driver` is the engine's name, as its runs' rows say it.
        """
        self._check_open()
        from agentloop.runtime.rounds import Rounds  # only engines ask for them

        return Rounds(evolve(self._runner, driver=driver))

    def close(self) -> None:
        """Stop every thread of this loop, and close its tool servers.

        Stores and clients stay the host's.

        Nothing new is begun: each run under way, also one that another thread drives
        by `run`, is given back when the inference or the calls that it is inside of
        have ended and are stored. Whoever waits for it is told that the loop is
        closed. Not for use within a tool, which would be waited for.
        """
        self._closed = True
        with ExitStack() as stack:
            stack.callback(close_servers, self._service.resources.servers.values())
            stack.callback(self._pool.shutdown, wait=False)
            stack.callback(self._pulse.close)
            for worker in tuple(self._workers):
                stack.callback(worker.stop)
                worker.stop(0.0)  # it must not claim again what is given back
            self._pulse.end()
            for thread in self._threads - {threading.current_thread()}:
                thread.join()

    def __enter__(self) -> "AgentLoop":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return in_words("AgentLoop", self._service.resources, state)

    # ------------------------------------------------------------ inside

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the loop is closed; make a new one over its store")

    def _claim_if_due(self, run_id: str, scope: Scope) -> Any:
        if self._service.row(run_id, scope).result is not None:
            return None
        return self._runner.claim(run_id)

    def _drive_in_background(self, run_id: str) -> None:
        """Have a thread of this loop drive a run that nobody drives."""
        if self._closed or (claim := self._runner.claim(run_id)) is None:
            return

        def work() -> None:
            try:
                self._runner.run(claim)
            except LeaseLostError:
                return
            except BaseException:
                about = {"run_id": run_id}
                told = "driving run %s ended; it is due again"
                log.exception(told, run_id, extra=about)
            finally:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=work, name=f"agentloop-{run_id}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _follow(self, run_id: str, scope: Scope, after: int) -> Iterator[RunEvent]:
        live: queue.SimpleQueue[RunEvent] = queue.SimpleQueue()
        from agentloop.runtime.follow import Cursor  # only followers ask for it

        cursor = Cursor(after)
        with self._hub.listening(run_id, live.put):
            over = False
            while cursor.more() and not over:
                over = self._service.row(run_id, scope).result is not None
                stored = self._service.events(run_id, cursor.after, scope)
                yield from cursor.fresh(stored)
                if cursor.more() and not over:
                    self._check_open()
                    self._drive_in_background(run_id)
                    yield from cursor.fresh(cursor.gapless(_until_quiet(live)))


def _until_quiet(live: "queue.SimpleQueue[RunEvent]") -> Iterator[RunEvent]:
    while True:
        try:
            yield live.get(timeout=POLL)
        except queue.Empty:
            return
