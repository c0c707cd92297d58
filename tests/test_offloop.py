"""An event loop that drives runs is held up by nothing that blocks."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentloop import AsyncAgentLoop, ToolSpec
from agentloop.core.config import McpServer
from agentloop.core.routing import Offer
from agentloop.core.run import Scope
from agentloop.ports import StoreUnavailableError
from agentloop.runtime import aface
from agentloop.testing.scripted import ScriptedBackend, Seen, calls, says
from tests.faces import SCOPE, Rooms
from tests.test_stopping import Odd, auntil

WAIT = 60
"""Seconds after which a thread of a test that fails gives up."""


def model(seen: Seen) -> Any:
    """One call, then the answer."""
    return calls(("rooms-free", {})) if seen.iteration == 1 else says("done")


async def run_of(loop: AsyncAgentLoop, **defaults: Any) -> Any:
    """A run of a conversation of its own, ended."""
    given = {"model": "m", **defaults}
    talk = await loop.create_conversation(defaults=given, scope=SCOPE)
    return await loop.run(talk.id, "Hi", scope=SCOPE)


class Far(Rooms):
    """A server by URL, of which closing or listing is something else."""

    def __init__(self, **does: Callable[..., Any]) -> None:
        super().__init__()
        self.__dict__.update(does)

    def declared(self) -> Any:
        return None


class Directory:
    """Opens servers by alias."""

    def __init__(self, **servers: Any) -> None:
        self._servers = servers

    def open(self, server: McpServer, scope: Scope) -> Any:
        return self._servers[server.alias]


def far(*aliases: str) -> list[dict[str, Any]]:
    """Their entries in a config."""
    return [{"alias": alias, "url": f"https://{alias}.example"} for alias in aliases]


OFFERS = (Offer(ToolSpec(name="free", input_schema={"type": "object"})),)


@pytest.mark.asyncio
async def test_a_farewell_that_takes_long_is_waited_for_elsewhere() -> None:
    """Only the run that says it waits; here it ends by what the event loop does."""
    heard = threading.Event()
    closing = threading.Event()

    def close() -> None:
        closing.set()
        assert heard.wait(WAIT)

    slow = Far(close=close, discover=lambda limit: OFFERS)
    backend = ScriptedBackend(says("done"))
    async with AsyncAgentLoop(backend, mcp=Directory(slow=slow)) as loop:
        running = asyncio.ensure_future(run_of(loop, mcp_servers=far("slow")))
        await auntil(closing.is_set)
        heard.set()
        assert (await running).status == "completed"


@pytest.mark.asyncio
async def test_a_server_that_lists_nothing_holds_up_no_call() -> None:
    """Listing has threads of its own, however many silent servers a config names."""
    told = threading.Event()
    asking: list[float] = []

    def silent(limit: float) -> Any:
        asking.append(limit)
        assert told.wait(WAIT)
        return OFFERS

    servers = {"one": Far(discover=silent), "two": Far(discover=silent)}
    rooms = {"rooms": Rooms()}
    parts: dict[str, Any] = {"mcp": Directory(**servers), "tool_slots": 1}
    backend = ScriptedBackend(forever=model)
    async with AsyncAgentLoop(backend, tools=rooms, **parts) as loop:
        config = [*far("one", "two"), {"alias": "rooms"}]
        waiting = asyncio.ensure_future(run_of(loop, mcp_servers=config))
        await auntil(lambda: len(asking) == 2)
        assert (await run_of(loop)).status == "completed"
        told.set()
        assert (await waiting).status == "completed"


@pytest.mark.asyncio
async def test_a_server_whose_list_can_be_awaited_is() -> None:
    """It takes no thread; `discover` is for the synchronous driver."""

    async def adiscover(limit: float) -> Any:
        return OFFERS

    def discover(limit: float) -> Any:
        raise AssertionError("an event loop awaits")

    both = Far(adiscover=adiscover, discover=discover)
    backend = ScriptedBackend(says("done"))
    async with AsyncAgentLoop(backend, mcp=Directory(both=both)) as loop:
        run = await run_of(loop, mcp_servers=far("both"))
    assert run.status == "completed"


@pytest.mark.asyncio
@pytest.mark.parametrize("escapes", [SystemExit, KeyboardInterrupt, StopIteration])
async def test_what_a_tool_raises_on_a_thread_is_its_own(
    escapes: type[BaseException],
) -> None:
    """It ends neither the event loop nor the worker; the model is told its name."""

    def leave(call: Any) -> Any:
        raise escapes("a secret")

    backend = ScriptedBackend(forever=model)
    loop = AsyncAgentLoop(backend, tools={"rooms": Rooms(leave)})
    async with loop, loop.worker(1) as worker:
        assert (await run_of(loop)).status == "completed"
        assert (await run_of(loop)).status == "completed"
        assert worker.alive
    told = repr(backend.seen[1].messages[-1])
    assert f"The tool failed with {escapes.__name__}." in told
    assert "a secret" not in told


@pytest.mark.asyncio
@pytest.mark.parametrize("where", ["claim", "messages"])
@pytest.mark.parametrize("blocking", [False, True], ids=["here", "on a thread"])
async def test_a_worker_outlives_what_is_no_exception(
    where: str, blocking: bool
) -> None:
    """Whatever is raised around one run, the next one is driven."""

    class Odder(BaseException):
        pass

    raised: list[str] = []

    def odd(call: Any, *args: Any, **named: Any) -> Any:
        if not raised:
            raised.append(where)
            raise Odder
        return call(*args, **named)

    store = Odd(blocking=blocking)
    backend = ScriptedBackend(forever=lambda seen: says("done"))
    async with AsyncAgentLoop(backend, store, lease=0.05) as loop:
        talk = await loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
        run = await loop.start_run(talk.id, "Hi", scope=SCOPE)
        store.does[where] = odd
        async with loop.worker(1, poll=0.01) as worker:
            while not run.terminal:
                await asyncio.sleep(0.005)
                run = await loop.get_run(run.id, scope=SCOPE)
            assert worker.alive
    assert raised == [where]


@pytest.mark.asyncio
async def test_a_caller_waits_behind_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose store is away keep the threads that they commit on, and no others."""
    monkeypatch.setattr(aface, "STORE_THREADS", 1)
    back, stuck = threading.Event(), threading.Event()

    def away(call: Any, *args: Any) -> Any:
        stuck.set()
        if not back.wait(WAIT):
            raise StoreUnavailableError("still away")
        return call(*args)

    store = Odd(checkpoint=away)
    backend = ScriptedBackend(forever=lambda seen: says("done"))
    async with AsyncAgentLoop(backend, store) as loop:
        driven = asyncio.ensure_future(run_of(loop))
        await auntil(stuck.is_set)
        calls_made: list[Awaitable[Any]] = [
            loop.create_conversation(defaults={"model": "m"}, scope=SCOPE),
            loop.list_conversations(scope=SCOPE),
        ]
        await asyncio.gather(*calls_made)
        back.set()
        assert (await driven).status == "completed"
