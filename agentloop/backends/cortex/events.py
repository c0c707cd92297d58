"""What listeners are told of an answer, the same for both transports."""

from agentloop.backends.cortex.codec.replies import Reply
from agentloop.core.content import Text
from agentloop.ports import DeltaSink


def tell_whole(found: Reply, on_delta: DeltaSink) -> None:
    """Tell a listener the texts of an answer that came in one piece."""
    for block in found.message.content:
        if isinstance(block, Text):
            on_delta(block.text)
