"""MCP servers that break the rules: each costs one call and has its own failure."""

import asyncio
import os
import signal
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentloop.core.catalog import FailureKind
from agentloop.core.config import McpServer
from agentloop.core.content import Json, Text
from agentloop.core.run import Scope
from agentloop.ports import ToolAnswer
from agentloop.tools.mcp import McpDirectory, McpOptions, RemoteTools, directory
from agentloop.tools.mcp.envelope import scrub_values, secrets_in
from agentloop.tools.mcp.server import Remote
from agentloop.wire import Limits
from tests.faces import SCOPE
from tests.mcp_calls import a_call, failure_of, until
from tests.servers.hostile_mcp import BAD_TOOLS, MIB, HostileServer, hostile_server

CAP = 256 * 1024
CANARY = "canary-7d1f0c9e"


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    """One hostile server for all of these tests."""
    with hostile_server() as server:
        yield server


def options(**changes: Any) -> McpOptions:
    """Options for loopback, with a small cap."""
    caps = Limits(max_bytes=CAP, max_values=20_000)
    return McpOptions(allow_private=True, limits=caps, **changes)


@pytest.fixture
def opened(hostile: HostileServer) -> Iterator[Any]:
    """Opens the behaviours of the server, and closes what was opened."""
    tools: list[RemoteTools] = []

    def open_(name: str, **changes: Any) -> RemoteTools:
        server = McpServer(alias="bad", url=hostile.url(name))
        tools.append(McpDirectory(options(**changes)).open(server, SCOPE))
        return tools[-1]

    yield open_
    for one in tools:
        one.close()


PROTOCOL_CODES = (400, 401, 402, 403, 405, 406, 409, 410, 413, 415, 418, 422, 425)
SERVER_CODES = (408, 429, 500, 501, 502, 503, 504, 507, 520, 529, 599)
ODD_CODES = (201, 202, 203, 204, 206, 300, 301, 302, 303, 304, 305)

