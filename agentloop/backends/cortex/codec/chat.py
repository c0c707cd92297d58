"""The request of `/api/v2/cortex/v1/chat/completions`: OpenAI's wire.

Every family but Claude is spoken to this way. A user turn may be several messages
here: one per tool result, then what the user said. This room writes turns and bodies;
it reads no replies.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias, assert_never

from agentloop.backends.cortex.codec.frame import Frame, Moment, Tool
from agentloop.backends.cortex.codec.wording import (
    ANSWER_NAME,
    FAILED,
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
"""A message or a part of one as the Chat Completions API writes it."""

PART_KINDS: Final = frozenset({"text", "image_url", "file", "input_audio"})
"""Kinds of parts that a user message may hold."""


class ChatWriter:
    """Writes turns as chat messages."""

    def __init__(self, words: Wording) -> None:
        self._words = words

    def said(self, blocks: Sequence[Block]) -> bytes:
        """A turn of the assistant's: one message, calls beside the text."""
        calls = [self._call(block) for block in blocks if isinstance(block, ToolUse)]
        texts = [text for block in blocks if (text := self._said_text(block))]
        if not texts and not (calls and self._words.can.tools):
            texts = [self._filler(NOTHING)]
        message: Wire = {"role": "assistant", "content": "\n".join(texts) or None}
        if thoughts := self._thoughts(blocks):
            message["reasoning_details"] = thoughts
        if calls and self._words.can.tools:
            message["tool_calls"] = calls
        return _joined([message])

    def heard(
        self, results: Sequence[ToolResult], rest: Sequence[Block], filler: str
    ) -> bytes:
        """A turn of the user's: a message per result, then one with all the rest."""
        parts = [part for block in rest if (part := self._part(block))]
        if not self._words.can.tools:
            told = [_text(f"(result: {self._result(result)})") for result in results]
            messages, parts = [], told + parts
        else:
            messages = [self._tool_message(result) for result in results]
        if not messages and not parts:
            parts = [_text(self._filler(filler))]
        if parts:
            messages.append({"role": "user", "content": _content(parts)})
        return _joined(messages)

    # ------------------------------------------------------------ the assistant's

    def _said_text(self, block: Block) -> str | None:
        match block:
            case Text(text):
                return self._words.text(text)
            case ToolUse():
                return None if self._words.can.tools else self._words.told_call(block)
            case Reasoning():
                return None
            case Opaque() | Image() | Document() | Json() | ToolResult():
                self._words.unsaid(block, "assistant")
                return None
            case _:
                assert_never(block)

    def _call(self, use: ToolUse) -> Wire:
        function = {
            "name": self._words.name(use.name),
            "arguments": dump(self._words.arguments(use)),
        }
        id_ = self._words.id(use.tool_use_id)
        return {"id": id_, "type": "function", "function": function}

    def _thoughts(self, blocks: Sequence[Block]) -> list[Wire]:
        """Reasoning in the form in which it came, for models that take it back."""
        rule = self._words.can.reasoning
        thoughts = [block for block in blocks if isinstance(block, Reasoning)]
        kept = [
            block
            for block in thoughts
            if rule == "echo" or (rule == "signed" and _is_signed(block))
        ]
        if len(kept) < len(thoughts):
            family = self._words.can.family
            self._words.notes.add(f"reasoning was left out: '{family}' refuses it")
        return [_thought(block) for block in kept]

    # ------------------------------------------------------------ the user's

    def _part(self, block: Block) -> Wire | None:
        words = self._words
        match block:
            case Image():
                return self._image(block)
            case Opaque(provider, value):
                if provider == PROVIDER and value.get("type") in PART_KINDS:
                    plain = words.plain(value)
                    return plain if isinstance(plain, dict) else None
                words.unsaid(block, "user")
                return None
            case ToolUse() | Reasoning() | ToolResult():
                words.unsaid(block, "user")
                return None
            case Text() | Json() | Document():
                text = self._text_of(block)
                return None if text is None else _text(text)
            case _:
                assert_never(block)

    def _image(self, block: Image) -> Wire:
        found = self._words.image(block)
        if found is None:
            return _text(self._words.media_text(block))
        url = f"data:{found[0]};base64,{found[1]}"
        return {"type": "image_url", "image_url": {"url": url}}

    def _text_of(self, block: Content) -> str | None:
        match block:
            case Text(text):
                return self._words.text(text)
            case Json():
                return self._words.json(block)
            case Image() | Document():
                return self._words.media_text(block)
            case Opaque():
                self._words.unsaid(block, "tool")
                return None
            case _:
                assert_never(block)

    def _tool_message(self, result: ToolResult) -> Wire:
        return {
            "role": "tool",
            "tool_call_id": self._words.id(result.tool_use_id),
            "content": self._result(result),
        }

    def _result(self, result: ToolResult) -> str:
        """The answer to a call as text, never blank; a failure says so first."""
        texts = [text for block in result.content if (text := self._text_of(block))]
        told = "\n".join(texts) or NO_OUTPUT
        return f"{FAILED}\n{told}" if result.is_error else told

    def _filler(self, text: str) -> str:
        self._words.notes.add(f"a turn without content became {text!r}")
        return text


