"""The request of `/api/v2/cortex/v1/messages`: Anthropic's wire, Claude alone.

Since it is Claude on Bedrock behind that door, the history rules are Bedrock's. This
room writes turns and bodies; it reads no replies.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias, assert_never

from agentloop.backends.common.media import canonical
from agentloop.backends.cortex.codec.frame import Frame, Moment, Tool
from agentloop.backends.cortex.codec.wording import (
    NO_OUTPUT,
    NOTHING,
    PROVIDER,
    Wording,
)
from agentloop.core.config import AnyTool, Auto, SpecificTool, ToolChoice
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
from agentloop.wire import clean_text, dump

Wire: TypeAlias = dict[str, Any]
"""A content block as the Messages API writes it."""

USER_KINDS: Final = frozenset({"search_result"})
"""Kinds that we do not read and a user turn may hold nevertheless."""

_POINT: Final = {"type": "ephemeral"}
_POINTED: Final = b',"cache_control":' + dump(_POINT).encode() + b"}]}"


class MessagesWriter:
    """Writes turns as messages of content blocks."""

    def __init__(self, words: Wording) -> None:
        self._words = words

    def said(self, blocks: Sequence[Block]) -> bytes:
        """A turn of the assistant's."""
        parts = [part for block in blocks if (part := self._said(block))]
        return _message("assistant", parts or [self._filler(NOTHING)])

    def heard(
        self, results: Sequence[ToolResult], rest: Sequence[Block], filler: str
    ) -> bytes:
        """A turn of the user's: results first, then everything else."""
        parts = [self._result(result) for result in results]
        parts += [part for block in rest if (part := self._heard(block))]
        return _message("user", parts or [self._filler(filler)])

    # ------------------------------------------------------------ blocks

    def _said(self, block: Block) -> Wire | None:
        words = self._words
        match block:
            case Text(text):
                return _text(words.text(text))
            case ToolUse() if not words.can.tools:
                return _text(words.told_call(block))
            case ToolUse(id_, name):
                return {
                    "type": "tool_use",
                    "id": words.id(id_),
                    "name": words.name(name),
                    "input": words.arguments(block),
                }
            case Reasoning():
                return self._reasoning(block)
            case Opaque() | Image() | Document() | Json() | ToolResult():
                words.unsaid(block, "assistant")
                return None
            case _:
                assert_never(block)

    def _heard(self, block: Block) -> Wire | None:
        match block:
            case Text() | Json() | Image() | Document() | Opaque():
                return self._content(block)
            case ToolUse() | Reasoning() | ToolResult():
                self._words.unsaid(block, "user")
                return None
            case _:
                assert_never(block)

    def _content(self, block: Content) -> Wire | None:
        words = self._words
        match block:
            case Text(text):
                return _text(words.text(text))
            case Json():
                return _text(words.json(block))
            case Image():
                return self._image(block)
            case Document():
                return self._document(block)
            case Opaque(provider, value):
                if provider == PROVIDER and value.get("type") in USER_KINDS:
                    plain = words.plain(value)
                    return plain if isinstance(plain, dict) else None
                words.unsaid(block, "user")
                return None
            case _:
                assert_never(block)

    def _result(self, result: ToolResult) -> Wire:
        """The answer to a call, never empty and never blank."""
        parts = [p for block in result.content if (p := self._result_part(block))]
        parts = parts or [{"type": "text", "text": NO_OUTPUT}]
        if not self._words.can.tools:
            told = " ".join(p.get("text", "") for p in parts)
            return {"type": "text", "text": f"(result: {told})"}
        wire: Wire = {
            "type": "tool_result",
            "tool_use_id": self._words.id(result.tool_use_id),
            "content": parts,
        }
        return {**wire, "is_error": True} if result.is_error else wire

    def _result_part(self, block: Content) -> Wire | None:
        if isinstance(block, Image | Document) and not self._words.can.result_media:
            return _text(self._words.media_text(block))
        return self._content(block)

    def _reasoning(self, block: Reasoning) -> Wire | None:
        """Reasoning byte-exact, or None where the model would refuse it."""
        if block.redacted is not None:
            wire = {"type": "redacted_thinking", "data": block.redacted}
        elif block.signature:
            text, signature = block.text or "", block.signature
            wire = {"type": "thinking", "thinking": text, "signature": signature}
        else:
            self._words.notes.add("reasoning without a signature was left out")
            return None
        if any(clean_text(value)[1] for value in wire.values()):
            self._words.notes.add("reasoning that Cortex refuses was left out")
            return None
        return wire

    def _image(self, block: Image) -> Wire | None:
        found = self._words.image(block)
        if found is None:
            return _text(self._words.media_text(block))
        media_type, data = found
        return {"type": "image", "source": _base64(media_type, data)}

    def _document(self, block: Document) -> Wire | None:
        """A PDF as such, a text document as text, any other named."""
        title = self._words.title(block.name)
        if block.format.lower() == "pdf" and self._words.can.documents:
            data = canonical(block.data)
            if data is not None:
                source = _base64("application/pdf", data)
                return {"type": "document", "source": source, "title": title}
        text = self._words.read_out(block)
        if text is None or not self._words.can.documents:
            return _text(self._words.media_text(block))
        source = {"type": "text", "media_type": "text/plain", "data": text}
        return {"type": "document", "source": source, "title": title}

    def _filler(self, text: str) -> Wire:
        self._words.notes.add(f"a turn without content became {text!r}")
        return {"type": "text", "text": text}


