"""One neutral block as a Converse content block, and what had to be changed for it.

A block that Bedrock would refuse is rewritten or left out, and a note says so; the
stored block stays as it is. Binary data is written in the canonical base64 that
botocore writes. This room knows single blocks, not their order in a turn.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, assert_never

from agentloop.backends.bedrock.capabilities import Capabilities
from agentloop.backends.bedrock.codec.names import TOOL_USE_ID, Names
from agentloop.backends.common.media import canonical
from agentloop.core.content import (
    Block,
    Content,
    Document,
    Image,
    Json,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.wire import WireError, clean_text, cleaned, dump, encoder

Wire: TypeAlias = dict[str, Any]
"""A content block as the Converse API writes it."""

PROVIDER: Final = "bedrock"

as_botocore: Final = encoder(", ", ": ")
"""The same text as `json.dumps` with its defaults, which is what botocore writes."""

USER_KINDS: Final = frozenset(
    {
        "text",
        "image",
        "document",
        "video",
        "audio",
        "guardContent",
        "searchResult",
        "cachePoint",
    }
)
ASSISTANT_KINDS: Final = frozenset(
    {
        "text",
        "toolUse",
        "toolResult",
        "reasoningContent",
        "citationsContent",
        "cachePoint",
    }
)
RESULT_KINDS: Final = frozenset(
    {"text", "json", "image", "document", "video", "searchResult"}
)
UNSENT_KINDS: Final = frozenset({"toolAddition", "toolRemoval"})
"""Kinds of Bedrock's that belong into `system` messages, which we never write."""

IMAGE_FORMATS: Final = frozenset({"png", "jpeg", "gif", "webp"})
DOCUMENT_FORMATS: Final = frozenset(
    {"pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"}
)
NO_OUTPUT: Final = "(no output)"
FAILED: Final = "The call failed."

_NAME_STRANGE: Final = re.compile(r"[^A-Za-z0-9_\-()\[\] ]")
_SPACES: Final = re.compile(r" {2,}")
_MOST_NAME: Final = 200


