"""Temporal and a SQLite store as a place of the engine kit.

An address is `HOST:PORT/QUEUE FOLDER`: the server, the task queue on it that no other
stage shares, and where the store's file is.
"""

from contextlib import AbstractContextManager

from agentloop import AgentLoop
from agentloop.engines.temporal import (
    TemporalEngine,
    TemporalServer,
    TemporalWorker,
)
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
        return TemporalWorker(loop, self._server)

    def close(self) -> None:
        for engine in self._engines:
            engine.close()


def place(address: str, **choices: int) -> TemporalPlace:
    """The factory that the kit imports."""
    where, folder = address.split(" ", 1)
    host, _, queue = where.partition("/")
    server = TemporalServer(host, task_queue=queue, silence=1.0, **choices)
    return TemporalPlace(server, folder)


def brief(address: str) -> TemporalPlace:
    """A place with four commands in a history."""
    return place(address, commands=4)
