"""Stopping, closing, cancelling and failing at every awkward moment."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentloop import AgentLoop, AsyncAgentLoop, Text, ToolSpec, tool
from agentloop.core.phases import Infer
from agentloop.core.routing import Offer
from agentloop.ports import (
    Claim,
    ClaimRequest,
    JobContext,
    LeaseLostError,
    SessionSetup,
    StoreUnavailableError,
    ToolAnswer,
    ToolCall,
)
from agentloop.runtime import worker as worker_room
from agentloop.runtime.mailbox import Mailbox
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import ScriptedBackend, Seen, calls, says
from tests.faces import DEFAULTS, SCOPE, Rooms


class Odd:
    """A store in memory of which some calls are something else.

    `does[name]` takes the inner call and its arguments. With `blocking` an async
    loop makes every call on a thread.
    """

    def __init__(self, *, blocking: bool = True, **does: Callable[..., Any]) -> None:
        self.inner = MemoryStore()
        self.blocking = blocking
        self.does = does
        self.made: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)

        def call(*args: Any, **named: Any) -> Any:
            self.made.append(name)
            do = self.does.get(name)
            return found(*args, **named) if do is None else do(found, *args, **named)

        return call

    def due(self, run_id: str) -> bool:
        """Whether somebody may take the run at once; gives it back."""
        request = ClaimRequest(driver="embedded", lease_seconds=60, run_id=run_id)
        claim = self.inner.claim(request)
        if claim is not None:
            self.inner.release(claim.lease)
        return claim is not None


class Gated:
    """A backend whose inferences wait until they are let go."""

    name = "gated"

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.inner = ScriptedBackend(forever=model)

    def check(self, *_: Any) -> None:
        return None

    def session(self, setup: SessionSetup) -> Any:
        return GatedSession(self, self.inner.session(setup))


class GatedSession:
    def __init__(self, backend: Gated, inner: Any) -> None:
        self._backend = backend
        self._inner = inner

    def infer(self, command: Infer, job: JobContext, on_delta: Any) -> Any:
        self._backend.entered.set()
        assert self._backend.go.wait(60)
        return self._inner.infer(command, job, on_delta)

    def request(self, command: Infer, job: JobContext) -> bytes:
        return b"{}"


def model(seen: Seen) -> Any:
    """Two calls at once, then the answer."""
    return calls(*[BOOK] * 2) if seen.iteration == 1 else says("done")


BOOK = ("rooms-book", {})


def until(ready: Callable[[], bool]) -> None:
    """Wait for something that will happen; the suite's time-out is the limit."""
    while not ready():
        time.sleep(0.005)


async def auntil(ready: Callable[[], bool]) -> None:
    """The same on an event loop."""
    while not ready():
        await asyncio.sleep(0.005)


def started(loop: AgentLoop) -> str:
    """A run that waits for a driver."""
    made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
    return loop.start_run(made.id, "Hi", scope=SCOPE).id


async def astarted(loop: AsyncAgentLoop) -> str:
    """The same by the asynchronous face."""
    made = await loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
    return (await loop.start_run(made.id, "Hi", scope=SCOPE)).id


class Inline(threading.Thread):
    """A host's thread that waits for a run, and what became of it."""

    def __init__(self, loop: AgentLoop, run_id: str) -> None:
        super().__init__(daemon=True)
        self._call = lambda: loop.wait(run_id, scope=SCOPE)
        self.ended: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.ended = self._call()
        except BaseException as error:
            self.error = error


def goes_on(store: Any, run_id: str, rooms: Rooms) -> str:
    """How the run ends when another loop takes it up."""
    with AgentLoop(
        ScriptedBackend(forever=model), store, {"rooms": rooms}, lease=60
    ) as loop:
        return loop.wait(run_id, scope=SCOPE).status


# ---------------------------------------------------------------- workers


class Shaky:
    """Makes the next calls of a store raise something that no store may."""

    def __init__(self) -> None:
        self.broken = threading.Event()
        self.hit = threading.Event()

    def __call__(self, call: Any, *args: Any) -> Any:
        if self.broken.is_set():
            self.hit.set()
            raise ZeroDivisionError("a driver's own bug")
        return call(*args)


