"""Where an engine runs, as the kit needs to know it.

A place is made by a factory that every process of the kit can import by its name,
`module:name`, and call with one text, the address: the process that starts runs and
looks at them, and the worker processes that are killed. Nothing in here knows an
engine.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias, cast

from agentloop.ports import Engine, Store
from agentloop.runtime.face import AgentLoop
from agentloop.testing.conformance.places import imported as by_name


class Place(Protocol):
    """One engine and one store at an address, as one process sees them."""

    @property
    def lease(self) -> float:
        """Seconds of a lease; every loop of the kit is made with it.

        Short, such as 1.0: a run that was under way in a worker that was killed is
        taken over when its lease has run out.
        """
        ...

    def store(self) -> Store:
        """A store on the place's rows, migrated; the same rows in every process.

        The kit closes it when it has a `close`.
        """
        ...

    def engine(self) -> Engine:
        """What the kit gives to `AgentLoop(engine=...)` to start and cancel runs.

        Called at most once in a process, and only where runs are started.
        """
        ...

    def work(self, loop: AgentLoop) -> AbstractContextManager[object]:
        """A worker of the engine that drives runs with this loop, in this process.

        Entered once, in a process of its own that was forked; when entering returns,
        the worker takes runs. Leaving gives back what it holds and stops.
        """
        ...

    def kept(self) -> Iterable[str]:
        """Whatever the engine has kept of runs by now, as readable text.

        All of it: its rows, its histories, its messages. The kit looks for what was
        said in a run, and for the id of the run.
        """
        ...

    def close(self) -> None:
        """Give back whatever the place opened in this process."""
        ...


class Server(Protocol):
    """The engine's server, where a host can kill it; known to one process only."""

    def kill(self) -> None:
        """End it at once, with SIGKILL, and return when it is dead."""
        ...

    def start(self) -> None:
        """Start it again on the same data, and return when it answers."""
        ...


Factory: TypeAlias = Callable[[str], Place]


def imported(name: str) -> Factory:
    """The factory that `module:name` names, also from the working directory.

    Raises:
        ValueError: the name is not of that form.
        TypeError: it names nothing that can be called.
        ImportError: the module cannot be imported.
    """
    return cast("Factory", by_name(name))
