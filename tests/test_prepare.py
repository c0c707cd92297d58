"""Getting a claimed run ready with parts that fail: typed ends, nothing left open."""

import logging
from typing import Any

import pytest

from agentloop import AgentLoop, RequestError, Scope
from agentloop.core.config import McpServer
from agentloop.ports import ClaimRequest, SessionSetup, ToolCall
from agentloop.stores.memory import MemoryStore
from agentloop.testing.fixed import HandClock
from agentloop.testing.scripted import ScriptedBackend, calls, says
from tests.faces import FACES, SCOPE, Rooms, both_faces

URL = "https://tools.example/mcp"


class Sessionless:
    """A backend that raises when it is asked for a session."""

    name = "sessionless"

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def check(self, *_: Any) -> None:
        return None

    def session(self, setup: SessionSetup) -> Any:
        raise self._error


class Remote(Rooms):
    """A server reached by URL, which may resist being closed."""

    def __init__(self, resists: bool = False) -> None:
        super().__init__()
        self.closed = 0
        self._resists = resists

    def close(self) -> None:
        self.closed += 1
        if self._resists:
            raise OSError("the line is dead")


class Directory:
    """Opens servers by alias; what is no server is raised."""

    def __init__(self, **servers: Any) -> None:
        self._servers = servers

    def open(self, server: McpServer, scope: Scope) -> Any:
        assert scope == SCOPE
        found = self._servers[server.alias]
        if isinstance(found, Exception):
            raise found
        return found


def defaults(*aliases: str) -> dict[str, Any]:
    """A config whose servers are reached by URL, their catalogs declared."""
    tools = [{"name": "free", "input_schema": {"type": "object"}}]
    servers = [{"alias": a, "url": URL, "tools": tools} for a in aliases]
    return {"model": "scripted", "mcp_servers": servers}


