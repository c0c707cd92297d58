"""Runs on Temporal: `TemporalEngine` starts and cancels them, `TemporalWorker` drives.

    server = TemporalServer("temporal.example.com:7233", task_queue="agents")

    # A host that starts runs and reads them:
    with TemporalEngine(server) as engine:
        loop = AgentLoop(backend, store, tools, engine=engine)

    # Hosts that drive them, over the same store:
    loop = AgentLoop(backend, store, tools, lease=5.0)
    with TemporalWorker(loop, server):
        ...

Each run is one workflow, its id the run's. A command is one activity: a round of
`agentloop.runtime.rounds`, which adopts what the store knows already. Temporal keeps
the order, the pauses and the attempts; the store keeps the run.

A dead worker is noticed when nothing was heard of it for `silence` seconds, and its
run can be claimed when the loop's `lease` has run out. So give the loop of a worker a
lease of a few seconds; what is right for a store alone is too long here. A run that
is under way learns of a cancel within a third of it.

Namespace and task queue are part of what a run's row names as its driver, so workers
of several queues, each with tools and models of its own, may share one store. Two
clusters that share one need task queues of different names.

Cancel a run by a loop that was given the engine, not by Temporal: the store knows
nothing of a workflow that was cancelled or terminated there. Its run is ended by the
loop's `cancel_run` all the same, and goes on by `TemporalEngine.start`.

The query `standing` tells where a run stands, without content. There is no update:
nothing of a run can be changed but its end, and that is a signal.

Needs the extra `temporal`. A process that forks must do so before it makes an engine
or a worker: neither survives it. No rule of a run may be in here.
"""

from typing import TYPE_CHECKING, Any

from agentloop.ports import require

if TYPE_CHECKING:
    from agentloop.engines.temporal_client import TemporalEngine, TemporalServer
    from agentloop.engines.temporal_worker import TemporalWorker

__all__ = ["TemporalEngine", "TemporalServer", "TemporalWorker"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("temporalio", "temporal")
    home = "worker" if name == "TemporalWorker" else "client"
    return getattr(require(f"agentloop.engines.temporal_{home}", "temporal"), name)


def __dir__() -> list[str]:
    return __all__
