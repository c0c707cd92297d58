"""MCP over HTTP against a real server, and how connections are made."""

import asyncio
import gc
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

from agentloop.core.config import McpServer, ToolSpec
from agentloop.core.content import Document, Image, Json, Text
from agentloop.core.routing import Offer
from agentloop.core.run import Scope
from agentloop.ports import MissingExtraError, ToolAnswer
from agentloop.tools.mcp import (
    McpDirectory,
    McpOptions,
    RemoteTools,
    StdioServer,
    directory,
    http,
    pinned,
    system_resolver,
)
from agentloop.tools.mcp.errands import SHARE, Errands
from tests.faces import SCOPE
from tests.mcp_calls import KEY, a_call, after, failure_of, text_of, until
from tests.servers import real_mcp
from tests.servers.hostile_mcp import HostileServer, hostile_server
from tests.servers.real_process import RealServer, real_server


@pytest.fixture(scope="module", params=["stream", "json"])
def real(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    """The real server, answering with event streams and with plain JSON."""
    with real_server(request.param) as server:
        yield server


@pytest.fixture
def tools(real: RealServer) -> Iterator[RemoteTools]:
    """The real server's tools, opened as for one run."""
    opened = McpDirectory(McpOptions(allow_private=True)).open(real.config(), SCOPE)
    yield opened
    opened.close()


# ---------------------------------------------------------------- a real server


def test_the_catalog(tools: RemoteTools) -> None:
    """All pages of the catalog become offers, with their hints."""
    found = tools.discover(20)
    assert isinstance(found, tuple)
    offers = {offer.spec.name: offer.in_doubt for offer in found}
    assert offers.keys() == real_mcp.TOOLS.keys()
    assert {name for name, policy in offers.items() if policy == "repeat"} == {
        "echo",
        "meta",
    }


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
    "meta": ToolAnswer((Json({"key": KEY}),)),
}


@pytest.mark.parametrize(("name", "answer"), CONTENT.items())
def test_content(tools: RemoteTools, name: str, answer: ToolAnswer) -> None:
    """Each kind of content a real server sends arrives as the block it is mapped to."""
    assert tools.call(a_call(name)) == answer


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (-32601, "unknown_tool"),
        (-32602, "tool_validation"),
        (-32603, "mcp_protocol"),
    ],
)
def test_errors(tools: RemoteTools, code: int, kind: str) -> None:
    """The server's own errors are told apart by their code."""
    failure = failure_of(tools.call(a_call("refuses", code=code)))
    assert (failure.kind, failure.code) == (kind, str(code))


def test_a_server_that_asks_back(tools: RemoteTools, real: RealServer) -> None:
    """A ping of the server in the middle of a call is answered."""
    if real.mode == "stream":  # plain JSON has no room for a question
        assert text_of(tools.call(a_call("asks_back"))) == "you are there"
    else:
        assert failure_of(tools.call(a_call("asks_back"))).code == "-32600"


def test_parallel_calls(tools: RemoteTools) -> None:
    """Sixteen threads share the session, each with its own answer."""
    with ThreadPoolExecutor(16) as pool:
        calls = [a_call("echo", text=f"call {i}") for i in range(16)]
        answers = list(pool.map(tools.call, calls))
    assert [text_of(answer) for answer in answers] == [f"call {i}" for i in range(16)]


def test_async_calls(tools: RemoteTools) -> None:
    """The async face answers like the sync one, many calls at once."""

    async def calls() -> list[str]:
        offers = await tools.adiscover(10)
        assert isinstance(offers, tuple)
        some = (tools.acall(a_call("echo", text=str(i))) for i in range(16))
        return [text_of(answer) for answer in await asyncio.gather(*some)]

    assert asyncio.run(calls()) == [str(i) for i in range(16)]


@pytest.mark.parametrize("how", ["timeout", "cancel", "abandoned"])
def test_a_call_given_up(tools: RemoteTools, how: str) -> None:
    """A call that nobody waits for is cancelled inside the server, however it is."""
    call = a_call("slow", timeout=0.3 if how == "timeout" else 10, seconds=30, mark=how)
    late = evolve(call, abandoned=after(0.3))

    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tools.acall(call), 0.3)

    if how == "timeout":
        assert failure_of(tools.call(call)).kind == "mcp_timeout"
    elif how == "abandoned":
        assert "nobody waits" in failure_of(tools.call(late)).message
    else:
        asyncio.run(cancel())

    def marks() -> list[str]:
        answer = tools.call(a_call("cancelled"))
        assert isinstance(answer, ToolAnswer)
        (block,) = answer.content
        assert isinstance(block, Json)
        found: list[str] = block.json["marks"]
        return found

    until(lambda: how in marks())


