"""What must not grow, counted instead of timed, so that it cannot flake.

`findings` runs the loop and counts: calls of functions per turn, in a short run and
in a long one; statements and commits per iteration on SQLite; modules that the core
imports. It returns what is above its bound. A bound stands a little above what was
counted when it was set: whoever raises one says why in the commit.
"""

import gc
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from attrs import frozen

from benchmarks.durable import counted_run
from benchmarks.imports import HEAVY
from benchmarks.workload import Bench, drive_to_end

SHORT, LONG = 64, 512


@frozen
class Count:
    """Something counted, and the most it may be."""

    what: str
    counted: float
    bound: float

    @property
    def finding(self) -> str | None:
        """What is wrong, if anything is."""
        if self.counted <= self.bound:
            return None
        return f"{self.what}: {self.counted:.2f}, above the bound of {self.bound:g}"


def calls_in(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, are called on this thread.

    A collection calls back whoever asked to hear of it, so none may fall into it.
    """
    count = 0

    def on_event(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    gc.disable()
    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


def calls_per_turn(turns: int, *, kept: bool) -> float:
    """Calls of functions per turn, the beginning and end of the run included."""
    bench = Bench(turns)
    drive_to_end(bench.desk(kept=kept))  # validators are compiled once
    desk = bench.desk(kept=kept)
    return calls_in(lambda: drive_to_end(desk)) / turns


def turns() -> list[Count]:
    """Work per turn: bounded, and the same in a long run."""
    counts = []
    for kept, bound, name in ((False, 265, "nothing stored"), (True, 400, "memory")):
        short, long = (calls_per_turn(n, kept=kept) for n in (SHORT, LONG))
        counts += [
            Count(f"calls per turn, {name}, N={LONG}", long, bound),
            Count(f"growth from N={SHORT} to {LONG}, {name}", long / short, 1.05),
        ]
    return counts


def statements() -> list[Count]:
    """Statements and commits per iteration with one tool, on SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        short = counted_run(Path(folder) / "short.db", SHORT)
        long = counted_run(Path(folder) / "long.db", LONG)
    more = Counter(long)
    more.subtract(short)
    per = {name: n / (LONG - SHORT) for name, n in more.items()}
    return [
        Count("commits per iteration", per["COMMIT"], 2),
        Count("statements per iteration", sum(per.values()), 14),
        Count("rows read or rewritten", per["SELECT"] + per["UPDATE"], 2),
    ]


def modules() -> list[Count]:
    """Modules that importing the core loads, the standard library's not counted.

    Those differ between versions of Python; figure T4 counts them as well.
    """
    code = "import sys; from agentloop import AgentLoop; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    packages = {"agentloop", "attr", "attrs", "cattrs", "typing_extensions"}
    ours = [n for n in done.stdout.split() if n.partition(".")[0] in packages]
    return [
        Count("modules of agentloop, attrs and cattrs", len(ours), 90),
        Count("heavy packages loaded early", len(loaded.intersection(HEAVY)), 0),
    ]


def counts() -> list[Count]:
    """Everything that is guarded."""
    return [*turns(), *statements(), *modules()]


def findings() -> list[str]:
    """What is above its bound; empty when all is well."""
    return [found for count in counts() if (found := count.finding) is not None]


if __name__ == "__main__":
    for each in counts():
        print(f"{each.what}: {each.counted:.2f} of {each.bound:g}")
    sys.exit("\n".join(findings()) or 0)
