"""What a seed decides: every draw, every fault, and the trace that proves a replay.

Nothing here knows what a run is.
"""

import hashlib
import random  # noqa: TID251 - one seeded generator orders a whole simulation
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias, TypeVar

T = TypeVar("T")
FaultClass: TypeAlias = Literal["crash", "answer", "store", "clock", "crowd", "removal"]
CLASSES: tuple[FaultClass, ...] = (
    "crash",
    "answer",
    "store",
    "clock",
    "crowd",
    "removal",
)
"""Deaths of workers and clients; answers late, twice, lost, out of order, after the
end or never; store errors before and after a commit; clocks that jump, freeze and
differ; several clients, resumers, readers and cancels at once; conversations deleted
and runs pruned while others use them."""

_RATES = (0.0, 0.005, 0.02, 0.06)
_ANSWER_RATES = (0.0, 0.01, 0.04, 0.12)  # there are fewer answers than calls
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_DRAINED = 0.1


class Violation(BaseException):
    """An invariant does not hold. No library code may catch it."""


class Died(BaseException):
    """The process of an actor is gone. No library code may catch it."""


class Chance:
    """The dice of one simulation, the faults they gave, and the trace."""

    def __init__(self, seed: int, classes: Sequence[FaultClass]) -> None:
        dice = random.Random(seed)  # noqa: S311 - orders events, guards nothing
        self.faults: Counter[tuple[FaultClass, str]] = Counter()
        self.calm = False
        self._roll = dice.random
        self._classes = frozenset(classes)
        rates = {each: dice.choice(_RATES) for each in CLASSES}
        rates["answer"] = dice.choice(_ANSWER_RATES)
        self._rates = {each: rates[each] * self.allows(each) for each in CLASSES}
        self._lines: list[str] = []
        self.note: Callable[[str], object] = self._lines.append
        """Adds a line to the trace."""

    def allows(self, class_: FaultClass) -> bool:
        """Whether a class of faults takes part at all."""
        return class_ in self._classes

    def hit(self, class_: FaultClass, kind: str) -> bool:
        """Whether a fault happens here; the dice roll even when it may not."""
        if self._roll() >= self._rates[class_]:
            return False
        self.count(class_, kind)
        return True

    def one_of(self, class_: FaultClass, kinds: Sequence[str]) -> str | None:
        """Which fault of several happens here, if any; one roll decides for all."""
        rate = self._rates[class_]
        roll = self._roll()
        if roll >= rate * len(kinds):
            return None
        kind = kinds[int(roll / rate)]
        self.count(class_, kind)
        return kind

    def calm_down(self) -> None:
        """No faults from now on."""
        self.calm = True
        self._rates = dict.fromkeys(CLASSES, 0.0)

    def count(self, class_: FaultClass, kind: str) -> None:
        """Note a fault that happened."""
        self.faults[class_, kind] += 1
        self.note(f"! {class_} {kind}")

    def often(self, probability: float) -> bool:
        """Whether something happens that is no fault."""
        return self._roll() < probability

    def drains(self) -> bool:
        """Whether a worker is asked to stop once nothing is under way."""
        return self._roll() < _DRAINED and not self.calm

    def below(self, limit: float) -> float:
        """A number from 0 to a limit."""
        return self._roll() * limit

    def number(self, low: int, high: int) -> int:
        """A whole number between two, both included."""
        return low + int(self._roll() * (high - low + 1))

    def pick(self, some: Sequence[T]) -> T:
        """One of several."""
        return some[int(self._roll() * len(some))]

    def tell_also(self, tell: Callable[[str], object]) -> None:
        """Tell somebody every line of the trace as it is added."""
        add = self._lines.append

        def note(text: str) -> None:
            tell(text)
            add(text)

        self.note = note

    @property
    def digest(self) -> str:
        """The trace so far, as a digest."""
        text = "\n".join([*self._lines, ""])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class WorldClock:
    """The time of the simulation, which the store goes by.

    What passed only rises; what the clock shows may be set, also back.
    """

    def __init__(self) -> None:
        self.passed = 0.0
        self.set_by = 0.0
        self._shown = (0.0, _EPOCH)

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds

    def now(self) -> datetime:
        """The present instant."""
        at, shown = self._shown
        if at != self.passed + self.set_by:
            at = self.passed + self.set_by
            shown = _EPOCH + timedelta(seconds=at)
            self._shown = (at, shown)
        return shown

    def monotonic(self) -> float:
        """Seconds since the simulation began."""
        return self.passed


class SkewedClock:
    """A worker's own clock: too fast or too slow, or frozen for a while."""

    def __init__(self, world: WorldClock) -> None:
        self.frozen: float | None = None
        self._world = world
        self._rate = 1.0
        self._since = (0.0, 0.0)  # what passed, and what this clock showed then

    def now(self) -> datetime:
        """The present instant, which no worker asks its own clock for."""
        return self._world.now()

    def monotonic(self) -> float:
        """Seconds that this worker measured; they stand still while frozen."""
        if self.frozen is not None:
            return self.frozen
        passed, shown = self._since
        return shown + (self._world.passed - passed) * self._rate

    def go_at(self, rate: float) -> None:
        """Measure so many seconds for each that passes, from now on."""
        self.frozen = None
        self._since = self._world.passed, self.monotonic()
        self._rate = rate
