"""The port to an execution engine that drives runs instead of this process."""

from typing import Protocol

from attrs import frozen


class EngineUnavailableError(Exception):
    """The engine did not acknowledge; whether the call took effect is unknown."""


@frozen
class RunRef:
    """A run as an engine names it; the company is what reading it back needs."""

    run_id: str
    company_id: int


class Engine(Protocol):
    """Starts and cancels runs on an engine; the engine's own workers drive them.

    Shared by all threads. Both calls may wait for the engine's answer.
    """

    @property
    def name(self) -> str:
        """What run rows name as their driver, so that no other worker takes them.

        With the place on the engine in it where several workers may share a store.
        """
        ...

    def start(self, run: RunRef) -> None:
        """Have a run driven. Of a run that was started already nothing changes.

        Raises:
            EngineUnavailableError: the engine did not acknowledge.
        """
        ...

    def cancel(self, run: RunRef) -> None:
        """Wake a run that waits, so that it sees the flag set in the store.

        A run that the engine does not know or that has ended is left alone.

        Raises:
            EngineUnavailableError: the engine did not acknowledge; the run sees the
                flag at its next command all the same.
        """
        ...