def played(face: str, config: dict[str, Any], *args: Any, **parts: Any) -> Any:
    """A run over one face, after which the run is nobody's."""
    store = MemoryStore()
    with FACES[face](*args, store=store, **parts) as loop:
        made = loop.create_conversation(defaults=config, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert store.claim(ClaimRequest(driver="embedded", lease_seconds=1)) is None
        return run


ERRORS: dict[str, tuple[Exception, str, str]] = {
    "its own": (ZeroDivisionError(), "JobFailed", "raised ZeroDivisionError"),
    "refusal": (
        RequestError("invalid-config", problem="no such model"),
        "AgentLoopInvalidEffectiveConfig",
        "no such model",
    ),
}


@both_faces
@pytest.mark.parametrize("case", ERRORS)
@pytest.mark.parametrize("discovered", [False, True], ids=["known", "discovered"])
def test_a_backend_without_a_session_fails_the_run(
    face: str, case: str, discovered: bool
) -> None:
    """At once or after its tools are known: typed, stored, and not tried for ever."""
    error, type_, words = ERRORS[case]
    rooms = Rooms()
    if discovered:
        rooms.declared = lambda: None  # type: ignore[method-assign, assignment, return-value] # to be asked
        rooms.discover = lambda limit: Rooms().declared()  # type: ignore[method-assign] # the answer
    run = played(face, {"model": "m"}, Sessionless(error), tools={"rooms": rooms})
    assert run.error.type == type_
    assert words in run.error.message
    assert run.iterations_used == 0


@both_faces
def test_what_was_opened_is_closed_when_the_rest_fails(face: str) -> None:
    """By the backend, or by a server after it."""
    first, second = Remote(), Remote()
    config = defaults("one", "two")
    played(
        face,
        config,
        Sessionless(ZeroDivisionError()),
        mcp=Directory(one=first, two=second),
    )
    assert (first.closed, second.closed) == (1, 1)
    refusal = RequestError("invalid-config", problem="a private address")
    run = played(face, config, ScriptedBackend(), mcp=Directory(one=first, two=refusal))
    assert run.error.type == "AgentLoopInvalidEffectiveConfig"
    assert first.closed == 2


@both_faces
def test_a_directory_that_breaks_ends_the_run(face: str) -> None:
    """What it raises against its contract is told by its name only."""
    broken = Directory(one=ZeroDivisionError("a secret"))
    run = played(face, defaults("one"), ScriptedBackend(), mcp=broken)
    assert run.error.type == "AgentLoopWorkerLost"
    assert "ZeroDivisionError" in run.error.message
    assert "a secret" not in run.error.message


@both_faces
def test_a_server_that_cannot_be_closed_harms_no_run(
    face: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer stands, the next server is closed, and the log says what happened."""
    first, second = Remote(resists=True), Remote()
    with caplog.at_level(logging.ERROR, "agentloop"):
        run = played(
            face,
            defaults("one", "two"),
            ScriptedBackend(says("done")),
            mcp=Directory(one=first, two=second),
        )
    assert run.status == "completed"
    assert (first.closed, second.closed) == (1, 1)
    assert "a tool server raised when it was closed" in caplog.text


@both_faces
def test_a_host_server_that_cannot_be_closed_harms_no_loop(face: str) -> None:
    """Closing the loop goes on to the others."""
    first, second = Remote(resists=True), Remote()
    with FACES[face](ScriptedBackend(), tools={"one": first, "two": second}):
        pass
    assert (first.closed, second.closed) == (1, 1)


@both_faces
@pytest.mark.parametrize("began", [False, True], ids=["fresh", "begun"])
def test_a_run_whose_time_is_up_begins_nothing(face: str, began: bool) -> None:
    """Whoever takes it up ends it, without another inference or call."""
    clock, rooms = HandClock(), Rooms()
    store = MemoryStore(clock=clock)
    backend = ScriptedBackend(forever=lambda seen: says("done"))
    parts: dict[str, Any] = {"clock": clock, "run_timeout": 5.0, "lease": 1.0}
    with FACES[face](backend, store, {"rooms": rooms}, **parts) as loop:
        made = loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
        run = loop.start_run(made.id, "Hi", scope=SCOPE)
        _die(store, run.id, rooms, began)
        clock.move(10.0)
        ended = loop.wait(run.id, scope=SCOPE)
        assert ended.error.type == "AgentLoopDeadlineExceeded"
        assert began or ended.iterations_used == 0
    assert (backend.seen, len(rooms.calls)) == ([], int(began))


@both_faces
def test_preparing_takes_its_time_from_the_runs(face: str) -> None:
    """A server that is slow to open leaves the run less, and here none at all."""
    clock = HandClock()

    class Slow(Directory):
        def open(self, server: McpServer, scope: Scope) -> Any:
            clock.move(6.0)
            return super().open(server, scope)

    store, backend = MemoryStore(clock=clock), ScriptedBackend(says("done"))
    parts: dict[str, Any] = {"clock": clock, "run_timeout": 5.0, "lease": 60.0}
    with FACES[face](backend, store, mcp=Slow(one=Remote()), **parts) as loop:
        made = loop.create_conversation(defaults=defaults("one"), scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
    assert run.error.type == "AgentLoopDeadlineExceeded"


def _die(store: MemoryStore, run_id: str, rooms: Rooms, began: bool) -> None:
    """A process claims the run and is gone, at once or within a call."""
    if not began:
        request = ClaimRequest(
            driver="embedded", lease_seconds=1, run_id=run_id, run_timeout=5.0
        )
        assert store.claim(request) is not None
        return

    class Gone(BaseException):
        pass

    def die(call: ToolCall) -> Any:
        raise Gone

    dying = Rooms(die)
    dying.calls = rooms.calls
    backend = ScriptedBackend(calls(("rooms-free", {})))
    loop = AgentLoop(backend, store, {"rooms": dying}, run_timeout=5.0, lease=1.0)
    with pytest.raises(Gone):
        loop.wait(run_id, scope=SCOPE)


def test_a_worker_without_the_runs_data_plane_says_so() -> None:
    """The run's config decodes; it is this worker that has no backend for it."""
    store = MemoryStore()
    backend = ScriptedBackend(forever=says("done"))
    planes = {"here": backend, "there": backend}
    with AgentLoop(backends=planes, store=store) as whole:
        made = whole.create_conversation(
            defaults={"model": "m", "data_plane_id": "there"}, scope=SCOPE
        )
        run = whole.start_run(made.id, "hi", scope=SCOPE)
    with AgentLoop(backends={"here": backend}, store=store) as partly:
        ended = partly.wait(run.id, scope=SCOPE)
    assert ended.error is not None
    assert ended.error.type == "AgentLoopInvalidEffectiveConfig"
    assert ended.error.message == (
        "effective_config cannot be run by this worker: "
        "$.data_plane_id: no backend is registered for data_plane_id 'there'"
    )
