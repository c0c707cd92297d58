"""Cortex to neutral: what a reply says, why the model stopped, what it cost.

One function per dialect, each from the parsed document; a stream is first put
together to the same document. All of them are pure.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from attrs import frozen

from agentloop.backends.cortex.codec.emulation import CALLS, FINAL, TEXT
from agentloop.backends.cortex.codec.replies import (
    MalformedError,
    Reader,
    Reply,
    count,
    fields,
    parsed,
    understood,
)
from agentloop.core.catalog import Failure
from agentloop.core.content import Block
from agentloop.core.phases import StopReason
from agentloop.core.run import Usage
from agentloop.wire import dump

MESSAGES_STOPS: Final[Mapping[str, StopReason]] = {
    "end_turn": "end_turn",
    "tool_use": "tool_use",
    "stop_sequence": "stop_sequence",
    "max_tokens": "max_tokens",
    "refusal": "content_blocked",
    "guardrail_intervened": "content_blocked",
    "content_filtered": "content_blocked",
    "model_context_window_exceeded": "context_window",
    "malformed_model_output": "malformed",
    "malformed_tool_use": "malformed",
    "pause_turn": "pause",
}
"""Anthropic's stop reasons, and Bedrock's that may shine through."""

CHAT_STOPS: Final[Mapping[str, StopReason]] = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "content_blocked",
}
"""OpenAI's finish reasons; some families tell none, and then content decides."""

ToolName: TypeAlias = Callable[[str], str]


# ---------------------------------------------------------------- /v1/messages


def decode_messages(document: Any, tool_name: ToolName) -> Reply | Failure:
    """The meaning of a reply of the Messages API."""

    def read(reply: Any) -> Reply:
        blocks, reason = reply["content"], reply.get("stop_reason")
        if not isinstance(blocks, list):
            raise MalformedError("its content is no list")
        reader = Reader(tool_name, MESSAGES_STOPS.get(str(reason), "unknown"))
        found = [_message_block(reader, raw) for raw in blocks]
        return reader.reply(found, messages_usage(reply))

    return understood(read, document)


def _message_block(reader: Reader, raw: Mapping[str, Any]) -> Block | None:
    match raw["type"]:
        case "text":
            if raw.get("citations"):
                reader.notes.append("citations are kept in the job's response only")
            return reader.said(raw["text"])
        case "tool_use":
            return reader.call(raw["id"], raw["name"], raw.get("input"))
        case "thinking":
            return reader.reasoning(raw["thinking"], raw.get("signature"))
        case "redacted_thinking":
            return reader.redacted(raw["data"])
        case _:
            return reader.opaque(raw)


def messages_usage(document: Any) -> Usage | None:
    """The tokens of a reply, None when it tells none.

    `input_tokens` leaves out what was read from or written to the cache; the
    contract's prompt tokens count all three (contract section 11, "Usage").
    """
    usage = fields(fields(document).get("usage"))
    fresh, written = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    if fresh is None or written is None:
        return None
    read = count(usage.get("cache_read_input_tokens")) or 0
    stored = count(usage.get("cache_creation_input_tokens")) or 0
    return Usage(
        prompt_tokens=fresh + read + stored,
        completion_tokens=written,
        cache_read_tokens=read,
        cache_write_tokens=stored,
    )


# ---------------------------------------------------------------- /v1/chat/completions


def decode_chat(document: Any, tool_name: ToolName) -> Reply | Failure:
    """The meaning of a reply of the Chat Completions API."""

    def read(reply: Any) -> Reply:
        choice = reply["choices"][0]
        message = choice["message"]
        reason = str(choice.get("finish_reason"))
        stop: StopReason = CHAT_STOPS.get(reason, "unknown")
        if message.get("refusal"):
            stop = "content_blocked"
        reader = Reader(tool_name, stop)
        found = list(_chat_blocks(reader, message))
        return reader.reply(found, chat_usage(reply))

    return understood(read, document)


def _chat_blocks(reader: Reader, message: Mapping[str, Any]) -> Iterator[Block | None]:
    yield from _thoughts(reader, message)
    content = message.get("content")
    if isinstance(content, list):
        yield from (_part(reader, part) for part in content)
    elif content is not None and content != "":
        yield reader.said(content)
    if refusal := message.get("refusal"):
        yield reader.said(refusal)
    for call in message.get("tool_calls") or ():
        if "function" not in call:
            yield reader.opaque(call)
            continue
        function = call["function"]
        yield reader.call(call["id"], function["name"], function.get("arguments"))


