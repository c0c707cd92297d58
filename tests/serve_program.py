"""A program that serves one loop over a SQLite file, for tests that stop it.

Arguments: the file, the seconds one inference takes, the seconds a drain may take.
Its model calls a tool twenty times and then answers. It prints its URL when it is
up, and how it stopped when it has.
"""

import os
import sys
import threading
from typing import Any

from agentloop import AgentLoop
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


class Counting:
    """A host's tool server: one tool that needs no time."""

    def declared(self) -> Any:
        return (Offer(ToolSpec(name="count", input_schema={"type": "object"})),)

    def discover(self, timeout: float) -> Any:
        return self.declared()

    def call(self, call: Any) -> Any:
        return ToolAnswer((Text("counted"),))

    def close(self) -> None:
        return None


def model(delay: float) -> ScriptedBackend:
    """A model that takes its time and asks for a tool until it has enough."""

    def answer(seen: Seen) -> Reply:
        threading.Event().wait(delay)
        if seen.iteration <= ITERATIONS:
            return calls(("tools-count", {"n": seen.iteration}))
        return says("enough")

    return ScriptedBackend(forever=answer)


def opened(file: str, delay: float) -> tuple[AgentLoop, SQLiteStore]:
    """The loop and its store."""
    store = SQLiteStore(file, synchronous="OFF")
    tools = {"tools": Counting()}
    loop = AgentLoop(model(delay), store, tools, lease=LEASE, observer=log_run_event)
    return loop, store


def main(file: str, delay: str, drain: str) -> None:
    """Serve until a signal, and tell how it ended."""
    configure_logging(json=True)
    loop, store = opened(file, float(delay))
    serving = Serving(
        port=0,
        drain_seconds=float(drain),
        ready=lambda url: print(url, flush=True),
    )
    drained = serve(loop, fixed_tokens(TOKENS), serving)
    print("drained" if drained else "left behind", flush=True)
    if not drained:
        os._exit(3)
    loop.close()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
