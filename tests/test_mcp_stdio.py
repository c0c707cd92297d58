"""MCP over pipes: a real server, and processes that break the rules."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from agentloop.core.content import Document, Image, Json, Text
from agentloop.ports import ToolAnswer
from agentloop.tools.mcp import EFFECT_KEY, StdioOptions, StdioServer
from agentloop.wire import Limits
from tests.mcp_calls import KEY, a_call, after, failure_of, text_of, until
from tests.servers import hostile_stdio, real_mcp

REAL = str(Path(real_mcp.__file__))
HOSTILE = str(Path(hostile_stdio.__file__))
CAP = 256 * 1024


def is_running(pid: int) -> bool:
    """Whether a process is alive, a zombie not counted."""
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


@pytest.fixture(scope="module")
def real() -> Iterator[StdioServer]:
    """The real server, as one process for all of these tests."""
    server = StdioServer(sys.executable, [REAL, "stdio"], {"MY_TOKEN": "canary-5a"})
    yield server
    server.close()


@pytest.fixture
def hostile() -> Iterator[Any]:
    """Starts hostile processes, and stops what was started."""
    servers: list[StdioServer] = []

    def start(name: str, **changes: Any) -> StdioServer:
        settings = {"grace": 0.2, "limits": Limits(max_bytes=CAP)} | changes
        options = StdioOptions(**settings)
        servers.append(
            StdioServer(sys.executable, ["-S", HOSTILE, name], options=options)
        )
        return servers[-1]

    yield start
    for server in servers:
        server.close()


# ---------------------------------------------------------------- the real one


def test_the_catalog(real: StdioServer) -> None:
    """All pages of the catalog become offers, with their hints."""
    offers = {offer.spec.name: offer for offer in real.discover(20)}  # type: ignore[union-attr]  # a Failure would fail here
    assert sorted(offers) == sorted(real_mcp.TOOLS)
    assert offers["echo"].in_doubt == "repeat"
    assert offers["meta"].in_doubt == "repeat"
    assert offers["die"].in_doubt == "tell"
    assert offers["slow"].in_doubt == "tell"
    assert offers["echo"].spec.description == "the tool echo"
    assert real.declared() is None
    assert real.reports == ()


CONTENT: dict[str, ToolAnswer] = {
    "echo": ToolAnswer((Text(""),)),
    "picture": ToolAnswer((Image("png", real_mcp.PNG),)),
    "sound": ToolAnswer((Text("[audio of type audio/wav, 16 bytes, not shown]"),)),
    "files": ToolAnswer(
        (Text("a note"), Document("pdf", "the paper 1 pdf", real_mcp.PDF))
    ),
    "link": ToolAnswer(
        (Json({"type": "resource_link", "uri": "file:///far", "name": "far"}),)
    ),
    "structured": ToolAnswer((Text("two slots"), Json({"slots": [10, 14]}))),
    "fails": ToolAnswer((Text("no such room"),), is_error=True),
    "asks_back": ToolAnswer((Text("you are there"),)),
    "meta": ToolAnswer((Json({"key": KEY}),)),
}


@pytest.mark.parametrize(("name", "answer"), CONTENT.items())
def test_content(real: StdioServer, name: str, answer: ToolAnswer) -> None:
    """Each kind of content a real server sends arrives as the block it is mapped to."""
    assert real.call(a_call(name)) == answer


def test_the_name_of_the_effect_key() -> None:
    """The key under which servers find the effect key is part of the interface."""
    assert EFFECT_KEY == "agentloop/effect-key"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (-32601, "unknown_tool"),
        (-32602, "tool_validation"),
        (-32603, "mcp_protocol"),
        (-32000, "mcp_protocol"),
    ],
)
def test_errors(real: StdioServer, code: int, kind: str) -> None:
    """The server's own errors are told apart by their code."""
    failure = failure_of(real.call(a_call("refuses", code=code)))
    assert (failure.kind, failure.code) == (kind, str(code))


def test_parallel_calls(real: StdioServer) -> None:
    """Sixteen calls share the pipes, each with its own answer."""
    with ThreadPoolExecutor(16) as pool:
        calls = [a_call("echo", text=f"call {i}") for i in range(16)]
        answers = list(pool.map(real.call, calls))
    assert [text_of(answer) for answer in answers] == [f"call {i}" for i in range(16)]


def test_slow_calls_overlap(real: StdioServer) -> None:
    """A slow call does not hold up a quick one."""
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(real.call, a_call("slow", seconds=0.5))
        assert text_of(real.call(a_call("echo", text="quick"))) == "quick"
        assert not slow.done()
        assert text_of(slow.result()) == "slept 0.5"


