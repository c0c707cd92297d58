"""A host with Temporal: what starts runs, what drives them, and what was recorded."""

import asyncio
import threading
import uuid
from typing import Any, TypeVar

from attrs import define, evolve, field
from temporalio.client import Client, WorkflowHistory

from agentloop import AgentLoop, FunctionTools, Run, Scope, tool
from agentloop.engines.temporal import (
    TemporalEngine,
    TemporalServer,
    TemporalWorker,
)
from agentloop.engines.temporal_client import connect
from agentloop.ports import Store
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import ScriptedBackend
from tests.temporal_place import payloads_of
from tests.temporal_server import running

ME = Scope(1, 407)
PATIENCE = 60.0
T = TypeVar("T")


def server_here(**choices: Any) -> TemporalServer:
    """The shared server, with a task queue of its own."""
    return TemporalServer(
        running().address,
        task_queue=f"test-{uuid.uuid4()}",
        **{"silence": 1.0, **choices},
    )


@define
class World:
    """One store, a loop that starts runs on Temporal and lends itself to workers."""

    model: ScriptedBackend
    server: TemporalServer = field(factory=server_here)
    store: Store = field(factory=MemoryStore)
    choices: dict[str, Any] = field(factory=dict)
    paid: list[int] = field(factory=list)
    engine: TemporalEngine = field(init=False)
    loop: AgentLoop = field(init=False)

    def __attrs_post_init__(self) -> None:
        @tool
        def pay(amount: int = 1, size: int = 0) -> str:
            """Pay."""
            self.paid.append(amount)
            return "canary" * (size // 6)

        self.engine = TemporalEngine(self.server)
        self.loop = AgentLoop(
            self.model,
            self.store,
            {"shop": FunctionTools([pay], max_bytes=8_000_000)},
            engine=self.engine,
            **{"lease": 1.0, **self.choices},
        )

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.close()
        self.engine.close()

    def worker(self, **choices: Any) -> TemporalWorker:
        return TemporalWorker(self.loop, self.server, **choices)

    def converse(self, **defaults: Any) -> str:
        chosen = {"model": "any", **defaults}
        return self.loop.create_conversation(defaults=chosen, scope=ME).id

    def start(self, said: str = "go", **defaults: Any) -> Run:
        return self.loop.start_run(self.converse(**defaults), said, scope=ME)

    def ended(self, run: Run) -> Run:
        return self.loop.wait(run.id, timeout=PATIENCE, scope=ME)

    # ------------------------------------------------------------ looking at Temporal

    def ask(self, run: Run) -> "Asking":
        """What Temporal knows of a run."""
        return Asking(self.server, run.id)


@define
class Asking:
    """Questions about one workflow, each by a client of its own."""

    server: TemporalServer
    id: str

    def query(self) -> str:
        async def asked(client: Client) -> str:
            return await client.get_workflow_handle(self.id).query(
                "standing", result_type=str
            )

        return _with_client(self.server, asked)

    def terminate(self) -> None:
        async def asked(client: Client) -> None:
            await client.get_workflow_handle(self.id).terminate("by a test")

        _with_client(self.server, asked)

    def result(self) -> str:
        async def asked(client: Client) -> str:
            handle = client.get_workflow_handle(self.id, result_type=str)
            async with asyncio.timeout(PATIENCE):
                return str(await handle.result())

        return _with_client(self.server, asked)

    def histories(self) -> list[WorkflowHistory]:
        """What was recorded, one for each continuation, the first one first."""

        async def asked(client: Client) -> list[WorkflowHistory]:
            found: list[WorkflowHistory] = []
            run_id = (await client.get_workflow_handle(self.id).describe()).run_id
            while run_id:
                handle = client.get_workflow_handle(self.id, run_id=run_id)
                found.insert(0, await handle.fetch_history())
                begun = found[0].events[0].workflow_execution_started_event_attributes
                run_id = begun.continued_execution_run_id
            return found

        # As they are on the wire: a codec would turn them into clear text.
        return _with_client(evolve(self.server, codec=None), asked)


def payloads(histories: list[WorkflowHistory]) -> list[bytes]:
    """The data of every payload in some histories."""
    found: list[bytes] = []
    for history in histories:
        found += payloads_of(history.to_json_dict())
    return found


def _with_client(server: TemporalServer, work: Any) -> Any:
    async def asked() -> Any:
        return await work(await connect(server))

    return asyncio.run(asked())


class Gate:
    """A model's answer that comes when it is let through."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_by(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE)
