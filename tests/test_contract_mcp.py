"""The rows of the catalog that an MCP server causes, through HTTP and real servers.

A run is started over HTTP and asks for a tool of a server that is really there: one
on the official SDK, over streamable HTTP or stdio, or a hostile one on bare sockets.
How each broken answer is told apart is `test_mcp_hostile`'s; here it is what the
caller of the run gets to see, and how often the server was asked.
"""

import socket
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import pytest

from agentloop.core.catalog import BY_TYPE
from agentloop.core.run import Scope
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import calls, says
from agentloop.tools.mcp import McpDirectory, McpOptions, StdioServer
from agentloop.wire import Limits
from tests.http_examples import DOCS
from tests.http_world import ALICE, World, problem, slug, spec, world
from tests.servers.hostile_mcp import HostileServer, hostile_server
from tests.servers.real_process import REAL, RealServer, real_server

CAP = 256 * 1024
NUMBERS = count()
ASKS = calls(("bad-t", {"day": "Fri"}))
WAITS = [1.0, 2.0, 4.0, 8.0]


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    """One hostile server for all of these tests."""
    with hostile_server() as server:
        yield server


@pytest.fixture(scope="module")
def real() -> Iterator[RealServer]:
    """One real server over HTTP for all of these tests."""
    with real_server() as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> str:
    """Either face of the loop."""
    return str(request.param)


def directory(**options: Any) -> McpDirectory:
    """Doors to loopback, with a small cap."""
    limits = Limits(max_bytes=CAP)
    return McpDirectory(McpOptions(allow_private=True, limits=limits, **options))


def own(name: str) -> str:
    """A path of the hostile server that no other test uses."""
    return f"{name}/{next(NUMBERS)}"


def declared(url: str) -> dict[str, Any]:
    """A server with its catalog in the config, so that nothing is discovered."""
    return {"alias": "bad", "url": url, "tools": [spec("t")]}


def failed_as(run: dict[str, Any], type_: str) -> str:
    """Check a failed run against its row of the catalog; what its error says."""
    row = BY_TYPE[type_]
    assert run["status"] == "failed"
    error = dict(run["error"])
    message = str(error.pop("message"))
    assert error == {
        "type": type_,
        "title": row.title,
        "docs_url": f"{DOCS}{row.slug}",
    }
    assert run["iterations_used"] == len(run["submitted_inference_job_ids"])
    assert (run["final_text"], run["pending_tool_calls"]) == (None, [])
    assert run["usage"] is not None
    assert run["completed_at"] is not None
    return message


def goes_on(served: World, conversation: str) -> None:
    """The same process takes the next run on what the failed one has left."""
    served.backend.add(says("fine"))
    again = served.run(
        conversation,
        expected_version=served.version(conversation),
        config_override={"mcp_servers": []},
    )
    assert again["status"] == "completed"


# ------------------------------------------------ a call that fails

CALLS: dict[str, tuple[str, int]] = {
    "rpc-32601": ("UnknownTool", 1),
    "rpc-32601-http-404": ("UnknownTool", 1),
    "rpc-32602": ("ToolValidation", 1),
    "rpc-32602-http-400": ("ToolValidation", 1),
    "rpc-32603": ("McpProtocol", 1),
    "rpc-32700": ("McpProtocol", 1),
    "rpc-32000": ("McpProtocol", 1),
    "rpc1": ("McpProtocol", 1),
    "body-empty": ("McpProtocol", 1),
    "body-html": ("McpProtocol", 1),
    "body-half": ("McpProtocol", 1),
    "body-batch": ("McpProtocol", 1),
    "type-html": ("McpProtocol", 1),
    "type-plain": ("McpProtocol", 1),
    "envelope-no-version": ("McpProtocol", 1),
    "envelope-version-1": ("McpProtocol", 1),
    "envelope-no-id": ("McpProtocol", 1),
    "envelope-wrong-id": ("McpProtocol", 1),
    "envelope-nothing": ("McpProtocol", 1),
    "envelope-both": ("McpProtocol", 1),
    "result-empty": ("McpProtocol", 1),
    "stream-no-json": ("McpProtocol", 1),
    "stream-wrong-id": ("McpProtocol", 1),
    "huge-announced": ("McpProtocol", 1),
    "huge-stream": ("McpProtocol", 1),
    "status-400": ("McpProtocol", 1),
    "status-401": ("McpProtocol", 1),
    "status-403": ("McpProtocol", 1),
    "status-500": ("McpServerError", 5),
    "status-502": ("McpServerError", 5),
    "status-503": ("McpServerError", 5),
    "status-504": ("McpServerError", 5),
    "reset-at-once": ("McpServerError", 5),
    "close-at-once": ("McpServerError", 5),
    "half-body": ("McpServerError", 5),
    "stream-reset": ("McpServerError", 5),
}
"""What goes wrong, the type of the run's error, and how often the tool was asked."""


