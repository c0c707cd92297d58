"""How long a provider asks to be left alone: `Retry-After` of RFC 9110, section 10.2.3.

The header holds seconds or a date. A date is read against the reply's own `Date`, so
that neither our clock nor its zone matters. Which headers there are, and in what
unit, is the backends' business.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime


def asked_for(
    headers: Mapping[str, str], name: str = "retry-after", unit: float = 1.0
) -> float:
    """Seconds that a header asks for; 0 when it says nothing that can be waited for.

    Args:
        headers: of the reply, by lower-case name.
        name: the header.
        unit: seconds that one of its numbers stands for.
    """
    raw = headers.get(name, "")
    try:
        seconds = float(raw) * unit
    except ValueError:
        seconds = _until(raw, headers.get("date", ""))
    return seconds if 0 < seconds < float("inf") else 0.0


def _until(date: str, now: str) -> float:
    """Seconds from the reply's own date to a date it names."""
    try:
        wait = parsedate_to_datetime(date) - parsedate_to_datetime(now)
    except (ValueError, TypeError, IndexError):
        return 0.0
    return wait.total_seconds()
