"""The app around the contract: mounting, callers, limits, health, logs, threads."""

import io
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from agentloop import AgentLoop, MissingExtraError, Scope
from agentloop.core.catalog import Failure
from agentloop.core.run import RunEvent
from agentloop.http import (
    HttpOptions,
    JsonFormatter,
    Principal,
    configure_logging,
    create_app,
    fixed_tokens,
    log_run_event,
)
from agentloop.http.operations import OPERATIONS
from agentloop.ports import StoreUnavailableError
from agentloop.runtime import choices
from agentloop.testing.scripted import ScriptedBackend, calls, says
from tests.http_world import (
    ALICE,
    TOKENS,
    UNKNOWN,
    FaultyStore,
    World,
    outputs,
    problem,
    run_body,
    slug,
    working,
    world,
)
from tests.mcp_calls import until

# ------------------------------------------------ mounting


def in_starlette(app: Any) -> Any:
    """A Starlette application with ours under two prefixes, one in the other."""
    inner = Starlette(routes=[Mount("/v1", app)])
    return Starlette(routes=[Mount("/api", inner)])


def in_fastapi(app: Any) -> Any:
    """A FastAPI application with ours under a prefix."""
    host = FastAPI()
    host.mount("/api/v1", app)
    return host


@pytest.mark.parametrize("mount", [in_starlette, in_fastapi])
def test_the_app_works_under_any_prefix(mount: Any) -> None:
    """Routes, problems and the document know where they are mounted."""
    loop = AgentLoop(ScriptedBackend(says("hello")))
    app = create_app(loop, fixed_tokens(TOKENS))
    with TestClient(mount(app)) as client, loop, loop.worker(1):
        base, headers = "/api/v1", {"authorization": "Bearer alice"}
        document = client.get(f"{base}/openapi.json").json()
        assert document["servers"] == [{"url": base}]
        body = {"defaults": {"model": "m"}}
        made = client.post(f"{base}/agents/conversations", json=body, headers=headers)
        assert made.status_code == 201
        served = World(loop, ScriptedBackend(), client)
        run = served.call(
            "POST",
            f"{base}/agents/conversations/{made.json()['id']}/runs",
            json={
                "client_op_id": UNKNOWN,
                "expected_version": 0,
                "payload": {"kind": "user_message", "text": "hi"},
            },
        ).json()
        events = served.get(f"{base}/agents/runs/{run['id']}/events")
        assert "event: terminal" in events.text
        nowhere = served.get(f"{base}/nope")
        assert problem(nowhere)["instance"] == f"{base}/nope"
        assert slug(nowhere) == "not-found"
        unknown = served.get(f"{base}/agents/runs/x")
        assert problem(unknown)["instance"] == f"{base}/agents/runs/x"


async def stamp(request: Any, call_next: Any) -> Any:
    """A middleware of a host, as FastAPI's documentation writes one."""
    response = await call_next(request)
    response.headers["x-host"] = "me"
    return response


@pytest.mark.parametrize("mount", [in_starlette, in_fastapi])
def test_every_answer_passes_a_middleware_that_adds_a_header(mount: Any) -> None:
    """A host's middleware may change headers of answers, problems and streams."""
    loop = AgentLoop(ScriptedBackend(says("hello")))
    host = mount(create_app(loop, fixed_tokens(TOKENS)))
    host.add_middleware(BaseHTTPMiddleware, dispatch=stamp)
    with TestClient(host) as client, loop, loop.worker(1):
        client.headers["authorization"] = "Bearer alice"
        paths = under("/api/v1", client)
        asked = [*paths, ("GET", "/api/v1/nope"), ("PUT", "/api/v1/healthz")]
        for method, path in asked:
            answer = client.request(method, path)
            assert answer.headers["x-host"] == "me", (method, path)
            assert answer.status_code < 500, (method, path)


