"""The server: up, served over sockets, walked through, and drained."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import pytest
from attrs import evolve
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentloop import AgentLoop, AsyncAgentLoop
from agentloop.http import HttpOptions, fixed_tokens
from agentloop.http.serve import Server, Serving, serve, served
from agentloop.testing.scripted import ScriptedBackend, calls, says
from tests.http_sockets import world_on_a_socket
from tests.http_world import ALICE, TOKENS, USER_TOOLS, World, outputs, run_body
from tests.serve_program import ITERATIONS, ledger_of, opened


def ask(url: str, path: str, body: Any = None) -> Any:
    """One request over a socket; the JSON of its answer."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url + path, data, {"Authorization": "Bearer alice"})
    with urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def started(url: str) -> str:
    """The id of a run that was just started over HTTP."""
    made = ask(url, "/agents/conversations", {"defaults": {"model": "m"} | LONG})
    path = f"/agents/conversations/{made['id']}/runs"
    return str(ask(url, path, run_body())["id"])


LONG = {"max_iterations": ITERATIONS + 2}


@pytest.mark.parametrize("face", ["sync", "async"])
def test_the_walk_over_a_socket(face: str) -> None:
    """Create, run, poll, answer the call, follow, read the messages."""
    backend = ScriptedBackend(
        calls(("user-approve", {"slot": "Fri 10:00"})),
        says("Room 3 is booked for Friday 10:00."),
    )
    with world_on_a_socket(face, backend) as served_:
        conversation = served_.conversation(client_tools=USER_TOOLS)
        run = served_.start(conversation, "Is room 3 free?").json()["id"]
        paused = polled(served_, run)
        (call,) = paused["pending_tool_calls"]
        assert (paused["status"], call["name"]) == ("requires_action", "user-approve")
        answered = served_.start(
            conversation,
            outputs(**{call["tool_use_id"]: "approved"}),
            expected_version=served_.version(conversation),
        )
        events = followed(served_.client, answered.json()["id"])
        assert events[-1] == "event: terminal"
        ended = served_.get(f"/agents/runs/{answered.json()['id']}").json()
        assert ended["final_text"] == "Room 3 is booked for Friday 10:00."
        said = [
            (m["sequence_no"], m["role"], m["content_blocks"][0]["type"])
            for m in served_.messages(conversation)
        ]
        assert said == [
            (1, "user", "text"),
            (2, "assistant", "tool_use"),
            (3, "user", "tool_result"),
            (4, "assistant", "text"),
        ]
    backend.assert_done()


def polled(served_: World, run: str) -> Any:
    """A run, asked for until it has ended or pauses."""
    pause = threading.Event()
    while (found := served_.get(f"/agents/runs/{run}").json())["completed_at"] is None:
        pause.wait(0.01)
    return found


def followed(client: Any, run: str) -> list[str]:
    """The kinds of a run's events, read as they come until the stream ends."""
    headers = {"authorization": "Bearer alice"}
    with client.stream("GET", f"/agents/runs/{run}/events", headers=headers) as answer:
        assert answer.status_code == 200
        return [line for line in answer.iter_lines() if line.startswith("event:")]


@pytest.mark.parametrize("face", [AgentLoop, AsyncAgentLoop])
def test_either_face_is_served_with_a_worker_inside(face: Any) -> None:
    """Runs are driven by the process that serves."""
    loop = face(ScriptedBackend(says("hello")))
    with served(loop, fixed_tokens(TOKENS)) as url:
        assert ask(url, "/healthz")["worker"] == "ok"
        made = ask(url, "/agents/conversations", {"defaults": {"model": "m"}})
        path = f"/agents/conversations/{made['id']}/runs"
        run = ask(url, path, run_body())["id"]
        pause = threading.Event()
        while (found := ask(url, f"/agents/runs/{run}"))["completed_at"] is None:
            pause.wait(0.01)
        assert found["final_text"] == "hello"


def test_without_workers_the_process_only_answers() -> None:
    """Other processes drive."""
    with (
        AgentLoop(ScriptedBackend()) as loop,
        served(loop, fixed_tokens(TOKENS), Serving(port=0, workers=0)) as url,
    ):
        assert ask(url, "/healthz")["worker"] == "none"
        assert ask(url, f"/agents/runs/{started(url)}")["status"] == "pending"


