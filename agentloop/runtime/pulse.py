"""The heartbeat of every run that this process drives.

One thread for all of them, started with the first drive and gone with the last.
It prolongs leases, learns of cancels, and tells a driver when its lease is lost.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agentloop.core.phases import CancelRequested
from agentloop.ports import Lease, LeaseLostError, Store, StoreUnavailableError
from agentloop.runtime.mailbox import Mailbox


class Pulse:
    """Keeps leases alive, a third of their length apart."""

    def __init__(self, store: Store, lease_seconds: float) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._beating: dict[Lease, Mailbox] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def beating(self, lease: Lease, mailbox: Mailbox) -> Iterator[None]:
        """Keep a lease alive while the block runs."""
        with self._changed:
            self._beating[lease] = mailbox
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

    def close(self) -> None:
        """Let the thread go; a later drive starts it anew."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def mailboxes(self) -> dict[str, Mailbox]:
        """The mailboxes of the runs under way, by run id."""
        with self._changed:
            return {lease.run_id: box for lease, box in self._beating.items()}

    def _beat(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                span = self._lease_seconds / 3
                if self._changed.wait_for(lambda: self._thread is not me, span):
                    return
                due = tuple(self._beating.items())
            for lease, mailbox in due:
                self._prolong(lease, mailbox)

    def _prolong(self, lease: Lease, mailbox: Mailbox) -> None:
        try:
            if self._store.heartbeat(lease, self._lease_seconds):
                mailbox.post(CancelRequested())
        except LeaseLostError:
            mailbox.lose()
        except StoreUnavailableError:
            return  # the next beat may get through; the lease outlives two of them
