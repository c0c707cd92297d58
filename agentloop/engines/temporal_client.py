"""Starting and cancelling runs on Temporal, from code that is not asynchronous.

An engine's calls are made on an event loop of its own, on a thread that is started
with the first of them. Nothing here drives a run.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from functools import cache
from types import TracebackType
from typing import Any, Final, TypeVar

from attrs import field, fields_dict, frozen
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.converter import DataConverter, PayloadCodec
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)
from temporalio.service import RPCError

from agentloop.engines.temporal_texts import Order, TextPayloads, order_text
from agentloop.engines.temporal_workflow import WORKFLOW
from agentloop.ports import EngineUnavailableError, RunRef
from agentloop.runtime import checks

T = TypeVar("T")
_TASK: Final = timedelta(seconds=3)
"""How long a worker may think about what comes next, which takes milliseconds."""
SETTLE: Final = 0.1
"""Seconds between the last use of Temporal's core and the end of who used it.

A thread of the core may still be handing over its last answer; an interpreter that
ends in that moment aborts (seen with temporalio 1.35: one exit in five)."""


@frozen
class TemporalServer:
    """Where Temporal is, and what of it is ours.

    Attributes:
        address: host and port of the front end.
        namespace: of the workflows; it has to exist.
        task_queue: what joins those who start runs and those who drive them.
            Namespace and task queue are the place that a run belongs to for good: no
            worker of another place drives it.
        timeout: seconds that Temporal may take to answer.
        silence: seconds after which a worker that says nothing counts as dead, and
            its command is given to another.
        commands: how many commands of a run one history holds.
        codec: turns payloads into something else and back, to encrypt them.
        options: whatever else `temporalio.client.Client.connect` takes: `tls`,
            `api_key`, `runtime` and so on.

    Raises:
        TypeError: a value of another kind altogether.
        ValueError: a span that is not positive, or no command in a history.
    """

    address: str = "127.0.0.1:7233"
    namespace: str = "default"
    task_queue: str = "agentloop"
    timeout: float = 5.0
    silence: float = 5.0
    commands: int = 1000
    codec: PayloadCodec | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        checks.span("timeout", self.timeout)
        checks.span("silence", self.silence)
        checks.whole("commands", self.commands, 1)

    @classmethod
    def from_environment(
        cls, address: str | None = None, namespace: str | None = None, **choices: Any
    ) -> "TemporalServer":
        """A server as Temporal's own variables and configuration file describe it.

        Those are `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`,
        `TEMPORAL_TLS...`, and `temporal.toml`; what is given here comes first.
        """
        found: dict[str, Any] = {**ClientConfig.load_client_connect_config()}
        known = fields_dict(cls)
        return cls(
            address or found.pop("target_host", known["address"].default),
            namespace or found.pop("namespace", known["namespace"].default),
            options={
                name: value
                for name, value in found.items()
                if name not in {"target_host", "namespace"}
            },
            **choices,
        )

    @property
    def driver(self) -> str:
        """What the rows of its runs name as their driver: Temporal, and where on it."""
        return f"temporal:{self.namespace}/{self.task_queue}"

    def unavailable(self, error: BaseException) -> EngineUnavailableError:
        """The error that says what is wrong with it."""
        told = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            told = f"no answer within {self.timeout} s"
        return EngineUnavailableError(
            f"Temporal at {self.address}, namespace {self.namespace!r}: {told}"
        )


@cache
def _runtime() -> Runtime:
    """Temporal's core for this process; it logs as Python does, not to stdout."""
    forwarding = LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    levels = TelemetryFilter(core_level="WARN", other_level="ERROR")
    telemetry = TelemetryConfig(
        logging=LoggingConfig(filter=levels, forwarding=forwarding)
    )
    return Runtime(telemetry=telemetry)


async def connect(server: TemporalServer, *, lazy: bool = False) -> Client:
    """A client of a server; a lazy one connects when it is first used.

    Raises:
        EngineUnavailableError: there is no answer, or no such namespace.
    """
    converter = DataConverter(
        payload_converter_class=TextPayloads, payload_codec=server.codec
    )
    ours = {"data_converter": converter, "lazy": lazy}
    options = {"runtime": None, **server.options, **ours}
    options["runtime"] = options["runtime"] or _runtime()
    try:
        async with asyncio.timeout(server.timeout):
            client = await Client.connect(
                server.address, namespace=server.namespace, **options
            )
            if not lazy:
                asked = DescribeNamespaceRequest(namespace=server.namespace)
                await client.workflow_service.describe_namespace(asked)
            return client
    except (RPCError, RuntimeError, TimeoutError) as error:
        raise server.unavailable(error) from None


async def start(
    client: Client, server: TemporalServer, run: RunRef, signal: str | None = None
) -> None:
    """Have a run driven; of one that is driven or was driven to its end, nothing.

    A workflow that somebody terminated is begun again: the run is not over yet. With
    a `signal` a workflow gets it that is there or is made now.

    Raises:
        EngineUnavailableError: Temporal did not acknowledge.
    """
    try:
        async with asyncio.timeout(server.timeout):
            await client.start_workflow(
                WORKFLOW,
                order_text(Order(run, server.commands, server.silence)),
                id=run.run_id,
                task_queue=server.task_queue,
                task_timeout=_TASK,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal=signal,
            )
    except WorkflowAlreadyStartedError:
        return
    except (RPCError, RuntimeError, TimeoutError) as error:
        raise server.unavailable(error) from None


class Portal:
    """An event loop on a thread of its own, for calls from anywhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a coroutine returns or raises, which is made and run over there.

        Raises:
            RuntimeError: the portal was closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed; make a new one")
            loop = self._loop or self._open()
            answer = asyncio.run_coroutine_threadsafe(work(), loop)
        return answer.result()

    def close(self) -> None:
        """Let the thread go; calls that are under way get their answers first."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_last(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _open(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=loop.run_forever, name="agentloop-temporal", daemon=True
        )
        self._thread.start()
        return loop


async def _last() -> None:
    """Wait for every other task of this loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(SETTLE)


class TemporalEngine:
    """Starts and cancels runs on Temporal; `TemporalWorker` drives them.

    Give it to `AgentLoop(engine=...)`. It connects when it is first used, and again
    whenever the server was away. Close it, or use it as a context manager.
    """

    def __init__(self, server: TemporalServer | None = None) -> None:
        self.server = server or TemporalServer()
        self._portal = Portal()
        self._client: Client | None = None

    @property
    def name(self) -> str:
        """What the rows of its runs name as their driver."""
        return self.server.driver

    def start(self, run: RunRef) -> None:
        """Have a run driven. Of a run that was started already nothing changes.

        Raises:
            EngineUnavailableError: Temporal did not acknowledge in time.
        """
        self._portal.call(lambda: self._start(run, None))

    def cancel(self, run: RunRef) -> None:
        """Wake a run that waits. One whose workflow is gone is ended by a new one.

        Raises:
            EngineUnavailableError: Temporal did not acknowledge in time.
        """
        self._portal.call(lambda: self._start(run, "cancel"))

    def close(self) -> None:
        """Stop the thread of this engine."""
        self._portal.close()

    def __enter__(self) -> "TemporalEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _start(self, run: RunRef, signal: str | None) -> None:
        client = self._client = self._client or await connect(self.server, lazy=True)
        await start(client, self.server, run, signal)