def under(base: str, client: TestClient) -> list[tuple[str, str]]:
    """A request for every operation, of a run that has ended."""
    path = f"{base}/agents/conversations"
    made = client.post(path, json={"defaults": {"model": "m"}}).json()
    body = run_body()
    run = client.post(f"{path}/{made['id']}/runs", json=body).json()
    events = f"{base}/agents/runs/{run['id']}/events"
    assert "event: terminal" in client.get(events).text
    ended = client.get(f"{base}/agents/runs/{run['id']}").json()
    ids = {
        "conversation_id": made["id"],
        "run_id": run["id"],
        "job_id": ended["submitted_inference_job_ids"][0],
    }
    found = [(op.method, base + op.path.format(**ids)) for op in OPERATIONS]
    return sorted(found, key=lambda asked: asked[0] == "DELETE")


def test_unmounted_the_server_is_the_root() -> None:
    """The document names the place where it was read."""
    with world(workers=0) as idle:
        servers = idle.get("/openapi.json").json()["servers"]
        assert servers == [{"url": "/"}]


def test_a_websocket_is_turned_away() -> None:
    """The surface speaks HTTP only."""
    with (
        world(workers=0) as idle,
        pytest.raises(WebSocketDisconnect) as turned,
        idle.client.websocket_connect("/agents/runs/x/events"),
    ):
        raise AssertionError("a websocket was let in")
    assert turned.value.code == 1000


def test_another_base_of_error_pages_is_the_hosts() -> None:
    """Problem types and run errors point to the pages the host names."""
    base = "https://docs.example.com/e/"
    with world(calls(("nowhere-x", {})), docs_base=base) as served:
        assert problem(served.get("/nope"))["type"] == f"{base}not-found"
        error = served.run(served.conversation())["error"]
        assert error["docs_url"] == f"{base}unknown-tool-alias"
        told = served.get("/openapi.json").json()["components"]["schemas"]["Problem"]
        assert told["properties"]["type"]["examples"] == [base]


def test_without_the_extra_the_app_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing Starlette is a clear error, and only when an app is made."""
    for name in [name for name in sys.modules if name.startswith("starlette")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agentloop\[http\]'"):
        create_app(AgentLoop(ScriptedBackend()), fixed_tokens({}))


# ------------------------------------------------ callers


@contextmanager
def guarded(authenticate: Any, **choices: Any) -> Iterator[World]:
    """A world with an `authenticate` of its own."""
    backend = ScriptedBackend()
    with (
        AgentLoop(backend) as loop,
        TestClient(create_app(loop, authenticate, **choices)) as client,
    ):
        yield World(loop, backend, client)


def plainly(token: str) -> Any:
    """A plain function to a scope."""
    return ALICE if token == "alice" else None


async def asynchronously(token: str) -> Any:
    """A coroutine function to a principal."""
    return Principal(ALICE) if token == "alice" else None


class Directory:
    """An object whose call is asynchronous."""

    async def __call__(self, token: str) -> Any:
        return ALICE if token == "alice" else None


@pytest.mark.parametrize("authenticate", [plainly, asynchronously, Directory()])
def test_an_authenticate_may_be_of_any_kind(authenticate: Any) -> None:
    """Plain or asynchronous, to a scope or to a principal."""
    with guarded(authenticate) as served:
        assert served.conversation("alice")
        assert slug(served.get("/agents/conversations", "eve")) == "unauthenticated"


def test_a_plain_authenticate_does_not_hold_the_event_loop() -> None:
    """It may wait: health is told meanwhile."""
    inside, go_on = threading.Event(), threading.Event()

    def slowly(token: str) -> Any:
        inside.set()
        assert go_on.wait(10)
        return ALICE

    with guarded(slowly) as served, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(served.get, "/agents/conversations")
        assert inside.wait(10)
        assert served.get("/healthz", token="").status_code == 200
        go_on.set()
        assert waiting.result(10).status_code == 200


def test_an_authenticate_that_raises_lets_nobody_in() -> None:
    """A 500 of the host's own making, told to the log."""

    def breaks(token: str) -> Any:
        raise OSError("directory server away")

    with guarded(breaks) as served:
        assert slug(served.get("/agents/conversations")) == "internal-error"