def test_an_address_that_is_taken_is_an_error_at_once() -> None:
    """Before anything is started."""
    with socket.socket() as taken, AgentLoop(ScriptedBackend()) as loop:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            serve(loop, fixed_tokens(TOKENS), Serving(port=port))


def test_a_url_of_the_sixth_version_has_brackets() -> None:
    """So that it can be used as it is."""
    with AgentLoop(ScriptedBackend()) as loop:
        server = Server.over(loop, fixed_tokens(TOKENS), Serving(port=0))
        server.listener.close()
    sixth: Any = SimpleNamespace(getsockname=lambda: ("::1", 8000, 0, 0))
    assert evolve(server, listener=sixth).url == "http://[::1]:8000"


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Connections are accepted without Nagle's delay of 40 ms."""
    with AgentLoop(ScriptedBackend()) as loop:
        server = Server.over(loop, fixed_tokens(TOKENS), Serving(port=0))
        with server.listener as listener:
            assert listener.proto == socket.IPPROTO_TCP  # what asyncio asks for


# ------------------------------------------------ stopping


def test_a_client_of_the_old_version_gets_no_chunks() -> None:
    """Whatever parsers are installed, the one that knows HTTP/1.0 is used."""
    with (
        AgentLoop(ScriptedBackend()) as loop,
        served(loop, fixed_tokens(TOKENS), Serving(port=0, workers=0)) as url,
    ):
        head = head_of_a_stream(url, started(url))
        server = Server.over(loop, fixed_tokens(TOKENS), Serving(port=0))
        server.listener.close()
    assert b"transfer-encoding" not in head.lower()
    assert b"\r\n\r\nretry: 2000\n\n" in head
    assert issubclass(server.uvicorn.config.http, H11Protocol)


def head_of_a_stream(url: str, run: str) -> bytes:
    """How the stream of a run begins for a client of HTTP/1.0."""
    asked = f"GET /agents/runs/{run}/events HTTP/1.0\r\nauthorization: Bearer alice"
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as old:
        old.sendall(f"{asked}\r\n\r\n".encode())
        head = b""
        while b"retry: 2000\n\n" not in head and (more := old.recv(4096)):
            head += more
        return head


FACES = ["sync", "async", "async-threads"]


