"""How workers find what is due: told at once, and otherwise one of them looks."""

import asyncio
import threading
import time
from typing import Any

import pytest

from agentloop import AgentLoop, AsyncAgentLoop
from agentloop.ports import Claim, ClaimRequest, StoreUnavailableError
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import ScriptedBackend, says
from tests.faces import DEFAULTS, SCOPE


class Watched(MemoryStore):
    """A store that counts who asked it for work, and can be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.away = False
        self._counting = threading.Lock()

    def claim(self, request: ClaimRequest) -> Claim | None:
        """A claim as ever, counted."""
        with self._counting:
            self.asked += 1
        if self.away:
            raise StoreUnavailableError("out of reach")
        return super().claim(request)


def model() -> ScriptedBackend:
    """A model that answers at once."""
    return ScriptedBackend(forever=lambda _: says("done"))


def started(loop: AgentLoop, runs: int) -> list[str]:
    """Runs that were just started, each on a conversation of its own."""
    return [
        loop.start_run(
            loop.create_conversation(defaults=DEFAULTS, scope=SCOPE).id,
            "Hi",
            scope=SCOPE,
        ).id
        for _ in range(runs)
    ]


def ended(loop: AgentLoop, ids: list[str]) -> bool:
    """Whether all of them are over."""
    return all(loop.get_run(id_, scope=SCOPE).terminal for id_ in ids)


def most_asked(idle: int, seconds: float) -> float:
    """Once each at first, and then one of them every twentieth of a second."""
    return idle + seconds / 0.05 + 1


def test_idle_threads_ask_no_oftener_than_one() -> None:
    """Of sixteen idle threads one looks now and then, not each of them."""
    store, began = Watched(), time.monotonic()
    with AgentLoop(model(), store) as loop, loop.worker(16, poll=0.05):
        while store.asked < 16 + 8:
            time.sleep(0.05)
        assert store.asked <= most_asked(16, time.monotonic() - began)


@pytest.mark.asyncio
async def test_idle_tasks_ask_no_oftener_than_one() -> None:
    """The same holds for tasks on an event loop."""
    store, began = Watched(), time.monotonic()
    async with AsyncAgentLoop(model(), store) as loop, loop.worker(16, poll=0.05):
        while store.asked < 16 + 8:
            await asyncio.sleep(0.05)
        assert store.asked <= most_asked(16, time.monotonic() - began)


def test_what_another_process_starts_wakes_as_many_as_it_needs() -> None:
    """One look that finds a run wakes the others: none waits for a look of its own."""
    store, together = Watched(), threading.Barrier(6)

    def reply(_: Any) -> Any:
        together.wait(20)  # passed only when six runs are driven side by side
        return says("done")

    elsewhere = AgentLoop(model(), store)
    backend = ScriptedBackend(forever=reply)
    with AgentLoop(backend, store) as loop, loop.worker(6, poll=0.3) as worker:
        ids = started(elsewhere, 6)
        while not ended(loop, ids):
            time.sleep(0.01)
        assert worker.alive
    elsewhere.close()


@pytest.mark.asyncio
async def test_tasks_wake_each_other_for_the_runs_of_another_process() -> None:
    """On an event loop, too, one look is enough for all that is due."""
    store, arrived = Watched(), 0

    class Meeting:
        name = "meeting"

        def __init__(self) -> None:
            self._script = model()

        def check(self, *_: Any) -> None:
            return None

        def session(self, setup: Any) -> Any:
            inner = self._script.session(setup)

            class Session:
                request = inner.request

                async def ainfer(self, *args: Any) -> Any:
                    nonlocal arrived
                    arrived += 1
                    while arrived < 6:
                        await asyncio.sleep(0.005)
                    return inner.infer(*args)

            return Session()

    with AgentLoop(model(), store) as elsewhere:
        async with AsyncAgentLoop(Meeting(), store) as loop, loop.worker(6, poll=0.3):
            ids = started(elsewhere, 6)
            while not ended(elsewhere, ids):
                await asyncio.sleep(0.01)


def test_starts_that_nobody_could_take_leave_no_errands() -> None:
    """A thread that was busy meanwhile does not ask once for each start after it."""
    store = Watched()
    with AgentLoop(model(), store) as loop, loop.worker(1, poll=5):
        ids = started(loop, 50)
        while not ended(loop, ids):
            time.sleep(0.01)
        time.sleep(0.1)
        assert store.asked <= 50 + 3


def test_a_store_that_comes_back_is_noticed_by_all() -> None:
    """Each thread that was cut off tries again for itself, until it is not."""
    store = Watched()
    with AgentLoop(model(), store) as loop:
        store.away = True
        with loop.worker(4, poll=0.02) as worker:
            while not worker.cut_off:
                time.sleep(0.005)
            store.away = False
            while worker.cut_off:
                time.sleep(0.005)
            assert worker.alive
