"""Starting runs whose tool choice may have a server asked first (contract 4.3).

Such a start waits for somebody else's server, up to five seconds. It has threads of
its own: on those that reads and commits need, a few silent servers would hold up
everyone. The five seconds cover waiting for a thread as well.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Final, TypeVar

from agentloop.core.catalog import RequestError
from agentloop.runtime.starting import CHOICE_CHECK_TIMEOUT

T = TypeVar("T")

THREADS: Final = 16
"""How many such starts are under way at once; the others wait for their turn."""


class Choices:
    """The threads of one loop or app for such starts; they start when needed."""

    def __init__(self, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, "agentloop-choice")

    async def start(self, submit: Callable[[float], T]) -> T:
        """What `submit` gives, called with the seconds that are left for the look.

        Raises:
            RequestError: `too-many-requests`, when no thread came free in time.
        """
        began = monotonic()

        def call() -> T:
            left = CHOICE_CHECK_TIMEOUT - (monotonic() - began)
            if left <= 0:
                raise RequestError("too-many-requests", problem=_BUSY)
            return submit(left)

        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)


_BUSY: Final = "too many tool choices wait for their servers; try again later"


def may_ask(body: object) -> bool:
    """Whether a request names a tool, which a server may have to be asked about."""
    choice: Any = body.get("tool_choice") if isinstance(body, Mapping) else None
    return isinstance(choice, Mapping) and choice.get("kind") == "specific_tool"
