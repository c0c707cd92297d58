"""The figures of a release: made by long runs, and written where they are read.

`python -m tests.release` simulates a million seeds, hunts every breakage of the
protocol, and kills workers over SQLite and Postgres, on DBOS and Temporal; with names
of parts it makes only those, and flags make them smaller. Each part's figures replace
its former ones in `tests/release.json`, and the README's table is written from that
file alone.

The million can be made in pieces, one after the other or on several machines:

    python -m agentloop.testing.simulate --start 0 --seeds 250000 --json a.json
    python -m agentloop.testing.simulate --start 250000 --seeds 750000 --json b.json
    python -m tests.release simulations --simulated a.json b.json
"""

import argparse
import json
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from agentloop.testing.simulate.__main__ import found, record, tell
from agentloop.testing.simulate.hunt import Hunt
from agentloop.testing.simulate.origin import origin
from tests import engine_kills, kills, protocol_mutants

ROOT = Path(__file__).parent.parent
FIRST, LAST = "<!-- trust -->\n", "<!-- end -->"
Figures = dict[str, Any]


# ---------------------------------------------------------------- what is run


def simulations(given: Namespace) -> Figures:
    """Simulate a range of seeds, or take what earlier hunts wrote."""
    if given.simulated:
        return joined([json.loads(file.read_text()) for file in given.simulated])
    hunt = Hunt(
        start=given.start,
        seeds=given.seeds,
        jobs=given.jobs,
        minutes=given.minutes,
        tell=tell,
        found=found,
    )
    return record(hunt)[1]


def joined(pieces: Sequence[Figures]) -> Figures:
    """Hunts of one commit over one range of seeds, as if they had been one.

    Raises:
        ValueError: they leave a gap, overlap, or are of different commits.
    """
    first, *rest = sorted(pieces, key=lambda piece: int(piece["start"]))
    whole: Figures = {**first, "runs": Counter(first["runs"])}
    whole["faults"] = {name: Counter(each) for name, each in first["faults"].items()}
    for piece in rest:
        end = whole["start"] + whole["simulations"]
        if (piece["start"], piece["commit"]) != (end, whole["commit"]):
            told = f"seeds from {piece['start']} at commit {piece['commit']}"
            raise ValueError(f"{told} do not continue {whole['commit']} up to {end}")
        _join(whole, piece)
    return whole


def _join(whole: Figures, piece: Figures) -> None:
    for name in ("simulations", "steps", "crowded", "seconds"):
        whole[name] = round(whole[name] + piece[name], 1)
    whole["runs"].update(piece["runs"])
    for name, kinds in piece["faults"].items():
        whole["faults"].setdefault(name, Counter()).update(kinds)
    whole["broken"] = whole["broken"] | piece["broken"]
    both = int(whole["fingerprint"], 16) ^ int(piece["fingerprint"], 16)
    whole["fingerprint"] = f"{both:032x}"


def mutants(given: Namespace) -> Figures:
    """Hunt every breakage of the protocol."""
    came_from, began = origin(), time.monotonic()
    killers = dict(protocol_mutants.hunt(given.mutant_seeds, given.jobs))
    return {
        **came_from,
        "seconds": round(time.monotonic() - began, 1),
        "seeds": given.mutant_seeds,
        "killers": killers,
    }


def _killed(number: int, given: Namespace, address: str) -> Figures:
    came_from = origin()
    with tempfile.TemporaryDirectory() as folder:
        place = kills.Place(folder, address)
        tally = kills.hunt(number, given.runs, given.kill_seed, place)
    return {**came_from, "seed": given.kill_seed, **asdict(tally)}


def kills_on_sqlite(given: Namespace) -> Figures:
    """Kill worker processes over one SQLite file."""
    return _killed(given.kills, given, "")


def kills_on_postgres(given: Namespace) -> Figures:
    """Kill worker processes over one Postgres server."""
    return _killed(given.postgres_kills, given, kills.postgres())


