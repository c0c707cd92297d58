"""An inference that outlives its worker is fetched, not paid for twice."""

from pathlib import Path
from typing import Any

import pytest

from agentloop import AgentLoop
from agentloop.core.phases import Infer
from agentloop.ports import (
    AttemptReport,
    Inference,
    JobContext,
    LeaseLostError,
    Preceding,
    Reader,
    SessionSetup,
    StoreUnavailableError,
    ToolCall,
)
from agentloop.stores.memory import MemoryStore
from agentloop.testing.fixed import HandClock
from agentloop.testing.scripted import ScriptedBackend, calls, says
from agentloop.wire import WireError
from agentloop.wire.checkpoint import remembered_in
from tests.faces import DEFAULTS, FACES, SCOPE, Rooms, opened_store


class Died(BaseException):
    """The worker is gone."""


class Queries:
    """A provider whose inferences have ids of their own and go on by themselves."""

    name = "queries"

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.fetched: list[str] = []
        self.deadly = False
        self._inner = ScriptedBackend(forever=says("answer"))

    def check(self, *_: Any) -> None:
        return None

    def session(self, setup: SessionSetup) -> Any:
        return QuerySession(self, self._inner.session(setup))


class QuerySession:
    def __init__(self, backend: Queries, inner: Any) -> None:
        self._backend = backend
        self._inner = inner

    def infer(self, command: Infer, job: JobContext, on_delta: Any) -> Inference:
        backend = self._backend
        query = job.remembered
        if query is None:
            query = f"query-{len(backend.submitted) + 1}"
            backend.submitted.append(query)
            assert job.remember is not None
            job.remember(query)
        if backend.deadly:
            raise Died
        backend.fetched.append(query)
        found = self._inner.infer(command, job, on_delta)
        expired = Preceding(code="390112", message="session expired")
        report = AttemptReport(provider_request_id=query, preceding=(expired,))
        return Inference(found.event, report)

    def request(self, command: Infer, job: JobContext) -> bytes:
        return b"{}"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("face", list(FACES))
def test_the_next_worker_fetches_what_was_submitted(
    face: str, kind: str, tmp_path: Path
) -> None:
    """What a backend remembered before a crash is handed to the attempt after it."""
    clock, backend = HandClock(), Queries()
    with opened_store(kind, tmp_path, clock) as store:
        with AgentLoop(backend, store, clock=clock) as loop:
            made = loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
            backend.deadly = True
            with pytest.raises(Died):
                loop.run(made.id, "Hi", scope=SCOPE)
        clock.move(60)
        backend.deadly = False
        with FACES[face](backend, store, clock=clock) as again:
            (run,) = again.list_runs(made.id, scope=SCOPE)
            ended = again.wait(run.id, scope=SCOPE)
            (job,) = again.list_jobs(run.id, scope=SCOPE)
            later = again.run(made.id, "And?", scope=SCOPE)
    assert ended.status == later.status == "completed"
    assert backend.submitted == ["query-1", "query-2"]
    assert backend.fetched == ["query-1", "query-2"]
    shown = [(attempt.number, attempt.outcome) for attempt in job.attempts]
    assert shown == [(1, "lost"), (2, "expired"), (2, "ok")]
    assert job.usage == ended.usage


def test_remembering_needs_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was overtaken cannot store anything, and hears of it."""
    clock, backend = HandClock(), Queries()
    plainly = QuerySession.infer
    heard: list[str] = []

    def overtaken(self: Any, command: Any, job: JobContext, delta: Any) -> Any:
        clock.move(60)
        loop._runner.claim(run.id)
        try:
            return plainly(self, command, job, delta)
        except LeaseLostError as error:
            heard.append(type(error).__name__)
            raise Died from None

    monkeypatch.setattr(QuerySession, "infer", overtaken)
    with (
        opened_store("memory", tmp_path, clock) as store,
        AgentLoop(backend, store, clock=clock) as loop,
    ):
        made = loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
        run = loop.start_run(made.id, "Hi", scope=SCOPE)
        with pytest.raises(Died):
            loop.wait(run.id, scope=SCOPE)
    assert heard == ["LeaseLostError"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("face", list(FACES))
def test_a_store_that_is_away_ends_the_drive_and_not_the_run(
    face: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be kept is no fault of the backend's; the next worker goes on."""
    clock, backend = HandClock(), Queries()
    store = MemoryStore(clock)
    plainly, away = store.checkpoint, [True]

    def checkpoint(lease: Any, revision: int, change: Any, seconds: float) -> bool:
        if not (away[0] and "remembered" in change.header):
            return plainly(lease, revision, change, seconds)
        if after:
            plainly(lease, revision, change, seconds)
        raise StoreUnavailableError("away")

    monkeypatch.setattr(store, "checkpoint", checkpoint)
    with FACES[face](backend, store, clock=clock, lease=0.2) as loop:
        made = loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
        run = loop.start_run(made.id, "Hi", scope=SCOPE)
        with pytest.raises(StoreUnavailableError):
            loop.wait(run.id, scope=SCOPE)
        away[0] = False
        clock.move(60)
        ended = loop.wait(run.id, scope=SCOPE)
    assert ended.status == "completed"
    assert backend.submitted == (["query-1"] if after else ["query-1", "query-2"])


@pytest.mark.parametrize("face", list(FACES))
def test_a_cancel_that_remembering_hears_of_wins_over_the_answer(
    face: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store tells with that commit counts as what it tells with any other."""
    backend, store = Queries(), MemoryStore()
    plainly = QuerySession.infer

    def cancelled(self: Any, command: Any, job: JobContext, delta: Any) -> Any:
        store.request_cancel(Reader(SCOPE.company_id), run.id)  # in another process
        return plainly(self, command, job, delta)

    monkeypatch.setattr(QuerySession, "infer", cancelled)
    with FACES[face](backend, store) as loop:
        made = loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
        run = loop.start_run(made.id, "Hi", scope=SCOPE)
        ended = loop.wait(run.id, scope=SCOPE)
        (job,) = loop.list_jobs(run.id, scope=SCOPE)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.type == "AgentLoopCancelled"
    assert job.usage == ended.usage


def test_a_damaged_memory_is_a_typed_error() -> None:
    """What is remembered is text."""
    with pytest.raises(WireError, match=r"\$\.remembered"):
        remembered_in('{"v":1,"remembered":3}')


@pytest.mark.parametrize("face", list(FACES))
def test_a_cancel_wins_over_what_recovery_makes_of_a_run(face: str) -> None:
    """A run that was cancelled while nobody drove it does not wait for its caller."""
    clock = HandClock()
    store = MemoryStore(clock)

    def die(call: ToolCall) -> Any:
        raise Died

    turn = calls(("rooms-free", {}), ("user-confirm", {}))
    with AgentLoop(
        ScriptedBackend(turn), store, tools={"rooms": Rooms(die)}, clock=clock
    ) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.start_run(made.id, "Hi", scope=SCOPE)
        with pytest.raises(Died):
            loop.wait(run.id, scope=SCOPE)
    store.request_cancel(Reader(SCOPE.company_id), run.id)
    clock.move(60)
    rooms = Rooms()
    with FACES[face](
        ScriptedBackend(), store, tools={"rooms": rooms}, clock=clock
    ) as again:
        ended = again.wait(run.id, scope=SCOPE)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.type == "AgentLoopCancelled"
    assert rooms.calls == []
