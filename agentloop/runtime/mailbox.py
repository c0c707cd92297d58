"""Where everything that happens to a run arrives, in the order it happened."""

import threading
from collections import deque

from agentloop.ports import LeaseLostError
from agentloop.runtime.desk import Happened


class Mailbox:
    """A queue that one driver empties and anybody may post to.

    `lost` says that the lease is gone, `stopped` that the driver should give the
    run back as soon as nothing is under way, `broken` what an effect raised on
    another thread against every contract.
    """

    def __init__(self) -> None:
        self.lost = False
        self.stopped = False
        self.broken: BaseException | None = None
        self._items: deque[Happened] = deque()
        self._changed = threading.Condition()
        self._told = False  # of a stop that the driver has not heard of yet

    def post(self, *items: Happened) -> None:
        """Add what happened and wake the driver."""
        with self._changed:
            self._items.extend(items)
            self._changed.notify()

    def lose(self) -> None:
        """Tell the driver that its lease is gone."""
        with self._changed:
            self.lost = True
            self._changed.notify()

    def break_off(self, error: BaseException) -> None:
        """Have the driver raise what was raised elsewhere."""
        with self._changed:
            self.broken = error
            self._changed.notify()

    def stop(self) -> None:
        """Ask the driver to give the run back."""
        with self._changed:
            self.stopped = self._told = True
            self._changed.notify()

    def check(self, run_id: str) -> None:
        """Raise what ends the drive early.

        Raises:
            LeaseLostError: another worker has the run.
            BaseException: whatever an effect raised elsewhere.
        """
        if self.broken is not None:
            raise self.broken
        if self.lost:
            raise LeaseLostError(run_id)

    def is_urgent(self) -> bool:
        """Whether something waits that the driver should hear of at once."""
        return self.lost or bool(self._items)

    def take(self, timeout: float | None) -> list[Happened]:
        """Everything posted so far; waits up to `timeout` for the first item."""
        if timeout == 0.0 and not self._items:
            return []
        with self._changed:
            if not (self._items or self.lost or self._told or self.broken):
                self._changed.wait(timeout)
            self._told = False
            taken = list(self._items)
            self._items.clear()
        return taken
