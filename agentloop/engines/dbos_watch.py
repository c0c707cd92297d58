"""Who is there, and whose runs are left alone: the watch that each worker keeps.

A worker is present as long as a connection of its own, named after it, is heard of in
Postgres: it ends with the process, and falls silent with a process that hangs. What
vanishes from there is dead, and its workflows are handed to the queue again. Now and
then a watch also looks for runs without a workflow: their start was lost between the
row and DBOS. Whoever is wrongly taken for dead does no harm: the store's leases keep
two workers off one run, and DBOS lets one of them record.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from attrs import define, field
from dbos import DBOSClient, WorkflowStatus

from agentloop.engines.dbos_client import NAME, WORKFLOW, DbosDatabase
from agentloop.ports import (
    Claim,
    ClaimRequest,
    EngineUnavailableError,
    RunRef,
    Store,
    require,
)

log = logging.getLogger("agentloop")
BEAT: Final = 1.0
"""Seconds between two signs of life, each of which is a look around as well."""
ADOPT: Final = 60
"""Beats between two looks for runs without a workflow; the first is at the start."""
_RETURN: Final = 3
"""Beats that others are given to come back when Postgres was away."""
_MOST: Final = 1000
"""How many runs are held at once, to find those without a workflow."""
_HOLD: Final = 5.0
_PREFIX: Final = "agentloop "
_WORKING: Final = ("ENQUEUED", "DELAYED", "PENDING")
_PRESENT: Final = (
    "SELECT substr(application_name, %s) FROM pg_stat_activity"
    " WHERE datname = current_database() AND starts_with(application_name, %s)"
    " AND clock_timestamp() - state_change < make_interval(secs => %s)"
)
_KEEPALIVES: Final = {
    # So that Postgres notices within seconds that a machine is gone.
    "options": "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2"
    " -c tcp_keepalives_count=2",
    "keepalives_idle": 5,
}


@define
class Watch:
    """One worker's presence, and its eye on the others.

    Attributes:
        database: where the workers meet.
        executor: this worker's name, which no other had or will have.
        store: where the runs are.
        held: the runs that this worker is at, by id.
    """

    database: DbosDatabase
    executor: str
    store: Store
    held: Callable[[], set[str]]
    _client: DBOSClient = field(init=False)
    _db: Any = field(default=None, init=False)
    _dropped: set[str] = field(factory=set, init=False)
    _stopped: threading.Event = field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Be present from now on; looking around begins with the next beat.

        Raises:
            EngineUnavailableError: Postgres cannot be reached.
        """
        psycopg = require("psycopg", "dbos")
        self._client = self.database.client()
        try:
            self._present()
        except psycopg.Error as error:
            raise EngineUnavailableError(f"Postgres under DBOS: {error}") from None
        self._thread = threading.Thread(
            target=self._keep, name="agentloop-dbos-watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what this worker still holds is given to the others."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._hand_over([self.executor])
        except Exception as error:  # the others find out by themselves
            log.warning("runs of %s could not be given back: %s", self.executor, error)
        self._disconnect()
        self._client.destroy()

    def _keep(self) -> None:
        beat = 0
        while not self._stopped.wait(BEAT):
            try:
                self._look(beat)
                beat += 1
            except Exception as error:  # whatever it was, the next beat tries again
                told = str(error).partition("\n")[0]
                log.warning("%s could not look around: %s", self.executor, told)
                self._disconnect()
                beat = -_RETURN

    def _look(self, beat: int) -> None:
        present = self._present()
        if beat < 0:
            return  # the others may be on their way back as well
        self._take_over(present)
        self._pick_up()
        if beat % ADOPT == 0:
            with self._db.transaction():
                if self._leads():
                    self._adopt()

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    # ------------------------------------------------------------ presence

    def _present(self) -> set[str]:
        """Who is there; asking is a sign of life."""
        if self._db is None:
            psycopg = require("psycopg", "dbos")
            named = {"application_name": f"{_PREFIX}{self.executor}", **_KEEPALIVES}
            address = self.database.address
            self._db = psycopg.connect(address, autocommit=True, **named)
        values = [len(_PREFIX) + 1, _PREFIX, self.database.silence]
        return {name for (name,) in self._db.execute(_PRESENT, values)}

    def _leads(self) -> bool:
        """Whether nobody else looks at the same moment; until the transaction ends."""
        key = f"agentloop {self.database.schema} {self.database.name}"
        row = self._db.execute(
            "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [key]
        )
        return bool(row.fetchone()[0])

    # ------------------------------------------------------------ taking over

    def _take_over(self, present: set[str]) -> None:
        """Have others drive what the dead have left."""
        dead = self._under_way() - present - {self.executor}
        if dead:
            with self._db.transaction():
                if self._leads():
                    self._hand_over(sorted(dead))

    def _under_way(self) -> set[str]:
        """The workers that DBOS believes to be at work."""
        return self._pending("executor_id", "executor_id IS NOT NULL")

    def _pick_up(self) -> None:
        """Go on with what DBOS dropped: a workflow ends where a read of its fails.

        Whoever is seen dropped only once has just been begun, or just ended.
        """
        mine = self._pending("workflow_uuid", "executor_id = %s", self.executor)
        before, self._dropped = self._dropped, mine - self.held()
        for run_id in before & self._dropped:
            log.info("run %s was dropped; it goes on", run_id)
            self._client.resume_workflow(run_id, queue_name=self.database.name)

    def _pending(self, column: str, which: str, *values: object) -> set[str]:
        table = f'"{self.database.schema}".workflow_status'
        found = self._db.execute(
            f"SELECT DISTINCT {column} FROM {table}"  # noqa: S608 - names of our own
            f" WHERE status = 'PENDING' AND name = %s AND {which}",
            [WORKFLOW, *values],
        )
        return {value for (value,) in found}

    def _hand_over(self, executors: list[str]) -> None:
        """Put the workflows of these workers into the queue."""
        found = self._workflows(status="PENDING", executor_id=executors)
        for workflow in found:
            self._again(workflow)
        if found:
            log.info("took over %d runs of %s", len(found), ", ".join(executors))

    def _again(self, workflow: WorkflowStatus) -> None:
        """Let a workflow go on; one of an older version begins anew.

        Its steps are forgotten then, but nothing that they did: the store has it.
        """
        version, id_ = workflow.app_version, workflow.workflow_id
        if version in {None, self.database.version}:
            self._client.resume_workflow(id_, queue_name=self.database.name)
        elif _number(version) < _number(self.database.version):
            self._anew(workflow)

    def _anew(self, workflow: WorkflowStatus) -> None:
        given = workflow.input["args"] if workflow.input else ()
        if len(given) == 2:
            self._client.delete_workflow(workflow.workflow_id)
            self.database.enqueue(self._client, RunRef(*given))

    def _workflows(self, **which: Any) -> list[WorkflowStatus]:
        return self._client.list_workflows(
            name=WORKFLOW,
            application_name=self.database.name,
            load_output=False,
            **which,
        )

    # ------------------------------------------------------------ lost starts

    def _adopt(self) -> None:
        """Start a workflow for every run that is due and has none.

        Runs that wait or stand between two commands are due as well; whoever comes to
        drive them in this moment tries again a moment later.
        """
        claims = list(self._due())
        try:
            runs = {claim.run.id: claim.run.company_id for claim in claims}
            known = self._workflows(workflow_ids=list(runs)) if runs else []
        finally:
            for claim in claims:
                self.store.release(claim.lease)
        working = {w.workflow_id for w in known if w.status in _WORKING}
        for workflow in known:
            if workflow.workflow_id not in working:
                self._client.delete_workflow(workflow.workflow_id)
        for run_id in runs.keys() - working:
            log.info("run %s had no workflow; it has one now", run_id)
            self.database.enqueue(self._client, RunRef(run_id, runs[run_id]))

    def _due(self) -> Iterable[Claim]:
        request = ClaimRequest(driver=NAME, lease_seconds=_HOLD)
        for _ in range(_MOST):
            if (claim := self.store.claim(request)) is None:
                return
            yield claim


def _number(version: str | None) -> int:
    """The schema version in an application version, 0 when it is another's."""
    last = (version or "").rpartition("-")[2]
    return int(last) if last.isdigit() else 0
