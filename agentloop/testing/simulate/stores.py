"""The store as one actor reaches it: over a line that breaks, watched by a witness.

A fault before the commit with no outage after it is what a busy store or a deadlock
looks like through the port, which has one error for all that may pass. Reads do not
lag behind writes: the port allows that of no call, so nothing here fakes it.
"""

from collections.abc import Callable
from typing import Any

from agentloop.ports import StoreUnavailableError
from agentloop.stores.memory import MemoryStore
from agentloop.testing.simulate.chance import Chance, Died
from agentloop.testing.simulate.witness import Witness

_OUTAGES = (0, 1, 3, 20)
"""Calls that fail in a row, or twice as many; forty of them outlast a lease."""
CALLS = (
    "insert_run",
    "find_run",
    "get_run",
    "get_conversation",
    "messages",
    "request_cancel",
    "claim",
    "heartbeat",
    "checkpoint",
    "finalize",
    "release",
    "list_conversations",
    "list_runs",
    "list_jobs",
    "get_job",
    "events",
    "delete_conversation",
    "prune",
)
"""The calls that workers, clients, readers and keepers make; each can fail and kill
on both sides."""


class Line:
    """A `Store` whose calls may fail before or after they commit, or kill.

    A line that failed may stay down for some calls. While a call is on its way,
    `meanwhile` lets other actors go on.
    """

    blocking = False

    def __init__(
        self,
        store: MemoryStore,
        witness: Witness,
        chance: Chance,
        meanwhile: Callable[[], None],
    ) -> None:
        self._store = store
        self._witness = witness
        self._chance = chance
        self._meanwhile = meanwhile
        self._down = 0  # calls that fail before the line is mended

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._store, name)
        line, before, after = f"store {name}", f"{name} before", f"{name} after"

        def over(*args: Any, **named: Any) -> Any:
            self._chance.note(line)
            self._meanwhile()
            self._reach()
            self._risk(before)
            answer = self._ask(name, call, args, named)
            self._risk(after)
            self._witness.told(name, args, answer)
            return answer

        self.__dict__[name] = over
        return over

    def _ask(
        self,
        name: str,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        try:
            answer = call(*args, **named)
        except Exception as error:
            self._chance.note(f"refused {error}")
            self._witness.refused(name, args, error)
            raise
        self._witness.saw(name, args, answer, named)
        return answer

    def _reach(self) -> None:
        """Fail while the store stays away, through every try of a commit."""
        if self._down > 0 and not self._chance.calm:
            self._down -= 1
            self._chance.count("store", "still away")
            raise StoreUnavailableError("the line is not mended yet")

    def _risk(self, when: str) -> None:
        if self._chance.hit("store", when):
            self._down = self._chance.number(0, 2) * self._chance.pick(_OUTAGES)
            raise StoreUnavailableError(f"{when} it committed, the line broke")
        if self._chance.hit("crash", when):
            raise Died
