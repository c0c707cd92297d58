"""The hunt: a range of seeds, shared among processes, with its progress told.

What it finds depends on the seeds alone, not on how many processes took part.
"""

import gc
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from attrs import field, frozen

from agentloop.testing.simulate.simulation import simulate
from agentloop.testing.simulate.totals import Totals

_SHARE = 100
"""Seeds that a process takes at a time: about half a second's work."""
_PAUSE = 10.0
"""Seconds between two words on the progress."""


@frozen(kw_only=True)
class Progress:
    """How far a hunt has come."""

    done: int
    of: int
    seconds: float

    def __str__(self) -> str:
        """Simulations, their rate, and the time that is left."""
        rate = self.done / max(self.seconds, 1e-9)
        left = (self.of - self.done) / max(rate, 1e-9)
        part = f"{self.done} of {self.of} simulations"
        return f"{part}, {rate:.0f} a second, {left / 60:.1f} minutes left"


@frozen(kw_only=True)
class Hunt:
    """Which seeds to simulate, and with how much effort.

    With one job this very process does it all. After `minutes` no more seeds are
    begun; those that were simulated are always the first ones of the range.
    """

    start: int = 0
    seeds: int
    jobs: int = 1
    minutes: float | None = None
    tell: Callable[[Progress], None] = field(default=lambda _: None, eq=False)
    """Hears of the progress every ten seconds, and at the end."""
    found: Callable[[int, str], None] = field(default=lambda _, __: None, eq=False)
    """Hears of every seed that breaks an invariant, and of what it broke."""

    def run(self) -> Totals:
        """Simulate, and add up."""
        began = told = time.monotonic()
        totals = Totals()
        for part in _parts(_shares(self.start, self.seeds), self.jobs):
            totals.merge(part)
            for seed, violation in part.broken.items():
                self.found(seed, violation)
            now = time.monotonic()
            over = self._is_over(totals.simulations, now - began)
            if over or now - told >= _PAUSE:
                told, done = now, totals.simulations
                self.tell(Progress(done=done, of=self.seeds, seconds=now - began))
            if over:
                break
        return totals

    def _is_over(self, done: int, seconds: float) -> bool:
        late = self.minutes is not None and seconds >= 60 * self.minutes
        return late or done == self.seeds


def _shares(start: int, seeds: int) -> Iterator[range]:
    end = start + seeds
    return (range(at, min(at + _SHARE, end)) for at in range(start, end, _SHARE))


def _parts(shares: Iterable[range], jobs: int) -> Iterator[Totals]:
    if jobs == 1:
        yield from map(_simulate_all, shares)
        return
    # Fresh processes: a fork would copy whatever threads and locks the host has.
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_settle) as pool:
        try:
            yield from pool.map(_simulate_all, shares)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _settle() -> None:
    """In a fresh process, once this module is there: what was imported stays."""
    gc.freeze()


def _simulate_all(share: range) -> Totals:
    totals = Totals()
    with _unheard(), _unswept():
        for seed in share:
            totals.add(simulate(seed))
    return totals


@contextmanager
def _unheard() -> Iterator[None]:
    """What the loop logs of faults that were made up is no news to anybody."""
    log = logging.getLogger("agentloop")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _unswept() -> Iterator[None]:
    """Look for cycles once a share: each simulation is one, and dies as a whole."""
    swept = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        if swept:
            gc.enable()
