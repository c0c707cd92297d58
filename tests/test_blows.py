"""What a host's own code may do to a run, and what a run must take."""

import asyncio
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from agentloop import AgentLoop, AsyncAgentLoop, Scope, Text, ToolUse
from agentloop.core.catalog import Failure
from agentloop.core.content import Message
from agentloop.core.history import problems
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import ScriptedBackend, calls, content, says
from tests.faces import DEFAULTS, FACES, SCOPE, Rooms, opened_store


class Blow(BaseException):
    """Not an `Exception`: nothing that handles errors handles it."""


def strike(_: Any) -> Any:
    """A tool that ends whoever calls it."""
    raise Blow


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("face", list(FACES))
def test_a_blow_in_a_tool_reaches_the_caller(face: str, n: int) -> None:
    """It hangs nothing, and the run is due again at once."""
    backend = ScriptedBackend(calls(*[("rooms-free", {})] * n), says("done"))
    store = MemoryStore()
    with FACES[face](backend, store, {"rooms": Rooms(strike)}) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        with pytest.raises(Blow):
            loop.run(made.id, "Hi", scope=SCOPE)
        (run,) = loop.list_runs(made.id, scope=SCOPE)
    with AgentLoop(backend, store, {"rooms": Rooms()}) as again:
        assert again.wait(run.id, scope=SCOPE).status == "completed"


def test_a_worker_outlives_a_blow() -> None:
    """The thread goes on with other runs, and takes this one up again."""
    blows = iter([Blow()])

    def once(call: Any) -> Any:
        for blow in blows:
            raise blow
        return Rooms().call(call)

    backend = ScriptedBackend(calls(("rooms-free", {})), says("done"), says("other"))
    with AgentLoop(backend, tools={"rooms": Rooms(once)}) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        with loop.worker(1, poll=0.02) as worker:
            run = loop.start_run(made.id, "Hi", scope=SCOPE)
            assert loop.wait(run.id, scope=SCOPE, timeout=60).status == "completed"
            assert worker.alive


@pytest.mark.parametrize("face", list(FACES))
@pytest.mark.parametrize(
    "bad",
    [
        content(Text(5)),  # type: ignore[arg-type]
        content(ToolUse("t1", "rooms-free", "x"), stop="tool_use"),  # type: ignore[arg-type]
        content(ToolUse("t1", "rooms-free", [1]), stop="tool_use"),  # type: ignore[arg-type]
        content(ToolUse(7, "rooms-free", {}), stop="tool_use"),  # type: ignore[arg-type]
    ],
    ids=["text", "arguments", "list", "id"],
)
def test_a_malformed_reply_ends_the_run_and_is_not_stored(face: str, bad: Any) -> None:
    """Whatever a backend makes of its provider, the conversation stays readable."""
    with FACES[face](
        ScriptedBackend(bad, says("fine")), tools={"rooms": Rooms()}
    ) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert run.error.type == "AgentLoopMalformedModelOutput"
        assert loop.run(made.id, "Go on", scope=SCOPE).status == "completed"
        assert loop.messages(made.id, scope=SCOPE).current_version == 2


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_ctrl_c_gives_the_run_back(kind: str, tmp_path: Path) -> None:
    """The next wait needs not wait for a lease."""
    here = threading.get_ident()

    def interrupt(_: Any) -> Any:
        signal.pthread_kill(here, signal.SIGINT)
        threading.Event().wait(60)

    backend = ScriptedBackend(calls(("rooms-free", {})), says("done"))
    with (
        opened_store(kind, tmp_path) as store,
        AgentLoop(backend, store, {"rooms": Rooms(interrupt)}) as loop,
    ):
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        with pytest.raises(KeyboardInterrupt):
            loop.run(made.id, "Hi", scope=SCOPE)
        (run,) = loop.list_runs(made.id, scope=SCOPE)
        assert loop.wait(run.id, scope=SCOPE, timeout=5).status == "completed"


@pytest.mark.parametrize("face", list(FACES))
@pytest.mark.parametrize("after", [2, 3, 99])
def test_following_an_ended_run_ends(face: str, after: int) -> None:
    """A reader that has seen the last event gets nothing more, at once."""
    with FACES[face](ScriptedBackend(says("done"))) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert list(loop.events(run.id, after=after, scope=SCOPE)) == []


