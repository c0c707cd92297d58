"""What an engine costs: steps in a second, and what an iteration takes longer.

`python -m benchmarks.engines [sqlite postgres dbos temporal]`. Everything is played by
the kit for engines: one worker process, a model that answers at once, a tool that
writes one line. So what is measured is the loop, the store and the engine. An iteration
is an inference and a tool call: two steps. Both cores of a small machine are shared by
the worker, the server and whoever waits, so the ratios are what to look at.

- **pickup**: from a run's start to its first inference, median of single runs.
- **iteration**: from one inference to the next in a run that is alone, median of runs.
- **steps/s**: of many runs at once, from the first inference to the last.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import frozen
from rich.console import Console
from rich.table import Table

from agentloop import AgentLoop
from agentloop.core.run import Run
from agentloop.ports import RunRef
from agentloop.stores.postgres import PostgresStore
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.engines import Stage, opened
from agentloop.testing.engines.flows import LONG_RUN, ROWS
from agentloop.testing.engines.left import SCOPE

SINGLE = 5
AT_ONCE = 40
STEPS = 2 * ROWS - 1


class Embedded:
    """No engine: a worker of the loop, over SQLite in a folder or over Postgres."""

    lease = 30.0
    name = "embedded"

    def __init__(self, address: str) -> None:
        self._address = address

    def store(self) -> Any:
        if not self._address.startswith("postgresql"):
            return SQLiteStore(f"{self._address}/agents.db")
        store = PostgresStore(self._address)
        store.migrate()
        return store

    def engine(self) -> "Embedded":
        return self

    def start(self, run: RunRef) -> None:
        """The worker looks by itself."""

    def cancel(self, run: RunRef) -> None:
        """Nobody is cancelled here."""

    def work(self, loop: AgentLoop) -> AbstractContextManager[object]:
        return loop.worker(16, poll=0.2)

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def sqlite() -> Iterator[Stage]:
    with (
        TemporaryDirectory() as folder,
        opened("benchmarks.engines:Embedded", folder) as stage,
    ):
        yield stage


@contextmanager
def postgres() -> Iterator[Stage]:
    with _database() as address, opened("benchmarks.engines:Embedded", address) as it:
        yield it


@contextmanager
def dbos() -> Iterator[Stage]:
    with _database() as address, opened("tests.dbos_place:place", address) as stage:
        yield stage


@contextmanager
def _database() -> Iterator[str]:
    from tests.dbos_place import fresh_database
    from tests.postgres_mortal import mortal_postgres

    with mortal_postgres(durable=True) as server:
        yield fresh_database(server.address, "bench")


@contextmanager
def temporal() -> Iterator[Stage]:
    from tests.temporal_server import TemporalProcess

    with TemporaryDirectory() as folder:
        server = TemporalProcess(Path(folder))
        server.start()
        address = f"{server.address}/bench {folder}"
        try:
            with opened("tests.temporal_place:place", address) as stage:
                yield stage
        finally:
            server.kill()


ENGINES = {"sqlite": sqlite, "postgres": postgres, "dbos": dbos, "temporal": temporal}


@frozen
class Figures:
    """What was measured, in milliseconds and steps a second."""

    pickup: float
    iteration: float
    steps: float


def measure(stage: Stage) -> Figures:
    """One worker; single runs first, then many at once."""
    stage.staff(1)
    stage.ended(stage.start("rows"))
    single = [_moments(stage, stage.ended(stage.start("long run"))) for _ in _singles()]
    pickups = [(first - began) * 1000 for began, first, _ in single]
    spans = [(last - first) * 1000 / (LONG_RUN - 1) for _, first, last in single]
    runs = [stage.ended(run) for run in [stage.start("rows") for _ in range(AT_ONCE)]]
    moments = [_moments(stage, run) for run in runs]
    whole = max(m[2] for m in moments) - min(m[1] for m in moments)
    return Figures(
        statistics.median(pickups), statistics.median(spans), AT_ONCE * STEPS / whole
    )


def _singles() -> Iterator[int]:
    """Runs a little apart, so that they meet a poll at different moments."""
    for count in range(SINGLE):
        time.sleep(0.13 * count)
        yield count


def _moments(stage: Stage, run: Run) -> tuple[float, float, float]:
    """When a run was started, and when its first and last inference began."""
    jobs = stage.loop.list_jobs(run.id, scope=SCOPE)
    began = [str(attempt.started_at) for job in jobs for attempt in job.attempts]
    stamps = [run.started_at, min(began), max(began)]
    start, first, last = (datetime.fromisoformat(stamp) for stamp in stamps)
    return start.timestamp(), first.timestamp(), last.timestamp()


def main() -> None:
    """Measure what is named, or everything, and show it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines")
    parser.add_argument("engines", nargs="*", default=list(ENGINES))
    console = Console()
    table = Table("", "pickup ms", "iteration ms", "steps/s", title="engines")
    for name in parser.parse_args().engines:
        with console.status(name), ENGINES[name]() as stage:
            found = measure(stage)
        shown = (f"{each:.1f}" for each in (found.pickup, found.iteration, found.steps))
        table.add_row(name, *shown)
    console.print(table)


if __name__ == "__main__":
    main()
