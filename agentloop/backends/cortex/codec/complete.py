"""The arguments of `SNOWFLAKE.CORTEX.COMPLETE`: model, prompt, options.

A message here is a role and a string, so calls, results and media are told in words;
with emulated tools they are told in the JSON that `emulation` describes. This room
writes arguments; it reads no rows and knows no SQL.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, assert_never

from attrs import frozen

from agentloop.backends.cortex.codec.emulation import (
    Emulation,
    said_in_json,
    told_results,
)
from agentloop.backends.cortex.codec.frame import Frame, Moment
from agentloop.backends.cortex.codec.wording import (
    FAILED,
    NO_OUTPUT,
    NOTHING,
    Wording,
)
from agentloop.core.config import Auto
from agentloop.core.content import (
    Block,
    Document,
    Image,
    Json,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.wire import dump

MOST_BYTES: Final = 1_000_000
"""Statement and bindings together (Snowflake, "Query size limits")."""


@frozen
class Arguments:
    """The arguments of one call, each as the text that is bound."""

    model: str
    prompt: str
    options: str


class CompleteWriter:
    """Writes turns as one message of text each."""

    def __init__(self, words: Wording, *, emulated: bool) -> None:
        self._words = words
        self._emulated = emulated
        self._names: dict[str, str] = {}

    def said(self, blocks: Sequence[Block]) -> bytes:
        """A turn of the assistant's."""
        calls = [block for block in blocks if isinstance(block, ToolUse)]
        self._names = {use.tool_use_id: self._words.name(use.name) for use in calls}
        told = [] if self._emulated else [self._words.told_call(use) for use in calls]
        texts = [text for block in blocks if (text := self._text(block, "assistant"))]
        text = "\n".join(texts + told)
        if self._emulated:
            wires = [(self._names[c.tool_use_id], self._call(c)) for c in calls]
            return _message("assistant", said_in_json(text, wires))
        return _message("assistant", text or self._filler(NOTHING))

    def heard(
        self, results: Sequence[ToolResult], rest: Sequence[Block], filler: str
    ) -> bytes:
        """A turn of the user's: results first, then everything else."""
        texts = [text for block in rest if (text := self._text(block, "user"))]
        if results:
            texts.insert(0, self._told_results(results))
        return _message("user", "\n".join(texts) or self._filler(filler))

    def _text(self, block: Block, role: str) -> str | None:
        words = self._words
        match block:
            case Text(text):
                return words.text(text)
            case Json() if role == "user":
                return words.json(block)
            case Image() | Document() if role == "user":
                return words.media_text(block)
            case ToolUse() | Reasoning() | ToolResult() if role == "assistant":
                return None  # told elsewhere, or not at all: SQL shows no reasoning
            case Json() | Image() | Document() | Opaque():
                words.unsaid(block, role)
                return None
            case ToolUse() | Reasoning() | ToolResult():
                words.unsaid(block, role)
                return None
            case _:
                assert_never(block)

    def _call(self, use: ToolUse) -> str:
        return dump(self._words.arguments(use))

    def _told_results(self, results: Sequence[ToolResult]) -> str:
        """The answers to calls, in call order."""
        told = [(self._names.get(r.tool_use_id, ""), self._result(r)) for r in results]
        if self._emulated:
            failed = [result.is_error for result in results]
            return told_results(told, failed)
        return "\n".join(f"(result of {name}: {text})" for name, text in told)

    def _result(self, result: ToolResult) -> str:
        texts = [text for b in result.content if (text := self._text(b, "user"))]
        told = "\n".join(texts) or NO_OUTPUT
        return f"{FAILED}\n{told}" if result.is_error else told

    def _filler(self, text: str) -> str:
        self._words.notes.add(f"a turn without content became {text!r}")
        return text


def _message(role: str, content: str) -> bytes:
    return dump({"role": role, "content": content}).encode("ascii")


# ---------------------------------------------------------------- the arguments


class CompleteBody:
    """The arguments of one run's calls.

    Attributes:
        emulation: how tools are put into words and a schema, if they are.
        structured: whether the model is held to a schema.
    """

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._model = frame.model
        emulates = self._model.emulated and bool(frame.tools)
        self.emulation = Emulation(frame.tools, frame.schema) if emulates else None
        self.structured = emulates or frame.schema is not None
        self._known: dict[object, tuple[str, str]] = {}

    def writer(self) -> CompleteWriter:
        """A fresh writer of turns."""
        words = self._frame.wording()
        return CompleteWriter(words, emulated=self.emulation is not None)

    def body(self, turns: bytes, moment: Moment) -> bytes:
        """The arguments as one document."""
        found = self.arguments(turns, moment)
        return (
            f'{{"model":{dump(found.model)},"prompt":{found.prompt},'
            f'"options":{found.options}}}'
        ).encode("ascii")

    def arguments(self, turns: bytes, moment: Moment) -> Arguments:
        """The arguments of the call for a command."""
        known = self._known.get(moment.choice)
        if known is None:
            options = dump(dict(self._options(moment)))
            known = self._known[moment.choice] = self._system(moment), options
        system, options = known
        prompt = f"[{system}{turns.decode('ascii')}]"
        return Arguments(self._model.id, prompt, options)

    def _system(self, moment: Moment) -> str:
        texts = [self._frame.system] if self._frame.system is not None else []
        if self.emulation is not None:
            texts.append(self.emulation.instructions(moment.choice))
        elif not isinstance(moment.choice, Auto):
            self._frame.notes.add("the tool choice was left to the model")
        if not texts:
            return ""
        return dump({"role": "system", "content": "\n\n".join(texts)}) + ","

    def _options(self, moment: Moment) -> Iterator[tuple[str, Any]]:
        config, options = self._frame.setup.config, self._model.options
        yield "max_tokens", config.max_tokens
        if config.temperature is not None:
            yield "temperature", config.temperature
        if options.top_p is not None:
            yield "top_p", options.top_p
        schema: Any = self._frame.schema
        if self.emulation is not None:
            schema = self.emulation.schema(moment.choice)
        if schema is not None:
            yield "response_format", {"type": "json", "schema": schema}
        yield from options.request_fields.items()