def test_a_worker_outlives_a_store_that_raises_anything() -> None:
    """While it cannot claim it counts as lost; then it drives what was started."""
    shaky = Shaky()
    shaky.broken.set()
    store = Odd(claim=shaky)
    with (
        AgentLoop(ScriptedBackend(forever=model), store, {"rooms": Rooms()}) as loop,
        loop.worker(2, poll=0.01) as worker,
    ):
        until(lambda: len(worker._failing) == 2)
        assert loop.watch.worker() == "lost"
        run_id = started(loop)
        shaky.broken.clear()
        until(lambda: loop.get_run(run_id, scope=SCOPE).terminal)
        until(lambda: worker.alive)
        assert loop.watch.worker() == "ok"


@pytest.mark.asyncio
async def test_an_async_worker_outlives_a_store_that_raises_anything() -> None:
    """Its tasks go on as the threads do, and say as much of themselves."""
    shaky = Shaky()
    shaky.broken.set()
    store = Odd(claim=shaky)
    backend = ScriptedBackend(forever=model)
    async with (
        AsyncAgentLoop(backend, store, {"rooms": Rooms()}) as loop,
        loop.worker(2, poll=0.01) as worker,
    ):
        await auntil(lambda: len(worker._failing) == 2)
        assert loop.watch.worker() == "lost"
        run_id = await astarted(loop)
        shaky.broken.clear()
        while not (await loop.get_run(run_id, scope=SCOPE)).terminal:
            await asyncio.sleep(0.005)
        await auntil(lambda: worker.alive)
        assert loop.watch.worker() == "ok"


class Stuck:
    """A thread that never ends; waiting for it moves a clock of its own."""

    now = 0.0

    def join(self, timeout: float) -> None:
        type(self).now += timeout

    def is_alive(self) -> bool:
        return True


def test_stopping_takes_its_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads are stuck, they are waited for together."""
    with AgentLoop(ScriptedBackend()) as loop:
        worker = worker_room.Worker(loop._runner, 5, 1.0)
        worker._threads = [Stuck() for _ in range(5)]  # type: ignore[misc] # in place of threads
        monkeypatch.setattr(worker_room, "monotonic", lambda: Stuck.now)
        assert not worker.stop(3.0)
        assert Stuck.now == 3.0


def test_a_worker_stops_its_own_runs_only() -> None:
    """A run that the host drives itself is not given back."""
    gated, store, rooms = Gated(), Odd(), Rooms()
    with AgentLoop(gated, store, {"rooms": rooms}) as loop:
        host = Inline(loop, started(loop))
        assert gated.entered.wait(60)
        with loop.worker(1, poll=0.01):
            pass
        gated.go.set()
        host.join()
        assert host.ended.status == "completed"
    assert "release" not in store.made
    assert store.made.count("claim") >= 1


def test_a_stop_between_claim_and_drive_is_heard() -> None:
    """Not one inference is begun for a run that was just claimed."""
    workers: list[Any] = []

    def claim(call: Any, request: ClaimRequest) -> Claim | None:
        found: Claim | None = call(request)
        if found is not None and workers:
            workers.pop().stop(0.0)
        return found

    store, backend = Odd(claim=claim), ScriptedBackend(forever=model)
    with AgentLoop(backend, store, {"rooms": Rooms()}) as loop:
        with loop.worker(1, poll=0.01) as worker:
            workers.append(worker)
            run_id = started(loop)
            until(lambda: not workers)
        assert backend.seen == []
        assert store.due(run_id)
    assert goes_on(store, run_id, Rooms()) == "completed"


@pytest.mark.asyncio
async def test_an_async_stop_between_claim_and_drive_is_heard() -> None:
    """As for threads, while the claim is on its way through one."""
    workers: list[Any] = []
    here = asyncio.get_running_loop()

    def claim(call: Any, request: ClaimRequest) -> Claim | None:
        found: Claim | None = call(request)
        if found is not None and workers:
            asyncio.run_coroutine_threadsafe(workers.pop().stop(0.0), here).result()
        return found

    store, backend = Odd(claim=claim), ScriptedBackend(forever=model)
    async with AsyncAgentLoop(backend, store, {"rooms": Rooms()}) as loop:
        async with loop.worker(1, poll=0.01) as worker:
            workers.append(worker)
            run_id = await astarted(loop)
            await auntil(lambda: not workers)
        assert backend.seen == []
        assert store.due(run_id)


# ---------------------------------------------------------------- heartbeats


def test_a_heartbeat_that_raises_anything_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is told once, and the lease of every run is prolonged all the same."""
    beats: list[str] = []
    gated = Gated()

    def heartbeat(call: Any, *args: Any) -> Any:
        beats.append("beat")
        if len(beats) <= 3:
            raise ZeroDivisionError("a driver's own bug")
        found = call(*args)
        gated.go.set()
        return found

    store = Odd(heartbeat=heartbeat)
    with (
        caplog.at_level(logging.ERROR, "agentloop"),
        AgentLoop(gated, store, {"rooms": Rooms()}) as loop,
    ):
        loop._pulse._lease_seconds = 0.03  # beats often; the lease is a long one
        assert loop.wait(started(loop), scope=SCOPE).status == "completed"
    told = [r for r in caplog.records if "a heartbeat failed" in r.message]
    assert len(told) == 1