def test_a_restart_between_calls(tools: RemoteTools, real: RealServer) -> None:
    """A server that was restarted gets a new session, and the call goes through."""
    before = text_of(tools.call(a_call("pid")))
    real.stop()
    real.start()
    assert text_of(tools.call(a_call("pid"))) != before


def test_a_restart_under_parallel_calls(tools: RemoteTools, real: RealServer) -> None:
    """Sixteen calls that all find their session forgotten all get an answer."""
    tools.call(a_call("pid"))
    real.stop()
    real.start()
    with ThreadPoolExecutor(16) as pool:
        pids = list(pool.map(lambda _: tools.call(a_call("pid")), range(16)))
    assert len({text_of(pid) for pid in pids}) == 1


def test_a_kill_during_calls(tools: RemoteTools, real: RealServer) -> None:
    """A server that dies in the middle costs the calls in flight, as its own fault."""
    tools.call(a_call("pid"))
    with ThreadPoolExecutor(4) as pool:
        stuck = [pool.submit(tools.call, a_call("slow", seconds=30)) for _ in range(4)]
        threading.Event().wait(0.3)
        real.stop()
        failures = [failure_of(future.result(5)) for future in stuck]
    assert {failure.kind for failure in failures} == {"mcp_server"}
    assert failure_of(tools.call(a_call("pid"))).code == "undelivered"
    real.start()
    assert isinstance(tools.call(a_call("pid")), ToolAnswer)


def test_nothing_of_the_caller_is_forwarded(real: RealServer) -> None:
    """The server sees the host's headers for it, and no others but the protocol's."""
    options = McpOptions(
        allow_private=True,
        credentials=lambda server, _: {"X-Key": f"for-{server.alias}"},
    )
    tools = McpDirectory(options).open(real.config("booking"), SCOPE)
    answer = tools.call(a_call("headers"))
    tools.close()
    assert isinstance(answer, ToolAnswer)
    (block,) = answer.content
    assert isinstance(block, Json)
    assert block.json["headers"].pop("x-key") == "[redacted]"
    assert block.json["headers"].keys() == {
        "accept",
        "accept-encoding",
        "content-length",
        "content-type",
        "host",
        "mcp-protocol-version",
        "mcp-session-id",
        "user-agent",
    }


# ---------------------------------------------------------------- addresses


