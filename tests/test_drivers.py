"""Both drivers against ports that break their contracts: typed ends, nothing hangs."""

import asyncio
import json
import threading
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from agentloop import AgentLoop, tool
from agentloop.core.catalog import Failure
from agentloop.core.content import Message, Text
from agentloop.core.history import problems
from agentloop.core.phases import Infer, ModelFailed, ModelReplied
from agentloop.core.routing import Offer
from agentloop.core.run import Usage
from agentloop.ports import (
    AttemptReport,
    ClaimRequest,
    Inference,
    JobContext,
    LeaseLostError,
    Reader,
    SessionSetup,
    ToolAnswer,
    ToolCall,
)
from agentloop.stores.memory import MemoryStore
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.fixed import HandClock
from agentloop.testing.scripted import Reply, ScriptedBackend, Seen, calls, says
from tests.faces import DEFAULTS, FACES, SCOPE, Rooms, both_faces

BOOK = ("rooms-book", {})


def played(face: str, *args: Any, **options: Any) -> tuple[Any, list[Message]]:
    """A run over one face, and the messages of its conversation, which are legal."""
    with FACES[face](*args, **options) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        delta = loop.messages(made.id, scope=SCOPE)
        log = [Message(m.role, m.content_blocks) for m in delta.messages]
        assert problems(log) == []
        return run, log


def booking(n: int) -> Callable[[Seen], Reply]:
    """A model that calls a tool n times in its first turn, and then answers."""
    return lambda seen: calls(*[BOOK] * n) if seen.iteration == 1 else says("done")


# ---------------------------------------------------------------- tools


JUNK: dict[str, Callable[[ToolCall], Any]] = {
    "nothing": lambda call: None,
    "a text": lambda call: "10:00",
    "hollow": lambda call: ToolAnswer(None),  # type: ignore[arg-type] # careless host
}


@both_faces
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("case", JUNK)
def test_a_tool_server_that_answers_with_junk_costs_its_calls(
    face: str, n: int, case: str
) -> None:
    """The model is told that each of them failed, and the run goes on."""
    run, log = played(
        face, ScriptedBackend(forever=booking(n)), tools={"rooms": Rooms(JUNK[case])}
    )
    assert run.status == "completed"
    assert [block.is_error for block in log[2].content] == [True] * n


class Awaited(Rooms):
    """A server whose calls are awaited, and cancelled from within."""

    async def acall(self, call: ToolCall) -> ToolAnswer:
        self.calls.append(call)
        raise asyncio.CancelledError("a scope of the client's own")


@pytest.mark.parametrize("n", [1, 2])
def test_a_cancellation_from_within_a_tool_is_its_answer(n: int) -> None:
    """Clients that leak one out of their own scopes hang no run."""
    run, log = played(
        "async", ScriptedBackend(forever=booking(n)), tools={"rooms": Awaited()}
    )
    assert run.status == "completed"
    assert all("CancelledError" in b.content[0].text for b in log[2].content)


class HalfQuick(Rooms):
    """`book` is quick, `free` is awaited; each says on which task it was called."""

    quick = frozenset({"book"})

    def call(self, call: ToolCall) -> ToolAnswer:
        self.calls.append(call)
        return self._told(call)

    async def acall(self, call: ToolCall) -> ToolAnswer:
        assert call.name not in self.quick
        await asyncio.sleep(0.01)
        return self._told(call)

    def _told(self, call: ToolCall) -> ToolAnswer:
        return ToolAnswer((Text(f"{call.name} {id(asyncio.current_task())}"),))


def test_a_quick_tool_is_called_on_the_task_that_drives_its_run() -> None:
    """Others of its turn go on beside it, and all answers come in order."""
    names = ("rooms-book", "rooms-free", "rooms-book", "rooms-free")

    def model(seen: Seen) -> Reply:
        uses = [(name, {}) for name in names]
        return calls(*uses) if seen.iteration == 1 else says("done")

    tools = {"rooms": HalfQuick()}
    run, log = played("async", ScriptedBackend(forever=model), tools=tools)
    told = [block.content[0].text.split() for block in log[2].content]
    assert [f"rooms-{name}" for name, _ in told] == list(names)
    (drive, one), (again, other) = (told[0][1], told[1][1]), (told[2][1], told[3][1])
    assert drive == again
    assert len({drive, one, other}) == 3
    assert run.status == "completed"


