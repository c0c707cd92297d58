"""A place with its workers, its ledger and a loop that starts runs there.

Checks are played on a stage; `opened` makes one. What runs leave behind is compared
with what they leave without an engine, over a store in memory.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from attrs import define, field

from agentloop.core.content import ToolResult
from agentloop.core.run import Run
from agentloop.ports import (
    Claim,
    ClaimRequest,
    Engine,
    EngineUnavailableError,
    RunRef,
)
from agentloop.runtime.face import AgentLoop
from agentloop.stores.memory import MemoryStore
from agentloop.testing.engines.crew import Crew
from agentloop.testing.engines.flows import FLOWS, PARITY, Flow, loop_over
from agentloop.testing.engines.ledger import Entry, Fuse, Ledger
from agentloop.testing.engines.left import SCOPE, Left, left_of
from agentloop.testing.engines.place import Place, Server, imported
from agentloop.testing.engines.waiting import PATIENCE, until

WORKERS = 2


@define
class Line:
    """The way to the engine, which can be cut."""

    engine: Engine
    cut: bool = False

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.engine.name

    def start(self, run: RunRef) -> None:
        """Start a run.

        Raises:
            EngineUnavailableError: the line is cut.
        """
        if self.cut:
            raise EngineUnavailableError("the line is cut")
        self.engine.start(run)

    def cancel(self, run: RunRef) -> None:
        """Wake a run."""
        self.engine.cancel(run)


@define
class Stage:
    """Where checks are played: verbs for what a caller and an operator do."""

    place: Place
    crew: Crew
    loop: AgentLoop
    line: Line
    ledger: Ledger
    fuse: Fuse
    server: Server | None = None
    _left: dict[str, Left] = field(factory=dict, init=False)

    # ------------------------------------------------------------ a caller's verbs

    def converse(self, name: str) -> str:
        """A conversation whose runs play a flow."""
        return converse(self.loop, name)

    def start(self, name: str, conversation_id: str | None = None) -> Run:
        """Start a run of a flow."""
        where = conversation_id or self.converse(name)
        return self.loop.start_run(where, "go", scope=SCOPE)

    def ended(self, run: Run) -> Run:
        """A run once it has ended.

        Raises:
            AssertionError: it does not end.
        """

        def over() -> bool:
            return self.loop.get_run(run.id, scope=SCOPE).terminal

        until(over, f"run {run.id} ends")
        return self.loop.get_run(run.id, scope=SCOPE)

    def tried(self, run: Run) -> int:
        """How many attempts of inferences the run has behind it."""
        jobs = self.loop.list_jobs(run.id, scope=SCOPE)
        return sum(len(job.attempts) for job in jobs)

    def left(self, *runs: Run) -> Left:
        """What runs of one conversation left behind."""
        return left_of(self.loop, runs[0].conversation_id, [run.id for run in runs])

    # ------------------------------------------------------------ looking closer

    def executions(self, run: Run) -> tuple[Entry, ...]:
        """What tools did for a run."""
        return self.ledger.entries(run.id)

    def unknown(self, run: Run) -> int:
        """How many calls the model was told to be of unknown outcome."""
        found = self.loop.messages(run.conversation_id, scope=SCOPE).messages
        blocks = [block for message in found for block in message.content_blocks]
        return sum(map(_is_unknown, blocks))

    # ------------------------------------------------------------ an operator's verbs

    def staff(self, n: int = WORKERS, **choices: Any) -> list[int]:
        """See to it that so many workers are there, with these options."""
        dying = set(self.fuse.dying)  # who is about to be gone does not count
        until(lambda: not dying & set(self.crew.alive), "the dying are dead")
        return self.crew.staff(n, **choices)

    def die(self, place: str, nth: int = 1) -> None:
        """Have the worker that comes by a place for the nth time die there."""
        self.fuse.disarm()
        self.staff()
        self.fuse.arm(place, nth)

    def hang(self, place: str, workers: int = WORKERS) -> None:
        """Have the worker that comes by a place stand still there."""
        self.fuse.disarm()
        self.staff(workers)
        self.fuse.arm(place, how=signal.SIGSTOP)

    def take_from_all(self, run: Run) -> None:
        """Have whoever holds a run lose its lease, and nobody hold it then."""
        store: Any = self.place.store()
        asked = ClaimRequest(driver=self.line.name, lease_seconds=60.0, run_id=run.id)
        claims: list[Claim] = []

        def taken() -> bool:
            claims.extend(filter(None, [store.claim(asked)]))
            return bool(claims)

        until(taken, f"the lease of run {run.id} runs out")
        store.release(claims[0].lease)
        getattr(store, "close", lambda: None)()

    def linger(self) -> None:
        """Let some time pass in which something might happen that must not."""
        threading.Event().wait(2 * self.place.lease + 1)

    def wake(self) -> None:
        """Let workers that stand still go on as if nothing had been."""
        for pid in self.crew.alive:
            os.kill(pid, signal.SIGCONT)

    # ------------------------------------------------------------ parity

    def played(self, name: str) -> Left:
        """What a flow left on this stage; all flows with its options play at once."""
        if name not in self._left:
            choices = PARITY[name].choices
            names = [n for n, flow in PARITY.items() if flow.choices == choices]
            self.staff(**choices)
            with ThreadPoolExecutor(len(names)) as pool:
                left = pool.map(partial(_tried, self.loop), names)
                self._left.update(zip(names, left, strict=True))
        found = self._left[name]
        if isinstance(found, Exception):
            raise found
        return found


def _tried(loop: AgentLoop, name: str) -> Any:
    """What a flow left, or why it left nothing."""
    try:
        return play(loop, name)
    except Exception as error:
        return error


def _is_unknown(block: Any) -> bool:
    if not (isinstance(block, ToolResult) and block.is_error):
        return False
    return "outcome is unknown" in getattr(block.content[0], "text", "")


def converse(loop: AgentLoop, name: str) -> str:
    """A conversation whose runs play a flow."""
    chosen = {"model": name, "mcp_servers": [{"alias": "kit"}], **FLOWS[name].config}
    return loop.create_conversation(defaults=chosen, scope=SCOPE).id


def play(loop: AgentLoop, name: str) -> Left:
    """Play a flow with a loop; its workers are elsewhere."""
    flow = FLOWS[name]
    where = converse(loop, name)
    ended: list[Run] = []
    for said in flow.said:
        payload: Any = said(ended[-1]) if callable(said) else said
        runs = [
            loop.start_run(where, payload, scope=SCOPE, **flow.start)
            for _ in range(flow.at_once)
        ]
        if flow.cancelled:
            _cancel_waiting(loop, runs[0])
        over = [loop.wait(run.id, timeout=PATIENCE, scope=SCOPE) for run in runs]
        ended += sorted(over, key=lambda run: run.status)
    return left_of(loop, where, [run.id for run in ended])


def _cancel_waiting(loop: AgentLoop, run: Run) -> None:
    """Cancel a run once it has been throttled and waits."""

    def waits() -> bool:
        jobs = loop.list_jobs(run.id, scope=SCOPE)
        outcomes = [attempt.outcome for job in jobs for attempt in job.attempts]
        return "throttled" in outcomes

    until(waits, f"run {run.id} is throttled")
    loop.cancel_run(run.id, scope=SCOPE)


@cache
def reference(name: str) -> Left:
    """What a flow leaves without an engine."""
    flow: Flow = FLOWS[name]
    with (
        tempfile.TemporaryDirectory() as folder,
        loop_over(MemoryStore(), Path(folder), **flow.choices) as loop,
        loop.worker(1, poll=0.02),
    ):
        return play(loop, name)


@contextmanager
def opened(
    place: str, address: str = "", *, server: Server | None = None
) -> Iterator[Stage]:
    """A stage at a place, without workers yet.

    Args:
        place: `module:name` of its factory.
        address: what the factory is called with, here and in every worker.
        server: how to kill the engine's server and start it again, if one can.
    """
    here = imported(place)(address)
    store: Any = here.store()
    line = Line(here.engine())
    with tempfile.TemporaryDirectory(prefix="agentloop-engine-") as name:
        folder = Path(name)
        loop = loop_over(store, folder, lease=here.lease, engine=line)
        crew = Crew(place, address, folder)
        try:
            yield Stage(here, crew, loop, line, Ledger(folder), Fuse(folder), server)
        finally:
            crew.close()
            loop.close()
            getattr(store, "close", lambda: None)()
            here.close()