@pytest.mark.parametrize(
    ("name", "type_", "asked"), [(n, *e) for n, e in CALLS.items()]
)
def test_a_call_that_is_answered_wrongly_fails_the_run(
    hostile: HostileServer, face: str, name: str, type_: str, asked: int
) -> None:
    """Only connections and 5xx are tried again: five times, 1-2-4-8 seconds apart."""
    waits: list[float] = []

    def pause(delay: float, hint: float) -> float:
        waits.append(delay)
        return 0.0

    path = own(name)
    with world(ASKS, face=face, mcp=directory(), pause=pause) as served:
        conversation = served.conversation(mcp_servers=[declared(hostile.url(path))])
        run = served.run(conversation)
        message = failed_as(run, type_)
        assert "'bad'" in message or "'t'" in message
        assert run["iterations_used"] == 1
        assert len(hostile.seen(path, "tools/call")) == asked
        assert waits == WAITS[: asked - 1]
        goes_on(served, conversation)


def test_a_refused_connection_fails_the_run(face: str) -> None:
    """Nobody listens: `McpServerError`, after all attempts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with world(ASKS, face=face, mcp=directory()) as served:
        conversation = served.conversation(mcp_servers=[declared(gone)])
        message = failed_as(served.run(conversation), "McpServerError")
        assert "ConnectionRefusedError" in message
        goes_on(served, conversation)


def test_a_name_without_an_address_fails_the_run(face: str) -> None:
    """DNS is asked again at each attempt, and then it is `McpServerError`."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        raise OSError("no such name")

    with world(ASKS, face=face, mcp=directory(resolve=resolve)) as served:
        server = declared("https://rooms.example.com/mcp")
        conversation = served.conversation(mcp_servers=[server])
        failed_as(served.run(conversation), "McpServerError")
        assert asked == ["rooms.example.com"] * 5


def test_a_server_without_tls_fails_the_run(hostile: HostileServer, face: str) -> None:
    """A handshake that cannot be made is a fault of the connection."""
    with world(ASKS, face=face, mcp=directory(connect_timeout=0.1)) as served:
        url = f"https://127.0.0.1:{hostile.port}/honest"
        conversation = served.conversation(mcp_servers=[declared(url)])
        failed_as(served.run(conversation), "McpServerError")


@pytest.mark.parametrize("name", ["silent", "silent-body", "silent-stream", "drip"])
def test_a_server_that_hangs_fails_the_run_in_time(
    hostile: HostileServer, face: str, name: str
) -> None:
    """`McpTimeout` at the tool's time limit, and the tool is not asked again."""
    path = own(name)
    with world(ASKS, face=face, mcp=directory(), tool_timeout=0.2) as served:
        conversation = served.conversation(mcp_servers=[declared(hostile.url(path))])
        failed_as(served.run(conversation), "McpTimeout")
        # None at all when the handshake took the time, on a very busy machine.
        assert len(hostile.seen(path, "tools/call")) <= 1
        goes_on(served, conversation)