@pytest.mark.asyncio
async def test_an_async_heartbeat_that_raises_anything_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As for threads: it neither ends the run nor its own task."""
    beats: list[str] = []
    gated = Gated()

    def heartbeat(call: Any, *args: Any) -> Any:
        beats.append("beat")
        if len(beats) <= 3:
            raise ZeroDivisionError("a driver's own bug")
        found = call(*args)
        gated.go.set()
        return found

    store = Odd(heartbeat=heartbeat)
    with caplog.at_level(logging.ERROR, "agentloop"):
        async with AsyncAgentLoop(gated, store, {"rooms": Rooms()}) as loop:
            loop._runner.pulse._lease_seconds = 0.03
            run_id = await astarted(loop)
            assert (await loop.wait(run_id, scope=SCOPE)).status == "completed"
    told = [r for r in caplog.records if "a heartbeat failed" in r.message]
    assert len(told) == 1


# ---------------------------------------------------------------- cancelled tasks


@pytest.mark.asyncio
@pytest.mark.parametrize("where", ["claim", "messages"])
async def test_a_task_cancelled_in_the_store_leaves_no_lease(where: str) -> None:
    """The claim is given back wherever the cancellation comes, also within it."""
    entered, go = threading.Event(), threading.Event()

    def slowly(call: Any, *args: Any, **named: Any) -> Any:
        found = call(*args, **named)
        if not entered.is_set():
            entered.set()
            assert go.wait(60)
        return found

    store = Odd(**{where: slowly})
    backend = ScriptedBackend(forever=model)
    async with AsyncAgentLoop(backend, store, {"rooms": Rooms()}) as loop:
        go.set()
        run_id = await astarted(loop)
        entered.clear()
        go.clear()
        driving = asyncio.ensure_future(loop.wait(run_id, scope=SCOPE))
        await auntil(entered.is_set)
        driving.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await driving
        assert store.due(run_id)
        assert backend.seen == []
        assert (await loop.wait(run_id, scope=SCOPE)).status == "completed"


@pytest.mark.asyncio
async def test_one_loop_may_drive_a_run_again() -> None:
    """It lost the lease, took it anew, and both drives end in their own way."""
    gated, store = Gated(), Odd()
    async with AsyncAgentLoop(gated, store, {"rooms": Rooms()}) as loop:
        run_id = await astarted(loop)
        first = await loop._runner.claim(run_id)
        assert first is not None
        drives = [asyncio.ensure_future(loop._runner.run(first))]
        await auntil(gated.entered.is_set)
        store.inner.release(first.lease)  # as if it had run out
        second = await loop._runner.claim(run_id)
        assert second is not None
        drives.append(asyncio.ensure_future(loop._runner.run(second)))
        await auntil(lambda: len(loop._runner.pulse.of(run_id)) == 2)
        gated.go.set()
        lost, row = await asyncio.gather(*drives, return_exceptions=True)
        assert isinstance(lost, LeaseLostError)
        assert row.status == "completed"
        assert loop._runner.pulse.of(run_id) == ()


# ---------------------------------------------------------------- closing


def booked(call: ToolCall) -> ToolAnswer:
    """The answer of a booking."""
    return ToolAnswer((Text("booked"),))


class Slow(Rooms):
    """Calls that wait until they are let go."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.entered = threading.Event()
        self.go = threading.Event()
        self.closed = 0

    def _answer(self, call: ToolCall) -> ToolAnswer:
        self.entered.set()
        assert self.go.wait(60)
        assert not self.closed
        return booked(call)

    def close(self) -> None:
        self.closed += 1


