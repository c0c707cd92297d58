"""Runs on DBOS, over one Postgres: `DbosEngine` starts them, `DbosWorker` drives them.

    database = DbosDatabase("postgresql://host/db")   # where the store is, too
    DbosEngine(database).migrate()                    # once per release of DBOS

    # A host that starts runs and reads them:
    with DbosEngine(database) as engine:
        loop = AgentLoop(backend, store, tools, engine=engine)

    # Hosts that drive them, over the same store; one worker in a process:
    loop = AgentLoop(backend, store, tools, lease=10.0)
    with DbosWorker(loop, database):
        ...

Each run is one workflow, its id the run's. A command is one step: a round of
`agentloop.runtime.rounds`, which adopts what the store knows already. What DBOS keeps
are places without content, as portable JSON and nothing else. A pause is a durable
wait for a message that only a cancel sends.

DBOS itself leaves the runs of a worker that died to that worker. Here every worker
shows its presence in the database, and the others take over from one that is gone:
what waited goes on within a second or two, and what was under way when the loop's
`lease` has run out. So give the loop of a worker a lease of a few seconds.

Cancel a run by the loop that started it, not by DBOS: a workflow that somebody
cancelled there is begun again, because its run is not over.

DBOS keeps a workflow's rows for good, also when its conversation was deleted; they
hold no content. `DBOSClient.delete_workflows` removes those that have ended.

Schema and name are part of what a run's row names as its driver, so workers of
several queues, each with tools and models of its own, may share one store. A release
that stores states in a new form drives what an older one left, as soon as no worker
of the older one is there; what it has begun itself waits for it when it is taken back.

Needs the extra `dbos`. DBOS has one instance in a process: a worker cannot share it
with an application that uses DBOS for itself. No rule of a run may be in here.
"""

from typing import TYPE_CHECKING, Any

from agentloop.ports import require

if TYPE_CHECKING:
    from agentloop.engines.dbos_client import DbosDatabase, DbosEngine
    from agentloop.engines.dbos_worker import DbosWorker

__all__ = ["DbosDatabase", "DbosEngine", "DbosWorker"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("dbos", "dbos")
    home = "worker" if name == "DbosWorker" else "client"
    return getattr(require(f"agentloop.engines.dbos_{home}", "dbos"), name)


def __dir__() -> list[str]:
    return __all__
