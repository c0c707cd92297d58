"""Who is there, and whose runs are left alone: the watch that each worker keeps.

A worker is present as long as a connection of its own, named after it, is heard of in
Postgres: it ends with the process, and falls silent with a process that hangs. What
vanishes from there is dead, and its workflows are handed to the queue again. What
waits there for workers of an older version begins anew once none of them is left;
what a newer version began is left to workers of that version, for nobody else can
read it. Now and then a watch also looks for runs without a workflow: their start was
lost between the row and DBOS. Whoever is wrongly taken for dead does no harm: the
store's leases keep two workers off one run, and DBOS lets one of them record.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field
from dbos import DBOSClient, WorkflowStatus

from agentloop.engines.dbos_client import WORKFLOW, DbosDatabase
from agentloop.ports import EngineUnavailableError, Ids, Store, require
from agentloop.wire.converter import SCHEMA_VERSION

log = logging.getLogger("agentloop")
BEAT: Final = 1.0
"""Seconds between two signs of life, each of which is a look around as well."""
ADOPT: Final = 60
"""Beats between two looks for runs without a workflow; the first is at the start."""
_RETURN: Final = 3
"""Beats that others are given to come back when Postgres was away."""
_MOST: Final = 1000
"""How many runs are looked at in one look for those without a workflow."""
_PREFIX: Final = "agentloop "
_BROKEN: Final = ["CANCELLED", "ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
"""How a workflow may end whose run has not: by an operator's hand, or by mistake."""
_PRESENT: Final = (
    "SELECT substr(application_name, %s) FROM pg_stat_activity"
    " WHERE datname = current_database() AND starts_with(application_name, %s)"
    " AND clock_timestamp() - state_change < make_interval(secs => %s)"
)
_UNDER_WAY: Final = (
    'SELECT DISTINCT {column} FROM "{schema}".workflow_status'
    " WHERE status = 'PENDING' AND name = %s AND {which}"
)
_QUEUED: Final = (
    'SELECT workflow_uuid, application_version FROM "{schema}".workflow_status'
    " WHERE status = 'ENQUEUED' AND queue_name = %s AND name = %s"
    " AND application_version IS DISTINCT FROM %s"
)
_KEEPALIVES: Final = {
    # So that Postgres notices within seconds that a machine is gone.
    "options": "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2"
    " -c tcp_keepalives_count=2",
    "keepalives_idle": 5,
}


def executor_of(database: DbosDatabase, ids: Ids) -> str:
    """A name for a worker that tells its version and its place, and is nobody else's.

    Short, because Postgres cuts the name of a connection at 63 bytes.
    """
    return f"{SCHEMA_VERSION}{_crew(database)}{ids.new()}"


def _crew(database: DbosDatabase) -> str:
    """What stands behind the version in the names of a place's workers."""
    return f"-{hashlib.sha256(database.driver.encode()).hexdigest()[:8]}-"


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
        self._inherit(present)
        self._pick_up()
        if beat % ADOPT == 0:
            self._alone(self._adopt)

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

    def _alone(self, work: Callable[[], None]) -> None:
        """Do something that nobody else must do at the same moment, or leave it."""
        key = f"agentloop {self.database.schema} {self.database.name}"
        ask = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
        with self._db.transaction():
            if self._db.execute(ask, [key]).fetchone()[0]:
                work()

    # ------------------------------------------------------------ taking over

    def _take_over(self, present: set[str]) -> None:
        """Have others drive what the dead have left."""
        dead = self._under_way() - present - {self.executor}
        if dead:
            self._alone(lambda: self._hand_over(sorted(dead)))

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
        names = {"schema": self.database.schema, "column": column, "which": which}
        found = self._db.execute(_UNDER_WAY.format(**names), [WORKFLOW, *values])
        return {value for (value,) in found}

    def _hand_over(self, executors: list[str]) -> None:
        """Put the workflows of these workers into the queue."""
        found = self._workflows(status="PENDING", executor_id=executors)
        for workflow in found:
            self._again(workflow)
        if found:
            log.info("took over %d runs of %s", len(found), ", ".join(executors))

    def _again(self, workflow: WorkflowStatus) -> None:
        """Let a workflow go on; one of an older version begins anew."""
        version, id_ = workflow.app_version, workflow.workflow_id
        if version in {None, self.database.version}:
            self._client.resume_workflow(id_, queue_name=self.database.name)
        elif _number(version) < SCHEMA_VERSION:
            self._anew(id_)

    def _inherit(self, present: set[str]) -> None:
        """Have what waits for workers of older versions begin anew when none is left.

        As long as one is there its queue is its own: those of the new version may be
        few yet, or be taken back.
        """
        crew = _crew(self.database)
        there = {int(name.partition(crew)[0]) for name in present if crew in name}
        waiting = self._db.execute(
            _QUEUED.format(schema=self.database.schema),
            [self.database.name, WORKFLOW, self.database.version],
        )
        left = [
            id_
            for id_, version in waiting.fetchall()
            if _number(version) < SCHEMA_VERSION and _number(version) not in there
        ]
        if left:
            self._alone(lambda: self._all_anew(left))

    def _all_anew(self, workflow_ids: list[str]) -> None:
        for workflow_id in workflow_ids:
            self._anew(workflow_id)
        log.info("took over %d runs of an older version", len(workflow_ids))

    def _anew(self, workflow_id: str) -> None:
        """Begin a workflow anew, in this version.

        Its steps are forgotten, but nothing that they did: the store has it. Whoever
        dies between the two calls leaves a cancelled workflow, which is found.
        """
        self._client.cancel_workflow(workflow_id)
        self._client.rewind_workflow(
            workflow_id,
            application_version=self.database.version,
            queue_name=self.database.name,
        )

    def _workflows(self, **which: Any) -> list[WorkflowStatus]:
        return self._client.list_workflows(
            name=WORKFLOW,
            application_name=self.database.name,
            load_input=False,
            load_output=False,
            **which,
        )

    # ------------------------------------------------------------ lost starts

    def _adopt(self) -> None:
        """Give every run that has not ended a workflow that has not ended."""
        for workflow in self._workflows(status=_BROKEN):
            self._anew(workflow.workflow_id)
        new = self.store.unclaimed(self.database.driver, _MOST)
        ids = [run.run_id for run in new]
        found = self._workflows(workflow_ids=ids) if ids else []
        known = {workflow.workflow_id for workflow in found}
        for run in new:
            if run.run_id not in known:
                log.info("run %s had no workflow; it has one now", run.run_id)
                self.database.enqueue(self._client, run)


def _number(version: str | None) -> int:
    """The schema version in an application version, 0 when it is another's."""
    last = (version or "").rpartition("-")[2]
    return int(last) if last.isdigit() else 0