def test_closing_waits_for_the_calls_of_a_run_and_loses_none() -> None:
    """One runs, one is queued: both are stored, and the next loop makes neither."""
    slow, store, again = Slow(), Odd(), Rooms(booked)
    backend = ScriptedBackend(forever=model)
    loop = AgentLoop(backend, store, {"rooms": slow}, tool_slots=1)
    run_id = started(loop)
    host = Inline(loop, run_id)
    assert slow.entered.wait(60)
    closing = threading.Thread(target=loop.close)
    closing.start()
    until(lambda: all(box.stopped for box in loop._pulse.of(run_id)))
    slow.go.set()
    closing.join()
    host.join()
    assert isinstance(host.error, RuntimeError)
    assert "the loop is closed" in str(host.error)
    assert (len(slow.calls), slow.closed) == (2, 1)
    assert goes_on(store, run_id, again) == "completed"
    assert again.calls == []


@pytest.mark.asyncio
async def test_closing_an_async_loop_loses_no_call() -> None:
    """As for threads, whoever awaits the run."""
    slow, store, again = Slow(), Odd(), Rooms(booked)
    backend = ScriptedBackend(forever=model)
    loop = AsyncAgentLoop(backend, store, {"rooms": slow}, tool_slots=1)
    run_id = await astarted(loop)
    host = asyncio.ensure_future(loop.wait(run_id, scope=SCOPE))
    await auntil(slow.entered.is_set)
    closing = asyncio.ensure_future(loop.close())
    await auntil(lambda: all(b.stopped for b in loop._runner.pulse.of(run_id)))
    slow.go.set()
    await closing
    with pytest.raises(RuntimeError, match="the loop is closed"):
        await host
    assert (len(slow.calls), slow.closed) == (2, 1)
    assert goes_on(store, run_id, again) == "completed"
    assert again.calls == []


@pytest.mark.asyncio
async def test_a_closed_async_loop_can_still_read() -> None:
    """What was stored is there, though the threads for it are gone."""
    store = Odd()
    loop = AsyncAgentLoop(ScriptedBackend(), store)
    run_id = await astarted(loop)
    await loop.close()
    assert (await loop.get_run(run_id, scope=SCOPE)).status == "pending"


def test_calls_beyond_the_bound_are_left_to_the_next_loop() -> None:
    """What has not begun when the loop closes is not begun by it."""
    slow, store, again = Slow(), Odd(), Rooms(booked)
    backend = ScriptedBackend(forever=model)
    loop = AgentLoop(backend, store, {"rooms": slow}, parallel_tools=1)
    run_id = started(loop)
    host = Inline(loop, run_id)
    assert slow.entered.wait(60)
    closing = threading.Thread(target=loop.close)
    closing.start()
    until(lambda: all(box.stopped for box in loop._pulse.of(run_id)))
    slow.go.set()
    closing.join()
    host.join()
    assert isinstance(host.error, RuntimeError)
    assert goes_on(store, run_id, again) == "completed"
    keys = [call.effect_key for call in slow.calls + again.calls]
    assert (len(slow.calls), len(set(keys)), len(keys)) == (1, 2, 2)


def test_closing_stores_the_answer_that_was_waited_for() -> None:
    """An inference that is paid for is not made again by the next loop."""
    gated, store = Gated(), Odd()
    loop = AgentLoop(gated, store, {"rooms": Rooms()})
    run_id = started(loop)
    host = Inline(loop, run_id)
    assert gated.entered.wait(60)
    closing = threading.Thread(target=loop.close)
    closing.start()
    until(lambda: all(box.stopped for box in loop._pulse.of(run_id)))
    gated.go.set()
    closing.join()
    host.join()
    assert isinstance(host.error, RuntimeError)
    with AgentLoop(gated, store, {"rooms": Rooms()}) as other:
        ended = other.wait(run_id, scope=SCOPE)
    assert ended.status == "completed"
    assert [seen.iteration for seen in gated.inner.seen] == [1, 2]