CALLS: dict[str, tuple[FailureKind, str | None]] = {
    **{f"status-{code}": ("mcp_protocol", str(code)) for code in PROTOCOL_CODES},
    **{f"status-{code}": ("mcp_server", str(code)) for code in SERVER_CODES},
    **{f"status-{code}": ("mcp_protocol", str(code)) for code in ODD_CODES},
    "body-empty": ("mcp_protocol", None),
    "body-html": ("mcp_protocol", None),
    "body-half": ("mcp_protocol", None),
    "body-nan": ("mcp_protocol", None),
    "body-twice": ("mcp_protocol", None),
    "body-utf16": ("mcp_protocol", None),
    "body-latin": ("mcp_protocol", None),
    "body-deep": ("mcp_protocol", None),
    "body-many": ("mcp_protocol", None),
    "body-digits": ("mcp_protocol", None),
    "body-batch": ("mcp_protocol", None),
    "body-list": ("mcp_protocol", None),
    "body-null": ("mcp_protocol", None),
    "body-string": ("mcp_protocol", None),
    "type-html": ("mcp_protocol", None),
    "type-plain": ("mcp_protocol", None),
    "type-jsonish": ("mcp_protocol", None),
    "type-octets": ("mcp_protocol", None),
    "envelope-no-version": ("mcp_protocol", None),
    "envelope-version-1": ("mcp_protocol", None),
    "envelope-version-number": ("mcp_protocol", None),
    "envelope-no-id": ("mcp_protocol", None),
    "envelope-null-id": ("mcp_protocol", None),
    "envelope-wrong-id": ("mcp_protocol", None),
    "envelope-text-id": ("mcp_protocol", None),
    "envelope-true-id": ("mcp_protocol", None),
    "envelope-float-id": ("mcp_protocol", None),
    "envelope-nothing": ("mcp_protocol", None),
    "envelope-both": ("mcp_protocol", None),
    "envelope-result-list": ("mcp_protocol", None),
    "envelope-result-null": ("mcp_protocol", None),
    "envelope-result-text": ("mcp_protocol", None),
    "envelope-error-text": ("mcp_protocol", None),
    "envelope-error-null": ("mcp_protocol", None),
    "envelope-error-no-code": ("mcp_protocol", None),
    "envelope-error-text-code": ("mcp_protocol", None),
    "envelope-error-no-message": ("mcp_protocol", None),
    "envelope-request": ("mcp_protocol", None),
    "result-empty": ("mcp_protocol", None),
    "result-content-text": ("mcp_protocol", None),
    "result-content-null": ("mcp_protocol", None),
    "result-block-text": ("mcp_protocol", None),
    "result-block-untyped": ("mcp_protocol", None),
    "result-text-number": ("mcp_protocol", None),
    "result-image-no-data": ("mcp_protocol", None),
    "result-image-no-base64": ("mcp_protocol", None),
    "result-resource-empty": ("mcp_protocol", None),
    "result-error-text": ("mcp_protocol", None),
    "rpc-32700": ("mcp_protocol", "-32700"),
    "rpc-32600": ("mcp_protocol", "-32600"),
    "rpc-32601": ("unknown_tool", "-32601"),
    "rpc-32602": ("tool_validation", "-32602"),
    "rpc-32603": ("mcp_protocol", "-32603"),
    "rpc-32000": ("mcp_protocol", "-32000"),
    "rpc-32001": ("mcp_protocol", "-32001"),
    "rpc0": ("mcp_protocol", "0"),
    "rpc1": ("mcp_protocol", "1"),
    "rpc404": ("mcp_protocol", "404"),
    "rpc-32601-http-404": ("unknown_tool", "-32601"),
    "rpc-32602-http-400": ("tool_validation", "-32602"),
    "rpc-result-http-400": ("mcp_protocol", "400"),
    "rpc-32601-http-500": ("mcp_server", "500"),
    "compressed": ("mcp_protocol", None),
    "close-at-once": ("mcp_server", None),
    "reset-at-once": ("mcp_server", None),
    "garbage": ("mcp_server", None),
    "half-head": ("mcp_server", None),
    "half-body": ("mcp_server", None),
    "half-chunk": ("mcp_server", None),
    "huge-head": ("mcp_server", None),
    "stream-empty": ("mcp_server", None),
    "stream-half-event": ("mcp_server", None),
    "stream-unfinished-event": ("mcp_server", None),
    "stream-reset": ("mcp_server", None),
    "stream-no-json": ("mcp_protocol", None),
    "stream-wrong-id": ("mcp_protocol", None),
    "stream-bad-note": ("mcp_protocol", None),
    "stream-reply-with-method": ("mcp_protocol", None),
    "stream-asks-too-much": ("mcp_protocol", None),
    "stream-never-resumed": ("mcp_server", None),
    "forgets-always": ("mcp_server", "session-lost"),
    "status-404": ("mcp_server", "session-lost"),
    "moved-nowhere": ("mcp_protocol", None),
    "moved-broken": ("mcp_protocol", "forbidden-address"),
    "moved-ftp": ("mcp_protocol", "forbidden-address"),
    "moved-userinfo": ("mcp_protocol", "forbidden-address"),
    "moved-loop": ("mcp_protocol", None),
}


@pytest.mark.parametrize(("name", "expected"), CALLS.items())
def test_a_broken_answer(
    opened: Any, name: str, expected: tuple[FailureKind, str | None]
) -> None:
    """Every way to break an answer ends the call, at once, as its own failure."""
    failure = failure_of(opened(name).call(a_call()))
    assert (failure.kind, failure.code) == expected
    assert "'bad'" in failure.message or failure.kind in {
        "unknown_tool",
        "tool_validation",
    }


@pytest.mark.parametrize("name", ["silent", "silent-body", "silent-stream", "drip"])
def test_a_server_that_says_nothing(opened: Any, name: str) -> None:
    """The deadline ends a call, whatever the server does to keep it open."""
    failure = failure_of(opened(name).call(a_call(timeout=0.3)))
    assert failure.kind == "mcp_timeout"
    assert not failure.retried


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("status-429", 7.0),
        ("status-503-hint", 3.0),
        ("status-503-date", 0.0),
        ("status-503-huge", 3600.0),
        ("status-500", 0.0),
    ],
)
def test_the_servers_hint(opened: Any, name: str, seconds: float) -> None:
    """A passing refusal is retried by the loop, after the seconds the server named."""
    failure = failure_of(opened(name).call(a_call()))
    assert (failure.retried, failure.retry_after) == (True, seconds)


