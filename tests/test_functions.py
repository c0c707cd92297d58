"""Function tools at work: limits, both faces, threads and their end."""

import asyncio
import contextvars
import gc
import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import evolve

from agentloop.core.catalog import Failure
from agentloop.core.content import Json, Text
from agentloop.ports import ToolAnswer, ToolCall, ToolServer
from agentloop.tools.functions import FunctionTools, tool
from agentloop.tools.threads import Pool, Portal, RefusedError
from tests.function_samples import (
    call_of,
    only_text,
    taking,
)
from tests.mcp_calls import after


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What blocked tools wait for; opened at the end, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


# ---------------------------------------------------------------- limits


def test_a_tools_own_limit_is_an_error_result(gate: threading.Event) -> None:
    """The model is told that the outcome is unknown, and the run goes on."""

    @tool(timeout=0.01)
    def stuck() -> None:
        gate.wait()

    text = only_text(FunctionTools([stuck]).call(call_of("stuck")))
    assert "'stuck' did not answer within 0.01 s; whether it acted is unknown" in text


@pytest.mark.parametrize("own", [None, 60.0])
def test_the_calls_limit_is_a_failure(gate: threading.Event, own: float | None) -> None:
    """When the host's time is up first, the failure is a time-out of the call."""

    @tool(timeout=own)
    def stuck() -> None:
        gate.wait()

    found = FunctionTools([stuck]).call(call_of("stuck", 0.01))
    assert isinstance(found, Failure)
    assert (found.kind, found.type) == ("mcp_timeout", "McpTimeout")


# ---------------------------------------------------------------- abandoned


def test_a_function_nobody_waits_for_is_given_up(gate: threading.Event) -> None:
    """The caller has its thread back at once; the function's counts as lost."""
    tools = FunctionTools([stuck_on(gate)])
    found = tools.call(evolve(call_of("stuck", 60.0), abandoned=after(0.1)))
    assert isinstance(found, Failure)
    assert (found.kind, tools.lost) == ("mcp_timeout", 1)
    assert "nobody waits for the tool 'stuck' any more; whether it" in found.message
    tools.close()


def test_a_function_nobody_waits_for_is_not_started(gate: threading.Event) -> None:
    """Without a free thread an abandoned call leaves the queue and never runs."""
    begun: list[str] = []

    @tool
    def other() -> None:
        begun.append("other")

    tools = FunctionTools([stuck_on(gate), other], threads=1)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(tools.call, call_of("stuck", 60.0))
        while not tools._workers.pool()._open:
            threading.Event().wait(0.005)
        found = tools.call(evolve(call_of("other", 60.0), abandoned=lambda: True))
        assert isinstance(found, Failure)
        assert "it was not started" in found.message
        gate.set()
        assert isinstance(busy.result(5), ToolAnswer)
    assert isinstance(tools.call(call_of("stuck", 60.0)), ToolAnswer)
    assert begun == []
    tools.close()


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_coroutine_nobody_waits_for_is_cancelled(timeout: float | None) -> None:
    """On the portal it hears of its end, with a limit and without one."""
    ended = threading.Event()

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tools = FunctionTools([stuck])
    found = tools.call(evolve(call_of("stuck", timeout), abandoned=after(0.1)))
    assert isinstance(found, Failure)
    assert found.kind == "mcp_timeout"
    assert ended.wait(5)
    tools.close()


@pytest.mark.parametrize("limit", [0.01, 0.12])
def test_the_limit_holds_while_somebody_waits(
    gate: threading.Event, limit: float
) -> None:
    """That a call may be abandoned neither shortens its time nor extends it."""
    tools = FunctionTools([stuck_on(gate)])
    found = tools.call(evolve(call_of("stuck", limit), abandoned=lambda: False))
    assert isinstance(found, Failure)
    assert f"did not answer within {limit:g} s" in found.message
    tools.close()


def stuck_on(gate: threading.Event) -> Callable[[], None]:
    """A tool that waits until the test lets it go."""

    def stuck() -> None:
        gate.wait()

    return stuck


