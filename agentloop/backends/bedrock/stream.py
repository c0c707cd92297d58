"""The events of a ConverseStream, put together to the document Converse would give.

So there is one decoder for both, and an attempt means the same whether somebody
listens or not. A stream is whole only when its last two events were seen: botocore
ends silently when the connection dies between chunks. No I/O here but the iteration.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from agentloop.ports import DeltaSink

EVENTS: Final = frozenset(
    {
        "messageStart",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    }
)
"""The kinds of events that are read; exceptions are raised by botocore."""

DELTAS: Final = frozenset(
    {"text", "toolUse", "toolResult", "reasoningContent", "citation", "image"}
)
STARTS: Final = frozenset({"toolUse", "toolResult", "image"})


class CutOffError(Exception):
    """The stream ended in good order before the reply did."""


def assemble(
    events: Iterable[Mapping[str, Any]],
    on_delta: DeltaSink,
    on_event: Callable[[], None],
) -> dict[str, Any]:
    """The whole reply; pieces of text go out as they come in.

    Args:
        events: parsed events, in order; what it raises goes through.
        on_delta: told of every piece of text.
        on_event: called before each event is read, and may raise.

    Raises:
        CutOffError: the stream ended before its end.
    """
    draft = _Draft(on_delta)
    for event in events:
        on_event()
        for kind, value in event.items():
            draft.take(kind, value)
    return draft.whole()


class _Draft:
    """A reply in the making."""

    def __init__(self, on_delta: DeltaSink) -> None:
        self.on_delta = on_delta
        self.role = "assistant"
        self.blocks: dict[int, _Block] = {}
        self.last: dict[str, Any] = {}
        self.seen: set[str] = set()

    def take(self, kind: str, value: Any) -> None:
        self.seen.add(kind)
        match kind:
            case "messageStart":
                self.role = value.get("role", self.role)
            case "contentBlockStart":
                self.at(value).begin(value.get("start", {}))
            case "contentBlockDelta":
                piece = self.at(value).add(value.get("delta", {}))
                if piece:
                    self.on_delta(piece)
            case "contentBlockStop":
                self.at(value)
            case "messageStop" | "metadata":
                self.last.update(value)
            case _:
                return  # an event of a newer API tells us nothing

    def at(self, value: Any) -> "_Block":
        """The block an event belongs to, made when it is first named."""
        index = value.get("contentBlockIndex", 0)
        return self.blocks.setdefault(index, _Block())

    def whole(self) -> dict[str, Any]:
        if missing := {"messageStop", "metadata"} - self.seen:
            raise CutOffError(f"without {' and '.join(sorted(missing))}")
        content = [self.blocks[index].block() for index in sorted(self.blocks)]
        message = {"role": self.role, "content": content}
        return {"output": {"message": message}, **self.last}


class _Block:
    """One content block in the making; its kind is told by its start or deltas."""

    def __init__(self) -> None:
        self.kind = "text"
        self.started: dict[str, Any] = {}
        self.texts: list[str] = []
        self.parts: list[Any] = []
        self.fields: dict[str, Any] = {}

    def begin(self, start: Any) -> None:
        for kind, value in start.items():
            self.kind, self.started = kind, dict(value)

    def add(self, delta: Any) -> str | None:
        """Take a delta; returns the text in it that a listener would want."""
        for kind, value in delta.items():
            match kind:
                case "text":
                    self.texts.append(value)
                    return str(value)
                case "toolUse":
                    self.kind = kind
                    self.texts.append(value.get("input", ""))
                case "reasoningContent":
                    self.kind = kind
                    self.reason(value)
                case "citation":
                    self.kind = "citationsContent"
                    self.parts.append(value)
                case "toolResult":
                    self.kind = kind
                    self.parts.extend(value)
                case _:
                    self.kind = kind
                    self.fields.update(value)
        return None

    def reason(self, value: Any) -> None:
        for kind, piece in value.items():
            if kind == "text":
                self.texts.append(piece)
            elif kind in self.fields:
                self.fields[kind] += piece
            else:
                self.fields[kind] = piece

    def block(self) -> dict[str, Any]:
        """The block as Converse would have sent it."""
        text = "".join(self.texts)
        match self.kind:
            case "text":
                return {"text": text}
            case "toolUse":
                return {"toolUse": {**self.started, "input": _input(text)}}
            case "toolResult":
                return {"toolResult": {**self.started, "content": self.parts}}
            case "reasoningContent":
                return {"reasoningContent": self.reasoning(text)}
            case "citationsContent":
                cited = {"content": [{"text": text}], "citations": self.parts}
                return {"citationsContent": cited}
            case _:
                return {self.kind: {**self.started, **self.fields}}

    def reasoning(self, text: str) -> dict[str, Any]:
        fields = dict(self.fields)
        if "redactedContent" in fields and not text:
            return {"redactedContent": fields["redactedContent"]}
        if fields.keys() <= {"signature"}:
            return {"reasoningText": {"text": text, **fields}}
        return fields


def _input(text: str) -> Any:
    """The arguments, or the text of them as far as it goes when it is cut off."""
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
