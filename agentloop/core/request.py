"""What a caller asks a run to do: the payload and the request around it.

Contract section 5, with the shapes of section 11: a user message may bring text,
images and documents; a tool output brings content blocks. Both become the message
that opens the run. Convenience spellings are settled where JSON is parsed.
"""

from typing import Any, TypeAlias, assert_never

from attrs import frozen

from agentloop.core.catalog import RequestError
from agentloop.core.config import Override, ToolChoice
from agentloop.core.content import (
    Document,
    Image,
    Message,
    Text,
    ToolResult,
    is_blank,
)

UserContent: TypeAlias = Text | Image | Document


@frozen
class UserMessage:
    """A fresh user turn."""

    content: tuple[UserContent, ...]


@frozen
class ToolOutputs:
    """The caller's answers to the calls a run paused on."""

    outputs: tuple[ToolResult, ...]


Payload: TypeAlias = UserMessage | ToolOutputs


@frozen(kw_only=True)
class StartRequest:
    """The body of a request that starts a run (contract section 2.5)."""

    client_op_id: str
    expected_version: int
    payload: Payload
    tool_choice: ToolChoice | None = None
    config_override: Override | None = None


@frozen(kw_only=True)
class NewConversation:
    """The body of a request that creates a conversation (contract section 2.1)."""

    defaults: Any
    name: str | None = None
    system_prompt: str | None = None


def opening(payload: Payload) -> Message:
    """The message that a payload opens the run with."""
    match payload:
        case UserMessage(content):
            return Message("user", content)
        case ToolOutputs(outputs):
            return Message("user", outputs)
        case _:
            assert_never(payload)


def check_payload(payload: Payload) -> None:
    """Refuse a payload that says nothing.

    Raises:
        RequestError: `invalid-request` with the JSON path.
    """
    match payload:
        case UserMessage(content):
            if not content:
                raise _refuse("$.payload.content_blocks must not be empty")
            if any(is_blank(block) for block in content):
                raise _refuse("$.payload.text must not be blank")
            kinds = {type(block) for block in content}
            if Document in kinds and Text not in kinds:
                raise _refuse("$.payload: a document needs a text beside it")
        case ToolOutputs(outputs):
            if not outputs:
                raise _refuse("$.payload.outputs must not be empty")
        case _:
            assert_never(payload)


def _refuse(problem: str) -> RequestError:
    return RequestError("invalid-request", problem=problem)