def _part(reader: Reader, part: Mapping[str, Any]) -> Block:
    if part["type"] in {"text", "output_text"}:
        return reader.said(part["text"])
    return reader.opaque(part)


def _thoughts(reader: Reader, message: Mapping[str, Any]) -> Iterator[Block]:
    """Reasoning, from its details where there are any, else from its text."""
    details = message.get("reasoning_details") or ()
    for detail in details:
        match detail.get("type"):
            case "reasoning.text":
                yield reader.reasoning(detail.get("text", ""), detail.get("signature"))
            case "reasoning.encrypted":
                yield reader.redacted(detail["data"])
            case "reasoning.summary":
                yield reader.reasoning(detail.get("summary", ""), None)
            case _:
                yield reader.opaque(detail)
    told = message.get("reasoning")
    if not details and isinstance(told, str) and told:
        yield reader.reasoning(told, None)


def chat_usage(document: Any) -> Usage | None:
    """The tokens of a reply, None when it tells none.

    `prompt_tokens` counts what was read from a cache; what was written to one is not
    told on this wire.
    """
    usage = fields(fields(document).get("usage"))
    prompt = count(usage.get("prompt_tokens"))
    written = count(usage.get("completion_tokens"))
    if prompt is None or written is None:
        return None
    cached = count(fields(usage.get("prompt_tokens_details")).get("cached_tokens"))
    return Usage(
        prompt_tokens=prompt, completion_tokens=written, cache_read_tokens=cached or 0
    )


# ---------------------------------------------------------------- COMPLETE


@frozen(kw_only=True)
class Asked:
    """What a row of COMPLETE answers, which it does not say itself.

    Attributes:
        job_id: for the ids of calls, which SQL has none for.
        max_tokens: how many tokens were allowed.
        structured: whether a schema was given.
        emulated: whether that schema was the one that puts tools into words.
        tool_name: reads a tool name back to the one it stands for.
    """

    job_id: str
    max_tokens: int
    structured: bool
    emulated: bool
    tool_name: ToolName


def decode_complete(cell: str, asked: Asked) -> Reply | Failure:
    """The meaning of the value that COMPLETE returned.

    SQL tells no stop reason; an answer that took all the tokens it was allowed is
    taken as one that was cut off.
    """

    def read(text: str) -> Reply:
        value = parsed(text)
        usage = complete_usage(value)
        cut = usage is not None and usage.completion_tokens >= asked.max_tokens
        stop: StopReason = "max_tokens" if cut else "unknown"
        reader = Reader(asked.tool_name, stop)
        if not asked.structured:
            return reader.reply([reader.said(_plain(value))], usage)
        told = _told(value, text)
        if asked.emulated:
            return reader.reply(list(_emulated(reader, told, asked)), usage)
        return reader.reply([reader.said(_as_text(told))], usage)

    return understood(read, cell)


def _plain(value: Any) -> Any:
    return value["choices"][0]["messages"]


def _told(value: Any, text: str) -> Any:
    """The structured answer: inside its details, or the row itself."""
    if isinstance(value, Mapping):
        if "structured_output" in value:
            return value["structured_output"][0]["raw_message"]
        if "choices" in value and "usage" in value:
            return _plain(value)
    return text


def _as_text(said: Any) -> Any:
    return said if isinstance(said, str) else dump(said)


def _emulated(reader: Reader, said: Any, asked: Asked) -> Iterator[Block | None]:
    """Calls and texts out of the object that the model was made to write."""
    answer = parsed(said) if isinstance(said, str) else said
    calls, text, final = answer[CALLS] or (), answer.get(TEXT), answer.get(FINAL)
    if final is not None and not calls:
        if text:
            reader.notes.append("what was said beside the final answer was dropped")
        yield reader.said(dump(final))
        return
    if final is not None:
        reader.notes.append("a final answer beside tool calls was dropped")
    if text is not None:
        yield reader.said(text)
    made = asked.job_id.replace("-", "")[:48]
    for number, call in enumerate(calls, start=1):
        id_ = f"call_{made}_{number}"
        yield reader.call(id_, call["name"], call.get("arguments"))


def complete_usage(value: Any) -> Usage | None:
    """The tokens of a row, None when it tells none."""
    usage = fields(fields(value).get("usage"))
    prompt = count(usage.get("prompt_tokens"))
    written = count(usage.get("completion_tokens"))
    if prompt is None or written is None:
        return None
    return Usage(prompt_tokens=prompt, completion_tokens=written)
