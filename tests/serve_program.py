"""A program that serves one loop over a SQLite file, for tests that stop it.

Arguments: the file, the seconds one inference takes, the seconds a drain may take,
the face and the first iteration that takes its time. Its model calls a tool twenty
times and then answers; every call of the tool is a line of the ledger beside the
file. It prints its URL when it is up, and how it stopped when it has.
"""

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any

from attrs import frozen

from agentloop import AgentLoop, AsyncAgentLoop
from agentloop.core.config import ToolSpec
from agentloop.core.content import Text
from agentloop.core.routing import Offer
from agentloop.http import configure_logging, fixed_tokens, log_run_event
from agentloop.http.serve import Serving, serve
from agentloop.ports import ToolAnswer
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.scripted import Reply, ScriptedBackend, Seen, calls, says
from tests.http_world import TOKENS

ITERATIONS = 20
LEASE = 1.0


@frozen
class Counting:
    """A host's tool server: one tool, which needs no time and keeps a ledger."""

    ledger: Path

    def declared(self) -> Any:
        return (Offer(ToolSpec(name="count", input_schema={"type": "object"})),)

    def discover(self, timeout: float) -> Any:
        return self.declared()

    def call(self, call: Any) -> Any:
        with self.ledger.open("a") as lines:
            lines.write(f"{call.run_id} {call.arguments['n']}\n")
        return ToolAnswer((Text("counted"),))

    def close(self) -> None:
        return None


def answer(seen: Seen) -> Reply:
    """Ask for the tool until it is enough."""
    if seen.iteration <= ITERATIONS:
        return calls(("tools-count", {"n": seen.iteration}))
    return says("enough")


@frozen
class Slow:
    """A model that takes its time: awaited where `awaited`, else on a thread."""

    delay: float
    slow_from: int
    awaited: bool
    script: ScriptedBackend
    name = "slow"

    def check(self, *_: Any) -> None:
        return None

    def session(self, setup: Any) -> Any:
        session = self.script.session(setup)
        return (SlowAwaited if self.awaited else SlowSession)(self, session)


@frozen
class SlowSession:
    """A session that blocks its thread."""

    model: Slow
    inner: Any

    def infer(self, command: Any, *rest: Any) -> Any:
        if command.iteration >= self.model.slow_from:
            threading.Event().wait(self.model.delay)
        return self.inner.infer(command, *rest)

    def request(self, *args: Any) -> Any:
        return self.inner.request(*args)


@frozen
class SlowAwaited:
    """A session that is awaited."""

    model: Slow
    inner: Any

    async def ainfer(self, command: Any, *rest: Any) -> Any:
        if command.iteration >= self.model.slow_from:
            await asyncio.sleep(self.model.delay)
        return self.inner.infer(command, *rest)

    def infer(self, *args: Any) -> Any:
        raise AssertionError("an async face awaits")

    def request(self, *args: Any) -> Any:
        return self.inner.request(*args)


FACES: dict[str, Any] = {
    "sync": AgentLoop,
    "async": AsyncAgentLoop,
    "async-threads": AsyncAgentLoop,
}


def ledger_of(file: str | Path) -> Path:
    """Where the calls of the tool are written down."""
    return Path(f"{file}.ledger")


def opened(
    file: str | Path, delay: float, face: str = "sync", slow_from: int = 1
) -> tuple[Any, SQLiteStore]:
    """The loop and its store."""
    store = SQLiteStore(str(file), synchronous="OFF")
    script = ScriptedBackend(forever=answer)
    model = Slow(delay, slow_from, face == "async", script)
    tools = {"tools": Counting(ledger_of(file))}
    loop = FACES[face](model, store, tools, lease=LEASE, observer=log_run_event)
    return loop, store


def main(
    file: str, delay: str, drain: str, face: str = "sync", slow_from: str = "1"
) -> None:
    """Serve until a signal, and tell how it ended."""
    configure_logging(json=True)
    loop, store = opened(file, float(delay), face, int(slow_from))
    serving = Serving(
        port=0,
        drain_seconds=float(drain),
        ready=lambda url: print(url, flush=True),
    )
    drained = serve(loop, fixed_tokens(TOKENS), serving)
    print("drained" if drained else "left behind", flush=True)
    if not drained:
        os._exit(3)
    if face == "sync":
        loop.close()
    else:
        asyncio.run(loop.close())
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
