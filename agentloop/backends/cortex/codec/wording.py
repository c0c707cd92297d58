"""What the three wires of Cortex say alike, and the notes on what had to change.

Texts lose the characters that no provider takes, names and ids get legal ones, media
is written in canonical base64. A block that would be refused is rewritten or left
out, and a note says so; the stored block stays as it is.
"""

import re
from base64 import b64decode
from typing import Any, Final

from agentloop.backends.common.media import canonical
from agentloop.backends.common.names import Names
from agentloop.backends.cortex.capabilities import Capabilities
from agentloop.backends.cortex.codec.names import LEGAL
from agentloop.core.content import Block, Document, Image, Json, Opaque, ToolUse
from agentloop.wire import WireError, clean_text, cleaned, dump

PROVIDER: Final = "cortex"

IMAGE_FORMATS: Final = frozenset({"png", "jpeg", "gif", "webp"})
TEXT_FORMATS: Final = frozenset({"txt", "md", "csv", "html"})
"""Formats of documents that are text and can be read out to any model."""

OPENING: Final = "(the conversation begins)"
NOTHING: Final = "(nothing was said)"
GO_ON: Final = "Please go on."
NO_OUTPUT: Final = "(no output)"
FAILED: Final = "The call failed."
GONE: Final = "This tool is no longer available. Do not call it."
ANSWER_NAME: Final = "final_answer"
AS_JSON: Final = (
    "Your final answer must be one JSON object and nothing else: no prose around it "
    "and no code fence. It must be valid against this JSON Schema:\n{schema}"
)

_MOST_NOTES: Final = 50
_MOST_NAME: Final = 200
_NAME_STRANGE: Final = re.compile(r"[^\w\-()\[\]. ]+")


class Notes:
    """What was changed so that Cortex takes a history; each said once."""

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}

    def add(self, text: str) -> None:
        """Remember a change."""
        if len(self._notes) < _MOST_NOTES:
            self._notes[clean_text(text)[0]] = None

    def take(self) -> tuple[str, ...]:
        """What was changed since the last time this was asked."""
        notes = tuple(self._notes)
        self._notes.clear()
        return notes


class Wording:
    """Words for one model; `notes` are told of every change."""

    def __init__(self, can: Capabilities, tools: Names, notes: Notes) -> None:
        self.can = can
        self.tools = tools
        self.ids = Names(LEGAL)
        self.notes = notes

    def text(self, raw: str) -> str | None:
        """A text, or None when it is blank: Claude refuses those."""
        text, changed = clean_text(raw)
        if changed:
            self.notes.add(f"{changed} characters that Cortex refuses became U+FFFD")
        if not text.strip():
            self.notes.add("a blank text was left out")
            return None
        return text

    def plain(self, value: Any) -> Any:
        """A JSON value that can be sent, or a sentence in its place."""
        try:
            plain, changed = cleaned(value)
        except WireError as error:
            self.notes.add(f"a value that is no JSON was left out: {error}")
            return f"(left out: {error})"
        if changed:
            self.notes.add(f"{changed} characters that Cortex refuses became U+FFFD")
        return plain

    def json(self, block: Json) -> str:
        """A JSON value as the text of itself."""
        return dump(self.plain(block.json))

    # ------------------------------------------------------------ tools

    def arguments(self, use: ToolUse) -> dict[str, Any]:
        """The arguments of a call; an object, whatever was stored."""
        arguments = self.plain(use.arguments)
        return arguments if isinstance(arguments, dict) else {}

    def name(self, name: str) -> str:
        """A tool's name as Cortex takes it."""
        wire = self.tools.out(name)
        if wire != name:
            self.notes.add(f"the tool name {name[:80]!r} was mapped to a legal one")
        return wire

    def id(self, tool_use_id: str) -> str:
        """A call's id as Cortex takes it."""
        wire = self.ids.out(tool_use_id)
        if wire != tool_use_id:
            shown = tool_use_id[:80]
            self.notes.add(f"the tool_use_id {shown!r} was mapped to a legal one")
        return wire

    def told_call(self, use: ToolUse) -> str:
        """A call in words, for a wire or a model without tools."""
        self.notes.add("a tool call was told in words: the model takes no tools")
        name, _ = clean_text(use.name)
        return f"(called {name} with {dump(self.arguments(use))})"

    # ------------------------------------------------------------ media

    def image(self, block: Image) -> tuple[str, str] | None:
        """Media type and base64 of an image, None when it cannot be sent."""
        format_ = {"jpg": "jpeg"}.get(block.format.lower(), block.format.lower())
        data = canonical(block.data)
        if not self.can.images or format_ not in IMAGE_FORMATS or data is None:
            return None
        return f"image/{format_}", data

    def read_out(self, block: Document) -> str | None:
        """The text of a document that is text, None for any other."""
        data = canonical(block.data)
        if data is None or block.format.lower() not in TEXT_FORMATS:
            return None
        try:
            return self.text(b64decode(data).decode("utf-8"))
        except UnicodeDecodeError:
            return None

    def title(self, name: str) -> str:
        """A document's name without what could upset a prompt."""
        return _NAME_STRANGE.sub(" ", name).strip()[:_MOST_NAME] or "document"

    def left_out(self, what: str) -> str:
        """A text in the place of something that cannot be sent."""
        self.notes.add(f"left out: {what}")
        return f"({what} left out)"

    def media_text(self, block: Image | Document) -> str:
        """Media in words: a text document read out, anything else named."""
        if isinstance(block, Document):
            text = self.read_out(block)
            if text is not None:
                return f"Document {self.title(block.name)}:\n{text}"
        kind = type(block).__name__.lower()
        return self.left_out(f"{kind} of format {clean_text(block.format[:20])[0]}")

    def unsaid(self, block: Block, role: str) -> None:
        """Note a block that cannot stand in a turn of this role."""
        kind = type(block).__name__.lower()
        if isinstance(block, Opaque):
            inner = str(block.value.get("type", "unknown"))[:80]
            kind = f"block of kind '{inner}' from '{block.provider}'"
        self.notes.add(f"a {kind} of the {role}'s was left out")