def kills_on_engine(engine: str, given: Namespace) -> Figures:
    """Kill workers of an engine."""
    came_from = origin()
    number: int = getattr(given, f"{engine}_kills")
    with engine_kills.ENGINES[engine](1.0) as stage:
        figures, broken = engine_kills.hunt(stage, number, given.kill_seed)
    return {**came_from, "seed": given.kill_seed, **figures, "broken": broken}


# ---------------------------------------------------------------- what is told


def _n(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def of_simulations(figures: Figures) -> tuple[str, str]:
    """What was simulated, and what broke."""
    faults, seeds = figures["faults"], figures["simulations"]
    by_class = {name: sum(kinds.values()) for name, kinds in faults.items()}
    each = ", ".join(f"{name} {_n(times)}" for name, times in by_class.items())
    first, last = figures["start"], figures["start"] + seeds - 1
    told = (
        f"{_n(seeds)} seeds ({_n(first)} to {_n(last)}), {_n(figures['steps'])} steps, "
        f"{_n(sum(figures['runs'].values()))} runs, "
        f"{_n(sum(by_class.values()))} faults: {each}; "
        f"{_n(figures['crowded'])} seeds with cancels or one key from several clients; "
        f"each of the {len(_calls(faults))} calls of workers and clients failed and "
        "killed, before and after the store committed, "
        f"at least {_n(_rarest(faults))} times"
    )
    broken = len(figures["broken"])
    return told, f"{_n(broken)} violations" if broken else "no violation"


def _calls(faults: dict[str, dict[str, int]]) -> set[str]:
    """The calls on the store that were killed, as these figures name them."""
    met = faults.get("crash", {})
    return {each.removesuffix(" before") for each in met if each.endswith(" before")}


def _rarest(faults: dict[str, dict[str, int]]) -> int:
    """How often the rarest fault before or after a store call was met."""
    cells = [
        faults.get(class_, {}).get(f"{call} {side}", 0)
        for class_ in ("crash", "store")
        for call in _calls(faults)
        for side in ("before", "after")
    ]
    return min(cells, default=0)


def of_mutants(figures: Figures) -> tuple[str, str]:
    """How many breakages there are, and which were not found."""
    killers: dict[str, int | None] = figures["killers"]
    alive = [name for name, seed in killers.items() if seed is None]
    last = max((seed for seed in killers.values() if seed is not None), default=0)
    told = (
        f"{_n(len(killers) - len(alive))} of {_n(len(killers))} hand-made breakages of "
        f"the protocol found, within {_n(figures['seeds'])} seeds each; "
        f"the last by seed {_n(last)}"
    )
    return told, f"not found: {', '.join(alive)}" if alive else "all found"


def of_kills(figures: Figures) -> tuple[str, str]:
    """How many died, and what became of the runs."""
    ends = ", ".join(f"{_n(n)} {status}" for status, n in figures["statuses"].items())
    told = (
        f"{_n(figures['kills'])} worker processes killed over {_n(figures['runs'])} "
        f"runs ({ends}), {_n(figures['executions'])} tool executions, "
        f"{_n(figures['unknown'])} in doubt and told so to the model"
    )
    lost = len(figures["broken"])
    verdict = f"{_n(figures['doubled'])} executions doubled"
    return told, f"{verdict}, {_n(lost)} faults" if lost else f"{verdict}, nothing lost"


def of_engine_kills(figures: Figures) -> tuple[str, str]:
    """How many workers of an engine died, and how soon their runs went on."""
    told = (
        f"{_n(figures['kills'])} workers killed over {_n(figures['runs'])} runs, "
        f"{_n(figures['executions'])} tool executions, {_n(figures['unknown'])} in "
        f"doubt and told so to the model; pauses: {figures['recoveries']}; "
        f"when struck again: {figures['pauses']}"
    )
    lost = figures["lost"]
    verdict = f"{_n(figures['doubled'])} executions doubled"
    return told, f"{verdict}, {_n(lost)} lost" if lost else f"{verdict}, nothing lost"


@frozen
class Part:
    """One row of the table: how it is named, made and told."""

    name: str
    make: Callable[[Namespace], Figures]
    told: Callable[[Figures], tuple[str, str]]


PARTS = {
    "simulations": Part("simulations", simulations, of_simulations),
    "mutants": Part("mutants", mutants, of_mutants),
    "sqlite": Part("SIGKILL on SQLite", kills_on_sqlite, of_kills),
    "postgres": Part("SIGKILL on Postgres", kills_on_postgres, of_kills),
    "dbos": Part("SIGKILL on DBOS", partial(kills_on_engine, "dbos"), of_engine_kills),
    "temporal": Part(
        "SIGKILL on Temporal", partial(kills_on_engine, "temporal"), of_engine_kills
    ),
}


def render(known: dict[str, Figures]) -> str:
    """The README's table; a part that was never made has no row."""
    lines = ["| proof | figures | broken | from |", "| --- | --- | --- | --- |"]
    for key, part in PARTS.items():
        if key in known:
            told, broken = part.told(known[key])
            lines.append(f"| {part.name} | {told} | {broken} | {_source(known[key])} |")
    return "\n".join(lines) + "\n"


def _source(figures: Figures) -> str:
    minutes = figures["seconds"] / 60
    place = f"commit {figures['commit']}, {figures['date']}"
    return f"{place}, {figures['machine']}, {minutes:.1f} minutes"


def written(readme: str, table: str) -> str:
    """A README with another table between its marks.

    Raises:
        ValueError: it has no such marks.
    """
    before, found, rest = readme.partition(FIRST)
    _, end, after = rest.partition(LAST)
    if not found or not end:
        raise ValueError(f"the README has no table between {FIRST.strip()} and {LAST}")
    return f"{before}{FIRST}{table}{LAST}{after}"


# ---------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the parts that were asked for, and write what they came to."""
    given = _given(arguments)
    known: dict[str, Figures] = {}
    if given.figures.exists():
        known = json.loads(given.figures.read_text())
    sound = True
    for key in given.parts or PARTS:
        known[key] = PARTS[key].make(given)
        sound = sound and is_sound(known[key])
        given.figures.write_text(json.dumps(known, indent=1) + "\n")
        given.readme.write_text(written(given.readme.read_text(), render(known)))
        print(render({key: known[key]}), flush=True)
    return 0 if sound else 1


def is_sound(figures: Figures) -> bool:
    """Whether nothing broke, nothing was doubled, and no mutant survived."""
    survived = None in figures.get("killers", {}).values()
    harm = ("broken", "doubled", "lost")
    return not (survived or any(figures.get(name) for name in harm))


def _given(arguments: Sequence[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.release")
    add = parser.add_argument
    add("parts", nargs="*", help=f"of {', '.join(PARTS)}; none means all")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    add("--start", type=int, default=0, help="the first seed to simulate")
    add("--seeds", type=int, default=1_000_000, help="seeds to simulate")
    add("--minutes", type=float, help="simulate no longer than this")
    told = "files that hunts over a range wrote with --json, which are joined"
    add("--simulated", type=Path, nargs="+", metavar="FILE", help=told)
    add("--mutant-seeds", type=int, default=20_000, help="seeds for each mutant")
    add("--kills", type=int, default=2000, help="workers to kill over SQLite")
    add("--postgres-kills", type=int, default=1000, help="and over Postgres")
    add("--dbos-kills", type=int, default=200, help="and on DBOS")
    add("--temporal-kills", type=int, default=200, help="and on Temporal")
    add("--kill-seed", type=int, default=1, help="decides when each is killed")
    add("--runs", type=int, default=40, help="runs to begin with")
    add("--figures", type=Path, default=ROOT / "tests" / "release.json")
    add("--readme", type=Path, default=ROOT / "README.md")
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    return given


if __name__ == "__main__":
    sys.exit(main())
