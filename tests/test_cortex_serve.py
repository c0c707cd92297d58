"""`agentloop serve` and `worker` over Cortex: processes that log in to the fake."""

import json
import os
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

from agentloop.testing.fake_snowflake import FakeSnowflake, says
from agentloop.testing.fake_snowflake.connections import loopback_options

HEADERS = {"Authorization": "Bearer secret"}
REST = "0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a11"
SQL = "0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a12"
UNKNOWN = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def snowflake(tmp_path: Path) -> Iterator[FakeSnowflake]:
    """An account on loopback, and a file with the options that lead there."""
    with FakeSnowflake(default=says("from cortex")) as account:
        options = json.dumps(loopback_options(account.port))
        (tmp_path / "snowflake.json").write_text(options)
        yield account


@contextmanager
def process(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A command of the line over the folder's store, ended at the end."""
    told = [*command, "--store", str(folder / "served.db")]
    with subprocess.Popen(
        [sys.executable, "-m", "agentloop", *told],
        cwd=folder,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.terminate()


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[httpx.Client]:
    """A client of a server."""
    fixed = ("--port", "0", "--token", "secret=1:407")
    with process(folder, "serve", *fixed, *flags) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        with httpx.Client(base_url=url, headers=HEADERS, trust_env=False) as client:
            yield client


def asked(client: httpx.Client, **defaults: Any) -> Any:
    """The response to starting a run of a conversation of its own."""
    given = {"defaults": {"model": "claude-sonnet-4-5", **defaults}}
    made = client.post("/agents/conversations", json=given).json()
    body = {
        "client_op_id": str(uuid.uuid4()),
        "expected_version": 0,
        "payload": {"kind": "user_message", "text": "go"},
    }
    return client.post(f"/agents/conversations/{made['id']}/runs", json=body)


def ended(client: httpx.Client, **defaults: Any) -> Any:
    """The run, once it has ended."""
    run = asked(client, **defaults).json()
    for _ in range(500):
        if run["status"] not in {"pending", "running"}:
            return run
        time.sleep(0.02)
        run = client.get(f"/agents/runs/{run['id']}").json()
    raise AssertionError(f"the run did not end: {run}")


def test_serve_speaks_to_cortex(tmp_path: Path, snowflake: FakeSnowflake) -> None:
    """One flag serves the contract over a connection of the command's own.

    It logs in again when its login has run out, since nobody else could.
    """
    with serving(tmp_path, "--backend", "cortex:@snowflake.json") as client:
        assert ended(client)["final_text"] == "from cortex"
        assert ended(client, model="openai-gpt-5")["final_text"] == "from cortex"
        snowflake.expire_masters()
        assert ended(client)["final_text"] == "from cortex"
    assert [request.door for request in snowflake.requests[:2]] == ["messages", "chat"]
    assert (snowflake.inferences, snowflake.logins) == (3, 2)


def mixed(folder: Path) -> str:
    """A file of backends: a script by default, Cortex over REST and over SQL."""
    (folder / "script.json").write_text(json.dumps([{"says": "from the script"}]))
    there = {"kind": "cortex", "connection": "@snowflake.json"}
    sql = {"transport": "sql", "emulate_tools": True, "max_in_flight": 4}
    more = {
        "model_ids": {"my-model": "claude-sonnet-4-5"},
        "options": {"my-model": {"top_p": 0.5}},
        "capabilities": {"my-model": {"tools": True, "one_sampler": False}},
    }
    file = {
        "default": "script:script.json",
        "planes": {REST: {**there, **more}, SQL: {**there, **sql}},
    }
    (folder / "backends.json").write_text(json.dumps(file))
    return "backends.json"


def test_serve_speaks_to_several(tmp_path: Path, snowflake: FakeSnowflake) -> None:
    """One file serves data planes of several kinds; a plane unknown to it is a 400."""
    with serving(tmp_path, "--backends", mixed(tmp_path)) as client:
        assert ended(client)["final_text"] == "from the script"
        rest = ended(client, data_plane_id=REST, model="my-model")
        assert rest["final_text"] == "from cortex"
        assert ended(client, data_plane_id=SQL)["final_text"] == "from cortex"
        refused = asked(client, data_plane_id=UNKNOWN)
    assert refused.status_code == 400
    assert refused.json()["type"].endswith("unknown-data-plane")
    assert [request.door for request in snowflake.requests] == ["messages", "sql"]
    assert snowflake.requests[0].body["top_p"] == 0.5
    assert snowflake.requests[0].model == "claude-sonnet-4-5"


def test_a_worker_speaks_to_several(tmp_path: Path, snowflake: FakeSnowflake) -> None:
    """A worker of its own drives what a server without workers has taken in."""
    flags = ("--backends", mixed(tmp_path))
    with (
        serving(tmp_path, "--concurrency", "0", *flags) as client,
        process(tmp_path, "worker", *flags),
    ):
        assert ended(client, data_plane_id=SQL)["final_text"] == "from cortex"
        assert ended(client, data_plane_id=REST)["final_text"] == "from cortex"
    assert [request.door for request in snowflake.requests] == ["sql", "messages"]


WRONG = {
    "emulate_tools": ("false", "emulate_tools: must be true or false, not 'false'"),
    "transport": ("grpc", "transport must be rest or sql, not 'grpc'"),
    "max_in_flight": (True, "max_in_flight: must be a whole number, not True"),
    "options": ({"m": {"top_p": "a"}}, "options.m.top_p: must be a number, not 'a'"),
    "capabilities": ({"m": {"x": 1}}, "capabilities.m.x: unknown key"),
    "model_ids": ([], "model_ids: must be an object, not []"),
}


@pytest.mark.parametrize("key", WRONG)
def test_entries_that_are_wrong(
    tmp_path: Path, snowflake: FakeSnowflake, key: str
) -> None:
    """What an entry must not say ends the command with its place and the reason."""
    value, words = WRONG[key]
    entry = {"kind": "cortex", "connection": "@snowflake.json", key: value}
    (tmp_path / "backends.json").write_text(json.dumps({"default": entry}))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "agentloop", "worker", "--store", "memory:"),
            *("--backends", "backends.json"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "backends.json: $.default" in done.stderr
