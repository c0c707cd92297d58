"""How anything is measured here: medians of CPU time, in turns, with their spread.

Cases of one figure are sampled by turns, so that a busy minute harms all of them
alike. Garbage is collected before each sample and never counted. A fixed piece of
work is timed along with them: its spread says how noisy the machine was.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from attrs import frozen

Work: TypeAlias = Callable[[], object]
Prepare: TypeAlias = Callable[[], Work]
"""Gets a sample ready, outside of the clock, and returns what is timed."""
Tick: TypeAlias = Callable[[str], None]
"""Told what is measured now."""

NOISY_SPREAD = 0.25
NOISY_LOAD = 0.75
"""Load per core above which figures deserve doubt."""


@frozen
class Spread:
    """Samples of one case, as medians and quartiles."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def best(self) -> float:
        """The smallest sample, the least disturbed one."""
        return min(self.samples)

    @property
    def width(self) -> float:
        """The middle half of the samples as a share of their median."""
        if len(self.samples) < 3 or not self.median:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / self.median

    def scaled(self, factor: float) -> "Spread":
        """The same samples in another unit."""
        return Spread(tuple(sample * factor for sample in self.samples))


@frozen(kw_only=True)
class Row:
    """One line of the table: a value beside its baseline, and what it must hold.

    `judges` says whether the value or its ratio to the baseline is held against
    `limit`; without a limit the line only informs.
    """

    figure: str
    what: str
    value: float
    unit: str = "us"
    baseline: float | None = None
    limit: float | None = None
    judges: str = "value"
    spread: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How often the baseline goes into the value."""
        return self.value / self.baseline if self.baseline else None

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; None without one."""
        if self.limit is None:
            return None
        judged = self.value if self.judges == "value" else self.ratio
        return judged is not None and judged <= self.limit


@frozen
class Noise:
    """What the machine did beside us."""

    load: float
    cores: int
    spread: float

    @property
    def told(self) -> str:
        """A line for the report."""
        noisy = self.spread > NOISY_SPREAD or self.load > NOISY_LOAD * self.cores
        word = "NOISY, take care" if noisy else "quiet"
        return (
            f"{word}: load {self.load:.2f} on {self.cores} cores, "
            f"a fixed piece of work spread by {self.spread:.0%}"
        )


def interleaved(
    cases: Mapping[str, Prepare], repeats: int, tick: Tick
) -> dict[str, Spread]:
    """CPU seconds of each case, sampled by turns; the first round is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, prepare in cases.items():
            tick(f"{name}, sample {turn} of {repeats}")
            seconds = cpu_of(prepare())
            if turn:
                found[name].append(seconds)
        NOISE.append(cpu_of(fixed_work))
    return {name: Spread(tuple(samples)) for name, samples in found.items()}


def cpu_of(work: Work) -> float:
    """CPU seconds of this process for one piece of work, all threads included."""
    gc.collect()
    begin = time.process_time()
    work()
    return time.process_time() - begin


def wall_of(work: Work) -> float:
    """Seconds on the wall for one piece of work."""
    gc.collect()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


NOISE: list[float] = []
"""How long the fixed work took, each time that it was done."""


def fixed_work() -> None:
    """The same work always, some ten milliseconds of it."""
    sum(i * i % 7 for i in range(150_000))


def noise(samples: Sequence[float] | None = None) -> Noise:
    """How quiet the machine was so far."""
    taken = tuple(NOISE if samples is None else samples)
    spread = Spread(taken).width if taken else 0.0
    return Noise(os.getloadavg()[0], os.cpu_count() or 1, spread)