@pytest.mark.parametrize("timeout", [-1.0, 0.0, 1e9, float("inf")])
def test_odd_limits_hold(timeout: float) -> None:
    """A limit of nothing ends at once and an endless one is no error."""
    tools = FunctionTools([taking(int)])
    try:
        found = tools.call(call_of("echo", timeout, x=1))
        if timeout > 0:
            assert found == ToolAnswer((Text("1"),))
        else:  # it may be quick enough to answer all the same
            assert found == ToolAnswer((Text("1"),)) or isinstance(found, Failure)
    finally:
        tools.close()


def test_without_a_limit_a_function_runs_on_the_calling_thread() -> None:
    """Threads are used where a limit asks for them, and never for inline tools."""
    here = threading.current_thread().name

    def where() -> str:
        return threading.current_thread().name

    tools = FunctionTools([where, tool(name="inline", inline=True)(where)])
    try:
        assert only_text(tools.call(call_of("where"))) == here
        assert only_text(tools.call(call_of("where", 30.0))) != here
        assert only_text(tools.call(call_of("inline", 30.0))) == here
    finally:
        tools.close()


def test_a_late_function_gives_its_thread_back(gate: threading.Event) -> None:
    """A lost thread is lost until its function ends, and then serves again."""
    began, ended = threading.Event(), threading.Event()

    def stuck() -> None:
        began.set()
        gate.wait()

    def free() -> str:
        ended.set()
        return "free"

    tools = FunctionTools([stuck, free], threads=1)
    try:
        tools.call(call_of("stuck", 0.01))
        began.wait()
        assert tools.lost == 1
        refused = only_text(tools.call(call_of("free", 30.0)))
        assert "was not started: all 1 threads for tools are held" in refused
        gate.set()
        while not ended.is_set():  # the thread ends its work in its own time
            answer = tools.call(call_of("free", 30.0))
        assert only_text(answer) == "free"
        assert tools.lost == 0
    finally:
        tools.close()


def test_a_call_without_a_free_thread_is_never_run(gate: threading.Event) -> None:
    """Who waited in vain for a thread is told so, and the function stays unstarted."""
    began = threading.Event()
    ran: list[str] = []

    def stuck() -> str:
        began.set()
        gate.wait()
        return "at last"

    @tool(timeout=0.01)
    def second() -> None:
        ran.append("second")

    def third() -> str:
        ran.append("third")
        return "ok"

    tools = FunctionTools([stuck, second, third], threads=1)
    answers: list[ToolAnswer | Failure] = []
    first = threading.Thread(
        target=lambda: answers.append(tools.call(call_of("stuck", 60.0)))
    )
    first.start()
    try:
        began.wait()
        text = only_text(tools.call(call_of("second")))
        assert "found no free thread within 0.01 s; it was not started" in text
        found = tools.call(call_of("third", 0.01))
        assert isinstance(found, Failure)
        assert "it was not started" in found.message
        gate.set()
        first.join()
        assert only_text(tools.call(call_of("third", 60.0))) == "ok"
        assert ran == ["third"]
        assert answers == [ToolAnswer((Text("at last"),))]
    finally:
        tools.close()


@pytest.mark.asyncio
async def test_who_waits_for_lost_threads_is_not_left_hanging(
    gate: threading.Event,
) -> None:
    """When the last thread is lost, calls queued without a limit are answered."""
    began = threading.Event()

    def stuck() -> None:
        began.set()
        gate.wait()

    tools = FunctionTools([stuck, taking(int)], threads=1)
    try:
        first = asyncio.ensure_future(tools.acall(call_of("stuck", 0.05)))
        await asyncio.to_thread(began.wait)
        queued = await tools.acall(call_of("echo", x=1))
        assert "was not started" in only_text(queued)
        assert isinstance(await first, Failure)
    finally:
        tools.close()


def test_a_late_coroutine_is_cancelled() -> None:
    """An async tool that is late is cancelled on its loop and may clean up."""
    cleaned = threading.Event()

    @tool(timeout=0.01)
    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    tools = FunctionTools([stuck])
    try:
        assert "did not answer within" in only_text(tools.call(call_of("stuck")))
        assert cleaned.wait(60)
    finally:
        tools.close()


