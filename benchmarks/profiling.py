"""Where the time of a figure goes: function by function, per iteration."""

import cProfile
import pstats
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Prepare
from benchmarks.workload import Bench, drive_to_end

_RUNS = 5
_SHOWN = 40


@contextmanager
def _memory(turns: int, *, kept: bool) -> Iterator[Prepare]:
    bench = Bench(turns)
    yield lambda: partial(drive_to_end, bench.desk(kept=kept))


@contextmanager
def _sqlite(turns: int) -> Iterator[Prepare]:
    from agentloop.stores.sqlite import SQLiteStore

    with (
        TemporaryDirectory() as folder,
        SQLiteStore(Path(folder) / "runs.db", synchronous="OFF") as store,
    ):
        bench = Bench(turns, store)
        yield lambda: partial(drive_to_end, bench.desk(kept=True))


@contextmanager
def _boto3(turns: int) -> Iterator[Prepare]:
    from benchmarks.turns import over_boto3

    with over_boto3() as cases:
        yield cases.of(turns)["ours over boto3"]


CASES: dict[str, tuple[int, Callable[[], object]]] = {
    "T1": (128, lambda: _memory(128, kept=False)),
    "T2": (512, lambda: _memory(512, kept=True)),
    "T3": (128, lambda: _boto3(128)),
    "T8": (128, lambda: _sqlite(128)),
}
"""Figures that can be profiled: turns of a run, and how a run is prepared."""


def profile(figure: str, console: Console) -> None:
    """Print the functions that cost most, by their own time."""
    turns, opened = CASES[figure]
    with opened() as prepare:  # type: ignore[attr-defined] # a context manager
        prepare()()
        profiler = cProfile.Profile()
        for _ in range(_RUNS):
            work = prepare()
            profiler.enable()
            work()
            profiler.disable()
    console.print(_table(figure, pstats.Stats(profiler), turns * _RUNS))
    console.print("a profiler makes calls dear: read these as shares, not as times")


def _table(figure: str, stats: pstats.Stats, turns: int) -> Table:
    found = Table(title=f"{figure}: per turn")
    for name in ("own us", "with callees us", "calls", "where"):
        found.add_column(name, justify="left" if name == "where" else "right")
    entries = stats.stats.items()  # type: ignore[attr-defined] # typeshed leaves it out
    dearest = sorted(entries, key=lambda entry: entry[1][2], reverse=True)
    for (file, line, name), (_, calls, own, whole, _) in dearest[:_SHOWN]:
        place = "/".join(Path(file).parts[-2:])
        found.add_row(
            f"{own / turns * 1e6:.2f}",
            f"{whole / turns * 1e6:.2f}",
            f"{calls / turns:.1f}",
            f"{place}:{line} {name}",
        )
    return found
