"""Many threads, many workers, several loops over one store."""

import asyncio
import gc
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentloop import AgentLoop, AsyncAgentLoop, Text, tool
from agentloop.core.phases import Infer
from agentloop.ports import (
    ClaimRequest,
    JobContext,
    LeaseLostError,
    Reader,
    SessionSetup,
    StoreUnavailableError,
    ToolAnswer,
)
from agentloop.runtime import journal
from agentloop.runtime.journal import COMMIT_TRIES
from agentloop.stores.memory import MemoryStore
from agentloop.testing.fixed import HandClock
from agentloop.testing.scripted import ScriptedBackend, Seen, calls, says
from agentloop.wire.checkpoint import is_idle
from tests.faces import DEFAULTS, SCOPE, Rooms, opened_store


def model(seen: Seen) -> Any:
    """One call, then the answer."""
    return calls(("rooms-free", {})) if seen.iteration == 1 else says("done")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A fresh store of each embedded kind."""
    with opened_store(request.param, tmp_path) as opened:
        yield opened


def made_loop(store: Any, backend: Any = None, **options: Any) -> AgentLoop:
    """A loop over a store, with a model that calls a tool once."""
    backend = backend or ScriptedBackend(forever=model)
    return AgentLoop(backend, store, {"rooms": Rooms()}, **options)


def conversation(loop: AgentLoop) -> str:
    """A fresh conversation."""
    return loop.create_conversation(defaults=DEFAULTS, scope=SCOPE).id


def at_once(n: int, work: Callable[[int], Any]) -> list[Any]:
    """Do some work in `n` threads that begin together."""
    barrier = threading.Barrier(n)

    def do(index: int) -> Any:
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(do, range(n)))


def until(ready: Callable[[], bool]) -> None:
    """Wait for something that will happen; the suite's time-out is the limit."""
    while not ready():
        time.sleep(0.005)


def test_sixteen_threads_share_one_loop(store: Any) -> None:
    """Each drives its own conversation to its end; nothing is mixed up."""
    with made_loop(store) as loop:

        def work(index: int) -> Any:
            id_ = conversation(loop)
            run = loop.run(id_, f"number {index}", scope=SCOPE)
            first = loop.messages(id_, scope=SCOPE).messages[0]
            return run.status, first.content_blocks

        assert at_once(16, work) == [
            ("completed", (Text(f"number {index}"),)) for index in range(16)
        ]


def test_a_raced_key_makes_one_run(store: Any) -> None:
    """Sixteen starts under one key return one and the same run."""
    with made_loop(store) as loop:
        id_, key = conversation(loop), str(uuid.uuid4())
        runs = at_once(
            16,
            lambda index: loop.start_run(
                id_, f"{index}", client_op_id=key, expected_version=0, scope=SCOPE
            ),
        )
        assert len({run.id for run in runs}) == 1
        assert len(loop.list_runs(id_, scope=SCOPE)) == 1


def test_runs_raced_on_one_version_have_one_winner(store: Any) -> None:
    """Of eight runs on version 0 one completes; the others leave no message."""
    with made_loop(store) as loop:
        id_ = conversation(loop)
        started = [loop.start_run(id_, f"{i}", scope=SCOPE) for i in range(8)]
        ended = at_once(8, lambda i: loop.wait(started[i].id, scope=SCOPE))
        statuses = sorted(run.status for run in ended)
        assert statuses == ["completed"] + ["failed"] * 7
        types = {run.error.type for run in ended if run.error}
        assert types == {"AgentLoopConcurrentConversationAppend"}
        assert loop.messages(id_, scope=SCOPE).current_version == 4


def test_workers_drive_what_is_started(store: Any) -> None:
    """Runs started before and during the block end without anybody waiting."""
    with made_loop(store) as loop:
        early = [loop.start_run(conversation(loop), "Hi", scope=SCOPE) for _ in "ab"]
        with loop.worker(3, poll=0.05) as worker:
            late = [loop.start_run(conversation(loop), "Hi", scope=SCOPE) for _ in "cd"]
            ids = [run.id for run in early + late]
            until(lambda: all(loop.get_run(i, scope=SCOPE).terminal for i in ids))
            assert worker.alive
        assert not worker.alive


def test_two_loops_share_the_work(store: Any) -> None:
    """Each run is driven by exactly one of two loops over one store."""
    driven: dict[str, list[str]] = {"one": [], "two": []}
    ids = []

    def counted(name: str) -> ScriptedBackend:
        def reply(seen: Seen) -> Any:
            driven[name].append(seen.job_id)
            return model(seen)

        return ScriptedBackend(forever=reply)

    with (
        made_loop(store, counted("one")) as one,
        made_loop(store, counted("two")) as two,
        one.worker(2, poll=0.02),
        two.worker(2, poll=0.02),
    ):
        for _ in range(20):
            ids.append(one.start_run(conversation(one), "Hi", scope=SCOPE).id)
        until(lambda: all(two.get_run(i, scope=SCOPE).terminal for i in ids))
    jobs = driven["one"] + driven["two"]
    assert len(jobs) == len(set(jobs)) == 40