@pytest.mark.parametrize("face", ["call", "acall"])
def test_a_coroutine_that_ignores_its_cancel_is_left_behind(face: str) -> None:
    """The answer comes in time even if the function will not end."""

    @tool(timeout=0.01)
    async def stubborn() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                told.set()
        return "too late"

    told = threading.Event()
    tools = FunctionTools([stubborn])
    if face == "call":
        release = asyncio.Event()
        text = only_text(tools.call(call_of("stubborn")))
        assert told.wait(60)
        loop = tools._workers.portal()._loop
        loop.call_soon_threadsafe(release.set)
    else:

        async def main() -> str:
            nonlocal release
            release = asyncio.Event()
            answer = only_text(await tools.acall(call_of("stubborn")))
            release.set()
            return answer

        text = asyncio.run(main())
    tools.close()
    assert "did not answer within 0.01 s" in text


# ---------------------------------------------------------------- the async twin


async def _both(
    tools: FunctionTools, call: ToolCall
) -> tuple[ToolAnswer | Failure, ToolAnswer | Failure]:
    return await asyncio.to_thread(tools.call, call), await tools.acall(call)


def _sync_twin(x: int) -> object:
    return _behave(x)


async def _async_twin(x: int) -> object:
    await asyncio.sleep(0)
    return _behave(x)


def _behave(x: int) -> object:
    match x:
        case 0:
            return {"a": [x]}
        case 1:
            raise ValueError("one")
        case 2:
            return float("nan")
        case 3:
            return "\ud800"
        case 4:
            raise asyncio.CancelledError("mine")
        case 5:
            return [Text("a"), {"b": 1}]
        case _:
            return None


@pytest.mark.asyncio
@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("name", ["_sync_twin", "_async_twin", "inline"])
async def test_both_faces_give_equal_answers(name: str, timeout: float | None) -> None:
    """`acall` answers exactly as `call` does, for every outcome."""
    inline = tool(name="inline", inline=True)(_sync_twin)
    tools = FunctionTools([_sync_twin, _async_twin, inline])
    cases: list[object] = [0, 1, 2, 3, 5, 6, "not a number"]
    if name == "_async_twin":
        cases.append(4)  # elsewhere it is no Exception and passes
    try:
        for x in cases:
            one, two = await _both(tools, call_of(name, timeout, x=x))
            assert one == two
            assert isinstance(one, Failure) == isinstance(x, str)
    finally:
        tools.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("own", [None, 0.01])
async def test_both_faces_are_late_alike(
    gate: threading.Event, is_async: bool, own: float | None
) -> None:
    """Time-outs have the same answer on both faces."""

    def stuck() -> None:
        gate.wait()

    async def astuck() -> None:
        await asyncio.Event().wait()

    tools = FunctionTools([tool(timeout=own, name="t")(astuck if is_async else stuck)])
    try:
        one, two = await _both(tools, call_of("t", 0.01))
        assert one == two
        assert isinstance(one, ToolAnswer) == (own is not None)
    finally:
        tools.close()


@pytest.mark.asyncio
async def test_a_function_does_not_block_the_loop(gate: threading.Event) -> None:
    """A sync tool runs elsewhere while the loop goes on, and inline ones here."""

    def stuck() -> str:
        gate.wait()
        return threading.current_thread().name

    def where() -> str:
        return threading.current_thread().name

    tools = FunctionTools([stuck, tool(inline=True)(where)])
    try:
        waiting = asyncio.ensure_future(tools.acall(call_of("stuck")))
        here = only_text(await tools.acall(call_of("where")))
        gate.set()
        assert here == threading.current_thread().name != only_text(await waiting)
    finally:
        tools.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["stuck", "astuck"])
