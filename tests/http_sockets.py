"""A loop behind a real server: uvicorn, a socket, and a client over the wire."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from agentloop import AgentLoop, AsyncAgentLoop
from agentloop.http import HttpOptions, fixed_tokens
from agentloop.http.serve import Serving, served
from tests.http_world import TOKENS, World

FACES = {"sync": AgentLoop, "async": AsyncAgentLoop}


@contextmanager
def world_on_a_socket(
    face: str,
    backend: Any,
    workers: int = 2,
    http: HttpOptions | None = None,
    **choices: Any,
) -> Iterator[World]:
    """A world whose requests go over loopback; without workers nobody drives."""
    choices.setdefault("pause", lambda delay, hint: 0.0)
    loop: Any = FACES[face](backend, **choices)
    serving = Serving(port=0, workers=workers)
    with (
        served(loop, fixed_tokens(TOKENS), serving, http) as url,
        client_of(url) as client,
    ):
        yield World(loop, backend, client)
    if face == "sync":
        loop.close()
    else:
        asyncio.run(loop.close())


@contextmanager
def client_of(url: str) -> Iterator[httpx.Client]:
    """A client that waits for event streams and asks no proxy."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client
