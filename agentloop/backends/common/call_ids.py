"""Ids of calls that come once in a conversation, whoever gave them.

An id is unique within its turn and nowhere else: models count anew, and a conversation
may have been continued by another one. Claude refuses a second call of the same id, so
on the wire the later one has an id of its own. What is stored stays as it is.
"""

from collections.abc import Callable, Iterable
from itertools import count
from typing import TypeVar

from attrs import evolve

from agentloop.core.content import Block, ToolResult, ToolUse

B = TypeVar("B", bound=Block)


class CallIds:
    """The ids of one conversation that only ever grows; `note` hears of changes."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._known: set[str] = set()
        self._renamed: dict[str, str] = {}

    def of_turn(self, said: Iterable[Block]) -> list[Block]:
        """What the model says next, each call under an id that is new."""
        blocks = list(said)
        self._renamed = {}
        for block in blocks:
            if isinstance(block, ToolUse):
                self._known.add(self._new(block.tool_use_id))
        if not self._renamed:  # nearly always
            return blocks
        return [self.following(block) for block in blocks]

    def following(self, block: B) -> B:
        """A call of the turn, or the result of one, under its id on the wire."""
        if not self._renamed or not isinstance(block, (ToolUse, ToolResult)):
            return block
        found = self._renamed.get(block.tool_use_id)
        return block if found is None else evolve(block, tool_use_id=found)

    def _new(self, id_: str) -> str:
        if id_ not in self._known:
            return id_
        other = (f"{id_}_{number}" for number in count(2))
        found = next(one for one in other if one not in self._known)
        self._renamed[id_] = found
        self._note(f"the id {id_[:80]!r} of an earlier call became {found[:80]!r}")
        return found
