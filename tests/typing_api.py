"""The public types, used as a host would: checked by mypy and pyright, never run."""

from collections.abc import AsyncGenerator, Iterator
from typing import assert_type

from agentloop import (
    AgentLoop,
    AsyncAgentLoop,
    Conversation,
    InferenceJob,
    MessageDelta,
    Run,
    RunEvent,
    Scope,
    ToolContext,
    Usage,
    tool,
)
from agentloop.backends.bedrock import BedrockBackend
from agentloop.core.phases import Infer
from agentloop.ports import Backend, Store
from agentloop.stores.memory import MemoryStore
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.scripted import ScriptedBackend, says


@tool
def plain(day: str) -> list[str]:
    """A plain tool stays callable with its own types."""
    return [day]


@tool(timeout=5.0, repeatable=True)
async def later(day: str, context: ToolContext) -> str:
    """So does an asynchronous one."""
    return day + context.effect_key


assert_type(plain("Friday"), list[str])

backends: list[Backend] = [BedrockBackend(), ScriptedBackend(says("hi"))]
stores: list[Store] = [MemoryStore(), SQLiteStore("agents.db")]
scope = Scope(1, 2)


def synchronous(loop: AgentLoop) -> None:
    """What the synchronous face gives."""
    conversation = loop.create_conversation(defaults={"model": "m"}, scope=scope)
    assert_type(conversation, Conversation)
    run = loop.run(conversation.id, "Hi", scope=scope)
    assert_type(run, Run)
    assert_type(run.usage, Usage | None)
    assert_type(loop.messages(conversation.id, scope=scope), MessageDelta)
    assert_type(loop.list_jobs(run.id, scope=scope), tuple[InferenceJob, ...])
    assert_type(loop.stream(conversation.id, "Hi", scope=scope), Iterator[RunEvent])


async def asynchronous(loop: AsyncAgentLoop) -> None:
    """What its twin gives."""
    run = await loop.run("id", {"kind": "user_message", "text": "Hi"}, scope=scope)
    assert_type(run, Run)
    assert_type(loop.events(run.id, scope=scope), AsyncGenerator[RunEvent, None])


def unchanging(command: Infer) -> None:
    """A value of the hot path is not assigned to, by word of the type checkers."""
    command.attempt = 2  # type: ignore[misc] # an error, or this line would be one
