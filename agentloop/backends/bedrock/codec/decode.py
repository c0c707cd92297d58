"""Converse to neutral: what a reply says, why it stopped, what it cost.

A reply is the parsed document of `Converse`; a stream is first put together to the
same document. Content is taken as it is: what follows from it is the machine's rule.
Names and ids stay verbatim, arguments become an object, texts lose the characters
that no store takes, what we do not know becomes an opaque block.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentloop.backends.bedrock.codec.blocks import PROVIDER
from agentloop.core.catalog import Failure
from agentloop.core.content import (
    Block,
    Image,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolUse,
)
from agentloop.core.phases import StopReason
from agentloop.core.run import Usage
from agentloop.core.values import value
from agentloop.wire import WireError, clean, clean_text, cleaned, dump

STOPS: Final[Mapping[str, StopReason]] = {
    "end_turn": "end_turn",
    "tool_use": "tool_use",
    "stop_sequence": "stop_sequence",
    "max_tokens": "max_tokens",
    "guardrail_intervened": "content_blocked",
    "content_filtered": "content_blocked",
    "refusal": "content_blocked",
    "malformed_model_output": "malformed",
    "malformed_tool_use": "malformed",
    "model_context_window_exceeded": "context_window",
    "pause_turn": "pause",
}
"""Stop reasons of Bedrock, and those of Anthropic that may shine through."""


_OBJECTS: Final = (dict, Mapping)  # dicts first: asking the abstract class is dear


@value
class Reply:
    """What a reply says in neutral words, with notes on what was changed."""

    message: Message
    stop: StopReason
    usage: Usage | None
    notes: tuple[str, ...] = ()


class _MalformedError(Exception):
    """A reply that cannot be understood; the text says why."""


def decode(reply: Any, tool_name: Callable[[str], str]) -> Reply | Failure:
    """The meaning of a reply, or a failure when there is none to be found.

    Args:
        reply: the parsed document.
        tool_name: reads a tool name from the wire back to the one it stands for.
    """
    try:
        message = reply["output"]["message"]
        blocks, reason = message["content"], reply["stopReason"]
        if not isinstance(blocks, list) or not isinstance(reason, str):
            raise _MalformedError("its content is no list or its stop reason no text")
        decoder = _Decoder(tool_name, STOPS.get(reason, "unknown"))
        found = [decoder.block(raw) for raw in blocks]
        content = tuple([block for block in found if block is not None])
    except (KeyError, TypeError, AttributeError) as error:
        return _malformed(f"it is no Converse reply ({type(error).__name__}: {error})")
    except (_MalformedError, WireError) as error:
        return _malformed(str(error))
    except RecursionError:
        return _malformed("it is nested too deeply")
    told = Message("assistant", content)
    return Reply(told, decoder.stop, usage_of(reply), tuple(decoder.notes))


def usage_of(reply: Any) -> Usage | None:
    """The tokens of a reply, None when it tells none, or a number that is none.

    Bedrock's `inputTokens` leaves out what was read from or written to the cache;
    the contract's prompt tokens count all three (contract section 11, "Usage").
    """
    usage = reply.get("usage") if isinstance(reply, _OBJECTS) else None
    if not isinstance(usage, _OBJECTS):
        return None
    fresh, written = _count(usage.get("inputTokens")), _count(usage.get("outputTokens"))
    read = _count(usage.get("cacheReadInputTokens") or 0)
    stored = _count(usage.get("cacheWriteInputTokens") or 0)
    if fresh is None or written is None or read is None or stored is None:
        return None
    return Usage(fresh + read + stored, written, read, stored)


def _count(value: Any) -> int | None:
    """A number of tokens, None for anything that is none."""
    return value if type(value) is int and value >= 0 else None


def reply_text(reply: Mapping[str, Any]) -> str | None:
    """A reply as JSON text, blobs as base64, without the transport's headers.

    None where it is nested too deeply to be written again.
    """
    document = {k: v for k, v in reply.items() if k != "ResponseMetadata"}
    try:
        return dump(document)
    except WireError:  # nearly no reply holds a blob, and this encoder costs twice that
        return _text_with_blobs(document)


def _text_with_blobs(document: Mapping[str, Any]) -> str | None:
    try:
        return _ENCODER.encode(document)
    except RecursionError:
        return None


def _blob(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return b64encode(value).decode("ascii")
    return str(value)


_ENCODER: Final = json.JSONEncoder(default=_blob, separators=(",", ":"))


def _malformed(problem: str) -> Failure:
    message = f"bedrock's reply cannot be used: {problem}"[:500]
    return Failure(kind="malformed_output", message=message)


class _Decoder:
    """One pass over the blocks of a reply."""

    def __init__(self, tool_name: Callable[[str], str], stop: StopReason) -> None:
        self.tool_name = tool_name
        self.stop: StopReason = stop
        self.notes: list[str] = []

    def block(self, raw: Any) -> Block | None:
        """A block, or None for a call that was cut in half."""
        if len(raw) != 1:
            raise _MalformedError(f"a block of the kinds {', '.join(map(str, raw))}")
        [(kind, value)] = raw.items()
        match kind:
            case "text":
                return Text(self.text(value))
            case "toolUse" if "type" not in value:
                return self.tool_use(value)
            case "reasoningContent":
                return self.reasoning(value)
            case "citationsContent" if value.get("content"):
                return self.cited(value)
            case "image" if "bytes" in value.get("source", {}):
                return Image(value["format"], _blob(value["source"]["bytes"]))
            case _:
                return Opaque(PROVIDER, self.json({kind: value}))

    def text(self, raw: Any) -> str:
        if not isinstance(raw, str):
            raise _MalformedError("a text that is none")
        text, changed = clean_text(raw)
        self.count(changed)
        return text

    def json(self, raw: Any) -> Any:
        try:
            value, changed = cleaned(raw)
        except WireError:  # something that is no JSON, but can be told as JSON
            value, changed = clean(json.loads(json.dumps(raw, default=_blob)))
        self.count(changed)
        return value

    def count(self, changed: int) -> None:
        if changed:
            self.notes.append(f"{changed} characters of the reply became U+FFFD")

    def cited(self, value: Any) -> Block:
        """The cited text; the citations stay in the job's response."""
        self.notes.append("citations are kept in the job's response only")
        return Text(self.text("".join(part["text"] for part in value["content"])))

    def tool_use(self, value: Any) -> Block | None:
        """A call with its arguments, None when they were cut off."""
        name, id_ = value["name"], value["toolUseId"]
        if not isinstance(name, str) or not isinstance(id_, str):
            raise _MalformedError("a tool call whose name or id is no text")
        arguments = self.arguments(value.get("input"))
        if arguments is None:
            self.notes.append(f"a call of {name[:80]!r} that was cut off was dropped")
            return None
        return ToolUse(self.text(id_), self.tool_name(self.text(name)), arguments)

    def arguments(self, raw: Any) -> Any:
        """An object, always; None for the beginning of one.

        Models send an object as text now and then, and nothing for no arguments. At
        `max_tokens` nothing is what Bedrock makes of arguments it could not finish.
        """
        if isinstance(raw, str):
            raw = _parsed(raw)
            if raw is _CUT:
                return None
        if not raw and raw in ({}, None, ""):
            return None if self.stop == "max_tokens" else {}
        if not isinstance(raw, _OBJECTS):
            raise _MalformedError("a tool call whose arguments are no object")
        return self.json(raw)

    def reasoning(self, value: Any) -> Block:
        """Reasoning as it is; a text that had to change loses its signature."""
        if "redactedContent" in value:
            return Reasoning(redacted=_blob(value["redactedContent"]))
        if "reasoningText" not in value:
            return Opaque(PROVIDER, self.json({"reasoningContent": value}))
        raw = value["reasoningText"]
        text, signature = raw.get("text", ""), raw.get("signature")
        cleaned = self.text(text)
        return Reasoning(text=cleaned, signature=signature if cleaned == text else None)


_CUT: Final = object()


def _parsed(text: str) -> Any:
    """The value of arguments that came as text, `_CUT` when it breaks off."""
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _CUT