@pytest.mark.parametrize(
    "name", ["stream-honest", "stream-other-events", "moved-307", "moved-308"]
)
def test_unusual_but_right(opened: Any, name: str) -> None:
    """Comments, other events, chunking and redirects are no reason to fail."""
    assert opened(name).call(a_call()) == ToolAnswer((Text("fine"),))


def test_a_stream_in_single_bytes(opened: Any) -> None:
    """An event may come in any pieces, with any line ends the standard allows."""
    assert opened("stream-bytewise").call(a_call()) == ToolAnswer((Text("fi\u2028ne"),))


def test_a_stream_is_resumed(opened: Any) -> None:
    """A stream that broke off after an event with an id goes on from there."""
    assert opened("stream-resumed").call(a_call()) == ToolAnswer((Text("e1"),))


def test_one_call_is_one_request(opened: Any, hostile: HostileServer) -> None:
    """Nothing is retried here, not even what the loop will retry."""
    before = len(hostile.seen("status-502", "tools/call"))
    opened("status-502").call(a_call())
    assert len(hostile.seen("status-502", "tools/call")) == before + 1


def test_after_a_failure_the_server_is_usable(
    opened: Any, hostile: HostileServer
) -> None:
    """What went wrong with one call stays with it, and the session goes on."""
    tools = opened("mended")
    hostile.scripts["mended"] = lambda server, reply: reply.reset()
    assert failure_of(tools.call(a_call())).kind == "mcp_server"
    hostile.scripts["mended"] = lambda server, reply: server.honest(reply)
    assert tools.call(a_call()) == ToolAnswer((Text("fine"),))
    assert len(hostile.seen("mended", "initialize")) == 1