@pytest.mark.parametrize("error", [ConnectionError, asyncio.CancelledError])
def test_a_quick_tool_that_raises_is_told_to_the_model(
    error: type[BaseException],
) -> None:
    """As one that is not quick is, whatever it raises."""

    def broken(call: ToolCall) -> ToolAnswer:
        raise error("no line")

    tools = {"rooms": HalfQuick()}
    tools["rooms"].call = broken  # type: ignore[method-assign]
    run, log = played("async", ScriptedBackend(forever=booking(2)), tools=tools)
    assert run.status == "completed"
    assert all(
        b.is_error and error.__name__ in b.content[0].text for b in log[2].content
    )


@pytest.mark.parametrize("quick", [None, "book", 7])
def test_what_is_no_set_of_names_makes_nothing_quick(quick: Any) -> None:
    """A server that has something else by that name is called as ever."""
    server = HalfQuick()
    server.quick = quick
    server.acall = None  # type: ignore[assignment, method-assign]
    run, _ = played(
        "async", ScriptedBackend(forever=booking(2)), tools={"rooms": server}
    )
    assert (run.status, len(server.calls)) == ("completed", 2)


@both_faces
def test_what_a_tool_sets_in_its_context_is_not_for_the_next_run(face: str) -> None:
    """It may be of another user, on the same thread or task."""
    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []

    @tool(inline=True)
    def book() -> str:
        """Book for whoever is told by the context."""
        seen.append(user.get())
        user.set("alice")
        return "booked"

    backend = ScriptedBackend(forever=booking(1))
    with FACES[face](backend, tools={"rooms": [book]}) as loop:
        for _ in range(2):
            made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
            assert loop.run(made.id, "Hi", scope=SCOPE).status == "completed"
    assert seen == ["nobody", "nobody"]


LISTED = {
    "nothing": lambda limit: None,
    "a list of names": lambda limit: ["book"],
    "a tuple of names": lambda limit: ("book",),
}


@both_faces
@pytest.mark.parametrize("case", LISTED)
def test_a_catalog_that_is_none_refuses_the_run(face: str, case: str) -> None:
    """The run fails before anything is spent, and says which server it was."""
    rooms = Rooms()
    rooms.declared = lambda: None  # type: ignore[method-assign] # to be discovered
    rooms.discover = LISTED[case]  # type: ignore[assignment] # against its contract
    run, log = played(face, ScriptedBackend(), tools={"rooms": rooms})
    assert run.error.type == "AgentLoopMcpDiscoveryFailed"
    assert "rooms: the server listed its tools as" in run.error.message
    assert (run.iterations_used, log) == (0, [])


class Crowd:
    """Counts how many servers are asked for their tools at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def discover(self, limit: float) -> tuple[Offer, ...]:
        """A catalog that takes its time."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        threading.Event().wait(0.02)
        with self._lock:
            self._now -= 1
        return Rooms().declared()


@both_faces
def test_servers_are_asked_sixteen_at_a_time(face: str) -> None:
    """A config may name many servers; it cannot have a thread for each of them."""
    crowd, servers = Crowd(), {}
    for n in range(40):
        rooms = Rooms()
        rooms.declared = lambda: None  # type: ignore[method-assign] # to be discovered
        rooms.discover = crowd.discover  # type: ignore[method-assign] # counted
        servers[f"r{n}"] = rooms
    run, _ = played(face, ScriptedBackend(says("hi")), tools=servers)
    assert run.status == "completed"
    assert 1 < crowd.most <= 16


# ---------------------------------------------------------------- backends


class Odd:
    """A backend whose sessions infer by a function."""

    name = "odd"

    def __init__(self, infer: Callable[[Infer], Any]) -> None:
        self._infer = infer

    def check(self, *_: Any) -> None:
        return None

    def session(self, setup: SessionSetup) -> "Odd":
        return self

    def infer(self, command: Infer, job: JobContext, on_delta: Any) -> Any:
        return self._infer(command)

    def request(self, command: Infer, job: JobContext) -> bytes:
        return b"{}"


def _junk(command: Infer) -> Any:
    return Inference("an event", AttemptReport())  # type: ignore[arg-type] # junk


@both_faces
@pytest.mark.parametrize("infer", [lambda command: None, _junk], ids=["none", "junk"])
def test_a_backend_that_answers_with_junk_fails_the_run(face: str, infer: Any) -> None:
    """The attempt is in the books, and the run is over."""
    run, _ = played(face, Odd(infer))
    assert run.error.type == "JobFailed"
    assert "the backend raised AttributeError" in run.error.message
    assert run.usage.attempts_without_usage == 1


