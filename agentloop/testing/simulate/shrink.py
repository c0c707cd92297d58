"""What a failing seed needs to fail: fewer faults, fewer who act, a shorter storm.

Each is tried alone, the smallest first, and what still fails is kept; round after
round, until nothing more can be spared.
"""

from attrs import evolve, field, frozen

from agentloop.testing.simulate.chance import CLASSES, FaultClass
from agentloop.testing.simulate.simulation import Scale, simulate

_STORMS = (1, 5, 10, 20, 40, 80)


@frozen
class Needed:
    """The classes of faults and the scale under which a seed still fails."""

    classes: tuple[FaultClass, ...] = CLASSES
    scale: Scale = field(factory=Scale)

    def fails(self, seed: int) -> bool:
        """Whether it is enough."""
        return simulate(seed, self.classes, scale=self.scale).violation is not None


def shrink(seed: int) -> Needed:
    """The least that a failing seed needs: nothing of it can be spared by itself."""
    needed, before = _smaller(seed, Needed()), Needed()
    while needed != before:
        needed, before = _smaller(seed, needed), needed
    return needed


def _smaller(seed: int, needed: Needed) -> Needed:
    """One round: every class of faults, then every size, the smallest first."""
    for each in needed.classes:
        fewer = tuple(one for one in needed.classes if one != each)
        needed = _tried(seed, needed, evolve(needed, classes=fewer))
    for name, sizes in _sizes(needed.scale).items():
        for size in sizes:
            scale = evolve(needed.scale, **{name: size})
            smaller = evolve(needed, scale=scale)
            if smaller.fails(seed):
                needed = smaller
                break
    return needed


def _tried(seed: int, needed: Needed, smaller: Needed) -> Needed:
    return smaller if smaller.fails(seed) else needed


def _sizes(most: Scale) -> dict[str, tuple[int, ...]]:
    return {
        "clients": tuple(range(1, most.clients)),
        "workers": tuple(range(1, most.workers)),
        "keys": tuple(range(1, most.keys)),
        "storm": tuple(steps for steps in _STORMS if steps < most.storm),
    }
