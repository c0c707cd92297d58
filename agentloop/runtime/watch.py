"""What whoever serves a loop to others needs to see of it, without driving it.

The same for both faces. Its calls may block, as the store's may.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeAlias

from attrs import frozen

from agentloop.core.run import RunEvent, Scope
from agentloop.runtime.hub import Hub, Listener
from agentloop.runtime.options import Options
from agentloop.runtime.service import Service

WorkerHealth: TypeAlias = Literal["ok", "none", "lost"]


class Working(Protocol):
    """A worker of either kind."""

    @property
    def alive(self) -> bool:
        """Whether all of it is there and at work."""
        ...

    @property
    def cut_off(self) -> bool:
        """Whether the store was unavailable when it last needed it."""
        ...


@frozen
class Kept:
    """The stored events of a run, and whether the run has ended."""

    events: tuple[RunEvent, ...]
    ended: bool


@frozen
class Watch:
    """The outside view of one loop; made by the `watch` of a face."""

    service: Service
    hub: Hub
    workers: Sequence[Working]

    @property
    def options(self) -> Options:
        """What the host chose for the loop."""
        return self.service.resources.options

    def ping(self) -> None:
        """Do something cheap that fails when the store is not usable."""
        self.service.store.ping()

    def worker(self) -> WorkerHealth:
        """How this process's workers are; `none` when other processes drive."""
        workers = tuple(self.workers)
        if not workers:
            return "none"
        return "ok" if all(worker.alive for worker in workers) else "lost"

    def cut_off(self) -> bool:
        """Whether a worker of this process does not get through to the store."""
        return any(worker.cut_off for worker in tuple(self.workers))

    def kept(self, run_id: str, scope: Scope, after: int) -> Kept:
        """The stored events of a run after an id.

        When `ended` is set, its terminal event is among those stored.

        Raises:
            RequestError: 404 `agent-run-not-found`.
        """
        # The row first: a run that has ended by then has all of its events.
        row = self.service.row(run_id, scope)
        events = self.service.events(run_id, after, scope)
        return Kept(events, row.result is not None)

    def listening(
        self, run_id: str, listener: Listener
    ) -> AbstractContextManager[None]:
        """Have `listener` called with each event of the run, on any thread."""
        return self.hub.listening(run_id, listener)
