"""Workers: threads that drive whatever run is due, until they are stopped.

They pick up runs as they are started in this process, and look at the store now
and then for runs of other processes and for those whose worker died.
"""

import logging
import threading
from types import TracebackType

from agentloop.ports import LeaseLostError, StoreUnavailableError
from agentloop.runtime import checks
from agentloop.runtime.runner import Runner

log = logging.getLogger("agentloop")


class Worker:
    """`n` threads over one runner; a context manager that starts and stops them.

    Stopping is clean: a run is given back between two effects, with everything
    committed, and the next worker goes on from there.
    """

    def __init__(self, runner: Runner, n: int, poll: float) -> None:
        checks.whole("n", n, 1)
        checks.span("poll", poll)
        self._runner = runner
        self._poll = poll
        self._changed = threading.Condition()
        self._stopping = False
        self._hints = 0
        self._threads = [
            threading.Thread(
                target=self._work, name=f"agentloop-worker-{i}", daemon=True
            )
            for i in range(n)
        ]

    def __enter__(self) -> "Worker":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether every thread is there and at work."""
        return all(thread.is_alive() for thread in self._threads)

    def hint(self) -> None:
        """Say that a run has become due."""
        with self._changed:
            self._hints += 1
            self._changed.notify()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop taking runs, give back those under way, and wait for the threads.

        Returns whether all of them ended within `timeout` seconds; one that is
        inside a long inference ends with it.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for mailbox in self._runner.pulse.mailboxes().values():
            mailbox.stop()
        for thread in self._threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while not self._stopping:
            try:
                busy = self._drive_one()
            except LeaseLostError as lost:
                log.warning("run %s was taken over by another worker", lost)
                busy = True
            except StoreUnavailableError as error:
                log.warning("the store is unavailable: %s", error)
                busy = False
            if not busy:
                self._rest()

    def _drive_one(self) -> bool:
        claim = self._runner.claim()
        if claim is None:
            return False
        try:
            self._runner.run(claim)
        except (LeaseLostError, StoreUnavailableError):
            raise
        except BaseException:
            log.exception("run %s ended its driver; the worker goes on", claim.run.id)
        return True

    def _rest(self) -> None:
        with self._changed:
            if self._hints == 0 and not self._stopping:
                self._changed.wait(self._poll)
            self._hints = max(self._hints - 1, 0)
