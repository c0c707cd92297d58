"""Neutral ⇄ Converse, pure: no client, no network, no clock.

`encode` makes the bytes of a request, `decode` reads a reply. Neither knows how bytes
travel or what becomes of a reply.
"""

from agentloop.backends.bedrock.codec.blocks import blobs_to_bytes
from agentloop.backends.bedrock.codec.decode import (
    STOPS,
    Reply,
    decode,
    reply_text,
    usage_of,
)
from agentloop.backends.bedrock.codec.encode import Conversation

__all__ = [
    "STOPS",
    "Conversation",
    "Reply",
    "blobs_to_bytes",
    "decode",
    "reply_text",
    "usage_of",
]