def test_async_calls(real: StdioServer) -> None:
    """The async face answers like the sync one, many calls at once."""

    async def calls() -> list[str]:
        some = (real.acall(a_call("echo", text=str(i))) for i in range(16))
        return [text_of(answer) for answer in await asyncio.gather(*some)]

    assert asyncio.run(calls()) == [str(i) for i in range(16)]
    offers = asyncio.run(real.adiscover(10))
    assert len(offers) == len(real_mcp.TOOLS)  # type: ignore[arg-type]  # likewise


@pytest.mark.parametrize("how", ["timeout", "cancel", "abandoned"])
def test_a_call_given_up(real: StdioServer, how: str) -> None:
    """A call that nobody waits for is cancelled inside the server, however it is."""
    call = a_call("slow", timeout=0.3 if how == "timeout" else 10, seconds=30, mark=how)
    late = evolve(call, abandoned=after(0.3))

    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(real.acall(call), 0.3)

    if how == "timeout":
        assert failure_of(real.call(call)).kind == "mcp_timeout"
    elif how == "abandoned":
        assert "nobody waits" in failure_of(real.call(late)).message
    else:
        asyncio.run(cancel())

    def marks() -> list[str]:
        (block,) = real.call(a_call("cancelled")).content  # type: ignore[union-attr]  # likewise
        return block.json["marks"]

    until(lambda: how in marks())


def test_the_environment(real: StdioServer) -> None:
    """The process gets what it was given and little else of ours."""
    answer = real.call(a_call("env"))
    assert isinstance(answer, ToolAnswer)
    (block,) = answer.content
    assert isinstance(block, Json)
    assert "MY_TOKEN" in block.json["names"]
    assert "PYTEST_CURRENT_TEST" in os.environ
    assert "PYTEST_CURRENT_TEST" not in block.json["names"]
    assert "canary-5a" not in repr(real)


def test_death_and_return(real: StdioServer) -> None:
    """A process that dies costs the call it died in; the next call starts another."""
    before = text_of(real.call(a_call("pid")))
    failure = failure_of(real.call(a_call("die")))
    assert (failure.kind, failure.code) == ("mcp_server", "exit 3")
    assert text_of(real.call(a_call("pid"))) != before


def test_killed_between_calls(real: StdioServer) -> None:
    """A process that was killed while idle is replaced without anyone noticing."""
    pid = int(text_of(real.call(a_call("pid"))))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_running(pid))
    outcomes = [real.call(a_call("pid")) for _ in range(2)]
    assert int(text_of(outcomes[-1])) != pid


# ---------------------------------------------------------------- hostile ones

BROKEN = {
    "banner": ("mcp_protocol", None),
    "half-line": ("mcp_server", "exit 0"),
    "binary": ("mcp_protocol", None),
    "batch": ("mcp_protocol", None),
    "version-1": ("mcp_protocol", None),
    "wrong-id": ("mcp_protocol", None),
    "text-id": ("mcp_protocol", None),
    "true-id": ("mcp_protocol", None),
    "null-id": ("mcp_protocol", None),
    "bad-note": ("mcp_protocol", None),
    "reply-with-method": ("mcp_protocol", None),
    "no-result": ("mcp_protocol", None),
    "flood": ("mcp_protocol", None),
    "rpc-32601": ("unknown_tool", "-32601"),
    "rpc-32602": ("tool_validation", "-32602"),
    "rpc-32603": ("mcp_protocol", "-32603"),
    "exit": ("mcp_server", "exit 7"),
    "kill": ("mcp_server", "exit -9"),
    "close-output": ("mcp_server", None),
    "init-exit": ("mcp_server", "exit 9"),
}


@pytest.mark.parametrize(("name", "expected"), BROKEN.items())
def test_a_broken_process(
    hostile: Any, name: str, expected: tuple[str, str | None]
) -> None:
    """Every way to break the pipes ends the call, at once, as its own failure."""
    server = hostile(name)
    for _ in range(2):  # the second time by a process of its own, where it died
        failure = failure_of(server.call(a_call()))
        assert (failure.kind, failure.code) == expected


@pytest.mark.parametrize("name", ["honest", "blank-lines"])
def test_unusual_but_right(hostile: Any, name: str) -> None:
    """Blank lines between messages are no reason to fail."""
    assert text_of(hostile(name).call(a_call())) == "fine"