@pytest.mark.parametrize("n", [1, 2])
def test_a_loop_closed_on_the_driving_thread_does_not_wait_for_itself(n: int) -> None:
    """As by a signal's handler: the run is given back, whatever was begun."""
    loops: list[AgentLoop] = []

    def observe(run_id: str, event: Any) -> None:
        if event.kind == "tool_started" and loops:
            loops.pop().close()

    store, again = Odd(), Rooms(booked)
    turn = calls(*[BOOK] * n)
    loop = AgentLoop(
        ScriptedBackend(turn), store, {"rooms": Rooms(booked)}, observer=observe
    )
    run_id = started(loop)
    loops.append(loop)
    with pytest.raises(RuntimeError, match="the loop is closed"):
        loop.wait(run_id, scope=SCOPE)
    assert store.due(run_id)
    assert goes_on(store, run_id, again) == "completed"


def test_workers_do_not_take_up_what_a_closing_loop_gives_back() -> None:
    """Closing ends, with the run due for the next process."""
    gated, store = Gated(), Odd()
    loop = AgentLoop(gated, store, {"rooms": Rooms()})
    run_id = started(loop)
    with loop.worker(2, poll=0.01) as worker:
        assert gated.entered.wait(60)
        closing = threading.Thread(target=loop.close)
        closing.start()
        until(lambda: worker._stopping)
        gated.go.set()
        closing.join()
    assert not worker.alive
    assert store.due(run_id)


def test_a_stopped_driver_sleeps_while_it_waits() -> None:
    """A stop wakes it once; then it waits for what is under way as before."""
    box, taken = Mailbox(), []
    box.stop()
    assert box.take(None) == []
    thread = threading.Thread(target=lambda: taken.append(box.take(None)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    box.lose()
    thread.join()
    assert taken == [[]]


def test_a_store_that_is_away_when_a_run_is_prepared_is_told() -> None:
    """That is no fault of the run: it is due again, and completes later."""
    away = [True]

    def messages(call: Any, *args: Any, **named: Any) -> Any:
        if away and away.pop():
            raise StoreUnavailableError("gone")
        return call(*args, **named)

    store = Odd()
    backend = ScriptedBackend(forever=model)
    with AgentLoop(backend, store, {"rooms": Rooms()}, lease=0.05) as loop:
        run_id = started(loop)
        store.does["messages"] = messages
        with pytest.raises(StoreUnavailableError):
            loop.wait(run_id, scope=SCOPE)
        assert loop.wait(run_id, scope=SCOPE).status == "completed"


class Deaf:
    """A host's server whose calls end when they please, whatever they are told."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()

    def declared(self) -> tuple[Offer, ...]:
        return (Offer(ToolSpec(name="wait", input_schema={"type": "object"})),)

    def discover(self, timeout: float) -> tuple[Offer, ...]:
        return self.declared()

    def call(self, call: ToolCall) -> ToolAnswer:
        self.entered.set()
        self.go.wait(60)
        return ToolAnswer((Text("done"),))

    def close(self) -> None:
        self.go.set()


def listening(deaf: Deaf) -> Callable[[], str]:
    """A function of this library's own server that waits just as long."""

    @tool
    def wait() -> str:
        """Wait."""
        deaf.entered.set()
        deaf.go.wait(60)
        return "done"

    return wait


@pytest.mark.parametrize("kind", ["server", "function"])
def test_a_cancel_does_not_wait_for_a_lone_call(kind: str) -> None:
    """Whoever answers the call, the run ends before it and says what is unknown."""
    deaf = Deaf()
    tools: Any = {"m": deaf if kind == "server" else [listening(deaf)]}
    with AgentLoop(ScriptedBackend(calls(("m-wait", {}))), tools=tools) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.start_run(made.id, "Hi", scope=SCOPE)
        with loop.worker(1):
            assert deaf.entered.wait(10)
            loop.cancel_run(run.id, scope=SCOPE)
            ended = loop.wait(run.id, scope=SCOPE, timeout=30)
            assert not deaf.go.is_set()
            deaf.go.set()
        assert ended.error is not None
        assert ended.error.type == "AgentLoopCancelled"
        said = loop.messages(made.id, scope=SCOPE).messages[-1]
        assert "outcome" in str(said)


def test_a_deadline_does_not_wait_for_a_lone_call_of_a_hosts_server() -> None:
    """A server that forgets the time costs its thread, not the run."""
    deaf = Deaf()
    backend = ScriptedBackend(calls(("m-wait", {})))
    with AgentLoop(backend, tools={"m": deaf}, run_timeout=0.3) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert not deaf.go.is_set()
        deaf.go.set()
    assert run.error is not None
    assert run.error.type == "AgentLoopDeadlineExceeded"