def test_a_passing_fault_costs_nothing_but_attempts(
    hostile: HostileServer, face: str
) -> None:
    """Twice 503, then an answer: the run completes with it, in the same iteration."""
    path = own("mended")
    times = count(1)

    def twice(server: HostileServer, reply: Any) -> None:
        if next(times) <= 2:
            reply.http("503 Later")
        else:
            server.honest(reply)

    hostile.scripts[path] = twice
    with world(ASKS, says("ok"), face=face, mcp=directory()) as served:
        conversation = served.conversation(mcp_servers=[declared(hostile.url(path))])
        run = served.run(conversation)
        assert (run["status"], run["iterations_used"]) == ("completed", 2)
        (result,) = served.messages(conversation)[2]["content_blocks"]
        assert (result["is_error"], result["content_blocks"]) == (
            False,
            [{"type": "text", "text": "fine"}],
        )
        first, *others = hostile.seen(path, "tools/call")
        keys = {r.body["params"]["_meta"]["agentloop/effect-key"] for r in others}
        assert keys == {first.body["params"]["_meta"]["agentloop/effect-key"]}
        assert len(others) == 2


@pytest.mark.parametrize(
    ("name", "asked"),
    [("status-503", 1), ("reset-at-once", 1), ("forgets-always", 2), ("nobody", 5)],
)
def test_a_host_may_repeat_only_what_was_never_delivered(
    hostile: HostileServer, face: str, name: str, asked: int
) -> None:
    """A call that the server may have acted on is made once, and ends the run."""
    path, resolved = own(name), count(1)
    nowhere = f"https://{name}.example.com/mcp"

    def resolve(host: str, port: int) -> Sequence[str]:
        if host == "127.0.0.1":
            return [host]
        next(resolved)
        raise OSError("no such name")

    doors = directory(retry="undelivered", resolve=resolve)
    with world(ASKS, face=face, mcp=doors) as served:
        url = nowhere if name == "nobody" else hostile.url(path)
        conversation = served.conversation(mcp_servers=[declared(url)])
        failed_as(served.run(conversation), "McpServerError")
    if name == "nobody":
        assert next(resolved) == asked + 1
    else:
        # In a session that was forgotten a call is not looked at, so it is repeated.
        attempts = 5 if name == "forgets-always" else 1
        assert len(hostile.seen(path, "tools/call")) == asked * attempts


def test_a_catalog_that_changes_under_a_run_changes_nothing_in_it(
    hostile: HostileServer, face: str
) -> None:
    """What the model was told first holds to the run's end; the next run asks anew."""
    path, told = own("list-rug"), count(1)

    def change(server: HostileServer, reply: Any) -> None:
        schema = {"type": "object"}
        text = f"Text {next(told)}."
        tools = [{"name": "t", "description": text, "inputSchema": schema}]
        reply.result({"tools": tools})

    hostile.scripts[path] = change
    script = [ASKS, ASKS, says("done"), says("again")]
    with world(*script, face=face, mcp=directory()) as served:
        server = {"alias": "bad", "url": hostile.url(path)}
        conversation = served.conversation(mcp_servers=[server])
        assert served.run(conversation)["status"] == "completed"
        assert len(hostile.seen(path, "tools/list")) == 1
        version = served.version(conversation)
        served.run(conversation, expected_version=version)
        seen = [[spec.description for spec in s.specs] for s in served.backend.seen]
    assert seen == [["Text 1."]] * 3 + [["Text 2."]]


INJECTED = {
    "a look-alike alias": ("b\u0430d-t", "AgentLoopMalformedToolName"),
    "a look-alike tool": ("bad-\uff54", "UnknownTool"),
    "an invisible letter": ("bad-t\u200b", "UnknownTool"),
    "another case": ("BAD-t", "AgentLoopUnknownToolAlias"),
    "a dunder": ("bad-__class__", "UnknownTool"),
    "a bare dunder": ("__class__", "AgentLoopMalformedToolName"),
    "a path": ("bad-../t", "UnknownTool"),
    "a format": ("bad-{0.__init__}", "UnknownTool"),
    "another dash": ("bad-t-t", "UnknownTool"),
    "a megabyte": ("bad-" + "t" * 1_000_000, "UnknownTool"),
    "a megabyte of alias": ("b" * 1_000_000 + "-t", "AgentLoopMalformedToolName"),
}