@define
class FakeResolver:
    """Answers with one list of addresses after the other, then the last again."""

    answers: list[Sequence[str]]
    asked: list[str] = field(factory=list)

    def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host."""
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    """A plain server that answers under any name."""
    with hostile_server() as server:
        yield server


@pytest.fixture
def opened() -> Iterator[Any]:
    """Opens a URL with options, and closes what was opened."""
    tools: list[RemoteTools] = []

    def open_(url: str, **changes: Any) -> RemoteTools:
        one = McpDirectory(McpOptions(**changes)).open(
            McpServer(alias="far", url=url), SCOPE
        )
        tools.append(one)
        return one

    yield open_
    for one in tools:
        one.close()


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["fe80::1%eth0"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["nonsense"],
    ],
)
def test_a_name_of_a_private_address(opened: Any, addresses: list[str]) -> None:
    """One private address behind a name is enough to connect to none of them."""
    resolver = FakeResolver([addresses])
    tools = opened("https://rooms.example.com/mcp", resolve=resolver)
    failure = failure_of(tools.call(a_call()))
    assert (failure.kind, failure.code) == ("mcp_protocol", "forbidden-address")
    assert not any(address in failure.message for address in addresses)
    assert failure_of(tools.discover(5)).kind == "discovery_refused"


def test_a_rebinding_name(
    opened: Any, monkeypatch: pytest.MonkeyPatch, hostile: HostileServer
) -> None:
    """A name that turns private after the check is not connected to: it is asked once.

    The checked address is a public one that leads nowhere here, so what is watched
    is where the socket goes.
    """
    import httpcore2

    reached: list[str] = []

    async def connect_tcp(self: object, host: str, *rest: object) -> Any:
        reached.append(host)
        raise httpcore2.ConnectError

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect_tcp)
    resolver = FakeResolver([["203.0.112.1"], ["127.0.0.1"]])
    tools = opened(f"https://rebind.example.com:{hostile.port}/", resolve=resolver)
    first, second = (failure_of(tools.call(a_call())) for _ in range(2))
    assert (first.kind, first.code) == ("mcp_server", "undelivered")
    assert (second.kind, second.code) == ("mcp_protocol", "forbidden-address")
    assert reached == ["203.0.112.1"]
    assert resolver.asked == ["rebind.example.com"] * 2


def test_the_next_address_is_tried(opened: Any, hostile: HostileServer) -> None:
    """When an address refuses, the next one of the name is connected."""
    resolver = FakeResolver([["127.0.0.2", "127.0.0.1"]])
    tools = opened(
        f"http://two.example.com:{hostile.port}/honest",
        allow_private=True,
        resolve=resolver,
    )
    assert text_of(tools.call(a_call())) == "fine"
    assert resolver.asked == ["two.example.com"]
    (called,) = hostile.seen("honest", "tools/call")
    assert called.headers["host"] == f"two.example.com:{hostile.port}"


def test_a_redirect_into_the_network(opened: Any, hostile: HostileServer) -> None:
    """A name behind a redirect is resolved and judged like the first one."""
    hostile.scripts["away"] = lambda server, reply: reply.http(
        "307 Moved", location="https://inside.example.com/"
    )

    def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host == "outside.example.com" else ["nowhere"]

    tools = opened(
        f"http://outside.example.com:{hostile.port}/away",
        allow_private=True,
        resolve=resolve,
    )
    assert failure_of(tools.call(a_call())).code == "undelivered"


@pytest.mark.parametrize("error", [OSError("no such host"), UnicodeError("label")])
def test_a_name_that_does_not_resolve(opened: Any, error: Exception) -> None:
    """A name without addresses is a fault of the connection, tried again later."""

    def resolve(host: str, port: int) -> Sequence[str]:
        raise error

    failure = failure_of(
        opened("https://gone.example.com/", resolve=resolve).call(a_call())
    )
    assert (failure.kind, failure.code) == ("mcp_server", "undelivered")
    assert "does not resolve" in failure.message
    nobody = opened("https://gone.example.com/", resolve=lambda host, port: [])
    assert failure_of(nobody.call(a_call())).code == "undelivered"


def test_a_resolver_that_hangs(opened: Any) -> None:
    """The deadline covers the resolver too."""
    release = threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        release.wait(10)
        return []

    tools = opened("https://slow.example.com/", resolve=resolve)
    assert failure_of(tools.call(a_call(timeout=0.2))).kind == "mcp_timeout"
    release.set()


def test_one_silent_zone_holds_nobody_else_up(
    opened: Any, hostile: HostileServer
) -> None:
    """However many look-ups hang, another server's name is resolved at once."""
    release = threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        if host.endswith("silent.example"):
            release.wait(20)
        return ["127.0.0.1"]

    def one(name: str) -> RemoteTools:
        url = f"http://{name}:{hostile.port}/honest"
        tools: RemoteTools = opened(url, allow_private=True, resolve=resolve)
        return tools

    silent = [one(f"a{n}.silent.example") for n in range(40)]
    with ThreadPoolExecutor(40) as pool:
        hung = [pool.submit(tools.call, a_call(timeout=1.0)) for tools in silent]
        until(lambda: errands_at_work() >= SHARE)
        assert isinstance(one("good.example.com").call(a_call()), ToolAnswer)
        until(lambda: errands_at_work() == SHARE)
        failures = {failure_of(future.result(20)).kind for future in hung}
    assert failures == {"mcp_timeout"}
    release.set()
    until(lambda: errands_at_work() == 0)


def test_one_hanging_callback_holds_nobody_else_up(
    opened: Any, hostile: HostileServer
) -> None:
    """However many credentials are waited for, another server's are asked for."""
    release = threading.Event()

    def credentials(server: McpServer, scope: Scope) -> dict[str, str]:
        if "stuck" in str(server.url):
            release.wait(20)
        return {}

    def one(host: str) -> RemoteTools:
        url = f"http://{host}:{hostile.port}/honest"
        tools: RemoteTools = opened(
            url,
            allow_private=True,
            credentials=credentials,
            resolve=lambda host, port: ["127.0.0.1"],
        )
        return tools

    stuck = [one("stuck.example.com") for _ in range(40)]
    with ThreadPoolExecutor(40) as pool:
        hung = [pool.submit(tools.call, a_call(timeout=1.0)) for tools in stuck]
        until(lambda: errands_at_work() >= SHARE)
        assert isinstance(one("good.example.com").call(a_call()), ToolAnswer)
        failures = {failure_of(future.result(20)).kind for future in hung}
    assert failures == {"mcp_timeout"}
    release.set()
    until(lambda: errands_at_work() == 0)


