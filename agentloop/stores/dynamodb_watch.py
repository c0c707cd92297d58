"""Who still lives: what this process saw of the runs that others drive.

DynamoDB shows no clock, and the clocks of two machines may differ by hours. So none
is compared with another. Every claim, heartbeat and checkpoint counts a run's beats
up by one, and a lease is lost when the same beat was seen for as long as the lease
was to last, by the monotonic clock of whoever looks. A process that has just begun
to look takes a dead worker's run one lease later, however long the worker is dead.

`beat_at` and `over_at` of a head are of one clock, that of whoever beat last: their
difference is the time the run had left, and neither means anything by itself.
"""

from typing import Final

from attrs import define, field, frozen

from agentloop.ports.system import Clock
from agentloop.stores.dynamodb_rows import Head

_MOST: Final = 100_000
"""Runs that are remembered; who is forgotten is only taken over a lease later."""


def micros(seconds: float) -> int:
    """Seconds as a whole number of microseconds.

    Raises:
        ValueError: the number of seconds is none.
    """
    try:
        return round(seconds * 1e6)
    except OverflowError as error:
        raise ValueError(f"{seconds} seconds cannot be stored") from error


@frozen
class _Sighting:
    """A beat, how long its lease was to last, and since when it was seen."""

    beat: tuple[str, int, int]
    lasts: int
    since: int


@define
class Watch:
    """This process's monotonic clock, and the beats it saw by it."""

    _clock: Clock
    _seen: dict[str, _Sighting] = field(factory=dict)

    def now(self) -> int:
        """The microseconds of this process's clock."""
        return micros(self._clock.monotonic())

    def is_worth_a_look(self, run_id: str) -> bool:
        """Whether a run is new here, or could have been left by its worker."""
        seen = self._seen.get(run_id)
        return seen is None or self.now() - seen.since >= seen.lasts

    def saw(self, head: Head) -> None:
        """Remember a beat, if it is another one than before.

        To be told after the head was read or written, so that no beat is taken for
        older than it is.
        """
        beat = head.uid, head.token, head.beats
        seen = self._seen.get(head.id)
        if seen is None or seen.beat != beat:
            if len(self._seen) >= _MOST:
                self._seen.clear()
            self._seen[head.id] = _Sighting(beat, head.lasts, self.now())

    def stood(self, head: Head, at: int) -> int:
        """For how long a beat was seen when the head was read, at an instant."""
        self.saw(head)
        seen = self._seen.get(head.id)
        return max(at - seen.since, 0) if seen else 0

    def forget(self, run_id: str) -> None:
        """A run has ended, or is gone."""
        self._seen.pop(run_id, None)
