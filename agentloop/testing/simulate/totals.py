"""What many simulations came to: counts that add up in whatever order they come.

Nothing in here simulates, and nothing prints.
"""

from collections import Counter
from typing import Any

from attrs import define, field

from agentloop.testing.simulate.chance import FaultClass
from agentloop.testing.simulate.simulation import Report

Cell = tuple[FaultClass, str]


@define
class Totals:
    """The sum of some simulations; equal for equal seeds, however they were shared.

    `fingerprint` is made of all traces, so two hunts over the same seeds have the
    same one only if every simulation went the same way. `broken` holds the seeds
    with a violation and what it was.
    """

    simulations: int = 0
    steps: int = 0
    runs: Counter[str] = field(factory=Counter)
    faults: Counter[Cell] = field(factory=Counter)
    crowded: int = 0
    broken: dict[int, str] = field(factory=dict)
    fingerprint: int = 0

    def add(self, report: Report) -> None:
        """Count one more simulation."""
        self.simulations += 1
        self.steps += report.steps
        self.runs.update(report.runs)
        for class_, kind, times in report.faults:
            self.faults[class_, kind] += times
        self.crowded += any(class_ == "crowd" for class_, _, _ in report.faults)
        if report.violation is not None:
            self.broken[report.seed] = report.violation
        self.fingerprint ^= int(report.trace, 16)

    def merge(self, other: "Totals") -> None:
        """Add what others came to."""
        self.simulations += other.simulations
        self.steps += other.steps
        self.runs.update(other.runs)
        self.faults.update(other.faults)
        self.crowded += other.crowded
        self.broken |= other.broken
        self.fingerprint ^= other.fingerprint

    def by_class(self) -> dict[str, int]:
        """Faults of each class."""
        found: Counter[str] = Counter()
        for (class_, _), times in self.faults.items():
            found[class_] += times
        return dict(sorted(found.items()))

    def figures(self) -> dict[str, Any]:
        """All of it as JSON."""
        kinds: dict[str, dict[str, int]] = {}
        for (class_, kind), times in sorted(self.faults.items()):
            kinds.setdefault(class_, {})[kind] = times
        return {
            "simulations": self.simulations,
            "steps": self.steps,
            "runs": dict(sorted(self.runs.items())),
            "faults": kinds,
            "crowded": self.crowded,
            "broken": {str(seed): why for seed, why in self.broken.items()},
            "fingerprint": f"{self.fingerprint:032x}",
        }