HI = Message("assistant", (Text("Hi"),))
ODD: dict[str, Any] = {
    "an id": AttemptReport(provider_request_id=7),  # type: ignore[arg-type] # careless
    "a digest": AttemptReport(request_sha256=b"00"),  # type: ignore[arg-type] # careless
    "a response": AttemptReport(response={"said": 1}),  # type: ignore[arg-type] # careless
    "a note": AttemptReport(notes=(object(),)),  # type: ignore[arg-type] # careless
    "a preceding": AttemptReport(preceding=("late",)),  # type: ignore[arg-type] # careless
    "a message": Failure(kind="provider", message=None),  # type: ignore[arg-type] # careless
    "a kind": Failure(kind=None, message="late"),  # type: ignore[arg-type] # careless
    "a usage": Usage(3, None),  # type: ignore[arg-type] # careless
    "a dict": {"prompt_tokens": 1},
}


def _saying(odd: Any) -> Callable[[Infer], Inference]:
    """A backend that answers, with one odd thing in what it says of the attempt."""

    def infer(command: Infer) -> Inference:
        usage = odd if isinstance(odd, Usage | dict) else None
        replied = ModelReplied(1, 1, HI, "end_turn", usage)  # type: ignore[arg-type] # careless
        report = odd if isinstance(odd, AttemptReport) else AttemptReport()
        if isinstance(odd, Failure):
            failed = ModelFailed(iteration=1, attempt=1, failure=odd)
            return Inference(failed, report)
        return Inference(replied, report)

    return infer


@pytest.mark.parametrize("store", [MemoryStore, SQLiteStore])
@both_faces
@pytest.mark.parametrize("what", ODD)
def test_what_a_backend_says_of_an_attempt_is_looked_at_before_it_is_kept(
    face: str, what: str, store: Any, tmp_path: Path
) -> None:
    """The run ends, whatever is wrong with it; its jobs and events can be read."""
    place = store() if store is MemoryStore else store(tmp_path / "store.db")
    with FACES[face](Odd(_saying(ODD[what])), place) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert run.status == "failed"
        assert run.error.type in {"JobFailed", "AgentLoopWorkerLost"}
        [found] = loop.list_jobs(run.id, scope=SCOPE)
        assert all(attempt.outcome == "provider" for attempt in found.attempts)
        assert [e.kind for e in loop.events(run.id, scope=SCOPE)][-1] == "terminal"


@both_faces
def test_a_list_of_notes_that_grows_rewrites_no_attempt(face: str) -> None:
    """What was reported is kept as it was then, and nothing is as good as no notes."""
    notes: list[str] = []

    def infer(command: Infer) -> Inference:
        notes.append(f"note {command.attempt}")
        failed = ModelFailed(
            iteration=1, attempt=1, failure=Failure(kind="overloaded", message="busy")
        )
        event = failed if command.attempt == 1 else ModelReplied(1, 2, HI, "end_turn")
        report = AttemptReport(notes=notes, preceding=None)  # type: ignore[arg-type] # careless
        return Inference(event, report)

    store = MemoryStore()
    with FACES[face](Odd(infer), store, pause=lambda delay, at_least: 0.0) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert run.status == "completed"
        [job] = loop.list_jobs(run.id, scope=SCOPE)
    _, attempts, _ = store.get_job(Reader(SCOPE.company_id), job.id)
    told = [json.loads(attempt.body)["notes"] for attempt in attempts]
    assert told == [["note 1"], ["note 1", "note 2"]]


@pytest.mark.parametrize("store", [MemoryStore, SQLiteStore])
@both_faces
def test_a_tool_servers_failure_that_holds_no_text_costs_its_call(
    face: str, store: Any, tmp_path: Path
) -> None:
    """The model is told, and the run's events can be read."""
    odd = Failure(kind="mcp_server", message="bad", code=object())  # type: ignore[arg-type] # careless
    place = store() if store is MemoryStore else store(tmp_path / "store.db")
    backend = ScriptedBackend(forever=booking(1))
    tools = {"rooms": Rooms(lambda call: odd)}
    with FACES[face](backend, place, tools) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert run.status == "completed"
        assert [e.kind for e in loop.events(run.id, scope=SCOPE)][-1] == "terminal"


