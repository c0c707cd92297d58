"""Streams of both REST dialects, put together to the document without a stream.

So there is one decoder per dialect, and an attempt means the same whether somebody
listens or not. A stream is whole only when its last event was seen; an `error` event
is a failure. An event of a kind that we do not know tells us nothing and is noted; a
piece of a block that we do not know fails the stream, because dropping it could drop
a tool call. No I/O here but the iteration.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from agentloop.backends.cortex.codec.replies import MalformedError, fields, parsed
from agentloop.backends.cortex.codec.sse import Event
from agentloop.ports import DeltaSink


class Draft(Protocol):
    """A reply in the making; what it holds so far may be read at any time."""

    notes: list[str]

    @property
    def told(self) -> Mapping[str, Any]:
        """The reply as far as it has been told: its head, and its token counts."""
        ...

    def read(self, events: Iterable[Event]) -> dict[str, Any]:
        """The whole reply; pieces of text go out as they come in.

        Raises:
            CutOffError: the stream ended before its end.
            BrokenOffError: the stream held an error.
            MalformedError: an event that cannot be understood.
        """
        ...


class CutOffError(Exception):
    """The stream ended before the reply did."""


class BrokenOffError(Exception):
    """The provider broke the stream off and said why in its last event."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        self.event = event
        super().__init__()


def _understood(take: Callable[..., bool], *event: Any) -> bool:
    """What `take` makes of an event, which may have any shape at all.

    Raises:
        MalformedError: it has one that nobody could know.
    """
    try:
        return take(*event)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        told = f"{type(error).__name__}: {error}"
        raise MalformedError(f"a stream event of another shape ({told})") from None


def _object(event: Event) -> Mapping[str, Any]:
    """The object in an event.

    An error is told by a member of that name; a type beside it is not promised.
    """
    value = parsed(event.data)
    if not isinstance(value, Mapping):
        raise MalformedError("a stream event that is no object")
    if value.get("error"):
        raise BrokenOffError(value)
    return value


# ---------------------------------------------------------------- /v1/messages


_PIECES: Final[Mapping[str, tuple[str, str]]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("partial_json", "input"),
}
"""Where a delta keeps its piece of text, and the block's member it belongs to."""


class MessagesDraft:
    """A reply of the Messages API in the making."""

    def __init__(self, on_delta: DeltaSink) -> None:
        self.notes: list[str] = []
        self._on_delta = on_delta
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}
        self._reply: dict[str, Any] = {}

    @property
    def told(self) -> Mapping[str, Any]:
        """The reply as far as it has been told."""
        return self._reply

    def read(self, events: Iterable[Event]) -> dict[str, Any]:
        """The whole reply, up to `message_stop`."""
        for event in events:
            value = _object(event)
            if _understood(self._take, str(value.get("type") or event.name), value):
                return self._reply
        raise CutOffError("without message_stop")

    def _take(self, kind: str, value: Mapping[str, Any]) -> bool:
        """Take an event; returns whether it was the last."""
        match kind:
            case "message_start":
                self._reply = dict(value["message"])
            case "content_block_start":
                self._blocks[value["index"]] = dict(value["content_block"])
            case "content_block_delta":
                self._delta(value["index"], value["delta"])
            case "content_block_stop" | "ping":
                return False
            case "message_delta":
                self._last(value)
            case "message_stop":
                self._finish()
                return True
            case "error":
                raise BrokenOffError(value)
            case _:
                self.notes.append(f"an event of the kind {kind[:80]!r} was passed over")
        return False

    def _delta(self, index: int, delta: Mapping[str, Any]) -> None:
        block, kind = self._blocks[index], delta["type"]
        if kind in _PIECES:
            source, member = _PIECES[kind]
            self._pieces.setdefault((index, member), []).append(delta[source])
            if member == "text":
                self._on_delta(delta[source])
        elif kind == "citations_delta":
            block["citations"] = [*block.get("citations", ()), delta["citation"]]
        else:
            raise MalformedError(f"a stream delta of the kind {str(kind)[:80]!r}")

    def _last(self, value: Mapping[str, Any]) -> None:
        """The end of the message; its token counts replace those of the start."""
        self._reply.update(value["delta"])
        told = {k: v for k, v in fields(value.get("usage")).items() if v is not None}
        self._reply["usage"] = {**fields(self._reply.get("usage")), **told}

    def _finish(self) -> None:
        if not self._reply:
            raise MalformedError("a stream without message_start")
        for (index, member), pieces in self._pieces.items():
            block, text = self._blocks[index], "".join(pieces)
            if member != "input":
                block[member] = block.get(member, "") + text
            elif text.strip():
                block[member] = _value_or_text(text)
        self._reply["content"] = [self._blocks[i] for i in sorted(self._blocks)]


