"""The conversation as Cortex's turns, each encoded once and kept as bytes.

Messages come in, bytes of turns come out; how a turn is written is a `Writer`'s
business. A turn is closed when the other side speaks; from then on its bytes never
change, so that an inference encodes only what is new since the last. The open turn is
encoded when it is asked for.

What holds for every history by construction: the first turn is the user's; roles
alternate; the results of all calls of a turn, the server's and the caller's, stand in
call order right after it, each call answered once and nothing else answered; no id of
a call comes twice; no turn is empty; reasoning stands first; the last turn is the
user's. Whatever had to be added or dropped for that is noted.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from agentloop.backends.common.call_ids import CallIds
from agentloop.backends.cortex.codec.wording import GO_ON, NOTHING, OPENING, Notes
from agentloop.core.content import (
    Block,
    Message,
    Reasoning,
    ToolResult,
    ToolUse,
)
from agentloop.core.history import NOT_EXECUTED, error_result


class Writer(Protocol):
    """Writes single turns in one dialect; a turn may be several wire messages.

    Both give the turn's wire messages joined by commas, never nothing.
    """

    def said(self, blocks: Sequence[Block]) -> bytes:
        """A turn of the assistant's."""
        ...

    def heard(
        self, results: Sequence[ToolResult], rest: Sequence[Block], filler: str
    ) -> bytes:
        """A turn of the user's; `filler` is said where nothing else is left."""
        ...


class Turns:
    """The encoded turns of one conversation that only ever grows.

    Attributes:
        tool_names: the names of all tools called so far, in their order.
    """

    def __init__(self, writer: Writer, notes: Notes) -> None:
        self.tool_names: dict[str, None] = {}
        self._writer = writer
        self._notes = notes
        self._closed: list[bytes] = []
        self._speaking = False
        self._answering = False
        self._said: list[Block] = []
        self._heard: list[Block] = []
        self._calls: tuple[ToolUse, ...] = ()
        self._ids = CallIds(notes.add)
        self._loop_reasoned = True
        self._open: bytes | None = None

    def extend(self, messages: Iterable[Message]) -> None:
        """Take the next messages."""
        for message in messages:
            if message.role == "assistant":
                if not self._speaking:
                    self._close_user_turn()
                self._said.extend(message.content)
            else:
                if self._speaking:
                    self._close_assistant_turn()
                self._heard.extend(message.content)
                self._open = None

    def encoded(self) -> tuple[Sequence[bytes], bytes]:
        """The closed turns, and the last user turn; together they are legal."""
        if self._speaking:
            self._close_assistant_turn()
        return self._closed, self._open_turn()

    @property
    def may_think(self) -> bool:
        """Whether thinking can be asked for in the next inference.

        Claude refuses it while calls are being answered that did not begin with
        reasoning, as when an earlier run was not asked to think.
        """
        return self._loop_reasoned or not self._calls

    # ------------------------------------------------------------ closing

    def _close_user_turn(self) -> None:
        self._closed.append(self._open_turn())
        self._answering = bool(self._calls)
        self._heard, self._open, self._calls = [], None, ()
        self._speaking = True

    def _close_assistant_turn(self) -> None:
        """Encode what the model said; its calls are open from now on."""
        content = self._once(self._first_reasoning(self._said))
        self._closed.append(self._writer.said(self._ids.of_turn(content)))
        self._calls = tuple(b for b in content if isinstance(b, ToolUse))
        self.tool_names.update((use.name, None) for use in self._calls)
        if not self._answering:
            self._loop_reasoned = bool(content) and _is_kept(content[0])
        self._said, self._speaking = [], False

    def _open_turn(self) -> bytes:
        """The user turn so far, encoded anew only when something was added."""
        if self._open is None:
            rest = [b for b in self._heard if not isinstance(b, ToolResult)]
            results = self._results()
            self._open = self._writer.heard(results, rest, self._filler())
        return self._open

    # ------------------------------------------------------------ one user turn

    def _results(self) -> list[ToolResult]:
        """The answers to the open calls in call order, each exactly once."""
        wanted = {use.tool_use_id for use in self._calls}
        given: dict[str, ToolResult] = {}
        for block in self._heard:
            if not isinstance(block, ToolResult):
                continue
            if block.tool_use_id not in wanted or block.tool_use_id in given:
                id_ = block.tool_use_id[:80]
                why = "which is not open, was dropped"
                self._notes.add(f"a tool result for {id_!r}, {why}")
                continue
            given[block.tool_use_id] = block
        found = [given.get(u.tool_use_id) or self._missing(u) for u in self._calls]
        return [self._ids.following(result) for result in found]

    def _missing(self, use: ToolUse) -> ToolResult:
        id_ = use.tool_use_id
        self._notes.add(f"the call {id_[:80]!r} had no result; one was added")
        return error_result(id_, NOT_EXECUTED, "no result was recorded")

    def _filler(self) -> str:
        if not self._closed:
            return OPENING
        return NOTHING if self._heard else GO_ON

    def _once(self, said: list[Block]) -> list[Block]:
        """The blocks without a second call of one id, as merged turns could hold."""
        ids: set[str] = set()
        kept: list[Block] = []
        for block in said:
            if isinstance(block, ToolUse):
                if block.tool_use_id in ids:
                    id_ = block.tool_use_id[:80]
                    self._notes.add(f"a second call with the id {id_!r} was dropped")
                    continue
                ids.add(block.tool_use_id)
            kept.append(block)
        return kept

    def _first_reasoning(self, said: list[Block]) -> list[Block]:
        """Reasoning leads its turn; Claude refuses a turn where it follows."""
        thought = [block for block in said if isinstance(block, Reasoning)]
        if not thought or all(map(_is_reasoning, said[: len(thought)])):
            return said
        self._notes.add("reasoning was moved to the start of its turn")
        return thought + [block for block in said if not isinstance(block, Reasoning)]


def _is_reasoning(block: Block) -> bool:
    return isinstance(block, Reasoning)


def _is_kept(block: Block) -> bool:
    """Whether a turn that begins with this block begins with reasoning on the wire."""
    match block:
        case Reasoning(redacted=str()):
            return True
        case Reasoning(signature=str(signature)):
            return bool(signature)
        case _:
            return False
