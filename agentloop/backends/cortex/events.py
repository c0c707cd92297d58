"""The events that answer an inference, the same for both transports."""

from agentloop.backends.cortex.codec.replies import Reply
from agentloop.core.catalog import Failure
from agentloop.core.content import Text
from agentloop.core.phases import Infer, ModelFailed, ModelReplied
from agentloop.core.run import Usage
from agentloop.ports import DeltaSink


def failed(command: Infer, failure: Failure, usage: Usage | None) -> ModelFailed:
    """The event of an attempt that failed."""
    return ModelFailed(
        iteration=command.iteration,
        attempt=command.attempt,
        failure=failure,
        usage=usage,
    )


def replied(command: Infer, found: Reply) -> ModelReplied:
    """The event of an attempt that was answered."""
    return ModelReplied(
        iteration=command.iteration,
        attempt=command.attempt,
        message=found.message,
        stop=found.stop,
        usage=found.usage,
    )


def tell_whole(found: Reply, on_delta: DeltaSink) -> None:
    """Tell a listener the texts of an answer that came in one piece."""
    for block in found.message.content:
        if isinstance(block, Text):
            on_delta(block.text)