def test_failures_stay_apart(opened: Any) -> None:
    """Hanging calls do not hold up the others, nor share their fate."""
    hanging, honest = opened("silent"), opened("honest")
    with ThreadPoolExecutor(8) as pool:
        stuck = [pool.submit(hanging.call, a_call(timeout=1.0)) for _ in range(4)]
        good = [pool.submit(honest.call, a_call()) for _ in range(4)]
        assert all(isinstance(f.result(), ToolAnswer) for f in good)
        assert {failure_of(f.result()).kind for f in stuck} == {"mcp_timeout"}


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("name", ["huge-announced", "huge-stream", "huge-events"])
def test_an_answer_of_50_mib(opened: Any, hostile: HostileServer, name: str) -> None:
    """Reading stops at the cap, so a huge answer costs a call and no memory."""
    tools = opened(name)
    tools.discover(10)
    hostile.counts["poured"] = 0
    tracemalloc.start()
    try:
        failure = failure_of(tools.call(a_call()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert failure.kind == "mcp_protocol"
    assert f"{CAP} bytes" in failure.message
    assert peak < 8 * CAP
    assert hostile.counts["poured"] < 25 * MIB


def test_a_big_answer_within_the_cap(hostile: HostileServer) -> None:
    """An answer of megabytes that the cap allows arrives whole."""
    big = "x" * (3 * MIB)
    hostile.scripts["big"] = lambda server, reply: reply.result(
        {"content": [{"type": "text", "text": big}]}
    )
    tools = McpDirectory(McpOptions(allow_private=True)).open(
        McpServer(alias="big", url=hostile.url("big")), SCOPE
    )
    assert tools.call(a_call()) == ToolAnswer((Text(big),))
    tools.close()


def test_hostile_text(opened: Any, hostile: HostileServer) -> None:
    """NUL and lone surrogates are replaced on the way in, and never sent out."""
    raw = (
        b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%s"}]}}'
    )
    hostile.scripts["odd-text"] = lambda server, reply: reply.json(
        raw % (reply.request.id, rb"a\u0000b\ud800c")
    )
    answer = opened("odd-text").call(a_call(day="x\ud800\x00"))
    assert answer == ToolAnswer((Text("a\ufffdb\ufffdc"),))
    (sent,) = hostile.seen("odd-text", "tools/call")
    assert sent.body["params"]["arguments"] == {"day": "x\ufffd\ufffd"}


def test_arguments_that_are_no_json(opened: Any) -> None:
    """Arguments without a JSON form are refused before anything is sent."""
    failure = failure_of(opened("honest").call(a_call(day=float("nan"))))
    assert failure.kind == "mcp_protocol"
    assert "$.day" in failure.message


# ---------------------------------------------------------------- sessions


def test_a_forgotten_session(opened: Any, hostile: HostileServer) -> None:
    """A server that forgot the session gets a new one and the same request."""
    tools = opened("forgets-once")
    answer = tools.call(a_call())
    first, second = hostile.seen("forgets-once", "tools/call")
    assert first.headers["mcp-session-id"] != second.headers["mcp-session-id"]
    assert answer == ToolAnswer((Text(second.headers["mcp-session-id"]),))
    assert len(hostile.seen("forgets-once", "initialize")) == 2


def test_a_session_is_used_and_ended(hostile: HostileServer) -> None:
    """Requests carry the session and its version, and closing ends it there."""
    tools = McpDirectory(options()).open(
        McpServer(alias="bad", url=hostile.url("honest/ended")), SCOPE
    )
    tools.call(a_call())
    tools.call(a_call())
    tools.close()
    seen = [r for r in hostile.requests if r.path == "/honest/ended"]
    session = seen[1].headers["mcp-session-id"]
    assert [(r.method, r.rpc) for r in seen] == [
        ("POST", "initialize"),
        ("POST", "notifications/initialized"),
        ("POST", "tools/call"),
        ("POST", "tools/call"),
        ("DELETE", ""),
    ]
    assert {r.headers.get("mcp-session-id") for r in seen[1:]} == {session}
    assert {r.headers.get("mcp-protocol-version") for r in seen[1:]} == {"2025-06-18"}


def test_a_timed_out_call_is_cancelled(opened: Any, hostile: HostileServer) -> None:
    """Giving up on a call tells the server so, naming the request."""
    tools = opened("silent/cancelled")
    assert failure_of(tools.call(a_call(timeout=0.2))).kind == "mcp_timeout"
    tools.close()
    (called,) = hostile.seen("silent/cancelled", "tools/call")
    (told,) = hostile.seen("silent/cancelled", "notifications/cancelled")
    assert told.body["params"]["requestId"] == called.id


def test_an_async_call_is_cancelled(opened: Any, hostile: HostileServer) -> None:
    """Cancelling an awaited call ends it at once and tells the server."""
    path = "silent/awaited"
    tools = opened(path)

    async def start_and_cancel() -> None:
        task = asyncio.ensure_future(tools.acall(a_call()))
        await asyncio.to_thread(until, lambda: hostile.seen(path, "tools/call"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await tools.aclose()

    asyncio.run(start_and_cancel())
    assert len(hostile.seen(path, "notifications/cancelled")) == 1


def test_closing_ends_calls_in_flight(opened: Any, hostile: HostileServer) -> None:
    """A call that is still waiting when its server is closed fails, and returns."""
    tools = opened("silent/closed")
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(tools.call, a_call())
        until(lambda: hostile.seen("silent/closed", "tools/call"))
        tools.close()
        assert failure_of(stuck.result(5)).kind == "mcp_server"


def test_a_closed_server(opened: Any) -> None:
    """After closing, calls and discoveries fail as values; closing again is fine."""
    tools = opened("honest")
    tools.close()
    tools.close()
    assert failure_of(tools.call(a_call())).kind == "mcp_server"
    assert failure_of(tools.discover(1)).kind == "discovery_unavailable"
    assert failure_of(asyncio.run(tools.acall(a_call()))).kind == "mcp_server"


# ---------------------------------------------------------------- handshakes


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("init-503", "mcp_server"),
        ("init-401", "mcp_protocol"),
        ("init-404", "mcp_protocol"),
        ("init-html", "mcp_protocol"),
        ("init-wrong-id", "mcp_protocol"),
        ("init-no-result", "mcp_protocol"),
        ("init-old", "mcp_protocol"),
        ("init-error", "mcp_protocol"),
        ("init-close", "mcp_server"),
    ],
)
def test_a_broken_handshake(
    opened: Any, hostile: HostileServer, name: str, kind: str
) -> None:
    """A handshake that fails is the call's failure, and the next call tries anew."""
    tools = opened(name)
    for attempt in (1, 2):
        before = len(hostile.seen(name, "initialize"))
        assert failure_of(tools.call(a_call())).kind == kind, attempt
        assert len(hostile.seen(name, "initialize")) == before + 1
    assert not hostile.seen(name, "tools/call")


def test_a_handshake_that_hangs(opened: Any) -> None:
    """The deadline of a call covers the handshake too."""
    assert (
        failure_of(opened("init-silent").call(a_call(timeout=0.2))).kind
        == "mcp_timeout"
    )


def test_the_timeout_of_the_host(opened: Any) -> None:
    """A call without a timeout of its own gets the host's."""
    failure = failure_of(opened("silent", timeout=0.2).call(a_call(timeout=None)))
    assert failure.kind == "mcp_timeout"
    assert "0.2 s" in failure.message


# ---------------------------------------------------------------- nobody there


def test_a_refused_connection() -> None:
    """A server that is not there can be tried again: nothing was delivered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    tools = McpDirectory(options()).open(
        McpServer(alias="gone", url=f"http://127.0.0.1:{port}/"), SCOPE
    )
    failure = failure_of(tools.call(a_call()))
    tools.close()
    assert (failure.kind, failure.code) == ("mcp_server", "undelivered")
    assert "ConnectionRefusedError" in failure.message


def test_tls_to_a_server_without_it(hostile: HostileServer) -> None:
    """A TLS handshake that fails, or hangs, is a fault of the connection."""
    tools = McpDirectory(options(connect_timeout=0.3)).open(
        McpServer(alias="bad", url=f"https://127.0.0.1:{hostile.port}/honest"), SCOPE
    )
    failure = failure_of(tools.call(a_call()))
    tools.close()
    assert (failure.kind, failure.code) == ("mcp_server", "undelivered")


def test_a_connection_that_hangs() -> None:
    """A connection that is never accepted ends with the connect timeout."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        tools = McpDirectory(options(connect_timeout=0.2)).open(
            McpServer(alias="full", url=f"http://127.0.0.1:{full.getsockname()[1]}/"),
            SCOPE,
        )
        failure = failure_of(tools.call(a_call()))
        tools.close()
        for filler in fillers:
            filler.close()
    assert (failure.kind, failure.code) == ("mcp_server", "undelivered")


# ---------------------------------------------------------------- discovery


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("list-same-cursor", "discovery_refused"),
        ("list-endless", "discovery_refused"),
        ("list-many-tools", "discovery_refused"),
        ("list-huge-pages", "discovery_refused"),
        ("list-no-tools", "discovery_refused"),
        ("list-tools-object", "discovery_refused"),
        ("list-cursor-number", "discovery_refused"),
        ("list-32601", "discovery_refused"),
        ("list-401", "discovery_refused"),
        ("list-html", "discovery_refused"),
        ("list-503", "discovery_unavailable"),
        ("init-close", "discovery_unavailable"),
        ("init-html", "discovery_refused"),
    ],
)
def test_a_broken_catalog(opened: Any, name: str, kind: str) -> None:
    """A catalog that cannot be had says whether another attempt may help."""
    assert failure_of(opened(name).discover(10)).kind == kind


