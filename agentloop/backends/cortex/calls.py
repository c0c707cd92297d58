"""Calls of the connector that end when the attempt they belong to does.

The connector has no time-out that holds for everything it does: 4.x repeats a request
that meets 403, 429 or 5xx for as long as it does, 5.x some six times. So every call
that may go out is made on a thread of its own, and waited for no longer than the
attempt lasts and somebody wants its answer. A call that is given up goes on without
anybody; those are counted, and while too many of them hang, no other is begun.

This room knows neither cursors nor queries.
"""

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MOST_HANGING: Final = 32
"""How many calls that were given up may hang before no other is begun."""

_LOOK: Final = 0.05  # how often a waiter asks whether it is still wanted
_LEAST: Final = 0.001  # urllib3 refuses zero


class StuckError(Exception):
    """Too many calls of the connector hang already."""


class Deadline:
    """The end of an attempt's time, or none."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else monotonic() + seconds
        self._told = seconds

    def left(self) -> float | None:
        """Seconds that are left, None when there is no end.

        Raises:
            TimeoutError: the time is up.
        """
        if self._end is None:
            return None
        left = self._end - monotonic()
        if left <= 0:
            raise TimeoutError(f"the attempt was not done after {self._told:g} s")
        return max(left, _LEAST)

    def within(self, seconds: float) -> float:
        """So many seconds, or what is left if that is less.

        Raises:
            TimeoutError: the time is up.
        """
        left = self.left()
        return seconds if left is None else min(seconds, left)


def whole_seconds(deadline: Deadline) -> int | None:
    """What is left, as the connector and Snowflake take it.

    Raises:
        TimeoutError: the time is up.
    """
    left = deadline.left()
    return None if left is None else math.ceil(left)


class Patience:
    """How long an answer is waited for: while there is time and somebody wants it."""

    def __init__(
        self, deadline: Deadline, abandoned: Callable[[], bool] | None = None
    ) -> None:
        self.deadline = deadline
        self._abandoned = abandoned

    def within(self, seconds: float) -> float:
        """So many seconds, or what is left if that is less.

        Raises:
            TimeoutError: the time is up, or nobody waits any more.
        """
        if self._abandoned is not None and self._abandoned():
            raise TimeoutError("nobody waits for the answer any more")
        return self.deadline.within(seconds)


class Calls:
    """All calls on one connection; counts those that were given up and still hang."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.hanging = 0

    def begin(
        self, what: Callable[[], T], too_late: Callable[[T], object] | None = None
    ) -> "Call[T]":
        """Begin a call; `too_late` takes its result where nobody waited for it.

        Raises:
            StuckError: too many calls hang.
        """
        if self.hanging >= MOST_HANGING:
            raise StuckError(
                f"{self.hanging} calls of the connector hang; no other is begun"
            )
        call = Call(self, what, too_late)
        threading.Thread(target=call.run, name="agentloop-cortex", daemon=True).start()
        return call

    def make(
        self,
        what: Callable[[], T],
        patience: Patience,
        too_late: Callable[[T], object] | None = None,
    ) -> T:
        """Make a call and wait for what it returns, as long as patience lasts.

        Raises:
            StuckError: too many calls hang.
            TimeoutError: patience ended first.
            BaseException: what it raised.
        """
        patience.within(0)  # nothing is begun for nobody
        return self.begin(what, too_late).result(patience)


class Call(Generic[T]):
    """One call on a thread of its own; several threads may wait for it."""

    def __init__(
        self,
        calls: Calls,
        what: Callable[[], T],
        too_late: Callable[[T], object] | None,
    ) -> None:
        self._calls = calls
        self._what = what
        self._too_late = too_late
        self._over = threading.Event()
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._is_given_up = False

    @property
    def is_over(self) -> bool:
        """Whether it has come back."""
        return self._over.is_set()

    def run(self) -> None:
        """Make the call, on the thread that is its own."""
        try:
            self._found.append(self._what())
        except BaseException as error:  # whoever waits raises it
            self._error = error
        with self._calls.lock:
            self._over.set()
            self._calls.hanging -= self._is_given_up
        if self._is_given_up and self._found and self._too_late is not None:
            with suppress(Exception):
                self._too_late(self._found[0])

    def result(self, patience: Patience) -> T:
        """What the call returned.

        Raises:
            TimeoutError: patience ended first; the call goes on without us.
            BaseException: what it raised.
        """
        try:
            while not self._over.wait(patience.within(_LOOK)):
                pass
        except TimeoutError:
            if self._give_up():
                raise
        if self._error is not None:
            raise self._error
        return self._found[0]

    def _give_up(self) -> bool:
        """Wait no more; returns whether the call had not come back just then."""
        with self._calls.lock:
            if self._over.is_set():
                return False
            self._calls.hanging += not self._is_given_up
            self._is_given_up = True
            return True
