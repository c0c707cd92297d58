"""`python -m benchmarks [T1 ... T9] | profile T1 | peers [name ...]`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import crowd, durable, imports, memory, profiling, report, turns
from benchmarks.measure import Row, Tick, noise

Figure: TypeAlias = Callable[[Tick], list[Row]]
FIGURES: dict[str, Figure] = {
    "T1": turns.t1,
    "T2": turns.t2,
    "T3": turns.t3,
    "T4": imports.t4,
    "T5": crowd.t5,
    "T6": crowd.t6,
    "T7": memory.t7,
    "T8": durable.t8,
    "T9": imports.t9,
}


def measure(names: list[str], *, drawn: bool, console: Console) -> None:
    """Measure figures, show them, and write them down."""
    rows: list[Row] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for name in names:
            task = progress.add_task(name, total=1)
            rows += FIGURES[name](_tick(progress, task, name))
            progress.update(task, completed=1, description=f"{name} done")
        curves = {}
        if drawn:
            task = progress.add_task("plot", total=1)
            curves = turns.curves(_tick(progress, task, "plot"))
            progress.update(task, completed=1, description="plot done")
    report.show(rows, noise(), console)
    report.write_json(Path("benchmarks.json"), rows, noise(), curves)
    if drawn:
        report.plot(Path("benchmarks.png"), curves)
    console.print(f"written: benchmarks.json{' and benchmarks.png' if drawn else ''}")


def _tick(progress: Progress, task: int, name: str) -> Tick:
    return lambda what: progress.update(task, description=f"{name}: {what}")  # type: ignore[arg-type] # a TaskID is an int


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="*", help="T1 ... T9, `profile T1`, or `peers`")
    what: list[str] = parser.parse_args().what
    console = Console()
    match what:
        case ["profile", name] if name in profiling.CASES:
            profiling.profile(name, console)
        case ["profile", *_]:
            parser.error(f"profile takes one of {', '.join(profiling.CASES)}")
        case ["peers", *names]:
            from benchmarks.peers import compare

            compare(names, console)
        case []:
            measure(list(FIGURES), drawn=True, console=console)
        case names if set(names) <= FIGURES.keys():
            measure(names, drawn=False, console=console)
        case names:
            parser.error(f"{' '.join(names)}: not all of {', '.join(FIGURES)}")


if __name__ == "__main__":
    main()
