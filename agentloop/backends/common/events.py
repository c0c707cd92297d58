"""The events that answer an inference, whatever wire the answer came over."""

from typing import Protocol

from agentloop.core.catalog import Failure
from agentloop.core.content import Message
from agentloop.core.phases import Infer, ModelFailed, ModelReplied, StopReason
from agentloop.core.run import Usage


class Answered(Protocol):
    """What a codec made of a reply."""

    @property
    def message(self) -> Message:
        """What the model said."""
        ...

    @property
    def stop(self) -> StopReason:
        """Why it stopped."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What it cost, None when the provider did not say."""
        ...


def failed(command: Infer, failure: Failure, usage: Usage | None) -> ModelFailed:
    """The event of an attempt that failed."""
    return ModelFailed(
        iteration=command.iteration,
        attempt=command.attempt,
        failure=failure,
        usage=usage,
    )


def replied(command: Infer, found: Answered) -> ModelReplied:
    """The event of an attempt that was answered."""
    return ModelReplied(
        command.iteration, command.attempt, found.message, found.stop, found.usage
    )