@pytest.mark.parametrize("header", ["bearer alice", "BEARER alice", "Bearer  alice "])
def test_the_scheme_is_read_as_the_standard_says(header: str) -> None:
    """Without regard to case, after one or more spaces."""
    with world(workers=0) as idle:
        headers = {"authorization": header}
        found = idle.client.get("/agents/conversations", headers=headers)
        assert found.status_code == 200


def test_two_authorizations_are_none() -> None:
    """It is not guessed which of them counts."""
    with world(workers=0) as idle:
        twice = [("authorization", "Bearer alice"), ("authorization", "Bearer eve")]
        found = idle.client.get("/agents/conversations", headers=twice)
        assert slug(found) == "unauthenticated"


def test_fixed_tokens_keep_no_token() -> None:
    """Neither the function nor what it closes over shows one."""
    table = fixed_tokens({"s3cret-token": ALICE})
    cells = [cell.cell_contents for cell in table.__closure__ or ()]
    assert "s3cret-token" not in repr((table, cells))


# ------------------------------------------------ limits and threads


class Slow:
    """A store call that waits inside until the test lets it go on."""

    def __init__(self) -> None:
        self.inside = threading.Semaphore(0)
        self.go_on = threading.Event()

    def __call__(self, real: Any, *args: Any) -> Any:
        self.inside.release()
        assert self.go_on.wait(10)
        return real(*args)


def test_requests_beyond_the_limit_are_told_to_wait() -> None:
    """429 with `Retry-After`; health and the document are still told."""
    slow = Slow()
    store = FaultyStore(list_conversations=slow)
    http = {"max_requests": 1, "retry_after": 3}
    with world(store=store, workers=0, http=http) as served:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(served.get, "/agents/conversations")
            assert slow.inside.acquire(timeout=10)
            second = served.get("/agents/conversations")
            assert (second.status_code, slug(second)) == (429, "too-many-requests")
            assert second.headers["retry-after"] == "3"
            detail = "1 requests are under way; try again later"
            assert problem(second)["detail"] == detail
            assert served.get("/healthz").status_code == 200
            assert served.get("/openapi.json").status_code == 200
            assert slug(served.get("/agents/conversations", "")) == "unauthenticated"
            slow.go_on.set()
            assert first.result(10).status_code == 200
        assert served.get("/agents/conversations").status_code == 200


@pytest.mark.parametrize("threads", [1, 3])
def test_blocking_calls_use_so_many_threads_and_no_more(threads: int) -> None:
    """The others wait for their turn, and the event loop for none of them."""
    slow = Slow()
    store = FaultyStore(list_conversations=slow)
    with (
        world(store=store, workers=0, http={"threads": threads}) as served,
        ThreadPoolExecutor(5) as pool,
    ):
        asked = [pool.submit(served.get, "/agents/conversations") for _ in range(5)]
        for _ in range(threads):
            assert slow.inside.acquire(timeout=10)
        assert not slow.inside.acquire(timeout=0.1)
        assert served.get("/healthz").status_code == 200
        slow.go_on.set()
        assert [found.result(10).status_code for found in asked] == [200] * 5


