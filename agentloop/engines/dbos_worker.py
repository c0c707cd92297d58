"""Driving runs on DBOS: the workflow, its steps, and the worker that performs them.

A workflow only knows which command comes next; a step performs it, and is repeated
here until it was done or the worker stops. A worker that stops records nothing more:
its workflows are given to the others as they are.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, assert_never

from attrs import define, field
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, error

from agentloop.core.machine import next_command
from agentloop.core.phases import CallTools, Discover, Finish, Infer
from agentloop.engines.dbos_client import WAKE, WORKFLOW, DbosDatabase
from agentloop.engines.dbos_watch import Watch, executor_of
from agentloop.ports import LeaseLostError, RunRef, StoreUnavailableError
from agentloop.runtime import checks
from agentloop.runtime.face import AgentLoop
from agentloop.runtime.rounds import Rounds, RunBusyError, RunNotFoundError
from agentloop.runtime.system import RandomIds
from agentloop.wire.standing import Standing, standing_from, standing_text

log = logging.getLogger("agentloop")
_LATER: Final = (RunBusyError, LeaseLostError, StoreUnavailableError)
_MOMENT: Final = (0.05, 0.5)
"""Seconds before a round is tried again that said "not now": at first, and at most."""
_WHILE: Final = 2.0
"""Seconds before one is tried again that failed in a way nobody thought of."""
_LIGHT: Final = {
    # What a step answered may be forgotten when power is lost: the store has it, and a
    # step that is repeated adopts that. So DBOS need not wait for the disk.
    "options": "-c synchronous_commit=off",
    "application_name": "dbos_transact",
}
GONE: Final = "gone"
"""What a workflow answers whose run was removed."""


@define
class Hands:
    """What performs steps: rounds, until this worker stops."""

    rounds: Rounds
    held: set[str] = field(factory=set)
    stopped: threading.Event = field(factory=threading.Event)
    _busy: int = 0
    _changed: threading.Condition = field(factory=threading.Condition)

    def begin(self, run: RunRef) -> str:
        """Where a run stands, as text; nothing when there is no such run."""
        return self._until_done(lambda: self.rounds.begin(run))

    def go_on(self, run: RunRef, seen: str) -> str:
        """Perform the command that is due; where the run stands then."""
        standing = standing_from(seen)
        return self._until_done(lambda: self.rounds.go_on(run, standing))

    def quiet(self, seconds: float) -> bool:
        """Begin no more rounds; whether all of them ended in time."""
        self.stopped.set()
        with self._changed:
            return self._changed.wait_for(lambda: self._busy == 0, seconds)

    def _until_done(self, work: Callable[[], Standing]) -> str:
        moment, most = _MOMENT
        while not self.stopped.is_set():
            try:
                with self._counted():
                    return standing_text(work())
            except _LATER:
                self.stopped.wait(moment)
                moment = min(2 * moment, most)
            except RunNotFoundError as error:
                log.warning("a workflow has no run: %s", error)
                return ""
            except Exception:
                log.exception("a round failed; it is tried again")
                self.stopped.wait(_WHILE)
        # No error: DBOS would keep it as the outcome of the step.
        raise asyncio.CancelledError("the worker stops")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()


class _Process:
    """What DBOS knows once in a process: the workflow, and whose hands it uses."""

    hands: Hands | None = None
    registered = False


async def _run(run_id: str, company_id: int) -> str:
    """The workflow; whatever breaks it off leaves it as it is, to be gone on with."""
    hands = _Process.hands
    if hands is None:
        raise asyncio.CancelledError("no worker is there")
    hands.held.add(run_id)
    try:
        return await _recipe(hands, RunRef(run_id, company_id))
    except error.DBOSException:
        raise  # it is somebody else's by now, or its steps fit no more
    except Exception as problem:
        # DBOS tries most of its reads and writes again, but not all of them, and
        # would store the error as the end of the workflow.
        log.warning("DBOS broke off run %s: %s", run_id, type(problem).__name__)
        raise asyncio.CancelledError("the run goes on later") from None
    finally:
        hands.held.discard(run_id)


async def _recipe(hands: Hands, run: RunRef) -> str:
    """The recipe of `agentloop.runtime.rounds`."""
    seen = await DBOS.run_step_async({"name": "begin"}, hands.begin, run)
    while seen:
        standing = standing_from(seen)
        kind = _kind(standing)
        if not kind:
            return str(standing.status)
        if standing.wait > 0:
            await DBOS.recv_async(WAKE, standing.wait)
        seen = await DBOS.run_step_async({"name": kind}, hands.go_on, run, seen)
    return GONE


def _kind(standing: Standing) -> str:
    """The name of the step that comes next, empty at the end."""
    command = next_command(standing.state)
    match command:
        case Discover():
            return "discover"
        case Infer():
            return "infer"
        case CallTools():
            return "call_tools"
        case Finish():
            return ""
        case _:
            assert_never(command)


class DbosWorker:
    """Drives the runs of a database while the block runs; one in a process.

        with DbosWorker(loop, database):
            ...

    It is entered once; for a second time make a new one.

    Entering makes the tables of DBOS where they are missing. Leaving begins no more
    commands, waits for those under way, and gives every run to the other workers.

    Args:
        loop: over the store that the runs were started in; a `lease` of a few
            seconds suits it, since a run that was under way in a worker that died
            is taken over when its lease has run out.
        database: where those who start runs write.
        runs: how many runs this worker holds at once, those that wait included.
        grace: seconds that leaving waits for commands under way.

    Raises:
        RuntimeError: on entering, this process has another worker or uses DBOS, or
            this one has left before.
        EngineUnavailableError: on entering, Postgres cannot be reached.
    """

    def __init__(
        self,
        loop: AgentLoop,
        database: DbosDatabase,
        *,
        runs: int = 100,
        grace: float = 30.0,
    ) -> None:
        checks.whole("runs", runs, 1)
        checks.number("grace", grace)
        self._database = database
        self._runs = runs
        self._grace = grace
        self._hands = Hands(loop.rounds(database.driver))
        store = self._hands.rounds.runner.resources.store
        held = self._hands.held.copy
        self._watch = Watch(database, executor_of(database, RandomIds()), store, held)

    @property
    def executor(self) -> str:
        """What DBOS calls this worker."""
        return self._watch.executor

    def __enter__(self) -> "DbosWorker":
        if _Process.hands is not None:
            raise RuntimeError("this process has a DbosWorker already; use that one")
        if self._hands.stopped.is_set():
            raise RuntimeError("this DbosWorker has left; make a new one")
        if not _Process.registered:
            DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)(_run)
            _Process.registered = True
        self._take_dbos()
        _Process.hands = self._hands
        try:
            self._watch.start()
            self._launch()
        except BaseException:
            self._leave()
            raise
        return self

    def _take_dbos(self) -> None:
        """Make the one instance of this process."""
        database = self._database
        config: DBOSConfig = {
            "name": database.name,
            "system_database_url": database.address,
            "dbos_system_schema": database.schema,
            "application_version": database.version,
            "executor_id": self.executor,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
        }
        if "options=" not in database.url:
            config["db_engine_kwargs"] = {"connect_args": _LIGHT}
        DBOS(config=config)
        if DBOS.executor_id != self.executor:  # the one that was there was returned
            raise RuntimeError(
                "this process uses DBOS for something else, and there is one instance "
                "of it; give the DbosWorker a process of its own"
            )

    def _launch(self) -> None:
        name = self._database.name
        DBOS.listen_queues([name])
        DBOS.launch()
        DBOS.register_queue(
            name,
            worker_concurrency=self._runs,
            polling_interval_sec=self._database.poll,
            on_conflict="always_update",
        )

    def _leave(self) -> None:
        DBOS.destroy()
        _Process.hands = None
        self._watch.stop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._hands.quiet(self._grace):
            log.warning("commands are still under way; their runs are taken over")
        self._leave()