def _text(text: str | None) -> Wire | None:
    return None if text is None else {"type": "text", "text": text}


def _base64(media_type: str, data: str) -> Wire:
    return {"type": "base64", "media_type": media_type, "data": data}


def _message(role: str, content: list[Wire]) -> bytes:
    return dump({"role": role, "content": content}).encode("ascii")


# ---------------------------------------------------------------- the body


class MessagesBody:
    """The bodies of one run's requests."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._model = frame.model
        self._head = f'{{"model":{dump(self._model.id)},"messages":['.encode("ascii")
        self._tails: dict[object, bytes] = {}

    def writer(self) -> MessagesWriter:
        """A fresh writer of turns."""
        return MessagesWriter(self._frame.wording())

    def body(self, turns: bytes, moment: Moment) -> bytes:
        """The whole request; a cache point goes to the very last block."""
        if self._wants_point("messages"):
            turns = turns.removesuffix(b"}]}") + _POINTED
        used = () if self._frame.tools else tuple(moment.used)
        key = (moment.choice, used, moment.may_think, moment.streamed)
        tail = self._tails.get(key)
        if tail is None:
            rest = dump(dict(self._members(moment))).encode("ascii")
            tail = self._tails[key] = b"]," + rest.removeprefix(b"{")
        return self._head + turns + tail

    def _members(self, moment: Moment) -> Iterator[tuple[str, Any]]:
        config, options = self._frame.setup.config, self._model.options
        yield "max_tokens", config.max_tokens
        if self._frame.system is not None:
            yield "system", self._system(self._frame.system)
        if config.temperature is not None:
            yield "temperature", config.temperature
        if options.top_p is not None:
            yield "top_p", options.top_p
        if options.stop_sequences:
            yield "stop_sequences", list(options.stop_sequences)
        yield from self._tool_members(moment)
        yield from self._output_members()
        yield from self._extra_members(moment)
        if moment.streamed:
            yield "stream", True

    def _system(self, text: str) -> str | list[Wire]:
        if not self._wants_point("system"):
            return text
        return [{"type": "text", "text": text, "cache_control": _POINT}]

    def _wants_point(self, place: str) -> bool:
        cache = self._model.options.cache
        return cache is not None and place in cache.places & self._model.can.cache

    def _tool_members(self, moment: Moment) -> Iterator[tuple[str, Any]]:
        """The tools on offer; for a history with calls there are always some."""
        tools = self._frame.tools
        if self._model.can.tools and not tools:
            tools = self._frame.placeholders(moment.used)
        if not tools:
            return
        wires = [_tool(tool) for tool in tools]
        if self._wants_point("tools"):
            wires[-1]["cache_control"] = _POINT
        yield "tools", wires
        if choice := self._choice(moment.choice):
            yield "tool_choice", choice

    def _choice(self, choice: ToolChoice) -> Wire | None:
        forced = self._model.can.forced_choice if self._frame.tools else frozenset()
        match choice:
            case Auto():
                return None
            case AnyTool() if "any" in forced:
                return {"type": "any"}
            case SpecificTool(name) if "tool" in forced:
                return {"type": "tool", "name": name}
            case _:
                self._frame.notes.add("the tool choice was left to the model")
                return None

    def _output_members(self) -> Iterator[tuple[str, Any]]:
        wanted: Wire = {}
        if self._frame.schema is not None:
            wanted["format"] = {"type": "json_schema", "schema": self._frame.schema}
        if self._model.options.effort is not None:
            wanted["effort"] = self._model.options.effort
        if wanted:
            yield "output_config", wanted

    def _extra_members(self, moment: Moment) -> Iterator[tuple[str, Any]]:
        fields = dict(self._model.options.request_fields)
        thinking = self._model.options.thinking
        if thinking is not None:
            budget = thinking.budget_tokens
            fields["thinking"] = (
                {"type": "adaptive"}
                if budget is None
                else {"type": "enabled", "budget_tokens": budget}
            )
        asked = fields.get("thinking")
        forbidden = isinstance(asked, dict) and asked.get("type") == "enabled"
        if forbidden and not moment.may_think:
            self._frame.notes.add("no thinking: the calls were made without any")
            del fields["thinking"]
        yield from fields.items()


def _tool(tool: Tool) -> Wire:
    wire: Wire = {"name": tool.name}
    if tool.description is not None:
        wire["description"] = tool.description
    return {**wire, "input_schema": tool.schema}