class Silent:
    """A tool server that must be asked, and does not answer in time."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def declared(self) -> None:
        return None

    def discover(self, timeout: float) -> Failure:
        self.asked.append(timeout)
        threading.Event().wait(timeout + 0.1)
        return Failure(kind="discovery_unavailable", message="no answer")

    def call(self, call: Any) -> Any:
        raise AssertionError("nothing is called")

    def close(self) -> None:
        return None


@pytest.mark.parametrize("face", ["sync", "async"])
def test_silent_servers_of_tool_choices_hold_nobody_else_up(
    face: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at a server has threads of its own, and its time covers the queue."""
    monkeypatch.setattr(choices, "CHOICE_CHECK_TIMEOUT", 0.7)
    silent, choice = Silent(), {"kind": "specific_tool", "name": "far-t"}
    tools = {"far": silent}
    with (
        world(says("hi"), face=face, tools=tools) as served,
        ThreadPoolExecutor(40) as pool,
    ):
        conversation = served.conversation()
        plain = served.conversation(mcp_servers=[])
        start = partial(served.start, conversation, tool_choice=choice)
        asked = [pool.submit(start) for _ in range(40)]
        while len(silent.asked) < 16:
            threading.Event().wait(0.005)
        for _ in range(20):
            assert served.get(f"/agents/conversations/{plain}").status_code == 200
        assert served.run(plain)["status"] == "completed"
        found = [future.result(10) for future in asked]
    told = Counter(slug(answer) for answer in found)
    assert told.keys() == {"mcp-discovery-failed", "too-many-requests"}
    assert len(silent.asked) == told["mcp-discovery-failed"] >= 16
    assert all(timeout <= 0.7 for timeout in silent.asked)
    late = next(answer for answer in found if answer.status_code == 429)
    assert late.headers["retry-after"] == "1"
    assert "tool choices wait for their servers" in problem(late)["detail"]


@pytest.mark.parametrize("face", ["sync", "async"])
def test_reads_do_not_wait_for_the_commits_of_runs(face: str) -> None:
    """However many commits are under way, every read is answered meanwhile."""
    held, go_on = threading.Semaphore(0), threading.Event()

    def checkpoint(real: Any, *args: Any, **named: Any) -> Any:
        held.release()
        assert go_on.wait(30)
        return real(*args, **named)

    store: Any = FaultyStore(checkpoint=checkpoint)
    store.blocking = True  # as every store is that keeps something
    with world(forever=says("hi"), face=face, store=store, workers=0) as served:
        conversations = [served.conversation() for _ in range(12)]
        runs = [served.start(id_).json()["id"] for id_ in conversations]
        with working(served.loop, served.client, 12):
            for _ in range(8):  # as many as an async face has threads for its store
                assert held.acquire(timeout=20)
            for path in (
                f"/agents/runs/{runs[-1]}",
                f"/agents/runs/{runs[-1]}/inference-jobs",
                f"/agents/conversations/{conversations[-1]}",
                f"/agents/conversations/{conversations[-1]}/messages",
                f"/agents/conversations/{conversations[-1]}/runs",
                "/agents/conversations",
            ):
                assert served.get(path).status_code == 200
            go_on.set()
            assert {served.ended(run)["status"] for run in runs} == {"completed"}


def test_an_unknown_option_is_a_type_error() -> None:
    """Options are fields, not guesses."""
    with pytest.raises(TypeError, match="max_request"):
        create_app(AgentLoop(ScriptedBackend()), fixed_tokens({}), max_request=1)


# ------------------------------------------------ health


def test_health_tells_of_a_store_that_is_away() -> None:
    """503, without the store's own words."""

    def away(real: Any) -> Any:
        raise StoreUnavailableError("host=db password=x")

    with world(store=FaultyStore(ping=away)) as served:
        ill = served.get("/healthz", token="")
        assert ill.status_code == 503
        told = {"status": "unavailable", "store": "unavailable", "worker": "ok"}
        assert ill.json() == told


def test_health_does_not_wait_for_a_store_that_hangs() -> None:
    """However many ask, one call hangs; when it is back, all is well."""
    slow = Slow()
    store = FaultyStore(ping=slow)
    http = {"health_timeout": 0.02}
    with world(store=store, workers=0, http=http) as served:
        for _ in range(3):
            assert served.get("/healthz").json()["store"] == "unavailable"
        assert slow.inside.acquire(blocking=False)
        assert not slow.inside.acquire(blocking=False)
        slow.go_on.set()
        while served.get("/healthz").status_code != 200:
            pass