@pytest.mark.parametrize("case", INJECTED)
def test_a_name_that_a_model_makes_up_calls_nothing(
    hostile: HostileServer, face: str, case: str
) -> None:
    """A name is looked up exactly as it is, and nothing is reached by another."""
    path, (name, type_) = own("honest"), INJECTED[case]
    with world(calls((name, {})), face=face, mcp=directory()) as served:
        conversation = served.conversation(mcp_servers=[declared(hostile.url(path))])
        failed_as(served.run(conversation), type_)
    assert hostile.seen(path, "tools/call") == []


def test_a_tool_that_says_no_is_heard_by_the_model(real: RealServer, face: str) -> None:
    """A result with `isError` fails no run: it is stored as one and goes back."""
    asks = calls(("real-fails", {}))
    with world(asks, says("Pity."), face=face, mcp=directory()) as served:
        server = {"alias": "real", "url": real.url}
        conversation = served.conversation(mcp_servers=[server])
        run = served.run(conversation)
        assert (run["status"], run["final_text"]) == ("completed", "Pity.")
        (result,) = served.messages(conversation)[2]["content_blocks"]
        assert result["is_error"] is True
        assert result["content_blocks"] == [{"type": "text", "text": "no such room"}]


# ------------------------------------------------ servers on the official SDK


@pytest.fixture(scope="module")
def local() -> Iterator[StdioServer]:
    """The real server as a child process over pipes."""
    server = StdioServer(sys.executable, [REAL, "stdio"])
    yield server
    server.close()


CODES = [(-32601, "UnknownTool"), (-32602, "ToolValidation"), (-32603, "McpProtocol")]


@pytest.mark.parametrize(("code", "type_"), CODES)
def test_errors_of_a_real_server_over_http(
    real: RealServer, face: str, code: int, type_: str
) -> None:
    """Its catalog is discovered, its tool called, its error code decides."""
    asks = calls(("real-refuses", {"code": code}))
    with world(asks, face=face, mcp=directory()) as served:
        server = {"alias": "real", "url": real.url}
        conversation = served.conversation(mcp_servers=[server])
        failed_as(served.run(conversation), type_)
        goes_on(served, conversation)


@pytest.mark.parametrize(("code", "type_"), CODES)
def test_errors_of_a_real_server_over_stdio(
    local: StdioServer, face: str, code: int, type_: str
) -> None:
    """The same from a process that the host has registered under an alias."""
    asks = calls(("local-refuses", {"code": code}))
    with world(asks, face=face, tools={"local": Kept(local)}) as served:
        conversation = served.conversation()
        failed_as(served.run(conversation), type_)
        goes_on(served, conversation)


class Kept:
    """A server that outlives the loops it is registered with."""

    def __init__(self, server: StdioServer) -> None:
        self.declared, self.discover, self.call = (
            server.declared,
            server.discover,
            server.call,
        )

    def close(self) -> None:
        return None


def test_a_process_that_dies_costs_a_run_and_no_more(
    local: StdioServer, face: str
) -> None:
    """`McpServerError` when it dies at every attempt; the next run finds it up."""
    tools = {"local": Kept(local)}
    with world(calls(("local-die", {})), face=face, tools=tools, attempts=2) as w:
        conversation = w.conversation()
        failed_as(w.run(conversation), "McpServerError")
        w.backend.add(calls(("local-echo", {"text": "back"})), says("ok"))
        again = w.run(conversation, expected_version=w.version(conversation))
        assert again["status"] == "completed"
        (result,) = w.messages(conversation)[-2]["content_blocks"]
        assert result["content_blocks"] == [{"type": "text", "text": "back"}]


def test_a_command_that_does_not_start_fails_the_run(face: str) -> None:
    """Its catalog cannot be had: `AgentLoopMcpDiscoveryFailed`, after all attempts."""
    with world(face=face, tools={"gone": StdioServer("/no/such/command")}) as served:
        run = served.run(served.conversation())
        assert "gone" in failed_as(run, "AgentLoopMcpDiscoveryFailed")
        assert run["iterations_used"] == 0