@contextmanager
def program(file: Path, delay: float, drain: float, *more: str) -> Iterator[Any]:
    """A serving process and its URL; killed when the test did not stop it."""
    command = [sys.executable, "-m", "tests.serve_program"]
    process = subprocess.Popen(
        [*command, str(file), str(delay), str(drain), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(happened: Any) -> None:
    """Wait for something that another process does."""
    while not happened():
        threading.Event().wait(0.01)


def executed(file: Path) -> list[str]:
    """Every call of the tool that was ever made."""
    return ledger_of(file).read_text().splitlines() if ledger_of(file).exists() else []


def every_call_once(*runs: str) -> list[str]:
    """What the ledger holds when no call was lost and none was repeated."""
    return sorted(f"{run} {n}" for run in runs for n in range(1, ITERATIONS + 1))


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_runs_back_between_effects(
    tmp_path: Path, sig: signal.Signals, face: str
) -> None:
    """The process ends well; the next one goes on, and nothing happens twice."""
    file = tmp_path / "agents.db"
    with program(file, 0.1, 20, face) as (process, url):
        runs = [started(url) for _ in range(3)]
        paths = [f"/agents/runs/{run}" for run in runs]
        until(lambda: all(ask(url, p)["submitted_inference_job_ids"] for p in paths))
        process.send_signal(sig)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "drained\n"), err
    loop, store = opened(file, delay=0.0)
    with loop:
        for run in runs:
            before = loop.get_run(run, scope=ALICE)
            assert before.status == "running"
            assert 0 < len(before.submitted_inference_job_ids) < ITERATIONS
            ended = loop.wait(run, scope=ALICE)
            assert ended.status == "completed"
            assert ended.iterations_used == ITERATIONS + 1
            attempts = [len(j.attempts) for j in loop.list_jobs(run, scope=ALICE)]
            assert attempts == [1] * (ITERATIONS + 1)
    store.close()
    assert sorted(executed(file)) == every_call_once(*runs)
    lines = [json.loads(line) for line in err.splitlines()]
    assert {line["message"] for line in lines} >= {"drained"}
    assert {line["run_id"] for line in lines if "run_id" in line} == set(runs)


@pytest.mark.parametrize("face", FACES)
def test_a_drain_ends_in_the_stated_time(tmp_path: Path, face: str) -> None:
    """A run inside a long inference is left; the next start asks again, calls nothing.

    The call that the first inference asked for is on record, and is not made again.
    """
    file = tmp_path / "agents.db"
    with program(file, 600, 0.3, face, "2") as (process, url):
        run = started(url)
        jobs = "submitted_inference_job_ids"
        until(lambda: len(ask(url, f"/agents/runs/{run}")[jobs]) == 2)
        assert executed(file) == [f"{run} 1"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (3, "left behind\n"), err
    # The next start is another server over the same file.
    with program(file, 0, 20, face) as (process, url):
        path = f"/agents/runs/{run}"
        until(lambda: ask(url, path)["completed_at"])
        ended = ask(url, path)
        listed = ask(url, f"{path}/inference-jobs")["inference_jobs"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "drained\n"), err
    assert (ended["status"], ended["iterations_used"]) == ("completed", ITERATIONS + 1)
    assert sorted(executed(file)) == every_call_once(run)
    outcomes = [[attempt["outcome"] for attempt in job["attempts"]] for job in listed]
    # The inference that was cut off was asked for once more, and only that one.
    assert [found[-1] for found in outcomes] == ["ok"] * (ITERATIONS + 1)
    assert [n for n, found in enumerate(outcomes, 1) if len(found) > 1] == [2]


SILENT = """
import asyncio
import os
import threading
from agentloop import AsyncAgentLoop, Scope
from agentloop.http import fixed_tokens
from agentloop.http.serve import Serving, serve
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import ScriptedBackend

class Silent(MemoryStore):
    blocking = True

    def checkpoint(self, *args):
        print("asked", flush=True)
        threading.Event().wait()

    release = checkpoint

async def start(loop):
    scope = Scope(1, 1)
    chosen = {"model": "m"}
    talk = await loop.create_conversation(scope=scope, defaults=chosen)
    await loop.start_run(talk.id, "hello", scope=scope)

loop = AsyncAgentLoop(ScriptedBackend(), Silent())
asyncio.run(start(loop))
drained = serve(loop, fixed_tokens({}), Serving(port=0, workers=1, drain_seconds=0.2))
print("drained" if drained else "left behind", flush=True)
os._exit(0 if drained else 3)
"""
"""A program that serves over a store which no longer takes anything."""


def test_a_drain_waits_for_no_silent_store() -> None:
    """What the store owes an answer is left behind, like a long inference."""
    with subprocess.Popen(
        [sys.executable, "-c", SILENT], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "asked\n"
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out) == (3, "asked\nleft behind\n")


def get(url: str, path: str, token: str) -> int:
    """The status of an answer that is read to its end."""
    request = Request(url + path, None, {"Authorization": f"Bearer {token}"})
    with urlopen(request, timeout=20) as answer:
        answer.read()
        return int(answer.status)


def test_a_drain_ends_open_streams_and_answers_open_requests() -> None:
    """Readers resume elsewhere; whoever was being answered gets the answer."""
    inside, go_on = threading.Event(), threading.Event()

    def slowly(token: str) -> Any:
        if token == "slow":
            inside.set()
            assert go_on.wait(10)
        return ALICE

    stopping = Serving(port=0, workers=0, drain_seconds=20)
    options = HttpOptions(heartbeat=0.05, poll=0.02)
    with AgentLoop(ScriptedBackend()) as loop, ThreadPoolExecutor(3) as pool:
        server = Server.over(loop, slowly, stopping, options)
        serving_ = pool.submit(lambda: asyncio.run(server.run()))
        run = started(server.url)
        stream = pool.submit(get, server.url, f"/agents/runs/{run}/events", "any")
        answer = pool.submit(get, server.url, f"/agents/runs/{run}", "slow")
        assert inside.wait(10)
        pause = threading.Event()
        while not len(server.application.streams):
            pause.wait(0.01)
        server.stop()
        assert stream.result(10) == 200
        assert not answer.done()
        go_on.set()
        assert answer.result(10) == 200
        assert serving_.result(20) is True