@pytest.mark.parametrize(
    ("name", "pages", "told"),
    [
        ("list-many-tools", 4, "exceeds 1000 tools"),
        ("list-huge-pages", 11, "exceeds 2097152 bytes"),
        ("list-endless", 201, "does not end"),
    ],
)
def test_a_whole_catalog_is_capped(
    opened: Any, hostile: HostileServer, name: str, pages: int, told: str
) -> None:
    """Pages are asked for until tools, bytes or pages are too many together."""
    before = len(hostile.seen(name, "tools/list"))
    assert told in failure_of(opened(name).discover(20)).message
    assert len(hostile.seen(name, "tools/list")) == before + pages


def test_a_catalog_that_hangs(opened: Any) -> None:
    """Discovery ends with its deadline, and may be tried again."""
    failure = failure_of(opened("list-silent").discover(0.2))
    assert failure.kind == "discovery_unavailable"


def test_bad_tools_do_not_sink_good_ones(opened: Any) -> None:
    """A tool that cannot be offered is left out and reported; the others stay."""
    tools = opened("list-bad-tools")
    offers = tools.discover(10)
    assert [offer.spec.name for offer in offers] == ["good"]
    assert len(tools.reports) == len(BAD_TOOLS)
    assert "tool 'null_schema' left out: its inputSchema is no object" in tools.reports