@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_cancelling_acall_cancels_the_tool(
    gate: threading.Event, name: str, timeout: float | None
) -> None:
    """A cancelled caller gets its cancel, and the coroutine under it gets one too."""
    began, cancelled = threading.Event(), asyncio.Event()

    def stuck() -> None:
        began.set()
        gate.wait()

    async def astuck() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    tools = FunctionTools([stuck, astuck])
    try:
        task = asyncio.ensure_future(tools.acall(call_of(name, timeout)))
        await asyncio.to_thread(began.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if name == "astuck":
            await cancelled.wait()
        else:
            assert tools.lost == 1
    finally:
        tools.close()


# ---------------------------------------------------------------- threads


def test_sixteen_threads_share_one_server() -> None:
    """Every thread gets its own answers, on every way a function can run."""

    def plain(x: int) -> int:
        return x

    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x

    tools = FunctionTools([plain, later], threads=4)
    found: set[bool] = set()
    start = threading.Barrier(16)

    def work(number: int) -> None:
        start.wait()
        for x in range(number * 1000, number * 1000 + 25):
            for name, limit in (("plain", None), ("plain", 60.0), ("later", 60.0)):
                answer = tools.call(call_of(name, limit, x=x))
                found.add(answer == ToolAnswer((Json(x),)))
            refused = tools.call(call_of("plain", x=str(x)))
            found.add(isinstance(refused, Failure))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    tools.close()
    assert found == {True}


@pytest.mark.parametrize("name", ["where", "awhere"])
@pytest.mark.parametrize("timeout", [None, 60.0])
def test_context_variables_reach_the_function(name: str, timeout: float | None) -> None:
    """Whatever thread a tool runs on, it sees the caller's context variables."""
    trace = contextvars.ContextVar("trace", default="none")

    def where() -> str:
        return trace.get()

    async def awhere() -> str:
        return trace.get()

    tools = FunctionTools([where, awhere])
    token = trace.set("mine")
    try:
        assert only_text(tools.call(call_of(name, timeout))) == "mine"
    finally:
        trace.reset(token)
        tools.close()


def _tool_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("agentloop-tool")}


def _one_of_each() -> FunctionTools:
    async def later() -> str:
        return "later"

    tools = FunctionTools([taking(int), later])
    assert only_text(tools.call(call_of("echo", 60.0, x=1))) == "1"
    assert only_text(tools.call(call_of("later", 60.0))) == "later"
    return tools


@pytest.mark.parametrize("size", [{"threads": 0}, {"max_bytes": 0}])
def test_a_server_of_nothing_is_refused(size: dict[str, int]) -> None:
    """No threads, or no room for a result, is a mistake that is named."""
    with pytest.raises(ValueError, match="at least 1"):
        FunctionTools([], **size)


def test_close_ends_the_threads_and_may_be_repeated() -> None:
    """Nothing is started before it is needed, nothing stays, and use starts anew."""
    before = _tool_threads()
    FunctionTools([taking(int)]).close()
    tools = _one_of_each()
    started = _tool_threads() - before
    assert len(started) == 2
    tools.close()
    tools.close()
    for thread in started:
        thread.join(60)
        assert not thread.is_alive()
    assert only_text(tools.call(call_of("echo", 60.0, x=2))) == "2"
    tools.close()


def test_threads_end_with_the_last_reference() -> None:
    """A server that nobody closed does not leave its threads behind."""
    before = _tool_threads()
    tools = _one_of_each()
    started = _tool_threads() - before
    gone = weakref.ref(tools)
    del tools
    gc.collect()
    assert gone() is None
    for thread in started:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", ["stuck", "astuck"])
def test_close_answers_who_waits(name: str, gate: threading.Event) -> None:
    """Closing cancels coroutines and refuses queued calls with a clear answer."""
    began = threading.Event()

    def stuck() -> None:
        began.set()
        gate.wait()

    async def astuck() -> None:
        began.set()
        await asyncio.Event().wait()

    tools = FunctionTools([stuck, astuck], threads=1)
    answers: list[ToolAnswer | Failure] = []
    waiting = [
        threading.Thread(target=lambda: answers.append(tools.call(call_of(name, 60.0))))
        for _ in range(2)
    ]
    for thread in waiting:
        thread.start()
        began.wait()
    tools.close()
    gate.set()
    for thread in waiting:
        thread.join(60)
    texts = sorted(only_text(answer) for answer in answers)
    closed = [text for text in texts if "the tools were closed" in text]
    assert len(closed) == (1 if name == "stuck" else 2)