@pytest.mark.parametrize("face", ["sync", "async"])
def test_health_tells_that_others_drive(face: str) -> None:
    """A process without workers is well."""
    with world(face=face, workers=0) as idle:
        found = idle.get("/healthz")
        assert (found.status_code, found.json()["worker"]) == (200, "none")


@pytest.mark.parametrize("face", ["sync", "async"])
def test_health_tells_of_a_worker_that_is_no_longer_at_work(face: str) -> None:
    """`lost` and 503: this process no longer does what it is there for."""
    with world(face=face, workers=0) as served:
        portal, working = served.client.portal, served.loop.worker(1)
        if face == "async":
            working = portal.wrap_async_context_manager(working)
        with working as worker:
            assert served.get("/healthz").json()["worker"] == "ok"
            portal.call(worker.stop)
            lost = served.get("/healthz")
            told = {"status": "unavailable", "store": "ok", "worker": "lost"}
            assert (lost.status_code, lost.json()) == (503, told)


@pytest.mark.parametrize("face", ["sync", "async"])
def test_health_tells_of_a_worker_that_does_not_get_through(face: str) -> None:
    """A store that is read but takes no claim is of no use to who drives."""
    away = True

    def claim(real: Any, *args: Any) -> Any:
        if away:
            raise StoreUnavailableError("disk full")
        return real(*args)

    with world(face=face, store=FaultyStore(claim=claim)) as served:
        until(lambda: served.get("/healthz").status_code == 503)
        told = {"status": "unavailable", "store": "unavailable", "worker": "ok"}
        assert served.get("/healthz").json() == told
        away = False
        until(lambda: served.get("/healthz").status_code == 200)


def test_health_remembers_a_write_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until another one gets through; not for ever, since none may come."""
    full = True

    def insert(real: Any, *args: Any) -> Any:
        if full:
            raise StoreUnavailableError("disk full")
        return real(*args)

    store = FaultyStore(create_conversation=insert)
    with world(workers=0, store=store) as idle:
        path, body = "/agents/conversations", {"defaults": {"model": "m"}}
        assert idle.get("/healthz").status_code == 200
        assert idle.post(path, body).status_code == 503
        assert idle.get(path).status_code == 200
        assert idle.get("/healthz").json()["store"] == "unavailable"
        assert slug(idle.post(path, {})) == "invalid-request"
        assert idle.get("/healthz").json()["store"] == "unavailable"
        full = False
        assert idle.post(path, body).status_code == 201
        assert idle.get("/healthz").status_code == 200
        full = True
        assert idle.post(path, body).status_code == 503
        monkeypatch.setattr("agentloop.http.health.REMEMBERED", 0.0)
        assert idle.get("/healthz").status_code == 200


# ------------------------------------------------ logs


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """What the library logs, as lines of JSON."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger("agentloop")
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def test_logs_tell_ids_and_never_content_or_secrets() -> None:
    """A canary in every text and credential, and none of them in any line."""
    canary = "c4n4ry"
    script = (
        says(f"I say {canary}"),
        calls(("user-approve", {"x": canary}), ids=[f"tooluse_{canary}"]),
        says(f"{canary}!"),
    )
    token = f"token-{canary}"
    tools = [{"alias": "user", "tools": [{"name": "approve", "input_schema": {}}]}]
    with logged() as lines:
        backend = ScriptedBackend(*script)
        observed = AgentLoop(backend, observer=log_run_event)
        app = create_app(
            observed, fixed_tokens({token: Scope(1, 2), "eve": Scope(2, 2)})
        )
        with TestClient(app) as client, observed, observed.worker(1):
            served = World(observed, backend, client)
            headers = {"authorization": f"Bearer {token}"}
            body = {
                "name": canary,
                "system_prompt": canary,
                "defaults": {"model": "m", "client_tools": tools},
            }
            made = served.call(
                "POST", "/agents/conversations", json=body, headers=headers
            )
            path = f"/agents/conversations/{made.json()['id']}"
            payloads: list[Any] = [
                {"kind": "user_message", "text": canary},
                {"kind": "user_message", "text": canary},
                outputs(**{f"tooluse_{canary}": canary}),
            ]
            runs = []
            for number, payload in enumerate(payloads):
                run = served.call(
                    "POST",
                    f"{path}/runs",
                    json={
                        "client_op_id": f"0000000{number}{UNKNOWN[8:]}",
                        "expected_version": 2 * number,
                        "payload": payload,
                    },
                    headers=headers,
                ).json()
                runs.append(run["id"])
                served.get(f"/agents/runs/{run['id']}/events", headers=headers)
            served.call("POST", f"{path}/runs", content=canary, headers=headers)
            served.get(f"/agents/runs/{canary}?{canary}", headers=headers)
            served.get(f"/{canary}", token=canary)
            odd = {"defaults": {"model": "m", "tools": [{"name": canary}]}}
            served.call("POST", "/agents/conversations", json=odd, headers=headers)
    assert canary not in lines.getvalue()
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    requests = [record for record in records if record["logger"] == "agentloop.http"]
    assert all(record["log_id"] for record in requests)
    posted = [r for r in requests if r.get("method") == "POST" and "run_id" in r]
    assert [record["run_id"] for record in posted] == runs
    assert {r["conversation_id"] for r in posted} == {made.json()["id"]}
    events = [record for record in records if record["logger"] == "agentloop.runs"]
    assert {record["run_id"] for record in events} == set(runs)
    submitted = [r for r in events if r["event"] == "job_submitted"]
    assert len({record["job_id"] for record in submitted}) == 3
    refused = [record["problem"] for record in requests if "problem" in record]
    assert refused == [
        "invalid-request",
        "agent-run-not-found",
        "not-found",
        "invalid-request",
    ]


