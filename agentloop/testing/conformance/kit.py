"""The store kit: runs the checks on a host's store and reports.

Checks are in `contract`, `driving`, `races` and `failures`; this room only runs
them, and says of each that was not run why.
"""

from collections.abc import Callable, Iterator
from typing import Literal

from attrs import field, frozen

from agentloop.testing.conformance import contract, driving, failures, races
from agentloop.testing.conformance.judging import (
    ALL,
    LEVELS,
    BrokenPromiseError,
    Check,
    Level,
)
from agentloop.testing.conformance.subject import (
    Factory,
    MovableClock,
    Subject,
    takes_clock,
)

__all__ = ["BrokenPromiseError", "Check", "Outcome", "Report", "StoreConformance"]

ROOMS = (contract, driving, races, failures)
"""Imported for their checks."""
Verdict = Literal["kept", "broken", "not run"]


@frozen
class Outcome:
    """What became of a check; `reason` says why it is not `kept`."""

    check: Check
    verdict: Verdict
    reason: str = ""

    def __str__(self) -> str:
        told = f"{self.verdict:7}  {self.check.level}: {self.check.name}"
        if not self.reason:
            return told
        return f"{told}\n         {self.check.claim}\n         {self.reason}"


@frozen
class Report:
    """What became of all checks."""

    outcomes: tuple[Outcome, ...]

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """The promises that were not kept."""
        return tuple(each for each in self.outcomes if each.verdict == "broken")

    @property
    def conforms(self) -> bool:
        """Whether no promise was broken."""
        return not self.broken

    def summary(self) -> str:
        """The counts, in one line."""
        counts = {"kept": 0, "broken": 0, "not run": 0}
        for each in self.outcomes:
            counts[each.verdict] += 1
        return ", ".join(f"{number} {name}" for name, number in counts.items())

    def __str__(self) -> str:
        shown = [str(each) for each in self.outcomes if each.verdict != "kept"]
        return "\n".join([*shown, self.summary()])


@frozen
class StoreConformance:
    """Examines the stores that a factory makes.

    Give it a database without precious rows. Checks keep to companies, drivers and
    ids of their own, but they do prune what ended more than a day ago.

    Args:
        factory: makes a store; every store it makes must have the same rows, so that
            a second one is what a restart finds. If it has a parameter `clock`, it
            gets one that the kit moves; without it, what needs time to pass is not
            checked, and the report says so.
        place: `module:name` of the factory, for checks with several processes.
        levels: which kinds of checks to run.
    """

    factory: Factory
    place: str | None = field(default=None, kw_only=True)
    levels: tuple[Level, ...] = field(default=LEVELS, kw_only=True)

    def outcomes(self) -> Iterator[Outcome]:
        """Run the checks one by one; each outcome comes as it is known."""
        clock = MovableClock()
        for check in ALL:
            lacking = self._lacking(check)
            if lacking:
                yield Outcome(check, "not run", lacking)
            else:
                yield _examined(check, lambda: Subject(self.factory, clock, self.place))

    def run(self) -> Report:
        """Run all checks and report."""
        return Report(tuple(self.outcomes()))

    def check(self) -> Report:
        """Run all checks; for a host's test.

        Raises:
            BrokenPromiseError: with the whole report, when a promise was broken.
        """
        report = self.run()
        if not report.conforms:
            raise BrokenPromiseError(f"the store breaks its promises\n{report}")
        return report

    def _lacking(self, check: Check) -> str:
        """Why a check cannot be run, empty when it can."""
        if check.level not in self.levels:
            return f"checks of {check.level} were not asked for"
        if check.needs == "clock" and not takes_clock(self.factory):
            return "the factory takes no clock, and this needs days to pass"
        if check.needs == "place" and self.place is None:
            return "give place='module:name', so that processes can import the factory"
        return ""


def _examined(check: Check, make: Callable[[], Subject]) -> Outcome:
    subject = None
    try:
        subject = make()
        check.body(subject)
    except BrokenPromiseError as error:
        return Outcome(check, "broken", str(error))
    except Exception as error:
        return Outcome(
            check, "broken", f"an unexpected {type(error).__name__}: {error}"
        )
    finally:
        if subject is not None:
            subject.close()
    return Outcome(check, "kept")
