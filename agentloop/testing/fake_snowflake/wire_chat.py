"""Answers in the OpenAI dialect: one document, or the chunks of a stream.

The room holds pure encoders. It must not hold sockets or rules.

Claude behind this wire is not OpenAI: no finish reason, and `cached_tokens` counts
cache reads and writes that `prompt_tokens` leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from agentloop.testing.fake_snowflake.known import is_claude
from agentloop.testing.fake_snowflake.replies import (
    Answer,
    Call,
    Opaque,
    Redacted,
    Text,
    Thought,
    Usage,
)
from agentloop.testing.fake_snowflake.shapes import Doc, Json
from agentloop.testing.fake_snowflake.wire_messages import Stamp, sliced

_FINISH: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "refusal": "content_filter",
}


def completion(answer: Answer, stamp: Stamp) -> Doc:
    """The whole answer as one document."""
    choice: Doc = {"index": 0, "message": _message(answer), **_finish(answer, stamp)}
    return {
        **_head(stamp, "chat.completion"),
        "choices": [choice],
        "usage": _usage(answer.billed, stamp.model),
    }


def completion_chunks(answer: Answer, stamp: Stamp) -> Iterator[Doc]:
    """The answer as stream chunks; `[DONE]` is not one of them."""
    yield _chunk(stamp, {"role": "assistant", "content": ""})
    for delta in _deltas(answer):
        yield _chunk(stamp, delta)
    ending = _chunk(stamp, {})
    ending["choices"] = [{"index": 0, "delta": {}, **_finish(answer, stamp)}]
    yield ending
    if stamp.usage_asked:
        usage = _usage(answer.billed, stamp.model)
        yield {**_head(stamp, "chat.completion.chunk"), "choices": [], "usage": usage}


def error_chunk(text: str) -> Doc:
    """The event that ends a stream when something broke behind it."""
    return {"error": {"message": text, "type": "server_error", "code": "500"}}


def _head(stamp: Stamp, object_: str) -> Doc:
    return {
        "id": f"chatcmpl-{stamp.id}",
        "object": object_,
        "created": 1_700_000_000,
        "model": stamp.model,
    }


def _chunk(stamp: Stamp, delta: Doc) -> Doc:
    choice: Doc = {"index": 0, "delta": delta, "finish_reason": None}
    return {**_head(stamp, "chat.completion.chunk"), "choices": [choice]}


def _finish(answer: Answer, stamp: Stamp) -> Doc:
    reason = answer.stop_reason
    if reason is None:
        return {}
    if is_claude(stamp.model):
        return {} if stamp.finish is None else {"finish_reason": stamp.finish}
    return {"finish_reason": _FINISH.get(reason, reason)}


def _usage(usage: Usage, model: str) -> Doc:
    prompt, cached = usage.input, usage.cache_read + usage.cache_write
    if not is_claude(model):
        prompt, cached = prompt + cached, usage.cache_read
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output,
        "total_tokens": prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _message(answer: Answer) -> Doc:
    said = [b.text for b in answer.blocks if isinstance(b, Text)]
    message: Doc = {"role": "assistant", "content": "".join(said) if said else None}
    if opaque := [dict(b.doc) for b in answer.blocks if isinstance(b, Opaque)]:
        texts: list[Json] = [{"type": "text", "text": text} for text in said]
        message["content"] = [*texts, *opaque]
    if details := _reasoning(answer):
        message["reasoning_details"] = details
    if thought := "".join(b.text for b in answer.blocks if isinstance(b, Thought)):
        message["reasoning"] = thought
    if answer.tool_calls:
        message["tool_calls"] = [
            _call(call, call.written) for call in answer.tool_calls
        ]
    return message


def _call(call: Call, arguments: str) -> Doc:
    function: Doc = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _reasoning(answer: Answer) -> list[Json]:
    details: list[Json] = []
    for block in answer.blocks:
        match block:
            case Thought(text, signature):
                details.append(
                    {
                        "type": "reasoning.text",
                        "text": text,
                        "signature": signature,
                    }
                )
            case Redacted(data):
                details.append({"type": "reasoning.encrypted", "data": data})
            case Text() | Call() | Opaque():
                pass
    return details


def _deltas(answer: Answer) -> Iterator[Doc]:
    size, index = answer.delivery.piece, 0
    for block in answer.blocks:
        match block:
            case Text(text):
                for piece in sliced(text, size):
                    yield {"content": piece}
            case Thought() | Redacted():
                yield from _reasoning_deltas(block, size)
            case Opaque(wire):
                yield {"content": [dict(wire)]}
            case Call():
                yield from _call_deltas(index, block, size)
                index += 1


def _reasoning_deltas(block: Thought | Redacted, size: int) -> Iterator[Doc]:
    match block:
        case Thought(text, signature):
            for piece in sliced(text, size):
                part: Doc = {"type": "reasoning.text", "text": piece}
                yield {"reasoning": piece, "reasoning_details": [part]}
            seal: Doc = {"type": "reasoning.text", "text": "", "signature": signature}
            yield {"reasoning_details": [seal]}
        case Redacted(data):
            hidden: Doc = {"type": "reasoning.encrypted", "data": data}
            yield {"reasoning_details": [hidden]}


def _call_deltas(index: int, call: Call, size: int) -> Iterator[Doc]:
    yield {"tool_calls": [{"index": index, **_call(call, "")}]}
    for piece in sliced(call.written, size):
        part: Doc = {"index": index, "function": {"arguments": piece}}
        yield {"tool_calls": [part]}
