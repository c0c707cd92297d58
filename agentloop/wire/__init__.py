"""JSON in and out: `text` for bytes, `converter` for values, `checkpoint` for states.

The only room that knows how a value looks in JSON. What is stored carries
`SCHEMA_VERSION`; what a newer version stored is refused with a clear error.
"""

from agentloop.wire.converter import (
    BLOCK_TAGS,
    SCHEMA_VERSION,
    clean_blocks,
    clean_message,
    is_uuid,
    load,
    message_from,
    to_json,
    usage_json,
)
from agentloop.wire.instants import instant
from agentloop.wire.lines import message_text, quoted
from agentloop.wire.text import (
    Limits,
    TooLargeError,
    WireError,
    clean,
    clean_text,
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
