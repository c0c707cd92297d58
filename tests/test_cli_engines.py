"""`agentloop serve` and `agentloop worker` with `--engine`, as the README has them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import postgres_server, temporal_server
from tests.dbos_place import fresh_database

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMAND = [sys.executable, "-m", "agentloop"]
HEADERS = {"Authorization": "Bearer secret"}
TOOLS = '''
"""A tool that notes what it did."""


import time


def work(n: int = 0) -> str:
    """Work."""
    with open("ledger", "a") as ledger:
        ledger.write(f"{n}\\n")
    return "worked"


def sleep(n: int = 0) -> str:
    """Sleep."""
    open("asleep", "w").close()
    time.sleep(n)
    return "slept"


tools = [work, sleep]
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tool, and a script of three calls and an answer."""
    (tmp_path / "own_tools.py").write_text(TOOLS)
    turns = [{"calls": [{"name": "own-work", "arguments": {"n": n}}]} for n in range(3)]
    script = [*turns, {"says": "done"}]
    (tmp_path / "script.json").write_text(json.dumps(script))
    return tmp_path


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[tuple[Any, str]]:
    """A command that runs until the block ends, and the line that says it is up."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline()
        finally:
            running.kill()


def commands(engine: str, changes: dict[str, str]) -> dict[str, list[str]]:
    """The README's commands for an engine by their verbs, on servers of this test."""
    block = rf"<!-- engine {engine} -->\n```sh\n(.*?)```"
    found = re.search(block, README, re.DOTALL)
    assert found is not None, engine
    text = found[1]
    for written, meant in changes.items():
        assert written in text, written
        text = text.replace(written, meant)
    lines = [line.split() for line in text.splitlines()]
    assert all(line[0] == "agentloop" for line in lines)
    return {line[1]: line[1:] for line in lines}


def on_temporal() -> dict[str, list[str]]:
    """With a task queue that no other test has."""
    where = f"{temporal_server.running().address} --task-queue {uuid.uuid4()}"
    return commands("temporal", {"127.0.0.1:7233": where, "--port 8000": "--port 0"})


def on_dbos() -> dict[str, list[str]]:
    """In a database that no other test has."""
    where = fresh_database(postgres_server.address(), f"cli_{uuid.uuid4().hex}")
    written = "postgresql://localhost/agents"
    return commands("dbos", {written: where, "--port 8000": "--port 0"})


def start(client: httpx.Client) -> str:
    """A run of a conversation of its own."""
    made = client.post("/agents/conversations", json={"defaults": {"model": "m"}})
    body = {
        "client_op_id": str(uuid.uuid4()),
        "expected_version": 0,
        "payload": {"kind": "user_message", "text": "go"},
    }
    run = client.post(f"/agents/conversations/{made.json()['id']}/runs", json=body)
    assert run.status_code == 202, run.text
    return str(run.json()["id"])


def ended(client: httpx.Client, run: str) -> dict[str, Any]:
    """A run once it has ended."""
    deadline = time.monotonic() + 60
    while not (found := client.get(f"/agents/runs/{run}").json())["completed_at"]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return dict(found)


@pytest.mark.parametrize("engine", [on_temporal, on_dbos])
def test_serve_starts_what_a_worker_drives(folder: Path, engine: Any) -> None:
    """The server drives nothing itself; a worker does, and both stop when told to."""
    verbs = engine()
    tools = ["--tools", "own=own_tools:tools"]
    if "migrate" in verbs:
        subprocess.run([*COMMAND, *verbs["migrate"]], check=True, cwd=folder)
    with process(folder, *verbs["serve"], *tools) as (server, line):
        client = httpx.Client(
            base_url=line.split()[-1], headers=HEADERS, trust_env=False
        )
        with client:
            run = start(client)
            found = client.get(f"/agents/runs/{run}").json()
            assert found["status"] == "pending"
            with process(folder, *verbs["worker"], *tools) as (worker, up):
                assert up.startswith("agentloop drives runs of ")
                found = ended(client, run)
                assert (found["status"], found["final_text"]) == ("completed", "done")
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(30) == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert (folder / "ledger").read_text().split() == ["0", "1", "2"]


def embedded() -> dict[str, list[str]]:
    """Without an engine, with a server that drives nothing itself."""
    shared = "--store agents.db --backend script:script.json"
    serve = f"serve {shared} --concurrency 0 --token secret=1:407 --port 0"
    return {"serve": serve.split(), "worker": f"worker {shared}".split()}


@pytest.mark.parametrize("engine", [on_temporal, on_dbos, embedded])
def test_a_worker_ends_within_its_drain(folder: Path, engine: Any) -> None:
    """A tool that takes longer is left; whatever the worker says of it is JSON."""
    verbs = engine()
    (folder / "script.json").write_text(
        json.dumps([{"calls": [{"name": "own-sleep", "arguments": {"n": 60}}]}])
    )
    tools = ["--tools", "own=own_tools:tools"]
    if "migrate" in verbs:
        subprocess.run([*COMMAND, *verbs["migrate"]], check=True, cwd=folder)
    drain = ["--drain", "2"]
    with (
        process(folder, *verbs["serve"], *tools) as (_, line),
        httpx.Client(
            base_url=line.split()[-1], headers=HEADERS, trust_env=False
        ) as client,
        process(folder, *verbs["worker"], *tools, *drain) as (worker, _),
    ):
        start(client)
        deadline = time.monotonic() + 60
        while not (folder / "asleep").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        _, told = worker.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert worker.returncode == 1
    lines = [json.loads(line) for line in told.splitlines()]
    assert lines[-1]["message"] == "stopped before all was drained"


def test_a_worker_needs_tables(folder: Path) -> None:
    """Over a store that nobody migrated it ends with one line, as without an engine."""
    where = fresh_database(postgres_server.address(), f"cli_{uuid.uuid4().hex}")
    shared = ["--store", where, "--backend", "script:script.json"]
    for engine in ([], ["--engine", "dbos"]):
        done = subprocess.run(
            [*COMMAND, "worker", *shared, *engine],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert "agentloop migrate" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["serve", "worker"])
def test_a_queue_that_dbos_would_refuse_is_refused_at_once(
    folder: Path, verb: str
) -> None:
    """Before anything is connected, and with what a name may be."""
    token = ["--token", "secret=1:407"] if verb == "serve" else []
    shared = ["--store", "postgresql://nowhere/x", "--backend", "script:script.json"]
    queue = ["--engine", "dbos", "--task-queue", "Agents"]
    done = subprocess.run(
        [*COMMAND, verb, *shared, *queue, *token],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "3 to 256 lowercase letters" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--engine", "cron"], "--engine 'cron' is unknown; use one of temporal"),
        (["--address", "x:1"], "name it: --engine"),
        (["--engine", "temporal", "--store", "memory:"], "--engine needs a --store"),
        (["--engine", "dbos"], "--engine dbos needs --address postgresql://"),
        (
            ["--engine", "temporal", "--address", "127.0.0.1:1"],
            "Temporal at 127.0.0.1:1, namespace 'default'",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    folder: Path, arguments: list[str], told: str
) -> None:
    """Exit code 2, and no stack trace."""
    model = ["--backend", "script:script.json"]
    done = subprocess.run(
        [*COMMAND, "worker", "--store", "agents.db", *model, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
