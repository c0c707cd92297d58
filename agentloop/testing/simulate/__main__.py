"""The hunt: `python -m agentloop.testing.simulate --seeds 20000 --start 0`."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from agentloop.testing.simulate.simulation import Report, shrink, simulate


def hunt(start: int, seeds: int) -> int:
    """Simulate a range of seeds, print what it came to, return the exit status."""
    began = time.monotonic()
    faults: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    steps = violations = 0
    for number, seed in enumerate(range(start, start + seeds), start=1):
        report = simulate(seed)
        steps += report.steps
        ends.update(report.runs)
        for class_, kind, times in report.faults:
            faults[class_] += times
            faults[f"{class_}: {kind}"] += times
        if report.violation is not None:
            violations += 1
            _tell(report)
        if number % max(seeds // 10, 1) == 0:
            print(f"{number} of {seeds} simulations", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    print(f"simulations {seeds} (seeds {start} to {start + seeds - 1})")
    for name, times in sorted(faults.items()):
        print(f"faults {name} {times}")
    print("runs " + ", ".join(f"{n} {status}" for status, n in sorted(ends.items())))
    print(f"steps {steps}")
    print(f"violations {violations}")
    print(f"seconds {seconds:.1f} ({seeds / seconds:.0f} simulations/s)")
    return 1 if violations else 0


def _tell(report: Report) -> None:
    needed = ", ".join(shrink(report.seed)) or "no fault at all"
    print(f"seed {report.seed}: {report.violation}")
    print(f"  trace {report.trace}; needs {needed}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m agentloop.testing.simulate")
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0)
    chosen = parser.parse_args(arguments)
    return hunt(chosen.start, chosen.seeds)


if __name__ == "__main__":
    sys.exit(main())