def _text(text: str) -> Wire:
    return {"type": "text", "text": text}


def _content(parts: list[Wire]) -> str | list[Wire]:
    """Texts as one string, which every family takes; parts where there is media."""
    if all(part.get("type") == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _is_signed(block: Reasoning) -> bool:
    return bool(block.signature) or block.redacted is not None


def _thought(block: Reasoning) -> Wire:
    if block.redacted is not None:
        return {"type": "reasoning.encrypted", "data": clean_text(block.redacted)[0]}
    thought: Wire = {"type": "reasoning.text", "text": clean_text(block.text or "")[0]}
    signature, _ = clean_text(block.signature or "")
    return {**thought, "signature": signature} if signature else thought


def _joined(messages: list[Wire]) -> bytes:
    return ",".join(map(dump, messages)).encode("ascii")


# ---------------------------------------------------------------- the body


class ChatBody:
    """The bodies of one run's requests."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._model = frame.model
        head = f'{{"model":{dump(self._model.id)},"messages":['
        if frame.system is not None:
            head += dump({"role": "system", "content": frame.system}) + ","
        self._head = head.encode("ascii")
        self._tails: dict[object, bytes] = {}

    def writer(self) -> ChatWriter:
        """A fresh writer of turns."""
        return ChatWriter(self._frame.wording())

    def body(self, turns: bytes, moment: Moment) -> bytes:
        """The whole request."""
        key = (moment.choice, moment.streamed)
        tail = self._tails.get(key)
        if tail is None:
            rest = dump(dict(self._members(moment))).encode("ascii")
            tail = self._tails[key] = b"]," + rest.removeprefix(b"{")
        return self._head + turns + tail

    def _members(self, moment: Moment) -> Iterator[tuple[str, Any]]:
        config, options = self._frame.setup.config, self._model.options
        # `max_tokens` is refused on this wire ("Cortex REST API").
        yield "max_completion_tokens", config.max_tokens
        if config.temperature is not None:
            yield "temperature", config.temperature
        if options.top_p is not None:
            yield "top_p", options.top_p
        if options.stop_sequences:
            yield "stop", list(options.stop_sequences)
        if options.effort is not None:
            yield "reasoning_effort", options.effort
        yield from self._tool_members(moment.choice)
        if self._frame.schema is not None:
            yield "response_format", self._format(self._frame.schema)
        yield from options.request_fields.items()
        if moment.streamed:
            yield "stream", True
            yield "stream_options", {"include_usage": True}

    def _tool_members(self, choice: ToolChoice) -> Iterator[tuple[str, Any]]:
        if not self._frame.tools:
            return
        yield "tools", [_tool(tool) for tool in self._frame.tools]
        forced = self._model.can.forced_choice
        match choice:
            case Auto():
                return
            case AnyTool() if "any" in forced:
                yield "tool_choice", "required"
            case SpecificTool(name) if "tool" in forced:
                function = {"name": name}
                yield "tool_choice", {"type": "function", "function": function}
            case _:
                self._frame.notes.add("the tool choice was left to the model")

    def _format(self, schema: Any) -> Wire:
        named = {"name": ANSWER_NAME, "schema": schema}
        if self._model.can.closed_schema:
            named["strict"] = True
        return {"type": "json_schema", "json_schema": named}


def _tool(tool: Tool) -> Wire:
    function: Wire = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.schema
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}