def _value_or_text(text: str) -> Any:
    """The arguments, or the text of them as far as it goes when it is cut off."""
    try:
        return parsed(text)
    except MalformedError:
        return text


# ---------------------------------------------------------------- /v1/chat/completions

DONE: Final = "[DONE]"
_JOINED: Final = frozenset({"content", "reasoning", "refusal"})
"""Members of a delta whose pieces are texts to be joined."""


class ChatDraft:
    """A reply of the Chat Completions API in the making."""

    def __init__(self, on_delta: DeltaSink) -> None:
        self.notes: list[str] = []
        self._on_delta = on_delta
        self._head: dict[str, Any] = {}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._finish: dict[str, Any] = {}
        self._calls: dict[int, dict[str, Any]] = {}

    @property
    def told(self) -> Mapping[str, Any]:
        """The reply as far as it has been told."""
        return self._head

    def read(self, events: Iterable[Event]) -> dict[str, Any]:
        """The whole reply, up to `[DONE]`.

        One that has told why the model stopped and what it cost is whole as well:
        nothing could follow, and asking again would be paid again.
        """
        for event in events:
            if event.data == DONE:
                return self._whole()
            _understood(self._take, _object(event))
        if self._finish and self._head.get("usage"):
            self.notes.append("the stream had said everything but [DONE]")
            return self._whole()
        raise CutOffError("without [DONE]")

    def _take(self, chunk: Mapping[str, Any]) -> bool:
        told = {k: v for k, v in chunk.items() if k != "choices" and v is not None}
        self._head.update(told)
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                raise MalformedError("a second choice, which was not asked for")
            if choice.get("finish_reason") is not None:
                self._finish["finish_reason"] = choice["finish_reason"]
            for name, value in (choice.get("delta") or {}).items():
                if value is not None:
                    self._add(name, value)
        return False

    def _add(self, name: str, value: Any) -> None:
        """Add a piece of a member; one that we do not know is kept as well."""
        if name == "tool_calls":
            for piece in value:
                self._call(piece)
            return
        if name == "content" and isinstance(value, str) and value:
            self._on_delta(value)
        before = self._message.get(name)
        if name == "reasoning_details":
            self._message[name] = _details(before or [], value)
        elif name in _JOINED:
            self._message[name] = _grown(before, value)
        else:
            self._message[name] = value

    def _call(self, piece: Mapping[str, Any]) -> None:
        call = self._calls.setdefault(self._place(piece), {})
        for name, value in piece.items():
            if name == "function":
                function = call.setdefault("function", {"arguments": ""})
                function["arguments"] += value.get("arguments") or ""
                if value.get("name"):
                    function["name"] = value["name"]
            elif name != "index" and value is not None:
                call[name] = value

    def _place(self, piece: Mapping[str, Any]) -> int:
        """Which call a piece belongs to; without a number a new id begins a new one."""
        if "index" in piece:
            return int(piece["index"])
        last = max(self._calls, default=-1)
        begins = piece.get("id") not in {None, self._calls.get(last, {}).get("id")}
        return last + 1 if begins else max(last, 0)

    def _whole(self) -> dict[str, Any]:
        """The reply as it would have come without a stream."""
        if not self._head:
            raise MalformedError("a stream without a chunk")
        message = dict(self._message)
        if self._calls:
            message["tool_calls"] = [self._calls[i] for i in sorted(self._calls)]
        choice = {"index": 0, "message": message, **self._finish}
        return {**self._head, "object": "chat.completion", "choices": [choice]}


def _grown(before: Any, piece: Any) -> Any:
    """A text with one more piece; parts of other kinds make it a list."""
    if isinstance(before, list) or isinstance(piece, list):
        return [*_parts(before), *_parts(piece)]
    return (before or "") + piece


def _parts(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [{"type": "text", "text": value}] if value else []


def _details(before: list[Any], pieces: Any) -> list[Any]:
    """Pieces of reasoning; those of one text, and its signature, become one."""
    details = list(before)
    for piece in pieces:
        last = details[-1] if details else {}
        if _continues(last, piece):
            text = last.get("text", "") + piece.get("text", "")
            details[-1] = {**last, **piece, "text": text}
        else:
            details.append(dict(piece))
    return details


def _continues(last: Mapping[str, Any], piece: Mapping[str, Any]) -> bool:
    """Whether a piece belongs to the text before it: a signature ends a text."""
    kinds = last.get("type"), piece.get("type")
    same = last.get("index") == piece.get("index")
    return kinds == ("reasoning.text",) * 2 and same and not last.get("signature")
