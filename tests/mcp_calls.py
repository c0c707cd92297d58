"""What the MCP test modules share: calls to make, and outcomes to take apart."""

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from agentloop.core.catalog import Failure
from agentloop.core.content import Text
from agentloop.ports import ToolAnswer, ToolCall, effect_key
from tests.faces import SCOPE

KEY = effect_key("r", "1.0")


def a_call(name: str = "t", timeout: float | None = 10.0, **arguments: Any) -> ToolCall:
    """A call of a tool."""
    return ToolCall(
        run_id="r",
        scope=SCOPE,
        key="1.0",
        tool_use_id="u",
        name=name,
        arguments=arguments,
        timeout=timeout,
    )


def after(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since this was made."""
    until = monotonic() + seconds
    return lambda: monotonic() >= until


def failure_of(outcome: object) -> Failure:
    """The failure, which an outcome must be."""
    assert isinstance(outcome, Failure), outcome
    return outcome


def text_of(outcome: object) -> str:
    """The text of an answer of one block."""
    assert isinstance(outcome, ToolAnswer), outcome
    (block,) = outcome.content
    assert isinstance(block, Text)
    return block.text


def until(happened: Callable[[], object]) -> None:
    """Wait for something another thread does; the test's own timeout ends it."""
    while not happened():
        threading.Event().wait(0.005)
