"""The command: `python -m agentloop.testing.simulate --seeds 20000 --start 0`."""

import argparse
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentloop.testing.simulate.hunt import Hunt, Progress
from agentloop.testing.simulate.origin import commit, origin
from agentloop.testing.simulate.shrink import shrink
from agentloop.testing.simulate.simulation import simulate
from agentloop.testing.simulate.totals import Totals


def record(hunt: Hunt) -> tuple[Totals, dict[str, Any]]:
    """Hunt; the totals, and the figures with where they come from."""
    came_from = origin()  # of what runs now, whatever is committed meanwhile
    began = time.monotonic()
    totals = hunt.run()
    took = {"start": hunt.start, "seconds": round(time.monotonic() - began, 1)}
    return totals, {**came_from, **took, **totals.figures()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hunt, print what it came to, return the exit status."""
    chosen = _chosen(arguments)
    if chosen.trace is not None:
        report = simulate(chosen.trace, tell=print)
        print(report.violation or "no violation")
        return 1 if report.violation else 0
    hunt = Hunt(
        start=chosen.start,
        seeds=chosen.seeds,
        jobs=chosen.jobs,
        minutes=chosen.minutes,
        tell=tell,
        found=found,
    )
    totals, figures = record(hunt)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    _print(totals, figures)
    return 1 if totals.broken else 0


def _chosen(arguments: Sequence[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(prog="python -m agentloop.testing.simulate")
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes"
    )
    parser.add_argument(
        "--minutes", type=float, help="begin no more seeds after so many"
    )
    parser.add_argument(
        "--trace", type=int, metavar="SEED", help="tell what happens in one seed"
    )
    parser.add_argument("--json", type=Path, help="a file for all figures")
    return parser.parse_args(arguments)


def tell(progress: Progress) -> None:
    """Print how far a hunt has come."""
    print(progress, file=sys.stderr, flush=True)


def found(seed: int, violation: str) -> None:
    """Print a violation, and what it takes to see it again."""
    least = shrink(seed)
    needed = ", ".join(least.classes) or "no fault at all"
    print(f"seed {seed} at commit {commit() or 'unknown'}: {violation}")
    print(f"  trace {simulate(seed).trace}; needs {needed}")
    print(f"  python -m agentloop.testing.simulate --trace {seed}")
    print(f"  simulate({seed}, {least.classes}, print, {least.scale})", flush=True)


def _print(totals: Totals, figures: dict[str, Any]) -> None:
    seeds, start, seconds = totals.simulations, figures["start"], figures["seconds"]
    print(f"simulations {seeds} (seeds {start} to {start + seeds - 1})")
    for name, times in totals.by_class().items():
        print(f"faults {name} {times}")
    for (class_, kind), times in sorted(totals.faults.items()):
        print(f"faults {class_}: {kind} {times}")
    ends = ", ".join(f"{n} {status}" for status, n in figures["runs"].items())
    print(f"runs {ends}")
    print(f"steps {totals.steps}")
    print(f"fingerprint {figures['fingerprint']}")
    print(f"violations {len(totals.broken)}")
    print(f"seconds {seconds} ({seeds / max(seconds, 0.1):.0f} simulations/s)")


if __name__ == "__main__":
    sys.exit(main())
