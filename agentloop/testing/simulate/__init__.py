"""A deterministic simulator: many workers, clients and faults, ordered by one seed.

Everything that decides is the real thing: machine, desk, journal, preparation,
service and `MemoryStore`. Simulated are time, the model, the tools, and who is
next. `python -m agentloop.testing.simulate --seeds 20000` hunts; a seed that finds
something finds it again, bit by bit.
"""

from agentloop.testing.simulate.chance import CLASSES, FaultClass, Violation
from agentloop.testing.simulate.simulation import Report, shrink, simulate

__all__ = ["CLASSES", "FaultClass", "Report", "Violation", "shrink", "simulate"]
