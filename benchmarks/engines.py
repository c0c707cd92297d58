"""What an engine costs: `python -m benchmarks.engines`.

Runs of twelve iterations, each with a call of a tool, and a model and a tool that take
no time: what is left is the loop, the store and the engine. Printed for each pair of
engine and store: seconds from a start to the first inference, milliseconds from one
iteration to the next with one run at a time, what of that the engine adds to the
embedded loop over the same store, and commands in a second with sixteen runs at once.

Everything is in this machine and this process but the servers: Temporal's development
server, and a Postgres from a wheel. No server and no store waits for the disk, so that
the figures are of work and not of disks; a production cluster has its own.
"""

import argparse
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from attrs import define, field, frozen

from agentloop import AgentLoop, RunEvent, Scope
from agentloop.core.config import ToolSpec
from agentloop.core.content import Text
from agentloop.core.routing import Offer
from agentloop.ports import Engine, Store, ToolAnswer
from agentloop.testing.scripted import Reply, ScriptedBackend, Seen, calls, says

ITERATIONS = 12
COMMANDS = 2 * ITERATIONS - 1
AT_ONCE = 16
ME = Scope(1, 1)


def answer(seen: Seen) -> Reply:
    return says("done") if seen.iteration == ITERATIONS else calls(("desk-note", {}))


class Desk:
    """A tool that takes no time, and no thread."""

    def declared(self) -> Any:
        return (Offer(ToolSpec(name="note", input_schema={"type": "object"})),)

    def discover(self, timeout: float) -> Any:
        return self.declared()

    def call(self, call: Any) -> ToolAnswer:
        return ToolAnswer((Text("noted"),))

    def close(self) -> None:
        return None


@define
class Watch:
    """When the runs began to infer, and when they ended."""

    first: dict[str, float] = field(factory=dict)
    last: dict[str, float] = field(factory=dict)
    _changed: threading.Condition = field(factory=threading.Condition)

    def __call__(self, run_id: str, event: RunEvent) -> None:
        now = time.perf_counter()
        if event.kind == "job_submitted":
            self.first.setdefault(run_id, now)
        if event.kind == "terminal":
            with self._changed:
                self.last[run_id] = now
                self._changed.notify_all()

    def wait(self, ids: list[str]) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: self.last.keys() >= set(ids), 300)
        assert done, "the runs do not end"


@frozen
class Figures:
    start: float
    iteration: float
    commands: float


@frozen
class Setup:
    """An engine and a store, as one process has them."""

    store: Store
    engine: Engine | None = None
    work: Any = None

    def measure(self, runs: int) -> Figures:
        watch = Watch()
        with AgentLoop(
            ScriptedBackend(forever=answer),
            self.store,
            {"desk": Desk()},
            engine=self.engine,
            observer=watch,
            lease=30.0,
        ) as loop:
            working = self.work(loop) if self.work else loop.worker(AT_ONCE)
            with working:
                return self._measured(loop, watch, runs)

    def _measured(self, loop: AgentLoop, watch: Watch, runs: int) -> Figures:
        watch.wait([start(loop)])  # lazy imports and first connections
        starts, iterations = [], []
        for _ in range(runs):
            began = time.perf_counter()
            id_ = start(loop)
            watch.wait([id_])
            starts.append(watch.first[id_] - began)
            iterations.append((watch.last[id_] - watch.first[id_]) / ITERATIONS)
        began = time.perf_counter()
        ids = [start(loop) for _ in range(AT_ONCE * 3)]
        watch.wait(ids)
        span = time.perf_counter() - began
        return Figures(
            start=statistics.median(starts),
            iteration=statistics.median(iterations),
            commands=len(ids) * COMMANDS / span,
        )


def start(loop: AgentLoop) -> str:
    defaults = {"model": "m", "max_iterations": ITERATIONS}
    conversation = loop.create_conversation(defaults=defaults, scope=ME)
    return loop.start_run(conversation.id, "go", scope=ME).id


# ---------------------------------------------------------------- stores and engines


@contextmanager
def sqlite() -> Iterator[Store]:
    from agentloop.stores.sqlite import SQLiteStore

    with tempfile.TemporaryDirectory() as folder:
        store = SQLiteStore(f"{folder}/agents.db", synchronous="OFF")
        try:
            yield store
        finally:
            store.close()


@contextmanager
def postgres(address: str) -> Iterator[Store]:
    from agentloop.stores.postgres import PostgresStore

    with PostgresStore(address) as store:
        store.migrate()
        yield store


def embedded(store: Store, _: ExitStack) -> Setup:
    return Setup(store)


def temporal(store: Store, stack: ExitStack) -> Setup:
    from agentloop.engines.temporal import (
        TemporalEngine,
        TemporalServer,
        TemporalWorker,
    )
    from tests.temporal_server import running

    queue = f"bench-{uuid.uuid4()}"
    server = TemporalServer(running().address, task_queue=queue)
    engine = stack.enter_context(TemporalEngine(server))
    return Setup(
        store, engine, lambda loop: TemporalWorker(loop, server, concurrency=AT_ONCE)
    )


def dbos(store: Store, stack: ExitStack, address: str) -> Setup:
    from agentloop.engines.dbos import DbosDatabase, DbosEngine, DbosWorker

    database = DbosDatabase(address)
    engine = stack.enter_context(DbosEngine(database))
    engine.migrate()
    return Setup(store, engine, lambda loop: DbosWorker(loop, database))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    with ExitStack() as stack:
        address = stack.enter_context(server())
        report(given.runs, address)


@contextmanager
def server() -> Iterator[str]:
    """A fresh database on a Postgres of one's own."""
    from tests.dbos_place import fresh_database
    from tests.postgres_mortal import mortal_postgres

    with mortal_postgres() as process:
        yield fresh_database(process.address, "bench")


def report(runs: int, address: str) -> None:
    def on_dbos(store: Store, stack: ExitStack) -> Setup:
        return dbos(store, stack, address)

    stores: dict[str, Any] = {"SQLite": sqlite, "Postgres": lambda: postgres(address)}
    pairs = [
        ("embedded", "SQLite", embedded),
        ("Temporal", "SQLite", temporal),
        ("embedded", "Postgres", embedded),
        ("DBOS", "Postgres", on_dbos),
        ("Temporal", "Postgres", temporal),
    ]
    alone: dict[str, float] = {}
    print("| engine | store | start | iteration | added | commands a second |")
    print("| --- | --- | --- | --- | --- | --- |")
    for engine, name, make in pairs:
        found = measured(stores[name](), make, runs)
        base = alone.setdefault(name, found.iteration)
        print(
            f"| {engine} | {name} | {found.start * 1e3:.0f} ms "
            f"| {found.iteration * 1e3:.1f} ms "
            f"| {(found.iteration - base) * 1e3:.1f} ms | {found.commands:.0f} |",
            flush=True,
        )


def measured(store: AbstractContextManager[Store], make: Any, runs: int) -> Figures:
    with store as opened, ExitStack() as stack:
        return make(opened, stack).measure(runs)


if __name__ == "__main__":
    main()
