"""What a drive may still begin, and when: deadlines and retries (20 and 21).

It goes by the clock that its driver goes by, however wrong that is, and knows of the
rules only what the documentation says: which failures pass, what is waited for them,
how long an effect may take. It knows neither the desk nor the machine.
"""

from math import inf

from attrs import define, field

from agentloop.core.catalog import Failure, FailureKind
from agentloop.core.phases import DiscoveryFailed, ModelFailed, ToolFailed
from agentloop.runtime.desk import effect_id
from agentloop.runtime.perform import Performed
from agentloop.testing.simulate.chance import SkewedClock
from agentloop.testing.simulate.ledger import require

PASSING: tuple[FailureKind, ...] = ("throttled", "unavailable", "timeout")
"""Failures of a model that are tried again."""
LASTING: tuple[FailureKind, ...] = ("denied", "malformed_output", "context_window")
"""Failures of a model that are not."""
_RETRIED = {*PASSING, "connection", "mcp_server", "discovery_unavailable"}
DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before the second try and those that follow; the last one stays."""
ATTEMPT_TIMEOUT = 40.0
"""Seconds for one inference: longer than a lease, so that some outlast theirs."""
TOOL_TIMEOUT = 20.0
"""Seconds for one tool call."""
_LEAST = 0.001  # what an effect gets whose run is out of time already
_ROUNDING = 1e-3  # a year and a second are added up on the way


@define
class Bounds:
    """The bounds of one drive; `deadline` and `looked` by its driver's clock."""

    clock: SkewedClock
    deadline: float | None
    looked: float = -inf
    failed: dict[str, tuple[int, Failure, float]] = field(factory=dict)

    def look(self) -> None:
        """The driver looks at what happened, and so at its clock."""
        self.looked = self.clock.monotonic()

    def begin(self, key: str, attempt: int) -> None:
        """An effect begins: in time, and as a retry only if there may be one."""
        if self.deadline is not None:
            late = self.looked - self.deadline
            require(late < 0, 20, f"{key} begins {late} s after the deadline was seen")
        last, failure, at = self.failed.get(key, (0, None, 0.0))
        if failure is None or last != attempt - 1:
            return
        again = f"attempt {attempt} of {key}"
        told = f"{again} after {failure.kind}, which is for good"
        require(failure.kind in _RETRIED, 21, told)
        due = max(DELAYS[min(last, len(DELAYS)) - 1], failure.retry_after)
        waited = self.clock.monotonic() - at
        told = f"{again} after {waited} s, not {due}"
        require(waited > due - _ROUNDING, 21, told)

    def gives(self, seconds: float | None, most: float) -> None:
        """An effect is told how long it may take."""
        if self.deadline is not None:
            left = self.deadline - self.clock.monotonic()
            most = max(min(most, left), _LEAST)
        fits = seconds is not None and 0 < seconds <= most + _ROUNDING
        require(fits, 20, f"an effect may take {seconds} s, not {most}")

    def note(self, done: Performed) -> None:
        """An effect is over; its failure may call for another try."""
        event = done.event
        if isinstance(event, ModelFailed | ToolFailed | DiscoveryFailed):
            key, attempt = effect_id(done.effect)
            self.failed[key] = attempt, event.failure, self.clock.monotonic()