def test_an_answer_too_many(hostile: Any) -> None:
    """A second answer to the same request is dropped, whenever it comes."""
    server = hostile("twice")
    assert [text_of(server.call(a_call())) for _ in range(5)] == ["fine"] * 5


def test_an_echoed_secret_is_scrubbed(caplog: pytest.LogCaptureFixture) -> None:
    """What the host put into the environment is not repeated by a failure or a log."""
    caplog.set_level(0)
    env = {"MY_TOKEN": "canary-90d1"}
    server = StdioServer(sys.executable, ["-S", HOSTILE, "echo-env"], env)
    failure = failure_of(server.call(a_call()))
    server.close()
    assert failure.message == "'python' answered with error -32603: bad key [redacted]"
    assert "canary" not in caplog.text


def test_a_late_answer(hostile: Any) -> None:
    """An answer that comes after its deadline is dropped, and the pipe goes on."""
    server = hostile("late")
    assert failure_of(server.call(a_call(timeout=0.1))).kind == "mcp_timeout"
    assert text_of(server.call(a_call())) == "late"


def test_a_hung_process_is_replaced(hostile: Any) -> None:
    """A process that does not even answer a ping after a timeout is killed."""
    server = hostile("deaf", probe=0.2)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(server.call, a_call(timeout=10))
        assert failure_of(server.call(a_call(timeout=0.3))).kind == "mcp_timeout"
        assert failure_of(other.result()).code == "exit -9"


def test_a_slow_process_is_kept(hostile: Any) -> None:
    """A process that answers the ping after a timeout keeps its other calls."""
    server = hostile("slow-pong", probe=0.2)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(server.call, a_call(timeout=1.0))
        assert failure_of(server.call(a_call(timeout=0.2))).kind == "mcp_timeout"
        assert failure_of(other.result()).kind == "mcp_timeout"


def test_a_process_that_ignores_the_end(hostile: Any) -> None:
    """Closing ends even a process that ignores its input and SIGTERM."""
    server = hostile("stubborn")
    assert text_of(server.call(a_call())) == "fine"
    children = Path(f"/proc/{os.getpid()}/task")
    pids = {
        int(pid)
        for task in children.iterdir()
        for pid in (task / "children").read_text().split()
    }
    mine = [p for p in pids if b"stubborn" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert len(mine) == 1
    server.close()
    assert not is_running(mine[0])


def test_a_process_whose_child_stays(hostile: Any) -> None:
    """A child that the server left behind does not keep closing from ending."""
    server = hostile("orphan")
    answer = server.call(a_call())
    (block,) = answer.content
    server.close()
    until(lambda: not is_running(block.json["pid"]))


def test_a_handshake_that_hangs(hostile: Any) -> None:
    """The deadline of a call covers the start of the process too."""
    failure = failure_of(hostile("init-silent").call(a_call(timeout=0.3)))
    assert failure.kind == "mcp_timeout"


@pytest.mark.parametrize(
    ("command", "cwd", "kind"),
    [
        ("/nowhere/at-all", None, "mcp_protocol"),
        ("no-such-command-anywhere", None, "mcp_protocol"),
        (HOSTILE, None, "mcp_protocol"),
        (sys.executable, Path("/nowhere"), "mcp_protocol"),
    ],
)
def test_a_command_that_cannot_be_run(
    command: str, cwd: Path | None, kind: str
) -> None:
    """A command that is not there is no passing fault: the host has to mend it."""
    server = StdioServer(command, options=StdioOptions(cwd=cwd))
    assert failure_of(server.call(a_call())).kind == kind
    assert failure_of(server.discover(5)).kind == "discovery_refused"
    server.close()


def test_a_process_that_cannot_be_started_now() -> None:
    """What the system refuses for the moment may be tried again."""
    server = StdioServer(sys.executable, ["x" * 4_000_000])
    failure = failure_of(server.call(a_call()))
    server.close()
    assert (failure.kind, failure.code) == ("mcp_server", "undelivered")


def test_the_timeout_of_the_host(hostile: Any) -> None:
    """A call without a timeout of its own gets the host's."""
    failure = failure_of(hostile("deaf", timeout=0.2).call(a_call(timeout=None)))
    assert failure.kind == "mcp_timeout"


def test_closing_is_final(hostile: Any) -> None:
    """A closed server starts no process again; closing twice is fine."""
    server = hostile("honest")
    server.call(a_call())
    asyncio.run(server.aclose())
    server.close()
    assert failure_of(server.call(a_call())).kind == "mcp_server"