class Leaking(Odd):
    """A backend that is awaited, and cancelled from within."""

    async def ainfer(self, *_: Any) -> Any:
        raise asyncio.CancelledError


def test_a_cancellation_from_within_a_backend_is_its_answer() -> None:
    """The run fails instead of waiting for ever."""
    run, _ = played("async", Leaking(lambda command: None))
    assert run.error.type == "JobFailed"
    assert "CancelledError" in run.error.message


def _always_the_first(command: Infer) -> Inference:
    scripted = booking(1)(_Place(command.iteration))
    message = Message("assistant", scripted.content)
    event = ModelReplied(iteration=1, attempt=1, message=message, stop=scripted.stop)
    return Inference(event, AttemptReport())


class _Place:
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration


@both_faces
def test_a_reply_under_a_wrong_number_answers_its_command(face: str) -> None:
    """The driver knows what it asked for; the model is not asked again and again."""
    run, log = played(face, Odd(_always_the_first), tools={"rooms": Rooms()})
    assert run.status == "completed"
    assert run.usage.attempts_without_usage == run.iterations_used == 2
    assert len(log) == 4


# ---------------------------------------------------------------- stores


class Refusing(MemoryStore):
    """A store that refuses one checkpoint, against its contract, for no reason."""

    def __init__(self, refused: int) -> None:
        super().__init__()
        self._left = refused

    def checkpoint(self, *args: Any) -> bool:
        self._left -= 1
        if self._left == 0:
            raise ZeroDivisionError
        return super().checkpoint(*args)


@both_faces
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("refused", [1, 2, 3])
def test_a_broken_driver_leaves_a_legal_history(
    face: str, refused: int, n: int
) -> None:
    """The run fails as lost, its calls are answered, and the next run goes on."""
    backend = ScriptedBackend(forever=booking(n))
    with FACES[face](backend, Refusing(refused), {"rooms": Rooms()}) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert run.error.type == "AgentLoopWorkerLost"
        assert "ZeroDivisionError" in run.error.message
        assert run.iterations_used == len(loop.list_jobs(run.id, scope=SCOPE))
        delta = loop.messages(made.id, scope=SCOPE)
        log = [Message(m.role, m.content_blocks) for m in delta.messages]
        assert problems([*log, Message("user", (Text("x"),))]) == []
        assert loop.run(made.id, "Go on", scope=SCOPE).status == "completed"


def test_a_failure_of_a_tool_is_no_junk() -> None:
    """What the port allows is still taken for what it is."""
    refusal = Failure(kind="mcp_protocol", message="bad frame")
    run, _ = played(
        "sync",
        ScriptedBackend(forever=booking(1)),
        tools={"rooms": Rooms(lambda call: refusal)},
    )
    assert run.error.type == refusal.type


# ---------------------------------------------------------------- a lost lease


class Thief(Rooms):
    """A server whose first call loses the run, and whose second waits for the end."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.clock = HandClock()
        self.store = MemoryStore(clock=self.clock)
        self.second = threading.Event()
        self.ended = threading.Event()

    def _answer(self, call: ToolCall) -> ToolAnswer:
        if len(self.calls) > 1:
            self.second.set()
            assert self.ended.wait(30)
            return ToolAnswer((Text("late"),))
        self.clock.move(60)
        other = ClaimRequest(driver="embedded", lease_seconds=60, run_id=call.run_id)
        assert self.store.claim(other) is not None
        return ToolAnswer((Text("first"),))

    def __getattr__(self, name: str) -> Any:
        """The store, whose commits after the theft come when the second call runs."""
        found = getattr(self.store, name)
        if name != "checkpoint":
            return found

        def checkpoint(*args: Any) -> bool:
            if self.calls:
                assert self.second.wait(30)
            return bool(found(*args))

        return checkpoint


def test_a_driver_that_lost_its_run_begins_no_queued_call() -> None:
    """Calls that wait for a free thread belong to whoever has the run now."""
    thief = Thief()
    model = ScriptedBackend(forever=booking(3))
    tools = {"rooms": thief}
    with AgentLoop(model, thief, tools, tool_slots=1, clock=thief.clock) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.start_run(made.id, "Hi", scope=SCOPE)
        claim = loop._runner.claim(run.id)
        assert claim is not None
        with pytest.raises(LeaseLostError):
            loop._runner.run(claim)
        thief.ended.set()
        loop._pool.submit(str).result(30)  # whatever was queued had its turn
    assert len(thief.calls) == 2
