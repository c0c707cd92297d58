"""Lines of JSON that a run stores on every turn, put together from their parts.

An encoder has to be given a value: dicts that are made for it, walked and thrown
away. For the few shapes of a turn it costs a third to join the texts directly.
Every line here is, character by character, what `dump(to_json(value))` gives; tests
hold it to that. What is rare goes through the encoder here, too.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Final

from agentloop.core.content import Message, Text, ToolResult, ToolUse
from agentloop.core.run import Usage
from agentloop.wire.converter import to_json
from agentloop.wire.text import WireError, dump

__all__ = ["instant", "message_text", "quoted", "usage_text"]


def message_text(message: Message) -> str:
    """A message as one line of JSON, the form in which stores keep it.

    Raises:
        WireError: something in it has no JSON form.
    """
    try:
        role, blocks = quoted(message.role), _blocks(message.content)
    except TypeError as error:  # a text that is none
        raise WireError("$", f"no JSON value: {error}") from None
    return f'{{"role":{role},"content_blocks":[{blocks}]}}'


def _blocks(content: tuple[Any, ...]) -> str:
    return ",".join([_LINES.get(type(block), _other)(block) for block in content])


def _text(block: Text) -> str:
    return f'{{"type":"text","text":{quoted(block.text)}}}'


def _tool_use(block: ToolUse) -> str:
    return (
        f'{{"type":"tool_use","tool_use_id":{quoted(block.tool_use_id)},'
        f'"name":{quoted(block.name)},"arguments":{dump(block.arguments)}}}'
    )


def _tool_result(block: ToolResult) -> str:
    return (
        f'{{"type":"tool_result","tool_use_id":{quoted(block.tool_use_id)},'
        f'"content_blocks":[{_blocks(block.content)}],'
        f'"is_error":{"true" if block.is_error else "false"}}}'
    )


def usage_text(usage: Usage) -> str:
    """A usage as a record holds it, the total told, too."""
    return (
        f'{{"prompt_tokens":{usage.prompt_tokens},'
        f'"completion_tokens":{usage.completion_tokens},'
        f'"total_tokens":{usage.total_tokens},'
        f'"cache_read_tokens":{usage.cache_read_tokens},'
        f'"cache_write_tokens":{usage.cache_write_tokens},'
        f'"attempts_without_usage":{usage.attempts_without_usage}}}'
    )


def instant(moment: datetime) -> str:
    """An instant as the contract writes it: RFC 3339, UTC, microseconds.

    E.g. `2026-05-18T13:21:30.355180Z`.
    """
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{utc.date().isoformat()}T{utc.time().isoformat('microseconds')}Z"


def _other(block: object) -> str:
    return dump(to_json(block))


_LINES: Final[Mapping[type, Callable[[Any], str]]] = {
    Text: _text,
    ToolUse: _tool_use,
    ToolResult: _tool_result,
}
