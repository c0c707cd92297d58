"""The time by which the leases in a SQLite file are judged, whatever is set meanwhile.

The processes of a machine agree on its wall clock, so leases are instants of it. But
it can be set. Set forward, every live lease would look over until its next heartbeat:
for two leases' time after that was noticed, which is enough for every lease of then
to be prolonged or taken over, they are judged by the time that really passed. Set
back, the lease of a dead worker would last for as long again: a lease that ends later
than any lease given now would is a stray, and over when it was seen unchanged for
that long. What passed is read from the monotonic clock.

A deadline that was stored before the clock was set is right as long as its run stays
in the same hands; who takes such a run over later may find it too late or too early.
"""

import sqlite3
from threading import Lock
from typing import Final

from attrs import define, field

from agentloop.ports.store import ClaimRequest
from agentloop.ports.system import Clock

_SET: Final = 5.0
"""Seconds that a clock must be off at once, for it to have been set."""
_AHEAD: Final = 60.0
"""Seconds that leases of one file may be longer than others, and that a stray is
watched at least."""
_LOOK: Final = 5.0
"""Seconds between two looks for strays: every open run is looked at."""


@define
class Judge:
    """One process's view of the leases in a file."""

    _clock: Clock
    _offset: float | None = None  # of the wall clock from the monotonic one
    _noticed: float | None = None  # since when the wall clock is known to be ahead
    _strays: dict[str, dict[int, tuple[float, float]]] = field(factory=dict)
    _looked: dict[str, float] = field(factory=dict)
    _lock: Lock = field(factory=Lock)

    def now(self, lease_seconds: float) -> float:
        """The instant by which a lease is over or not."""
        with self._lock:
            wall, passed = self._clock.now().timestamp(), self._clock.monotonic()
            if self._is_set_forward(wall - passed):
                if self._noticed is None:
                    self._noticed = passed
                if passed - self._noticed < 2 * lease_seconds:
                    return passed + (self._offset or 0.0)
            self._offset, self._noticed = wall - passed, None
            return wall

    def _is_set_forward(self, offset: float) -> bool:
        return self._offset is not None and offset - self._offset > _SET

    def free_strays(self, db: sqlite3.Connection, request: ClaimRequest) -> None:
        """Let runs be due whose leases end too late and never change."""
        span = max(request.lease_seconds, _AHEAD)
        now, passed = self.now(request.lease_seconds), self._clock.monotonic()
        if passed - self._looked.get(request.driver, -_LOOK) < _LOOK:
            return
        self._looked[request.driver] = passed
        found = db.execute(
            "SELECT n, lease_until FROM runs WHERE driver = ?"
            " AND completed_at IS NULL AND lease_until > ?",
            (request.driver, now + request.lease_seconds + _AHEAD),
        ).fetchall()
        with self._lock:
            known = self._strays.pop(request.driver, {})
            watched = self._strays[request.driver] = {}
            for n, until in found:
                seen, since = known.get(n, (until, passed))
                since = since if seen == until else passed
                if passed - since < span:
                    watched[n] = until, since
                    continue
                db.execute("UPDATE runs SET lease_until = 0 WHERE n = ?", (n,))