class Gated:
    """A backend whose inference waits until it is let go."""

    name = "gated"

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self._inner = ScriptedBackend(forever=model)

    def check(self, *_: Any) -> None:
        return None

    def session(self, setup: SessionSetup) -> Any:
        return GatedSession(self, self._inner.session(setup))


class GatedSession:
    def __init__(self, backend: Gated, inner: Any) -> None:
        self._backend = backend
        self._inner = inner

    def infer(self, command: Infer, job: JobContext, on_delta: Any) -> Any:
        self._backend.entered.set()
        self._backend.go.wait()
        return self._inner.infer(command, job, on_delta)

    def request(self, command: Infer, job: JobContext) -> bytes:
        return b"{}"


def test_a_stopped_worker_gives_its_run_back_whole(store: Any) -> None:
    """It ends the effect under way, commits, and the next worker loses no attempt."""
    gated = Gated()
    with made_loop(store, gated) as loop:
        id_ = conversation(loop)
        run = loop.start_run(id_, "Hi", scope=SCOPE)
        with loop.worker(1, poll=0.02) as worker, ThreadPoolExecutor(1) as pool:
            gated.entered.wait()
            stopped = pool.submit(worker.stop)
            until(lambda: all(box.stopped for box in loop._pulse.of(run.id)))
            gated.go.set()
            assert stopped.result()
        assert loop.get_run(run.id, scope=SCOPE).status == "running"
        again = store.claim(asking_for(run.id))
        assert is_idle(again.header)
        store.release(again.lease)
        ended = loop.wait(run.id, scope=SCOPE)
        assert ended.status == "completed"
        assert ended.usage.attempts_without_usage == 0


def test_a_worker_that_lost_its_lease_writes_nothing(store: Any) -> None:
    """Somebody else finished the run meanwhile; the late answer changes nothing."""
    gated = Gated()
    with made_loop(store, gated, lease=0.05) as slow, made_loop(store) as quick:
        slow._pulse._lease_seconds = 1000.0  # its heart stopped
        run = slow.start_run(conversation(slow), "Hi", scope=SCOPE)
        caught: list[BaseException] = []

        def drive() -> None:
            try:
                slow._runner.run(slow._runner.claim(run.id))
            except LeaseLostError as error:
                caught.append(error)

        thread = threading.Thread(target=drive)
        thread.start()
        gated.entered.wait()
        ended = quick.wait(run.id, scope=SCOPE)
        gated.go.set()
        thread.join()
        assert [type(error) for error in caught] == [LeaseLostError]
        assert quick.get_run(run.id, scope=SCOPE) == ended
        assert ended.usage.attempts_without_usage == 1


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_heartbeat_keeps_a_long_inference(kind: str, tmp_path: Path) -> None:
    """A lease much shorter than the inference is prolonged; nobody takes over."""
    gated, clock = Gated(), HandClock()
    with (
        opened_store(kind, tmp_path, clock) as inner,
        made_loop(store := Beating(inner), gated, lease=0.3) as loop,
    ):
        run = loop.start_run(conversation(loop), "Hi", scope=SCOPE)
        with loop.worker(1, poll=0.02):
            gated.entered.wait()
            for _ in range(4):  # in all well beyond the lease
                store.beat()
                clock.move(0.2)
                assert inner.claim(asking_for(run.id)) is None
            gated.go.set()
            until(lambda: loop.get_run(run.id, scope=SCOPE).terminal)


class Beating:
    """A store that counts heartbeats."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._beats = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def heartbeat(self, *args: Any) -> bool:
        found: bool = self._store.heartbeat(*args)
        self._beats.release()
        return found

    def beat(self) -> None:
        """Wait for a heartbeat that began after this call did."""
        while self._beats.acquire(blocking=False):
            pass
        self._beats.acquire()  # this one may have begun before
        self._beats.acquire()


def asking_for(run_id: str) -> ClaimRequest:
    """What somebody else asks who wants to drive the run."""
    return ClaimRequest(driver="embedded", lease_seconds=1, run_id=run_id)


def test_a_cancel_reaches_another_process(store: Any) -> None:
    """Flagged by one loop, ended by the other when its inference returns."""
    gated = Gated()
    with made_loop(store, gated) as driver, made_loop(store) as other:
        run = driver.start_run(conversation(driver), "Hi", scope=SCOPE)
        with driver.worker(1, poll=0.02):
            gated.entered.wait()
            assert other.cancel_run(run.id, scope=SCOPE).status == "running"
            gated.go.set()
            until(lambda: other.get_run(run.id, scope=SCOPE).terminal)
        ended = other.get_run(run.id, scope=SCOPE)
        assert ended.error.type == "AgentLoopCancelled"
        assert ended.usage.total_tokens == 15


class Flaky:
    """A store whose commits fail now and then, before or after they happened."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in {"checkpoint", "finalize"}:
            return found

        def call(*args: Any) -> Any:
            self._calls += 1
            if self._calls % 3 == 1:
                raise StoreUnavailableError("before")
            answer = found(*args)
            if self._calls % 3 == 2:
                raise StoreUnavailableError("after")
            return answer

        return call