def test_a_line_of_the_log_is_one_json_object() -> None:
    """Facts that are not listed are left out, tracebacks are kept."""
    try:
        raise KeyError("x\ny")
    except KeyError:
        fault = sys.exc_info()
    record = logging.LogRecord("agentloop", 40, "f", 1, "a\nb", None, fault)
    record.__dict__.update(log_id="l", password="p", status=500)
    line = JsonFormatter().format(record)
    told = json.loads(line)
    assert "\n" not in line
    assert (told["message"], told["log_id"], told["status"]) == ("a\nb", "l", 500)
    assert (told["level"], told["logger"]) == ("error", "agentloop")
    assert "KeyError" in told["traceback"]
    assert "password" not in line


@pytest.mark.parametrize("as_json", [True, False])
def test_logging_is_configured_for_this_library_alone(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON or as plain lines, on stderr."""
    root = logging.getLogger("agentloop")
    before = (root.handlers[:], root.level, root.propagate)
    try:
        configure_logging(json=as_json)
        event = RunEvent("tool_started", {"name": "rooms-free"}, 4)
        log_run_event("r1", event)
        log_run_event("r1", RunEvent("text_delta", {"text": "c4n4ry"}))
    finally:
        root.handlers[:], root.level, root.propagate = before
    (line,) = capsys.readouterr().err.splitlines()
    if as_json:
        told = json.loads(line)
        assert (told["run_id"], told["name_of_tool"]) == ("r1", "rooms-free")
    else:
        assert line.endswith("INFO agentloop.runs run r1: tool_started")


def test_options_have_the_documented_defaults() -> None:
    """No limits unless the host sets some."""
    options = HttpOptions()
    assert (options.max_requests, options.max_streams) == (None, None)
    assert (options.threads, options.heartbeat, options.retry_after) == (16, 15.0, 1)
