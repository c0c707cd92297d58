"""Instants as the contract writes them: RFC 3339, UTC, microseconds."""

from datetime import UTC, datetime


def instant(moment: datetime) -> str:
    """The text of an instant, e.g. `2026-05-18T13:21:30.355180Z`."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{utc.date().isoformat()}T{utc.time().isoformat('microseconds')}Z"
