"""agentloop: agent runs as a library.

A pure state machine drives a model provider behind one protocol, over storage
that the host supplies. See `AgentLoop`. Names are loaded when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentloop.core.catalog import Failure, RequestError
    from agentloop.core.config import AnyTool, Auto, Config, SpecificTool, ToolSpec
    from agentloop.core.content import (
        Document,
        Image,
        Json,
        Message,
        Text,
        ToolResult,
        ToolUse,
    )
    from agentloop.core.run import (
        Conversation,
        InferenceJob,
        MessageDelta,
        Run,
        RunError,
        RunEvent,
        Scope,
        Usage,
    )
    from agentloop.ports import (
        LeaseLostError,
        MissingExtraError,
        StoreUnavailableError,
    )
    from agentloop.runtime.aface import AsyncAgentLoop
    from agentloop.runtime.face import AgentLoop
    from agentloop.runtime.options import Options
    from agentloop.tools.functions import FunctionTools, ToolContext, tool

_HOMES = {
    "core.catalog": ("Failure", "RequestError"),
    "core.config": ("AnyTool", "Auto", "Config", "SpecificTool", "ToolSpec"),
    "core.content": (
        "Document",
        "Image",
        "Json",
        "Message",
        "Text",
        "ToolResult",
        "ToolUse",
    ),
    "core.run": (
        "Conversation",
        "InferenceJob",
        "MessageDelta",
        "Run",
        "RunError",
        "RunEvent",
        "Scope",
        "Usage",
    ),
    "ports": ("LeaseLostError", "MissingExtraError", "StoreUnavailableError"),
    "runtime.aface": ("AsyncAgentLoop",),
    "runtime.face": ("AgentLoop",),
    "runtime.options": ("Options",),
    "tools.functions": ("FunctionTools", "ToolContext", "tool"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AgentLoop",
    "AnyTool",
    "AsyncAgentLoop",
    "Auto",
    "Config",
    "Conversation",
    "Document",
    "Failure",
    "FunctionTools",
    "Image",
    "InferenceJob",
    "Json",
    "LeaseLostError",
    "Message",
    "MessageDelta",
    "MissingExtraError",
    "Options",
    "RequestError",
    "Run",
    "RunError",
    "RunEvent",
    "Scope",
    "SpecificTool",
    "StoreUnavailableError",
    "Text",
    "ToolContext",
    "ToolResult",
    "ToolSpec",
    "ToolUse",
    "Usage",
    "tool",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'agentloop' has no attribute {name!r}")
    value = getattr(import_module(f"agentloop.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
