"""What the fake remembers of a request, and what a test may ask about it."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from attrs import field, frozen

from agentloop.testing.fake_bedrock.values import Json, items, obj, only_key, text

Operation: TypeAlias = Literal["converse", "converse_stream"]


@frozen
class Received:
    """One request as it arrived.

    Attributes:
        number: Its place in the order of arrival, from one.
        operation: The API that was called.
        model_id: The model id, decoded.
        request_id: The id it is answered with, in `x-amzn-RequestId`.
        body: The parsed body; empty when it was no JSON.
        raw: The bytes of the body.
        headers: Its headers, names in lower case.
    """

    number: int
    operation: Operation
    model_id: str
    request_id: str
    body: Json = field(repr=False)
    raw: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def messages(self) -> tuple[Json, ...]:
        """The messages it carries."""
        return tuple(obj(message) for message in items(self.body, "messages"))

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The names of the tools it offers, in order."""
        return tuple(
            text(tool, "toolSpec", "name")
            for tool in items(self.body, "toolConfig", "tools")
            if only_key(tool) == "toolSpec"
        )

    @property
    def last_user_text(self) -> str:
        """The text of the last user message that has one."""
        for message in reversed(self.messages):
            parts = [
                text(block, "text")
                for block in items(message, "content")
                if only_key(block) == "text"
            ]
            if text(message, "role") == "user" and parts:
                return "\n".join(parts)
        return ""

    @property
    def tool_results(self) -> tuple[Json, ...]:
        """The tool results of the last message, in order."""
        last = self.messages[-1] if self.messages else {}
        return tuple(
            obj(block, "toolResult")
            for block in items(last, "content")
            if only_key(block) == "toolResult"
        )


@frozen
class Refused:
    """A request that broke a rule, and the answer it got."""

    request: Received
    rule: str
    message: str


def described(request: Received) -> str:
    """One line about a request, for error messages."""
    last = request.messages[-1] if request.messages else {}
    kinds = ", ".join(only_key(block) for block in items(last, "content"))
    said = request.last_user_text
    shown = said if len(said) <= 60 else f"{said[:57]}..."
    return (
        f"#{request.number} {request.operation} {request.model_id}: "
        f"{len(request.messages)} messages, last {text(last, 'role')} [{kinds}], "
        f"user said {shown!r}"
    )
