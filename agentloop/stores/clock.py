"""The stores' time: a default clock, and instants as the text that rows keep.

Instants are RFC 3339 in UTC with six digits of fraction and `Z`, so that their text
sorts as they do. Nothing in here knows a row.
"""

import time
from datetime import UTC, datetime


class MachineClock:
    """The machine's clock, for a store that was given none."""

    def now(self) -> datetime:
        """The present instant in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the stores' one default clock

    def monotonic(self) -> float:
        """Seconds that only ever rise."""
        return time.monotonic()


def instant(moment: datetime) -> str:
    """The text of an instant, such as `2026-05-18T13:21:30.355180Z`."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{utc.date().isoformat()}T{utc.time().isoformat('microseconds')}Z"


def moment(text: str) -> datetime:
    """The instant that an RFC 3339 text names.

    Raises:
        ValueError: the text is no instant, or names no offset from UTC.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"the instant {text!r} needs an offset, such as a final Z")
    return found