def test_schemas_are_passed_on(opened: Any) -> None:
    """Schemas without a type, unions and older dialects are offered as they came."""
    tools = opened("list-odd-schemas")
    offers = {offer.spec.name: offer.spec for offer in tools.discover(10)}
    assert sorted(offers) == ["empty", "old", "union"]
    assert offers["empty"].input_schema == {}
    assert offers["old"].description is None
    assert tools.reports == ()


def test_an_empty_catalog(opened: Any) -> None:
    """A server may offer nothing."""
    assert opened("list-empty").discover(10) == ()


def test_a_catalog_is_asked_for_every_time(opened: Any, hostile: HostileServer) -> None:
    """Without the option nothing is remembered."""
    for _ in range(2):
        opened("honest/uncached").discover(10)
    assert len(hostile.seen("honest/uncached", "tools/list")) == 2


def test_a_catalog_is_remembered_by_option(hostile: HostileServer) -> None:
    """With a ttl other runs get the catalog without asking, until it is too old."""
    now = [0.0]
    directory = McpDirectory(options(cache_ttl=60.0, monotonic=lambda: now[0]))
    server = McpServer(alias="bad", url=hostile.url("honest/cached"))

    def discover() -> int:
        tools = directory.open(server, SCOPE)
        assert [o.spec.name for o in tools.discover(10)] == ["t"]  # type: ignore[union-attr]  # a Failure would fail here
        assert [o.spec.name for o in asyncio.run(tools.adiscover(10))] == ["t"]
        tools.close()
        return len(hostile.seen("honest/cached", "tools/list"))

    assert [discover(), discover()] == [1, 1]
    now[0] = 60.0
    assert discover() == 2


def test_a_catalog_is_remembered_for_whom_it_was_shown_to(
    hostile: HostileServer,
) -> None:
    """What a server shows may hang on the credentials, and these on the scope."""

    def discover(directory: McpDirectory, name: str, scope: Scope) -> int:
        server = McpServer(alias="bad", url=hostile.url(name))
        tools = directory.open(server, scope)
        tools.discover(10)
        tools.close()
        return len(hostile.seen(name, "tools/list"))

    others = Scope(2, 9)
    shared = McpDirectory(options(cache_ttl=60.0))
    assert [discover(shared, "honest/one", s) for s in (SCOPE, others)] == [1, 1]
    own = McpDirectory(options(cache_ttl=60.0, credentials=lambda server, _: {}))
    asked = [discover(own, "honest/each", s) for s in (SCOPE, others, SCOPE, others)]
    assert asked == [1, 2, 2, 2]


def test_failures_are_not_remembered(hostile: HostileServer) -> None:
    """A discovery that failed is made again by the next run."""
    directory = McpDirectory(options(cache_ttl=60.0))
    for count in (1, 2):
        tools = directory.open(
            McpServer(alias="bad", url=hostile.url("list-32601")), SCOPE
        )
        failure_of(tools.discover(10))
        tools.close()
        assert len(hostile.seen("list-32601", "tools/list")) >= count


# ---------------------------------------------------------------- secrets


