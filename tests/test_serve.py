"""`agentloop serve` as a process: drained by SIGTERM, killed, and started again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from agentloop import Scope
from agentloop.cli.app import app
from agentloop.core.content import Message
from agentloop.core.history import problems
from agentloop.testing.fake_bedrock import FakeBedrock, stalls
from agentloop.wire import load
from tests.servers.hostile_mcp import hostile_server

TOOLS = '''
"""A tool that takes a while, a model's steps away from the next, and rude ones."""

import asyncio
import os
import time

from agentloop import tool
from agentloop.tools.functions import ToolContext


def work(context: ToolContext, n: int = 0) -> str:
    """Work."""
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(context.effect_key + "\\n")
    time.sleep(0.05)
    return "worked"


def until_let_go() -> str:
    """Block this thread until a file is there."""
    while not os.path.exists("let_go"):
        time.sleep(0.01)
    return "let go"


async def blocks() -> str:
    """Block, though it could be awaited."""
    return until_let_go()


@tool(inline=True)
def dawdles() -> str:
    """Block, though it calls itself quick."""
    return until_let_go()


async def leaves() -> str:
    """End the process."""
    raise SystemExit("canary")


@tool(inline=True)
def loops() -> str:
    """Have an event loop of its own."""
    return asyncio.run(asyncio.sleep(0, "looped"))


