"""T7: how far the memory of a process grows, each case in a process of its own."""

import gc
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from agentloop.ports import Store
from benchmarks import bare
from benchmarks.measure import Row, Tick
from benchmarks.workload import Bench, drive_to_end

TURNS = 512
RUNS = 10_000
_WARM_RUNS = 500


def _status(name: str) -> float:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    if found is None:
        raise LookupError(name)
    return int(found[1]) / 1024


def _peak_growth(work: Callable[[], object]) -> float:
    """Megabytes by which the peak rises above what is held before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _one_long_run(kind: str) -> float:
    if kind == "bare loop":
        bare.loop(TURNS)
        return _peak_growth(lambda: bare.loop(TURNS))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(TURNS, _store(kind, folder))
        drive_to_end(bench.desk(kept=True))  # a store in memory keeps this run, too
        desk = bench.desk(kept=kind != "nothing stored")
        return _peak_growth(lambda: drive_to_end(desk))


def _store(kind: str, folder: str) -> Store | None:
    from agentloop.stores.sqlite import SQLiteStore

    if kind in {"memory", "nothing stored"}:
        return None
    return SQLiteStore(f"{folder}/runs.db", synchronous="OFF")


def _many_runs() -> float:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(2, _store("SQLite", folder))

        def runs(count: int) -> None:
            for _ in range(count):
                drive_to_end(bench.desk(kept=True))

        runs(_WARM_RUNS)
        return _peak_growth(lambda: runs(RUNS))


def probe(kind: str) -> float:
    """The growth of one case, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", kind],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout))


def t7(tick: Tick) -> list[Row]:
    """Peak growth of a long run, and of many runs."""
    growth: dict[str, float] = {}
    for kind in ("bare loop", "nothing stored", "SQLite", "memory", "many"):
        tick(f"memory: {kind}")
        growth[kind] = probe(kind)
    floor = growth["bare loop"]
    return [
        *(
            Row(
                figure="T7",
                what=f"peak growth of {TURNS} iterations, {kind}",
                value=growth[kind],
                unit="MB",
                baseline=floor,
                limit=limit,
            )
            for kind, limit in (
                ("nothing stored", 1.5),
                ("SQLite", 1.5),
                ("memory", None),
            )
        ),
        Row(
            figure="T7",
            what=f"peak growth of {RUNS} runs on SQLite",
            value=growth["many"],
            unit="MB",
            limit=1.0,
        ),
    ]


if __name__ == "__main__":
    case = sys.argv[1]
    print(json.dumps(_many_runs() if case == "many" else _one_long_run(case)))