def test_a_server_that_restarts_in_the_middle_of_a_run_costs_attempts_only(
    face: str,
) -> None:
    """Killed after its catalog was read, up again before the second attempt."""
    with real_server() as server:
        up = [server.pid]

        def kill(_: object) -> Any:
            server.stop()
            return calls(("real-pid", {}))

        def pause(delay: float, hint: float) -> float:
            server.start()
            up.append(server.pid)
            return 0.0

        mcp = directory()
        with world(kill, says("ok"), face=face, mcp=mcp, pause=pause) as served:
            config = [{"alias": "real", "url": server.url}]
            conversation = served.conversation(mcp_servers=config)
            run = served.run(conversation)
            assert (run["status"], run["iterations_used"]) == ("completed", 2)
            (result,) = served.messages(conversation)[2]["content_blocks"]
        said = result["content_blocks"][0]["text"]
        assert [said] == [str(pid) for pid in up[1:]]


def test_a_real_server_that_is_slow_is_a_timeout(real: RealServer, face: str) -> None:
    """`McpTimeout` at the loop's limit for tools."""
    asks = calls(("real-slow", {"seconds": 30}))
    with world(asks, face=face, mcp=directory(), tool_timeout=0.3) as served:
        server = {"alias": "real", "url": real.url}
        conversation = served.conversation(mcp_servers=[server])
        failed_as(served.run(conversation), "McpTimeout")


# ------------------------------------------------ discovery

REFUSED_CATALOGS = ("list-32601", "list-html", "list-401", "list-no-tools", "init-html")
UNAVAILABLE_CATALOGS = ("list-503", "init-503", "init-close")


@pytest.mark.parametrize(
    ("name", "asked"),
    [(name, 1) for name in REFUSED_CATALOGS]
    + [(name, 5) for name in UNAVAILABLE_CATALOGS],
)
def test_a_catalog_that_cannot_be_had_fails_the_run_before_inference(
    hostile: HostileServer, face: str, name: str, asked: int
) -> None:
    """`AgentLoopMcpDiscoveryFailed`: no job, no message, no new version."""
    path = own(name)
    with world(face=face, mcp=directory()) as served:
        server = {"alias": "bad", "url": hostile.url(path)}
        conversation = served.conversation(mcp_servers=[server])
        run = served.run(conversation)
        assert "bad" in failed_as(run, "AgentLoopMcpDiscoveryFailed")
        assert (run["iterations_used"], run["usage"]["total_tokens"]) == (0, 0)
        assert served.version(conversation) == 0
        assert served.messages(conversation) == []
        first = "initialize" if name.startswith("init-") else "tools/list"
        assert len(hostile.seen(path, first)) == asked
        goes_on(served, conversation)


def test_a_server_that_is_not_there_fails_the_run(face: str) -> None:
    """One of several servers is enough."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with world(face=face, mcp=directory()) as served:
        servers = [{"alias": "gone", "url": gone}]
        conversation = served.conversation(mcp_servers=servers)
        message = failed_as(served.run(conversation), "AgentLoopMcpDiscoveryFailed")
        assert "gone" in message


def test_a_catalog_that_never_comes_fails_the_run(
    hostile: HostileServer, face: str
) -> None:
    """At the loop's limit for discovery."""
    options: dict[str, Any] = {"discovery_timeout": 0.1, "attempts": 2}
    with world(face=face, mcp=directory(), **options) as served:
        servers = [{"alias": "bad", "url": hostile.url(own("list-silent"))}]
        conversation = served.conversation(mcp_servers=servers)
        failed_as(served.run(conversation), "AgentLoopMcpDiscoveryFailed")


def test_forcing_any_tool_of_an_empty_catalog_fails_the_run(
    hostile: HostileServer, face: str
) -> None:
    """It is found empty only when it is discovered, before inference."""
    with world(face=face, mcp=directory()) as served:
        servers = [{"alias": "bad", "url": hostile.url(own("list-empty"))}]
        conversation = served.conversation(mcp_servers=servers)
        run = served.run(conversation, tool_choice={"kind": "any"})
        failed_as(run, "AgentLoopMcpDiscoveryFailed")
        assert run["iterations_used"] == 0


