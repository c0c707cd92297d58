"""How workers find what is due: told at once, and otherwise one of them looks."""

import asyncio
import threading
import time
from collections.abc import Callable
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
        self.broken: Callable[[threading.Thread], bool] | None = None
        self._counting = threading.Lock()

    def claim(self, request: ClaimRequest) -> Claim | None:
        """A claim as ever, counted."""
        with self._counting:
            self.asked += 1
        if self.broken and self.broken(threading.current_thread()):
            raise RuntimeError("what no store may raise")
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


def asked_for_themselves(store: Watched, n: int) -> None:
    """Wait until `n` threads have found nothing."""
    while store.asked < n:
        time.sleep(0.01)


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
        together.wait(8)  # passed only when six runs are driven side by side
        return says("done")

    backend = ScriptedBackend(forever=reply)
    with (
        AgentLoop(model(), store) as elsewhere,
        AgentLoop(backend, store) as loop,
        loop.worker(6, poll=2),
    ):
        asked_for_themselves(store, 6)
        ids = started(elsewhere, 6)
        runs = [loop.wait(id_, scope=SCOPE, timeout=60) for id_ in ids]
        assert [run.status for run in runs] == ["completed"] * 6


class Meeting:
    """A model that answers when six are asked at once."""

    name = "meeting"

    def __init__(self) -> None:
        self._script = model()
        self._arrived = 0
        self._all = asyncio.Event()

    def check(self, *_: Any) -> None:
        """Everything will do."""

    def session(self, setup: Any) -> "Meeting":
        """This very model."""
        self._inner = self._script.session(setup)
        return self

    def request(self, *args: Any) -> bytes:
        """What the script would send."""
        return self._inner.request(*args)

    async def ainfer(self, *args: Any) -> Any:
        """Wait for the others."""
        self._arrived += 1
        if self._arrived == 6:
            self._all.set()
        async with asyncio.timeout(8):
            await self._all.wait()
        return self._inner.infer(*args)


@pytest.mark.asyncio
async def test_tasks_wake_each_other_for_the_runs_of_another_process() -> None:
    """On an event loop, too, one look is enough for all that is due."""
    store = Watched()
    with AgentLoop(model(), store) as elsewhere:
        async with AsyncAgentLoop(Meeting(), store) as loop, loop.worker(6, poll=2):
            while store.asked < 6:
                await asyncio.sleep(0.01)
            ids = started(elsewhere, 6)
            runs = [await loop.wait(id_, scope=SCOPE, timeout=60) for id_ in ids]
            assert [run.status for run in runs] == ["completed"] * 6


def test_starts_that_nobody_could_take_leave_no_errands() -> None:
    """A thread that was busy meanwhile does not ask once for each start after it."""
    store, go = Watched(), threading.Event()

    def reply(_: Any) -> Any:
        assert go.wait(60)
        return says("done")

    backend = ScriptedBackend(forever=reply)
    with AgentLoop(backend, store) as loop, loop.worker(1, poll=5):
        ids = started(loop, 50)
        go.set()
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


def test_a_store_that_fails_strangely_is_asked_less_and_less() -> None:
    """Each time a thread waits twice as long, whatever the others do meanwhile."""
    store, began = Watched(), time.monotonic()
    store.broken = lambda thread: True
    with AgentLoop(model(), store) as loop, loop.worker(1, poll=0.02) as worker:
        while store.asked < 6:  # after 0.04, 0.08 ... 0.64 seconds
            time.sleep(0.01)
        assert time.monotonic() - began > 0.04 + 0.08 + 0.16 + 0.32 + 0.64
        assert not worker.alive


@pytest.mark.asyncio
async def test_so_it_is_on_an_event_loop() -> None:
    """The task that looks out for others does not wake one that waits for a store."""
    store, began = Watched(), time.monotonic()
    store.broken = lambda thread: True
    async with AsyncAgentLoop(model(), store) as loop, loop.worker(1, poll=0.02):
        while store.asked < 6:
            await asyncio.sleep(0.01)
        assert time.monotonic() - began > 0.04 + 0.08 + 0.16 + 0.32 + 0.64


def test_a_thread_that_waits_for_its_store_takes_no_hint_from_the_others() -> None:
    """What is due is driven by whoever can, while one has a connection that is dead."""
    store = Watched()
    store.broken = lambda thread: thread.name == "agentloop-worker-0"
    backend = ScriptedBackend(forever=lambda _: says("done"))
    with AgentLoop(backend, store) as loop, loop.worker(3, poll=0.05):
        asked_for_themselves(store, 3)
        for _ in range(30):
            (id_,) = started(loop, 1)
            while not ended(loop, [id_]):
                time.sleep(0.002)
