"""Killing the workers of an engine, again and again, and counting what it does.

`python -m tests.engine_kills --engine dbos --kills 200 --seed 1` is a release command.
Two workers drive a handful of runs at any time. Half of the deaths are a SIGKILL at a
random moment; the other half come at an exact place: before or after a commit, an
inference or a call, wherever the dice say. A death is answered with a new worker.

Counted is, outside of the library, how often every call was made. `doubled` are calls
made twice that may not be repeated, `repeated` those that may, `unknown` the calls of
which the model was told that nobody knows. A run's recovery is the time from the death
of the worker that made its last call until its next call, or its end; where another
worker dies in that time, it is counted among the pauses only.
"""

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import define, field

from agentloop.core.run import Run
from agentloop.testing.engines import Stage, opened
from agentloop.testing.engines.left import SCOPE
from agentloop.testing.engines.stage import reference
from agentloop.testing.engines.waiting import until

AT_ONCE = 8
LONG = 8.0
"""Seconds above which a pause is told by itself."""
FLOWS = ("rows", "rows", "rows", "one look")
PLACES = (
    *(f"{when} {what}" for when in ("before", "after") for what in ("model", "tool")),
    *("after claim", "before checkpoint", "after checkpoint", "after release"),
    *("before finalize", "after finalize"),
)


@contextmanager
def dbos(lease: float) -> Iterator[Stage]:
    """DBOS over a Postgres of its own."""
    from tests.dbos_place import fresh_database
    from tests.postgres_mortal import mortal_postgres

    with mortal_postgres() as server:
        address = f"{fresh_database(server.address, 'kills')} {lease}"
        with opened("tests.dbos_place:place", address, server=server) as stage:
            yield stage


@contextmanager
def temporal(lease: float) -> Iterator[Stage]:
    """Temporal's development server over a store in SQLite, with a lease of 1 s."""
    from tests.temporal_server import TemporalProcess

    with TemporaryDirectory() as folder:
        server = TemporalProcess(Path(folder))
        server.start()
        address = f"{server.address}/kills {folder}"
        try:
            with opened("tests.temporal_place:place", address, server=server) as stage:
                yield stage
        finally:
            server.kill()


@contextmanager
def queue(lease: float) -> Iterator[Stage]:
    """The smallest engine there can be, with a lease of 1 s."""
    with (
        TemporaryDirectory() as folder,
        opened("tests.queue_engine:place", folder) as stage,
    ):
        yield stage


ENGINES = {"dbos": dbos, "temporal": temporal, "queue": queue}


@define
class Death:
    """A worker that died, when, how far its runs were, and if it was the last one."""

    where: str
    at: float
    calls: dict[str, int]
    calm: bool = True