def test_an_echoed_token_is_scrubbed(opened: Any) -> None:
    """A server that sends our token back puts it neither in results nor in failures."""
    asked: list[str] = []

    def credentials(server: McpServer, scope: Scope) -> dict[str, str]:
        asked.append(server.alias)
        return {"Authorization": f"Bearer {CANARY}"}

    answer = opened("echo-token", credentials=credentials).call(a_call())
    failure = failure_of(
        opened("echo-token-error", credentials=credentials).call(a_call())
    )
    assert set(asked) == {"bad"}
    assert CANARY not in repr((answer, failure))
    assert answer.content[0] == Text("you sent [redacted]")
    assert answer.content[1] == Json({"all": [{"[redacted]": "[redacted]"}]})
    assert failure.message == "'bad' answered with error -32603: refused [redacted]"


PLAIN = {
    "x-project": "customers",
    "x-region": "eu-central-1",
    "x-model": "claude-sonnet-4-5-20250929",
    "x-tenant": "550e8400-e29b-41d4-a716-446655440000",
}
SECRET = {
    "Authorization": f"Bearer {CANARY}",
    "x-api-key": "correcthorse",
    "Cookie": "theme=dark; sid=a8f5f167f44f4964e6c998dee827110c",
    "x-other": "9f86d081884c7d659a2feaa0c55ad015",
}


def test_ordinary_headers_damage_no_answer() -> None:
    """Only secrets are cut out: by their header's name, or by how they look."""
    for name, value in PLAIN.items():
        assert secrets_in({name: value}) == ()
    assert secrets_in({"x-key": "short"}) == ()
    secrets = secrets_in(PLAIN | SECRET)
    text = f"the {' '.join(PLAIN.values())} are theme=light, Bearer bonds"
    assert scrub_values({"all": [text]}, secrets) == {"all": [text]}
    for secret in (CANARY, "correcthorse", SECRET["x-other"]):
        assert scrub_values(f"a {secret} b", secrets) == "a [redacted] b"
    session = SECRET["Cookie"].rpartition("=")[2]
    assert scrub_values({"name": session}, secrets) == {"name": "[redacted]"}
    assert secrets_in({"DSN": "pg://me:hunter22@db/x"})[1:] == ("hunter22",)


def test_a_tool_keeps_its_name(opened: Any, hostile: HostileServer) -> None:
    """A catalog's names are what calls go by, whatever the credentials hold."""
    hostile.scripts["list-names"] = lambda server, reply: reply.result(
        {
            "tools": [
                {
                    "name": "list_customers",
                    "description": "Lists. Your key is customers-key.",
                    "inputSchema": {"type": "object"},
                }
            ]
        }
    )
    headers = {"x-project": "customers", "x-api-key": "customers-key", "token": "list_"}
    (offer,) = opened("list-names", credentials=lambda server, _: headers).discover(10)
    assert offer.spec.name == "list_customers"
    assert offer.spec.description == "Lists. Your key is [redacted]."


def test_a_closing_handshake(opened: Any, hostile: HostileServer) -> None:
    """Closing while the handshake still hangs ends the calls that wait for it."""
    tools = opened("init-silent/closed")
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(tools.call, a_call())
        until(lambda: hostile.seen("init-silent/closed", "initialize"))
        tools.close()
        assert failure_of(stuck.result(5)).code == "undelivered"


def test_an_interrupt(opened: Any, hostile: HostileServer) -> None:
    """An exception in the waiting thread, as Ctrl-C raises one, cancels the call."""
    path = "silent/interrupted"
    tools = opened(path)

    def interrupt() -> None:
        until(lambda: hostile.seen(path, "tools/call"))
        os.kill(os.getpid(), signal.SIGUSR1)

    def raise_(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, raise_)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            tools.call(a_call())
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    until(lambda: hostile.seen(path, "notifications/cancelled"))


def test_a_defect_costs_one_call() -> None:
    """What nobody foresaw is a failure as well, and never an exception."""

    def connect() -> Any:
        raise ZeroDivisionError(f"near {CANARY}")

    tools = RemoteTools(Remote("odd", connect, 5.0))
    failure = failure_of(tools.call(a_call()))
    tools.close()
    assert failure.kind == "mcp_protocol"
    assert "ZeroDivisionError" in failure.message
    assert CANARY not in failure.message


