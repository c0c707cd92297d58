"""Waiting for what another process does."""

import threading
from collections.abc import Callable

from agentloop.ports import StoreUnavailableError

PATIENCE = 60.0
"""Seconds after which what should have happened has not."""
STEP = 0.02


def until(held: Callable[[], object], what: str, patience: float | None = None) -> None:
    """Wait until something holds; a store that is away just now says nothing.

    Raises:
        AssertionError: it did not come to hold in time.
    """
    patience = PATIENCE if patience is None else patience
    pause = threading.Event()
    for _ in range(int(patience / STEP)):
        if _answer(held):
            return
        pause.wait(STEP)
    if not _answer(held):
        raise AssertionError(f"in {patience:.0f} s it did not happen that {what}")


def _answer(held: Callable[[], object]) -> bool:
    try:
        return bool(held())
    except StoreUnavailableError:
        return False
