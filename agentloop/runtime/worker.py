"""Workers: threads that drive whatever run is due, until they are stopped.

They pick up runs as they are started in this process. For runs of other processes,
and for those whose worker died, one of the idle ones looks at the store now and then;
what it finds may not be alone, so it wakes the next, until one finds nothing.
"""

import logging
import threading
from time import monotonic
from types import TracebackType

from agentloop.ports import LeaseLostError, StoreUnavailableError
from agentloop.runtime import checks
from agentloop.runtime.mailbox import Mailbox
from agentloop.runtime.runner import Runner

log = logging.getLogger("agentloop")
MOST_PATIENCE = 32
"""How many times `poll` a thread rests at most while the store keeps failing."""


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
        self._over = threading.Event()
        self._hints = 0
        self._watched = False
        self._more = False
        self._driving: set[Mailbox] = set()
        self._failing: set[threading.Thread] = set()
        self._cut_off: set[threading.Thread] = set()
        self._threads = [
            threading.Thread(
                target=self._work, name=f"agentloop-worker-{i}", daemon=True
            )
            for i in range(n)
        ]

    def __repr__(self) -> str:
        state = "stopping" if self._stopping else "at work"
        return f"<Worker of {len(self._threads)} threads, {state}>"

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
        """Whether every thread is there and at work.

        One that cannot claim, because the store raises what no store may, is not.
        """
        there = all(thread.is_alive() for thread in self._threads)
        return there and not self._failing

    @property
    def cut_off(self) -> bool:
        """Whether a thread's last claim or drive found the store unavailable.

        It tries again on and on, so this is told as long as it is so.
        """
        return bool(self._cut_off)

    def hint(self) -> None:
        """Say that a run has become due."""
        with self._changed:
            self._hints = min(self._hints + 1, len(self._threads))
            self._changed.notify()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop taking runs, give back those under way, and wait for the threads.

        Returns whether all of them ended within `timeout` seconds; one that is
        inside a long inference ends with it. Runs that others drive go on.
        """
        until = None if timeout is None else monotonic() + timeout
        with self._changed:
            self._stopping = True
            self._over.set()
            for mailbox in self._driving:
                mailbox.stop()
            self._changed.notify_all()
        others = [t for t in self._threads if t is not threading.current_thread()]
        for thread in others:
            thread.join(None if until is None else max(until - monotonic(), 0.0))
        return not any(thread.is_alive() for thread in others)

    def _work(self) -> None:
        failures = 0
        while (mailbox := self._begin()) is not None:
            cut_off = False
            try:
                busy = self._drive_one(mailbox)
                failures = 0
            except LeaseLostError as lost:
                about = {"run_id": str(lost)}
                log.warning(
                    "run %s was taken over by another worker", lost, extra=about
                )
                busy, failures = True, 0
            except StoreUnavailableError as error:
                log.warning("the store is unavailable: %s", error)
                busy, cut_off = False, True
            except BaseException:  # what no store may raise; others may be due
                log.exception("claiming a run failed; the worker tries again")
                failures += 1
                busy = False
            self._end(mailbox, failing=failures > 0, cut_off=cut_off)
            if cut_off or failures:
                self._recover(failures)
            elif not busy:
                self._rest()

    def _begin(self) -> Mailbox | None:
        """The mailbox by which the next run can be stopped; None when stopping.

        It is there before the run is claimed, so that no stop comes too early.
        """
        mailbox = Mailbox()
        with self._changed:
            if self._stopping:
                return None
            self._driving.add(mailbox)
        return mailbox

    def _end(self, mailbox: Mailbox, *, failing: bool, cut_off: bool) -> None:
        me = threading.current_thread()
        with self._changed:
            self._driving.discard(mailbox)
            (self._failing.add if failing else self._failing.discard)(me)
            (self._cut_off.add if cut_off else self._cut_off.discard)(me)

    def _drive_one(self, mailbox: Mailbox) -> bool:
        """Drive a run that is due; whether to look for another one at once."""
        claim = self._runner.claim()
        with self._changed:
            for troubled in (self._cut_off, self._failing):  # the store is there
                troubled.discard(threading.current_thread())
        if claim is None:
            self._more = False
            return False
        if self._more:
            self.hint()
        try:
            self._runner.run(claim, mailbox=mailbox)
        except (LeaseLostError, StoreUnavailableError):
            raise
        except BaseException:
            about = {"run_id": claim.run.id}
            told = "run %s ended its driver; the worker goes on"
            log.exception(told, claim.run.id, extra=about)
            return False  # it may be due again, and would end this one as well
        return True

    def _rest(self) -> None:
        """Wait for a hint; one thread at a time also looks for itself."""
        with self._changed:
            while not self._hints and not self._stopping:
                if self._watched:
                    self._changed.wait()
                elif not self._watch():
                    self._more = True
                    return
            self._hints = max(self._hints - 1, 0)

    def _watch(self) -> bool:
        """Be the one that looks; whether there was news before it was time to."""
        self._watched = True
        try:
            return self._changed.wait(self._poll)
        finally:
            self._watched = False
            self._changed.notify()  # the next one watches meanwhile

    def _recover(self, failures: int) -> None:
        """Let a store be that failed, longer and longer when it does so strangely."""
        span = self._poll * min(2**failures, MOST_PATIENCE)
        self._over.wait(span)
