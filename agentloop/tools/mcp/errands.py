"""Calls of the host that may block, on threads that no one else needs.

A look-up of a name that nobody answers, and a credentials callback that waits for
its own server, hold a thread until they end by themselves: Python cannot stop them.
So they have threads of their own instead of the event loop's few, so many for each
key at most and so many together. What is asked for beyond the share of its key waits
for its turn, as long as its caller does. Threads are daemons and end when idle.
"""

import asyncio
import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")
Errand: TypeAlias = tuple[Future[Any], Callable[[], Any]]

SHARE: Final = 8
"""Threads that the calls of one key may hold."""
THREADS: Final = 256
"""Threads that the calls of all keys may hold: thirty-two keys' whole share."""


class CrowdedError(Exception):
    """All threads are held by calls that do not end."""


class Errands:
    """Threads for calls that may block; shared by all event loops."""

    def __init__(self, share: int = SHARE, threads: int = THREADS) -> None:
        self._share = share
        self._threads = threads
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child, where no thread of the parent is."""
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Errand]] = {}
        self._at_work: Counter[str] = Counter()

    async def run(self, key: str, work: Callable[[], T]) -> T:
        """What the work returns or raises, in its turn among those of its key.

        Who is cancelled while waiting leaves the queue, or the thread to itself.

        Raises:
            CrowdedError: there is no thread left for another key.
        """
        future: Future[T] = Future()
        call = copy_context().run
        with self._lock:
            self._admit(key, (future, lambda: call(work)))
        return await asyncio.wrap_future(future)

    def _admit(self, key: str, errand: Errand) -> None:
        """Queue an errand, with one more thread for its key if there may be one."""
        starts = self._at_work[key] < self._share
        if starts and self._at_work.total() >= self._threads:
            raise CrowdedError
        waiting = (e for e in self._waiting.get(key, ()) if not e[0].cancelled())
        self._waiting[key] = deque((*waiting, errand))
        if starts:
            self._at_work[key] += 1
            threading.Thread(
                target=self._work, args=(key,), name="agentloop-errand", daemon=True
            ).start()

    def _work(self, key: str) -> None:
        while (errand := self._next(key)) is not None:
            _do(*errand)
            del errand  # a thread on its way out keeps nothing alive

    def _next(self, key: str) -> Errand | None:
        with self._lock:
            if waiting := self._waiting.get(key):
                return waiting.popleft()
            self._at_work[key] -= 1
            if not self._at_work[key]:
                del self._at_work[key]
                self._waiting.pop(key, None)
            return None


def _do(future: "Future[Any]", work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # it belongs to whoever waits
        future.set_exception(error)


LOOK_UPS: Final = Errands()
"""Look-ups of names; the key is the site, so that one zone's silence is its own."""
CALLBACKS: Final = Errands()
"""Asking for credentials; the key is the server they are for."""


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    for _errands in (LOOK_UPS, CALLBACKS):
        os.register_at_fork(after_in_child=_errands.forget)


def site_of(host: str) -> str:
    """What probably has name servers of its own: the registered part of a name.

    That is two labels, or three where the second is as short as those under which
    countries register names (`co.uk`, `com.br`).
    """
    labels = host.split(".")
    shared = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if shared else -2 :])
