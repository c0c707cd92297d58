"""Time and waiting for the fake server: one condition everybody waits on.

The room holds a clock that scripts may push forward and gates they may open. It must
not know what is waited for.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from attrs import define, field


@define(eq=False)
class Clock:
    """Real time plus what a test added, and a way to wait that closing interrupts."""

    closed: bool = False
    _added: float = 0.0
    _changed: threading.Condition = field(factory=threading.Condition)

    def now(self) -> float:
        """Seconds on the server's clock."""
        return time.monotonic() + self._added

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        with self._changed:
            self._added += seconds
            self._changed.notify_all()

    def close(self) -> None:
        """End every wait, now and later."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def notify(self) -> None:
        """Tell the waiting that something they may wait for has changed."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, due: Callable[[], float], patience: float | None = None) -> bool:
        """Wait until the due time has come; False when patience ran out or closed.

        Args:
            due: When the wait ends on the server's clock; asked again at each change.
            patience: How many real seconds to wait at most.
        """
        stop = None if patience is None else time.monotonic() + patience
        with self._changed:
            while not self.closed and (left := due() - self.now()) > 0:
                remains = None if stop is None else stop - time.monotonic()
                if remains is not None and remains <= 0:
                    return False
                self._changed.wait(_least(left, remains))
            return not self.closed


@define(eq=False)
class Gate:
    """Holds answers back until a test opens it.

    Attributes:
        opened: When it was opened, on the server's clock; infinite until then.
    """

    _clock: Clock
    opened: float = field(default=math.inf, init=False)

    def open(self) -> None:
        """Let the answers pass, from now on."""
        self.opened = min(self.opened, self._clock.now())
        self._clock.notify()


def _least(left: float, remains: float | None) -> float | None:
    """The shorter wait that is finite; no number means until the next change."""
    # Condition.wait overflows beyond threading.TIMEOUT_MAX.
    bounds = [x for x in (left, remains) if x is not None and x < threading.TIMEOUT_MAX]
    return min(bounds, default=None)