@pytest.mark.parametrize("face", list(FACES))
def test_a_closed_loop_says_so(face: str) -> None:
    """Nothing is started or driven any more; what was stored can be read."""
    loop = FACES[face](ScriptedBackend(says("done")))
    made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
    run = loop.run(made.id, "Hi", scope=SCOPE)
    if face == "sync":
        loop.close()
        for use in (loop.run, loop.start_run, loop.stream):
            with pytest.raises(RuntimeError, match="the loop is closed"):
                use(made.id, "Hi", scope=SCOPE)
        assert loop.get_run(run.id, scope=SCOPE) == run
        assert list(loop.events(run.id, scope=SCOPE))
    else:
        asyncio.run(_use_closed())
        with loop:
            pass


async def _use_closed() -> None:
    loop = AsyncAgentLoop(ScriptedBackend(says("done")))
    made = await loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
    await loop.close()
    with pytest.raises(RuntimeError, match="the loop is closed"):
        await loop.run(made.id, "Hi", scope=SCOPE)


BAD_OPTIONS = {
    "visibility": ("User", "must be one of company, user"),
    "on_unresolved_call": ("tell", "must be one of fail, tell_model"),
    "on_invalid_arguments": ("tell", "must be one of fail, tell_model"),
    "attempts": (0, "must be at least 1"),
    "lease": (0.0, "must be above 0"),
}


def test_attempts_have_an_end() -> None:
    """A store has places for some ten thousand of them."""
    with pytest.raises(ValueError, match="attempts must be at most 10000, not 10001"):
        AgentLoop(ScriptedBackend(), attempts=10_001)


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_are_checked_at_once(name: str) -> None:
    """A typo never silently widens access or changes a policy."""
    value, words = BAD_OPTIONS[name]
    with pytest.raises(ValueError, match=words):
        AgentLoop(ScriptedBackend(), **{name: value})


BAD_SCOPES: list[Any] = [None, (1, 407), "1:407", {"company_id": 1}, Scope("1", 407)]  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", BAD_SCOPES, ids=repr)
def test_a_scope_is_two_integers(scope: Any) -> None:
    """Whatever else is given is told apart from an id that does not exist."""
    with AgentLoop(ScriptedBackend()) as loop, pytest.raises(TypeError, match="scope"):
        loop.create_conversation(defaults=DEFAULTS, scope=scope)


def test_a_scope_may_be_a_plain_dict() -> None:
    """As every other value."""
    me: Any = {"company_id": 1, "user_id": 407}
    with AgentLoop(ScriptedBackend(says("done"))) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=me)
        assert loop.run(made.id, "Hi", scope=me).final_text == "done"


def test_an_id_of_the_wrong_kind_is_told() -> None:
    """Passing the conversation itself is a mistake of the program, not an outage."""
    with AgentLoop(ScriptedBackend()) as loop:
        made: Any = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        with pytest.raises(TypeError, match="pass its id"):
            loop.run(made, "Hi", scope=SCOPE)


def test_a_call_cut_by_the_deadline_is_the_deadlines(tmp_path: Path) -> None:
    """The run fails as out of time, not as a tool that timed out."""

    def slow(text: str = "") -> str:
        """Wait."""
        threading.Event().wait(5)
        return text

    backend = ScriptedBackend(calls(("m-slow", {})))
    with AgentLoop(backend, tools={"m": [slow]}, run_timeout=0.2) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert run.error is not None
        assert run.error.type == "AgentLoopDeadlineExceeded"


class OwnFailure(Failure):
    """A failure that a host made its own."""


@pytest.mark.parametrize("n", [1, 2])
def test_a_hosts_own_kind_of_failure_is_one(n: int) -> None:
    """Whatever its class is called, it fails the run, and its calls are answered."""
    own = OwnFailure(kind="mcp_protocol", message="no")
    backend = ScriptedBackend(calls(*[("rooms-free", {})] * n), says("done"))
    with AgentLoop(backend, tools={"rooms": Rooms(lambda _: own)}) as loop:
        made = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.run(made.id, "Hi", scope=SCOPE)
        assert run.error is not None
        assert run.error.type == "McpProtocol"
        said = loop.messages(made.id, scope=SCOPE).messages
        assert problems([Message(m.role, m.content_blocks) for m in said]) == []