def test_a_tool_may_close_its_own_server() -> None:
    """Closing from the loop's own thread ends the call instead of hanging."""
    tools: list[FunctionTools] = []

    async def leave() -> None:
        tools[0].close()
        await asyncio.Event().wait()

    tools.append(FunctionTools([leave]))
    text = only_text(tools[0].call(call_of("leave")))
    assert text == "the tool 'leave' was cancelled: the tools were closed"


def test_what_is_closed_takes_no_more_work() -> None:
    """Work that arrives after the close is refused and never waited for."""
    pool, portal = Pool(1), Portal()
    pool.close()
    portal.close()
    portal.close()
    job = pool.submit(lambda: ToolAnswer(()))
    assert job.wait(0.0)
    with pytest.raises(RefusedError, match="was not started: the tools were closed"):
        job.result()
    with pytest.raises(RefusedError, match="was not started: the tools were closed"):
        portal.run(asyncio.Event().wait, None)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_wait_for_a_thread(gate: threading.Event) -> None:
    """Ctrl-C reaches the caller at once, and the function is counted as lost."""
    here = threading.get_ident()

    heard = threading.Event()

    def stuck() -> None:
        # A signal just before a thread blocks does not wake it: say it again.
        while not heard.is_set():
            signal.pthread_kill(here, signal.SIGINT)
            heard.wait(1.0)
        gate.wait()

    tools = FunctionTools([stuck])
    with pytest.raises(KeyboardInterrupt):
        tools.call(call_of("stuck", 60.0))
    heard.set()
    assert tools.lost == 1
    tools.close()


def test_an_async_tool_that_blocks_on_another_is_told() -> None:
    """Waiting for the loop from the loop would never end, so it is refused."""
    tools: list[FunctionTools] = []

    async def inner() -> str:
        return "inner"

    async def outer() -> object:
        return [Text("outer"), *tools[0].call(call_of("inner")).content]  # type: ignore[union-attr]

    tools.append(FunctionTools([inner, outer]))
    answer = tools[0].call(call_of("outer"))
    assert isinstance(answer, ToolAnswer)
    assert "must await other tools" in json.dumps([str(b) for b in answer.content])
    tools[0].close()


def test_a_hanging_tool_does_not_keep_the_process() -> None:
    """The interpreter ends although a tool never does."""
    code = """
import threading
from agentloop.ports import ToolCall
from agentloop.tools.functions import FunctionTools
def hang() -> None:
    threading.Event().wait()
async def ahang() -> None:
    threading.Event().wait()  # blocks its loop as well
tools = FunctionTools([hang, ahang])
for name in ("hang", "ahang"):
    print(tools.call(ToolCall(run_id="r", scope=None, key="1.0", tool_use_id="t",
                              name=name, arguments={}, timeout=0.01)).kind)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["mcp_timeout", "mcp_timeout"]


def test_a_forked_child_has_threads_of_its_own() -> None:
    """After a fork the parent's threads are gone and new ones are started."""
    code = """
import os, warnings
from agentloop.ports import ToolCall
from agentloop.tools.functions import FunctionTools
warnings.simplefilter("ignore")
def echo(x: int) -> str:
    return str(x)
async def aecho(x: int) -> str:
    return str(x)
tools = FunctionTools([echo, aecho])
def ask(x):
    for name in ("echo", "aecho"):
        call = ToolCall(run_id="r", scope=None, key="1.0", tool_use_id="t",
                        name=name, arguments={"x": x}, timeout=30.0)
        print(tools.call(call).content[0].text, flush=True)
ask(1)
child = os.fork()
if child == 0:
    ask(2)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
tools.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["1", "1", "2", "2", "0"]


def test_the_server_is_a_tool_server() -> None:
    """Declared and discovered catalogs are the same, known without waiting."""
    server: ToolServer = FunctionTools([taking(int), tool(name="b")(taking(str))])
    declared = server.declared()
    assert declared == server.discover(0.0)
    assert [offer.spec.name for offer in declared or ()] == ["echo", "b"]
    twin: Callable[[ToolCall], Awaitable[ToolAnswer | Failure]] = FunctionTools(
        []
    ).acall
    assert asyncio.iscoroutinefunction(twin)