def test_when_no_thread_is_left_the_call_is_told(
    opened: Any, hostile: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a look-up nor a callback waits for threads that do not come free."""
    nobody = Errands(threads=0)
    url = f"http://far.example.com:{hostile.port}/honest"
    monkeypatch.setattr(pinned, "LOOK_UPS", nobody)
    unresolved = failure_of(opened(url, allow_private=True).call(a_call()))
    assert (unresolved.kind, unresolved.code) == ("mcp_server", "undelivered")
    assert "too many look-ups of other names do not end" in unresolved.message
    monkeypatch.setattr(http, "CALLBACKS", nobody)
    asking = opened(url, allow_private=True, credentials=lambda server, _: {})
    unasked = failure_of(asking.call(a_call()))
    assert (unasked.kind, unasked.code) == ("mcp_server", "undelivered")
    assert "was not asked: too many credentials callbacks" in unasked.message


def errands_at_work() -> int:
    """How many threads are at work on errands."""
    names = [thread.name for thread in threading.enumerate()]
    return names.count("agentloop-errand")


def test_the_systems_resolver() -> None:
    """Without a resolver of the host the system's is asked."""
    assert "127.0.0.1" in system_resolver("localhost", 80)
    assert system_resolver("127.0.0.1", 80) == ("127.0.0.1",)


# ---------------------------------------------------------------- TLS and proxies


def a_certificate(folder: Path, name: str) -> Path:
    """A file with a self-signed certificate for a host name, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=now - timedelta(days=1),
        not_valid_after=now + timedelta(days=1),
    )
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    certificate = builder.add_extension(names, critical=False).sign(
        key, hashes.SHA256()
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A TLS server for tls.example.com: its port and its certificate."""
    path = a_certificate(tmp_path_factory.mktemp("tls"), "tls.example.com")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    with hostile_server(context) as server:
        yield server.port, path


@pytest.mark.parametrize("name", ["tls.example.com", "other.example.com"])
def test_the_certificate_is_the_names(
    opened: Any, tls: tuple[int, Path], name: str
) -> None:
    """The checked address is connected, and the certificate judged by the name."""
    port, path = tls
    tools = opened(
        f"https://{name}:{port}/honest",
        allow_private=True,
        resolve=FakeResolver([["127.0.0.1"]]),
        tls=ssl.create_default_context(cafile=str(path)),
    )
    outcome = tools.call(a_call())
    if name == "tls.example.com":
        assert text_of(outcome) == "fine"
    else:
        failure = failure_of(outcome)
        assert (failure.kind, failure.code) == ("mcp_server", "undelivered")


def test_an_unknown_authority(opened: Any, tls: tuple[int, Path]) -> None:
    """Without an option the system's authorities decide, and ours is not one."""
    tools = opened(
        f"https://tls.example.com:{tls[0]}/honest",
        allow_private=True,
        resolve=FakeResolver([["127.0.0.1"]]),
    )
    failure = failure_of(tools.call(a_call()))
    assert (failure.kind, failure.code) == ("mcp_server", "undelivered")
    assert "SSL" in failure.message


def test_a_proxy(opened: Any, hostile: HostileServer) -> None:
    """With a proxy requests go through it, with its own login, addresses checked."""
    hostile.requests.clear()
    hostile.scripts["http://proxied.example.com:80/honest"] = lambda server, reply: (
        server.honest(reply)
    )
    options = {
        "proxy": f"http://me:canary-33@127.0.0.1:{hostile.port}",
        "allow_private": True,
        "resolve": FakeResolver([["127.0.0.1"]]),
    }
    tools = opened("http://proxied.example.com/honest", **options)
    outcome = tools.call(a_call())
    assert text_of(outcome) == "fine"
    assert {r.path for r in hostile.requests} == {
        "http://proxied.example.com:80/honest"
    }
    assert all("proxy-authorization" in r.headers for r in hostile.requests)
    assert "canary-33" not in repr((tools, McpOptions(**options)))


def test_a_proxy_is_no_way_around_the_check(
    opened: Any, hostile: HostileServer
) -> None:
    """A private address is refused before a proxy is asked to go there."""
    hostile.requests.clear()
    tools = opened(
        "https://inside.example.com/",
        proxy=f"http://127.0.0.1:{hostile.port}",
        resolve=FakeResolver([["10.0.0.1"]]),
    )
    assert failure_of(tools.call(a_call())).code == "forbidden-address"
    assert not hostile.requests


# ---------------------------------------------------------------- the package


def test_a_declared_catalog(opened: Any) -> None:
    """A catalog that the config declares is known without asking anyone."""
    spec = ToolSpec(name="book", input_schema={"type": "object"})
    server = McpServer(alias="far", url="https://example.com/", tools=(spec,))
    assert McpDirectory().open(server, SCOPE).declared() == (Offer(spec),)
    assert opened("https://example.com/").declared() is None


def test_the_thread_lives_as_long_as_its_users(hostile: HostileServer) -> None:
    """One thread serves all servers, and the last one closed ends it."""

    def threads() -> int:
        return sum(t.name == "agentloop-mcp" for t in threading.enumerate())

    directory = McpDirectory(McpOptions(allow_private=True))
    server = McpServer(alias="far", url=hostile.url("honest"))
    one, two = directory.open(server, SCOPE), directory.open(server, SCOPE)
    assert threads() == 0
    one.call(a_call())
    two.call(a_call())
    assert threads() == 1
    one.close()
    assert text_of(two.call(a_call())) == "fine"
    two.close()
    assert threads() == 0


def test_nothing_is_left_behind(hostile: HostileServer) -> None:
    """A hundred runs, failing and not, leave no socket, task or file open."""
    directory = McpDirectory(McpOptions(allow_private=True))

    def run(name: str) -> None:
        tools = directory.open(McpServer(alias="far", url=hostile.url(name)), SCOPE)
        tools.call(a_call(timeout=0.1 if name == "drip" else 5))
        tools.close()

    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    run("honest")
    gc.collect()
    until(lambda: not any(t.name.startswith("asyncio_") for t in threading.enumerate()))
    before = files()
    for _ in range(20):
        for name in ("honest", "drip", "half-body", "stream-reset", "init-close"):
            run(name)
    gc.collect()  # would warn, and so fail, about anything that was not closed
    until(lambda: files() <= before + 2)


def test_a_forked_child_has_a_thread_of_its_own(hostile: HostileServer) -> None:
    """A process that was forked while servers were in use can open its own."""
    script = f"""
import os, sys, warnings
from agentloop.core.config import McpServer
from agentloop.ports import ToolAnswer, ToolCall
from agentloop.tools.mcp import McpDirectory, McpOptions
from tests.faces import SCOPE

call = ToolCall(run_id="r", scope=SCOPE, key="1.0", tool_use_id="u", name="t",
                arguments={{}})
directory = McpDirectory(McpOptions(allow_private=True, timeout=30))
server = McpServer(alias="far", url="{hostile.url("honest")}")
tools = directory.open(server, SCOPE)
assert isinstance(tools.call(call), ToolAnswer)
warnings.simplefilter("ignore")  # forking with threads is what is tried here
if (child := os.fork()) == 0:
    mine = directory.open(server, SCOPE)
    assert isinstance(mine.call(call), ToolAnswer)
    mine.close()
    os._exit(0)
_, status = os.waitpid(child, 0)
assert isinstance(tools.call(call), ToolAnswer)
tools.close()
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_package_is_cheap() -> None:
    """The SDK is imported when a server is connected, not before."""
    script = (
        "import sys; from agentloop.tools.mcp import McpDirectory, StdioServer;"
        "McpDirectory(); StdioServer('x');"
        "print([m for m in ('mcp', 'pydantic', 'httpcore2', 'anyio', 'jsonschema_rs')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("missing", ["mcp", "jsonschema_rs"])
def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Without the extra the doors say at once how to get it."""
    monkeypatch.setattr(directory, "find_spec", lambda name: name != missing or None)
    with pytest.raises(MissingExtraError, match=r"agentloop\[mcp\]"):
        McpDirectory()
    with pytest.raises(MissingExtraError, match=missing):
        StdioServer("anything")
