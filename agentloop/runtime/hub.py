"""Who listens to which run in this process, and how they hear of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

from agentloop.core.run import RunEvent
from agentloop.ports import Observer

Listener: TypeAlias = Callable[[RunEvent], None]


class Hub:
    """Hands every event of a run to its listeners and to the host's observer."""

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer
        self._listeners: dict[str, list[Listener]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def listening(self, run_id: str, listener: Listener) -> Iterator[None]:
        """Have `listener` called with each event of the run, on any thread."""
        with self._lock:
            self._listeners.setdefault(run_id, []).append(listener)
        try:
            yield
        finally:
            with self._lock:
                listeners = self._listeners[run_id]
                listeners.remove(listener)
                if not listeners:
                    del self._listeners[run_id]

    def has_listeners(self, run_id: str) -> bool:
        """Whether anybody listens to the run; deltas are worth making then."""
        return run_id in self._listeners

    def silent(self) -> bool:
        """Whether nobody at all listens, so that events need not be made up."""
        return self._observer is None and not self._listeners

    def publish(self, run_id: str, event: RunEvent) -> None:
        """Hand over one event; what a listener raises is its own affair."""
        for listener in tuple(self._listeners.get(run_id, ())):
            with suppress(Exception):
                listener(event)
        if self._observer is not None:
            with suppress(Exception):
                self._observer(run_id, event)