class Blocks:
    """Writes blocks for one model; `note` is told of every change."""

    def __init__(
        self, can: Capabilities, tools: Names, note: Callable[[str], None]
    ) -> None:
        self.can = can
        self.tools = tools
        self.ids = Names(TOOL_USE_ID)
        self.note = note
        self.documents: dict[str, int] = {}

    # ------------------------------------------------------------ by role

    def said(self, block: Block) -> Wire | None:
        """A block of an assistant turn, or None when it cannot go back."""
        if isinstance(block, Text):
            return self.text(block)
        if isinstance(block, ToolUse):
            return self.tool_use(block)
        match block:
            case Reasoning():
                return self.reasoning(block)
            case Opaque():
                return self.opaque(block, ASSISTANT_KINDS)
            case Image() | Document() | Json() | ToolResult():
                kind = type(block).__name__.lower()
                self.note(f"a {kind} of the assistant's was left out")
                return None
            case _:
                assert_never(block)

    def heard(self, block: Block) -> Wire | None:
        """A block of a user turn that is no tool result, or None."""
        match block:
            case Text():
                return self.text(block)
            case Image():
                return self.image(block)
            case Document():
                return self.document(block)
            case Json():
                return {"text": self.json_text(block)}
            case Opaque():
                return self.opaque(block, USER_KINDS)
            case ToolUse() | Reasoning() | ToolResult():
                kind = type(block).__name__.lower()
                self.note(f"a {kind} of the user's was left out")
                return None
            case _:
                assert_never(block)

    # ------------------------------------------------------------ text and JSON

    def text(self, block: Text) -> Wire | None:
        """A text, or None when it is blank: Bedrock refuses those."""
        text, changed = clean_text(block.text)
        if changed:
            self.note(f"{changed} characters that Bedrock refuses became U+FFFD")
        if not text.strip():
            self.note("a blank text was left out")
            return None
        return {"text": text}

    def json_text(self, block: Json) -> str:
        """A JSON value as the text of itself."""
        return dump(self.plain(block.json))

    def plain(self, value: Any) -> Any:
        """A JSON value that can be sent, or a sentence in its place."""
        try:
            plain, changed = cleaned(value)
        except WireError as error:
            self.note(f"a value that is no JSON was left out: {error}")
            return f"(left out: {error})"
        if changed:
            self.note(f"{changed} characters that Bedrock refuses became U+FFFD")
        return plain

    # ------------------------------------------------------------ tools

    def tool_use(self, block: ToolUse) -> Wire:
        """A call; told in words to a model that takes no tools."""
        arguments = self.plain(block.arguments)
        if not isinstance(arguments, dict):
            arguments = {}
        if not self.can.tools:
            self.note("a tool call was told in words: the model takes no tools")
            return {"text": f"(called {self.name(block.name)} with {dump(arguments)})"}
        return {
            "toolUse": {
                "toolUseId": self.id(block.tool_use_id),
                "name": self.name(block.name),
                "input": arguments,
            }
        }

    def name(self, name: str) -> str:
        """A tool's name as Bedrock takes it."""
        legal = self.tools.out(name)
        if legal != name:
            self.note(f"the tool name {name[:80]!r} was mapped to a legal one")
        return legal

    def id(self, tool_use_id: str) -> str:
        """A call's id as Bedrock takes it."""
        legal = self.ids.out(tool_use_id)
        if legal != tool_use_id:
            self.note(f"the tool_use_id {tool_use_id[:80]!r} was mapped to a legal one")
        return legal

    def tool_result(self, block: ToolResult) -> Wire:
        """The answer to a call, never empty and never blank."""
        content = [part for one in block.content if (part := self.result_part(one))]
        if not content:
            content = [self.result_text(NO_OUTPUT)]
        failed = block.is_error
        if failed and not self.can.result_status:
            content.insert(0, self.result_text(FAILED))
        if not self.can.tools:
            self.note("a tool result was told in words: the model takes no tools")
            told = " ".join(p["text"] if "text" in p else dump(p) for p in content)
            return {"text": f"(result: {told})"}
        result: Wire = {
            "toolUseId": self.id(block.tool_use_id),
            "content": content,
        }
        if failed and self.can.result_status:
            result["status"] = "error"
        return {"toolResult": result}

    def result_text(self, text: str) -> Wire:
        """A text in a tool result, as JSON for a model that wants it so."""
        if self.can.result_form == "json":
            return {"json": {"result": text}}
        return {"text": text}

    def result_part(self, block: Content) -> Wire | None:
        """One part of a tool result, or None when it cannot be sent."""
        if isinstance(block, Text):
            part = self.text(block)
            return part and self.result_text(part["text"])
        match block:
            case Json():
                return self.result_json(block)
            case Image() | Document() if not self.can.result_media:
                self.note(f"'{self.can.family}' takes no media in a tool result")
                return self.result_text(f"({type(block).__name__.lower()} left out)")
            case Image():
                return self.image(block)
            case Document():
                return self.document(block)
            case Opaque():
                return self.opaque(block, RESULT_KINDS)
            case _:
                assert_never(block)

    def result_json(self, block: Json) -> Wire:
        """A JSON value: an object as it is, any other in the form that is taken."""
        value = self.plain(block.json)
        if isinstance(value, dict):
            return {"json": value}
        if self.can.result_form == "json":
            return {"json": {"result": value}}
        return {"text": dump(value)}

    # ------------------------------------------------------------ reasoning, opaque

    def reasoning(self, block: Reasoning) -> Wire | None:
        """Reasoning byte-exact, or None where the model would refuse it."""
        if self.can.reasoning == "drop":
            self.note(f"reasoning was left out: '{self.can.family}' takes none back")
            return None
        if block.redacted is not None:
            data = canonical(block.redacted)
            if data is None:
                self.note("redacted reasoning that is no base64 was left out")
                return None
            return {"reasoningContent": {"redactedContent": data}}
        text, changed = clean_text(block.text or "")
        signature = None if changed else block.signature
        if self.can.reasoning == "signed" and not signature:
            self.note("reasoning without a valid signature was left out")
            return None
        signed = {} if signature is None else {"signature": signature}
        return {"reasoningContent": {"reasoningText": {"text": text, **signed}}}

    def opaque(self, block: Opaque, kinds: frozenset[str]) -> Wire | None:
        """A block of Bedrock's as it came; nobody else's can be understood."""
        if block.provider != PROVIDER:
            self.note(f"a block of provider '{block.provider}' was left out")
            return None
        kind = next(iter(block.value), "")
        if len(block.value) != 1 or kind not in kinds:
            self.note(f"a block of kind '{kind}' cannot be sent back and was left out")
            return None
        value = self.plain(block.value)
        return value if isinstance(value, dict) else None

    # ------------------------------------------------------------ media

    def image(self, block: Image) -> Wire:
        """An image, or a text that tells of one that cannot be sent."""
        format_ = {"jpg": "jpeg"}.get(block.format.lower(), block.format.lower())
        data = canonical(block.data)
        if format_ not in IMAGE_FORMATS or data is None:
            return self.left_out(f"image of format {block.format[:20]}")
        return {"image": {"format": format_, "source": {"bytes": data}}}

    def document(self, block: Document) -> Wire:
        """A document under a name that Bedrock takes, no two under the same."""
        format_ = block.format.lower()
        data = canonical(block.data)
        if format_ not in DOCUMENT_FORMATS or data is None:
            return self.left_out(f"document of format {block.format[:20]}")
        name = self.document_name(block.name)
        return {
            "document": {"format": format_, "name": name, "source": {"bytes": data}}
        }

    def document_name(self, name: str) -> str:
        """Letters, digits, single spaces and `-()[]` only, counted when repeated."""
        plain = _SPACES.sub(" ", _NAME_STRANGE.sub(" ", name)).strip()
        plain = plain[:_MOST_NAME].strip() or "document"
        sent, count = plain, self.documents.get(plain, 0)
        while sent in self.documents:
            count += 1
            mark = f" ({count + 1})"
            sent = plain[: _MOST_NAME - len(mark)] + mark
        self.documents[plain] = count
        self.documents.setdefault(sent, 0)
        if sent != name:
            self.note(f"the document name {name[:80]!r} became {sent!r}")
        return sent

    def left_out(self, what: str) -> Wire:
        """A text in the place of something that Bedrock would refuse."""
        self.note(f"left out: {what}")
        return {"text": f"({what} left out)"}


def blobs_to_bytes(value: Any, key: str = "") -> Any:
    """A Converse request with its blobs as bytes, the form that botocore takes.

    Only two members of a request are blobs: `bytes` of a `source`, and
    `redactedContent`. Values of the caller's own are never looked into.
    """
    if isinstance(value, Mapping):
        return {
            name: inner
            if name in _DOCUMENTS
            else b64decode(inner)
            if _is_blob(name, key, inner)
            else blobs_to_bytes(inner, name)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [blobs_to_bytes(inner, key) for inner in value]
    return value


_DOCUMENTS: Final = frozenset(
    {"input", "json", "additionalModelRequestFields", "requestMetadata"}
)


def _is_blob(name: str, parent: str, value: Any) -> bool:
    known = name == "redactedContent" or (name == "bytes" and parent == "source")
    return known and isinstance(value, str)
