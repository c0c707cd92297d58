"""Ids and a clock that are the same in every run of a test."""

from datetime import UTC, datetime, timedelta


class CountedIds:
    """Uuids that count from one."""

    def __init__(self) -> None:
        self._last = 0

    def new(self) -> str:
        """The next uuid."""
        self._last += 1
        return f"00000000-0000-4000-8000-{self._last:012d}"


class HandClock:
    """A clock that moves when it is told to, and by nothing else."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        """The instant the clock shows."""
        return self._now

    def monotonic(self) -> float:
        """Seconds moved so far."""
        return self._monotonic

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