def test_commits_of_unknown_outcome_are_repeated(store: Any) -> None:
    """A store that fails before and after commits costs neither step nor event."""
    with made_loop(Flaky(store)) as loop:
        id_ = conversation(loop)
        run = loop.run(id_, "Hi", scope=SCOPE)
        assert run.status == "completed"
        assert loop.messages(id_, scope=SCOPE).current_version == 4
        ids = [event.id for event in loop.events(run.id, scope=SCOPE)]
        assert ids == list(range(1, len(ids) + 1))


class Outage:
    """A store that is away from the first checkpoint after a call of a tool."""

    def __init__(self, tries: int) -> None:
        self.left = 0
        self.tries = tries
        self.asked = threading.Event()
        self._store = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return partial(self._commit, found) if name == "checkpoint" else found

    def _commit(self, checkpoint: Callable[..., bool], *args: Any) -> bool:
        if self.left == 0:
            return checkpoint(*args)
        self.left -= 1
        if self.tries - self.left > COMMIT_TRIES:
            self.asked.set()
        raise StoreUnavailableError("failing over")


def outage(tries: int, lease: float) -> tuple[Outage, AgentLoop]:
    """A store that goes away for so many tries, and a loop whose model pays."""
    store = Outage(tries)
    backend = ScriptedBackend(calls(("bank-pay", {})), says("done"))

    @tool
    def pay() -> str:
        """Pay, once and for all."""
        store.left = store.tries
        return "receipt 77"

    return store, AgentLoop(backend, store, {"bank": [pay]}, lease=lease)


def test_a_result_outlives_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tool did is stored as soon as the store is back within a lease."""
    monkeypatch.setattr(journal, "LONGEST_REST", 0.001)
    _, loop = outage(40, lease=30.0)
    with loop:
        made = loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        told = loop.messages(made.id, scope=SCOPE).messages
    assert run.final_text == "done"
    assert "receipt 77" in str(told[2])


def test_a_stop_does_not_wait_for_the_store() -> None:
    """A worker that keeps trying to commit gives up when it is to stop."""
    store, loop = outage(1_000_000, lease=600.0)
    with loop, loop.worker(1) as worker:
        made = loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
        loop.start_run(made.id, "Hi", scope=SCOPE)
        assert store.asked.wait(30)
        assert worker.stop(timeout=30)
        store.left = 0


def test_a_store_that_stays_away_is_told_and_the_run_goes_on_later() -> None:
    """The caller hears of it; once the store is back, another drive completes."""
    inner = MemoryStore()

    class Away:
        away = False

        def __getattr__(self, name: str) -> Any:
            found = getattr(inner, name)
            return self.gone if self.away and name == "checkpoint" else found

        def gone(self, *args: Any) -> None:
            raise StoreUnavailableError("gone")

    store = Away()
    with made_loop(store, lease=0.05) as loop:
        run = loop.start_run(conversation(loop), "Hi", scope=SCOPE)
        store.away = True
        with pytest.raises(StoreUnavailableError):
            loop.wait(run.id, scope=SCOPE)
        store.away = False
        assert loop.wait(run.id, scope=SCOPE).status == "completed"


def test_observers_that_raise_do_no_harm(store: Any) -> None:
    """What listens is not part of the run."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    with made_loop(store, observer=broken) as loop:
        id_ = conversation(loop)
        assert loop.run(id_, "Hi", scope=SCOPE).status == "completed"


def test_a_closed_loop_leaves_no_thread(store: Any) -> None:
    """Workers, streams and heartbeats are gone when `close` returns."""
    before = set(threading.enumerate())
    with made_loop(store) as loop:
        id_ = conversation(loop)
        with loop.worker(2):
            list(loop.stream(id_, "Hi", scope=SCOPE))
    until(lambda: set(threading.enumerate()) <= before)


def test_loops_and_runs_are_collected() -> None:
    """Nothing global holds a loop once the host lets go of it."""
    loop = made_loop(MemoryStore())
    loop.run(conversation(loop), "Hi", scope=SCOPE)
    loop.close()
    known = weakref.ref(loop)
    del loop
    gc.collect()
    assert known() is None


