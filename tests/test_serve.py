"""`agentloop serve` as a process: drained by SIGTERM, killed, and started again."""

import json
import os
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

from agentloop.core.content import Message
from agentloop.core.history import problems
from agentloop.wire import load

TOOLS = '''
"""A tool that takes a while, a model's steps away from the next."""

import os
import time


def work(n: int = 0) -> str:
    """Work."""
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write("done\\n")
    time.sleep(0.05)
    return "worked"


tools = [work]
'''
HEADERS = {"Authorization": "Bearer secret"}


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
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
        stderr=subprocess.DEVNULL,
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


def start(client: Any) -> str:
    """A run of a conversation of its own."""
    defaults = {"model": "m", "max_iterations": 1000}
    made = client.post("/agents/conversations", json={"defaults": defaults})
    body = {
        "client_op_id": str(uuid.uuid4()),
        "expected_version": 0,
        "payload": {"kind": "user_message", "text": "go"},
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
    """After SIGKILL and a new start all 50 end; no message is lost or doubled."""
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
    executed = len((folder / "ledger").read_text().splitlines())
    answered = sum(run["iterations_used"] - 1 for run in runs)
    assert executed <= answered


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
