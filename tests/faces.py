"""Both faces behind one blocking door, so that a flow is written once."""

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentloop import AgentLoop, AsyncAgentLoop, Scope
from agentloop.core.config import ToolSpec
from agentloop.core.content import Text
from agentloop.core.routing import Offer
from agentloop.ports import ToolAnswer, ToolCall
from agentloop.stores.memory import MemoryStore
from agentloop.stores.sqlite import SQLiteStore

SCOPE = Scope(1, 407)
CLIENT_TOOLS = [
    {
        "alias": "user",
        "tools": [{"name": "confirm", "input_schema": {"type": "object"}}],
    }
]
DEFAULTS: dict[str, Any] = {"model": "scripted", "client_tools": CLIENT_TOOLS}


class Blocking:
    """An `AsyncAgentLoop` whose methods are called without `await`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._runner = asyncio.Runner()
        self._loop = AsyncAgentLoop(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._loop, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found = method(*args, **kwargs)
            if inspect.isasyncgen(found):
                return self._runner.run(_all(found))
            return self._runner.run(found)

        return call

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._loop.close())
        self._runner.close()


async def _all(events: Any) -> list[Any]:
    return [event async for event in events]


FACES = {"sync": AgentLoop, "async": Blocking}


@contextmanager
def opened_store(kind: str, folder: Path, clock: Any = None) -> Iterator[Any]:
    """A fresh store of a kind, or the one that is in the folder already."""
    if kind == "memory":
        yield MemoryStore(clock=clock)
        return
    store = SQLiteStore(str(folder / "agents.db"), clock=clock, synchronous="OFF")
    try:
        yield store
    finally:
        store.close()


class Rooms:
    """A tool server that keeps every call it gets, by effect key."""

    def __init__(self, answers: Any = None, in_doubt: Any = "tell") -> None:
        self.calls: list[ToolCall] = []
        self._answers = answers or (lambda call: ToolAnswer((Text("10:00"),)))
        self._in_doubt = in_doubt

    def declared(self) -> tuple[Offer, ...]:
        names = ("free", "book")
        return tuple(
            Offer(ToolSpec(name=name, input_schema={"type": "object"}), self._in_doubt)
            for name in names
        )

    def discover(self, timeout: float) -> tuple[Offer, ...]:
        return self.declared()

    def call(self, call: ToolCall) -> Any:
        self.calls.append(call)
        return self._answers(call)

    def close(self) -> None:
        return None


both_faces = pytest.mark.parametrize("face", list(FACES))
both_stores = pytest.mark.parametrize("kind", ["memory", "sqlite"])
