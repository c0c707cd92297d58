"""The heartbeat of every run that this process drives.

One thread for all of them, started with the first drive and gone with the last.
It prolongs leases, learns of cancels, and tells a driver when its lease is lost.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agentloop.core.phases import CancelRequested
from agentloop.ports import Lease, LeaseLostError, Store, StoreUnavailableError
from agentloop.runtime.mailbox import Mailbox

log = logging.getLogger("agentloop")


class Pulse:
    """Keeps leases alive, a third of their length apart."""

    def __init__(self, store: Store, lease_seconds: float) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._beating: dict[Lease, tuple[Mailbox, int]] = {}
        self._ending = False
        self._failing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def beating(self, lease: Lease, mailbox: Mailbox) -> Iterator[None]:
        """Keep a lease alive while the block runs."""
        with self._changed:
            self._beating[lease] = mailbox, threading.get_ident()
            if self._ending:
                mailbox.stop()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._beat, name="agentloop-pulse", daemon=True
                )
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:
                del self._beating[lease]
                if self._ending:
                    self._changed.notify_all()

    def end(self) -> None:
        """Have every drive give its run back, also those that begin from now on.

        Returns when all have, but for one on the calling thread, which would wait
        for itself.
        """
        me = threading.get_ident()
        with self._changed:
            self._ending = True
            for mailbox, _ in self._beating.values():
                mailbox.stop()
            self._changed.wait_for(
                lambda: all(driver == me for _, driver in self._beating.values())
            )

    def close(self) -> None:
        """Let the thread go; a later drive starts it anew."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def of(self, run_id: str) -> tuple[Mailbox, ...]:
        """The mailboxes of a run's drives; a lost one may still be under way."""
        with self._changed:
            boxes = self._beating.items()
            return tuple(box for lease, (box, _) in boxes if lease.run_id == run_id)

    def _beat(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                span = self._lease_seconds / 3
                if self._changed.wait_for(lambda: self._thread is not me, span):
                    return
                due = tuple(self._beating.items())
            for lease, (mailbox, _) in due:
                self._prolong(lease, mailbox)

    def _prolong(self, lease: Lease, mailbox: Mailbox) -> None:
        try:
            if self._store.heartbeat(lease, self._lease_seconds):
                mailbox.post(CancelRequested())
            self._failing = False
        except LeaseLostError:
            mailbox.lose()
        except StoreUnavailableError:
            return  # the next beat may get through; the lease outlives two of them
        except Exception:
            if not self._failing:  # once is enough, until a beat gets through
                log.exception("a heartbeat failed; the next one may get through")
            self._failing = True
