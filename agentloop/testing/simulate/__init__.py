"""A deterministic simulator: many workers, clients and faults, ordered by one seed.

Everything that decides is the real thing: machine, desk, journal, preparation,
driver, service and `MemoryStore`. Simulated are time, the model, the tools, and who
is next. `python -m agentloop.testing.simulate --seeds 20000` hunts; a seed that finds
something finds it again, bit by bit.
"""

from agentloop.testing.simulate.chance import CLASSES, FaultClass, Violation
from agentloop.testing.simulate.hunt import Hunt, Progress
from agentloop.testing.simulate.shrink import Needed, shrink
from agentloop.testing.simulate.simulation import Report, Scale, simulate
from agentloop.testing.simulate.totals import Totals

__all__ = [
    "CLASSES",
    "FaultClass",
    "Hunt",
    "Needed",
    "Progress",
    "Report",
    "Scale",
    "Totals",
    "Violation",
    "shrink",
    "simulate",
]