tools = [work, blocks, dawdles, leaves, loops]
'''
HEADERS = {"Authorization": "Bearer secret"}


@contextmanager
def serving(
    folder: Path, *flags: str, log: Any = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A server process over the folder's store, and a client of it."""
    command = [
        sys.executable,
        "-m",
        "agentloop",
        "serve",
        "--store",
        str(folder / "served.db"),
        "--backend",
        f"script:{folder / 'script.json'}",
        "--tools",
        "slow=slow_tools:tools",
        "--port",
        "0",
        "--token",
        "secret=1:407",
        "--lease",
        "2",
        *flags,
    ]
    environment = {
        **os.environ,
        "LEDGER": str(folder / "ledger"),
        "PYTHONPATH": str(folder),
    }
    with subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            with httpx.Client(base_url=url, headers=HEADERS, trust_env=False) as client:
                yield server, client
        finally:
            server.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with slow tools and a script that is long enough for every run."""
    (tmp_path / "slow_tools.py").write_text(TOOLS)
    (tmp_path / "ledger").write_text("")
    return tmp_path


def script(folder: Path, replies: list[Any]) -> None:
    """What the model says from the next start on."""
    (folder / "script.json").write_text(json.dumps(replies))


def start(client: Any, text: str = "go", **more: Any) -> str:
    """A run of a conversation of its own."""
    defaults = {"model": "m", "max_iterations": 1000, **more}
    made = client.post("/agents/conversations", json={"defaults": defaults})
    body = {
        "client_op_id": str(uuid.uuid4()),
        "expected_version": 0,
        "payload": {"kind": "user_message", "text": text},
    }
    run = client.post(f"/agents/conversations/{made.json()['id']}/runs", json=body)
    assert run.status_code == 202
    return str(run.json()["id"])


def wait_for(client: Any, ids: list[str]) -> list[dict[str, Any]]:
    """The runs, each once it has ended."""
    runs: list[dict[str, Any]] = []
    while len(runs) < len(ids):
        found = client.get(f"/agents/runs/{ids[len(runs)]}").json()
        if found["completed_at"]:
            runs.append(found)
        else:
            time.sleep(0.02)
    return runs


def test_fifty_running_runs_survive_a_kill(folder: Path) -> None:
    """After SIGKILL and a new start all 50 end; no message or call is made twice."""
    call = {"calls": [{"name": "slow-work", "arguments": {}}]}
    script(folder, [call] * 5000)
    with serving(folder, "--concurrency", "50") as (server, client):
        ids = [start(client) for _ in range(50)]
        while len((folder / "ledger").read_text().splitlines()) < 60:
            time.sleep(0.01)
        server.send_signal(signal.SIGKILL)
        server.wait()
    script(folder, [{"says": "done"}] * 60)
    with serving(folder, "--concurrency", "50") as (_, client):
        # Leases of the dead process run out before its runs are due again.
        runs = wait_for(client, ids)
        assert [run["error"] for run in runs] == [None] * 50
        for run in runs:
            url = f"/agents/conversations/{run['conversation_id']}/messages"
            delta = client.get(url).json()
            numbers = [message["sequence_no"] for message in delta["messages"]]
            assert numbers == list(range(1, delta["current_version"] + 1))
            log = [
                load({k: m[k] for k in ("role", "content_blocks")}, Message)
                for m in delta["messages"]
            ]
            assert problems(log) == []
            assert run["iterations_used"] == len(run["submitted_inference_job_ids"])
    executed = Counter((folder / "ledger").read_text().splitlines())
    assert set(executed.values()) == {1}
    answered = sum(run["iterations_used"] - 1 for run in runs)
    assert len(executed) <= answered


def test_sigterm_drains(folder: Path) -> None:
    """The process ends with 0; runs are given back and go on at the next start."""
    call = {"calls": [{"name": "slow-work", "arguments": {}}]}
    script(folder, [call] * 5000)
    with serving(folder, "--concurrency", "4") as (server, client):
        ids = [start(client) for _ in range(4)]
        while not (folder / "ledger").read_text():
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    script(folder, [{"says": "done"}] * 4)
    with serving(folder) as (_, client):
        runs = wait_for(client, ids)
    assert [run["status"] for run in runs] == ["completed"] * 4
    assert all(run["usage"]["attempts_without_usage"] == 0 for run in runs)
    executed = len((folder / "ledger").read_text().splitlines())
    assert executed == sum(run["iterations_used"] - 1 for run in runs)


@pytest.mark.parametrize("rude", ["blocks", "dawdles"])
def test_a_tool_that_blocks_holds_up_no_reader(folder: Path, rude: str) -> None:
    """Whatever it says of itself, requests are answered meanwhile."""
    call = {"calls": [{"name": f"slow-{rude}", "arguments": {}}]}
    script(folder, [call, {"says": "done"}])
    with serving(folder) as (_, client):
        id_ = start(client)
        with client.stream("GET", f"/agents/runs/{id_}/events") as events:
            assert any("tool_started" in line for line in events.iter_lines())
        assert client.get(f"/agents/runs/{id_}").json()["status"] == "running"
        assert client.get("/healthz").status_code == 200
        (folder / "let_go").touch()
        (run,) = wait_for(client, [id_])
    assert run["status"] == "completed"


def test_a_tool_ends_nothing_but_its_call(folder: Path) -> None:
    """Nor do tools meet the loop that serves them: they may have their own."""
    names = ["slow-leaves", "slow-loops"]
    replies = [{"calls": [{"name": name, "arguments": {}}]} for name in names]
    script(folder, [*replies, {"says": "done"}])
    with (
        (folder / "log").open("w") as log,
        serving(folder, log=log) as (server, client),
    ):
        (run,) = wait_for(client, [start(client)])
        url = f"/agents/conversations/{run['conversation_id']}/messages"
        messages = client.get(url).json()["messages"]
        assert server.poll() is None
    assert run["status"] == "completed"
    left, looped = (m["content_blocks"][0] for m in messages if m["role"] == "tool")
    assert left["is_error"]
    assert looped["content_blocks"] == [{"type": "text", "text": "looped"}]
    assert "canary" not in (folder / "log").read_text()


def test_the_process_waits_for_no_inference_that_nobody_waits_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was cancelled is over, though its thread still reads an answer."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    script(folder, [])
    with FakeBedrock() as bedrock:
        bedrock.script(stalls(600.0))
        model = ("--backend", "bedrock", "--endpoint-url", bedrock.url)
        with serving(folder, *model, "--region", "eu-west-1") as (server, client):
            id_ = start(client, model="anthropic.claude-sonnet-4-5-20250929-v1:0")
            while not bedrock.requests:
                time.sleep(0.01)
            client.post(f"/agents/runs/{id_}/cancel")
            (run,) = wait_for(client, [id_])
            assert run["error"]["type"] == "AgentLoopCancelled"
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0


def test_it_wants_a_token(folder: Path) -> None:
    """Without one nothing is served, and a wrong one is not repeated."""
    command = [sys.executable, "-m", "agentloop", "serve", "--store", "memory:"]
    script(folder, [])
    backend = ["--backend", f"script:{folder / 'script.json'}"]
    bare = subprocess.run([*command, *backend], capture_output=True, text=True)
    assert bare.returncode == 2
    assert "give at least one --token" in bare.stderr
    wrong = subprocess.run(
        [*command, *backend, "--token", "canary"], capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert "canary" not in wrong.stderr + wrong.stdout


# ------------------------------------------------ flags


class Asked:
    """Stands in for the server; keeps what it was asked to serve."""

    def __call__(self, loop: Any, authenticate: Any, serving: Any, http: Any) -> bool:
        self.loop, self.authenticate = loop, authenticate
        self.serving, self.http = serving, http
        return True


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Asked:
    """The command without its server, in a folder with an empty script."""
    monkeypatch.chdir(folder)
    script(folder, [])
    asked = Asked()
    monkeypatch.setattr("agentloop.http.serve.serve", asked)
    return asked


def command(*flags: str) -> Any:
    """The outcome of `agentloop serve` on a store in memory."""
    fixed = ["serve", "--store", "memory:", "--backend", "script:script.json"]
    return CliRunner().invoke(app, [*fixed, *flags])


TOKEN = ("--token", "secret=1:407")
FLAGS: dict[str, tuple[list[str], Callable[[Asked], object], object]] = {
    "host": (["--host", "::1"], lambda a: a.serving.host, "::1"),
    "port": (["--port", "0"], lambda a: a.serving.port, 0),
    "drain": (["--drain", "1.5"], lambda a: a.serving.drain_seconds, 1.5),
    "workers": (["--concurrency", "3"], lambda a: a.serving.workers, 3),
    "requests": (["--max-requests", "7"], lambda a: a.http.max_requests, 7),
    "requests unsaid": ([], lambda a: a.http.max_requests, 256),
    "streams": (["--max-streams", "8"], lambda a: a.http.max_streams, 8),
    "streams unsaid": ([], lambda a: a.http.max_streams, 1000),
    "visibility": (["--visibility", "user"], lambda a: options(a).visibility, "user"),
    "visibility unsaid": ([], lambda a: options(a).visibility, "company"),
    "run": (["--run-timeout", "60"], lambda a: options(a).run_timeout, 60.0),
    "run unsaid": ([], lambda a: options(a).run_timeout, 900.0),
    "attempt": (["--attempt-timeout", "5"], lambda a: options(a).attempt_timeout, 5.0),
    "attempt unsaid": ([], lambda a: options(a).attempt_timeout, 300.0),
    "tool": (["--tool-timeout", "4"], lambda a: options(a).tool_timeout, 4.0),
    "tool unsaid": ([], lambda a: options(a).tool_timeout, 120.0),
}


def options(asked: Asked) -> Any:
    """The options of the loop that was to be served."""
    return asked.loop.watch.options


@pytest.mark.parametrize("case", FLAGS)
def test_a_flag_chooses_what_it_says(asked: Asked, case: str) -> None:
    """Each reaches the server or the loop; what is not said has a stated default."""
    flags, found, expected = FLAGS[case]
    done = command(*TOKEN, *flags)
    assert done.exit_code == 0, done.output
    assert found(asked) == expected


def test_a_worker_bounds_what_it_drives(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """`worker` has the spans of `serve`, with the same defaults."""
    monkeypatch.chdir(folder)
    script(folder, [])
    loops: list[Any] = []

    def working(loop: Any, *_: Any) -> Any:
        loops.append(loop)
        raise OSError("enough")

    monkeypatch.setattr("agentloop.cli.engines.working", working)
    fixed = ["worker", "--store", "memory:", "--backend", "script:script.json"]
    CliRunner().invoke(app, fixed)
    CliRunner().invoke(app, [*fixed, "--run-timeout", "9", "--tool-timeout", "2"])
    spans = [
        (o.run_timeout, o.attempt_timeout, o.tool_timeout)
        for o in (loop.watch.options for loop in loops)
    ]
    assert spans == [(900.0, 300.0, 120.0), (9.0, 300.0, 2.0)]


def test_tokens_come_from_flags_files_and_the_environment(
    asked: Asked, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file holds one a line, with comments; each token has the scope beside it."""
    (folder / "tokens").write_text(
        "# the team\n\n  a.b-c~d+e/f===1:2\none=1:1 # Ann\n#two=2:2\n"
    )
    monkeypatch.setenv("AGENTLOOP_TOKENS", "three=3:3\tfour=4:4")
    done = command("--token", "@tokens", "--token", "five=5:5")
    assert done.exit_code == 0, done.output

    def scope(token: str) -> Any:
        return asyncio.run(asked.authenticate(token))

    assert scope("a.b-c~d+e/f==") == Scope(1, 2)
    found = {n: scope(n) for n in ("one", "two", "three", "four", "five", "#two")}
    assert found == {
        "one": Scope(1, 1),
        "two": None,
        "three": Scope(3, 3),
        "four": Scope(4, 4),
        "five": Scope(5, 5),
        "#two": None,
    }


FORM = "a --token is not of the form TOKEN=COMPANY:USER"
NEVER = "a --token holds what no bearer token may"
TOKENS = {
    "no scope": (["canary"], FORM),
    "no token": (["=1:1"], FORM),
    "no user": (["canary=1:"], FORM),
    "a word": (["canary=1:me"], FORM),
    "a power": (["canary=\u00b2:1"], FORM),
    "Arabic digits": (["canary=\u0661:1"], FORM),
    "endless digits": (["canary=" + "9" * 5000 + ":1"], FORM),
    "a sign": (["canary=-1:1"], FORM),
    "a space": (["canary bird=1:1"], NEVER),
    "an accent": (["canary\u00e9=1:1"], NEVER),
    "a colon": (["canary:bird=1:1"], NEVER),
    "equals inside": (["canary=x=bird=1:1"], NEVER),
    "a line break": (["canary\n=1:1"], NEVER),
    "twice": (["canary=1:1", "canary=1:2"], "a --token is given twice"),
    "no file": (["@nowhere"], "cannot read nowhere: No such file"),
    "a binary file": (["@binary"], "cannot read binary: it is no UTF-8"),
    "an empty file": (["@empty"], "give at least one --token"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_a_token_that_cannot_work_is_refused_at_the_start(
    asked: Asked, folder: Path, case: str
) -> None:
    """One line says what is wrong, and never repeats the token."""
    (folder / "binary").write_bytes(b"\xff=1:1")
    (folder / "empty").write_text("# nobody yet\n")
    given, words = TOKENS[case]
    done = command(*[part for token in given for part in ("--token", token)])
    assert done.exit_code == 2, done.output
    assert words in " ".join(done.output.split())
    assert "canary" not in done.output
    assert "Traceback" not in done.output


def test_a_long_hint_of_a_server_ends_with_the_runs_time(folder: Path) -> None:
    """A Retry-After of an hour holds no worker longer than `--run-timeout` says."""
    asks = {"calls": [{"name": "far-t", "arguments": {}}]}
    script(folder, [asks, {"says": "done"}])
    tools = [{"name": "t", "input_schema": {"type": "object"}}]
    flags = ("--allow-private-mcp", "--run-timeout", "1.5", "--concurrency", "1")
    with hostile_server() as hostile, serving(folder, *flags) as (_, client):
        url = hostile.url("status-503-huge")
        far = {"alias": "far", "url": url, "tools": tools}
        (held,) = wait_for(client, [start(client, mcp_servers=[far])])
        assert held["error"]["type"] == "AgentLoopDeadlineExceeded"
        (other,) = wait_for(client, [start(client)])
        assert other["status"] == "completed"


CANARIES = ("canary-said", "canary-answered", "canary-token", "canary-tool")


@pytest.mark.parametrize("form", ["--json-logs", "--no-json-logs"])
def test_the_log_tells_ids_and_never_content_or_secrets(
    folder: Path, form: str
) -> None:
    """What the real command writes: a line for each request and for each event."""
    asks = {"calls": [{"name": "slow-work", "arguments": {"n": 1}}]}
    script(folder, [asks, {"says": "canary-answered"}])
    with (folder / "log").open("w") as log:
        flags = (form, "--token", "canary-token=1:407", "--host", "127.0.0.1")
        with serving(folder, *flags, log=log) as (server, client):
            client.headers["authorization"] = "Bearer canary-token"
            (run,) = wait_for(client, [start(client, text="canary-said")])
            refused = client.get("/agents/runs/canary-tool")
            client.headers["authorization"] = "Bearer canary-tool"
            assert client.get("/agents/conversations").status_code == 401
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
    text = (folder / "log").read_text()
    assert not [canary for canary in CANARIES if canary in text]
    assert refused.json()["log_id"] in text
    assert f"run {run['id']}: terminal" in text
    assert "POST /agents/conversations/{conversation_id}/runs 202" in text
    if form == "--json-logs":
        lines = [json.loads(line) for line in text.splitlines()]
        assert all(
            {"time", "level", "logger", "message"} <= line.keys() for line in lines
        )
        told = [line for line in lines if line.get("event") == "terminal"]
        assert [(t["run_id"], t["run_status"]) for t in told] == [
            (run["id"], "completed")
        ]
