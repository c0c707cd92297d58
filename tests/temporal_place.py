"""Temporal and a SQLite store as a place of the engine kit.

An address is `HOST:PORT/QUEUE FOLDER`: the server, the task queue on it that no other
stage shares, and where the store's file is.
"""

import asyncio
import base64
import json
from contextlib import AbstractContextManager
from typing import Any

from agentloop import AgentLoop
from agentloop.engines.temporal import (
    TemporalEngine,
    TemporalServer,
    TemporalWorker,
)
from agentloop.engines.temporal_client import connect
from agentloop.stores.sqlite import SQLiteStore


class TemporalPlace:
    """One task queue and one file, as one process sees them."""

    lease = 1.0

    def __init__(self, server: TemporalServer, folder: str) -> None:
        self._server = server
        self._folder = folder
        self._engines: list[TemporalEngine] = []

    def store(self) -> SQLiteStore:
        return SQLiteStore(f"{self._folder}/agents.db", synchronous="OFF")

    def engine(self) -> TemporalEngine:
        self._engines.append(TemporalEngine(self._server))
        return self._engines[-1]

    def work(self, loop: AgentLoop) -> AbstractContextManager[object]:
        return TemporalWorker(loop, self._server, sweep=0.5)

    def kept(self) -> list[str]:
        """The payloads and failures of every history of the task queue."""
        return asyncio.run(_kept(self._server))

    def close(self) -> None:
        for engine in self._engines:
            engine.close()


async def _kept(server: TemporalServer) -> list[str]:
    client = await connect(server)
    texts: list[str] = []
    queue = f"TaskQueue = '{server.task_queue}'"
    async for found in client.list_workflows(queue):
        handle = client.get_workflow_handle(found.id, run_id=found.run_id)
        history = (await handle.fetch_history()).to_json_dict()
        told = [data.decode() for data in payloads_of(history)]
        texts.append(json.dumps([found.id, history, told]))
    return texts


def payloads_of(value: Any) -> list[bytes]:
    """The data of every payload within a history."""
    if isinstance(value, dict):
        if "metadata" in value and "data" in value:
            return [base64.b64decode(value["data"])]
        return [one for each in value.values() for one in payloads_of(each)]
    if isinstance(value, list):
        return [one for each in value for one in payloads_of(each)]
    return []


def place(address: str, **choices: int) -> TemporalPlace:
    """The factory that the kit imports."""
    where, folder = address.split(" ", 1)
    host, _, queue = where.partition("/")
    server = TemporalServer(host, task_queue=queue, silence=1.0, **choices)
    return TemporalPlace(server, folder)


def brief(address: str) -> TemporalPlace:
    """A place with four commands in a history."""
    return place(address, commands=4)
