"""From a scripted message to what Bedrock sends: one document, or a run of events.

Both forms are derived from the same rendered message, so a script need not know which
API it is asked through. No I/O here.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from attrs import frozen

from agentloop.testing.fake_bedrock.records import Received
from agentloop.testing.fake_bedrock.replies import Message, Partial, Usage
from agentloop.testing.fake_bedrock.values import Json, at, items, obj, only_key, text

Event: TypeAlias = tuple[str, Json]

_DELTAS: Final = 4  # deltas per block when a script does not say
_CHARS_PER_TOKEN: Final = 4


@frozen
class Rendered:
    """A message with every open question answered.

    Attributes:
        blocks: Its content blocks, ids filled in; tool input may still be `Partial`.
        stop: Its stop reason.
        usage: Its token counts.
        piece: Characters per delta, zero for a few deltas per block.
        extras: Further top-level fields.
    """

    blocks: tuple[Json, ...]
    stop: str
    usage: Json
    piece: int
    extras: Json


def render(message: Message, request: Received) -> Rendered:
    """Give ids to tool uses, settle the stop reason and count tokens."""
    blocks = tuple(
        _identified(block, request.number, place)
        for place, block in enumerate(message.blocks, 1)
    )
    called = any(only_key(block) == "toolUse" for block in blocks)
    return Rendered(
        blocks=blocks,
        stop=message.stop or ("tool_use" if called else "end_turn"),
        usage=_usage(message.usage, request, blocks),
        piece=message.piece or 0,
        extras=message.extras,
    )


def document(rendered: Rendered) -> Json:
    """The body of a `converse` reply."""
    whole = [_without_partial(block) for block in rendered.blocks]
    return {
        "output": {"message": {"role": "assistant", "content": whole}},
        "stopReason": rendered.stop,
        "usage": rendered.usage,
        "metrics": {"latencyMs": 1},
        **rendered.extras,
    }


def stream(rendered: Rendered) -> Iterator[Event]:
    """The events of a `converse_stream` reply, in order."""
    yield "messageStart", {"role": "assistant"}
    for place, block in enumerate(rendered.blocks):
        yield from _block_events(place, block, rendered.piece)
    fields = rendered.extras.get("additionalModelResponseFields")
    stop: dict[str, object] = {"stopReason": rendered.stop}
    if fields is not None:
        stop["additionalModelResponseFields"] = fields
    yield "messageStop", stop
    late = {
        name: value
        for name, value in rendered.extras.items()
        if name != "additionalModelResponseFields"
    }
    yield "metadata", {"usage": rendered.usage, "metrics": {"latencyMs": 1}, **late}


def _block_events(place: int, block: Json, piece: int) -> Iterator[Event]:
    kind = only_key(block)
    where = {"contentBlockIndex": place}
    if kind == "toolUse":
        use = obj(block, "toolUse")
        start = {name: value for name, value in use.items() if name != "input"}
        yield "contentBlockStart", {**where, "start": {"toolUse": start}}
    for delta in _deltas(kind, block[kind] if kind else block, piece):
        yield "contentBlockDelta", {**where, "delta": delta}
    yield "contentBlockStop", where


def _deltas(kind: str, value: object, piece: int) -> Iterator[Json]:
    match kind:
        case "text":
            yield from _text_deltas(str(value), piece)
        case "toolUse":
            for part in pieces(_input_text(at(value, "input")), piece):
                yield {"toolUse": {"input": part}}
        case "reasoningContent":
            yield from _reasoning_deltas(value, piece)
        case "citationsContent":
            yield from _cited_deltas(value, piece)
        case _:
            yield {kind: value}


def _text_deltas(whole: str, piece: int) -> Iterator[Json]:
    for part in pieces(whole, piece):
        yield {"text": part}


def _cited_deltas(value: object, piece: int) -> Iterator[Json]:
    for cited in items(value, "content"):
        yield from _text_deltas(text(cited, "text"), piece)
    for citation in items(value, "citations"):
        yield {"citation": citation}


def _reasoning_deltas(value: object, piece: int) -> Iterator[Json]:
    if only_key(value) == "redactedContent":
        yield {"reasoningContent": value}
        return
    for part in pieces(text(value, "reasoningText", "text"), piece):
        yield {"reasoningContent": {"text": part}}
    signature = at(value, "reasoningText", "signature")
    if signature is not None:
        yield {"reasoningContent": {"signature": signature}}


def pieces(whole: str, size: int) -> Iterator[str]:
    """Cut a text into deltas; an empty text is one empty delta."""
    step = size or max(1, -(-len(whole) // _DELTAS))
    for start in range(0, max(1, len(whole)), step):
        yield whole[start : start + step]


def _input_text(value: object) -> str:
    """The JSON text of a tool input; no arguments at all stream as an empty text."""
    if isinstance(value, Partial):
        return value.text
    return "" if value == {} else json.dumps(value)


def _identified(block: Json, number: int, place: int) -> Json:
    use = obj(block, "toolUse")
    if only_key(block) != "toolUse" or "toolUseId" in use:
        return block
    return {"toolUse": {"toolUseId": f"tooluse_{number}_{place}", **use}}


def _without_partial(block: Json) -> Json:
    use = obj(block, "toolUse")
    if isinstance(use.get("input"), Partial):
        return {"toolUse": {**use, "input": {}}}
    return block


def _usage(given: Usage | None, request: Received, blocks: tuple[Json, ...]) -> Json:
    """Token counts by size, four characters to a token, unless the script says more."""
    said: dict[str, object] = {
        "inputTokens": -(-len(request.raw) // _CHARS_PER_TOKEN),
        "outputTokens": max(1, len(str(blocks)) // _CHARS_PER_TOKEN),
    }
    if isinstance(given, Mapping):
        said |= given
    elif given is not None:
        said["inputTokens"], said["outputTokens"] = given
    return {"totalTokens": sum(_counts(said)), **said}


def _counts(usage: Json) -> Iterator[int]:
    for name, value in usage.items():
        if name.endswith("Tokens") and isinstance(value, int):
            yield value