def test_a_wait_may_time_out(store: Any) -> None:
    """The run goes on, and can be waited for again."""
    gated = Gated()
    with made_loop(store, gated) as loop:
        run = loop.start_run(conversation(loop), "Hi", scope=SCOPE)
        with pytest.raises(TimeoutError, match=run.id):
            loop.wait(run.id, scope=SCOPE, timeout=0.05)
        gated.go.set()
        assert loop.wait(run.id, scope=SCOPE, timeout=60).status == "completed"


def test_the_synchronous_face_makes_no_event_loop(store: Any) -> None:
    """Driving, streaming and tools need none."""
    with made_loop(store) as loop:
        loop.run(conversation(loop), "Hi", scope=SCOPE)
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()


class Sleeping:
    """A backend that is awaited and never answers."""

    name = "sleeping"

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    def check(self, *_: Any) -> None:
        return None

    def session(self, setup: SessionSetup) -> Any:
        return self

    def request(self, command: Infer, job: JobContext) -> bytes:
        return b"{}"

    async def ainfer(self, *_: Any) -> Any:
        self.entered.set()
        await asyncio.Event().wait()


@pytest.mark.asyncio
async def test_an_awaited_inference_is_cancelled_at_once(store: Any) -> None:
    """The run ends without its answer, and the attempt is recorded as given up."""
    backend = Sleeping()
    async with AsyncAgentLoop(backend, store) as loop:
        made = await loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
        run = await loop.start_run(made.id, "Hi", scope=SCOPE)
        waiting = asyncio.ensure_future(loop.wait(run.id, scope=SCOPE))
        await backend.entered.wait()
        await loop.cancel_run(run.id, scope=SCOPE)
        ended = await waiting
        assert ended.error.type == "AgentLoopCancelled"
        (job,) = await loop.list_jobs(run.id, scope=SCOPE)
        assert [attempt.outcome for attempt in job.attempts] == ["timeout"]
        assert ended.usage.attempts_without_usage == 1


@pytest.mark.asyncio
async def test_a_host_may_cancel_the_driving_task(store: Any) -> None:
    """The cancellation goes on to the host, and the run is due at once."""
    backend = Sleeping()
    async with AsyncAgentLoop(backend, store) as loop:
        made = await loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
        run = await loop.start_run(made.id, "Hi", scope=SCOPE)
        driving = asyncio.ensure_future(loop.wait(run.id, scope=SCOPE))
        await backend.entered.wait()
        driving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await driving
    with made_loop(store, ScriptedBackend(says("done"))) as other:
        ended = other.wait(run.id, scope=SCOPE)
        assert ended.status == "completed"
        assert ended.usage.attempts_without_usage == 1


@pytest.mark.asyncio
async def test_two_hundred_runs_at_once() -> None:
    """One event loop carries them all."""
    backend = ScriptedBackend(forever=model)
    async with AsyncAgentLoop(backend, tools={"rooms": Rooms()}) as loop:

        async def one() -> str:
            made = await loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
            return (await loop.run(made.id, "Hi", scope=SCOPE)).status

        assert await asyncio.gather(*(one() for _ in range(200))) == ["completed"] * 200


@pytest.mark.asyncio
async def test_asynchronous_workers_drive_and_stop(store: Any) -> None:
    """Started runs end while the block runs; leaving it leaves no task."""
    backend = ScriptedBackend(forever=model)
    async with AsyncAgentLoop(backend, store, {"rooms": Rooms()}) as loop:
        made = await loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        async with loop.worker(4, poll=0.02) as worker:
            run = await loop.start_run(made.id, "Hi", scope=SCOPE)
            while not (await loop.get_run(run.id, scope=SCOPE)).terminal:
                await asyncio.sleep(0.005)
            assert worker.alive
        assert not worker.alive
    assert [
        task for task in asyncio.all_tasks() if task != asyncio.current_task()
    ] == []


def test_parallel_calls_run_side_by_side(store: Any) -> None:
    """Calls of one turn overlap up to the named bound, and no further."""
    meeting = threading.Barrier(3)

    def meet(_: Any) -> ToolAnswer:
        meeting.wait()
        return ToolAnswer((Text("met"),))

    uses = [("rooms-free", {"n": n}) for n in range(6)]
    backend = ScriptedBackend(calls(*uses), says("done"))
    rooms = Rooms(meet)
    with AgentLoop(backend, store, {"rooms": rooms}, parallel_tools=3) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        assert loop.run(made.id, "Hi", scope=SCOPE).status == "completed"
    assert store.get_run(Reader(1), loop.list_runs(made.id, scope=SCOPE)[0].id)