def test_a_forced_tool_that_vanished_fails_the_run(
    hostile: HostileServer, face: str
) -> None:
    """There when the run was posted, gone when it began: named, before inference."""
    path = own("list-vanishing")
    pages = count()

    def vanishing(server: HostileServer, reply: Any) -> None:
        if next(pages):
            reply.result({"tools": []})
        else:
            server.honest(reply)

    hostile.scripts[path] = vanishing
    with world(face=face, mcp=directory()) as served:
        servers = [{"alias": "bad", "url": hostile.url(path)}]
        conversation = served.conversation(mcp_servers=servers)
        choice = {"kind": "specific_tool", "mcp_alias": "bad", "name": "t"}
        run = served.run(conversation, tool_choice=choice)
        message = failed_as(run, "AgentLoopMcpDiscoveryFailed")
        assert "bad-t" in message


# ------------------------------------------------ names and arguments

OFFERED = [
    pytest.param("real-nope", False, "AgentLoopUnknownToolAlias", id="discovered"),
    pytest.param("real-nope", True, "UnknownTool", id="declared"),
    pytest.param("other-echo", False, "AgentLoopUnknownToolAlias", id="alias"),
    pytest.param("echo", False, "AgentLoopMalformedToolName", id="bare"),
]


@pytest.mark.parametrize(("name", "listed", "type_"), OFFERED)
def test_a_name_that_no_server_offers_fails_the_run(
    real: RealServer, face: str, name: str, listed: bool, type_: str
) -> None:
    """Nothing is called, and the model gets no second chance."""
    server: dict[str, Any] = {"alias": "real", "url": real.url}
    if listed:
        server["tools"] = [spec("echo")]
    with world(calls((name, {})), face=face, mcp=directory()) as served:
        conversation = served.conversation(mcp_servers=[server])
        message = failed_as(served.run(conversation), type_)
        assert name in message


@pytest.mark.parametrize("listed", [True, False], ids=["declared", "discovered"])
def test_the_server_judges_arguments(
    hostile: HostileServer, face: str, listed: bool
) -> None:
    """They are sent as the model wrote them; -32602 leaves it no second chance."""
    path = own("rpc-32602")
    server: dict[str, Any] = {"alias": "bad", "url": hostile.url(path)}
    if listed:
        schema = {"type": "object", "required": ["day"]}
        server["tools"] = [{"name": "t", "input_schema": schema}]
    with world(calls(("bad-t", {"odd": 1})), face=face, mcp=directory()) as served:
        conversation = served.conversation(mcp_servers=[server])
        failed_as(served.run(conversation), "ToolValidation")
    (sent,) = hostile.seen(path, "tools/call")
    assert sent.body["params"]["arguments"] == {"odd": 1}


def test_a_bad_tool_does_not_sink_a_run(hostile: HostileServer, face: str) -> None:
    """What cannot be offered is left out and told; the model is offered the rest."""
    good = calls(("bad-good", {}))
    with world(good, says("ok"), face=face, mcp=directory()) as served:
        server = {"alias": "bad", "url": hostile.url(own("list-bad-tools"))}
        conversation = served.conversation(mcp_servers=[server])
        run = served.run(conversation)
        assert run["status"] == "completed"
        asked = served.backend.seen[0]
        assert [tool.name for tool in asked.specs] == ["bad-good"]
        events = served.get(f"/agents/runs/{run['id']}/events").text
        assert (
            "bad: tool 'null_schema' left out: its inputSchema is no object" in events
        )


# ------------------------------------------------ the synchronous check of a choice


def test_a_choice_is_looked_up_at_its_server(real: RealServer, face: str) -> None:
    """202 for what a real server lists, 400 `unknown-tool-choice-name` for the rest."""
    with world(face=face, workers=0, mcp=directory()) as idle:
        server = {"alias": "real", "url": real.url}
        conversation = idle.conversation(mcp_servers=[server])
        choice = {"kind": "specific_tool", "mcp_alias": "real", "name": "echo"}
        assert idle.start(conversation, tool_choice=choice).status_code == 202
        refused = idle.start(conversation, tool_choice={**choice, "name": "nope"})
        assert (refused.status_code, slug(refused)) == (400, "unknown-tool-choice-name")
        detail = "tool_choice references unknown tool name 'nope'"
        assert detail in problem(refused)["detail"]


