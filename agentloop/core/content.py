"""Content blocks and messages: what was said, in one neutral vocabulary.

The room holds values only. How a block looks in JSON is `agentloop.wire`'s
business, how it looks to a provider is each backend's. Sequences are tuples and
objects are read-only mappings, so that a message can be shared without copying.

Binary data (images, documents, redacted reasoning) is kept as base64 text: the
contract's JSON, the stored rows and every provider's HTTP body want exactly that.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from attrs import frozen

JsonObject: TypeAlias = Mapping[str, Any]
"""A JSON object. The only place where the core carries values it does not read."""

Role: TypeAlias = Literal["user", "assistant", "tool"]


@frozen
class Text:
    """Plain text, the most common block (contract section 1.6)."""

    text: str


@frozen
class ToolUse:
    """A call the model asked for; `name` is the wire name, kept verbatim."""

    tool_use_id: str
    name: str
    arguments: JsonObject


@frozen
class Json:
    """A JSON value inside a tool result: `{"type": "json", "json": value}`."""

    json: Any


@frozen
class Image:
    """An image; `format` is one of png, jpeg, gif, webp and `data` is base64."""

    format: str
    data: str


@frozen
class Document:
    """A document; `name` is shown to the model and `data` is base64."""

    format: str
    name: str
    data: str


@frozen
class Reasoning:
    """The model's reasoning, kept byte-exact because its signature covers it.

    Exactly one of `text` and `redacted` is present; `redacted` is base64.
    A text may be empty when only a signature was sent.
    """

    text: str | None = None
    signature: str | None = None
    redacted: str | None = None


@frozen
class Opaque:
    """A block of `provider` that we do not know: shown as it is, never read."""

    provider: str
    value: JsonObject


Content: TypeAlias = Text | Json | Image | Document | Opaque
"""What a tool result may hold."""


@frozen
class ToolResult:
    """The answer to the tool use of the same id."""

    tool_use_id: str
    content: tuple[Content, ...]
    is_error: bool = False


Block: TypeAlias = Content | ToolUse | ToolResult | Reasoning


@frozen
class Message:
    """One message of a conversation.

    `assistant` is what the model produced, `tool` the results of server calls,
    `user` what the caller sent: text, media, or the results of client calls.
    """

    role: Role
    content: tuple[Block, ...]


def tool_uses(message: Message) -> tuple[ToolUse, ...]:
    """The calls in a message, in the order in which the model made them."""
    return tuple([block for block in message.content if isinstance(block, ToolUse)])


def tool_results(message: Message) -> tuple[ToolResult, ...]:
    """The results in a message, in their order."""
    return tuple([block for block in message.content if isinstance(block, ToolResult)])


def texts(message: Message) -> Iterator[str]:
    """The texts of a message's own text blocks, first to last."""
    return (block.text for block in message.content if isinstance(block, Text))


def is_blank(block: Block) -> bool:
    """Whether a block is a text of nothing but white space.

    Providers refuse such blocks even where their own model produced them.
    """
    return isinstance(block, Text) and not block.text.strip()


def without_blanks(content: tuple[Block, ...]) -> tuple[Block, ...]:
    """The blocks that are not blank; the very same tuple where none is."""
    for block in content:
        if is_blank(block):
            return tuple([block for block in content if not is_blank(block)])
    return content
