"""Waiting on a thread for an answer that may come to be of no use.

What is waited for cannot be interrupted from outside, so the wait is cut into slices
and whoever asked is asked between them. Knows no tool and no thread.
"""

from collections.abc import Callable
from concurrent.futures import Future, wait
from time import monotonic
from typing import Any, Final, Literal, TypeAlias

from agentloop.ports.tools import Abandoned

Waited: TypeAlias = Literal["over", "late", "abandoned"]

SLICE: Final = 0.05
"""Seconds until it is asked again whether anybody waits: what a cancel may cost."""


def wait_until(
    over: Callable[[float | None], bool],
    limit: float | None,
    abandoned: Abandoned | None,
) -> Waited:
    """Wait until something is over, its time is, or nobody waits for it any more.

    `over` waits at most so many seconds, None for as long as it takes, and tells
    whether the end came meanwhile.
    """
    if abandoned is None:
        return "over" if over(limit) else "late"
    until = float("inf") if limit is None else monotonic() + limit
    while not over(min(SLICE, max(until - monotonic(), 0.0))):
        if abandoned():
            return "abandoned"
        if monotonic() >= until:
            return "late"
    return "over"


def ending_of(future: "Future[Any]") -> Callable[[float | None], bool]:
    """How `wait_until` waits for a future."""

    def over(seconds: float | None) -> bool:
        wait((future,), seconds)
        return future.done()

    return over