@pytest.mark.parametrize("name", ["list-503", "list-32601", "list-html", "init-close"])
def test_a_choice_whose_server_cannot_be_asked_is_refused(
    hostile: HostileServer, face: str, name: str
) -> None:
    """400 `mcp-discovery-failed` after one try, and no run is written."""
    path = own(name)
    with world(face=face, workers=0, mcp=directory()) as idle:
        server = {"alias": "bad", "url": hostile.url(path)}
        conversation = idle.conversation(mcp_servers=[server])
        choice = {"kind": "specific_tool", "mcp_alias": "bad", "name": "t"}
        refused = idle.start(conversation, tool_choice=choice)
        assert (refused.status_code, slug(refused)) == (400, "mcp-discovery-failed")
        assert len(hostile.seen(path, "initialize")) == 1
        runs = idle.get(f"/agents/conversations/{conversation}/runs").json()
        assert runs == {"runs": []}


# ------------------------------------------------ what must not happen


LOOSE = McpOptions(allow_private=True)
STRICT = McpOptions(resolve=lambda host, port: ("127.0.0.1",))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_address_in_the_hosts_network_is_refused_at_the_start(
    hostile: HostileServer, face: str, scheme: str
) -> None:
    """Without the option a run is not even started, and the caller hears why."""
    url = f"{scheme}://127.0.0.1:{hostile.port}/honest"
    with world(face=face, mcp=McpDirectory(STRICT), workers=0) as idle:
        conversation = idle.conversation(mcp_servers=[declared(url)])
        refused = idle.start(conversation)
        assert (refused.status_code, slug(refused)) == (400, "invalid-config")
        detail = refused.json()["detail"]
        assert "$.mcp_servers[0].url: the MCP server 'bad' may not be rea" in detail
        runs = idle.get(f"/agents/conversations/{conversation}/runs").json()
        assert runs == {"runs": []}


def test_a_name_in_the_hosts_network_is_out_of_reach(
    hostile: HostileServer, face: str
) -> None:
    """Where a name leads is seen when it is resolved, before anything connects."""
    before = len(hostile.requests)
    with world(ASKS, face=face, mcp=McpDirectory(STRICT)) as served:
        server = declared(f"https://rooms.example.com:{hostile.port}/honest")
        run = served.run(served.conversation(mcp_servers=[server]))
        assert "'bad' may not be reached" in failed_as(run, "McpProtocol")
    assert len(hostile.requests) == before


def test_a_run_that_another_host_started_is_judged_again(
    hostile: HostileServer,
) -> None:
    """The worker's own policy holds, and the error says what is wrong and no more."""
    store = MemoryStore()
    with world(mcp=McpDirectory(LOOSE), store=store, workers=0) as idle:
        url = hostile.url("honest")
        conversation = idle.conversation(mcp_servers=[declared(url)])
        run_id = idle.start(conversation).json()["id"]
    with world(mcp=McpDirectory(STRICT), store=store) as served:
        run = served.ended(run_id)
    assert failed_as(run, "AgentLoopInvalidEffectiveConfig") == (
        "the effective_config cannot be used here: the MCP server 'bad' may not be "
        "reached: the URL must start with https://, not http://"
    )


def test_the_callers_token_is_not_passed_on(hostile: HostileServer, face: str) -> None:
    """A server sees the host's credentials for it and the scope, and nothing else."""

    def credentials(server: Any, scope: Scope) -> dict[str, str]:
        return {"authorization": f"Bearer {server.alias}-{scope.user_id}"}

    path = own("honest")
    options = directory(credentials=credentials)
    with world(ASKS, says("ok"), face=face, mcp=options) as served:
        server = {"alias": "bad", "url": hostile.url(path)}
        run = served.run(served.conversation(mcp_servers=[server]))
        assert run["status"] == "completed"
    seen = [request for request in hostile.requests if request.path == f"/{path}"]
    assert {r.headers["authorization"] for r in seen} == {f"Bearer bad-{ALICE.user_id}"}
    assert not any("alice" in repr(request) for request in seen)
