"""The real clock, ids and jitter: the one place where they are made."""

import time
import uuid
from datetime import UTC, datetime


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The present instant in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only ever rise."""
        return time.monotonic()


class RandomIds:
    """Random uuids (version 4)."""

    def new(self) -> str:
        """A fresh uuid."""
        return str(uuid.uuid4())


def jittered(delay: float, at_least: float) -> float:
    """Seconds to wait: the schedule times 0.5 to 1.5, never below the hint."""
    import random  # here, because most processes never wait for a second try

    spread = random.uniform(0.5, 1.5)  # noqa: S311 - spreads retries, guards nothing
    return max(delay * spread, at_least)
