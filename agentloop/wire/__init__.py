"""JSON in and out: of bytes, of values and of states.

The only room that knows how a value looks in JSON: `text` for bytes, `shapes` and
`converter` for values, `lines` for what a turn stores, `checkpoint` for states. What
is stored carries `SCHEMA_VERSION`; what a newer version stored is refused with a
clear error.
"""

from agentloop.wire.converter import (
    SCHEMA_VERSION,
    clean_blocks,
    clean_message,
    is_uuid,
    load,
    message_from,
    to_json,
    usage_json,
)
from agentloop.wire.lines import instant, message_text, quoted
from agentloop.wire.shapes import BLOCK_TAGS
from agentloop.wire.text import (
    Limits,
    TooLargeError,
    WireError,
    clean,
    clean_text,
    cleaned,
    dump,
    encoder,
    is_clean,
    parse,
    undump,
)

__all__ = [
    "BLOCK_TAGS",
    "SCHEMA_VERSION",
    "Limits",
    "TooLargeError",
    "WireError",
    "clean",
    "clean_blocks",
    "clean_message",
    "clean_text",
    "cleaned",
    "dump",
    "encoder",
    "instant",
    "is_clean",
    "is_uuid",
    "load",
    "message_from",
    "message_text",
    "parse",
    "quoted",
    "to_json",
    "undump",
    "usage_json",
]