@define
class Hunt:
    """The runs, the deaths, and what came of both."""

    stage: Stage
    chance: random.Random
    live: dict[str, Run] = field(factory=dict)
    ended: dict[str, Run] = field(factory=dict)
    flows: dict[str, str] = field(factory=dict)
    open: list[Death] = field(factory=list)
    pauses: list[float] = field(factory=list)
    recoveries: list[float] = field(factory=list)
    broken: list[str] = field(factory=list)
    kills: Counter[str] = field(factory=Counter)
    unknown: int = 0

    # ------------------------------------------------------------ runs

    def feed(self) -> None:
        """Have as many runs under way as should be."""
        while len(self.live) < AT_ONCE:
            flow = self.chance.choice(FLOWS)
            run = self.stage.start(flow)
            self.live[run.id] = run
            self.flows[run.id] = flow

    def look(self) -> None:
        """Take note of runs that ended, and of runs that go on after a death."""
        for run_id in list(self.live):
            run = self.stage.loop.get_run(run_id, scope=SCOPE)
            if run.terminal:
                self.ended[run_id] = self.live.pop(run_id)
                self._examine(run)
        self._note_pauses()

    def _note_pauses(self) -> None:
        made = Counter(entry.run_id for entry in self.stage.ledger.entries())
        now = time.monotonic()
        for death in self.open:
            for run_id, before in list(death.calls.items()):
                if made[run_id] > before or run_id in self.ended:
                    self._note(death, run_id, now - death.at)
                    del death.calls[run_id]
        self.open = [death for death in self.open if death.calls]

    def _note(self, death: Death, run_id: str, seconds: float) -> None:
        (self.recoveries if death.calm else self.pauses).append(seconds)
        if seconds > LONG:
            kind = "calm" if death.calm else "struck again"
            print(f"{seconds:6.1f} s  for run {run_id}, {death.where}, {kind}")

    def _examine(self, run: Run) -> None:
        """What is wrong with a run that ended; nothing when nothing was lost."""
        calm = reference(self.flows[run.id])
        found = self.stage.left(run)  # raises when the messages are no history
        unknown = self.stage.unknown(run)
        self.unknown += unknown
        if found.runs != calm.runs:
            self._broke(f"{run.id} ended as {found.runs}")
        if len(found.messages) != len(calm.messages):
            self._broke(f"{run.id} has {len(found.messages)} messages")
        calls = {entry.effect_key for entry in self.stage.executions(run)}
        wanted = len(calm.messages) // 2 - 1
        if len(calls) + unknown < wanted:
            self._broke(f"{run.id} lost a call: {len(calls)} + {unknown}")

    def _broke(self, told: str) -> None:
        print("BROKEN", told, flush=True)
        self.broken.append(told)

    # ------------------------------------------------------------ deaths

    def strike(self) -> None:
        """One death, and a new worker; every other time when all has recovered."""
        if self.chance.random() < 0.5:
            self._recover()
        if self.chance.random() < 0.5:
            self._kill()
        else:
            self._have_die()
        self.stage.staff()

    def _recover(self) -> None:
        def recovered() -> bool:
            self.feed()
            self.look()
            return not self.open

        until(recovered, "all runs go on", 120.0)

    def _kill(self) -> None:
        time.sleep(self.chance.uniform(0.0, 1.0))
        pid = self.chance.choice(self.stage.crew.alive)
        self.stage.crew.kill(pid)
        self._died(pid, "at any moment")

    def _have_die(self) -> None:
        place = self.chance.choice(PLACES)
        before = set(self.stage.crew.alive)
        self.stage.fuse.arm(place, self.chance.randint(1, 3))
        for _ in range(100):
            self.look()
            self.feed()
            gone = before - set(self.stage.crew.alive)
            if gone:
                break
            time.sleep(0.05)
        self.stage.fuse.disarm()
        for pid in before - set(self.stage.crew.alive):
            self._died(pid, place)

    def _died(self, pid: int, where: str) -> None:
        self.kills[where] += 1
        last: dict[str, tuple[int, int]] = {}
        for entry in self.stage.ledger.entries():
            if entry.run_id in self.live:
                last[entry.run_id] = (entry.pid, last.get(entry.run_id, (0, 0))[1] + 1)
        calls = {id_: count for id_, (by, count) in last.items() if by == pid}
        for death in self.open:
            death.calm = False
        if calls:
            self.open.append(Death(where, time.monotonic(), calls))

    # ------------------------------------------------------------ the end

    def finish(self) -> None:
        """Let whatever is under way end."""
        self.stage.staff()

        def over() -> bool:
            self.look()
            return not self.live

        until(over, f"the last {len(self.live)} runs end", 120.0)

    def tally(self, seconds: float) -> dict[str, Any]:
        """The figures."""
        noted = self.stage.ledger.entries()
        entries = [entry for entry in noted if entry.run_id in self.flows]
        times = Counter(entry.effect_key for entry in entries)
        tool = {entry.effect_key: entry.tool for entry in entries}
        again = [key for key, count in times.items() if count > 1]
        return {
            "kills": sum(self.kills.values()),
            "runs": len(self.ended),
            "executions": len(entries),
            "doubled": sum(tool[key] != "look" for key in again),
            "repeated": sum(tool[key] == "look" for key in again),
            "unknown": self.unknown,
            "lost": len(self.broken) + len(self.live),
            "recoveries": shown(self.recoveries),
            "pauses": shown(self.pauses),
            "seconds": round(seconds),
            "places": dict(self.kills.most_common()),
        }


def shown(spans: list[float]) -> str:
    """How many, and how long in the middle and at most."""
    if not spans:
        return "none"
    middle, most = statistics.median(spans), max(spans)
    return f"{len(spans)}, median {middle:.1f} s, max {most:.1f} s"


def hunt(stage: Stage, kills: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Kill workers until so many are dead and every run has ended."""
    began = time.monotonic()
    game = Hunt(stage, random.Random(seed))
    stage.staff()
    told = 0
    while sum(game.kills.values()) < kills:
        game.feed()
        game.look()
        game.strike()
        dead = sum(game.kills.values())
        if dead // 10 > told:
            told = dead // 10
            line = f"{dead} kills, {len(game.ended)} runs, {len(game.broken)} broken"
            print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)
    game.finish()
    return game.tally(time.monotonic() - began), game.broken


def main() -> None:
    """The command: kill, print the figures, fail when anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease", type=float, default=1.0, help="seconds; dbos only")
    given = parser.parse_args()
    with ENGINES[given.engine](given.lease) as stage:
        figures, broken = hunt(stage, given.kills, given.seed)
        if broken:
            print(stage.crew.log())
    print(f"{given.engine}, seed {given.seed}, lease {stage.place.lease} s")
    for name, value in figures.items():
        print(f"  {name:14}  {value}")
    sys.exit(1 if broken or figures["doubled"] or figures["lost"] else 0)


if __name__ == "__main__":
    main()
