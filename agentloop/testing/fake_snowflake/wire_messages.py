"""Answers in the Anthropic dialect: one document, or the events of a stream.

The room holds pure encoders. It must not hold sockets or rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from attrs import frozen

from agentloop.testing.fake_snowflake.replies import (
    Answer,
    Block,
    Call,
    Opaque,
    Redacted,
    Text,
    Thought,
    Usage,
)
from agentloop.testing.fake_snowflake.shapes import Doc, Json


@frozen(kw_only=True)
class Stamp:
    """What a reply carries besides the answer.

    Attributes:
        usage_asked: Whether a chat stream ends with a usage chunk.
        finish: What Claude's chat replies hold as finish reason; None leaves it out.
    """

    id: str
    model: str
    usage_asked: bool = False
    finish: str | None = ""


def message(answer: Answer, stamp: Stamp) -> Doc:
    """The whole answer as one document."""
    return {
        "id": f"msg_{stamp.id}",
        "type": "message",
        "role": "assistant",
        "model": stamp.model,
        "content": [_block(block) for block in answer.blocks],
        "stop_reason": answer.stop_reason,
        "stop_sequence": None,
        "usage": _usage(answer.billed),
    }


def message_events(answer: Answer, stamp: Stamp) -> Iterator[tuple[str, Doc]]:
    """The answer as named stream events, `message_stop` last."""
    opening = message(answer, stamp)
    opening |= {"content": [], "stop_reason": None}
    opening["usage"] = _usage(answer.billed) | {"output_tokens": 1}
    yield "message_start", {"type": "message_start", "message": opening}
    for index, block in enumerate(answer.blocks):
        yield from _block_events(index, block, answer.delivery.piece)
        if index == 0:
            yield "ping", {"type": "ping"}
    ending: Doc = {"stop_reason": answer.stop_reason, "stop_sequence": None}
    yield (
        "message_delta",
        {
            "type": "message_delta",
            "delta": ending,
            "usage": {"output_tokens": answer.billed.output},
        },
    )
    yield "message_stop", {"type": "message_stop"}


def error_event(text: str) -> tuple[str, Doc]:
    """The event that ends a stream when something broke behind it."""
    return "error", {"type": "error", "error": {"type": "api_error", "message": text}}


def sliced(text: str, size: int) -> Iterator[str]:
    """The text in pieces of at most `size` characters."""
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _usage(usage: Usage) -> Doc:
    return {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
    }


def _block(block: Block) -> Doc:
    match block:
        case Text(text):
            return {"type": "text", "text": text}
        case Call():
            # A document can only hold an object, so a truncated input arrives empty.
            given: Json = {} if block.raw is not None else dict(block.input)
            return {
                "type": "tool_use",
                "id": block.id,
                "name": block.name,
                "input": given,
            }
        case Thought(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case Redacted(data):
            return {"type": "redacted_thinking", "data": data}
        case Opaque(wire):
            return dict(wire)
        case _:
            assert_never(block)


def _block_events(index: int, block: Block, size: int) -> Iterator[tuple[str, Doc]]:
    yield (
        "content_block_start",
        {"type": "content_block_start", "index": index, "content_block": _empty(block)},
    )
    for delta in _deltas(block, size):
        yield (
            "content_block_delta",
            {"type": "content_block_delta", "index": index, "delta": delta},
        )
    yield "content_block_stop", {"type": "content_block_stop", "index": index}


def _empty(block: Block) -> Doc:
    match block:
        case Text():
            return _block(Text(""))
        case Thought():
            return _block(Thought("", ""))
        case Call():
            return _block(block) | {"input": {}}
        case Redacted() | Opaque():
            return _block(block)
        case _:
            assert_never(block)


def _deltas(block: Block, size: int) -> Iterator[Doc]:
    match block:
        case Text(text):
            for piece in sliced(text, size):
                yield {"type": "text_delta", "text": piece}
        case Thought(text, signature):
            for piece in sliced(text, size):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": signature}
        case Call():
            for piece in sliced(block.written, size):
                yield {"type": "input_json_delta", "partial_json": piece}
        case Redacted() | Opaque():
            return
        case _:
            assert_never(block)
