"""Killing real worker processes with SIGKILL, and counting what it does.

`python -m tests.kills --kills 2000 --seed 1` is the long hunt; the suite runs a
short one. With `--postgres` it goes over the server that the tests use. A zygote
process imports the library once and forks a worker whenever it is told to, so that
a worker lives only milliseconds before it is killed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
from attrs import frozen

from agentloop import AgentLoop, Scope, Text
from agentloop.core.config import ToolSpec
from agentloop.core.content import Message
from agentloop.core.history import problems
from agentloop.core.routing import Offer
from agentloop.ports import ToolAnswer, ToolCall
from agentloop.stores.postgres import PostgresStore
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.scripted import Reply, ScriptedBackend, Seen, calls, says
from tests import postgres_server

SCOPE = Scope(1, 1)
ITERATIONS = 4
LEASE = 0.25
SCHEMA = "agentloop_kills"


class Ledger:
    """Tools that write down each execution, durably, before they return."""

    def __init__(self, file: str) -> None:
        self._file = file

    def declared(self) -> tuple[Offer, ...]:
        spec = ToolSpec(name="pay", input_schema={"type": "object"})
        return (Offer(spec, "tell"),)

    def discover(self, timeout: float) -> tuple[Offer, ...]:
        return self.declared()

    def call(self, call: ToolCall) -> ToolAnswer:
        line = json.dumps([call.run_id, call.effect_key]) + "\n"
        handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        return ToolAnswer((Text("paid"),))

    def close(self) -> None:
        return None


def model(seen: Seen) -> Reply:
    """Calls a tool on every iteration but the last."""
    return says("done") if seen.iteration == ITERATIONS else calls(("bank-pay", {}))


@frozen
class Place:
    """Where parent and workers meet: a folder, and a Postgres server or none."""

    folder: str
    address: str = ""

    def store(self) -> SQLiteStore | PostgresStore:
        """The store, over connections of this process's own."""
        if self.address:
            return PostgresStore(self.address, schema=SCHEMA, max_size=4)
        return SQLiteStore(f"{self.folder}/runs.db")

    def life(self, chance: random.Random) -> float:
        """Seconds until a worker is killed; to connect to a server takes a while."""
        return (
            chance.uniform(0.02, 0.25) if self.address else chance.uniform(0.005, 0.15)
        )


def make_loop(store: SQLiteStore | PostgresStore, folder: str) -> AgentLoop:
    """The loop that parent and workers share the store of."""
    return AgentLoop(
        ScriptedBackend(forever=model),
        store,
        {"bank": Ledger(f"{folder}/ledger")},
        lease=LEASE,
        attempts=1000,
        pause=lambda delay, at_least: 0.0,
    )


def zygote(place: Place) -> None:
    """Fork a worker for each line on standard input, and print its pid."""
    import psycopg_pool  # once, before the forks

    assert psycopg_pool
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            loop = make_loop(place.store(), place.folder)
            with loop.worker(2, poll=0.02):
                signal.pause()
        print(pid, flush=True)


@frozen
class Tally:
    """What a hunt found."""

    kills: int
    runs: int
    statuses: dict[str, int]
    executions: int
    doubled: int
    unknown: int
    broken: list[str]
    seconds: float


def hunt(kills: int, runs: int, seed: int, place: Place) -> Tally:
    """Start runs, kill workers until they are all over and enough have died."""
    chance = random.Random(seed)
    began = time.monotonic()
    store = place.store()
    loop = make_loop(store, place.folder)
    started = [_start(loop) for _ in range(runs)]
    command = [sys.executable, "-m", "tests.kills", "--zygote", place.folder]
    died = 0
    with subprocess.Popen(
        [*command, "--address", place.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as mother:
        while died < kills or not _all_over(loop, started):
            if died < kills and _all_over(loop, started):
                started.append(_start(loop))  # never kill an idle worker
            pid = _fork(mother)
            time.sleep(place.life(chance) if died < kills else 0.5)
            os.kill(pid, signal.SIGKILL)
            died += 1
    tally = _tally(loop, started, died, time.monotonic() - began, place.folder)
    loop.close()
    store.close()
    return tally


def _start(loop: AgentLoop) -> str:
    conversation = loop.create_conversation(defaults={"model": "m"}, scope=SCOPE)
    return loop.start_run(conversation.id, "go", scope=SCOPE).id


def _fork(mother: "subprocess.Popen[str]") -> int:
    assert mother.stdin is not None
    assert mother.stdout is not None
    mother.stdin.write("fork\n")
    mother.stdin.flush()
    return int(mother.stdout.readline())


def _all_over(loop: AgentLoop, started: list[str]) -> bool:
    return all(loop.get_run(id_, scope=SCOPE).terminal for id_ in reversed(started))


def _tally(
    loop: AgentLoop, started: list[str], died: int, seconds: float, folder: str
) -> Tally:
    lines = Path(f"{folder}/ledger").read_text().splitlines()
    executions = Counter(line for line in lines)
    ended = [loop.get_run(id_, scope=SCOPE) for id_ in started]
    broken = [text for run in ended for text in _faults(loop, run)]
    unknown = sum(_unknown(loop, run) for run in ended)
    return Tally(
        kills=died,
        runs=len(started),
        statuses=dict(Counter(run.status for run in ended)),
        executions=len(lines),
        doubled=sum(count - 1 for count in executions.values()),
        unknown=unknown,
        broken=broken,
        seconds=seconds,
    )


def _faults(loop: AgentLoop, run: Any) -> list[str]:
    """What is wrong with a run that ended; empty when nothing was lost."""
    found = []
    delta = loop.messages(run.conversation_id, scope=SCOPE)
    numbers = [message.sequence_no for message in delta.messages]
    if numbers != list(range(1, 2 * ITERATIONS + 1)):
        found.append(f"{run.id}: messages {numbers}")
    log = [Message(m.role, m.content_blocks) for m in delta.messages]
    found += [f"{run.id}: {text}" for text in problems(log)]
    if run.iterations_used != ITERATIONS:
        found.append(f"{run.id}: {run.iterations_used} iterations")
    jobs = loop.list_jobs(run.id, scope=SCOPE)
    attempts = [attempt for job in jobs for attempt in job.attempts]
    if sum(a.usage is None for a in attempts) != run.usage.attempts_without_usage:
        found.append(f"{run.id}: usage does not match its attempts")
    return found


def _unknown(loop: AgentLoop, run: Any) -> int:
    delta = loop.messages(run.conversation_id, scope=SCOPE)
    return sum(
        getattr(block, "is_error", False)
        for message in delta.messages
        for block in message.content_blocks
    )


def postgres() -> str:
    """The address of the tests' server, with an empty schema for a hunt."""
    with psycopg.connect(postgres_server.address(), autocommit=True) as db:
        db.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    with PostgresStore(postgres_server.address(), schema=SCHEMA) as store:
        store.migrate()
    return postgres_server.address()


def main() -> None:
    """The command: hunt, print the tally, fail when anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--zygote", metavar="FOLDER")
    parser.add_argument("--address", default="")
    given = parser.parse_args()
    if given.zygote:
        zygote(Place(given.zygote, given.address))
        return
    address = postgres() if given.postgres else ""
    with tempfile.TemporaryDirectory() as folder:
        tally = hunt(given.kills, given.runs, given.seed, Place(folder, address))
    print(tally)
    sys.exit(1 if tally.doubled or tally.broken else 0)


if __name__ == "__main__":
    main()
