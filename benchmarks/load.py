"""Two hundred runs at once through the HTTP face: `python -m benchmarks.load`.

A server process (SQLite, worker inside, a model that takes 50 ms, 8 iterations a
run) takes 200 runs from a client process, which polls them until all have ended. It
serves what `agentloop serve` does: the asynchronous face, its tool on threads, and a
model that cannot be awaited. With `--face async` the model can be and the tool is
called where runs are driven, with `--face sync` threads drive. `--workers` says how
many runs it drives at once: all of them, or as `serve` does unless told otherwise 16.
Printed: how they ended, answers of 5xx, the spread of `GET /agents/runs/{id}` while
they ran, and the server's memory before, at the peak and after.
"""

import argparse
import asyncio
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agentloop import AgentLoop, AsyncAgentLoop, FunctionTools, Scope, tool
from agentloop.cli.offloop import OffLoop
from agentloop.core.phases import Infer
from agentloop.http.auth import fixed_tokens
from agentloop.http.serve import Serving, serve
from agentloop.ports import Inference, JobContext, SessionSetup
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.scripted import ScriptedBackend, Seen, calls, says

ITERATIONS = 8
MODEL_SECONDS = 0.05
CONNECTIONS = 64
WORKERS = 200


def answer(seen: Seen) -> Any:
    last = seen.iteration == ITERATIONS
    return says("done") if last else calls(("desk-note", {"text": "a note"}))


class SlowModel:
    """A scripted model whose every answer takes its time."""

    name = "slow"

    def __init__(self) -> None:
        self._script = ScriptedBackend(forever=answer)

    def check(self, *_: Any) -> None:
        return None

    def session(self, setup: SessionSetup) -> "SlowSession":
        self._script.seen.clear()  # what it has seen is of no use here
        return SlowSession(self._script.session(setup))


class SlowSession:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def infer(self, command: Infer, job: JobContext, on_delta: Any) -> Inference:
        time.sleep(MODEL_SECONDS)
        return self._inner.infer(command, job, on_delta)

    def request(self, command: Infer, job: JobContext) -> bytes:
        return self._inner.request(command, job)


class AwaitedModel(SlowModel):
    """The same, for who can await it."""

    def session(self, setup: SessionSetup) -> "AwaitedSession":
        self._script.seen.clear()
        return AwaitedSession(self._script.session(setup))


class AwaitedSession(SlowSession):
    async def ainfer(self, command: Infer, job: JobContext, on_delta: Any) -> Inference:
        await asyncio.sleep(MODEL_SECONDS)
        return self._inner.infer(command, job, on_delta)


@tool(inline=True)
def note(text: str) -> str:
    """Take a note."""
    return text


def serve_here(file: str, face: str, workers: int) -> None:
    store = SQLiteStore(file)
    make = AgentLoop if face == "sync" else AsyncAgentLoop
    model = AwaitedModel() if face == "async" else SlowModel()
    tools: Any = [note]
    if face == "serve":
        tools = OffLoop(FunctionTools(tools))
    loop = make(model, store, {"desk": tools}, in_flight=workers)
    serving = Serving(
        port=0,
        workers=workers,
        ready=lambda url: print(url, flush=True),
        drain_seconds=5,
        keep_alive=60,  # or an idle connection ends just when the client takes it
    )
    serve(loop, fixed_tokens({"load": Scope(1, 1)}), serving)
    store.close()


def resident(pid: int) -> float:
    """A process' resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)


class Wire:
    """Kept connections to one server, and as little else as HTTP/1.1 allows.

    Client and server share the machine: a client that spends more on a request than
    the server does would measure itself.
    """

    def __init__(self, url: str) -> None:
        self._at = urlsplit(url)
        self._idle: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            self._idle.put_nowait(None)

    async def send(self, verb: str, path: str, body: Any) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        text = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{verb} {path} HTTP/1.1\r\nHost: {self._at.netloc}\r\n"
            "Authorization: Bearer load\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n\r\n"
        )
        connection = await self._idle.get()
        try:
            if connection is None:
                connection = await asyncio.open_connection(
                    self._at.hostname, self._at.port
                )
            reader, writer = connection
            writer.write(head.encode() + text)
            return await answer_of(reader)
        finally:
            self._idle.put_nowait(connection)

    async def close(self) -> None:
        while not self._idle.empty():
            if (connection := self._idle.get_nowait()) is not None:
                connection[1].close()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """One answer, whose length its header tells."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
    return int(head.split(" ", 2)[1]), json.loads(await reader.readexactly(length))


class Client:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.statuses: Counter[int] = Counter()
        self.polls: list[float] = []

    async def start(self) -> str:
        made = await self.send(
            "POST", "/agents/conversations", {"defaults": {"model": "slow"}}
        )
        body = {
            "client_op_id": str(uuid.uuid4()),
            "expected_version": 0,
            "payload": {"kind": "user_message", "text": "take notes"},
        }
        url = f"/agents/conversations/{made['id']}/runs"
        return str((await self.send("POST", url, body))["id"])

    async def until_ended(self, id_: str) -> str:
        """Polls as the contract advises: every two seconds, callers spread out."""
        await asyncio.sleep(random.uniform(0, 2))
        while True:
            began = time.perf_counter()
            run = await self.send("GET", f"/agents/runs/{id_}")
            self.polls.append(time.perf_counter() - began)
            if run["completed_at"]:
                return str(run["status"])
            await asyncio.sleep(2)

    async def send(self, verb: str, url: str, body: Any = None) -> Any:
        status, answer = await self.wire.send(verb, url, body)
        self.statuses[status] += 1
        return answer


async def load(url: str, pid: int, runs: int) -> None:
    client = Client(Wire(url))
    # One run first, so that lazy imports do not count as growth.
    await client.until_ended(await client.start())
    before = resident(pid)
    client.polls.clear()
    began = time.perf_counter()
    ids = await asyncio.gather(*(client.start() for _ in range(runs)))
    started = time.perf_counter() - began
    ended = await asyncio.gather(*(client.until_ended(id_) for id_ in ids))
    seconds = time.perf_counter() - began
    peak = resident(pid)
    await asyncio.sleep(2)
    after = resident(pid)
    await client.wire.close()
    polls = sorted(client.polls)
    print(
        f"runs      {dict(Counter(ended))} in {seconds:.1f} s, "
        f"started in {started:.1f} s"
    )
    print(f"answers   {dict(client.statuses)}")
    print(
        f"polls     {len(polls)}: median {statistics.median(polls) * 1e3:.1f} ms, "
        f"p95 {polls[int(len(polls) * 0.95)] * 1e3:.1f} ms, "
        f"max {polls[-1] * 1e3:.1f} ms"
    )
    print(f"memory    {before:.1f} MB before, {peak:.1f} at the end, {after:.1f} after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--face", choices=("serve", "async", "sync"), default="serve")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--serve", metavar="FILE")
    given = parser.parse_args()
    if given.serve:
        gc.freeze()
        serve_here(given.serve, given.face, given.workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "benchmarks.load",
            "--face",
            given.face,
            "--workers",
            str(given.workers),
            "--serve",
            f"{folder}/load.db",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            try:
                asyncio.run(load(url, server.pid, given.runs))
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