def test_the_memory_for_catalogs_is_bounded(
    hostile: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When too many catalogs are remembered the oldest one is asked for again."""
    monkeypatch.setattr(directory, "MAX_REMEMBERED", 2)
    doors = McpDirectory(options(cache_ttl=60.0))

    def discover(name: str) -> int:
        tools = doors.open(McpServer(alias="bad", url=hostile.url(name)), SCOPE)
        tools.discover(10)
        tools.close()
        return len(hostile.seen(name, "tools/list"))

    names = ("honest/m1", "honest/m2", "honest/m3")
    assert [discover(name) for name in names] == [1, 1, 1]
    assert [discover(name) for name in names[::-1]] == [1, 1, 2]


@pytest.mark.parametrize("name", [*CALLS, "init-503", "init-html", "silent"])
def test_tokens_stay_out_of_sight(
    opened: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No failure, repr or log line of any level holds a credential."""
    caplog.set_level(0)
    settings = {
        "credentials": lambda server, _: {
            "X-Key": CANARY,
            "Authorization": f"B {CANARY}",
        },
        "proxy": None,
    }
    tools = opened(name, **settings)
    outcome = tools.call(a_call(timeout=0.5))
    assert CANARY not in repr((outcome, tools, options(**settings)))
    assert CANARY not in caplog.text


def test_credentials_stay_with_their_origin(
    opened: Any, hostile: HostileServer
) -> None:
    """A redirect to another origin is followed without credentials or session."""
    hostile.requests.clear()
    tools = opened(
        "moved-other-origin", credentials=lambda server, _: {"authorization": CANARY}
    )
    assert tools.call(a_call()) == ToolAnswer((Text("fine"),))
    (first,) = hostile.seen("moved-other-origin", "tools/call")
    (second,) = hostile.seen("honest", "tools/call")
    assert first.headers["authorization"] == CANARY
    assert second.headers["host"] == f"localhost:{hostile.port}"
    assert not {"authorization", "mcp-session-id"} & second.headers.keys()


def test_a_session_lives_where_it_was_opened(
    opened: Any, hostile: HostileServer
) -> None:
    """When initialize was redirected, the session goes on at the new place."""
    hostile.requests.clear()
    tools = opened(
        "init-moved", credentials=lambda server, _: {"authorization": CANARY}
    )
    assert tools.call(a_call()) == ToolAnswer((Text("fine"),))
    (called,) = hostile.seen("honest", "tools/call")
    assert called.headers["mcp-session-id"].startswith("session-")
    assert "authorization" not in called.headers


def test_a_token_is_fresh_in_every_request(opened: Any, hostile: HostileServer) -> None:
    """The callback is asked before every request, so that tokens may be renewed."""
    hostile.requests.clear()
    tokens = iter(f"token-{i}" for i in range(100))
    tools = opened(
        "honest/fresh", credentials=lambda server, _: {"authorization": next(tokens)}
    )
    tools.call(a_call())
    tools.call(a_call())
    sent = [r.headers["authorization"] for r in hostile.requests]
    assert sent == ["token-0", "token-1", "token-2", "token-3"]


def test_a_callback_that_raises(opened: Any) -> None:
    """A failing credentials callback costs the call, and its text is not repeated."""

    def credentials(server: McpServer, scope: Scope) -> dict[str, str]:
        raise RuntimeError(f"vault said {CANARY}")

    failure = failure_of(opened("honest", credentials=credentials).call(a_call()))
    assert (failure.kind, failure.code) == ("mcp_protocol", "credentials")
    assert "RuntimeError" in failure.message
    assert CANARY not in failure.message


@pytest.mark.parametrize(
    "headers",
    [{"x-key": f"{CANARY}\r\nx-other: 1"}, {"x key": CANARY}, {"x-key": 7}, {7: "x"}],
)
def test_credentials_that_are_no_headers(opened: Any, headers: Any) -> None:
    """What cannot be sent as a header costs the call and smuggles nothing in."""
    failure = failure_of(
        opened("honest", credentials=lambda server, _: headers).call(a_call())
    )
    assert failure.kind == "mcp_protocol"
    assert CANARY not in failure.message


def test_the_environment_is_not_asked(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies and netrc of the environment do not divert requests."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert opened("honest").call(a_call()) == ToolAnswer((Text("fine"),))
