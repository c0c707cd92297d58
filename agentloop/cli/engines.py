"""From `--engine` to an engine: who starts runs there, and who drives them.

One entry in each table below is all that another engine needs. Its constructor gets
what the flags say and gives a `Driving`, which is closed with the command.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Protocol, TypeAlias, runtime_checkable

import typer
from attrs import frozen

from agentloop.cli import parts
from agentloop.ports import Engine
from agentloop.runtime.face import AgentLoop

EMBEDDED_LEASE = 30.0
ENGINE_LEASE = 5.0
"""Shorter, because a run of a dead worker goes on when its lease has run out."""

EngineName = Annotated[
    str | None,
    typer.Option(help="Runs are driven by an engine: temporal, or dbos."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Where the engine is: HOST:PORT of Temporal (or TEMPORAL_ADDRESS, with "
        "the other variables of Temporal's), or the postgresql:// of DBOS, which is "
        "the store's unless given."
    ),
]
Namespace = Annotated[
    str | None, typer.Option(help="The namespace in Temporal; the schema of DBOS.")
]
TaskQueue = Annotated[
    str,
    typer.Option(
        help="What joins those who start runs and those who drive them; on DBOS of 3 "
        "to 256 lowercase letters, digits, dashes and underscores."
    ),
]


@runtime_checkable
class Watched(Protocol):
    """A worker that knows how it is."""

    @property
    def alive(self) -> bool:
        """Whether all of it is there and at work."""
        ...


@frozen
class Pace:
    """How much a worker does at once, and how many seconds it has to end that."""

    at_once: int
    drain: float


@frozen
class Driving:
    """An engine, and how a loop works for it at a pace."""

    engine: Engine
    work: Callable[[AgentLoop, Pace], AbstractContextManager[object]]


@frozen
class Asked:
    """What the flags say of an engine."""

    name: str | None
    address: str | None
    namespace: str | None
    task_queue: str
    store: str


Making: TypeAlias = Callable[[Asked], AbstractContextManager[Driving]]


@contextmanager
def opened(asked: Asked) -> Iterator[Driving | None]:
    """The engine that the flags name, closed at the end; None without one."""
    if asked.name is None:
        if asked.address or asked.namespace:
            parts.stop("--address and --namespace are of an engine; name it: --engine")
        yield None
        return
    if asked.name not in _ENGINES:
        known = ", ".join(_ENGINES)
        parts.stop(f"--engine {asked.name!r} is unknown; use one of {known}")
    if asked.store in {"memory", "memory:"}:
        parts.stop("--engine needs a --store that other processes see as well")
    _log_as_we_do(_LOGGERS[asked.name])
    with _ENGINES[asked.name](asked) as driving:
        yield driving


def _log_as_we_do(name: str) -> None:
    """Have what an engine's library has to say look like what this one says."""
    theirs = logging.getLogger(name)
    theirs.handlers[:] = logging.getLogger("agentloop").handlers
    theirs.propagate = False


def lease(given: float | None, driving: Driving | None) -> float:
    """The lease that was asked for, or what is right with and without an engine."""
    if given is not None:
        return given
    return EMBEDDED_LEASE if driving is None else ENGINE_LEASE


def working(
    loop: AgentLoop, driving: Driving | None, pace: Pace
) -> AbstractContextManager[object]:
    """A worker of the engine, or of the loop itself without one."""
    return loop.worker(pace.at_once) if driving is None else driving.work(loop, pace)


@contextmanager
def _temporal(asked: Asked) -> Iterator[Driving]:
    from agentloop.engines.temporal import (
        TemporalEngine,
        TemporalServer,
        TemporalWorker,
    )

    server = TemporalServer.from_environment(
        asked.address, asked.namespace, task_queue=asked.task_queue
    )

    def work(loop: AgentLoop, pace: Pace) -> TemporalWorker:
        drain = max(pace.drain, 0.1)  # Temporal's own takes no less
        return TemporalWorker(loop, server, concurrency=pace.at_once, drain=drain)

    with TemporalEngine(server) as engine:
        yield Driving(engine, work)


@contextmanager
def _dbos(asked: Asked) -> Iterator[Driving]:
    from agentloop.engines.dbos import DbosDatabase, DbosEngine, DbosWorker

    url = (asked.address or asked.store).replace("postgres://", "postgresql://", 1)
    if not url.startswith("postgresql://"):
        parts.stop("--engine dbos needs --address postgresql://..., or such a --store")
    schema = asked.namespace or "dbos"
    try:
        database = DbosDatabase(url, schema=schema, name=asked.task_queue)
    except ValueError as error:
        parts.stop(f"--task-queue: {error}")

    def work(loop: AgentLoop, pace: Pace) -> DbosWorker:
        return DbosWorker(loop, database, runs=pace.at_once, grace=pace.drain)

    with DbosEngine(database) as engine:
        engine.migrate()  # does nothing where a worker has done so
        yield Driving(engine, work)


_ENGINES: Mapping[str, Making] = {"temporal": _temporal, "dbos": _dbos}
_LOGGERS: Mapping[str, str] = {"temporal": "temporalio", "dbos": "dbos"}
"""What the libraries of the engines log under."""
