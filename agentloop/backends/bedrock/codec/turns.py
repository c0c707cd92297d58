"""The conversation as Bedrock's turns, each encoded once and kept as bytes.

Messages come in, bytes of turns come out. A turn is closed when the other side
speaks; from then on its bytes never change, so that an inference encodes only what
is new since the last. The open turn is encoded when it is asked for.

What holds for every history by construction: the first turn is the user's; roles
alternate; the results of all calls of a turn, the server's and the caller's, stand in
call order at the start of the next user turn, each call answered once and nothing else
answered; no id of a call comes twice; no turn is empty; a document has a text beside
it; reasoning stands first; the last turn is the user's. Whatever had to be added or
dropped for that is noted.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from agentloop.backends.bedrock.capabilities import Capabilities
from agentloop.backends.bedrock.codec.blocks import Blocks, Wire, as_botocore
from agentloop.backends.bedrock.codec.names import Names
from agentloop.backends.common.call_ids import CallIds
from agentloop.core.content import (
    Block,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.core.history import NOT_EXECUTED, error_result

OPENING: Final = "(the conversation begins)"
NOTHING: Final = "(nothing was said)"
WENT_ON: Final = "(noted)"
GO_ON: Final = "Please go on."
ATTACHED: Final = "(see the document)"
_MOST_NOTES: Final = 50


class Turns:
    """The encoded turns of one conversation that only ever grows.

    `preface` is put before the first user turn, for models without a system text.

    Attributes:
        tool_names: the names of all tools called so far, in their order.
    """

    def __init__(self, can: Capabilities, tools: Names, preface: str | None) -> None:
        self.blocks = Blocks(can, tools, self.note)
        self.tool_names: dict[str, None] = {}
        self._can = can
        self._notes: dict[str, None] = {}
        self._closed = bytearray()
        self._speaking = False
        self._answering = False
        self._said: list[Block] = []
        self._heard: list[Block] = []
        self._calls: list[ToolUse] = []
        self._ids = CallIds(self.note)
        self._loop_reasoned = True
        self._open: bytes | None = None
        self._names_before: dict[str, int] = {}
        if preface:
            self.note("the system text was put into the first user turn")
            self._heard.append(Text(preface))

    def extend(self, messages: Iterable[Message]) -> None:
        """Take the next messages."""
        for message in messages:
            if message.role == "assistant":
                if any(isinstance(block, ToolUse) for block in self._said):
                    self._close_assistant_turn()  # its calls come before what follows
                if not self._speaking:
                    self._close_user_turn()
                self._said.extend(message.content)
            else:
                if self._speaking:
                    self._close_assistant_turn()
                self._heard.extend(message.content)
                self._open = None

    def encoded(self) -> tuple[bytearray, bytes]:
        """The closed turns, each with a comma, and the last user turn.

        Together they are legal. The closed ones grow in place: not to be kept.
        """
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

    def take_notes(self) -> tuple[str, ...]:
        """What was changed since the last time this was asked."""
        notes = tuple(self._notes)
        self._notes.clear()
        return notes

    def note(self, text: str) -> None:
        """Remember a change, once."""
        if len(self._notes) < _MOST_NOTES:
            self._notes[text] = None

    # ------------------------------------------------------------ closing

    def _close(self, turn: bytes) -> None:
        self._closed += turn
        self._closed += b", "

    def _close_user_turn(self) -> None:
        self._close(self._open_turn())
        self._answering = bool(self._calls)
        self._heard, self._open = [], None
        self._speaking = True

    def _close_assistant_turn(self) -> None:
        """Encode what the model said; its calls are open from now on."""
        content = self._first_reasoning(self._said)
        told = self._ids.of_turn(content)
        parts = [part for block in told if (part := self.blocks.said(block))]
        self._close(_turn("assistant", parts or [self._filler(NOTHING)]))
        self._calls = [block for block in content if isinstance(block, ToolUse)]
        self._remember_tools(content)
        if not self._answering:
            self._loop_reasoned = bool(parts) and "reasoningContent" in parts[0]
        self._names_before = dict(self.blocks.documents)
        self._said, self._speaking = [], False

    def _remember_tools(self, content: Iterable[Block]) -> None:
        for block in content:
            if isinstance(block, ToolUse):
                self.tool_names[block.name] = None
            elif isinstance(block, Opaque) and "toolUse" in block.value:
                self.tool_names[str(block.value["toolUse"].get("name", ""))] = None

    def _open_turn(self) -> bytes:
        """The user turn so far, encoded anew only when something was added."""
        if self._open is None:
            self.blocks.documents = dict(self._names_before)
            self._open = self._user_turn(self._heard)
        return self._open

    # ------------------------------------------------------------ one user turn

    def _user_turn(self, heard: Sequence[Block]) -> bytes:
        results = self._results(heard)
        rest = [
            part
            for block in heard
            if not isinstance(block, ToolResult) and (part := self.blocks.heard(block))
        ]
        rest = self._with_text(rest)
        if results and rest and not self._can.mixed_results and self._can.tools:
            self.note("an assistant turn was put between tool results and text")
            between = _turn("assistant", [{"text": WENT_ON}])
            return b", ".join((_turn("user", results), between, _turn("user", rest)))
        return _turn("user", results + rest or [self._opening()])

    def _results(self, heard: Sequence[Block]) -> list[Wire]:
        """The answers to the open calls in call order, each exactly once."""
        given: dict[str, ToolResult] = {}
        wanted = {use.tool_use_id for use in self._calls}
        for block in heard:
            if not isinstance(block, ToolResult):
                continue
            if block.tool_use_id not in wanted or block.tool_use_id in given:
                id_ = block.tool_use_id[:80]
                self.note(f"a tool result for {id_!r}, which is not open, was dropped")
                continue
            given[block.tool_use_id] = block
        return [self._result(use, given.get(use.tool_use_id)) for use in self._calls]

    def _result(self, use: ToolUse, found: ToolResult | None) -> Wire:
        if found is None:
            self.note(f"the call {use.tool_use_id[:80]!r} had no result; one was added")
            why = "no result was recorded"
            found = error_result(use.tool_use_id, NOT_EXECUTED, why)
        return self.blocks.tool_result(self._ids.following(found))

    def _with_text(self, rest: list[Wire]) -> list[Wire]:
        if not rest:
            return rest
        kinds = {kind for part in rest for kind in part}
        if "document" not in kinds or "text" in kinds:
            return rest
        self.note("a text was put beside a document")
        return [*rest, {"text": ATTACHED}]

    def _opening(self) -> Wire:
        """A text for a user turn in which nothing is left to send."""
        if not self._closed:
            return self._filler(OPENING)
        return self._filler(NOTHING if self._heard else GO_ON)

    # ------------------------------------------------------------ small repairs

    def _filler(self, text: str) -> Wire:
        self.note(f"a turn without content became {text!r}")
        return {"text": text}

    def _first_reasoning(self, said: list[Block]) -> list[Block]:
        """Reasoning leads its turn; Bedrock refuses a turn where it follows."""
        thought = [block for block in said if isinstance(block, Reasoning)]
        if not thought or isinstance(said[0], Reasoning):
            return said
        self.note("reasoning was moved to the start of its turn")
        return thought + [block for block in said if not isinstance(block, Reasoning)]


def _turn(role: str, content: list[Wire]) -> bytes:
    return as_botocore({"role": role, "content": content}).encode("ascii")


def with_cache_point(turn: bytes, point: Wire) -> bytes:
    """The same turn with a cache point as its last block."""
    return b"%b, %b]}" % (turn[:-2], as_botocore(point).encode("ascii"))
