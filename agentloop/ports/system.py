"""Clock, ids, observer, and the error for an extra that is not installed."""

from datetime import datetime
from importlib import import_module
from typing import Any, Protocol

from agentloop.core.run import RunEvent


class Clock(Protocol):
    """Where the runtime and the shipped stores read the time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever rise, for measuring spans."""
        ...


class Ids(Protocol):
    """Where the ids of conversations, runs and requests come from."""

    def new(self) -> str:
        """A fresh uuid as text, never returned before."""
        ...


class Observer(Protocol):
    """Sees every event of every run as it happens.

    Text deltas are among them while somebody follows the run, because only then
    the provider is asked to stream.

    Called on the thread or task that drives the run, so it must be quick and must
    not raise; an exception it raises is swallowed and the run goes on.
    """

    def __call__(self, run_id: str, event: RunEvent, /) -> None:
        """Take one event."""
        ...


class MissingExtraError(ImportError):
    """A feature was used whose packages are not installed."""

    def __init__(self, module: str, extra: str) -> None:
        self.extra = extra
        super().__init__(
            f"{module} is not installed; run: pip install 'agentloop[{extra}]'"
        )


def require(module: str, extra: str) -> Any:
    """Import a package of an extra, late.

    Raises:
        MissingExtraError: it is not installed; the message says how to get it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise MissingExtraError(module, extra) from None
